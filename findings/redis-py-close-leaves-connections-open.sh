#!/bin/sh
# redis-py's Redis.close() closes no connection.
#
# Version: python3-redis 4.3.4 of Debian 12, with redis-server 7.0.15.
# Behaviour: a client that has asked something and was closed still has its connection: CLIENT LIST shows it for as long as the object
# or its pool is alive. Redis.close() gives the connection back to the pool, which keeps it open for the next one.
# disconnect() of the pool closes it.
# For whoever moves clients to another port, or to TLS: a program that makes a new client and closes the old one stays connected at
# the old port, idle, and looks as if it had not moved.
#
# Output seen:
#   after close(): 1 connection is open
#   after connection_pool.disconnect(): 0 connections are open
set -eu
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" 2>/dev/null || true; }; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq redis-server redis-tools libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson \
	python3-redis python3-async-timeout python3-deprecated python3-packaging python3-wrapt >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$dir/root" -name 'liblzf.so*' | head -n 1)")
export LD_LIBRARY_PATH PYTHONPATH="$dir/root/usr/lib/python3/dist-packages"
root/usr/bin/redis-server --version | grep -q "v=7\.0\.15" || { echo "want redis-server 7.0.15 of Debian 12"; exit 2; }
/usr/bin/python3 -c 'import redis; assert redis.__version__ == "4.3.4", redis.__version__' || { echo "want python3-redis 4.3.4 of Debian 12"; exit 2; }
root/usr/bin/redis-server --port 0 --unixsocket "$dir/s" --save "" --logfile "$dir/log" &
pid=$!
for _ in $(seq 100); do [ -S "$dir/s" ] && break; sleep 0.05; done
cat >client.py <<'P'
import sys, redis

watcher = redis.Redis(unix_socket_path=sys.argv[1])

def others():
    n = len(watcher.client_list()) - 1
    return "1 connection is open" if n == 1 else "%d connections are open" % n

client = redis.Redis(unix_socket_path=sys.argv[1])
client.ping()
client.close()
print("after close():", others())
client.connection_pool.disconnect()
print("after connection_pool.disconnect():", others())
P
/usr/bin/python3 client.py "$dir/s" | tee output
grep -qxF "after close(): 1 connection is open" output || { echo "it has changed: close()"; exit 1; }
grep -qxF "after connection_pool.disconnect(): 0 connections are open" output || { echo "it has changed: disconnect()"; exit 1; }

#!/bin/sh
# A Redis in cluster mode that has reached maxclients says so in other words than one that isn't.
#
# Version: redis-server 7.0.15 of Debian 12.
# Behaviour: maxclients is 1 and one client is connected. The next one reads "-ERR max number of clients reached". With
# cluster-enabled yes it reads "-ERR max number of clients + cluster connections reached", also in a cluster of one node.
# For whoever recognises this error by its words, as a client that tries again later, a proxy or a probe: compare with "ERR max number
# of clients" alone, with which both begin.
#
# Output seen:
#   cluster-enabled no: -ERR max number of clients reached
#   cluster-enabled yes: -ERR max number of clients + cluster connections reached
set -eu
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; } 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq redis-server redis-tools libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$dir/root" -name 'liblzf.so*' | head -n 1)")
export LD_LIBRARY_PATH
server=$dir/root/usr/bin/redis-server
$server --version | tee version
grep -q "v=7\.0\.15" version || { echo "want redis-server 7.0.15 of Debian 12"; exit 2; }
cat >clients.py <<'P'
import socket, sys, time

def connect(deadline=time.time() + 10):
    while True:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(10)
        try:
            s.connect(sys.argv[1])
            return s
        except OSError:
            if time.time() > deadline:
                sys.exit("the server does not listen")
            time.sleep(0.05)

first = connect()
first.sendall(b"PING\r\n")
assert first.recv(100) == b"+PONG\r\n"
print(connect().recv(100).decode().strip())
P
for cluster in no yes; do
	mkdir "$cluster"
	ports=$(python3 -c '
import socket
both = [socket.socket() for _ in range(2)]
for s in both: s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in both])')
	$server --port "${ports% *}" --cluster-port "${ports#* }" --bind 127.0.0.1 --unixsocket "$dir/$cluster/s" --dir "$dir/$cluster" \
		--cluster-enabled "$cluster" --save "" --maxclients 1 --logfile "$dir/$cluster/log" &
	pid=$!
	echo "cluster-enabled $cluster: $(python3 clients.py "$dir/$cluster/s")" | tee -a output
	kill "$pid"
	wait "$pid" || true
	pid=
done
grep -qx "cluster-enabled no: -ERR max number of clients reached" output || { echo "it has changed: without cluster mode"; exit 1; }
grep -qx "cluster-enabled yes: -ERR max number of clients + cluster connections reached" output || { echo "it has changed: in cluster mode"; exit 1; }

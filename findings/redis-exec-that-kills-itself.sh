#!/bin/sh
# EXEC's reply breaks off in the middle of its array when one of its commands is a CLIENT KILL that means the client itself,
# although all of the transaction is done.
#
# Version: redis-server 7.0.15 of Debian 12 (8.0.2, 8.0.6 and Valkey 8.1.1, 9.1.2 do the same).
# Behaviour: outside a transaction CLIENT KILL ... SKIPME no answers ":1" and closes then. Within MULTI the connection is closed
# after that element of EXEC's array, and the commands behind CLIENT KILL are executed all the same.
# Why: CLIENT KILL marks its own client to be closed after the reply, and from there on no reply is added for such a client.
# For whoever reads replies: an array that was announced may never come to its end, and the transaction was done all the same.
#
# Output seen:
#   alone: b':1\r\n' then the end
#   in a transaction: b'+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n' then the end; the command behind it was done: True
set -eu
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; }; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq redis-server redis-tools libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson >/dev/null 2>&1
for deb in *.deb; do dpkg -x "$deb" root; done
LD_LIBRARY_PATH=$dir/root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)
export LD_LIBRARY_PATH
version=$(root/usr/bin/redis-server --version)
echo "$version"
case $version in *v=7.0.15*) ;; *) echo "want redis-server 7.0.15 of Debian 12"; exit 2 ;; esac

root/usr/bin/redis-server --port 0 --unixsocket "$dir/socket" --save "" --dir "$dir" --logfile "$dir/log" &
pid=$!

cat >client.py <<'P'
import socket, sys, time


def connect():
    for attempt in range(200):
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect("socket")
            break
        except OSError:
            time.sleep(0.05)
    s.settimeout(10)
    return s


def all_of(text):
    s = connect()
    s.sendall(text)
    got = b""
    while True:
        part = s.recv(65536)
        if not part:
            return got
        got += part


kill = b"CLIENT KILL TYPE normal SKIPME no\r\n"
alone = all_of(kill)
print("alone:", alone, "then the end")
within = all_of(b"MULTI\r\n" + kill + b"SET key value\r\nEXEC\r\n")
look = connect()
look.sendall(b"GET key\r\n")
done = look.recv(100) == b"$5\r\nvalue\r\n"
print("in a transaction:", within, "then the end; the command behind it was done:", done)
sys.exit(0 if alone == b":1\r\n" and within == b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n" and done else 1)
P
python3 client.py

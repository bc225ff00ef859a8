#!/bin/sh
# FLUSHALL breaks the RESP2 stream of a connection that receives the invalidations of a RESP3 client: the message has RESP3's null in it.
#
# Version: redis-server 7.0.15 of Debian 12 (8.0.2, 8.0.6 and Valkey 8.1.1, 9.1.2 do the same).
# Behaviour: client A speaks RESP3 and redirects its invalidations (CLIENT TRACKING on REDIRECT) to connection B, which speaks RESP2 and
# has subscribed to __redis__:invalidate. Invalidations of single keys arrive at B as RESP2 messages. FLUSHALL and FLUSHDB send a
# message whose last element is "_\r\n", which RESP2 does not have: a RESP2 parser fails on it, or loses its place.
# Why: the null is made in the protocol of the client that tracks, and not in that of the connection that it is sent to. The other way
# round, a RESP3 connection gets RESP2's null, "$-1\r\n".
# For whoever redirects invalidations: let both connections speak the same protocol.
#
# Output seen:
#   SET at B:      b'*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$3\r\nkey\r\n'
#   FLUSHALL at B: b'*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n_\r\n'
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


def ask(s, words, end):
    s.sendall(words.encode() + b"\r\n")
    return until(s, end)


def until(s, end):
    got = b""
    while not got.endswith(end):
        got += s.recv(4096)
    return got


a, b, writer = connect(), connect(), connect()
b_id = ask(b, "CLIENT ID", b"\r\n")[1:].strip().decode()
ask(b, "SUBSCRIBE __redis__:invalidate", b":1\r\n")
ask(a, "HELLO 3", b"modules\r\n*0\r\n")
ask(a, "CLIENT TRACKING on REDIRECT " + b_id, b"+OK\r\n")
ask(a, "GET key", b"_\r\n")
ask(writer, "SET key value", b"+OK\r\n")
one = until(b, b"key\r\n")
ask(writer, "FLUSHALL", b"+OK\r\n")
got = until(b, b"\r\n")
while got.count(b"\r\n") < 6:
    got += b.recv(4096)
print("SET at B:     ", one)
print("FLUSHALL at B:", got)
sys.exit(0 if got.endswith(b"invalidate\r\n_\r\n") else 1)
P
python3 client.py

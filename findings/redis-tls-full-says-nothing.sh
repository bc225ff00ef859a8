#!/bin/sh
# A Redis that has reached maxclients tells clients without TLS so, and closes the connections of those with TLS without a word.
#
# Version: redis-server 7.0.15 of Debian 12, with its own TLS.
# Behaviour: one server with both ports and maxclients 1, which one client has taken. The next client on the plaintext port reads
# "-ERR max number of clients reached". The next one on the TLS port gets the end of the stream in place of a ServerHello: its
# TLS library reports a broken handshake.
# Why: the limit is looked at when a connection is accepted, and then there is no TLS session by which the error could be sent.
# For whoever tells users what is wrong: a TLS port that closes at once may just be full; nothing but the server's log and
# rejected_connections in INFO says so.
#
# Output seen:
#   without TLS: -ERR max number of clients reached
#   with TLS: 0 bytes, then the end
set -eu
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" 2>/dev/null || true; }; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq redis-server redis-tools libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$dir/root" -name 'liblzf.so*' | head -n 1)")
export LD_LIBRARY_PATH
server=root/usr/bin/redis-server
$server --version | tee version
grep -q "v=7\.0\.15" version || { echo "want redis-server 7.0.15 of Debian 12"; exit 2; }
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost 2>/dev/null
ports=$(python3 -c '
import socket
both = [socket.socket() for _ in range(2)]
for s in both: s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in both])')
plain=${ports% *} tls=${ports#* }
$server --port "$plain" --tls-port "$tls" --bind 127.0.0.1 --save "" --maxclients 1 --tls-auth-clients no --tls-cert-file cert.pem \
	--tls-key-file key.pem --tls-ca-cert-file cert.pem --logfile "$dir/log" &
pid=$!
cat >clients.py <<'P'
import socket, struct, sys, time

plain, tls = map(int, sys.argv[1:])

def connect(port):
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.05)
    sys.exit("the server does not listen")

first = connect(plain)
first.sendall(b"PING\r\n")
assert first.recv(100) == b"+PONG\r\n"
print("without TLS:", connect(plain).recv(100).decode().strip())
second, got = connect(tls), b""
import ssl
session, incoming, outgoing = ssl._create_unverified_context(), ssl.MemoryBIO(), ssl.MemoryBIO()
hello = session.wrap_bio(incoming, outgoing)
try:
    hello.do_handshake()
except ssl.SSLWantReadError:
    pass
try:
    second.sendall(outgoing.read())
    got = second.recv(4096)
except ConnectionResetError:
    pass
print("with TLS: %d bytes, then the end" % len(got))
P
python3 clients.py "$plain" "$tls" | tee output
grep -qx "without TLS: -ERR max number of clients reached" output || { echo "it has changed: without TLS"; exit 1; }
grep -qx "with TLS: 0 bytes, then the end" output || { echo "it has changed: with TLS"; exit 1; }

#!/bin/sh
# A Redis whose plaintext port was closed by CONFIG SET port 0 goes on to serve, without TLS, whoever is connected there.
#
# Version: redis-server 7.0.15 of Debian 12, with its own TLS.
# Behaviour: one server with both ports, and one client without TLS. CONFIG SET port 0 closes the listener: the next client without
# TLS is refused. The one that is connected is not closed, and its passwords and data go over the network in the clear for as long as
# it stays, which a pool does for months. CONFIG GET port says 0 meanwhile.
# Why: the listener is closed, and what was accepted by it is not looked at. CLIENT LIST shows such a client by the port in laddr only.
# For whoever takes clients from plaintext to TLS: closing the port is half of it. Those that are connected must be closed too, with
# CLIENT KILL LADDR or, if no request is to be cut, one by one between two requests.
#
# Output seen:
#   the port: 0
#   a new client: refused
#   the connected client: +OK
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
$server --port "$plain" --tls-port "$tls" --bind 127.0.0.1 --save "" --tls-auth-clients no --tls-cert-file cert.pem \
	--tls-key-file key.pem --tls-ca-cert-file cert.pem --logfile "$dir/log" &
pid=$!
cat >clients.py <<'P'
import socket, ssl, sys, time

plain, tls = map(int, sys.argv[1:])

def connect(port):
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.05)
    sys.exit("the server does not listen")

def ask(client, line):
    client.sendall(line + b"\r\n")
    return client.recv(4096).decode()

client = connect(plain)
assert ask(client, b"PING") == "+PONG\r\n"
admin = ssl._create_unverified_context().wrap_socket(connect(tls))
assert ask(admin, b"CONFIG SET port 0") == "+OK\r\n"
print("the port:", ask(admin, b"CONFIG GET port").split("\r\n")[4])
try:
    socket.create_connection(("127.0.0.1", plain), timeout=10)
    print("a new client: let in")
except ConnectionRefusedError:
    print("a new client: refused")
print("the connected client:", ask(client, b"SET key secret").strip())
P
python3 clients.py "$plain" "$tls" | tee output
for line in "the port: 0" "a new client: refused" "the connected client: +OK"; do
	grep -qxF "$line" output || { echo "it has changed: want $line"; exit 1; }
done

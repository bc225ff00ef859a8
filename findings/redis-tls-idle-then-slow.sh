#!/bin/sh
# Redis's own TLS disconnects a client that was idle for some seconds and then asks for replies faster than it reads them.
#
# Version: redis-server 7.0.15 of Debian 12 with OpenSSL 3.0 (8.0.2 and 8.0.6 do the same; Valkey 8.1.1 and 9.1.2 do not).
# Behaviour: the client pipelines PING and GETs of 15 kB, far within client-output-buffer-limit, and begins to read after 1,000
# of each. Straight after connecting it gets all 15,017,000 bytes. After four idle seconds on the same kind of connection it gets
# some 4 MB and then the end of the stream; the log says at level verbose only: "SSL routines::bad length". Without TLS it gets
# everything.
# Why: OpenSSL wants a write that could not be done repeated with at least as many bytes. While a client idles Redis shrinks its
# reply buffer to 1 kB; replies then are spread over this and a list, which are joined for a write while they are less than
# 64 kB. When more has come until the socket takes bytes again, Redis writes the first part alone, which is shorter.
# For whoever stands in front of such a server: keep reading, and expect connections to end in the middle of a reply.
#
# Output seen:
#   at once: 15017000 of 15017000 bytes
#   after four idle seconds: 4264828 of 15017000 bytes, then the end
#   log: Error writing to client: error:0A00010F:SSL routines::bad length
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

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost \
	-addext subjectAltName=IP:127.0.0.1 2>/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
root/usr/bin/redis-server --port 0 --tls-port "$port" --bind 127.0.0.1 --save "" --tls-auth-clients no --tls-cert-file cert.pem \
	--tls-key-file key.pem --tls-ca-cert-file cert.pem --loglevel verbose --logfile "$dir/log" &
pid=$!
cat >client.py <<'P'
import socket, ssl, sys, time

port, idle, pairs, size = int(sys.argv[1]), float(sys.argv[2]), 1000, 15000
for attempt in range(100):
    try:
        raw = socket.create_connection(("127.0.0.1", port), timeout=20)
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
conn = ssl.create_default_context(cafile="cert.pem").wrap_socket(raw, server_hostname="127.0.0.1")
conn.sendall(b"SETRANGE value %d x\r\n" % (size - 1))
conn.recv(100)
time.sleep(idle)
for _ in range(pairs):
    conn.sendall(b"PING\r\nGET value\r\n")
    time.sleep(0.0005)
want = pairs * (len("+PONG\r\n") + len("$%d\r\n" % size) + size + 2)
got = 0
while got < want:
    part = conn.recv(1 << 20)
    if not part:
        break
    got += len(part)
print(f"{got} of {want} bytes" + ("" if got == want else ", then the end"))
P
once=$(python3 client.py "$port" 0)
later=$(python3 client.py "$port" 4)
echo "at once: $once"
echo "after four idle seconds: $later"
grep -o "Error writing to client.*bad length" log | sed 's/^/log: /' || true
case $once in "15017000 of 15017000 bytes") ;; *) echo "it has changed: straight after connecting not all came"; exit 1 ;; esac
case $later in *"then the end") ;; *) echo "it has changed: all came after the idle time too"; exit 1 ;; esac

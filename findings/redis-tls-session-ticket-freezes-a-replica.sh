#!/bin/sh
# A replica that connects over TLS 1.3 to a primary which doesn't answer stands still for 5 seconds, because of the session ticket.
#
# Version: redis-server 8.0.2 and valkey-server 8.1.1 of Debian 13; also Redis 7.0.15 and Valkey 9.1.2.
# Behaviour: a replica connects without blocking, sends PING and goes back to its event loop. With TLS 1.3 the server's session tickets come
# right after the handshake. They make the socket readable and hold no data. The replica takes this for the answer to PING, and reads it
# with a blocking read of 5 seconds at most. Until then it answers no client, no INFO and no REPLICAOF NO ONE. It is so at each attempt,
# once a second. OpenSSL's and Go's servers send tickets by default. Without them the replica waits in its event loop.
# For whoever ends TLS in front of a primary that may hang: send no session tickets, or the failover waits for the replica.
#
# Output seen (the same for both):
#   with session tickets: answers after 4 s or more
#   without: answers at once
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill -9 "$pid"; wait "$pid" || true; } 2>/dev/null; rm -rf "$dir"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test -keyout "$dir/key" -out "$dir/cert" 2>/dev/null
cat >"$dir/silent.py" <<'P'
# A server that takes part in handshakes, reads, and never answers. It says how long the replica takes for a PING meanwhile.
import socket, ssl, sys, threading, time

directory, tickets = sys.argv[1], int(sys.argv[2])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(directory + "/cert", directory + "/key")
context.num_tickets = tickets
asked = threading.Event()
listener = socket.create_server(("127.0.0.1", 0))

def serve(conn):
    try:
        conn = context.wrap_socket(conn, server_side=True)
        while conn.recv(1000):
            asked.set()
    except OSError:
        pass

def accept():
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

threading.Thread(target=accept, daemon=True).start()

def ask(*words):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(directory + "/sock")
        s.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        return s.recv(100)

ask(b"REPLICAOF", b"127.0.0.1", str(listener.getsockname()[1]).encode())
assert asked.wait(20), "the replica sends nothing"
began = time.monotonic()
assert ask(b"PING").startswith(b"+PONG")
took = time.monotonic() - began
name = "with session tickets" if tickets else "without"
print(name + ": " + ("answers at once" if took < 2 else "answers after 4 s or more" if took > 4 else "answers after %.1f s" % took))
P

try() {
	for tickets in 2 0; do
		"$1" --port 0 --unixsocket "$dir/sock" --save "" --dir "$dir" --logfile "$dir/log" --tls-replication yes \
			--tls-cert-file "$dir/cert" --tls-key-file "$dir/key" --tls-ca-cert-file "$dir/cert" &
		pid=$!
		while [ ! -S "$dir/sock" ]; do sleep 0.05; done
		python3 "$dir/silent.py" "$dir" $tickets
		kill -9 $pid
		wait $pid || true
		pid=
		rm "$dir/sock"
	done 2>/dev/null
}

want="with session tickets: answers after 4 s or more
without: answers at once"
for package in redis-server valkey-server; do
	program=$(SEALANE_ENGINES="$dir/packages" "$here/../scripts/debian.sh" trixie "$package")/$package
	echo "$package: $("$program" --version | cut -d ' ' -f 3)"
	try "$program" >"$dir/said"
	cat "$dir/said"
	[ "$(cat "$dir/said")" = "$want" ] || { echo "it has changed"; exit 1; }
done

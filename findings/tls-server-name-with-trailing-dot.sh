#!/bin/sh
# A host name that ends in a dot, as resolvers like it, works with an OpenSSL server and not with one that uses Go's crypto/tls.
#
# Version: Python 3.11 with OpenSSL 3.0 (Debian 12) as the client; Go 1.26 crypto/tls and OpenSSL 3.0 as servers.
# Behaviour: RFC 6066, section 3, says that the server name (SNI) has no dot at its end. OpenSSL clients send "localhost." as it was
# given. OpenSSL's server does not mind, so a client that verifies the chain but not the name, as redis-cli does, never notices
# (with the check of names it fails: OpenSSL compares the name with its dot). crypto/tls ends the handshake with decode_error while it reads the ClientHello: GetConfigForClient and
# GetCertificate are never called, so a server can neither let the client in nor tell it what is wrong, and the ClientHello can't
# be corrected on its way because its bytes are part of what both sides sign.
# For whoever puts a server in Go where one with OpenSSL was: clients with such a name stop connecting; the alert names no reason.
#
# Output seen:
#   OpenSSL server, localhost: connected
#   OpenSSL server, localhost.: connected
#   Go server, localhost: connected
#   Go server, localhost.: [SSL: TLSV1_ALERT_DECODE_ERROR] tlsv1 alert decode error
#   Go server: GetConfigForClient was called 1 time
set -eu
dir=$(mktemp -d)
openssl=
go=
trap 'for p in $openssl $go; do kill "$p"; wait "$p" || true; done 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=test \
	-addext subjectAltName=DNS:localhost 2>/dev/null
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

cat >main.go <<'G'
package main

import (
	"crypto/tls"
	"fmt"
	"os"
)

func main() {
	cert, err := tls.LoadX509KeyPair("cert.pem", "key.pem")
	if err != nil {
		panic(err)
	}
	asked := 0
	l, err := tls.Listen("tcp", "127.0.0.1:"+os.Args[1], &tls.Config{
		Certificates:       []tls.Certificate{cert},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { asked++; return nil, nil },
	})
	if err != nil {
		panic(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		c.(*tls.Conn).Handshake()
		os.WriteFile("asked", fmt.Append(nil, asked), 0o600)
		c.Close()
	}
}
G
go build -o server main.go
theirs=$(port)
openssl s_server -accept "127.0.0.1:$theirs" -cert cert.pem -key key.pem -quiet </dev/null >/dev/null 2>&1 &
openssl=$!
ours=$(port)
./server "$ours" &
go=$!

cat >client.py <<'P'
import socket, ssl, sys, time

for attempt in range(100):
    try:
        raw = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=20)
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
context = ssl.create_default_context(cafile="cert.pem")
context.check_hostname = False
try:
    with context.wrap_socket(raw, server_hostname=sys.argv[2]):
        print("connected")
except ssl.SSLError as e:
    print(str(e).split(" (_ssl")[0])
P
status=0
check() { # check SERVER PORT NAME WANT
	got=$(python3 client.py "$2" "$3")
	echo "$1 server, $3: $got"
	case $got in *"$4"*) ;; *) status=1 ;; esac
}
check OpenSSL "$theirs" localhost connected
check OpenSSL "$theirs" localhost. connected
check Go "$ours" localhost connected
check Go "$ours" localhost. "decode error"
echo "Go server: GetConfigForClient was called $(cat asked) time"
[ "$(cat asked)" = 1 ] || status=1
exit $status

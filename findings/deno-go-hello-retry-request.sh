#!/bin/sh
# Deno needs a round trip more than other clients for each TLS connection to a server that is written in Go.
#
# Version: Deno 2.9.6 (rustls), Go 1.26.8 (crypto/tls), both with their defaults.
# Behaviour: both know X25519 and X25519MLKEM768. Deno names X25519MLKEM768 last among its groups and sends a key share for
# X25519 only, which says "I'd rather have X25519". Go takes no key share that is there as long as the client names the hybrid
# group anywhere: it answers with a HelloRetryRequest, and the handshake begins anew. A client that doesn't name the hybrid
# group, or that sends its key share at once, as OpenSSL 3.5, Bun 1.4.5 and valkey-glide 2.5.2 (rustls too) do, is not asked to.
# For whoever measures or limits handshakes of a Go server: Deno's take two ClientHellos and twice as many round trips, and
# the order of tls.Config.CurvePreferences changes nothing; only a list without X25519MLKEM768 does.
#
# Output seen:
#   deno: names X25519,CurveP256,CurveP384,X25519MLKEM768; got X25519MLKEM768; HelloRetryRequest: true
#   a client with a key share for the hybrid group: names X25519MLKEM768,X25519; got X25519MLKEM768; HelloRetryRequest: false
#   deno, server prefers X25519: names X25519,CurveP256,CurveP384,X25519MLKEM768; got X25519MLKEM768; HelloRetryRequest: true
#   deno, server without the hybrid group: names X25519,CurveP256,CurveP384,X25519MLKEM768; got X25519; HelloRetryRequest: false
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --no-audit --no-fund --ignore-scripts --silent deno@2.9.6 >/dev/null
deno=$dir/node_modules/@deno/linux-x64-glibc/deno
[ -x "$deno" ] || { echo "Deno's program for Linux on x86-64 is not in the package"; exit 2; }
"$deno" --version | head -n 1
go version
cat >go.mod <<'M'
module finding

go 1.26

toolchain go1.26.8
M
cat >main.go <<'G'
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log"
	"math/big"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

const script = `const c = await Deno.connectTls({ hostname: "127.0.0.1", port: Number(Deno.args[0]), caCerts: [Deno.readTextFileSync("ca.pem")] });
await c.handshake(); c.close()`

func main() {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca.Subject.CommonName = "a CA"
	root, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	check(err)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	check(err)
	check(os.WriteFile("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}), 0o600))
	check(os.WriteFile("client.mjs", []byte(script), 0o600))
	server := tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}

	deno := func(address string) {
		_, port, _ := net.SplitHostPort(address)
		c := exec.Command(os.Args[1], "run", "--quiet", "--no-config", "--allow-net", "--allow-read", "client.mjs", port)
		c.Env = append(os.Environ(), "DENO_DIR=deno", "DENO_NO_UPDATE_CHECK=1")
		if out, err := c.CombinedOutput(); err != nil {
			log.Fatalf("deno: %v: %s", err, out)
		}
	}
	hybridFirst := func(address string) {
		c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519}})
		check(err)
		c.Close()
	}
	got := []bool{
		handshake("deno", server, deno),
		handshake("a client with a key share for the hybrid group", server, hybridFirst),
	}
	server.CurvePreferences = []tls.CurveID{tls.X25519, tls.X25519MLKEM768}
	got = append(got, handshake("deno, server prefers X25519", server, deno))
	server.CurvePreferences = []tls.CurveID{tls.X25519}
	got = append(got, handshake("deno, server without the hybrid group", server, deno))
	if fmt.Sprint(got) != "[true false true false]" {
		fmt.Println("it has changed")
		os.Exit(1)
	}
}

// handshake says whether the server asked for another ClientHello.
func handshake(name string, config tls.Config, connect func(address string)) bool {
	var groups []string
	config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		groups = nil
		for _, g := range h.SupportedCurves {
			groups = append(groups, g.String())
		}
		return nil, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer l.Close()
	asked := make(chan bool)
	go func() {
		raw, err := l.Accept()
		check(err)
		defer raw.Close()
		c := tls.Server(raw, &config)
		check(c.Handshake())
		s := c.ConnectionState()
		fmt.Printf("%s: names %s; got %v; HelloRetryRequest: %t\n", name, strings.Join(groups, ","), s.CurveID, s.HelloRetryRequest)
		asked <- s.HelloRetryRequest
	}()
	connect(l.Addr().String())
	return <-asked
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
G
go run . "$deno"

#!/bin/sh
# A TLS 1.3 client with OpenSSL that refuses the server's certificate says so unencrypted, and a server that is written in Go
# logs "bad record MAC" for it: nothing of an unknown CA.
#
# Version: openssl 3.0.22 of Debian 12 and Go 1.26.8. 3.5.9 of Debian 13 does the same, and so do Python, Ruby, Perl, PHP, curl
# and redis-cli, which use OpenSSL. Upstream: openssl/openssl#27809 (no bug, they say), golang/go#76767 (open).
# Behaviour: RFC 8446 wants every alert encrypted once the keys are there, which the client has since ServerHello. OpenSSL
# begins to encrypt with its own certificate or Finished message only, so the alert for what it makes of the server's
# certificate is the plain record 15 03 03 00 02, 02 30 (fatal, unknown_ca). Go decrypts whatever comes, fails, and reports an error
# of its own, with the alert gone. With TLS 1.2, or from Go's own client, the same server is told "unknown certificate
# authority".
# For whoever counts why handshakes fail: behind "bad record MAC" is mostly a client that doesn't trust the CA. The reason can be
# read only from the raw record, before crypto/tls has it.
#
# Output seen:
#   OpenSSL, TLS 1.3: server says "local error: tls: bad record MAC"; the client's last record is 15030300020230
#   OpenSSL, TLS 1.2: server says "remote error: tls: unknown certificate authority"; the client's last record is 15030300020230
#   Go, TLS 1.3: server says "remote error: tls: bad certificate"; the client's last record begins with 17030300
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq openssl libssl3 >/dev/null 2>&1
for deb in *.deb; do dpkg -x "$deb" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$dir/root" -name libssl.so.3)")
export LD_LIBRARY_PATH
version=$(root/usr/bin/openssl version)
echo "$version"
case $version in "OpenSSL 3.0."*) ;; *) echo "want OpenSSL 3.0 of Debian 12"; exit 2 ;; esac
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
	"fmt"
	"log"
	"math/big"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// recorder keeps what was read.
type recorder struct {
	net.Conn
	read []byte
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.read = append(r.read, b[:n]...)
	return n, err
}

func main() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	// Nobody trusts this one.
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	cert.Subject.CommonName = "a server"
	issuer := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, IsCA: true, BasicConstraintsValid: true}
	issuer.Subject.CommonName = "a CA"
	der, err := x509.CreateCertificate(rand.Reader, cert, issuer, key.Public(), key)
	check(err)
	server := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}

	openssl := func(version string) func(string) {
		return func(address string) {
			c := exec.Command("root/usr/bin/openssl", "s_client", "-connect", address, "-verify_return_error", "-no-CApath", "-no-CAfile", "-no-CAstore", version)
			if out, err := c.CombinedOutput(); err == nil {
				log.Fatalf("the client trusts it: %s", out)
			}
		}
	}
	said13, record13 := handshake(server, openssl("-tls1_3"))
	said12, record12 := handshake(server, openssl("-tls1_2"))
	saidGo, recordGo := handshake(server, func(address string) {
		if _, err := tls.Dial("tcp", address, &tls.Config{RootCAs: x509.NewCertPool()}); err == nil {
			log.Fatal("Go trusts it")
		}
	})
	fmt.Printf("OpenSSL, TLS 1.3: server says %q; the client's last record is %x\n", said13, record13)
	fmt.Printf("OpenSSL, TLS 1.2: server says %q; the client's last record is %x\n", said12, record12)
	fmt.Printf("Go, TLS 1.3: server says %q; the client's last record begins with %.4x\n", saidGo, recordGo)
	const plain = "15030300020230"
	if !strings.HasSuffix(said13, "bad record MAC") || fmt.Sprintf("%x", record13) != plain ||
		!strings.HasPrefix(said12, "remote error") || !strings.HasPrefix(saidGo, "remote error") || recordGo[0] != 0x17 {
		fmt.Println("it has changed")
		os.Exit(1)
	}
}

// handshake returns what the server makes of a client, and the last record that it got.
func handshake(config *tls.Config, connect func(address string)) (said string, last []byte) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		check(err)
		defer raw.Close()
		r := &recorder{Conn: raw}
		if err := tls.Server(r, config).Handshake(); err != nil {
			said = err.Error()
		}
		for rest := r.read; len(rest) >= 5; {
			size := 5 + int(rest[3])<<8 + int(rest[4])
			last, rest = rest[:size], rest[size:]
		}
	}()
	connect(l.Addr().String())
	<-done
	return said, last
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
G
go run .

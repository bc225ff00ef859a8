package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"testing"
	"time"
)

// TidyForTest does at once what the loops do every few seconds.
func (ls *Loops) TidyForTest() {
	for _, l := range ls.all {
		done := make(chan struct{})
		l.post(func() {
			defer close(done)
			for i := range l.sockets {
				if o := l.sockets[i].owner; o != nil {
					o.tidy()
				}
			}
		})
		<-done
	}
}

// FirstIDForTest is the id before that of the first client.
func (ls *Loops) FirstIDForTest() int64 { return ls.clients.remoteIDs }

// PushForTest is what Goaway sends.
const PushForTest = ">1\r\n$14\r\nsealane-goaway\r\n"

// SelfSignedForTest is a certificate that verifies nothing.
func SelfSignedForTest(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

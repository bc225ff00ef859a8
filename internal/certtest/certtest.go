// Package certtest makes certificates for tests: CAs, what they sign, and certificates that are wrong in one point.
//
// Every certificate has a P-256 key and a random serial number, unless a Change says otherwise. The zero Change list gives a
// certificate that is right; what a test is about is in the changes. Whatever fails ends the test.
package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"
)

const day = 24 * time.Hour

// Change alters a template before it is signed.
type Change = func(*x509.Certificate)

// Authority is a CA: a certificate and its key.
type Authority struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// NewAuthority makes a CA that signs itself. It is a year old and valid for another one.
func NewAuthority(t testing.TB, name string, change ...Change) *Authority {
	t.Helper()
	key := NewKey(t)
	template := caTemplate(name, change)
	return &Authority{parse(t, Sign(t, template, template, key.Public(), key)), key}
}

// Below makes a CA that a signs.
func (a *Authority) Below(t testing.TB, name string, change ...Change) *Authority {
	t.Helper()
	return a.Cross(t, &Authority{Key: NewKey(t)}, name, change...)
}

// Cross makes a cross-certificate: a signs the key of another CA. What comes back is that CA under this certificate.
func (a *Authority) Cross(t testing.TB, other *Authority, name string, change ...Change) *Authority {
	t.Helper()
	return &Authority{parse(t, Sign(t, caTemplate(name, change), a.Cert, other.Key.Public(), a.Key)), other.Key}
}

// Leaf makes a certificate for a server. It is an hour old and valid for a day, and has no names unless a Change gives it some.
func (a *Authority) Leaf(t testing.TB, change ...Change) tls.Certificate {
	t.Helper()
	key := NewKey(t)
	der := Sign(t, leafTemplate(change), a.Cert, key.Public(), a.Key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parse(t, der)}
}

// PEM is the CA's certificate.
func (a *Authority) PEM() []byte { return PEM(a.Cert.Raw) }

// SelfSigned makes a certificate for a server that signs itself and is its own CA, so a client can trust it. It is an hour
// old and valid for another one. With a nil key it gets a key of its own.
func SelfSigned(t testing.TB, key crypto.Signer, change ...Change) tls.Certificate {
	t.Helper()
	if key == nil {
		key = NewKey(t)
	}
	template := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	apply(template, change)
	der := Sign(t, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parse(t, der)}
}

// Sign makes a certificate from a template and returns it in DER. A template without a serial number gets a random one.
func Sign(t testing.TB, template, issuer *x509.Certificate, public crypto.PublicKey, key crypto.Signer) []byte {
	t.Helper()
	if template.SerialNumber == nil {
		n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
		if err != nil {
			t.Fatal(err)
		}
		template.SerialNumber = n
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// NewKey makes a P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// PEM is a chain of certificates as a file has it.
func PEM(chain ...[]byte) []byte {
	var b []byte
	for _, der := range chain {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return b
}

// KeyPEM is a private key as a file has it (PKCS #8).
func KeyPEM(t testing.TB, key crypto.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Valid sets both ends of a certificate's validity.
func Valid(from, until time.Time) Change {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, until }
}

// Names adds what a client can ask for: IP addresses, URIs (with "://"), and for all else DNS names.
func Names(names ...string) Change {
	return func(c *x509.Certificate) {
		for _, n := range names {
			ip := net.ParseIP(n)
			u, err := url.Parse(n)
			switch {
			case ip != nil:
				c.IPAddresses = append(c.IPAddresses, ip)
			case err == nil && u.Scheme != "" && u.Host != "":
				c.URIs = append(c.URIs, u)
			default:
				c.DNSNames = append(c.DNSNames, n)
			}
		}
	}
}

// CommonName names the subject.
func CommonName(name string) Change {
	return func(c *x509.Certificate) { c.Subject.CommonName = name }
}

// ForClients makes a leaf one that a client shows, and no server.
func ForClients(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }

func caTemplate(name string, change []Change) *x509.Certificate {
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-365 * day), NotAfter: time.Now().Add(365 * day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	apply(c, change)
	return c
}

func leafTemplate(change []Change) *x509.Certificate {
	c := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(day),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	apply(c, change)
	return c
}

func apply(c *x509.Certificate, change []Change) {
	for _, f := range change {
		if f != nil {
			f(c)
		}
	}
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

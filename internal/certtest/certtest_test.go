package certtest_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
)

// verify holds a chain, leaf first, against the CAs that a client trusts.
func verify(chain [][]byte, trusted ...*certtest.Authority) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, a := range trusted {
		roots.AddCert(a.Cert)
	}
	for _, der := range chain[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		between.AddCert(c)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: "cache.internal"})
	return err
}

func TestRightCertificatesVerify(t *testing.T) {
	t.Parallel()
	name := certtest.Names("cache.internal")
	root, next := certtest.NewAuthority(t, "CA 1"), certtest.NewAuthority(t, "CA 2")
	issuing, cross := root.Below(t, "issuing CA"), root.Cross(t, next, "CA 2")
	self := certtest.SelfSigned(t, nil, name)
	for what, err := range map[string]error{
		"leaf":               verify(root.Leaf(t, name).Certificate, root),
		"leaf and issuing":   verify(append(issuing.Leaf(t, name).Certificate, issuing.Cert.Raw), root),
		"leaf and cross":     verify(append(next.Leaf(t, name).Certificate, cross.Cert.Raw), root),
		"leaf under CA 2":    verify(next.Leaf(t, name).Certificate, next),
		"self-signed server": verify(self.Certificate, &certtest.Authority{Cert: self.Leaf}),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := tls.X509KeyPair(certtest.PEM(self.Certificate...), certtest.KeyPEM(t, self.PrivateKey)); err != nil {
		t.Errorf("as files: %v", err)
	}
}

func TestAWrongPointIsFound(t *testing.T) {
	t.Parallel()
	root, name := certtest.NewAuthority(t, "CA"), certtest.Names("cache.internal")
	if err := verify(root.Leaf(t, certtest.Names("other.internal")).Certificate, root); !errors.As(err, new(x509.HostnameError)) {
		t.Errorf("another name: %v", err)
	}
	if err := verify(root.Leaf(t, name).Certificate, certtest.NewAuthority(t, "CA")); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("another CA: %v", err)
	}
	tooOld := certtest.Valid(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	oldCA := certtest.NewAuthority(t, "CA", tooOld)
	for what, err := range map[string]error{
		"expired":        verify(root.Leaf(t, name, tooOld).Certificate, root),
		"for clients":    verify(root.Leaf(t, name, certtest.ForClients).Certificate, root),
		"an expired CA":  verify(oldCA.Leaf(t, name).Certificate, oldCA),
		"a missing link": verify(root.Below(t, "issuing CA").Leaf(t, name).Certificate, root),
	} {
		if err == nil {
			t.Errorf("%s: verifies", what)
		}
	}
}

func TestNamesAreOfTheirKind(t *testing.T) {
	t.Parallel()
	c := certtest.SelfSigned(t, nil, certtest.CommonName("cache"), certtest.Names("cache.internal", "127.0.0.1", "::1", "spiffe://sealane/local/local/first")).Leaf
	if len(c.DNSNames) != 1 || len(c.IPAddresses) != 2 || len(c.URIs) != 1 || c.Subject.CommonName != "cache" {
		t.Errorf("%v, %v, %v, %v", c.DNSNames, c.IPAddresses, c.URIs, c.Subject)
	}
}

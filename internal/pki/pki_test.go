package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/pki"
)

const day = 24 * time.Hour

var (
	start = time.Date(2026, 3, 1, 12, 0, 0, 500, time.UTC)

	loopback = pki.Names{
		DNS: []string{"localhost"},
		IPs: []netip.Addr{netip.MustParseAddr("127.83.0.1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")},
		URI: "spiffe://sealane/local/local/first",
	}
	addressOnly = pki.Names{IPs: []netip.Addr{netip.MustParseAddr("10.1.2.3")}, URI: "spiffe://sealane/p/l/i"}
)

func masterKey(t testing.TB) pki.MasterKey {
	t.Helper()
	k, err := pki.ParseMasterKey(pki.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// settle carries the plan out and checks that nothing is left to do then.
func settle(t testing.TB, s pki.State, key pki.MasterKey, now time.Time) pki.State {
	t.Helper()
	return do(t, s, key, now, pki.Plan(s, now))
}

// do carries actions out and checks that they are complete.
func do(t testing.TB, s pki.State, key pki.MasterKey, now time.Time, actions []pki.Action) pki.State {
	t.Helper()
	for _, a := range actions {
		if a.Reason == "" || a.Generation == 0 {
			t.Errorf("%s at %s: no reason or no generation", a.Kind, now)
		}
	}
	after, _, err := s.DoAll(actions, key, now)
	if err != nil {
		t.Fatalf("at %s: %v of %v", now, err, actions)
	}
	if left := pki.Plan(after, now); len(left) != 0 {
		t.Fatalf("at %s: %v is left to do after %v", now, left, actions)
	}
	return after
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestNewInstanceGetsCAAndLeafThatVerifyForEveryName(t *testing.T) {
	t.Parallel()
	for _, alg := range []pki.Algorithm{"", pki.ECDSAP256, pki.RSA2048} {
		for _, names := range []pki.Names{loopback, addressOnly} {
			t.Run(fmt.Sprintf("%s/%s", alg, names.URI), func(t *testing.T) {
				t.Parallel()
				key := masterKey(t)
				s := settle(t, pki.State{Names: names, Algorithm: alg}, key, start)
				roots := x509.NewCertPool()
				if !roots.AppendCertsFromPEM(s.At(start).Bundle()) {
					t.Fatal("the bundle holds no certificate")
				}
				leaf := parse(t, s.Leaf.Certificate)
				hosts := append([]string{}, names.DNS...)
				for _, ip := range names.IPs {
					hosts = append(hosts, ip.String())
				}
				for _, host := range hosts {
					if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: start, DNSName: host}); err != nil {
						t.Errorf("%s: %v", host, err)
					}
				}
				if len(leaf.URIs) != 1 || leaf.URIs[0].String() != names.URI {
					t.Errorf("URI names %v; want %s", leaf.URIs, names.URI)
				}
				chain, private, err := s.At(start).Chain(key)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := tls.X509KeyPair(chain, private); err != nil {
					t.Errorf("chain and key do not fit: %v", err)
				}
			})
		}
	}
}

func TestCAHasTheDocumentedShape(t *testing.T) {
	t.Parallel()
	s := settle(t, pki.State{Names: loopback}, masterKey(t), start)
	ca := parse(t, s.CAs[0].Certificate)
	second := start.Truncate(time.Second)
	for what, ok := range map[string]bool{
		"self-signed":          ca.CheckSignatureFrom(ca) == nil,
		"common name":          ca.Subject.CommonName == "Sealane Redis Server CA",
		"dnQualifier":          strings.Contains(fmt.Sprint(ca.Subject.Names), "2.5.4.46"),
		"backdated one minute": ca.NotBefore.Equal(second.Add(-time.Minute)),
		"3650 days":            ca.NotAfter.Equal(second.AddDate(0, 0, 3650)),
		"certSign+crlSign":     ca.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign,
		"pathlen 1":            ca.IsCA && ca.MaxPathLen == 1,
		"no name constraints":  !constrained(ca),
		"positive serial":      ca.SerialNumber.Sign() > 0,
		"P-256":                ca.PublicKey.(*ecdsa.PublicKey).Curve == elliptic.P256(),
	} {
		if !ok {
			t.Errorf("%s: not so in %+v", what, ca.Subject)
		}
	}
	other := parse(t, settle(t, pki.State{Names: loopback}, masterKey(t), start).CAs[0].Certificate)
	if bytes.Equal(ca.RawSubject, other.RawSubject) {
		t.Error("two CAs have the same subject: a client could build a path to the wrong key")
	}
	d, err := pki.Describe(s.CAs[0].Certificate)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(ca.Raw)
	if d.SHA1Fingerprint != hex.EncodeToString(sum[:]) || d.Serial != ca.SerialNumber.String() || !d.NotAfter.Equal(ca.NotAfter) {
		t.Errorf("description %+v does not fit the certificate", d)
	}
}

// constrained says whether a certificate has name constraints, of any kind.
func constrained(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30}) })
}

// A CA with name constraints that lands in a system's trust store must be of no use for any other name, of any kind.
func TestConstrainedCACannotImpersonateOtherNames(t *testing.T) {
	t.Parallel()
	for _, names := range []pki.Names{loopback, addressOnly, {DNS: []string{"redis.example.com"}}} {
		key := masterKey(t)
		s := settle(t, pki.State{Names: names, NameConstraints: true}, key, start)
		ca := parse(t, s.CAs[0].Certificate)
		if !ca.PermittedDNSDomainsCritical {
			t.Errorf("the constraints for %v are not critical", names)
		}
		signer := caSigner(t, s, key, 1)
		for what, template := range map[string]*x509.Certificate{
			"dns name":     {DNSNames: []string{"www.example.org"}},
			"IPv4 address": {IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}},
			"IPv6 address": {IPAddresses: []net.IP{net.ParseIP("2001:db8::1")}},
			"uri":          {URIs: []*url.URL{{Scheme: "spiffe", Host: "elsewhere.example", Path: "/x"}}},
			"email":        {EmailAddresses: []string{"a@example.org"}},
		} {
			template.SerialNumber = big.NewInt(7)
			template.Subject = pkix.Name{CommonName: "Forged Leaf"}
			template.NotBefore, template.NotAfter = start.Add(-time.Hour), start.Add(time.Hour)
			der := certtest.Sign(t, template, ca, certtest.NewKey(t).Public(), signer)
			roots := x509.NewCertPool()
			roots.AddCert(ca)
			opts := x509.VerifyOptions{Roots: roots, CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
			if _, err := parse(t, der).Verify(opts); err == nil {
				t.Errorf("CA for %v: Go accepts a forged %s", names, what)
			}
			if out, err := opensslVerify(t, ca.Raw, der); err == nil {
				t.Errorf("CA for %v: OpenSSL accepts a forged %s: %s", names, what, out)
			}
		}
		if out, err := opensslVerify(t, ca.Raw, s.Leaf.Certificate); err != nil {
			t.Errorf("CA for %v: OpenSSL refuses the real leaf: %s", names, out)
		}
	}
}

func caSigner(t *testing.T, s pki.State, key pki.MasterKey, generation int) crypto.Signer {
	t.Helper()
	der, err := key.Open(s.CAs[generation-1].SealedKey, fmt.Sprintf("ca %d of %s", generation, s.Names.URI))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.(crypto.Signer)
}

func opensslVerify(t *testing.T, ca, leaf []byte) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, der := range map[string][]byte{"ca.pem": ca, "leaf.pem": leaf} {
		if err := os.WriteFile(filepath.Join(dir, name), pki.EncodePEM(der), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("openssl", "verify", "-attime", fmt.Sprint(start.Unix()), "-CAfile", "ca.pem", "leaf.pem")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("openssl is not installed")
	}
	return string(out), err
}

func TestLeafIsReplaced(t *testing.T) {
	t.Parallel()
	key := masterKey(t)
	s := settle(t, pki.State{Names: loopback}, key, start.Add(-time.Hour))
	s, _, err := s.Do(pki.Action{Kind: pki.IssueLeaf, Generation: 1}, key, start)
	if err != nil {
		t.Fatal(err)
	}
	due := s.At(start).Upcoming()[0].Due
	if early := start.Truncate(time.Second).Add(180 * day).Sub(due); early < 0 || early >= 6*time.Hour {
		t.Errorf("renewal is due %s before 180 days; want less than 6 hours", early)
	}
	fewer := s
	fewer.Names.DNS = nil
	reordered := s
	reordered.Names.IPs = []netip.Addr{loopback.IPs[2], loopback.IPs[0], loopback.IPs[1]}
	for _, tt := range []struct {
		name  string
		state pki.State
		at    time.Time
		want  string
	}{
		{"nothing to do", s, start.Add(time.Hour), ""},
		{"a moment before renewal", s, due.Add(-time.Millisecond), ""},
		{"renewal when it is due", s, due, "after 180 days"},
		{"long overdue", s, start.Add(1000 * day), "after 180 days"},
		{"clock set back within the backdating", s, start.Add(-30 * time.Second), ""},
		{"clock set back before the leaf is valid", s, start.Add(-30 * time.Minute), "clock was set back"},
		{"clock set back before the CA is valid", s, start.Add(-24 * time.Hour), ""},
		{"a name less", fewer, start.Add(time.Hour), "names or addresses"},
		{"same names in another order", reordered, start.Add(time.Hour), ""},
	} {
		actions := pki.Plan(tt.state, tt.at)
		got := fmt.Sprint(actions)
		if tt.want == "" && len(actions) != 0 || !strings.Contains(got, tt.want) {
			t.Errorf("%s: plan %s; want %q", tt.name, got, tt.want)
		}
	}
}

func TestSealedSecrets(t *testing.T) {
	t.Parallel()
	key, other := masterKey(t), masterKey(t)
	sealed := key.Seal([]byte("secret"), "auth of a")
	if got, err := key.Open(sealed, "auth of a"); err != nil || string(got) != "secret" {
		t.Fatalf("open: %q, %v", got, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"another purpose": func() ([]byte, error) { return key.Open(sealed, "auth of b") },
		"another key":     func() ([]byte, error) { return other.Open(sealed, "auth of a") },
		"a bit changed": func() ([]byte, error) {
			return key.Open(append(sealed[:len(sealed)-1:len(sealed)-1], sealed[len(sealed)-1]^1), "auth of a")
		},
		"cut off": func() ([]byte, error) { return key.Open(sealed[:5], "auth of a") },
		"empty":   func() ([]byte, error) { return key.Open(nil, "auth of a") },
	} {
		if got, err := open(); !errors.Is(err, pki.ErrSeal) {
			t.Errorf("%s: %q, %v; want ErrSeal", name, got, err)
		}
	}
	s := settle(t, pki.State{Names: loopback}, key, start)
	if _, _, err := s.Do(pki.Action{Kind: pki.IssueLeaf, Generation: 1}, other, start); !errors.Is(err, pki.ErrSeal) {
		t.Errorf("leaf under the wrong master key: %v; want ErrSeal", err)
	}
	if shown := fmt.Sprintf("%v %+v %#v", key, struct{ K pki.MasterKey }{key}, key); strings.Contains(shown, "aead") {
		t.Errorf("the master key shows itself: %s", shown)
	}
}

func TestMasterKeyText(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "x", "c2hvcnQ=", strings.Repeat("A", 200)} {
		if _, err := pki.ParseMasterKey(bad); err == nil || !strings.Contains(err.Error(), "32 bytes as base64") {
			t.Errorf("%q: %v; want an error that says what is right", bad, err)
		} else if bad != "" && len(bad) > 1 && strings.Contains(err.Error(), bad) {
			t.Errorf("the error quotes the key: %v", err)
		}
	}
	if _, err := pki.ParseMasterKey("\n" + pki.NewMasterKey() + "\n"); err != nil {
		t.Errorf("white space around the key: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	key := masterKey(f)
	f.Add([]byte{1})
	f.Add(key.Seal([]byte("x"), "other"))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if secret, err := key.Open(sealed, "p"); err == nil {
			t.Fatalf("opened what was never sealed for this purpose: %q", secret)
		}
	})
}

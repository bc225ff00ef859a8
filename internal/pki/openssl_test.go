package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

// What a client with each trust store makes of each phase: Go's verifier and the real `openssl verify` agree.
func TestTrustStoresInEveryPhase(t *testing.T) {
	t.Parallel()
	for i, kind := range kindsOfCAs {
		algorithm := []pki.Algorithm{pki.ECDSAP256, pki.RSA2048}[i%2]
		t.Run(fmt.Sprintf("%s, %s", kind.name, algorithm), func(t *testing.T) {
			t.Parallel()
			key := masterKey(t)
			at := func(days int) time.Time { return start.Add(time.Duration(days) * day) }
			s := settle(t, pki.State{Names: loopback, Algorithm: algorithm, NameConstraints: kind.constrained(1)}, key, start)
			phases := []struct {
				name string
				day  int
				want map[string]string // trust store → accepts: the chain, the second leaf, that with the cross-certificate
			}{
				{"CA-1 signs", 2000, map[string]string{"CA-1": "yes no yes", "CA-2": "no yes yes", "both": "yes yes yes"}},
				{"cross-signed", 2800, map[string]string{"CA-1": "yes no -", "CA-2": "yes yes -", "both": "yes yes -"}},
				{"cross-certificate ended", 3630, map[string]string{"CA-1": "no no -", "CA-2": "yes yes -", "both": "yes yes -"}},
				{"after CA-1", 3660, map[string]string{"CA-1": "no no no", "CA-2": "yes no yes", "both": "yes no yes"}},
			}
			s = settle(t, s.WithNameConstraints(kind.constrained(2)), key, at(1825))
			ca1, ca2 := pki.EncodePEM(s.CAs[0].Certificate), pki.EncodePEM(s.CAs[1].Certificate)
			stores := map[string][]byte{"CA-1": ca1, "CA-2": ca2, "both": append(append([]byte{}, ca1...), ca2...)}
			for _, phase := range phases {
				now := at(phase.day)
				s = settle(t, s, key, now)
				chain := fitting(t, func() ([]byte, []byte, error) { return s.At(now).Chain(key) })
				next := fitting(t, func() ([]byte, []byte, error) { return s.At(now).NextChain(key) })
				cross := fitting(t, func() ([]byte, []byte, error) { return s.At(now).NextCrossChain(key) })
				for store, want := range phase.want {
					got := accepts(t, stores[store], chain, "localhost", now) + " " + accepts(t, stores[store], next, pki.NextName, now) +
						" " + accepts(t, stores[store], cross, pki.NextCrossName, now)
					if got != want {
						t.Errorf("%s, %s in the store: accepts %s; want %s", phase.name, store, got, want)
					}
				}
			}
		})
	}
}

// fitting is a chain whose key fits, or none.
func fitting(t *testing.T, get func() (chain, private []byte, err error)) []byte {
	t.Helper()
	chain, private, err := get()
	if err != nil {
		t.Fatal(err)
	}
	if len(chain) == 0 {
		return nil
	}
	if _, err := tls.X509KeyPair(chain, private); err != nil {
		t.Errorf("chain and key do not fit: %v", err)
	}
	return chain
}

// accepts asks Go and OpenSSL for a verdict: "yes" or "no", or "-" of no chain.
func accepts(t *testing.T, store, chain []byte, host string, now time.Time) string {
	t.Helper()
	certs := certificates(t, chain)
	if len(certs) == 0 {
		return "-"
	}
	byGo := verify(t, store, certs, host, now)
	out, byOpenSSL := openssl(t, store, certs, now, "-verify_hostname", host)
	if byOpenSSL == nil {
		for _, ip := range certs[0].IPAddresses {
			if out, err := openssl(t, store, certs, now, "-verify_ip", ip.String()); err != nil {
				t.Errorf("OpenSSL accepts %s but not %s: %s", host, ip, out)
			}
		}
	}
	if (byGo == nil) != (byOpenSSL == nil) {
		t.Errorf("for %s Go says %v, OpenSSL %s", host, byGo, out)
	}
	if byGo == nil {
		return "yes"
	}
	return "no"
}

func openssl(t testing.TB, store []byte, chain []*x509.Certificate, now time.Time, options ...string) (string, error) {
	t.Helper()
	return opensslPurpose(t, store, chain, now, "sslserver", options...)
}

func opensslPurpose(t testing.TB, store []byte, chain []*x509.Certificate, now time.Time, purpose string, options ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	var others []byte
	for _, c := range chain[1:] {
		others = append(others, pki.EncodePEM(c.Raw)...)
	}
	for name, text := range map[string][]byte{"store.pem": store, "leaf.pem": pki.EncodePEM(chain[0].Raw), "others.pem": others} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := append([]string{"verify", "-x509_strict", "-purpose", purpose, "-no-CApath", "-no-CAstore", "-attime", fmt.Sprint(now.Unix()), "-CAfile", "store.pem"}, options...)
	if len(others) > 0 {
		args = append(args, "-untrusted", "others.pem")
	}
	cmd := exec.Command("openssl", append(args, "leaf.pem")...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("openssl is not installed")
	}
	return string(out), err
}

// The cross-certificate is CA-2 in all that clients build paths by, and no more powerful than CA-1 lets it be.
func TestCrossCertificateHasTheDocumentedShape(t *testing.T) {
	t.Parallel()
	key := masterKey(t)
	s := settle(t, settle(t, pki.State{Names: loopback}, key, start), key, start.Add(1825*day))
	one, two, cross := parse(t, s.CAs[0].Certificate), parse(t, s.CAs[1].Certificate), parse(t, s.CAs[1].Cross)
	for what, ok := range map[string]bool{
		"signed by CA-1":              cross.CheckSignatureFrom(one) == nil,
		"CA-2's key":                  string(cross.RawSubjectPublicKeyInfo) == string(two.RawSubjectPublicKeyInfo),
		"CA-2's subject":              string(cross.RawSubject) == string(two.RawSubject),
		"CA-2's subject key id":       string(cross.SubjectKeyId) == string(two.SubjectKeyId) && len(cross.SubjectKeyId) > 0,
		"CA-1's authority key id":     string(cross.AuthorityKeyId) == string(one.SubjectKeyId),
		"pathlen 0":                   cross.IsCA && cross.MaxPathLen == 0 && cross.MaxPathLenZero,
		"no name constraints":         !constrained(cross),
		"ends with CA-1":              cross.NotAfter.Equal(one.NotAfter),
		"begins with CA-2":            cross.NotBefore.Equal(two.NotBefore),
		"certSign+crlSign":            cross.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign,
		"a serial of its own":         cross.SerialNumber.Cmp(two.SerialNumber) != 0,
		"not served before its time":  chainLength(t, s, key, start.Add(1825*day)) == 1,
		"subjects of the CAs differ":  string(one.RawSubject) != string(two.RawSubject),
		"the second leaf is of CA-2":  parse(t, s.Next.Certificate).CheckSignatureFrom(two) == nil,
		"NextName is in both leaves":  hasName(parse(t, s.Next.Certificate), pki.NextName) && hasName(parse(t, s.Leaf.Certificate), pki.NextName),
		"so is NextCrossName":         hasName(parse(t, s.Next.Certificate), pki.NextCrossName) && hasName(parse(t, s.Leaf.Certificate), pki.NextCrossName),
		"it is no name of the record": !strings.Contains(fmt.Sprint(s.Leaf.Names, s.Next.Names), pki.NextName),
	} {
		if !ok {
			t.Errorf("%s: not so", what)
		}
	}
}

func hasName(c *x509.Certificate, name string) bool { return c.VerifyHostname(name) == nil }

func chainLength(t *testing.T, s pki.State, key pki.MasterKey, now time.Time) int {
	t.Helper()
	chain, _, err := s.At(now).Chain(key)
	if err != nil {
		t.Fatal(err)
	}
	return len(certificates(t, chain))
}

// Every certificate that is signed is reported, and is one that the State then has or had.
func TestEverySignatureIsReported(t *testing.T) {
	t.Parallel()
	key := masterKey(t)
	s := pki.State{Names: loopback}
	now := start
	want := make(map[string]string)
	got := make(map[string]string)
	for now.Before(start.AddDate(25, 0, 0)) {
		var signed []pki.Signed
		var err error
		if s, signed, err = s.DoAll(pki.Plan(s, now), key, now); err != nil {
			t.Fatal(err)
		}
		for _, x := range signed {
			if x.Reason == "" {
				t.Errorf("%s of CA-%d is reported without a reason", x.Kind, x.Generation)
			}
			got[string(x.Certificate)] = fmt.Sprintf("%s %d by %d", x.Kind, x.Generation, x.Issuer)
		}
		for _, ca := range s.CAs {
			want[string(ca.Certificate)] = fmt.Sprintf("%s %d by %d", pki.CreateCA, ca.Generation, ca.Generation)
			if ca.Cross != nil {
				want[string(ca.Cross)] = fmt.Sprintf("%s %d by %d", pki.SignCross, ca.Generation, ca.CrossedBy)
			}
		}
		want[string(s.Leaf.Certificate)] = fmt.Sprintf("%s %d by %d", pki.IssueLeaf, s.Leaf.Issuer, s.Leaf.Issuer)
		if s.Next != nil {
			want[string(s.Next.Certificate)] = fmt.Sprintf("%s %d by %d", pki.IssueNextLeaf, s.Next.Issuer, s.Next.Issuer)
		}
		now = s.At(now).Upcoming()[0].Due
	}
	if len(got) != len(want) {
		t.Errorf("%d signatures reported; want %d", len(got), len(want))
	}
	for der, what := range want {
		if got[der] != what {
			t.Errorf("reported as %q; want %q", got[der], what)
		}
	}
}

// While the key of the CA that signs can't be read, everything else goes on, and heals.
func TestUnreadableKeyStopsOnlyWhatNeedsIt(t *testing.T) {
	t.Parallel()
	key, other := masterKey(t), masterKey(t)
	good := settle(t, pki.State{Names: loopback}, key, start)
	now := start.Add(1825 * day)
	broken := good
	broken.CAs = append([]pki.CA{}, good.CAs...)
	broken.CAs[0].SealedKey = other.Seal([]byte("x"), "y")
	after, signed, err := broken.DoAll(pki.Plan(broken, now), key, now)
	if !errors.Is(err, pki.ErrSeal) || !strings.Contains(err.Error(), "sign cross: key of CA-1: ") || !strings.Contains(err.Error(), "issue leaf: key of CA-1: ") {
		t.Errorf("error %v; want what could not be signed and why", err)
	}
	if len(after.CAs) != 2 || after.Next == nil || len(signed) != 2 || string(after.Leaf.Certificate) != string(good.Leaf.Certificate) {
		t.Errorf("%d CAs, %d certificates signed; want CA-2 and its second leaf, and the old leaf", len(after.CAs), len(signed))
	}
	// By the time CA-2 should sign it can't take over: those who hold only CA-1 would fail.
	later := start.Add(2800 * day)
	if after, _, err = after.DoAll(pki.Plan(after, later), key, later); err == nil || after.Leaf.Issuer != 1 {
		t.Errorf("leaf by CA-%d, %v", after.Leaf.Issuer, err)
	}
	after.CAs[0].SealedKey = good.CAs[0].SealedKey
	if after = settle(t, after, key, later); after.Leaf.Issuer != 2 || chainLength(t, after, key, later) != 2 {
		t.Error("it did not heal")
	}
	if same, signed, err := good.Do(pki.Action{Kind: pki.IssueLeaf, Generation: 1}, other, start); !errors.Is(err, pki.ErrSeal) || len(signed) != 0 || shape(t, same) != shape(t, good) {
		t.Errorf("with the wrong master key: %v, %d signed", err, len(signed))
	}
}

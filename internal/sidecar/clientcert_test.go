package sidecar_test

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/sidecar"
)

// pair writes a client certificate and its key.
func (a *authority) pair(dir, name string, change func(*x509.Certificate)) (cert, key string) {
	a.t.Helper()
	c := a.leaf(func(c *x509.Certificate) {
		certtest.CommonName(name)(c)
		certtest.ForClients(c)
		if change != nil {
			change(c)
		}
	})
	cert, key = filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.key")
	write(a.t, cert, certtest.PEM(c.Certificate...))
	write(a.t, key, certtest.KeyPEM(a.t, c.PrivateKey))
	return cert, key
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Cert)
	return p
}

// shows has the sidecar read a client certificate from files.
func (w *world) shows(cert, key string) {
	w.link.Local = func(s *sidecar.Server) (err error) {
		s.Certificate, s.Key, err = sidecar.ClientCertificate(cert, key)
		return err
	}
}

func TestAServerThatWantsAClientCertificateGetsIt(t *testing.T) {
	t.Parallel()
	for _, old := range []bool{false, true} {
		t.Run(map[bool]string{false: "TLS 1.3", true: "TLS 1.2"}[old], func(t *testing.T) {
			t.Parallel()
			clients := newAuthority(t, "client CA")
			dir := t.TempDir()
			cert, key := clients.pair(dir, "one", nil)
			w := newWorld(t, func(w *world) {
				w.server.set(func(r *redis) { r.clientCAs, r.only12 = clients.pool(), old })
				w.shows(cert, key)
			})
			w.ready()
			c := w.connect()
			c.works()
			// Another pair of files: clients move to connections with it, and notice nothing.
			before := w.server.open()
			clients.pair(dir, "two", nil)
			w.haveLeft(w.server, before)
			c.works()
			w.server.set(func(r *redis) {
				if slices.Index(r.shown, "one") != 0 || r.shown[len(r.shown)-1] != "two" {
					t.Errorf("the server was shown %q", r.shown)
				}
			})
			if p := w.log.problems(); len(p) > 0 || strings.Contains(w.log.String(), "PRIVATE") {
				t.Errorf("the log says %q", w.log.String())
			}
			// One that the server does not take is named, with the reason.
			other := newAuthority(t, "other CA")
			other.pair(dir, "three", nil)
			w.until("said", func() bool {
				err := w.side.Ready()
				return err != nil && strings.Contains(err.Error(), `refuses the client certificate of "three"`) && strings.Contains(err.Error(), `signed by "other CA"`)
			})
			if p := w.log.problems(); len(p) != 1 || !strings.Contains(p[0], "code=client-cert-refused ") {
				t.Errorf("the log says %q", p)
			}
			clients.pair(dir, "four", nil)
			w.ready()
			c.works()
		})
	}
}

func TestTheWantOfAClientCertificateIsSaidInEveryVersionOfTLS(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*redis){
		"TLS 1.3":                               func(*redis) {},
		"TLS 1.2":                               func(r *redis) { r.only12 = true },
		"TLS 1.3, and a reset ate up the alert": func(r *redis) { r.resets = true },
	} {
		w := newWorld(t, func(w *world) { w.server.set(func(r *redis) { r.wantsCert = true; change(r) }) })
		w.until("said", func() bool { return len(w.log.problems()) > 0 })
		if p := w.log.problems(); !strings.Contains(p[0], "code=client-cert-required ") || !strings.Contains(p[0], "cert and key of its configuration") {
			t.Errorf("%s: the log says %q", name, p)
		}
	}
}

func TestAClientCertificateThatCannotBeUsedIsNamed(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "client CA")
	for _, tc := range []struct {
		name, says string
		break_     func(cert, key string)
	}{
		{"no file", "client.pem can't be read: no such file", func(cert, _ string) { os.Remove(cert) }},
		{"no key", "client.key can't be read: no such file", func(_, key string) { os.Remove(key) }},
		{"a key for everybody", "client.key has mode 0644: other users can read", func(_, key string) { os.Chmod(key, 0o644) }},
		{"a key that a group may change", "has mode 0660", func(_, key string) { os.Chmod(key, 0o660) }},
		{"swapped", "holds the key and", func(cert, key string) {
			os.Rename(cert, cert+"2")
			os.Rename(key, cert)
			os.Rename(cert+"2", key)
		}},
		{"no PEM", "holds no certificate in PEM", func(cert, _ string) { write(t, cert, []byte("garbage")) }},
		{"an empty key", "holds no private key in PEM", func(_, key string) { write(t, key, nil) }},
		{"a passphrase", "has a passphrase", func(_, key string) {
			write(t, key, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"))
		}},
		{"another's key", "does not match", func(cert, key string) {
			other, _ := ca.pair(t.TempDir(), "other", nil)
			raw, _ := os.ReadFile(other)
			write(t, cert, raw)
		}},
		{"a server's certificate", "is not for clients", func(cert, key string) {
			ca.pair(filepath.Dir(cert), "server", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
		}},
		{"UTF-16", "UTF-16", func(cert, _ string) { write(t, cert, []byte("\xff\xfe-\x00-\x00")) }},
	} {
		cert, key := ca.pair(t.TempDir(), "one", nil)
		if _, _, err := sidecar.ClientCertificate(cert, key); err != nil {
			t.Errorf("%s: before: %v", tc.name, err)
		}
		tc.break_(cert, key)
		if _, _, err := sidecar.ClientCertificate(cert, key); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v; want %q", tc.name, err, tc.says)
		}
	}
	// In one file, and with a byte order mark.
	cert, key := ca.pair(t.TempDir(), "one", nil)
	one, _ := os.ReadFile(cert)
	two, _ := os.ReadFile(key)
	write(t, cert, append([]byte("\ufeff"), append(one, two...)...))
	if _, _, err := sidecar.ClientCertificate(cert, cert); err != nil {
		t.Errorf("in one file: %v", err)
	}
}

// Files that are half written change nothing, and are said; a certificate that is about to expire is noted.
func TestAPairThatIsBeingWrittenLeavesTheLastOneInForce(t *testing.T) {
	t.Parallel()
	clients := newAuthority(t, "client CA")
	dir := t.TempDir()
	cert, key := clients.pair(dir, "one", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) })
	w := newWorld(t, func(w *world) {
		w.server.set(func(r *redis) { r.clientCAs = clients.pool() })
		w.shows(cert, key)
	})
	w.ready()
	if n := strings.Join(w.side.Notes(), "\n"); !strings.Contains(n, `the client certificate of "one" expires on`) {
		t.Errorf("notes %q", n)
	}
	whole, _ := os.ReadFile(cert)
	write(t, cert, whole[:100])
	w.until("note", func() bool {
		return strings.Contains(strings.Join(w.side.Notes(), "\n"), "the client certificate can't be used")
	})
	if err := w.side.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	w.server.cut()
	w.connect().works()
	write(t, cert, whole)
	w.until("well", func() bool { return strings.Contains(w.log.String(), "well again") })
}

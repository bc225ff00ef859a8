package gateway_test

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/gateway"
)

// connect does a handshake and a round trip, which reads the session ticket as well.
func (w *world) connect(cfg *tls.Config) (tls.ConnectionState, error) {
	w.t.Helper()
	c := tls.Client(dialTCP(w.t, w.addr), cfg)
	defer c.Close()
	if err := c.Handshake(); err != nil {
		return tls.ConnectionState{}, err
	}
	roundTrip(w.t, c, "hello")
	return c.ConnectionState(), nil
}

func TestImpossiblePolicyIsRefused(t *testing.T) {
	t.Parallel()
	newWorld(t).wantProblems([]spoiled{
		{"old version", func(s *gateway.Snapshot) { s.MinTLSVersion = "1.1" }, []string{`min_tls_version "1.1": must be "1.2" or "1.3"`}},
		{"unknown group", func(s *gateway.Snapshot) { s.Groups = []string{"X25519", "P-521"} }, []string{`groups[1] "P-521": must be one of X25519MLKEM768, X25519, P-256, P-384`}},
		{"group twice", func(s *gateway.Snapshot) { s.Groups = []string{"P-256", "P-256"} }, []string{`groups[1] "P-256": is there twice`}},
		{"weak cipher", func(s *gateway.Snapshot) { s.TLS12Ciphers = []string{"TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"} }, []string{`tls12_ciphers[0] "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": must be one of`}},
		{"cipher for another key", func(s *gateway.Snapshot) { s.TLS12Ciphers = []string{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"} }, []string{"tls12_ciphers", "none is for the certificate's ECDSA key"}},
		{"cipher without its version", func(s *gateway.Snapshot) {
			s.MinTLSVersion, s.TLS12Ciphers = "1.3", []string{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}
		}, []string{"tls12_ciphers: are for TLS 1.2"}},
	})
}

func TestPolicyOfTheSnapshotIsKept(t *testing.T) {
	t.Parallel()
	w := serving(t)
	s := w.snapshot(2)
	s.MinTLSVersion, s.Groups = "1.3", []string{"P-256", "X25519"}
	w.apply(s)
	for name, tc := range map[string]struct {
		change func(*tls.Config)
		ok     bool
	}{
		"by default":     {func(*tls.Config) {}, true},
		"P-256":          {func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP256} }, true},
		"P-384":          {func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP384} }, false},
		"X25519MLKEM768": {func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768} }, false},
		"1.2":            {func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, false},
	} {
		cfg := w.trust()
		tc.change(cfg)
		if st, err := w.connect(cfg); (err == nil) != tc.ok || tc.ok && st.Version != tls.VersionTLS13 {
			t.Errorf("%s: %v, %v; want success %v", name, tls.VersionName(st.Version), err, tc.ok)
		}
	}
	// A client gets its alert before the failure is counted.
	eventually(t, "three failures are counted", func() bool { return w.status().Handshakes["failed"] == 3 })
	if f := w.status().Failures; f["no_shared_group"] != 2 || f["tls1.2"] != 1 {
		t.Errorf("failures %v; want no_shared_group twice and tls1.2 once", f)
	}
	s = w.snapshot(3)
	s.TLS12Ciphers = []string{"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}
	w.apply(s)
	cfg := w.trust()
	cfg.MaxVersion = tls.VersionTLS12
	if st, err := w.connect(cfg); err != nil || st.CipherSuite != tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 {
		t.Errorf("with one cipher for TLS 1.2: %v, %v", tls.CipherSuiteName(st.CipherSuite), err)
	}
}

func TestSessionsResumeAcrossAnApplyAndNotAcrossCertificates(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			t.Parallel()
			w := serving(t)
			cfg := w.trust()
			cfg.MinVersion, cfg.MaxVersion, cfg.ClientSessionCache = version, version, tls.NewLRUClientSessionCache(4)
			try := func(what string, want bool) {
				t.Helper()
				if st, err := w.connect(cfg); err != nil || st.DidResume != want {
					t.Errorf("%s: resumed %v, %v; want %v", what, st.DidResume, err, want)
				}
			}
			try("the first time", false)
			try("the second time", true)
			s := w.snapshot(2)
			s.Connect, s.MaxClients = "other", 100
			w.apply(s)
			try("after an apply", true)
			// Only the certificate is another one. The key and the CAs that the client trusts stay, so only the tickets' keys can make a difference.
			old := w.id
			w.id = reissued(t, old, w.addr)
			w.apply(w.snapshot(3))
			cfg.RootCAs = trusting(old, w.id).RootCAs
			try("after a new certificate", false)
			try("after that", true)
			s = w.snapshot(4)
			s.Groups = []string{"X25519", "P-256"}
			w.apply(s)
			try("after a change of policy", false)
		})
	}
}

func TestHandshakesAreCountedInDetail(t *testing.T) {
	t.Parallel()
	w := serving(t)
	hybrid, old := w.trust(), w.trust()
	hybrid.ClientSessionCache, old.ClientSessionCache = tls.NewLRUClientSessionCache(1), tls.NewLRUClientSessionCache(1)
	old.MaxVersion, old.CurvePreferences = tls.VersionTLS12, []tls.CurveID{tls.CurveP256}
	for _, cfg := range []*tls.Config{hybrid, hybrid, hybrid, old, old} {
		if _, err := w.connect(cfg); err != nil {
			t.Fatal(err)
		}
	}
	want := []gateway.Completed{
		{Version: "1.2", Group: "P-256", Resumed: false, Count: 1},
		{Version: "1.2", Group: "P-256", Resumed: true, Count: 1},
		{Version: "1.3", Group: "X25519MLKEM768", Resumed: false, Count: 1},
		{Version: "1.3", Group: "X25519MLKEM768", Resumed: true, Count: 2},
	}
	st := w.status()
	if !slices.Equal(st.Completed, want) {
		t.Errorf("completed %+v; want %+v", st.Completed, want)
	}
	if st.Admission.Admitted != 5 || st.Admission.Begun != 0 || st.Admission.Waiting != 0 || st.Handshakes["tls1.3"] != 3 {
		t.Errorf("admission %+v, handshakes %v", st.Admission, st.Handshakes)
	}
	c := w.dial()
	defer c.Close()
	if st := w.status(); st.Resident < 1<<20 || st.PerConnection == 0 || st.PerConnection > st.Resident {
		t.Errorf("resident %d, per connection %d", st.Resident, st.PerConnection)
	}
}

// A scanner from outside finds TLS 1.2 and 1.3 with AEAD, and nothing older.
func TestScannersFindModernTLSOnly(t *testing.T) {
	t.Parallel()
	program(t, "sslscan")
	w := serving(t)
	out, err := output(t, "sslscan", "--no-colour", "--no-heartbleed", w.addr)
	if err != nil {
		t.Fatalf("sslscan: %v\n%s", err, out)
	}
	for _, want := range []string{"SSLv2     disabled", "SSLv3     disabled", "TLSv1.0   disabled", "TLSv1.1   disabled", "TLSv1.2   enabled", "TLSv1.3   enabled"} {
		if !strings.Contains(out, want) {
			t.Errorf("sslscan does not say %q:\n%s", want, out)
		}
	}
	ciphers := 0
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "Accepted") && !strings.HasPrefix(line, "Preferred") {
			continue
		}
		ciphers++
		if !strings.Contains(line, "GCM") && !strings.Contains(line, "CHACHA20") {
			t.Errorf("no AEAD: %s", line)
		}
	}
	if ciphers < 6 {
		t.Errorf("%d ciphers found; want three for each version:\n%s", ciphers, out)
	}
	// OpenSSL 3.0 and sslscan do not know the hybrid group.
	cfg := w.trust()
	cfg.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
	if st, err := w.connect(cfg); err != nil || st.CurveID != tls.X25519MLKEM768 {
		t.Errorf("X25519MLKEM768: %v, %v", st.CurveID, err)
	}
}

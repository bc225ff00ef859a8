package gateway_test

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/gateway"
)

const nextName = "ca-next.sealane.invalid"

// twoCAs is a gateway that serves a chain of the CA "one" to all, and one of "two" to who asks for nextName.
func twoCAs(t *testing.T) (w *world, two identity, snapshot func(generation uint64) gateway.Snapshot) {
	t.Helper()
	w = newWorld(t)
	redis(t, w)
	two = newIdentity(t, w.addr)
	w.run()
	snapshot = func(generation uint64) gateway.Snapshot {
		s := w.snapshot(generation)
		s.Anchors = []string{"one"}
		s.Next = &gateway.NextChain{Name: nextName, Certificate: two.chain, PrivateKey: two.key, Anchors: []string{"two"}}
		return s
	}
	w.apply(snapshot(1))
	return w, two, snapshot
}

// visit makes a handshake, says what is to be said and leaves.
func (w *world) visit(cfg *tls.Config, say string) (tls.ConnectionState, error) {
	w.t.Helper()
	c := tls.Client(dialTCP(w.t, w.addr), cfg)
	defer c.Close()
	if err := c.Handshake(); err != nil {
		return tls.ConnectionState{}, err
	}
	for line := range strings.SplitSeq(strings.TrimPrefix(say+"|PING", "|"), "|") {
		send(w.t, c, line+"\r\n")
		got := make([]byte, 512)
		if _, err := c.Read(got); err != nil {
			return tls.ConnectionState{}, err
		}
	}
	return c.ConnectionState(), nil
}

// config trusts an identity, whatever name is asked for.
func (w *world) config(name string, id identity, protocols ...string) *tls.Config {
	cfg := trusting(id)
	host, _, _ := net.SplitHostPort(w.addr)
	cfg.ServerName, cfg.NextProtos = host, protocols
	if name != "" {
		cfg.ServerName = name
		roots := cfg.RootCAs
		cfg.InsecureSkipVerify = true // the name is none of the certificate's here; the chain is verified below
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			opts := verifyOptions(roots)
			_, err := s.PeerCertificates[0].Verify(opts)
			return err
		}
	}
	return cfg
}

func (w *world) evidence(name string) (gateway.Evidence, bool) {
	w.t.Helper()
	l, err := w.client.Ledger(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range l.Clients {
		if e.Name == name {
			return e, true
		}
	}
	return gateway.Evidence{}, false
}

func TestLedgerKnowsWhatClientsHaveShown(t *testing.T) {
	t.Parallel()
	w, two, _ := twoCAs(t)
	must := func(s tls.ConnectionState, err error) tls.ConnectionState {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	must(w.visit(w.config("", w.id), "CLIENT SETNAME old|CLIENT SETINFO LIB-NAME some-lib"))
	must(w.visit(w.config(nextName, two), "CLIENT SETNAME tester"))
	must(w.visit(w.config("", w.id, "other", gateway.DeclaresCA+"one", gateway.DeclaresCA+"two"), "CLIENT SETNAME declarer"))
	must(w.visit(w.config("", w.id, gateway.NoClient), "CLIENT SETNAME controller"))
	if _, err := w.visit(w.config(nextName, w.id), ""); err == nil {
		t.Fatal("a client that does not trust the next CA got in")
	}
	for name, want := range map[string]string{
		"old": "proven one, lib some-lib", "tester": "proven two", "declarer": "proven one declared one two", "": "failed two",
	} {
		var got string
		eventually(t, "what "+name+" has shown is "+want, func() bool {
			e, _ := w.evidence(name)
			got = describe(e)
			return got == want
		})
	}
	if e, ok := w.evidence("controller"); ok {
		t.Errorf("the controller is noted as a client: %+v", e)
	}
	// It is all there after a restart.
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w.run()
	if e, ok := w.evidence("tester"); !ok || describe(e) != "proven two" {
		t.Errorf("after a restart: %+v", e)
	}
}

func describe(e gateway.Evidence) string {
	var words []string
	add := func(what string, names ...string) {
		for _, n := range []string{"one", "two"} {
			for _, have := range names {
				if have == n {
					what += " " + n
				}
			}
		}
		if len(names) > 0 {
			words = append(words, what)
		}
	}
	add("proven", keys(e.Proven)...)
	add("declared", keys(e.Declared)...)
	add("failed", keys(e.Failed)...)
	text := strings.Join(words, " ")
	if e.Library != "" {
		text += ", lib " + e.Library
	}
	return text
}

func keys[V any](m map[string]V) (all []string) {
	for k := range m {
		all = append(all, k)
	}
	return all
}

// A resumed session shows nothing of trust: none is resumed from one chain on the other, nor after a change of CA.
func TestSessionsAreNotResumedAcrossChains(t *testing.T) {
	t.Parallel()
	w, two, snapshot := twoCAs(t)
	cache := tls.NewLRUClientSessionCache(8)
	visit := func(name string, id identity) bool {
		t.Helper()
		cfg := w.config(name, id)
		// One cache entry for all: as a client would that goes by the address.
		cfg.ClientSessionCache = oneSession{cache}
		s, err := w.visit(cfg, "")
		if err != nil {
			t.Fatal(err)
		}
		return s.DidResume
	}
	steps := []struct {
		what    string
		name    string
		id      identity
		resumes bool
	}{
		{"the first", "", w.id, false},
		{"the same again", "", w.id, true},
		{"the next chain", nextName, two, false},
		{"the next chain again", nextName, two, false},
	}
	for _, s := range steps {
		if got := visit(s.name, s.id); got != s.resumes {
			t.Errorf("%s: resumed %t", s.what, got)
		}
	}
	visit("", w.id)
	if !visit("", w.id) {
		t.Error("not resumed on the chain that all get")
	}
	w.id = two
	w.apply(snapshot(2))
	if visit("", two) {
		t.Error("a session of the CA before was resumed")
	}
}

// oneSession keeps one session, whatever the name.
type oneSession struct{ cache tls.ClientSessionCache }

func (o oneSession) Get(string) (*tls.ClientSessionState, bool) { return o.cache.Get("all") }
func (o oneSession) Put(_ string, s *tls.ClientSessionState)    { o.cache.Put("all", s) }

// Sampling shows the next chain to some, within its budget, and never again to who failed for it.
func TestSamplingIsBudgeted(t *testing.T) {
	t.Parallel()
	w, _, snapshot := twoCAs(t)
	s := snapshot(2)
	s.Sampling = &gateway.Sampling{Percent: 100, PerHour: 3}
	w.apply(s)
	if _, err := w.visit(w.config("", w.id), ""); err == nil {
		t.Error("a client that does not trust the next CA was not sampled")
	}
	eventually(t, "the failure is noted", func() bool {
		l, err := w.client.Ledger(context.Background())
		return err == nil && l.SamplesFailed == 1
	})
	for range 5 {
		if _, err := w.visit(w.config("", w.id), ""); err != nil {
			t.Errorf("it was sampled again: %v", err)
		}
	}
	l, err := w.client.Ledger(context.Background())
	if err != nil || l.Sampled != 1 || l.SamplesFailed != 1 {
		t.Errorf("%d sampled, %d failed, %v", l.Sampled, l.SamplesFailed, err)
	}
	for name, broken := range map[string]gateway.Sampling{"percent": {Percent: 0, PerHour: 1}, "per_hour": {Percent: 5}} {
		s.Sampling, s.Generation = &broken, 3
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v", broken, err)
		}
	}
}

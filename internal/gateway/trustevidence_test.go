package gateway_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/wire"
)

const nextName = "ca-next.sealane.invalid"

// twoChains returns a world whose main certificate is w.id, and a second certificate. Both are for the name that the second is served under.
func twoChains(t *testing.T) (w *world, next identity) {
	t.Helper()
	w = newWorld(t)
	w.id = newIdentity(t, w.addr, nextName)
	return w, newIdentity(t, w.addr, nextName)
}

// withNext is the snapshot with a second chain. The anchor "old" verifies the main one, "new" the second.
func (w *world) withNext(generation uint64, next identity) gateway.Snapshot {
	s := w.snapshot(generation)
	s.Anchors = []string{"old"}
	s.Next = &gateway.NextChain{Name: nextName, Certificate: next.chain, PrivateKey: next.key, Anchors: []string{"new"}}
	return s
}

// hello does a handshake and a round trip over it.
func (w *world) hello(cfg *tls.Config) (tls.ConnectionState, error) {
	w.t.Helper()
	raw, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(patience))
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = net.SplitHostPort(w.addr)
	}
	c := tls.Client(raw, cfg)
	if err := c.Handshake(); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := io.WriteString(c, "x\r\n"); err != nil {
		return tls.ConnectionState{}, err
	}
	_, err = io.ReadFull(c, make([]byte, 3))
	return c.ConnectionState(), err
}

// presented returns which of two certificates is served to a client that asks for a name.
func (w *world) presented(name string, ids ...identity) int {
	w.t.Helper()
	cfg := trusting(ids...)
	cfg.ServerName = name
	s, err := w.hello(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	for i, id := range ids {
		if s.PeerCertificates[0].Equal(id.cert) {
			return i
		}
	}
	return -1
}

func (w *world) ledger() ledger.Ledger {
	w.t.Helper()
	l, err := w.client.Ledger(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// eventually waits until what the ledger has of clients holds, and returns it.
func (w *world) eventually(what string, holds func(map[ledger.Identity]ledger.Client) bool) map[ledger.Identity]ledger.Client {
	w.t.Helper()
	var all map[ledger.Identity]ledger.Client
	defer func() {
		if w.t.Failed() {
			w.t.Logf("the ledger is %+v", all)
		}
	}()
	eventually(w.t, what, func() bool {
		all = make(map[ledger.Identity]ledger.Client)
		for _, c := range w.ledger().Clients {
			all[c.Identity] = c
		}
		return holds(all)
	})
	return all
}

var here = netip.MustParseAddr("127.0.0.1")

func TestNextNameGetsTheNextChain(t *testing.T) {
	t.Parallel()
	w, next := twoChains(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	s := w.snapshot(1)
	s.Anchors = []string{"old"}
	w.apply(s)
	if got := w.presented(nextName, w.id, next); got != 0 {
		t.Errorf("without a next chain certificate %d is presented", got)
	}
	w.apply(w.withNext(2, next))
	for name, want := range map[string]int{nextName: 1, "CA-Next.SeaLane.invalid": 1, "localhost": 0, "": 0} {
		if got := w.presented(name, w.id, next); got != want {
			t.Errorf("%q is presented certificate %d; want %d", name, got, want)
		}
	}
	w.apply(func() gateway.Snapshot { s.Generation = 3; return s }())
	if got := w.presented(nextName, w.id, next); got != 0 {
		t.Errorf("without a next chain any more certificate %d is presented", got)
	}
}

// A session is resumed under the chain that it began with and no other, and not after a change of anchors.
func TestSessionsStayWithTheirChain(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, protocols := range [][]string{nil, {wire.ALPNSealane}} {
			t.Run(fmt.Sprint(tls.VersionName(version), protocols), func(t *testing.T) {
				t.Parallel()
				w, next := twoChains(t)
				fakeEngine(t, w.engine, echo)
				w.run()
				w.apply(w.withNext(1, next))
				cache := tls.NewLRUClientSessionCache(8)
				resumed := func(name string, store oneSession) bool {
					t.Helper()
					cfg := trusting(w.id, next)
					cfg.MaxVersion, cfg.ServerName, cfg.NextProtos = version, name, protocols
					cfg.ClientSessionCache = store
					s, err := w.hello(cfg)
					if err != nil {
						t.Fatal(err)
					}
					return s.DidResume
				}
				// The cache has one slot for both names, so the client offers to one name the session of the other.
				slot := oneSession{cache}
				if resumed("localhost", slot) || !resumed("localhost", slot) {
					t.Fatal("the main chain's session is not resumed")
				}
				if resumed(nextName, slot) {
					t.Error("a session of the main chain was resumed under the next one")
				}
				if !resumed(nextName, slot) {
					t.Error("the next chain's session is not resumed")
				}
				if resumed("localhost", slot) {
					t.Error("a session of the next chain was resumed under the main one")
				}
				same := w.withNext(2, next)
				same.MaxClients = 77
				w.apply(same)
				if !resumed("localhost", slot) {
					t.Error("a session is not resumed after a change that is not about certificates")
				}
				for what, change := range map[string]func(*gateway.Snapshot){
					"the next CA is gone":   func(s *gateway.Snapshot) { s.Next = nil },
					"another CA verifies":   func(s *gateway.Snapshot) { s.Anchors = []string{"old", "new"} },
					"another CA is to come": func(s *gateway.Snapshot) { s.Next.Anchors = []string{"newest"} },
				} {
					resumed("localhost", slot)
					s := w.withNext(w.status().Generation+1, next)
					change(&s)
					w.apply(s)
					if resumed("localhost", slot) {
						t.Errorf("%s: a session from before was resumed", what)
					}
				}
			})
		}
	}
}

// oneSession is a session cache with one slot, whatever the name.
type oneSession struct{ tls.ClientSessionCache }

func (o oneSession) Get(string) (*tls.ClientSessionState, bool) { return o.ClientSessionCache.Get("x") }
func (o oneSession) Put(_ string, s *tls.ClientSessionState)    { o.ClientSessionCache.Put("x", s) }

// Each kind of handshake shows what it can of the client's trust, and nothing else.
func TestHandshakesTellOfTrust(t *testing.T) {
	t.Parallel()
	w, next := twoChains(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	w.apply(w.withNext(1, next))
	who := ledger.Identity{Address: here, User: "default"}
	nobody := ledger.Identity{Address: here}
	try := func(cfg *tls.Config, name string, protocols ...string) {
		cfg.ServerName, cfg.NextProtos = name, protocols
		_, _ = w.hello(cfg)
	}
	try(trusting(w.id), "localhost", wire.ALPNProbe)
	try(trusting(w.id), nextName, wire.ALPNProbe)
	try(trusting(w.id), "localhost")
	all := w.eventually("the old anchor is proven", func(all map[ledger.Identity]ledger.Client) bool {
		return !all[who].Anchors["old"].Proven.IsZero()
	})
	if len(all) != 1 || len(all[who].Anchors) != 1 {
		t.Errorf("a probe and a client are %v", all)
	}
	try(trusting(w.id), "localhost", "h2", "sealane-ca/new", "sealane-ca/unheard-of", "sealane-ca/old")
	all = w.eventually("the new anchor is declared", func(all map[ledger.Identity]ledger.Client) bool {
		return !all[who].Anchors["new"].Declared.IsZero()
	})
	if e := all[who].Anchors["new"]; len(all[who].Anchors) != 2 || !e.Proven.IsZero() || !e.Failed.IsZero() {
		t.Errorf("after a declaration: %v", all)
	}
	try(trusting(w.id), nextName) // Go says bad_certificate
	all = w.eventually("the new anchor is refused", func(all map[ledger.Identity]ledger.Client) bool {
		return !all[nobody].Anchors["new"].Failed.IsZero()
	})
	if e := all[nobody].Anchors["new"]; e.How != ledger.BadCertificate || len(all[nobody].Anchors) != 1 {
		t.Errorf("after a refusal: %v", all)
	}
	try(trusting(next), nextName)
	all = w.eventually("the new anchor is proven", func(all map[ledger.Identity]ledger.Client) bool {
		return !all[who].Anchors["new"].Proven.IsZero()
	})
	if e := all[who].Anchors["new"]; !e.Proven.After(all[nobody].Anchors["new"].Failed) {
		t.Errorf("the proof is not after the failure: %v", all)
	}
	// A client that closes the connection when it has seen the next certificate may have refused it. Elsewhere closing means nothing.
	s := w.withNext(2, next)
	s.Anchors = []string{"old", "new"}
	w.apply(s)
	for _, name := range []string{"localhost", nextName} {
		raw := dialTCP(t, w.addr)
		cfg := &tls.Config{ServerName: name, InsecureSkipVerify: true}
		cfg.VerifyConnection = func(tls.ConnectionState) error { raw.Close(); return io.EOF }
		_ = tls.Client(raw, cfg).Handshake()
	}
	all = w.eventually("the closed one is there", func(all map[ledger.Identity]ledger.Client) bool {
		return all[nobody].Anchors["new"].How == ledger.Closed
	})
	if _, ok := all[nobody].Anchors["old"]; ok {
		t.Errorf("closing under two anchors counted: %v", all)
	}
	// A chain that either of two anchors verifies proves neither of them.
	before := all[who].Anchors["old"].Proven
	try(trusting(w.id), "localhost")
	all = w.eventually("it is seen", func(now map[ledger.Identity]ledger.Client) bool { return now[who].Last.After(all[who].Last) })
	if !all[who].Anchors["old"].Proven.Equal(before) {
		t.Errorf("a handshake that two anchors verify proved one: %v", all)
	}
	if st := w.status().Ledger; st == nil || st.Clients != 2 || st.Evicted != 0 {
		t.Errorf("status: %+v", st)
	}
}

// A resumed session proves nothing, whatever it declares.
func TestResumedSessionsOnlyCountAsSeen(t *testing.T) {
	t.Parallel()
	w, next := twoChains(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	w.apply(w.withNext(1, next))
	who := ledger.Identity{Address: here, User: "default"}
	cfg := trusting(w.id)
	cfg.ClientSessionCache, cfg.ServerName = tls.NewLRUClientSessionCache(1), "localhost"
	if _, err := w.hello(cfg); err != nil {
		t.Fatal(err)
	}
	first := w.eventually("it is seen", func(all map[ledger.Identity]ledger.Client) bool { return len(all) == 1 })[who]
	cfg.NextProtos = []string{"sealane-ca/new"}
	if s, err := w.hello(cfg); err != nil || !s.DidResume {
		t.Fatalf("%v, resumed: %t", err, s.DidResume)
	}
	again := w.eventually("it is seen again", func(all map[ledger.Identity]ledger.Client) bool { return all[who].Last.After(first.Last) })[who]
	if len(again.Anchors) != 1 || !again.Anchors["old"].Proven.Equal(first.Anchors["old"].Proven) {
		t.Errorf("first %v, then %v", first, again)
	}
}

// A client is known by what it says of itself, while it is connected and afterwards, even if the engine does not know that much.
func TestClientsAreKnownByWhatTheySay(t *testing.T) {
	t.Parallel()
	w, next := twoChains(t)
	redis(t, w)
	w.run()
	w.apply(w.withNext(1, next))
	cfg := trusting(w.id)
	cfg.ServerName = "localhost"
	c := tls.Client(dialTCP(t, w.addr), cfg)
	send(t, c, "HELLO 3 SETNAME app\r\nCLIENT SETINFO LIB-NAME go-thing\r\n")
	want := ledger.Identity{Address: here, Name: "app", Library: "go-thing", User: "default"}
	known := func(all map[ledger.Identity]ledger.Client) bool {
		_, ok := all[want]
		return ok && len(all) == 1
	}
	w.eventually("it is known while it is connected", known)
	c.Close()
	w.eventually("it is known afterwards", known)
}

// Some clients are served the next chain without asking for it. One that has refused it never is again, even by a new process.
func TestSampling(t *testing.T) {
	t.Parallel()
	w, next := twoChains(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	sampling := func(generation uint64, perHour int) gateway.Snapshot {
		s := w.withNext(generation, next)
		s.Next.Sampling = &gateway.Sampling{Percent: 100, PerHour: perHour}
		return s
	}
	samples := func() string {
		s := w.status().Ledger.Samples
		return fmt.Sprint(s["accepted"], s["refused"], s["failed"])
	}
	w.apply(sampling(1, 2))
	// A client that resumes a session, is a probe or declares what it trusts is not sampled.
	for _, protocol := range []string{wire.ALPNProbe, "sealane-ca/old"} {
		cfg := trusting(w.id)
		cfg.NextProtos = []string{protocol}
		if _, err := w.hello(cfg); err != nil {
			t.Errorf("%s: %v", protocol, err)
		}
	}
	both := func() int { return w.presented("localhost", w.id, next) }
	if got := []int{both(), both(), both()}; fmt.Sprint(got) != "[1 1 0]" || samples() != "2 0 0" {
		t.Errorf("certificates %v, samples %s; want the next chain as often as the budget allows", got, samples())
	}
	if _, ok := w.eventually("it is seen", func(all map[ledger.Identity]ledger.Client) bool { return len(all) > 0 })[ledger.Identity{Address: here, User: "default"}].Anchors["new"]; !ok {
		t.Error("a sample that was accepted is no proof")
	}
	// Another generation has a budget of its own. A client that refuses is left alone from then on.
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.dir, "sampling.json")); err != nil {
		t.Fatal(err)
	}
	w.run()
	w.apply(sampling(2, 100))
	if _, err := w.hello(trusting(w.id)); err == nil {
		t.Error("who holds only the old anchor was not sampled")
	}
	eventually(t, "the refusal is counted", func() bool { return samples() == "0 1 0" })
	if _, err := w.hello(trusting(w.id)); err != nil {
		t.Errorf("sampled again: %v", err)
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w.run()
	w.eventuallyServes()
	if _, err := w.hello(trusting(w.id)); err != nil {
		t.Errorf("sampled again by a new process: %v", err)
	}
	// A source that has refused one certificate may be tested with another one.
	s := sampling(3, 100)
	s.Next.Anchors = []string{"newest"}
	w.apply(s)
	if got := both(); got != 1 {
		t.Errorf("certificate %d", got)
	}
}

func (w *world) eventuallyServes() {
	w.t.Helper()
	eventually(w.t, "it serves from disk", func() bool { return w.status().Digest != "" })
}

func TestAnchorsOfASnapshotAreChecked(t *testing.T) {
	t.Parallel()
	w, next := twoChains(t)
	for says, change := range map[string]func(*gateway.Snapshot){
		`anchors[1] "old"`:               func(s *gateway.Snapshot) { s.Anchors = []string{"old", "old"} },
		`anchors[0] ""`:                  func(s *gateway.Snapshot) { s.Anchors = []string{""} },
		"next: must be with anchors":     func(s *gateway.Snapshot) { s.Anchors = nil },
		"next.anchors: must not be":      func(s *gateway.Snapshot) { s.Next.Anchors = nil },
		`next.name ""`:                   func(s *gateway.Snapshot) { s.Next.Name = "" },
		"next.certificate":               func(s *gateway.Snapshot) { s.Next.Certificate = nil },
		"next.private_key (":             func(s *gateway.Snapshot) { s.Next.PrivateKey = w.id.key },
		"next.sampling.percent 101":      func(s *gateway.Snapshot) { s.Next.Sampling = &gateway.Sampling{Percent: 101, PerHour: 1} },
		"next.sampling.per_hour 0: must": func(s *gateway.Snapshot) { s.Next.Sampling = &gateway.Sampling{Percent: 1} },
	} {
		s := w.withNext(1, next)
		change(&s)
		if err := s.ValidateForTest(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want %q", err, says)
		}
	}
	s := w.withNext(1, next)
	if err := s.ValidateForTest(); err != nil || s.Older(gateway.Status{}).Digest() != w.snapshot(1).Digest() {
		t.Errorf("%v; for an older gateway it must be as if there were no anchors", err)
	}
	cross := w.withCross(1, next)
	if err := cross.ValidateForTest(); err != nil || cross.Older(gateway.Status{}).Digest() != w.snapshot(1).Digest() || cross.Older(gateway.Status{Ledger: &gateway.LedgerStatus{}}).Digest() != s.Digest() ||
		cross.Older(gateway.Status{Ledger: &gateway.LedgerStatus{NextCross: true}}).Digest() != cross.Digest() {
		t.Errorf("%v; for a gateway that knows no third chain it must be as if there were none", err)
	}
	for says, change := range map[string]func(*gateway.Snapshot){
		"next_cross: must be with next":         func(s *gateway.Snapshot) { s.Next = nil },
		"next_cross.name":                       func(s *gateway.Snapshot) { s.NextCross.Name = "CA-next.sealane.invalid" },
		"next_cross.anchors: must not be empty": func(s *gateway.Snapshot) { s.NextCross.Anchors = nil },
		"next_cross.sampling: must not be set":  func(s *gateway.Snapshot) { s.NextCross.Sampling = &gateway.Sampling{Percent: 1, PerHour: 1} },
		"next_cross.certificate":                func(s *gateway.Snapshot) { s.NextCross.Certificate = nil },
	} {
		s := w.withCross(1, next)
		change(&s)
		if err := s.ValidateForTest(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want %q", err, says)
		}
	}
}

const nextCrossName = "cross.ca-next.sealane.invalid"

// withCross is withNext with a third chain, whose label is "cross".
func (w *world) withCross(generation uint64, next identity) gateway.Snapshot {
	s := w.withNext(generation, next)
	s.NextCross = &gateway.NextChain{Name: nextCrossName, Certificate: slices.Concat(next.chain, w.id.chain), PrivateKey: next.key, Anchors: []string{"cross"}}
	return s
}

// Each of the two names that are for tests is served a chain of its own, and shows something of that chain's label only. A session of one is
// not resumed under the other.
func TestEachTestNameHasItsChain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.id = newIdentity(t, w.addr, nextName, nextCrossName)
	next := newIdentity(t, w.addr, nextName, nextCrossName)
	fakeEngine(t, w.engine, echo)
	w.run()
	w.apply(w.withCross(1, next))
	who, nobody := ledger.Identity{Address: here, User: "default"}, ledger.Identity{Address: here}
	slot := oneSession{tls.NewLRUClientSessionCache(8)}
	for _, c := range []struct {
		name, proves string
		length       int
	}{{"localhost", "old", 1}, {nextName, "new", 1}, {nextCrossName, "cross", 2}, {"Cross.CA-next.Sealane.invalid", "cross", 2}, {nextName, "new", 1}} {
		cfg := trusting(w.id, next)
		cfg.ServerName, cfg.ClientSessionCache = c.name, slot
		s, err := w.hello(cfg)
		if err != nil || s.DidResume != (c.name == "Cross.CA-next.Sealane.invalid") || len(s.PeerCertificates) != c.length {
			t.Fatalf("%s: %v, %d certificates, resumed: %t", c.name, err, len(s.PeerCertificates), s.DidResume)
		}
		w.eventually(c.name+" proves "+c.proves, func(all map[ledger.Identity]ledger.Client) bool { return !all[who].Anchors[c.proves].Proven.IsZero() })
	}
	// A client that cannot use the chain ends the handshake, with whatever alert it likes.
	for _, name := range []string{"localhost", nextCrossName} { // the main chain: an alert may have any reason
		cfg := &tls.Config{ServerName: name, InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}
		raw := dialTCP(t, w.addr)
		cfg.VerifyConnection = func(tls.ConnectionState) error {
			_, err := raw.Write([]byte{21, 3, 3, 0, 2, 2, 80}) // internal_error
			return errors.Join(err, raw.Close(), io.EOF)       // before crypto/tls sends one of its own
		}
		_ = tls.Client(raw, cfg).Handshake()
		eventually(t, "the handshake has ended", func() bool { return w.status().Connections == 0 })
	}
	all := w.eventually("the refusal is there", func(all map[ledger.Identity]ledger.Client) bool {
		return all[nobody].Anchors["cross"].How == ledger.ClientAlert
	})
	if len(all[nobody].Anchors) != 1 {
		t.Errorf("the same alert where nobody is tested counted: %v", all[nobody])
	}
}

// Both chains are sampled.
func TestSamplesAreOfBothChains(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.id = newIdentity(t, w.addr, nextName, nextCrossName)
	next := newIdentity(t, w.addr, nextName, nextCrossName)
	fakeEngine(t, w.engine, echo)
	w.run()
	s := w.withCross(1, next)
	s.Next.Sampling = &gateway.Sampling{Percent: 100, PerHour: gateway.MaxSamplesPerHour}
	w.apply(s)
	who := ledger.Identity{Address: here, User: "default"}
	w.eventually("both are proven", func(all map[ledger.Identity]ledger.Client) bool {
		if _, err := w.hello(trusting(w.id, next)); err != nil {
			t.Fatal(err)
		}
		return !all[who].Anchors["new"].Proven.IsZero() && !all[who].Anchors["cross"].Proven.IsZero()
	})
}

package pki_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

// world is one instance, its server and its clients.
type world struct {
	t   testing.TB
	key pki.MasterKey
	s   pki.State

	served  []*x509.Certificate  // what the server presents since the last tick
	bundles map[string]time.Time // what clients installed, and when the last of them did
	most    int                  // the most CAs that were ever published
	quick   bool                 // verifies for one name only
}

func newWorld(t testing.TB, s pki.State, now time.Time) *world {
	w := &world{t: t, key: masterKey(t), s: s, bundles: make(map[string]time.Time)}
	w.tick(now)
	return w
}

// tick is the server's: it carries the plan out and presents what there is then. A client installs the bundle.
func (w *world) tick(now time.Time) []pki.Action {
	w.t.Helper()
	w.restart()
	actions := pki.Plan(w.s, now)
	w.do(now, actions)
	w.install(now)
	return actions
}

// do is a part of a tick, with any actions.
func (w *world) do(now time.Time, actions []pki.Action) {
	w.t.Helper()
	before := w.s
	w.s = do(w.t, w.s, w.key, now, actions)
	if !slices.EqualFunc(before.At(now).Published(), w.s.At(now).Published(), func(a, b pki.CA) bool { return a.Generation == b.Generation }) {
		w.most = max(w.most, len(w.s.At(now).Published()))
	}
	if w.s.NoLeaf {
		return
	}
	chain, _, err := w.s.At(now).Chain(w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.served = certificates(w.t, chain)
}

// restart is what the store does to a State.
func (w *world) restart() {
	w.t.Helper()
	record, err := json.Marshal(w.s)
	if err != nil {
		w.t.Fatal(err)
	}
	w.s = pki.State{}
	if err := json.Unmarshal(record, &w.s); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) install(now time.Time) { w.bundles[string(w.s.At(now).Bundle())] = now }

// check verifies what is served as every client does that installed its bundle within the time given.
func (w *world) check(now time.Time, within time.Duration) {
	w.t.Helper()
	hosts := append(slices.Clone(w.s.Leaf.Names.DNS), "")
	for _, ip := range w.s.Leaf.Names.IPs {
		hosts = append(hosts, ip.String())
	}
	if w.quick {
		hosts = hosts[:1]
	}
	for bundle, installed := range w.bundles {
		if now.Sub(installed) > within {
			continue
		}
		for _, host := range hosts {
			if err := verify(w.t, []byte(bundle), w.served, host, now); err != nil {
				w.t.Fatalf("%s, day %.4f: a client with the bundle of day %.4f (%s) does not accept %s for %q: %v\n%s", now, days(now), days(installed),
					subjects(certificates(w.t, []byte(bundle))), subjects(w.served), host, err, w.history())
			}
		}
	}
	for _, c := range w.served {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			w.t.Fatalf("%s, day %.4f: what is served is valid from %s to %s", now, days(now), c.NotBefore, c.NotAfter)
		}
	}
}

func (w *world) history() string {
	var b strings.Builder
	for _, ca := range w.s.CAs {
		fmt.Fprintf(&b, "CA-%d: created %.4f, activated %.4f, retired %.4f, crossed by %d\n", ca.Generation, days(ca.Created), days(ca.Activated), days(ca.Retired), ca.CrossedBy)
	}
	return b.String()
}

// next is when the next thing happens.
func (w *world) next(now time.Time) time.Time {
	w.t.Helper()
	coming := w.s.At(now).Upcoming()
	if len(coming) == 0 || coming[0].Reason == "" {
		w.t.Fatalf("at %s nothing is to come, or for no reason: %v", now, coming)
	}
	return coming[0].Due
}

func days(t time.Time) float64 { return t.Sub(start).Hours() / 24 }

func subjects(certs []*x509.Certificate) string {
	var out []string
	for _, c := range certs {
		out = append(out, fmt.Sprintf("%.8s by %.8s until %.2f", fmt.Sprintf("%x", c.SubjectKeyId), fmt.Sprintf("%x", c.AuthorityKeyId), days(c.NotAfter)))
	}
	return strings.Join(out, ", ")
}

func certificates(t testing.TB, text []byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		out = append(out, parse(t, block.Bytes))
	}
	return out
}

// verify does what a client does that trusts bundle and is presented chain.
func verify(t testing.TB, bundle []byte, chain []*x509.Certificate, host string, now time.Time) error {
	t.Helper()
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, DNSName: host}
	opts.Roots.AppendCertsFromPEM(bundle)
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	return err
}

// For sixty years, whoever installed the bundle within the last 1,795 days connects: with every tick in time, and with
// ticks that are missed for up to four weeks.
func TestSixtyYears(t *testing.T) {
	t.Parallel()
	for i, kind := range kindsOfCAs {
		missed := time.Duration(i%2) * 28 * day
		t.Run(fmt.Sprintf("%s, missed=%s", kind.name, missed), func(t *testing.T) {
			t.Parallel()
			sixtyYears(t, missed, func(w *world, _ time.Time) []pki.Action {
				w.s = w.s.WithNameConstraints(kind.constrained(len(w.s.CAs) + 1))
				return nil
			}, rand.New(rand.NewPCG(1, 1)))
		})
	}
	// The same when clients are ready, or not any more, at any time.
	t.Run("ready", func(t *testing.T) {
		t.Parallel()
		random := rand.New(rand.NewPCG(2, 1))
		early := 0
		sixtyYears(t, 0, func(w *world, now time.Time) (actions []pki.Action) {
			if ca, ok := w.s.At(now).NextSigner(); ok {
				since := now.Add(-time.Duration(random.IntN(100)) * day)
				if random.IntN(3) == 0 {
					since = time.Time{}
				}
				w.s = w.s.WithReady(ca.Generation, since)
				for _, a := range slices.Concat(pki.Plan(w.s, now), w.s.At(now).Upcoming()) {
					if a.Kind == pki.ActivateCA && strings.Contains(a.Reason, "as they have shown") {
						early++
					}
				}
				if len(pki.Plan(w.s, now)) > 0 {
					actions = w.tick(now)
				}
			}
			return actions
		}, random)
		if early < 5 {
			t.Errorf("CAs were activated early %d times", early)
		}
	})
}

func sixtyYears(t *testing.T, missed time.Duration, before func(*world, time.Time) []pki.Action, random *rand.Rand) {
	now, end := start, start.AddDate(60, 0, 0)
	w := &world{t: t, key: masterKey(t), s: pki.State{Names: loopback}, bundles: make(map[string]time.Time)}
	if before != nil {
		before(w, now)
	}
	w.tick(now)
	grace := w.s.Lifetimes.Grace()
	if grace != 1795*day {
		t.Fatalf("a bundle is good for %s", grace)
	}
	done := make(map[pki.Kind]int)
	for now.Before(end) {
		if before != nil {
			for _, a := range before(w, now) {
				done[a.Kind]++
			}
		}
		due := w.next(now)
		for between := now.Add(time.Duration(random.Int64N(int64(due.Sub(now))))); between.Before(due.Add(-time.Second)); between = between.Add(23 * day) {
			if missed == 0 && len(w.tick(between)) > 0 {
				t.Fatalf("something was done on %s, before %s", between, due)
			}
			w.quick = true
			w.check(between, grace)
			w.quick = false
		}
		w.check(due.Add(-time.Second), grace)
		if now = due; missed > 0 && random.IntN(2) == 0 {
			now = due.Add(time.Duration(random.Int64N(int64(missed))))
			w.check(now, grace)
		}
		actions := w.tick(now)
		if len(actions) == 0 {
			t.Fatalf("nothing was done on %s, when something was due", now)
		}
		for _, a := range actions {
			done[a.Kind]++
		}
		w.check(now, grace)
		w.check(now.Add(time.Second-1), grace)
		w.checkNext(now)
	}
	if w.most != 2 {
		t.Errorf("up to %d CAs were published; want 2", w.most)
	}
	if done[pki.CreateCA] < 11 || done[pki.ActivateCA] < 11 || done[pki.EndCross] < 10 || done[pki.RetireCA] < 10 || done[pki.IssueLeaf] < 115 {
		t.Errorf("in sixty years %v was done", done)
	}
	t.Logf("in sixty years: %v", done)
}

// checkNext checks that NextChain is the newest CA's alone.
func (w *world) checkNext(now time.Time) {
	w.t.Helper()
	text, _, err := w.s.At(now).NextChain(w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	published := w.s.At(now).Published()
	chain := certificates(w.t, text)
	if o, err := w.s.At(now).Overview(); err != nil || (o.Next != nil) != (len(chain) > 0) || len(published) == 1 && o.Next != nil {
		w.t.Fatalf("%s: of %d CAs a second leaf is served: %v, %v", now, len(published), len(chain) > 0, err)
	}
	w.checkNextCross(now, chain)
	if len(chain) == 0 {
		return
	}
	if len(chain) != 1 {
		w.t.Fatalf("%s: the second leaf is %s", now, subjects(chain))
	}
	for _, ca := range published {
		for _, host := range append(slices.Clone(w.s.Next.Names.DNS), pki.NextName, "") {
			if err := verify(w.t, pki.EncodePEM(ca.Certificate), chain, host, now); (err == nil) != (ca.Generation == w.s.Next.Issuer) {
				w.t.Fatalf("%s: who holds only CA-%d gets %v for %q from the second leaf, of CA-%d", now, ca.Generation, err, host, w.s.Next.Issuer)
			}
		}
	}
}

// checkNextCross checks that NextCrossChain is what is served once the newest CA is activated, until then.
func (w *world) checkNextCross(now time.Time, next []*x509.Certificate) {
	w.t.Helper()
	text, _, err := w.s.At(now).NextCrossChain(w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	published := w.s.At(now).Published()
	newest := published[len(published)-1]
	if w.s.Next != nil { // a later one may be passed over
		for _, ca := range published {
			if ca.Generation == w.s.Next.Issuer {
				newest = ca
			}
		}
	}
	chain, proofs := certificates(w.t, text), w.s.At(now).Proofs(newest.Generation)
	if (len(chain) > 0) != (w.s.At(now).NextCrossLabel() != "") || len(chain) > 0 && len(proofs) != 2 {
		w.t.Fatalf("%s: presented with the cross-certificate: %s; label %q, proofs of CA-%d %q", now, subjects(chain), w.s.At(now).NextCrossLabel(), newest.Generation, proofs)
	}
	if len(chain) == 0 {
		return
	}
	if len(chain) != 2 || !chain[0].Equal(next[0]) || !bytes.Equal(chain[1].Raw, newest.Cross) || proofs[0] != w.s.At(now).NextAnchor() || proofs[1] != w.s.At(now).NextCrossLabel() {
		w.t.Fatalf("%s: presented with the cross-certificate: %s; proofs %q", now, subjects(chain), proofs)
	}
	for _, ca := range published {
		if ca.Generation != newest.Generation && (ca.Generation != newest.CrossedBy || !w.s.Next.Names.Equal(w.s.Leaf.Names)) {
			continue // a name that the CA before does not permit is in the second leaf
		}
		for _, host := range append(slices.Clone(w.s.Next.Names.DNS), pki.NextCrossName, "") {
			if err := verify(w.t, pki.EncodePEM(ca.Certificate), chain, host, now); err != nil {
				w.t.Fatalf("%s: who holds only CA-%d: %s: %v", now, ca.Generation, host, err)
			}
		}
	}
}

// The chain that clients are tested with is the one that is served from the activation on.
func TestTestedChainIsTheOneThatIsServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pki.State{Names: loopback}, start)
	at := func(days int) time.Time { return start.Truncate(time.Second).Add(time.Duration(days) * day) }
	w.tick(at(1825))
	tested, _, err := w.s.At(at(1825)).NextCrossChain(w.key)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.s.At(at(1825)).Proofs(1); len(got) != 1 || got[0] != w.s.CAs[0].Fingerprint() {
		t.Errorf("proofs of CA-1: %q", got)
	}
	w.tick(at(2737))
	if len(w.served) != 2 || !w.served[1].Equal(certificates(t, tested)[1]) || w.served[0].CheckSignatureFrom(w.served[1]) != nil {
		t.Errorf("tested %s, served %s", subjects(certificates(t, tested)), subjects(w.served))
	}
	if got := w.s.At(at(2737)).Proofs(2); len(got) != 1 || got[0] != w.s.CAs[1].Fingerprint() || w.s.At(at(2737)).NextCrossLabel() != "" {
		t.Errorf("once CA-2 signs, its proofs are %q, and what is served is tested as %q", got, w.s.At(at(2737)).NextCrossLabel())
	}
}

// A second certificate of before there was a test with the cross-certificate is replaced, and not presented under a name that
// it doesn't have.
func TestSecondCertificateOfBeforeIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pki.State{Names: loopback}, start)
	now := start.Add(1900 * day)
	w.tick(now)
	old := *w.s.Next
	old.CrossTest = false
	w.s.Next = &old
	if label := w.s.At(now).NextCrossLabel(); label != "" {
		t.Errorf("it is presented as %s", label)
	}
	if plan := w.tick(now); fmt.Sprint(kinds(plan)) != "[issue-next-leaf]" || w.s.At(now).NextCrossLabel() == "" {
		t.Errorf("done: %v", plan)
	}
}

// The default life, step by step.
func TestCalendar(t *testing.T) {
	t.Parallel()
	now := start.Truncate(time.Second)
	w := newWorld(t, pki.State{Names: loopback}, now)
	var got []string
	for now.Before(start.Add(7500 * day)) {
		now = w.next(now)
		for _, a := range w.tick(now) {
			if a.Kind != pki.IssueLeaf && a.Kind != pki.IssueNextLeaf {
				got = append(got, fmt.Sprintf("%s %d %s", a.Kind, a.Generation, now.Sub(start.Truncate(time.Second))/day*day))
			}
		}
	}
	want := []string{
		"create-ca 2 43800h0m0s", "sign-cross 2 43800h0m0s", "activate-ca 2 65688h0m0s", "end-cross 2 86880h0m0s",
		"retire-ca 1 87600h0m0s", "create-ca 3 87600h0m0s", "sign-cross 3 87600h0m0s", "activate-ca 3 109488h0m0s", "end-cross 3 130680h0m0s",
		"retire-ca 2 131400h0m0s", "create-ca 4 131400h0m0s", "sign-cross 4 131400h0m0s", "activate-ca 4 153288h0m0s", "end-cross 4 174480h0m0s",
		"retire-ca 3 175200h0m0s", "create-ca 5 175200h0m0s", "sign-cross 5 175200h0m0s",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A server that was down for nearly all of CA-1's life: CA-1 signs to its end, because CA-2 would have no cross-certificate.
func TestPublicationMissedUntilTheLastDays(t *testing.T) {
	t.Parallel()
	at := func(days int) time.Time { return start.Truncate(time.Second).Add(time.Duration(days) * day) }
	w := newWorld(t, pki.State{Names: loopback}, start)
	if got := fmt.Sprint(kinds(w.tick(at(3640)))); got != "[create-ca issue-leaf issue-next-leaf]" {
		t.Errorf("done: %s", got)
	}
	for now := at(3640); now.Before(at(3650)); now = now.Add(day) {
		w.tick(now)
		w.check(now, 3700*day)
	}
	if leaf, ca := w.served[0], parse(t, w.s.CAs[0].Certificate); leaf.NotAfter.After(ca.NotAfter) {
		t.Errorf("the leaf is valid until %s and outlives CA-1, %s", leaf.NotAfter, ca.NotAfter)
	}
	w.tick(at(3650))
	w.check(at(3650), 5*day)
	o, err := w.s.At(at(3650)).Overview()
	if err != nil || !o.CAs[1].Signs || !o.CAs[1].Activated.Equal(at(3650)) || o.CAs[0].State != pki.Retired || !o.CAs[0].Retired.Equal(at(3650)) {
		t.Errorf("CA-2 does not sign, or is not said to since CA-1 was retired: %+v, %v", o.CAs, err)
	}
	// The same when only the activation was missed.
	w = newWorld(t, pki.State{Names: loopback}, start)
	first := w.s.At(start).Bundle()
	w.tick(at(1825))
	if got := fmt.Sprint(kinds(w.tick(at(3640)))); got != "[end-cross issue-leaf issue-next-leaf]" || verify(t, first, w.served, "localhost", at(3649)) != nil {
		t.Errorf("done: %s; and who holds only CA-1 is cut off", got)
	}
	// With a few days more there is time for the cross-certificate.
	w = newWorld(t, pki.State{Names: loopback}, start)
	if got := fmt.Sprint(kinds(w.tick(at(3600)))); got != "[create-ca sign-cross activate-ca issue-leaf issue-next-leaf]" {
		t.Errorf("done: %s", got)
	}
	w.check(at(3600), 3700*day)
}

// An action that something else has overtaken is refused.
func TestStaleActionsAreRefused(t *testing.T) {
	t.Parallel()
	key := masterKey(t)
	now := start.Add(1825 * day)
	s := settle(t, settle(t, pki.State{Names: loopback}, key, start), key, now)
	for _, a := range []pki.Action{
		{Kind: pki.CreateCA, Generation: 2}, {Kind: pki.CreateCA, Generation: 4}, {Kind: pki.SignCross, Generation: 1}, {Kind: pki.ActivateCA, Generation: 1},
		{Kind: pki.ActivateCA, Generation: 3}, {Kind: pki.IssueLeaf, Generation: 2}, {Kind: pki.IssueNextLeaf, Generation: 1}, {Kind: pki.EndCross, Generation: 3},
		{Kind: pki.RetireCA, Generation: 0}, {Kind: pki.CompromiseCA, Generation: 9}, {Kind: "other", Generation: 1},
	} {
		if after, signed, err := s.Do(a, key, now); err == nil || len(signed) != 0 || shape(t, after) != shape(t, s) {
			t.Errorf("%s of CA-%d was done (%v)", a.Kind, a.Generation, err)
		}
	}
}

// shape is a State without what chance made.
func shape(t testing.TB, s pki.State) string {
	t.Helper()
	s.CAs = slices.Clone(s.CAs)
	for i := range s.CAs {
		s.CAs[i].Certificate, s.CAs[i].SealedKey, s.CAs[i].Cross = nil, nil, nil
	}
	for _, l := range []**pki.Leaf{&s.Leaf, &s.Next} {
		if *l != nil {
			c := **l
			c.Certificate, c.SealedKey = nil, nil
			*l = &c
		}
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A plan done in one go, and one done step by step with a restart and a new plan after each, end the same.
func TestPlanIsIdempotent(t *testing.T) {
	t.Parallel()
	key := masterKey(t)
	random := rand.New(rand.NewPCG(2, 2))
	var whole, stepwise pki.State
	whole.Names, stepwise.Names = loopback, loopback
	for now := start; now.Before(start.AddDate(40, 0, 0)); now = now.Add(time.Duration(random.Int64N(int64(400 * day)))) {
		switch random.IntN(20) {
		case 0:
			name := fmt.Sprintf("n%d.example", random.IntN(1000))
			whole.Names.DNS, stepwise.Names.DNS = []string{name}, []string{name}
		case 1:
			now = now.Add(-2000 * day)
		case 2, 3, 4:
			whole.NameConstraints = !whole.NameConstraints
			stepwise.NameConstraints = whole.NameConstraints
		}
		whole = settle(t, whole, key, now)
		for range 30 {
			plan := pki.Plan(stepwise, now)
			if len(plan) == 0 {
				break
			}
			w := world{t: t, s: stepwise}
			w.restart()
			var err error
			if stepwise, _, err = w.s.Do(plan[0], key, now); err != nil {
				t.Fatal(err)
			}
		}
		if a, b := shape(t, whole), shape(t, stepwise); a != b {
			t.Fatalf("%s:\nat once     %s\nstep by step %s", now, a, b)
		}
	}
}

// Lifetimes in minutes obey the same laws, on a clock that ticks once a second.
func TestScaledLifetimes(t *testing.T) {
	t.Parallel()
	for _, ca := range []time.Duration{pki.MinScaledCA, time.Minute, 100 * time.Second, 3650 * day} {
		l := pki.ScaledLifetimes(ca)
		if err := l.Check(); err != nil {
			t.Errorf("%s: %v", ca, err)
		}
		if ca > time.Hour {
			if l.ReadyFor = pki.DefaultLifetimes().ReadyFor; l != pki.DefaultLifetimes() {
				t.Errorf("scaled to their own length, the defaults become %+v", l)
			}
			continue
		}
		now := start
		w := newWorld(t, pki.State{Names: loopback, Lifetimes: l}, now)
		w.quick = true
		for range int(3 * ca / time.Second) {
			w.check(now.Add(999*time.Millisecond), l.Grace())
			now = now.Add(time.Second)
			w.tick(now)
			w.check(now, l.Grace())
			w.checkNext(now)
		}
		if n := len(w.s.CAs); n < 6 || w.most != 2 {
			t.Errorf("%s: %d generations in three lives, up to %d published", ca, n, w.most)
		}
	}
	if err := (pki.Lifetimes{CA: time.Minute, Leaf: time.Hour}).Check(); err == nil || !strings.Contains(err.Error(), "leaf 1h0m0s: want no more than a CA's 1m0s") {
		t.Errorf("a leaf that outlives its CA: %v", err)
	}
}

// Many instances that were created in the same second don't renew in the same minute.
func TestRenewalsAreSpread(t *testing.T) {
	t.Parallel()
	key := masterKey(t)
	minutes := make(map[time.Time]int)
	for i := range 200 {
		names := loopback
		names.URI = fmt.Sprintf("spiffe://sealane/p/l/i%d", i)
		s := settle(t, pki.State{Names: names}, key, start)
		due := s.At(start).Upcoming()[0].Due
		if again := s.At(start.Add(time.Hour)).Upcoming()[0].Due; !again.Equal(due) {
			t.Errorf("renewal moved from %s to %s", due, again)
		}
		minutes[due.Truncate(time.Minute)]++
	}
	for m, n := range minutes {
		if n > 6 {
			t.Errorf("%d of 200 instances renew in the minute %s", n, m)
		}
	}
}

// A record of a time when there was one CA only loads and lives on.
func TestOldRecordLoads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pki.State{Names: loopback}, start)
	ca, err1 := json.Marshal(w.s.CAs[0].Certificate)
	caKey, err2 := json.Marshal(w.s.CAs[0].SealedKey)
	leaf, err3 := json.Marshal(w.s.Leaf)
	names, err4 := json.Marshal(w.s.Names)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
		t.Fatal(err1, err2, err3, err4)
	}
	old := fmt.Sprintf(`{"Names":%s,"CAs":[{"Generation":1,"Created":"2026-03-01T12:00:00Z","Certificate":%s,"SealedKey":%s}],"Leaf":%s}`, names, ca, caKey, leaf)
	w.s = pki.State{}
	if err := json.Unmarshal([]byte(old), &w.s); err != nil {
		t.Fatal(err)
	}
	if plan := pki.Plan(w.s, start.Add(time.Hour)); len(plan) != 0 {
		t.Errorf("an old record wants %v", plan)
	}
	for now := start; now.Before(start.AddDate(12, 0, 0)); now = w.next(now) {
		w.tick(now)
		w.check(now, w.s.Lifetimes.Grace())
	}
	fresh, err := json.Marshal(pki.State{Names: loopback, CAs: []pki.CA{{}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"Lifetimes", "Next", "Retired", "Compromised", "Cross"} {
		if strings.Contains(string(fresh), field) {
			t.Errorf("%s is in a record that doesn't need it", field)
		}
	}
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

package pki_test

import (
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

// orders are what an operator may do that costs no client anything, and Retire.
func orders(s pki.State, now time.Time) map[string]func() ([]pki.Action, error) {
	return map[string]func() ([]pki.Action, error){
		"rotate":   func() ([]pki.Action, error) { return s.Rotate(now) },
		"activate": func() ([]pki.Action, error) { return s.Activate(now) },
		"retire":   func() ([]pki.Action, error) { return s.Retire(now) },
		"renew":    func() ([]pki.Action, error) { return s.Renew(now) },
	}
}

// An operator who rotates, activates and renews at any moment breaks no promise; who retires too breaks none to those
// with the current bundle.
func TestOperatorAtRandomMoments(t *testing.T) {
	t.Parallel()
	for _, verbs := range [][]string{{"rotate", "activate", "renew"}, {"rotate", "activate", "renew", "retire"}} {
		t.Run(strings.Join(verbs, "+"), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(3, 3))
			now := start
			w := newWorld(t, pki.State{Names: addressOnly}, now)
			grace := w.s.Lifetimes.Grace()
			done := make(map[string]int)
			for now.Before(start.AddDate(40, 0, 0)) {
				act := now.Add(time.Duration(random.Int64N(int64(200 * day))))
				for due := w.next(now); due.Before(act); due = w.next(now) {
					now = due
					w.check(now, grace)
					w.tick(now)
					w.check(now, grace)
				}
				now = act
				w.tick(now)
				verb := verbs[random.IntN(len(verbs))]
				if actions, err := orders(w.s, now)[verb](); err == nil {
					done[verb]++
					w.do(now, actions)
					if verb == "retire" {
						w.check(now, 0)
						w.bundles = map[string]time.Time{}
					}
				}
				w.check(now, grace)
				w.install(now)
			}
			if w.most != 2 {
				t.Errorf("up to %d CAs were published; want 2", w.most)
			}
			for _, verb := range verbs {
				if done[verb] == 0 {
					t.Errorf("%s worked %d times; want some", verb, done[verb])
				}
			}
		})
	}
}

// What makes no sense is refused in words that say what to do instead; what makes sense says when it would have come.
func TestOperatorIsToldWhenItMakesNoSense(t *testing.T) {
	t.Parallel()
	key := masterKey(t)
	now := start.Truncate(time.Second)
	at := func(days int) time.Time { return now.Add(time.Duration(days) * day) }
	one := settle(t, pki.State{Names: loopback}, key, now)
	two := settle(t, one, key, at(1825))
	active := settle(t, two, key, at(2737))
	uncrossed := two
	uncrossed.CAs = slices.Clone(two.CAs)
	uncrossed.CAs[1].Cross, uncrossed.CAs[1].CrossedBy = nil, 0
	early, err := one.Rotate(at(100))
	if err != nil {
		t.Fatal(err)
	}
	rotated := do(t, one, key, at(100), early)
	for _, tt := range []struct {
		name  string
		state pki.State
		verb  string
		day   int
		want  string // of the error, or else:
		due   int    // the day on which it would have come
	}{
		{"activate with one", one, "activate", 10, "start the next generation first", 0},
		{"retire the only one", one, "retire", 10, "CA-1 is the only certificate authority: start the next generation first", 0},
		{"retire who signs", two, "retire", 2000, "CA-1 still signs: activate CA-2 first", 0},
		{"rotate with two", two, "rotate", 2000, "CA-1 is still in the bundle beside CA-2: retire CA-1 first, or wait until 2036-02-27", 0},
		{"activate twice", active, "activate", 2800, "start the next generation first", 0},
		{"activate at the very end", two, "activate", 3640, "CA-1 expires on 2036-02-27, too soon", 0},
		{"activate without a cross-certificate", uncrossed, "activate", 2000, "CA-2 has no cross-certificate yet", 0},
		{"clock before everything", one, "activate", -10, "the clock is before 2026-03-01T11:59:00Z", 0},
		{"clock before everything", one, "retire", -10, "set the clock right", 0},
		{"clock before everything", one, "renew", -10, "set the clock right", 0},
		{"rotate early", one, "rotate", 10, "", 1825},
		{"activate early", two, "activate", 2000, "", 2737},
		{"activate an early one", rotated, "activate", 200, "", 100 + 912},
		{"retire early", active, "retire", 2800, "", 3650},
		{"retire at the very end", two, "retire", 3640, "", 3650},
	} {
		actions, err := orders(tt.state, at(tt.day))[tt.verb]()
		switch {
		case tt.want != "":
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, %v; want %q", tt.name, actions, err, tt.want)
			}
		case err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case !actions[0].Due.Equal(at(tt.due)):
			t.Errorf("%s: due on day %.2f; want %d", tt.name, days(actions[0].Due), tt.due)
		default:
			do(t, tt.state, key, at(tt.day), actions)
		}
	}
}

// A clock that was years ahead when the instance was made: the operator says that it is right now.
func TestRotateIsTheWayOutOfAFalseBeginning(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pki.State{Names: loopback}, start.Add(4000*day))
	if plan := pki.Plan(w.s, start); len(plan) != 0 || len(w.s.At(start).Bundle()) == 0 {
		t.Errorf("before everything: plan %v, bundle %q; want none, and the one there was", plan, w.s.At(start).Bundle())
	}
	if o, err := w.s.At(start).Overview(); err != nil || len(o.Warnings) != 1 || !strings.Contains(o.Warnings[0], "start the next generation") {
		t.Errorf("warnings %v, %v", o.Warnings, err)
	}
	actions, err := w.s.Rotate(start)
	if err != nil {
		t.Fatal(err)
	}
	w.do(start, actions)
	w.bundles = map[string]time.Time{}
	w.install(start)
	for now := start; now.Before(start.AddDate(20, 0, 0)); now = w.next(now) {
		w.tick(now)
		w.check(now, w.s.Lifetimes.Grace())
	}
}

func TestCompromiseCutsTheOldChainOff(t *testing.T) {
	t.Parallel()
	key := masterKey(t)
	at := func(days int) time.Time { return start.Add(time.Duration(days) * day) }
	one := settle(t, pki.State{Names: loopback}, key, start)
	two := settle(t, settle(t, one, key, at(1825)), key, at(2000))
	active := settle(t, settle(t, two, key, at(2737)), key, at(2800))
	for _, tt := range []struct {
		name       string
		state      pki.State
		day        int
		generation int
		want       string // generations published then
		survives   string // of those that clients held before
	}{
		{"the only one", one, 100, 0, "[2]", "[]"},
		{"all of two", two, 2000, 0, "[3]", "[]"},
		{"all of two, the second signing", active, 2800, 0, "[3]", "[]"},
		{"the one that signs", two, 2000, 1, "[2]", "[2]"},
		{"the one published", two, 2000, 2, "[1 3]", "[1]"},
		{"the old one", active, 2800, 1, "[2]", "[2]"},
		{"the new one that signs", active, 2800, 2, "[1 3]", "[1]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			now := at(tt.day)
			actions, err := tt.state.Compromise(now, tt.generation)
			if err != nil {
				t.Fatal(err)
			}
			s := do(t, tt.state, key, now, actions)
			chain, _, err := s.At(now).Chain(key)
			if err != nil {
				t.Fatal(err)
			}
			if slices.Equal(s.Leaf.Certificate, tt.state.Leaf.Certificate) {
				t.Error("the leaf is the old one")
			}
			if got := fmt.Sprint(generations(s, now)); got != tt.want {
				t.Errorf("published: %s; want %s", got, tt.want)
			}
			if got := survivors(t, tt.state, certificates(t, chain), now); got != tt.survives {
				t.Errorf("clients with one of %s go on; want %s", got, tt.survives)
			}
			if err := verify(t, s.At(now).Bundle(), certificates(t, chain), "localhost", now); err != nil {
				t.Errorf("with the new bundle: %v", err)
			}
			checkGivenUp(t, s, key, now)
		})
	}
	if _, err := one.Compromise(start, 7); err == nil || !strings.Contains(err.Error(), "generation 7: want one of those not given up yet: CA-1") {
		t.Errorf("an unknown generation: %v", err)
	}
	if _, err := (pki.State{}).Compromise(start, 0); err == nil {
		t.Error("nothing was given up without an error")
	}
}

// survivors are the CAs published before with which alone a client accepts the chain.
func survivors(t *testing.T, before pki.State, chain []*x509.Certificate, now time.Time) string {
	t.Helper()
	var survive []int
	for _, ca := range before.At(now).Published() {
		if verify(t, pki.EncodePEM(ca.Certificate), chain, "localhost", now) == nil {
			survive = append(survive, ca.Generation)
		}
	}
	return fmt.Sprint(survive)
}

// checkGivenUp checks that no cross-certificate of a compromised CA is left, and that no clock brings it back.
func checkGivenUp(t *testing.T, s pki.State, key pki.MasterKey, now time.Time) {
	t.Helper()
	o, err := s.At(now).Overview()
	for _, ca := range o.CAs {
		if err != nil || ca.CrossSignedBy != 0 && ca.CrossSignedBy != generations(s, now)[0] {
			t.Errorf("CA-%d is cross-signed by CA-%d (%v)", ca.Generation, ca.CrossSignedBy, err)
		}
	}
	for _, d := range []time.Duration{-4000 * day, -1000 * day, -day, 0, 500 * day, 9000 * day} {
		later := settle(t, s, key, now.Add(d))
		for _, ca := range later.CAs {
			published := slices.Contains(generations(later, now.Add(d)), ca.Generation)
			if !ca.Compromised.IsZero() && (ca.SealedKey != nil || published || later.Leaf.Issuer == ca.Generation) {
				t.Errorf("CA-%d came back %s later", ca.Generation, d)
			}
		}
	}
}

func generations(s pki.State, now time.Time) []int {
	var out []int
	for _, ca := range s.At(now).Published() {
		out = append(out, ca.Generation)
	}
	return out
}

// The next generation signs before its day once all clients have been known for thirty days to trust it, without a break
// and since it was published; a note from a clock that was ahead doesn't count.
func TestReadyClientsHastenActivation(t *testing.T) {
	t.Parallel()
	at := func(days int) time.Time { return start.Add(time.Duration(days) * day) }
	for name, c := range map[string]struct {
		ready time.Time
		want  time.Time
	}{
		"not known":              {time.Time{}, at(2737)},
		"since it was published": {at(1825), at(1855)},
		"since later":            {at(2000), at(2030)},
		"since before":           {at(1000), at(1855)},
		"since almost its day":   {at(2720), at(2737)},
		"by a clock ahead":       {at(5000), at(2737)},
	} {
		w := newWorld(t, pki.State{Names: loopback}, start)
		w.tick(at(1825))
		if ca, ok := w.s.At(at(1825)).NextSigner(); !ok || ca.Generation != 2 {
			t.Fatalf("awaited: %d, %t", ca.Generation, ok)
		}
		now := later(at(2030-30), c.ready)
		if c.ready.After(at(2737)) || c.ready.IsZero() {
			now = at(2000)
		}
		if c.ready.Equal(at(1825)) || c.ready.Equal(at(1000)) {
			now = at(1830)
		}
		w.s = w.s.WithReady(2, c.ready)
		var due time.Time
		for _, a := range w.s.At(now).Upcoming() {
			if a.Kind == pki.ActivateCA {
				due = a.Due
			}
		}
		if due.Sub(c.want).Abs() > time.Second {
			t.Errorf("%s: CA-2 signs on day %.1f; want %.1f", name, days(due), days(c.want))
		}
		broken := w.s.WithReady(2, time.Time{})
		if plan := pki.Plan(broken, at(2736)); slices.ContainsFunc(plan, func(a pki.Action) bool { return a.Kind == pki.ActivateCA }) {
			t.Errorf("%s: activated although clients are in doubt again", name)
		}
		actions := w.tick(c.want)
		i := slices.IndexFunc(actions, func(a pki.Action) bool { return a.Kind == pki.ActivateCA })
		if i < 0 || strings.Contains(actions[i].Reason, "as they have shown") != c.want.Before(at(2737)) {
			t.Errorf("%s: %v", name, actions)
		}
		if _, ok := w.s.At(c.want).NextSigner(); ok {
			t.Errorf("%s: it is still awaited", name)
		}
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// The anchors are those that verify what is presented, each by itself and no other.
func TestAnchorsVerifyTheChain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pki.State{Names: loopback}, start)
	for _, age := range []int{0, 1825, 2000, 2737, 3000, 3619, 3620, 3649, 3650, 4000} {
		now := start.Add(time.Duration(age) * day)
		w.tick(now)
		next, _, err := w.s.At(now).NextChain(w.key)
		if err != nil || (len(next) > 0) != (w.s.At(now).NextAnchor() != "") {
			t.Errorf("on day %d there is a next chain: %t, with the anchor %q, %v", age, len(next) > 0, w.s.At(now).NextAnchor(), err)
		}
		for _, ca := range w.s.At(now).Published() {
			pem := pki.EncodePEM(ca.Certificate)
			if got, want := slices.Contains(w.s.At(now).Anchors(), ca.Fingerprint()), verify(t, pem, w.served, "", now) == nil; got != want {
				t.Errorf("on day %d CA-%d is an anchor: %t, verifies: %t", age, ca.Generation, got, want)
			}
			if len(next) == 0 {
				continue
			}
			if got, want := w.s.At(now).NextAnchor() == ca.Fingerprint(), verify(t, pem, certificates(t, next), "", now) == nil; got != want {
				t.Errorf("on day %d CA-%d is the next chain's anchor: %t, verifies: %t", age, ca.Generation, got, want)
			}
		}
	}
}

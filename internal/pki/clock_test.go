package pki_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

// A clock that jumps by years, both ways, at any moment, for one tick or many: when it is right again, the promise to those
// who installed their bundle while it was right holds as if nothing had been.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(4, seed))
			now := start
			w := newWorld(t, pki.State{Names: addressOnly}, now)
			grace := w.s.Lifetimes.Grace()
			for now.Before(start.AddDate(30, 0, 0)) {
				until := now.Add(time.Duration(random.Int64N(int64(400 * day))))
				for due := w.next(now); due.Before(until); due = w.next(now) {
					now = due
					w.check(now, grace)
					w.tick(now)
					w.check(now, grace)
				}
				now = until
				w.glitch(now.Add(time.Duration(random.Int64N(int64(10000*day))-int64(5000*day))), random.IntN(10))
				w.tick(now)
				w.check(now, grace)
			}
			if most := 40; len(w.s.CAs) > most {
				t.Errorf("%d CAs are kept; want at most %d", len(w.s.CAs), most)
			}
		})
	}
}

// glitch lets the clock show wrong times. Clients that install a bundle then don't count, and what is served verifies by
// that clock, unless it is before everything.
func (w *world) glitch(wrong time.Time, ticks int) {
	w.t.Helper()
	for range ticks {
		w.do(wrong, pki.Plan(w.s, wrong))
		if pub := w.s.At(wrong).Published(); parse(w.t, pub[0].Certificate).NotBefore.After(wrong) {
			return
		}
		if err := verify(w.t, w.s.At(wrong).Bundle(), w.served, "", wrong); err != nil {
			w.t.Fatalf("by a clock that shows day %.2f: %v\n%s", days(wrong), err, w.history())
		}
		wrong = w.next(wrong)
	}
}

// The CAs, and who is in which role, are after a glitch what they were before; only leaves and cross-certificates are new.
func TestGlitchYearsAheadIsUndone(t *testing.T) {
	t.Parallel()
	key := masterKey(t)
	for _, from := range []int{100, 1820, 2000, 2800, 3630} {
		s := pki.State{Names: loopback}
		for d := 0; d <= from; d += 10 {
			s = settle(t, s, key, start.Add(time.Duration(d)*day))
		}
		now := start.Add(time.Duration(from) * day)
		before := roles(t, s, now)
		for _, ahead := range []int{1, 30, 400, 1700, 4000, 20000} {
			for d := ahead; d < ahead+4000; d += 800 {
				s = settle(t, s, key, now.Add(time.Duration(d)*day))
			}
			s = settle(t, s, key, now)
			if after := roles(t, s, now); after != before {
				t.Errorf("day %d, %d days ahead and back:\n%s\nbefore:\n%s", from, ahead, after, before)
			}
		}
	}
}

// roles are what everybody is shown of the CAs that exist by now, and by whom the leaves are.
func roles(t *testing.T, s pki.State, now time.Time) string {
	t.Helper()
	o, err := s.At(now).Overview()
	if err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprintf("leaf by %d, cross %v, next %v", o.Leaf.Issuer, o.CrossServed, o.Next != nil)
	for _, ca := range o.CAs {
		if ca.State != pki.NotYetValid {
			ca.PEM = ""
			out += fmt.Sprintf("\n%+v", ca)
		}
	}
	return out
}

// An operator takes a clock that was set back for the right one and makes a generation for it. When the clock goes on, who
// signed signs again.
func TestGenerationMadeOnASlowClockTakesNothingOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pki.State{Names: loopback}, start)
	slow := start.Add(-day)
	actions, err := w.s.Rotate(slow)
	if err != nil {
		t.Fatal(err)
	}
	w.do(slow, actions)
	for now := start; now.Before(start.AddDate(20, 0, 0)); now = w.next(now) {
		w.tick(now)
		w.check(now, w.s.Lifetimes.Grace())
	}
}

// A clock before everything, as after a boot without a battery, changes nothing.
func TestClockBeforeEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pki.State{Names: loopback}, start)
	now := start
	for now.Before(start.Add(3000 * day)) {
		now = w.next(now)
		w.tick(now)
	}
	bundle, served := string(w.s.At(now).Bundle()), len(w.served)
	boot := time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	if plan := w.tick(boot); len(plan) != 0 {
		t.Errorf("in 1970: %v", plan)
	}
	if string(w.s.At(boot).Bundle()) != bundle || len(w.served) != served || len(w.s.At(boot).Upcoming()) != 0 {
		t.Error("in 1970 another bundle or chain is served, or something is said to come")
	}
	w.check(now, w.s.Lifetimes.Grace())
	if _, _, err := w.s.Do(pki.Action{Kind: pki.IssueLeaf, Generation: 2}, w.key, boot); err == nil {
		t.Error("a leaf was issued in 1970 that nobody can verify")
	}
}

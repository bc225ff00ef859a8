package pki

import (
	"bytes"
	"slices"
	"time"
)

// Moment is a time at which certificates change by themselves.
type Moment struct {
	Time      time.Time
	Actions   []Action // none: Forecast's first moment, when nothing is due
	Published []int    // the generations in the bundle from then on
	Accepted  []int    // a client that holds any of these generations connects from then on
}

// Forecast runs Plan on a clock of its own, from now until then. It signs nothing and needs no key. The first moment is
// now, whatever is due.
func Forecast(s State, now, until time.Time) []Moment {
	var moments []Moment
	for !now.After(until) {
		plan := Plan(s, now)
		for _, a := range plan {
			s = s.noted(a, second(now))
		}
		if len(plan) > 0 || len(moments) == 0 {
			moments = append(moments, Moment{second(now), plan, generations(s.Published(now)), s.Accepted(now)})
		}
		coming := Upcoming(s, now)
		if len(coming) == 0 {
			break
		}
		now = coming[0].Due
	}
	return moments
}

// Accepted are the generations of which a client needs one at least to verify what is served.
func (s State) Accepted(now time.Time) []int {
	v := look(s, now)
	if len(v.line) == 0 {
		return nil
	}
	accepted := []int{v.line[v.signer].Generation}
	if v.crossServed() {
		accepted = append([]int{v.line[v.signer-1].Generation}, accepted...)
	}
	return accepted
}

func generations(cas []CA) []int {
	var out []int
	for _, ca := range cas {
		out = append(out, ca.Generation)
	}
	return out
}

// Served says whether chain, as a server presented it, is what the State means to be presented.
func (s State) Served(chain [][]byte, now time.Time) bool {
	if s.Leaf == nil {
		return false
	}
	v, want := look(s, now), [][]byte{s.Leaf.Certificate}
	if v.crossServed() && s.Leaf.Issuer == v.line[v.signer].Generation {
		want = append(want, v.line[v.signer].Cross)
	}
	return slices.EqualFunc(chain, want, bytes.Equal)
}

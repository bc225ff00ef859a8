package pki

import (
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
			s = s.apply(a, second(now))
		}
		if len(plan) > 0 || len(moments) == 0 {
			v := s.At(now)
			moments = append(moments, Moment{second(now), plan, generations(v.Published()), v.Accepted()})
		}
		coming := s.At(now).Upcoming()
		if len(coming) == 0 {
			break
		}
		now = coming[0].Due
	}
	return moments
}

func generations(cas []CA) []int {
	var out []int
	for _, ca := range cas {
		out = append(out, ca.Generation)
	}
	return out
}

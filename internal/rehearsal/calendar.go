package rehearsal

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

// calendar maps a moment of the rehearsal to the date in real life for which it stands.
type calendar struct {
	start   time.Time
	scaled  pki.Lifetimes
	moments []pki.Moment
}

// newCalendar runs the plan on a fake clock. It covers the time for which the rehearsal stands, and one life of a CA more.
func newCalendar(start time.Time, scaled pki.Lifetimes, length time.Duration) calendar {
	c := calendar{start: start, scaled: scaled}
	c.moments = pki.Forecast(pki.State{}, start, c.scale(length+scaled.CA))
	return c
}

// scale converts elapsed time to a date in proportion to a CA's lifetime.
func (c calendar) scale(elapsed time.Duration) time.Time {
	years := float64(elapsed) / float64(c.scaled.CA)
	return c.start.Add(time.Duration(years * float64(pki.DefaultLifetimes().CA)))
}

// dateOf is the date on which the plan does the same in real life. Real life has more server certificates than the rehearsal, so a
// change of nothing but the server certificate gets a date in proportion.
func (c calendar) dateOf(actions []pki.Action, elapsed time.Duration) time.Time {
	if a := primary(actions); a.Kind != pki.IssueLeaf {
		for _, m := range c.moments {
			if slices.ContainsFunc(m.Actions, func(b pki.Action) bool { return a.Kind == b.Kind && a.Generation == b.Generation }) {
				return m.Time
			}
		}
	}
	return c.scale(elapsed)
}

// nextRenewal is the first date after the given one on which the plan replaces a server certificate.
func (c calendar) nextRenewal(after time.Time) time.Time {
	for _, m := range c.moments {
		if m.Time.After(after) && primary(m.Actions).Kind == pki.IssueLeaf {
			return m.Time
		}
	}
	return after
}

// bySeverity orders actions that happen at once: the one that breaks most clients comes first.
var bySeverity = []pki.Kind{pki.EndCross, pki.CompromiseCA, pki.ActivateCA, pki.RetireCA, pki.CreateCA, pki.IssueLeaf}

// primary is the action after which a change is named; zero if clients can't see any of the actions.
func primary(actions []pki.Action) pki.Action {
	for _, k := range bySeverity {
		if at := slices.IndexFunc(actions, func(a pki.Action) bool { return a.Kind == k }); at >= 0 {
			return actions[at]
		}
	}
	return pki.Action{}
}

// describe says what changes for clients; "" if nothing does.
func describe(actions []pki.Action) string {
	var parts []string
	for _, a := range actions {
		if text := Describe(a); text != "" && (a.Kind != pki.IssueLeaf || primary(actions).Kind == pki.IssueLeaf) {
			parts = append(parts, text)
		}
	}
	return strings.Join(parts, "; ")
}

// Describe says what an action changes for clients; "" if nothing.
func Describe(a pki.Action) string {
	switch a.Kind {
	case pki.CreateCA:
		return fmt.Sprintf("CA-%d is published", a.Generation)
	case pki.ActivateCA:
		return fmt.Sprintf("CA-%d signs, with a cross-certificate by CA-%d", a.Generation, a.Generation-1)
	case pki.EndCross:
		return fmt.Sprintf("CA-%d's cross-certificate for CA-%d is no longer served", a.Generation-1, a.Generation)
	case pki.RetireCA:
		return fmt.Sprintf("CA-%d leaves the bundle", a.Generation)
	case pki.CompromiseCA:
		return fmt.Sprintf("CA-%d is given up", a.Generation)
	case pki.IssueLeaf:
		return fmt.Sprintf("a new server certificate by CA-%d", a.Generation)
	}
	return ""
}

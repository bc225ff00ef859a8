package rehearsal

import (
	"errors"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

var Redact, ClientEnvironment = redact, clientEnvironment

// Lines are what is shown of an output that came in pieces.
func Lines(pieces ...string) []string {
	var t tail
	for _, p := range pieces {
		t.Write([]byte(p))
	}
	return t.lines()
}

// Dated is a change, and when a rehearsal would say that it comes.
func Dated(start time.Time, scaled pki.Lifetimes, length, elapsed time.Duration, actions []pki.Action) time.Time {
	return newCalendar(start, scaled, length).date(actions, elapsed)
}

// Lived is a change in a rehearsal told by hand. Times are seconds.
type Lived struct {
	At       int
	Actions  []pki.Action
	Accepted []int
}

// Refused is how a client refused a certificate, by the failed handshakes before and after.
func Refused(before, after map[string]uint64) string { return handshakes(after).refused(before) }

// Judged is the step that is blamed, -1 for none, and the verdict on a client that ran well from passed on, and whose last run
// ended at failed.
func Judged(cfg Config, steps []Lived, passed, failed int, status error, refused string) (at int, verdict, advice string) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	second := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	l := &live{Config: cfg, created: start, first: []int{1}, passed: second(passed)}
	l.calendar = newCalendar(start, pki.ScaledLifetimes(20*time.Second), 21*time.Second)
	for _, s := range steps {
		elapsed := time.Duration(s.At) * time.Second
		l.outcome.Steps = append(l.outcome.Steps, Step{
			Elapsed: elapsed, Actions: s.Actions, Change: describe(s.Actions), Date: l.calendar.date(s.Actions, elapsed),
			accepted: s.Accepted, published: []int{1, 2}, recorded: second(s.At), servedAt: second(s.At),
		})
	}
	r := &run{end: second(failed), err: status, refused: refused}
	if at = l.suspect(r); at >= 0 {
		verdict, advice = l.explain(at, r)
	}
	return at, verdict, advice
}

var ErrStatus = errors.New("exit status 1")

package rehearsal

import (
	"errors"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

var Redact, ClientEnvironment = redact, clientEnvironment

// Lines are the lines that are shown of an output that came in pieces.
func Lines(pieces ...string) []string {
	var t tail
	for _, p := range pieces {
		t.Write([]byte(p))
	}
	return t.lines()
}

// Dated is the date that a rehearsal gives a change.
func Dated(start time.Time, scaled pki.Lifetimes, length, elapsed time.Duration, actions []pki.Action) time.Time {
	return newCalendar(start, scaled, length).dateOf(actions, elapsed)
}

// Lived is a change in a rehearsal that a test makes up. Times are in seconds.
type Lived struct {
	At       int
	Actions  []pki.Action
	Accepted []int
}

// Refused says how a client refused a certificate, from the failed handshakes before and after.
func Refused(before, after map[string]uint64) string { return handshakes(after).refusalSince(before) }

// Judged returns the step that is to blame, -1 for none, and the verdict on a client. Its last good run began at passed, and its
// failed run ended at failed.
func Judged(cfg Config, steps []Lived, passed, failed int, status error, refused string) (at int, verdict, advice string) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	second := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	re := &rehearsal{Config: cfg, created: start, initialCAs: []int{1}, lastPass: second(passed)}
	re.calendar = newCalendar(start, pki.ScaledLifetimes(20*time.Second), 21*time.Second)
	for _, s := range steps {
		elapsed := time.Duration(s.At) * time.Second
		re.outcome.Steps = append(re.outcome.Steps, Step{
			Elapsed: elapsed, Actions: s.Actions, Change: describe(s.Actions), Date: re.calendar.dateOf(s.Actions, elapsed),
			accepted: s.Accepted, published: []int{1, 2}, recorded: second(s.At), servedAt: second(s.At),
		})
	}
	r := &run{end: second(failed), err: status, refused: refused}
	if at = re.breakingStep(r); at >= 0 {
		verdict, advice = re.explainBreak(at, r)
	}
	return at, verdict, advice
}

var ErrStatus = errors.New("exit status 1")

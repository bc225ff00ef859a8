// Package rehearsal lets a real client live through the years ahead of an instance's certificates, in minutes: the instance
// has scaled lifetimes, and its engine, gateway, certificates and their validity are real. When the client breaks it says at
// which change, what that means and on which day it would come.
//
// Guaranteed: a change counts as survived only by a run of the client that began after a handshake of our own had shown that
// it is served, or by one that was running on. A failure counts only while such a handshake verifies, so a machine that
// is too busy for the lifetimes is never taken for a client that breaks. What the client prints is shown without the
// secrets that can be told as such.
package rehearsal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/pki"
)

// Config is what a rehearsal needs.
type Config struct {
	Manager   *instance.Manager
	Name      instance.Name       // of a new instance that is ready, without AUTH
	Changes   <-chan []pki.Action // what the Manager was told to be done to its certificates
	For       time.Duration       // counts from the instance's creation
	Command   string              // the client, for sh -c
	LongLived bool                // it must not end, not even well
	Reconnect bool                // its connections are cut after each change
	Dir       string              // for the bundle files
	Progress  func(Step)          // is told of each step once it is over
}

// Result is what came of the client.
type Result string

const (
	Pass    Result = "pass"
	Fail    Result = "fail"
	Running Result = "running" // it ran on
)

// Step is a change of the certificates, and how the client took it.
type Step struct {
	Elapsed time.Duration // of the rehearsal
	Date    time.Time     // of real life, for which it stands
	Actions []pki.Action
	Change  string // in words
	Client  Result

	accepted           []int     // generations, as in pki.Moment
	published          []int     // likewise
	recorded, servedAt time.Time // the client was shown it for the first time between these
}

// Outcome is what came of a rehearsal.
type Outcome struct {
	Steps   []Step
	Runs    int // of the client, to their end
	Breaks  *Step
	Verdict string   // one sentence
	Advice  string   // what to do; "" when nothing is to be done
	Output  []string // the client's last lines, where it broke
}

// ErrLate is of a rehearsal that says nothing about the client.
var ErrLate = errors.New("this machine is too busy for certificates of such short lives, so nothing is known about the client")

const (
	serveTimeout = 10 * time.Second // from a change's being recorded to its being served
	runPause     = 200 * time.Millisecond
	maxRunPause  = 2 * time.Second
	lastRun      = 3 * time.Second // more than the rehearsal's time, for the run after the last change
)

// live is a rehearsal under way. One goroutine has it.
type live struct {
	Config
	outcome  Outcome
	calendar calendar
	created  time.Time // of CA-1
	first    []int     // the generations that the client was given first
	settled  int       // so many steps have a result
	passed   time.Time // when the last run began that ended well
	client   *run      // nil: none runs
	ended    chan *run
	probe    probe
}

// Run lets the client live. It returns an error when the rehearsal could not be held, not when the client broke.
func Run(ctx context.Context, cfg Config) (*Outcome, error) {
	i, err := cfg.Manager.Get(cfg.Name)
	if err != nil {
		return nil, err
	}
	state := i.Certificates
	view := state.At(time.Now())
	l := &live{Config: cfg, created: state.CAs[0].Created, first: numbers(view.Published()), ended: make(chan *run, 1), probe: probe{i.Host, i.Port}}
	l.calendar = newCalendar(l.created, state.Lifetimes, cfg.For)
	for _, file := range []string{l.caFile(), l.firstFile()} {
		if err := durable.WriteFile(file, view.Bundle(), 0o600); err != nil {
			return nil, err
		}
	}
	defer func() { l.client.stop() }() // whichever runs by then
	if err := l.live(ctx); err != nil {
		return nil, err
	}
	if l.outcome.Breaks == nil {
		l.outcome.Verdict, l.outcome.Advice = l.survived()
	}
	return &l.outcome, nil
}

func (l *live) caFile() string    { return filepath.Join(l.Dir, "ca.pem") }
func (l *live) firstFile() string { return filepath.Join(l.Dir, "ca-first.pem") }

// live returns when the client broke, or when the time is over.
func (l *live) live(ctx context.Context) error {
	end := time.NewTimer(time.Until(l.created.Add(l.For)))
	defer end.Stop()
	next := time.NewTimer(0) // for the next run
	defer next.Stop()
	over, last := false, false
	for l.outcome.Breaks == nil && !last && !(over && l.client == nil && l.settled == len(l.outcome.Steps)) {
		changes := l.Changes
		if over {
			changes = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case actions := <-changes:
			if err := l.changed(ctx, actions); err != nil {
				return err
			}
			next.Reset(0)
		case r := <-l.ended:
			l.client = nil
			if err := l.judge(ctx, r); err != nil {
				return err
			}
			next.Reset(min(max(runPause, r.end.Sub(r.begin)), maxRunPause))
			if over {
				next.Reset(0)
			}
		case <-next.C:
			if l.client == nil {
				before, err := l.handshakes(ctx)
				if err != nil {
					return err
				}
				if l.client, err = start(l.Command, l.environment(), before, l.ended); err != nil {
					return err
				}
			}
		case <-end.C:
			if over {
				l.ranOn()
				last = true
			}
			over = true
			end.Reset(lastRun)
		}
	}
	return nil
}

// changed shows the client a change, and notes it once it is served.
func (l *live) changed(ctx context.Context, actions []pki.Action) error {
	change := describe(actions)
	if a := primary(actions); change == "" || a.Kind == pki.CreateCA && a.Generation == 1 {
		return nil // nothing that a client could see, or what it begins with
	}
	l.ranOn()
	now := time.Now()
	s := Step{Elapsed: now.Sub(l.created).Truncate(time.Millisecond), Actions: actions, Change: change, recorded: now}
	s.Date = l.calendar.date(actions, s.Elapsed)
	ctx, cancel := context.WithTimeout(ctx, serveTimeout)
	defer cancel()
	for {
		i, err := l.Manager.Get(l.Name)
		if err != nil {
			return err
		}
		view := i.Certificates.At(time.Now())
		if s.published == nil {
			if err := durable.WriteFile(l.caFile(), view.Bundle(), 0o600); err != nil {
				return err
			}
			s.published, s.accepted = numbers(view.Published()), view.Accepted()
		}
		chain, err := l.probe.look(ctx, view.Bundle(), l.Reconnect)
		if err == nil && view.Serves(chain) {
			break
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%w: %s %s after the start was not served within %s", ErrLate, change, s.Elapsed, serveTimeout)
			}
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.servedAt = time.Now()
	l.outcome.Steps = append(l.outcome.Steps, s)
	return nil
}

// ranOn settles what no run has been through from beginning to end.
func (l *live) ranOn() {
	for l.client != nil && l.settled < len(l.outcome.Steps) {
		l.settle(Running)
	}
}

func (l *live) settle(r Result) {
	s := &l.outcome.Steps[l.settled]
	s.Client = r
	l.settled++
	l.Progress(*s)
}

// judge says what the end of a run means.
func (l *live) judge(ctx context.Context, r *run) error {
	if r.err == nil && !l.LongLived {
		l.outcome.Runs++
		l.passed = r.begin
		for l.settled < len(l.outcome.Steps) && l.outcome.Steps[l.settled].servedAt.Before(r.begin) {
			l.settle(Pass)
		}
		return nil
	}
	i, err := l.Manager.Get(l.Name)
	if err != nil {
		return err
	}
	if _, err := l.probe.look(ctx, i.Certificates.At(time.Now()).Bundle(), false); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", ErrLate, err)
	}
	if r.refused, err = l.refusal(ctx, r); err != nil {
		return err
	}
	connected, err := l.connected(ctx)
	if err != nil {
		return err
	}
	at := l.suspect(r)
	if at < 0 || r.refused != "" && !connected {
		return l.unrelated(r)
	}
	l.outcome.Runs++
	for l.settled < at {
		l.settle(Running)
	}
	l.settled = at // it may have been settled as running on
	if primary(l.outcome.Steps[at].Actions).Kind == pki.IssueLeaf {
		// The first of those that the client has not lived through.
		last := l.created
		if at > 0 {
			last = l.outcome.Steps[at-1].Date
		}
		l.outcome.Steps[at].Date = l.calendar.renewal(last)
	}
	l.settle(Fail)
	l.outcome.Steps = l.outcome.Steps[:at+1]
	l.outcome.Breaks = &l.outcome.Steps[at]
	l.outcome.Output = r.output.lines()
	l.outcome.Verdict, l.outcome.Advice = l.explain(at, r)
	return nil
}

// suspect is the change that a run failed for: the first that took away what the client was given first, else the first
// of more than a server certificate, among those that no run had passed and that it can have seen. -1: there is none.
func (l *live) suspect(r *run) int {
	seen := func(s Step) bool { return !s.servedAt.Before(l.passed) && s.recorded.Before(r.end) }
	for _, grave := range []func(int) bool{
		l.cutsOff,
		func(n int) bool { return primary(l.outcome.Steps[n].Actions).Kind != pki.IssueLeaf },
		func(int) bool { return true },
	} {
		for n, s := range l.outcome.Steps {
			if seen(s) && grave(n) {
				return n
			}
		}
	}
	return -1
}

// cutsOff says whether a step takes away what a client depends on that holds only what it was given first.
func (l *live) cutsOff(n int) bool {
	return !intersect(l.outcome.Steps[n].accepted, l.first) && (n == 0 || intersect(l.outcome.Steps[n-1].accepted, l.first))
}

func intersect(a, b []int) bool {
	return slices.ContainsFunc(a, func(n int) bool { return slices.Contains(b, n) })
}

// unrelated is the error of a client that fails without any change.
func (l *live) unrelated(r *run) error {
	when := "though nothing had changed since it last connected"
	if l.passed.IsZero() {
		when = "before anything had changed"
	}
	e := &ClientError{Reason: fmt.Sprintf("the client ended %s, with %s", when, r.status()), Refused: r.refused, Output: r.output.lines()}
	switch r.refused {
	case "":
	case withoutAlert:
		e.Reason = fmt.Sprintf("the client closed the connection in the TLS handshake without an alert, as some do that don't accept the certificate, %s", when)
	default:
		e.Reason = fmt.Sprintf("the client refuses the server's certificate, %s, %s", r.refused, when)
	}
	return e
}

// ClientError is of a client that fails for other reasons than a change of certificates.
type ClientError struct {
	Reason  string
	Refused string   // how it refused the certificate that it was shown, in words; "": it didn't
	Output  []string // its last lines
}

func (e *ClientError) Error() string { return e.Reason }

// environment is what the client is told.
func (l *live) environment() []string {
	port := strconv.Itoa(l.probe.port)
	return []string{
		"SEALANE_HOST=" + l.probe.host, "SEALANE_PORT=" + port, "SEALANE_CA_FILE=" + l.caFile(), "SEALANE_CA_FIRST_FILE=" + l.firstFile(),
		"REDIS_URL=rediss://" + net.JoinHostPort(l.probe.host, port),
	}
}

func numbers(cas []pki.CA) []int {
	var out []int
	for _, ca := range cas {
		out = append(out, ca.Generation)
	}
	return out
}

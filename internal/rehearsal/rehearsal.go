// Package rehearsal runs a real client through years of certificate changes in minutes. The instance has scaled lifetimes;
// its engine, gateway, certificates and their validity are real. If the client breaks, the package says at which change, what
// that means, and on which day the change would come.
//
// Guaranteed: the client passes a change only by a run that began after a handshake of our own had shown that the change is
// served. A run that goes on across a change is reported as running. A failure counts only while our own handshake verifies,
// so a machine that is too busy for the lifetimes is never mistaken for a client that breaks. Secrets that can be recognised
// as such are removed from the client's output before it is shown.
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
	Name      instance.Name       // a new instance that is ready, without AUTH
	Changes   <-chan []pki.Action // each change that the Manager makes to its certificates
	For       time.Duration       // how long the rehearsal lasts, from the instance's creation on
	Command   string              // the client, for sh -c
	LongLived bool                // the client must not end, not even with status 0
	Reconnect bool                // the client's connections are cut after each change
	Dir       string              // where the bundle files are written
	Progress  func(Step)          // is called with each step once its result is known
}

// Result is how the client took a change.
type Result string

const (
	Pass    Result = "pass"
	Fail    Result = "fail"
	Running Result = "running" // no run began after the change and ended before the next one
)

// Step is a change of the certificates, with its result for the client.
type Step struct {
	Elapsed time.Duration // since the instance's creation
	Date    time.Time     // the date in real life for which Elapsed stands
	Actions []pki.Action
	Change  string // in words
	Client  Result

	accepted           []int     // the generations that verify what is served, as in pki.Moment
	published          []int     // the generations in the bundle
	recorded, servedAt time.Time // the change was first served between these times
}

// Outcome is the outcome of a rehearsal.
type Outcome struct {
	Steps   []Step
	Runs    int      // how many runs of the client came to their end
	Breaks  *Step    // where the client broke; nil: nowhere
	Verdict string   // one sentence
	Advice  string   // what to do; "" if nothing is to be done
	Output  []string // the client's last lines, if it broke
}

// ErrLate means that the rehearsal says nothing about the client.
var ErrLate = errors.New("this machine is too busy for certificates of such short lives, so nothing is known about the client")

const (
	serveTimeout = 10 * time.Second // the most that a change may take from being recorded to being served
	runPause     = 200 * time.Millisecond
	maxRunPause  = 2 * time.Second
	lastRun      = 3 * time.Second // added to the rehearsal's time, for the run after the last change
)

// rehearsal is a rehearsal in progress. One goroutine owns it.
type rehearsal struct {
	Config
	outcome    Outcome
	calendar   calendar
	created    time.Time // when CA-1 was made
	initialCAs []int     // the generations in the first bundle that the client was given
	decided    int       // how many steps, from the first on, have a result
	lastPass   time.Time // when the last run that ended well began
	client     *run      // the run in progress; nil: there is none
	ended      chan *run
	probe      probe
}

// Run holds a rehearsal. It returns an error if the rehearsal could not be held, and not if the client broke.
func Run(ctx context.Context, cfg Config) (*Outcome, error) {
	i, err := cfg.Manager.Get(cfg.Name)
	if err != nil {
		return nil, err
	}
	state := i.Certificates
	view := state.At(time.Now())
	re := &rehearsal{Config: cfg, created: state.CAs[0].Created, initialCAs: generationsOf(view.Published()), ended: make(chan *run, 1), probe: probe{i.Host, i.Port}}
	re.calendar = newCalendar(re.created, state.Lifetimes, cfg.For)
	for _, file := range []string{re.caFile(), re.firstFile()} {
		if err := durable.WriteFile(file, view.Bundle(), 0o600); err != nil {
			return nil, err
		}
	}
	defer func() { re.client.stop() }() // the run that is in progress by then
	if err := re.follow(ctx); err != nil {
		return nil, err
	}
	if re.outcome.Breaks == nil {
		re.outcome.Verdict, re.outcome.Advice = re.verdictOnPass()
	}
	return &re.outcome, nil
}

func (re *rehearsal) caFile() string    { return filepath.Join(re.Dir, "ca.pem") }
func (re *rehearsal) firstFile() string { return filepath.Join(re.Dir, "ca-first.pem") }

// follow makes the runs and takes the changes, until the client breaks or the time is over.
func (re *rehearsal) follow(ctx context.Context) error {
	end := time.NewTimer(time.Until(re.created.Add(re.For)))
	defer end.Stop()
	next := time.NewTimer(0) // when the next run starts
	defer next.Stop()
	over, last := false, false
	for re.outcome.Breaks == nil && !last && !(over && re.client == nil && re.decided == len(re.outcome.Steps)) {
		changes := re.Changes
		if over {
			changes = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case actions := <-changes:
			if err := re.changed(ctx, actions); err != nil {
				return err
			}
			next.Reset(0)
		case r := <-re.ended:
			re.client = nil
			if err := re.recordRun(ctx, r); err != nil {
				return err
			}
			next.Reset(min(max(runPause, r.end.Sub(r.begin)), maxRunPause))
			if over {
				next.Reset(0)
			}
		case <-next.C:
			if re.client == nil {
				before, err := re.handshakes(ctx)
				if err != nil {
					return err
				}
				if re.client, err = start(re.Command, re.environment(), before, re.ended); err != nil {
					return err
				}
			}
		case <-end.C:
			if over {
				re.markRunning()
				last = true
			}
			over = true
			end.Reset(lastRun)
		}
	}
	return nil
}

// changed gives the client the new bundle, and appends the step once a handshake has shown that the change is served.
func (re *rehearsal) changed(ctx context.Context, actions []pki.Action) error {
	change := describe(actions)
	if a := primary(actions); change == "" || a.Kind == pki.CreateCA && a.Generation == 1 {
		return nil // no client can see this change, or the rehearsal began with it
	}
	re.markRunning()
	now := time.Now()
	s := Step{Elapsed: now.Sub(re.created).Truncate(time.Millisecond), Actions: actions, Change: change, recorded: now}
	s.Date = re.calendar.dateOf(actions, s.Elapsed)
	ctx, cancel := context.WithTimeout(ctx, serveTimeout)
	defer cancel()
	for {
		i, err := re.Manager.Get(re.Name)
		if err != nil {
			return err
		}
		view := i.Certificates.At(time.Now())
		if s.published == nil {
			if err := durable.WriteFile(re.caFile(), view.Bundle(), 0o600); err != nil {
				return err
			}
			s.published, s.accepted = generationsOf(view.Published()), view.Accepted()
		}
		chain, err := re.probe.presentedChain(ctx, view.Bundle(), re.Reconnect)
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
	re.outcome.Steps = append(re.outcome.Steps, s)
	return nil
}

// markRunning sets the result Running for the steps without a result, if a run is in progress.
func (re *rehearsal) markRunning() {
	for re.client != nil && re.decided < len(re.outcome.Steps) {
		re.setResult(Running)
	}
}

func (re *rehearsal) setResult(r Result) {
	s := &re.outcome.Steps[re.decided]
	s.Client = r
	re.decided++
	re.Progress(*s)
}

// recordRun decides what the end of a run means for the steps.
func (re *rehearsal) recordRun(ctx context.Context, r *run) error {
	if r.err == nil && !re.LongLived {
		re.outcome.Runs++
		re.lastPass = r.begin
		for re.decided < len(re.outcome.Steps) && re.outcome.Steps[re.decided].servedAt.Before(r.begin) {
			re.setResult(Pass)
		}
		return nil
	}
	i, err := re.Manager.Get(re.Name)
	if err != nil {
		return err
	}
	if _, err := re.probe.presentedChain(ctx, i.Certificates.At(time.Now()).Bundle(), false); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", ErrLate, err)
	}
	if r.refused, err = re.awaitRefusal(ctx, r); err != nil {
		return err
	}
	connected, err := re.connected(ctx)
	if err != nil {
		return err
	}
	at := re.breakingStep(r)
	if at < 0 || r.refused != "" && !connected {
		return re.clientError(r)
	}
	re.outcome.Runs++
	for re.decided < at {
		re.setResult(Running)
	}
	re.decided = at // its result may have been Running until now
	if primary(re.outcome.Steps[at].Actions).Kind == pki.IssueLeaf {
		// The date is that of the first server certificate that no run has passed.
		last := re.created
		if at > 0 {
			last = re.outcome.Steps[at-1].Date
		}
		re.outcome.Steps[at].Date = re.calendar.nextRenewal(last)
	}
	re.setResult(Fail)
	re.outcome.Steps = re.outcome.Steps[:at+1]
	re.outcome.Breaks = &re.outcome.Steps[at]
	re.outcome.Output = r.output.lines()
	re.outcome.Verdict, re.outcome.Advice = re.explainBreak(at, r)
	return nil
}

// breakingStep returns the step that is to blame for a failed run, or -1 if there is none. Only steps that no run has passed, and
// that this run can have seen, come into question. Of these it is the first one that removed the trust in the client's
// initial CAs. If there is none, it is the first one that changed more than the server certificate, and otherwise the first
// one.
func (re *rehearsal) breakingStep(r *run) int {
	seen := func(s Step) bool { return !s.servedAt.Before(re.lastPass) && s.recorded.Before(r.end) }
	for _, grave := range []func(int) bool{
		re.removesTrust,
		func(n int) bool { return primary(re.outcome.Steps[n].Actions).Kind != pki.IssueLeaf },
		func(int) bool { return true },
	} {
		for n, s := range re.outcome.Steps {
			if seen(s) && grave(n) {
				return n
			}
		}
	}
	return -1
}

// removesTrust says whether step n is the one from which on a client that holds only its initial CAs can't verify the server.
func (re *rehearsal) removesTrust(n int) bool {
	return !overlap(re.outcome.Steps[n].accepted, re.initialCAs) && (n == 0 || overlap(re.outcome.Steps[n-1].accepted, re.initialCAs))
}

func overlap(a, b []int) bool {
	return slices.ContainsFunc(a, func(n int) bool { return slices.Contains(b, n) })
}

// clientError is the error for a client that failed without any change to blame.
func (re *rehearsal) clientError(r *run) error {
	when := "though nothing had changed since it last connected"
	if re.lastPass.IsZero() {
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

// ClientError means that the client fails for another reason than a change of certificates.
type ClientError struct {
	Reason  string
	Refused string   // how the client refused the certificate, in words; "": it did not
	Output  []string // its last lines
}

func (e *ClientError) Error() string { return e.Reason }

// environment has the variables that tell the client where the instance and its bundle are.
func (re *rehearsal) environment() []string {
	port := strconv.Itoa(re.probe.port)
	return []string{
		"SEALANE_HOST=" + re.probe.host, "SEALANE_PORT=" + port, "SEALANE_CA_FILE=" + re.caFile(), "SEALANE_CA_FIRST_FILE=" + re.firstFile(),
		"REDIS_URL=rediss://" + net.JoinHostPort(re.probe.host, port),
	}
}

func generationsOf(cas []pki.CA) []int {
	var out []int
	for _, ca := range cas {
		out = append(out, ca.Generation)
	}
	return out
}

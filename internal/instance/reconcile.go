package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/store"
)

// ErrFatal marks errors that trying again will not help: a create that meets one fails at once.
var ErrFatal = errors.New("cannot be done here")

const (
	// createTimeout is how long a create is tried; what fails for longer is undone and reported.
	createTimeout = time.Minute
	// checkInterval is how often an instance at rest is looked at, or sooner when its certificates fall due: a short tick
	// notices a clock that jumped or a machine that slept.
	checkInterval = 10 * time.Second

	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
	busyRetry  = time.Second // to see that a script has ended
)

// errGone ends a worker: the instance is deleted.
var errGone = errors.New("instance is gone")

// worker makes one instance match its record. Everything in it is guarded by Manager.mu but done and the
// fields of the loop, which are the worker goroutine's own.
type worker struct {
	name      Name
	wake      chan struct{} // capacity 1
	interrupt context.CancelFunc
	settled   chan struct{} // closed after the first step
	ended     bool          // one of its processes did, since the step under way began
	crashes   int           // of its processes, in a row
	notBefore time.Time     // a node that keeps crashing is not restarted sooner
	served    uint64        // the version of the record that the node was last made to match
	looked    bool          // once at least; what the next two say counts from then on
	certified bool          // all that the certificates' plan asked for is done
	proved    bool          // the node was last shown to match
	stepped   chan struct{} // closed, and made anew, after each step
	restart   *restart      // of its engine, that was asked for and not begun

	lastExit     string // how its engine last ended by itself
	lastExitTime time.Time

	firstTried time.Time // loop: the first failed step in a row
	failures   int       // loop: failed steps in a row
	logged     string    // loop: the last error that was logged
	due        time.Time // loop: when the certificates change next; zero: they don't
}

// Start begins to reconcile. It returns once a worker runs for every instance.
func (m *Manager) Start() error {
	live, err := m.live()
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.mu.Unlock()
	for _, i := range live {
		m.wake(i.Name)
	}
	m.running.Go(m.watchExits)
	m.running.Go(m.sweep)
	m.running.Go(m.collect)
	return nil
}

// Settled returns when every instance has been looked at once, or when ctx ends.
func (m *Manager) Settled(ctx context.Context) {
	m.mu.Lock()
	var waits []chan struct{}
	for _, w := range m.workers {
		waits = append(waits, w.settled)
	}
	m.mu.Unlock()
	for _, settled := range waits {
		select {
		case <-settled:
		case <-ctx.Done():
			return
		}
	}
}

// Close ends the reconciling and leaves all nodes running. It is idempotent.
func (m *Manager) Close() {
	m.mu.Lock()
	if m.cancel != nil {
		m.cancel()
	}
	m.ctx = nil
	m.mu.Unlock()
	m.running.Wait()
}

// StopAllOptions are how StopAll goes about it. Its functions may be called concurrently; nil: nobody is told.
type StopAllOptions struct {
	Force    bool                       // as in StopOptions
	Progress func(n Name, what string)  // is told what is waited for
	Stopped  func(n Name, failed error) // is told of each instance once
}

// StopAll closes the Manager and stops all nodes, each engine after it has saved its data. It goes on after an
// error and returns all of them.
func (m *Manager) StopAll(ctx context.Context, o StopAllOptions) error {
	m.Close()
	live, err := m.live()
	if err != nil {
		return err
	}
	errs := make([]error, len(live))
	var stopping sync.WaitGroup
	for at, i := range live {
		stopping.Go(func() {
			node, err := m.node(i, m.Now())
			if err == nil {
				err = m.Runtime.Stop(ctx, node, StopOptions{Force: o.Force, Progress: func(what string) {
					if o.Progress != nil {
						o.Progress(i.Name, what)
					}
				}})
			}
			switch {
			case err != nil && ctx.Err() == nil && !o.Force:
				errs[at] = fmt.Errorf("stop %s: %w; `sealane stop --force` ends it, and %s", i.Name, err, i.Spec.loss())
			case err != nil:
				errs[at] = fmt.Errorf("stop %s: %w", i.Name, err)
			}
			if o.Stopped != nil {
				o.Stopped(i.Name, err)
			}
		})
	}
	stopping.Wait()
	return errors.Join(errs...)
}

// wake makes the instance's worker look at the record again, and starts the worker where there is none.
func (m *Manager) wake(name Name) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil {
		return
	}
	w := m.workers[name]
	if w == nil {
		w = &worker{name: name, wake: make(chan struct{}, 1), settled: make(chan struct{}), stepped: make(chan struct{})}
		m.workers[name] = w
		ctx := m.ctx
		m.running.Go(func() { m.work(ctx, w) })
		return
	}
	w.poke()
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// interrupt ends the step under way, so that the worker sees a changed record at once.
func (m *Manager) interrupt(name Name) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.workers[name]; w != nil && w.interrupt != nil {
		w.interrupt()
	}
}

func (m *Manager) work(ctx context.Context, w *worker) {
	for {
		stepCtx, cancel := context.WithCancel(ctx)
		m.mu.Lock()
		w.interrupt, w.ended = cancel, false
		m.mu.Unlock()
		err := m.step(stepCtx, w)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errGone) && m.retire(w) {
			return
		}
		if !w.pause(ctx, m.judge(w, err)) {
			return
		}
	}
}

// retire ends the worker unless it was woken in the meantime: the name may have been created again.
func (m *Manager) retire(w *worker) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(w.wake) > 0 {
		return false
	}
	delete(m.workers, w.name)
	delete(m.observed, w.name)
	w.settle()
	return true
}

// settle tells those who wait that a step is over. It is called with Manager.mu held.
func (w *worker) settle() {
	close(w.stepped)
	w.stepped = make(chan struct{})
	select {
	case <-w.settled:
	default:
		close(w.settled)
	}
}

// judge records the outcome of a step, logs a new error once, and says how long to wait.
func (m *Manager) judge(w *worker, err error) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer w.settle()
	if err == nil || errors.Is(err, errGone) {
		if w.logged != "" {
			m.Log.Info("instance is well again", "instance", w.name)
		}
		w.failures, w.logged, w.firstTried = 0, "", time.Time{}
		if !w.ended {
			delete(m.observed, w.name)
		}
		return m.rest(w)
	}
	var wait tooSoon
	if errors.As(err, &wait) {
		return min(time.Duration(wait), lastRetry)
	}
	if errors.Is(err, store.ErrConflict) || errors.Is(err, context.Canceled) {
		return 0 // the record changed meanwhile
	}
	var busy *BusyError
	errors.As(err, &busy)
	m.observed[w.name] = observation{trouble: err.Error(), busy: busy}
	if w.logged != err.Error() {
		m.Log.Error("instance is not as it should be", "instance", w.name, "err", err)
		w.logged = err.Error()
	}
	if w.firstTried.IsZero() {
		w.firstTried = m.Now()
	}
	w.failures++
	if busy != nil {
		return busyRetry
	}
	return min(firstRetry<<min(w.failures-1, 16), lastRetry)
}

// rest is how long an instance at rest is left alone.
func (m *Manager) rest(w *worker) time.Duration {
	if w.due.IsZero() {
		return checkInterval
	}
	return min(checkInterval, max(0, w.due.Sub(m.Now())))
}

// pause waits for d or until the worker is woken. It returns false when ctx ended.
func (w *worker) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-w.wake:
	}
	return true
}

// tooSoon is what a step returns that would restart a node which keeps crashing: how long to leave it alone.
type tooSoon time.Duration

func (d tooSoon) Error() string { return "not to be restarted for " + time.Duration(d).String() }

func (m *Manager) checkRestart(w *worker) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := w.notBefore.Sub(m.Now()); d > 0 {
		return tooSoon(d)
	}
	return nil
}

// step does what the record asks for. It is idempotent: after a crash the next process begins it again.
func (m *Manager) step(ctx context.Context, w *worker) error {
	i, err := m.load(w.name)
	if codeOf(err) == NotFound || err == nil && i.Deleted {
		return errGone
	}
	if err != nil {
		return err
	}
	op := i.pending()
	switch {
	case op != nil && op.Verb == Delete:
		return m.tearDown(ctx, i, nil)
	case op != nil && op.Verb == Create && op.CancelRequested:
		return m.tearDown(ctx, i, &Failure{Cancelled, "the operation was cancelled"})
	}
	m.restartIfAsked(ctx, w, i)
	if err := m.checkRestart(w); err != nil {
		return err
	}
	if err := m.converge(ctx, w, &i); err != nil {
		tooLong := !w.firstTried.IsZero() && m.Now().Sub(w.firstTried) > createTimeout
		if op != nil && op.Verb == Create && ctx.Err() == nil && (errors.Is(err, ErrFatal) || tooLong) {
			m.Log.Error("create failed", "instance", w.name, "err", err)
			return m.tearDown(ctx, i, &Failure{codeOfFailure(err), fmt.Sprintf("create %s: %v", i.Name.ID, err)})
		}
		return err
	}
	if i.pending() == nil && i.State == Ready {
		return nil
	}
	i.State = Ready
	i.finish(nil, m.Now().UTC())
	if err := m.save(&i); err != nil {
		return err
	}
	m.Log.Info("instance is ready", "instance", w.name, "address", i.Address())
	return nil
}

func codeOfFailure(err error) Code {
	if c := codeOf(err); c != Internal {
		return c
	}
	return FailedPrecondition
}

// converge makes the certificates and the nodes what the record says. While a certificate can't be signed or kept the node
// is kept well with the last good ones, and the error comes afterwards.
//
// One time holds for all of it. What a gateway is given must fit together: with a cross-certificate that ends between two looks
// at the clock, the anchors would not be those of the chain, and the gateway would note of clients what they haven't shown.
func (m *Manager) converge(ctx context.Context, w *worker, i *Instance) error {
	now := m.Now()
	if err := m.dropOldAuth(i, now); err != nil {
		return err
	}
	failed := m.certify(i, now)
	w.due = i.oldAuthDue()
	if failed == nil && i.Certificates != nil {
		if coming := i.Certificates.At(now).Upcoming(); len(coming) > 0 {
			if w.due.IsZero() || coming[0].Due.Before(w.due) {
				w.due = coming[0].Due
			}
		}
	}
	m.mu.Lock()
	w.looked, w.certified = true, failed == nil
	m.mu.Unlock()
	if failed != nil && (errors.Is(failed, store.ErrConflict) || i.Certificates.Leaf == nil) {
		return failed
	}
	err := m.ensure(ctx, *i, now)
	m.mu.Lock()
	w.proved = err == nil
	if err == nil {
		w.served = i.version
	}
	m.mu.Unlock()
	if failed != nil && err != nil {
		return fmt.Errorf("%w; %w", failed, err)
	}
	if failed != nil {
		return failed
	}
	return err
}

func (m *Manager) ensure(ctx context.Context, i Instance, now time.Time) error {
	node, err := m.node(i, now)
	if err != nil {
		return err
	}
	return m.Runtime.Ensure(ctx, node, func(detail string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		o := m.observed[i.Name]
		o.detail = detail
		m.observed[i.Name] = o
	})
}

// node says what the instance's node is to run at a time.
func (m *Manager) node(i Instance, now time.Time) (Node, error) {
	admin, err := m.Key.Open(i.SealedAdmin, i.adminPurpose())
	if err != nil {
		return Node{}, fmt.Errorf("admin password of %s: %w", i.Name, err)
	}
	n := Node{
		ID: i.nodeID(0), Instance: i.Name, Version: i.Spec.RedisVersion, Directives: i.Spec.directives(),
		AdminPassword: string(admin), KeepDump: i.Spec.SnapshotPeriod > 0, MemoryLimit: i.Spec.memoryLimit(),
		Gateway: gateway.Snapshot{
			Listeners:   []gateway.Listener{{Address: i.Address(), TLS: i.Certificates != nil}},
			Connect:     i.connectHint(),
			Auth:        i.AuthVersion,
			MaxClients:  i.Spec.maxClients(),
			DataPath:    i.Spec.snapshotPath(),
			TLSPolicy:   i.Spec.TLS,
			IdleTimeout: i.Spec.idleTimeout(),
		},
		Host: i.Host,
	}
	if n.PasswordHashes, err = m.passwordHashes(i); err != nil {
		return Node{}, err
	}
	if i.Certificates != nil && i.Certificates.Leaf != nil {
		view := i.Certificates.At(now)
		if n.Gateway.Certificate, n.Gateway.PrivateKey, err = view.Chain(m.Key); err != nil {
			return Node{}, err
		}
		n.Bundle, n.Gateway.Anchors = view.Bundle(), view.Anchors()
		if err := addTestChains(&n.Gateway, view, m.Key, i.activeSampling(view)); err != nil {
			return Node{}, err
		}
	}
	return n, nil
}

// connectHint is what a client that comes the wrong way is told.
func (i Instance) connectHint() string {
	if i.Certificates == nil {
		return fmt.Sprintf("redis-cli -h %s -p %d", i.Host, i.Port)
	}
	where := ""
	if i.Name.Project != "local" {
		where += " --project " + i.Name.Project
	}
	if i.Name.Location != "local" {
		where += " --region " + i.Name.Location
	}
	return fmt.Sprintf("redis-cli --tls --cacert ca.pem -h %s -p %d (ca.pem: sealane ca bundle %s%s > ca.pem)",
		i.Host, i.Port, i.Name.ID, where)
}

// tearDown removes the nodes and leaves a tombstone that holds the operations.
func (m *Manager) tearDown(ctx context.Context, i Instance, failure *Failure) error {
	if err := m.Runtime.Remove(ctx, i.nodeID(0)); err != nil {
		return fmt.Errorf("remove %s: %w", i.Name, err)
	}
	i.finish(failure, m.Now().UTC())
	i.Deleted, i.State = true, Deleting
	i.Certificates, i.SealedAuth, i.OldAuth, i.SealedAdmin = nil, nil, nil, nil
	if err := m.save(&i); err != nil {
		return err
	}
	m.forgetLedger(i.UID)
	m.Log.Info("instance is removed", "instance", i.Name)
	return errGone
}

const (
	// crashWindow and crashesAtOnce: so many crashes, each within so long of the restart before, are followed by a
	// restart at once; a node that goes on crashing waits, twice as long each time.
	crashWindow   = time.Minute
	crashesAtOnce = 3
)

// watchExits counts and logs every process that ended by itself, and wakes the worker that restarts it.
func (m *Manager) watchExits() {
	m.mu.Lock()
	ctx := m.ctx
	m.mu.Unlock()
	if ctx == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-m.Runtime.Exits():
			m.exited(e)
		}
	}
}

func (m *Manager) exited(e Exit) {
	live, err := m.live()
	if err != nil {
		m.Log.Error("process ended", "node", e.NodeID, "process", e.Process, "reason", e.Reason, "err", err)
		return
	}
	for _, i := range live {
		if !strings.HasPrefix(e.NodeID, i.UID+"-") {
			continue
		}
		m.Log.Warn("process ended, restarting it", slog.Any("instance", i.Name), "process", e.Process, "reason", e.Reason)
		m.metrics.restarted(i.Name, e.Process)
		m.mu.Lock()
		o := m.observed[i.Name]
		o.trouble = "the " + e.Process + " ended (" + e.Reason + ") and is being restarted"
		m.observed[i.Name] = o
		if w := m.workers[i.Name]; w != nil {
			w.ended = true
			w.crashed(m.Now())
			if e.Process == "engine" {
				w.lastExit, w.lastExitTime = e.Reason, m.Now()
			}
		}
		m.mu.Unlock()
		m.wake(i.Name)
	}
}

// crashed is called with Manager.mu held.
func (w *worker) crashed(now time.Time) {
	if now.Sub(w.notBefore) >= crashWindow {
		w.crashes = 0
	}
	w.crashes++
	w.notBefore = now
	if extra := w.crashes - crashesAtOnce; extra > 0 {
		w.notBefore = now.Add(min(firstRetry<<min(extra, 16), lastRetry))
	}
}

// sweep forgets tombstones that are old enough.
func (m *Manager) sweep() {
	m.mu.Lock()
	ctx := m.ctx
	m.mu.Unlock()
	if ctx == nil {
		return
	}
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		m.sweepOnce()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (m *Manager) sweepOnce() {
	all, err := m.listPrefix(recordPrefix)
	if err != nil {
		m.Log.Error("sweep old operations", "err", err)
		return
	}
	m.sweepLedgers(all)
	for _, i := range all {
		if n := len(i.Operations); !i.Deleted || n > 0 && m.Now().Sub(i.Operations[n-1].Ended) < keepTombstones {
			continue
		}
		// A conflict means that the name is in use again.
		if err := m.Store.Delete(i.Name.String(), i.version); err != nil && !errors.Is(err, store.ErrConflict) {
			m.Log.Error("sweep old operations", "instance", i.Name, "err", err)
		}
	}
}

package instance

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/snapshot"
	"github.com/sealane/sealane/internal/store"
)

const (
	// checkInterval is how often an instance that is as it should be is checked, or sooner when its certificates fall due. A short
	// interval notices a clock that jumped or a machine that slept.
	checkInterval = 10 * time.Second

	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
	busyRetry  = time.Second // to see that a script has ended

	// applyTimeout is how long a caller waits for a change to be served. The API's HTTP server gives a request up after 30 s.
	applyTimeout = 10 * time.Second
)

// errGone ends a worker: the instance is deleted.
var errGone = errors.New("instance is gone")

// workers has a worker for each instance, which is a goroutine that makes the instance match its record, one step at a time.
type workers struct {
	step func(context.Context, *worker) error
	now  func() time.Time
	log  *slog.Logger

	// mu guards what follows, and the worker's fields that are not its goroutine's own.
	mu           sync.Mutex
	byName       map[Name]*worker
	observations map[Name]observation
	notes        map[Name]notes
	ctx          context.Context // of the goroutines; nil before start and after close
	cancel       context.CancelFunc
	goroutines   sync.WaitGroup
}

// worker is one instance's.
type worker struct {
	name Name
	wake chan struct{} // capacity 1

	// workers.mu guards these.
	interrupt        context.CancelFunc // ends the step under way
	firstStep        chan struct{}      // closed after the first step
	stepped          chan struct{}      // closed, and made anew, after each step
	processEnded     bool               // one of the node's processes ended by itself since the step under way began
	crashes          int                // of the node's processes, in a row
	restartNotBefore time.Time          // a node that keeps crashing is not restarted sooner
	applied          uint64             // the version of the record that the node was last made to match
	observed         bool               // a step has got as far as the certificates; certified and proved mean something from then on
	certified        bool               // all that the certificates' plan asked for is done
	proved           bool               // the node was last shown to match
	restart          *restart           // of the engine: asked for, and not begun
	lastExit         string             // how the engine last ended by itself
	lastExitTime     time.Time
	running          string // which engine runs, to the patch; "": not known

	// The worker's goroutine owns these.
	firstTried time.Time // the first failed step in a row
	failures   int       // failed steps in a row
	logged     string    // the last error that was logged
	// loggedReplicas is why replicas were not in sync when that was logged last.
	loggedReplicas string
	snapshot       *snapshotRun     // of the data, under way; nil: none is
	unsaved        snapshot.History // that could not be recorded yet; nil: all is
	faults         map[int]fault    // of replicas, by node
	rolling        time.Time        // since when a replica with a new engine has been copying the data; zero: none is
	due            time.Time        // when the certificates or the AUTH strings change next, or snapshots do; zero: nothing does
}

// observation is what is known of an instance beside its record.
type observation struct {
	trouble string     // why it is not as it should be; "" when it is
	detail  string     // what the operation under way is doing
	busy    *BusyError // if that is why
}

// notes are what a user should know of an instance that is as it should be, by kind; "": nothing.
type notes [noteKinds]string

const (
	memoryNote   = iota // the system memory is short
	snapshotNote        // the last snapshot has failed
	restoreNote         // about the data that were restored
	replicaNote         // which replicas are not in sync
	noteKinds
)

// setNote changes one note, and says whether it was another one before.
func (ws *workers) setNote(name Name, kind int, text string) (changed bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	n := ws.notes[name]
	changed = n[kind] != text
	n[kind] = text
	ws.notes[name] = n
	return changed
}

// note returns notes of an instance, by kind.
func (ws *workers) note(name Name, kinds ...int) (texts []string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, kind := range kinds {
		texts = append(texts, ws.notes[name][kind])
	}
	return texts
}

// start lets workers run from now on.
func (ws *workers) start() context.Context {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.ctx, ws.cancel = context.WithCancel(context.Background())
	return ws.ctx
}

// lifetime is the context of the goroutines: it ends when the server does.
func (ws *workers) lifetime() context.Context {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.ctx == nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		return ended
	}
	return ws.ctx
}

// close ends all workers and waits for them. It is idempotent.
func (ws *workers) close() {
	ws.mu.Lock()
	if ws.cancel != nil {
		ws.cancel()
	}
	ws.ctx = nil
	ws.mu.Unlock()
	ws.goroutines.Wait()
}

// settled returns when every worker has done its first step, or when ctx ends.
func (ws *workers) settled(ctx context.Context) {
	ws.mu.Lock()
	var waits []chan struct{}
	for _, w := range ws.byName {
		waits = append(waits, w.firstStep)
	}
	ws.mu.Unlock()
	for _, done := range waits {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// wake makes the instance's worker look at the record again, and starts the worker where there is none.
func (ws *workers) wake(name Name) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.ctx == nil {
		return
	}
	w := ws.byName[name]
	if w == nil {
		w = &worker{name: name, wake: make(chan struct{}, 1), firstStep: make(chan struct{}), stepped: make(chan struct{})}
		ws.byName[name] = w
		ctx := ws.ctx
		ws.goroutines.Go(func() { ws.run(ctx, w) })
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
func (ws *workers) interrupt(name Name) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w := ws.byName[name]; w != nil && w.interrupt != nil {
		w.interrupt()
	}
}

// run is a worker's goroutine.
func (ws *workers) run(ctx context.Context, w *worker) {
	for {
		stepCtx, cancel := context.WithCancel(ctx)
		ws.mu.Lock()
		w.interrupt, w.processEnded = cancel, false
		ws.mu.Unlock()
		err := ws.step(stepCtx, w)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errGone) && ws.remove(w) {
			return
		}
		if !w.pause(ctx, ws.recordOutcome(w, err)) {
			return
		}
	}
}

// remove ends the worker unless it was woken in the meantime: the name may have been created again.
func (ws *workers) remove(w *worker) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if len(w.wake) > 0 {
		return false
	}
	delete(ws.byName, w.name)
	delete(ws.observations, w.name)
	delete(ws.notes, w.name)
	w.stepEnded()
	return true
}

// stepEnded tells those who wait that a step is over. It is called with workers.mu held.
func (w *worker) stepEnded() {
	close(w.stepped)
	w.stepped = make(chan struct{})
	select {
	case <-w.firstStep:
	default:
		close(w.firstStep)
	}
}

// recordOutcome records how a step ended, logs a new error once, and says how long to wait for the next step.
func (ws *workers) recordOutcome(w *worker, err error) time.Duration {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	defer w.stepEnded()
	if err == nil || errors.Is(err, errGone) {
		if w.logged != "" {
			ws.log.Info("instance is well again", "instance", w.name)
		}
		w.failures, w.logged, w.firstTried = 0, "", time.Time{}
		if !w.processEnded {
			delete(ws.observations, w.name)
		}
		return ws.idleInterval(w)
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
	ws.observations[w.name] = observation{trouble: err.Error(), busy: busy}
	if w.logged != err.Error() {
		ws.log.Error("instance is not as it should be", "instance", w.name, "err", err)
		w.logged = err.Error()
	}
	if w.firstTried.IsZero() {
		w.firstTried = ws.now()
	}
	w.failures++
	if busy != nil {
		return busyRetry
	}
	return min(firstRetry<<min(w.failures-1, 16), lastRetry)
}

// idleInterval is how long an instance that is as it should be is left alone.
func (ws *workers) idleInterval(w *worker) time.Duration {
	if w.due.IsZero() {
		return checkInterval
	}
	return min(checkInterval, max(0, w.due.Sub(ws.now())))
}

// wakeBy makes the worker look again at a time, or sooner; zero: whenever.
func (w *worker) wakeBy(t time.Time) {
	if !t.IsZero() && (w.due.IsZero() || t.Before(w.due)) {
		w.due = t
	}
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

// observation is what is known of an instance beside its record.
func (ws *workers) observation(name Name) observation {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.observations[name]
}

// observe changes what is known of an instance beside its record.
func (ws *workers) observe(name Name, change func(*observation)) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	o := ws.observations[name]
	change(&o)
	ws.observations[name] = o
}

// waitEnd is why a wait for a worker ended.
type waitEnd int

const (
	waitMet   waitEnd = iota // what was waited for is so
	waitGone                 // there is no such worker, so the instance is deleted
	waitClose                // the workers end
	waitLong                 // it took too long, or the caller has gone
)

// await waits until something is true of an instance's worker. It looks again after each step. holds is called with mu held.
func (ws *workers) await(ctx context.Context, name Name, timeout <-chan time.Time, holds func(*worker) bool) waitEnd {
	for {
		ws.mu.Lock()
		running, w := ws.ctx, ws.byName[name]
		var stepped <-chan struct{}
		met := false
		if w != nil {
			stepped, met = w.stepped, holds(w)
		}
		ws.mu.Unlock()
		switch {
		case running == nil:
			return waitClose
		case w == nil:
			return waitGone
		case met:
			return waitMet
		}
		select {
		case <-stepped:
		case <-running.Done():
		case <-ctx.Done():
			return waitLong
		case <-timeout:
			return waitLong
		}
	}
}

// nextStep returns a channel that is closed when the step of an instance's worker that is under way, or else the next one, is over.
// alive is false where there is no worker.
func (ws *workers) nextStep(name Name) (over <-chan struct{}, alive bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := ws.byName[name]
	if ws.ctx == nil || w == nil {
		return nil, false
	}
	return w.stepped, true
}

// closing returns a channel that is closed when the workers end.
func (ws *workers) closing() <-chan struct{} {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.ctx == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return ws.ctx.Done()
}

// waitApplied returns when the instance's node matches the record as it was saved, or a later one.
func (ws *workers) waitApplied(ctx context.Context, i *Instance) error {
	timeout := time.NewTimer(applyTimeout)
	defer timeout.Stop()
	switch ws.await(ctx, i.Name, timeout.C, func(w *worker) bool { return w.applied >= i.version }) {
	case waitMet:
		return nil
	case waitGone:
		return notFound(i.Name.String())
	case waitClose:
		return &Error{Code: Unavailable, Reason: ServerStopping, Message: "the change is recorded, but the server is stopping: the next one makes it"}
	}
	trouble := ws.observation(i.Name).trouble
	if trouble == "" {
		trouble = "it takes longer than usual"
	}
	return &Error{Code: Unavailable, Reason: ChangeNotApplied, Message: "the change of '" + i.Name.String() + "' is recorded, but not served yet: " + trouble +
		"; the server goes on trying"}
}

// running is which engine an instance has, to the patch; "": it is not known.
func (ws *workers) running(name Name) string {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w := ws.byName[name]; w != nil {
		return w.running
	}
	return ""
}

// certificateHealth says whether all that was due for an instance's certificates is done, and whether the node was last shown to
// serve them; known is false before the first step.
func (ws *workers) certificateHealth(name Name) (certified, proved, known bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := ws.byName[name]
	if w == nil || !w.observed {
		return false, false, false
	}
	return w.certified, w.proved, true
}

package instance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/sealane/sealane/internal/systemmemory"
)

// restartTimeout is how long a caller waits for a restart. The API's HTTP server gives a request up after 30 s.
const restartTimeout = 25 * time.Second

// restart is a restart of an engine that was asked for.
type restart struct {
	force   bool
	stopped chan error // capacity 1: gets the outcome of ending the engine
}

// Engines are the engines of all instances.
type Engines struct {
	reader  *reader
	workers *workers
	runtime Runtime
}

// EngineStatus is what is observed of an instance's engine.
type EngineStatus struct {
	Memory EngineMemory

	// LastExit is how the engine last ended without being told to, since this server runs; "": it has not.
	LastExit     string
	LastExitTime time.Time
}

// Get shows what is observed of an instance's engine.
func (e *Engines) Get(ctx context.Context, name Name) (EngineStatus, error) {
	i, err := e.reader.get(name)
	if err != nil {
		return EngineStatus{}, err
	}
	var s EngineStatus
	if i.Spec.Backend != nil {
		s.Memory.Problem = "its engine is not Sealane's: backend " + i.Spec.Backend.Address
		return s, nil
	}
	s.LastExit, s.LastExitTime = e.workers.lastExit(name)
	reader, ok := e.runtime.(EngineMemoryReader)
	if !ok {
		s.Memory.Problem = "it is not known"
		return s, nil
	}
	s.Memory, err = reader.EngineMemory(ctx, i.primaryID())
	return s, err
}

// SystemMemory is what is used of an instance's memory, as its gateway last saw it; zero: it has not said.
func (e *Engines) SystemMemory(ctx context.Context, name Name) systemmemory.Usage {
	i, err := e.reader.get(name)
	statuser, ok := e.runtime.(GatewayStatuser)
	if err != nil || !ok || i.State == Creating {
		return systemmemory.Usage{}
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	s, err := statuser.GatewayStatus(ctx, i.nodeID(0))
	if err != nil || s.Memory == nil {
		return systemmemory.Usage{}
	}
	return *s.Memory
}

// Restart ends the engine of an instance and starts it again. The engine saves its data first. An engine that can't save them, or
// doesn't answer, goes on as it is, and the error says why; with force it is killed. The gateway and its clients stay. Restart returns
// nil once the instance serves again. When that takes long it returns Unavailable, and the server goes on.
func (e *Engines) Restart(ctx context.Context, name Name, force bool) error {
	i, err := e.reader.get(name)
	if err != nil {
		return err
	}
	if _, ok := e.runtime.(EngineStopper); !ok {
		return &Error{Code: FailedPrecondition, Message: "engines are not this server's to restart"}
	}
	if err := i.requireEngine("", "to restart", "restart it where it runs; clients stay connected to Sealane meanwhile"); err != nil {
		return err
	}
	if i.State == Creating || i.State == Deleting {
		return precondition("'%s' is in state %s: there is no engine to restart", name, i.State)
	}
	r := &restart{force: force, stopped: make(chan error, 1)}
	if err := e.workers.askForRestart(name, r); err != nil {
		return err
	}
	timeout := time.NewTimer(restartTimeout)
	defer timeout.Stop()
	select {
	case err := <-r.stopped:
		if err != nil {
			return i.notRestarted(err, force)
		}
	case <-ctx.Done():
		return e.restartGoesOn(name)
	case <-timeout.C:
		return e.restartGoesOn(name)
	}
	return e.waitProved(ctx, name, timeout.C)
}

// notRestarted is the error of an engine that could not be stopped. Where force was not used yet it says what that costs.
func (i Instance) notRestarted(err error, forced bool) error {
	if forced {
		return precondition("the engine of '%s' was not restarted: %v", i.Name, err)
	}
	return precondition("the engine of '%s' was not restarted: %v; force ends it, and %s", i.Name, err, i.lossByForcedRestart()).
		because(EngineStaysUp, "price", i.lossByForcedRestart())
}

// checkFits returns an error where an instance's data don't fit in its size.
func (e *Engines) checkFits(ctx context.Context, i Instance) error {
	const field = "memory_size_gb"
	reader, ok := e.runtime.(EngineInfoReader)
	if !ok {
		return nil
	}
	info, err := reader.EngineInfo(ctx, i.primaryID(), "memory")
	used, parseErr := strconv.ParseInt(info["used_memory"], 10, 64)
	if err != nil || parseErr != nil {
		return &Error{Code: FailedPrecondition, Err: errors.Join(err, parseErr),
			Message: field + ": the engine can't be asked how much its data take, so it can't be made smaller now; try again when the instance is READY"}
	}
	if have := i.Spec.maxMemory(); used > have {
		return &Error{Code: FailedPrecondition, Reason: DataTooLarge, Message: fmt.Sprintf("%s: %d: the data take %s, and there would be room for %s; ask for %d at least, or delete data first",
			field, i.Spec.MemorySizeGB, SizeText(used), SizeText(have), i.Spec.MemorySizeGB+int32((used-have+gib-1)/gib)),
			Violations: []Violation{{field, "the data don't fit"}}}
	}
	return nil
}

// askForRestart leaves a restart to the instance's worker, which alone starts and stops processes.
func (ws *workers) askForRestart(name Name, r *restart) error {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := ws.byName[name]
	switch {
	case w == nil || ws.ctx == nil:
		return &Error{Code: Unavailable, Reason: ServerStopping, Message: "the server is stopping: try again when it is back"}
	case w.restart != nil:
		return precondition("the engine of '%s' is being restarted already", name).because(RestartInProgress)
	}
	w.restart = r
	// The step under way may be waiting for this very engine.
	if w.interrupt != nil {
		w.interrupt()
	}
	w.poke()
	return nil
}

// restartIfAsked ends the engine if somebody asked for a restart; what follows in the step starts it again.
func (r *reconciler) restartIfAsked(ctx context.Context, w *worker, i *Instance) {
	asked := r.workers.beginRestart(w)
	if asked == nil {
		return
	}
	var err error
	if i.Replication != nil {
		err = r.restartPrimary(ctx, w, i, asked.force)
	} else {
		err = r.stopPrimary(ctx, w, *i, asked.force)
	}
	r.log.Info("engine ended for a restart", "instance", w.name, "force", asked.force, "err", err)
	r.workers.endRestart(w, err)
	asked.stopped <- err
}

// stopPrimary ends the engine that takes writes, after it has saved its data.
func (r *reconciler) stopPrimary(ctx context.Context, w *worker, i Instance, force bool) error {
	node, err := r.node(i, r.now())
	if err != nil {
		return err
	}
	return r.runtime.(EngineStopper).StopEngine(ctx, node, StopOptions{Force: force, Progress: func(what string) {
		r.workers.observe(w.name, func(o *observation) { *o = observation{trouble: "the engine is being restarted: " + what} })
	}})
}

// restartPrimary makes a replica the primary, which loses nothing, and ends the engine that was it. With force that is ended in any
// case, and then whoever has the most data takes over; where nobody has any, the same engine is started with what it has saved.
func (r *reconciler) restartPrimary(ctx context.Context, w *worker, i *Instance, force bool) error {
	rt := r.runtime.(Replicator)
	if err := r.followServed(rt, i); err != nil {
		return err
	}
	old, err := r.nodeOf(*i, i.Replication.Primary, r.now())
	if err != nil {
		return err
	}
	o := rt.ObserveEngine(ctx, old)
	for range 3 { // it may only be slow for a moment
		if !o.Answers() && ctx.Err() == nil {
			o = rt.ObserveEngine(ctx, old)
		}
	}
	switch {
	case !o.Answers() && force:
		return rt.KillEngine(ctx, old)
	case !o.Answers():
		return precondition("%s, the primary, does not answer (%s)", NodeName(i.Replication.Primary), o.Condition)
	}
	f, err := r.doFailover(ctx, i, Operation{Force: force})
	switch {
	case err == nil:
		f.Reason = "restart"
		if err := r.noteFailover(ctx, i, f); err != nil {
			return err
		}
	case !force:
		return err
	default:
		return r.stopPrimary(ctx, w, *i, true)
	}
	return rt.KillEngine(ctx, old)
}

// beginRestart returns the restart that was asked for, nil if none was.
func (ws *workers) beginRestart(w *worker) *restart {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w.restart != nil {
		w.proved = false
		ws.observations[w.name] = observation{trouble: "the engine is being restarted"}
	}
	return w.restart
}

// endRestart forgets the restart that was asked for, and, where it worked, the crashes before it.
func (ws *workers) endRestart(w *worker, err error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.restart = nil
	if err == nil {
		w.crashes, w.restartNotBefore = 0, time.Time{}
	}
}

// waitProved waits until the instance has been proved to serve again.
func (e *Engines) waitProved(ctx context.Context, name Name, timeout <-chan time.Time) error {
	switch e.workers.await(ctx, name, timeout, func(w *worker) bool { return w.proved }) {
	case waitMet, waitGone:
		return nil
	}
	return e.restartGoesOn(name)
}

func (e *Engines) restartGoesOn(name Name) error {
	trouble := e.workers.observation(name).trouble
	if trouble == "" {
		trouble = "it loads its data"
	}
	return &Error{Code: Unavailable, Reason: RestartInProgress, Message: fmt.Sprintf("the restart of '%s' takes its time, and goes on: %s", name, trouble)}
}

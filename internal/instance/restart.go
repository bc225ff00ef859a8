package instance

import (
	"context"
	"fmt"
	"time"
)

// restartTimeout is how long a caller waits for a restart. The API's HTTP server gives a request up after 30 s.
const restartTimeout = 25 * time.Second

// restart is one that was asked for.
type restart struct {
	force   bool
	stopped chan error // capacity 1: how ending the engine went
}

// RestartEngine ends the engine of an instance and starts it again. The engine saves its data first; one that can't, or doesn't
// answer, goes on as it is, and the error says why, unless force says to kill it. The gateway stays, and its clients with it. It
// returns nil once the instance serves again, and Unavailable when that takes long, while the server goes on.
func (m *Manager) RestartEngine(ctx context.Context, name Name, force bool) error {
	i, err := m.Get(name)
	if err != nil {
		return err
	}
	if _, ok := m.Runtime.(EngineStopper); !ok {
		return &Error{Code: Unimplemented, Message: "engines are not this server's to restart"}
	}
	if i.State == Creating || i.State == Deleting {
		return precondition("'%s' is in state %s: there is no engine to restart", name, i.State)
	}
	r := &restart{force: force, stopped: make(chan error, 1)}
	if err := m.askForRestart(name, r); err != nil {
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
		return m.restartGoesOn(name)
	case <-timeout.C:
		return m.restartGoesOn(name)
	}
	return m.servesAgain(ctx, name, timeout.C)
}

// notRestarted is the error of an engine that could not be stopped. Where force was not used yet it says what that costs.
func (i Instance) notRestarted(err error, forced bool) error {
	if forced {
		return precondition("the engine of '%s' was not restarted: %v", i.Name, err)
	}
	return precondition("the engine of '%s' was not restarted: %v; force ends it, and %s", i.Name, err, i.Spec.loss()).
		because(EngineStaysUp, "price", i.Spec.loss())
}

func (m *Manager) askForRestart(name Name, r *restart) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.workers[name]
	switch {
	case w == nil || m.ctx == nil:
		return &Error{Code: Unavailable, Reason: ServerStopping, Message: "the server is stopping: try again when it is back"}
	case w.restart != nil:
		return precondition("the engine of '%s' is being restarted already", name).because(RestartInProgress)
	}
	w.restart = r
	// The step under way may be waiting for just this engine.
	if w.interrupt != nil {
		w.interrupt()
	}
	w.poke()
	return nil
}

// restartIfAsked ends the engine; what follows in the step starts it again.
func (m *Manager) restartIfAsked(ctx context.Context, w *worker, i Instance) {
	m.mu.Lock()
	r := w.restart
	if r != nil {
		w.proved = false
		m.observed[w.name] = observation{trouble: "the engine is being restarted"}
	}
	m.mu.Unlock()
	if r == nil {
		return
	}
	node, err := m.node(i, m.Now())
	if err == nil {
		err = m.Runtime.(EngineStopper).StopEngine(ctx, node, StopOptions{Force: r.force, Progress: func(what string) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.observed[w.name] = observation{trouble: "the engine is being restarted: " + what}
		}})
	}
	m.Log.Info("engine ended for a restart", "instance", w.name, "force", r.force, "err", err)
	m.mu.Lock()
	w.restart = nil
	if err == nil {
		w.crashes, w.notBefore = 0, time.Time{}
	}
	m.mu.Unlock()
	r.stopped <- err
}

// servesAgain waits until the instance has been proved to serve.
func (m *Manager) servesAgain(ctx context.Context, name Name, timeout <-chan time.Time) error {
	for {
		m.mu.Lock()
		w := m.workers[name]
		proved := w != nil && w.proved
		var stepped <-chan struct{}
		if w != nil {
			stepped = w.stepped
		}
		m.mu.Unlock()
		if proved || w == nil {
			return nil
		}
		select {
		case <-stepped:
		case <-ctx.Done():
			return m.restartGoesOn(name)
		case <-timeout:
			return m.restartGoesOn(name)
		}
	}
}

func (m *Manager) restartGoesOn(name Name) error {
	m.mu.Lock()
	trouble := m.observed[name].trouble
	m.mu.Unlock()
	if trouble == "" {
		trouble = "it loads its data"
	}
	return &Error{Code: Unavailable, Reason: RestartInProgress, Message: fmt.Sprintf("the restart of '%s' takes its time, and goes on: %s", name, trouble)}
}

// loss is the price of ending an engine that has not saved its data.
func (s Spec) loss() string {
	if s.SnapshotPeriod > 0 {
		return "what was written since its last snapshot is lost"
	}
	return "all its data are lost, because its persistence is off"
}

// text says what to do about a script that runs.
func (e *BusyError) text(i Instance, now time.Time) string {
	running := int(now.Sub(e.Since).Seconds())
	end := fmt.Sprintf("`sealane instances restart %s --force` ends the engine, and %s", i.Name.ID, i.Spec.loss())
	if e.Unkillable {
		return fmt.Sprintf("a script or function that has written has been running in the engine for %d s, so the engine refuses to end it (UNKILLABLE), "+
			"and answers no client until it is done: wait for it, or %s", running, end)
	}
	return fmt.Sprintf("a script or function has been running in the engine for %d s, which answers no client until it is done: wait for it, or end it with "+
		"SCRIPT KILL (FUNCTION KILL); if it has written, the engine refuses that (UNKILLABLE), and then %s", running, end)
}

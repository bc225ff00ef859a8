package instance

import (
	"context"
	"log/slog"
	"strings"
	"time"
)

// What happens when a gateway or an engine crashes: the worker finds out, and starts it again. What becomes of an engine's clients
// meanwhile is decided by the gateway: upstream.fail in internal/relay.

const (
	// crashWindow and crashesAtOnce: so many crashes, each within so long of the restart before, are followed by a
	// restart at once. A node that goes on crashing waits, twice as long each time.
	crashWindow   = time.Minute
	crashesAtOnce = 3
)

// tooSoon is what a step returns that would restart a node which keeps crashing: how long to leave it alone.
type tooSoon time.Duration

func (d tooSoon) Error() string {
	return "it keeps ending, so it is started again in " + (time.Duration(d) + time.Second - 1).Truncate(time.Second).String() + " at the earliest"
}

// checkRestart returns an error while a node that keeps crashing is to be left alone.
func (ws *workers) checkRestart(w *worker) error {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if d := w.restartNotBefore.Sub(ws.now()); d > 0 {
		return tooSoon(d)
	}
	return nil
}

// watchExits counts and logs every process that ended by itself, and wakes the worker that restarts it.
func (r *reconciler) watchExits(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-r.runtime.Exits():
			r.exited(e)
		}
	}
}

func (r *reconciler) exited(e Exit) {
	live, err := r.records.live()
	if err != nil {
		r.log.Error("process ended", "node", e.NodeID, "process", e.Process, "reason", e.Reason, "err", err)
		return
	}
	for _, i := range live {
		if !strings.HasPrefix(e.NodeID, i.UID+"-") {
			continue
		}
		r.log.Warn("process ended, restarting it", slog.Any("instance", i.Name), "process", e.Process, "reason", e.Reason)
		r.restarted(i.Name, e.Process)
		r.workers.crashed(i.Name, e)
		r.workers.wake(i.Name)
	}
}

// crashed notes that one of an instance's processes ended by itself.
func (ws *workers) crashed(name Name, e Exit) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	o := ws.observations[name]
	o.trouble = "the " + e.Process + " ended (" + e.Reason + ") and is being restarted"
	ws.observations[name] = o
	w := ws.byName[name]
	if w == nil {
		return
	}
	now := ws.now()
	w.processEnded = true
	w.delayRestart(now)
	if e.Process == "engine" {
		w.lastExit, w.lastExitTime = e.Reason, now
	}
}

// delayRestart counts a crash, and says when the node may be restarted. It is called with workers.mu held.
func (w *worker) delayRestart(now time.Time) {
	if now.Sub(w.restartNotBefore) >= crashWindow {
		w.crashes = 0
	}
	w.crashes++
	w.restartNotBefore = now
	if extra := w.crashes - crashesAtOnce; extra > 0 {
		w.restartNotBefore = now.Add(min(firstRetry<<min(extra, 16), lastRetry))
	}
}

// lastExit is how an instance's engine last ended by itself; "": it has not since this server runs.
func (ws *workers) lastExit(name Name) (reason string, at time.Time) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w := ws.byName[name]; w != nil {
		return w.lastExit, w.lastExitTime
	}
	return "", time.Time{}
}

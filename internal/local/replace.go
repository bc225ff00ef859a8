package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/process"
)

// How a node's engine is replaced: the new one is started beside it, in another slot, and gets the data. Then clients are held, the
// gateway is given a snapshot with the new one's socket, and clients go on there. The gateway's snapshot on disk is the point of no
// return: before it, every failure leaves the old engine serving and nothing of the new one; after it, only the record is behind.

const (
	// replacePoll is how often an engine that copies data is asked how far it is; catchUpPoll is that while clients are held.
	replacePoll = 50 * time.Millisecond
	catchUpPoll = 500 * time.Microsecond
	// holdLimit ends a hold by itself, if the server dies meanwhile. Half of settleTime is how long requests in flight are waited for, and
	// catchUp how long the new engine may take to have what the old one had answered by then.
	holdLimit  = 5 * time.Second
	settleTime = time.Second
	catchUp    = 2 * time.Second
	// holdAttempts and holdPause: what was in flight may be a slow command, which the next attempt won't meet.
	holdAttempts = 20
	holdPause    = time.Second
)

// replacement is one replacement of an engine under way.
type replacement struct {
	*Runtime
	n        *node
	gate     instance.Node // whose gateway has the clients, as it is to serve them afterwards
	from, to instance.Node
	old, new *engine.Engine
	bound    process.MemoryBound // of the new one
	progress func(string)
}

// failed is an error that a user may read; err is for the log.
func failed(err error, format string, args ...any) error {
	return &instance.Error{Code: instance.FailedPrecondition, Message: fmt.Sprintf(format, args...), Err: err}
}

// ReplaceEngine implements EngineReplacer.
func (l *Runtime) ReplaceEngine(ctx context.Context, from, to instance.Node, data instance.DataSource, progress func(string)) (time.Duration, error) {
	n := l.node(to.ID)
	n.Lock()
	defer n.Unlock()
	r := &replacement{Runtime: l, n: n, gate: front(to), from: from, to: to, old: n.engine.Load(), progress: progress}
	if r.old == nil || isClosed(r.old.Done()) {
		return 0, failed(instance.ErrNoEngine, "the instance's engine has ended; try again when the instance is READY")
	}
	held, err := r.run(ctx, data)
	if err == nil {
		r.takeOver()
		return held, nil
	}
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*killTimeout)
	defer cancel()
	if r.new != nil {
		defer r.new.Release()
	}
	if removeErr := l.removeEngine(cleanup, to.ID, to.Slot); removeErr != nil {
		err = errors.Join(err, removeErr) // the next Ensure tries again
	}
	return held, err
}

func (r *replacement) run(ctx context.Context, data instance.DataSource) (time.Duration, error) {
	if err := r.removeEngine(ctx, r.to.ID, r.to.Slot); err != nil {
		return 0, failed(err, "what an earlier attempt has left can't be removed; the server's log says why")
	}
	if err := os.MkdirAll(r.dirOf(r.to), 0o700); err != nil {
		return 0, diskError(err, "make room for the new engine")
	}
	if data != nil {
		if err := r.load(ctx, data); err != nil {
			return 0, err
		}
		return r.switchOver(ctx, func(context.Context) error { return nil })
	}
	return r.copyAndSwitch(ctx)
}

// front is the node whose gateway leads clients to a node's engine.
func front(node instance.Node) instance.Node {
	if node.Front != nil {
		return *node.Front
	}
	return node
}

// start starts the new engine. extra are directives for now.
func (r *replacement) start(ctx context.Context, extra map[string]string, timeout time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	e, err := r.startEngine(limited, r.to, extra)
	if err != nil {
		return r.notStarted(ctx, err)
	}
	r.new = e
	r.bound = boundEngine(e, groupName(r.to.ID, r.to.Slot), r.to.MemoryLimit)
	return nil
}

func (r *replacement) notStarted(ctx context.Context, err error) error {
	var ended *engine.StartError
	var diskFull bool
	for _, e := range []error{unix.ENOSPC, unix.EDQUOT, unix.EROFS} {
		diskFull = diskFull || errors.Is(err, e)
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &ended):
		return failed(err, "the engine of %s ended at its start (%s); the server's log has its last words", r.to.Version, ended.Exit)
	case diskFull:
		return diskError(err, "start the new engine")
	case errors.Is(err, context.DeadlineExceeded):
		return failed(err, "the engine of %s did not answer in time after its start; see whether it runs on this machine by itself", r.to.Version)
	}
	return failed(err, "the engine of %s can't be started; the server's log says why", r.to.Version)
}

// diskError says that something can't be written.
func diskError(err error, verb string) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &instance.Error{Code: instance.ResourceExhausted, Reason: instance.DiskFull, Message: "can't " + verb + ": the server's disk is full; free space in its state folder and try again", Err: err}
	}
	return failed(err, "can't %s: the server's state folder can't be written; the server's log says why", verb)
}

// engineFailed is an error of the instance's engine, which may just have ended.
func engineFailed(e *engine.Engine, err error) error {
	select {
	case <-e.Done():
		return engineEnded(e, err)
	case <-time.After(replacePoll):
		return failed(err, "the instance's engine does not answer; try again when the instance is READY")
	}
}

func engineEnded(e *engine.Engine, err error) error {
	return failed(errors.Join(instance.ErrNoEngine, err), "the instance's engine ended meanwhile (%s); try again when the instance is READY", e.Exit())
}

// errEngineEnded is why work for an engine is given up.
var errEngineEnded = errors.New("the engine ended")

// tend lets work go on that may take long, and restarts the gateway of the node's clients if that ends meanwhile: nobody else does while the
// node is locked. It ends the work when the engine ends.
func (l *Runtime) tend(ctx context.Context, node instance.Node, e *engine.Engine, work func(context.Context) error) error {
	gate := front(node)
	n := l.node(gate.ID)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	again := time.NewTicker(holdPause)
	defer again.Stop()
	gatewayEnd := n.gateway.Done()
	for {
		select {
		case err := <-done:
			return err
		case <-e.Done():
			cancel(errEngineEnded)
			return engineEnded(e, <-done)
		case <-gatewayEnd:
			gatewayEnd = nil
		case <-again.C:
		}
		if isClosed(n.gateway.Done()) && l.ensureGateway(ctx, n, gate, func(string) {}) == nil {
			gatewayEnd = n.gateway.Done()
		}
	}
}

// switchOver holds clients until the new engine has all that the old one has answered, and moves them there. catchUp waits for that. It
// returns for how long clients were held.
func (r *replacement) switchOver(ctx context.Context, catchUp func(context.Context) error) (held time.Duration, err error) {
	r.progress("moving the clients to the new engine")
	for attempt := range holdAttempts {
		if attempt > 0 {
			if err := r.tend(ctx, r.from, r.old, func(ctx context.Context) error { return pause(ctx, holdPause) }); err != nil {
				return 0, err
			}
		}
		var busy bool
		if held, busy, err = r.trySwitch(ctx, catchUp); !busy {
			return held, err
		}
		r.progress(fmt.Sprintf("waiting for a moment in which no client's request is under way (%v)", err))
	}
	return 0, failed(err, "clients' requests were under way each time that they were to move to the new engine: %v; try again when there are fewer long ones", err)
}

// trySwitch is one attempt. busy says that clients' requests were in flight for too long, so that another attempt may succeed.
func (r *replacement) trySwitch(ctx context.Context, catchUp func(context.Context) error) (held time.Duration, busy bool, err error) {
	client := gateway.NewClient(r.nodeDir(r.gate.ID))
	ctx, cancel := context.WithTimeout(ctx, holdLimit)
	defer cancel()
	status, err := client.Status(ctx)
	if err != nil {
		return 0, false, failed(err, "the gateway does not answer; try again when the instance is READY")
	}
	snapshot := r.snapshotFor(r.gate, status)
	snapshot.Generation = status.Generation + 1
	began := time.Now()
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), holdLimit)
		defer cancel()
		if err != nil {
			_ = r.old.RefuseWrites(after, false) // where the engine doesn't answer, the next Ensure sets it
			_, _ = client.Release(after)         // a gateway that doesn't answer ends the hold by itself
			return
		}
		r.awaitClients(after, client)
		held = time.Since(began)
	}()
	if _, err := client.Hold(ctx, settleTime); err != nil {
		return 0, errors.Is(err, gateway.ErrBusy), failed(err, "the gateway does not hold its clients; try again when the instance is READY")
	}
	// Should the hold end too early, clients get errors, and not answers for what is then lost.
	if err := r.old.RefuseWrites(ctx, true); err != nil {
		return 0, false, engineFailed(r.old, err)
	}
	if _, err := client.Hold(ctx, holdLimit); err != nil {
		return 0, errors.Is(err, gateway.ErrBusy), failed(err, "the gateway does not hold its clients; try again when the instance is READY")
	}
	if err := catchUp(ctx); err != nil {
		return 0, false, err
	}
	if isClosed(r.new.Done()) {
		return 0, false, failed(nil, "the new engine ended (%s) before it took over; try again", r.new.Exit())
	}
	if err := r.apply(ctx, client, snapshot); err != nil {
		return 0, false, failed(err, "the gateway could not take the new engine over; the server's log says why")
	}
	return 0, false, nil
}

// awaitClients returns when the clients go on with the new engine.
func (r *replacement) awaitClients(ctx context.Context, client *gateway.Client) {
	for {
		if status, err := client.Status(ctx); err != nil || status.Hold == nil || pause(ctx, catchUpPoll) != nil {
			return
		}
	}
}

// apply gives the gateway the snapshot with the new engine.
func (r *replacement) apply(ctx context.Context, client *gateway.Client, s gateway.Snapshot) error {
	return r.applyForSure(ctx, client, r.node(r.gate.ID), s, func() bool {
		served, err := r.ServedEngine(r.gate.ID)
		return err == nil && served == instance.EngineRef{NodeID: r.to.ID, Slot: r.to.Slot}
	})
}

// takeOver makes the new engine the node's own. The old one goes on until the next Ensure.
func (r *replacement) takeOver() {
	r.n.requestStop("engine")
	r.old.Release()
	r.n.boundMu.Lock()
	r.n.bounded = 0
	r.n.boundMu.Unlock()
	r.takeEngine(r.n, r.to, r.new)
	r.n.restored.Store(nil) // what was noted of the old one's data
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

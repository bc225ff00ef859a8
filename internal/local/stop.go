package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/process"
)

const (
	// killTimeout bounds the wait for a script that was asked to end, and for a process that was killed.
	killTimeout = 20 * time.Second
	// progressInterval is how often progress is reported while something takes long.
	progressInterval = 5 * time.Second
)

// Stop implements Runtime.
func (l *Runtime) Stop(ctx context.Context, node instance.Node, how instance.StopOptions) error {
	n := l.node(node.ID)
	n.Lock()
	defer n.Unlock()
	n.requestStop("engine", "gateway")
	how.Report("its clients are being drained")
	if err := l.stopGateway(ctx, l.nodeDir(node.ID)); err != nil || node.Gateway.Backend != nil {
		return err
	}
	// Where a server was killed while it replaced the engine, the one that has the clients' data need not be the recorded one.
	if slot, err := l.ServedSlot(node.ID); err == nil {
		node.Slot = slot
	}
	if err := l.stopEngine(ctx, n, node, how); err != nil {
		return err
	}
	return l.removeOtherEngines(ctx, node)
}

// StopEngine implements EngineStopper.
func (l *Runtime) StopEngine(ctx context.Context, node instance.Node, how instance.StopOptions) error {
	n := l.node(node.ID)
	n.Lock()
	defer n.Unlock()
	n.stopMu.Lock()
	requested := n.stopRequested["engine"]
	n.stopMu.Unlock()
	n.requestStop("engine")
	err := l.stopEngine(ctx, n, node, how)
	if err != nil && requested != nil {
		requested.Store(false) // the engine goes on, so its end is news again
	}
	return err
}

func (l *Runtime) stopEngine(ctx context.Context, n *node, node instance.Node, how instance.StopOptions) error {
	limited, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	err := l.saveAndStop(limited, n, node, how)
	if err == nil {
		removeGroup(l.dirOf(node))
		return nil
	}
	if !how.Force || ctx.Err() != nil {
		return err
	}
	how.Report(fmt.Sprintf("its engine is being killed, because: %v", err))
	dir := l.dirOf(node)
	err = killListener(ctx, engine.Socket(dir), engine.Lock(dir))
	removeGroup(dir)
	return err
}

// saveAndStop lets the engine save its data and end. A script that is in the way is asked to end too.
func (l *Runtime) saveAndStop(ctx context.Context, n *node, node instance.Node, how instance.StopOptions) error {
	e := n.engine.Load()
	if e == nil || isClosed(e.Done()) || e.Dir() != l.dirOf(node) {
		err := reportWhile(how, "waiting for its engine to answer", func() (err error) {
			e, err = engine.Adopt(ctx, l.dirOf(node), node.AdminPassword)
			return err
		})
		if errors.Is(err, process.ErrNotRunning) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the engine stays up: %w", err)
		}
		defer e.Release()
	}
	stop := func() error {
		return reportWhile(how, "its engine is saving its data", func() error { return e.Stop(ctx, true) })
	}
	err := stop()
	if engine.IsBusy(err) {
		how.Report("a script or function is running in its engine, which is asked to end it (SCRIPT KILL, FUNCTION KILL)")
		killCtx, cancel := context.WithTimeout(ctx, killTimeout)
		defer cancel()
		if err = e.KillScript(killCtx); err == nil {
			err = stop()
		}
	}
	switch {
	case errors.Is(err, engine.ErrUnkillable):
		if n.busy == nil {
			n.busy = &instance.BusyError{Since: time.Now().Add(-scriptLimit)}
		}
		n.busy.Unkillable = true
		return fmt.Errorf("the engine stays up: %w", err)
	case err != nil:
		return fmt.Errorf("the engine stays up, because it could not save its data: %w", err)
	}
	return nil
}

// reportWhile says every few seconds for how long something has been waited for.
func reportWhile(how instance.StopOptions, what string, f func() error) error {
	how.Report(what)
	done := make(chan error, 1)
	go func() { done <- f() }()
	began, tick := time.Now(), time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			how.Report(fmt.Sprintf("%s (%d s)", what, int(time.Since(began).Seconds())))
		}
	}
}

// stopGateway lets the gateway drain and ends it if that takes too long.
func (l *Runtime) stopGateway(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	p, err := find(ctx, gateway.Socket(dir), gatewayLock(dir))
	if errors.Is(err, process.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	defer p.Release()
	if err := gateway.NewClient(dir).Stop(ctx); err == nil {
		select {
		case <-p.Done():
			return nil
		case <-ctx.Done():
		}
	}
	return kill(p)
}

// KillNode ends a node's processes at once. What its engine has not saved is lost.
func (l *Runtime) KillNode(ctx context.Context, nodeID string) error {
	dir := l.nodeDir(nodeID)
	errs := []error{killListener(ctx, gateway.Socket(dir), gatewayLock(dir))}
	for _, slot := range l.slots(nodeID) {
		dir := l.engineDir(nodeID, slot)
		errs = append(errs, killListener(ctx, engine.Socket(dir), engine.Lock(dir)))
		removeGroup(dir)
	}
	return errors.Join(errs...)
}

// KillAll ends the processes of all nodes that have a folder, whether there is a record of them or not. Engines get SIGTERM first, on
// which those from 7.0 on save their data.
func (l *Runtime) KillAll(ctx context.Context) error {
	folders, err := os.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("find the nodes: %w", err)
	}
	var errs []error
	for _, f := range folders {
		for _, slot := range l.slots(f.Name()) {
			terminate(ctx, l.engineDir(f.Name(), slot))
		}
		errs = append(errs, l.KillNode(ctx, f.Name()))
	}
	return errors.Join(errs...)
}

// terminate asks an engine to end, and gives it as much time as somebody can be expected to wait.
func terminate(ctx context.Context, dir string) {
	p, err := process.Adopt(engine.Socket(dir))
	if err != nil {
		return
	}
	defer p.Release()
	if p.Stopped() || p.Signal(syscall.SIGTERM) != nil {
		return
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
	case <-time.After(killTimeout):
	}
}

func killListener(ctx context.Context, socket, lock string) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	p, err := find(ctx, socket, lock)
	if errors.Is(err, process.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Release()
	return kill(p)
}

func kill(p *process.Process) error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", p.Identity().PID, err)
	}
	select {
	case <-p.Done():
		return nil
	case <-time.After(killTimeout):
		return fmt.Errorf("process %d was killed and has not ended for %v: the system can't end it, look for its disk", p.Identity().PID, killTimeout)
	}
}

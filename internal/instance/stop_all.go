package instance

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

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
	live, err := m.records.live()
	if err != nil {
		return err
	}
	errs := make([]error, len(live))
	var stopping sync.WaitGroup
	for at, i := range live {
		stopping.Go(func() {
			err := m.reconciler.stop(ctx, i, o)
			switch {
			case err != nil && ctx.Err() == nil && !o.Force:
				errs[at] = fmt.Errorf("stop %s: %w; %s ends it, and %s", i.Name, err, m.reconciler.commands.forceStop(), i.Spec.lossByForce())
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

// stop stops an instance's node. No worker may run.
func (r *reconciler) stop(ctx context.Context, i Instance, o StopAllOptions) error {
	node, err := r.node(i, r.now())
	if err != nil {
		return err
	}
	return r.runtime.Stop(ctx, node, StopOptions{Force: o.Force, Progress: func(what string) {
		if o.Progress != nil {
			o.Progress(i.Name, what)
		}
	}})
}

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
	how := StopOptions{Force: o.Force, Progress: func(what string) {
		if o.Progress != nil {
			o.Progress(i.Name, what)
		}
	}}
	if i.Replication != nil {
		return r.stopNodes(ctx, i, how)
	}
	node, err := r.node(i, r.now())
	if err != nil {
		return err
	}
	return r.runtime.Stop(ctx, node, how)
}

// stopNodes stops several nodes: first the gateways, then the primary, which saves the data, and then the replicas, which need not.
func (r *reconciler) stopNodes(ctx context.Context, i Instance, how StopOptions) error {
	rt, ok := r.runtime.(Replicator)
	if !ok {
		return nil
	}
	if served, err := rt.ServedEngine(i.nodeID(0)); err == nil {
		if number, ok := i.numberOf(served.NodeID); ok && i.Replication.node(number) != nil {
			i.Replication = i.Replication.clone()
			i.Replication.Primary = number // where the record is behind
		}
	}
	nodes, err := r.allNodes(i, r.now())
	if err != nil {
		return err
	}
	how.Report("its clients are being drained")
	errs := make([]error, len(i.Replication.Nodes))
	var all sync.WaitGroup
	for at, n := range i.Replication.Nodes {
		all.Go(func() { errs[at] = rt.StopGateway(ctx, i.nodeID(n.Number)) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := r.runtime.(EngineStopper).StopEngine(ctx, nodes[i.Replication.Primary], how); err != nil {
		return err
	}
	errs = nil
	for _, k := range i.Replication.replicas() {
		errs = append(errs, rt.KillEngine(ctx, nodes[k]))
	}
	return errors.Join(errs...)
}

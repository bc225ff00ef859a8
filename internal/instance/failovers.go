package instance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealane/sealane/internal/failover"
)

const (
	// unplannedLimit bounds a failover, whatever the nodes do.
	unplannedLimit = 10 * time.Second
	// plannedAttempts and plannedPause: what was under way may be a slow command, which the next attempt won't meet; and replicas are not
	// linked yet just after another failover.
	plannedAttempts = 80
	plannedPause    = 250 * time.Millisecond
)

// changing is an instance's nodes while its primary changes. It implements failover.Nodes.
type changing struct {
	reconciler *reconciler
	runtime    Replicator
	instance   Instance
	nodes      map[int]Node
}

func (c changing) Observe(ctx context.Context, k int) failover.Observation {
	return c.runtime.ObserveEngine(ctx, c.nodes[k])
}
func (c changing) Kill(ctx context.Context, k int) error {
	return c.runtime.KillEngine(ctx, c.nodes[k])
}
func (c changing) Promote(ctx context.Context, k int) error {
	return c.runtime.PromoteEngine(ctx, c.nodes[k])
}
func (c changing) RefuseWrites(ctx context.Context, k int, refuse bool) error {
	return c.runtime.RefuseWrites(ctx, c.nodes[k], refuse)
}
func (c changing) Follow(ctx context.Context, k, primary int) error {
	return c.runtime.FollowEngine(ctx, c.nodes[k], c.nodes[primary].Replication.Address)
}
func (c changing) Hold(ctx context.Context, limit time.Duration) error {
	return c.runtime.HoldClients(ctx, c.instance.nodeID(0), limit)
}
func (c changing) Release(ctx context.Context) error {
	return c.runtime.ReleaseClients(ctx, c.instance.nodeID(0))
}

// CutReplicas gives the gateway of a node the snapshot of one whose engine is a replica.
func (c changing) CutReplicas(ctx context.Context, k int) error {
	n := c.nodes[k]
	replication := *n.Replication
	for _, other := range c.nodes {
		if other.ID != n.ID {
			replication.Primary = other.Replication.Address // which one doesn't matter: it is not this one
		}
	}
	n.Replication = &replication
	return c.runtime.OfferGateway(ctx, n)
}

// Serve gives the endpoint's gateway the snapshot with another primary.
func (c changing) Serve(ctx context.Context, k int) error {
	i := c.instance
	i.Replication = i.Replication.clone()
	i.Replication.Primary = k
	endpoint, err := c.reconciler.nodeOf(i, 0, c.reconciler.now())
	if err != nil {
		return err
	}
	return c.runtime.ApplyGateway(ctx, endpoint)
}

// changing prepares a change of an instance's primary.
func (r *reconciler) changing(i Instance) (changing, error) {
	nodes, err := r.allNodes(i, r.now())
	return changing{r, r.runtime.(Replicator), i, nodes}, err
}

// failOver replaces the primary, which has failed. After nil the record says so, unless it can't be written.
func (r *reconciler) failOver(ctx context.Context, i *Instance, m *monitor, why string, since time.Time) error {
	c, err := r.changing(*i)
	if err != nil {
		return err
	}
	// Once it has begun it is not to be interrupted by news of the fault.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unplannedLimit)
	defer cancel()
	from := i.Replication.Primary
	to, err := failover.Unplanned(ctx, c, from, i.Replication.replicas(), m.historyNow(), i.Replication.Previous)
	if err != nil {
		return err
	}
	r.log.Warn("failover", "instance", i.Name, "from", NodeName(from), "to", NodeName(to), "reason", why, "took", r.now().Sub(since))
	r.notePrimary(ctx, c, i, FailoverRecord{Time: r.now().UTC(), From: from, To: to, Reason: why, Took: r.now().Sub(since)})
	return r.saveReplication(i)
}

// notePrimary makes the record say who is the primary now.
func (r *reconciler) notePrimary(ctx context.Context, c changing, i *Instance, f FailoverRecord) {
	i.Replication = i.Replication.clone()
	i.Replication.changePrimary(f)
	if o := c.Observe(ctx, f.To); o.Answers() && o.Primary {
		i.Replication.History, i.Replication.Previous = o.ID, o.ID2
	}
	if n := i.Replication.node(f.To); n.Version != "" {
		if have, err := c.runtime.EngineBuild(ctx, c.nodes[f.To]); err == nil {
			n.setBuild(build{have.Version, have.Patch}) // which it may have been about to be replaced by another
		}
		if n.build() == i.build() {
			n.setBuild(build{})
		}
	}
	r.failedOver(i.Name, f)
}

// doFailover is the failover that somebody has asked for.
func (r *reconciler) doFailover(ctx context.Context, i *Instance, op Operation) (FailoverRecord, error) {
	c, err := r.changing(*i)
	if err != nil {
		return FailoverRecord{}, err
	}
	for attempt := range plannedAttempts {
		if attempt > 0 {
			select {
			case <-ctx.Done():
				return FailoverRecord{}, ctx.Err()
			case <-time.After(plannedPause):
			}
		}
		var f FailoverRecord
		f, err = r.tryFailover(ctx, c, op)
		switch {
		case errors.Is(err, failover.ErrBusy):
			r.progress(i.Name)("waiting for a moment in which no client's request is under way")
		case errors.Is(err, errNotInSync):
			r.progress(i.Name)("waiting for a replica that is in sync")
		default:
			return f, err
		}
	}
	if errors.Is(err, errNotInSync) {
		return FailoverRecord{}, precondition("no replica is in sync with the primary: wait until one is (sealane instances describe %s), or fail over with data protection mode FORCE_DATA_LOSS", i.Name.ID)
	}
	return FailoverRecord{}, precondition("clients' requests were under way each time that the primary was to change; try again when there are fewer long ones")
}

// errNotInSync says that no replica could take over without losing anything.
var errNotInSync = errors.New("no replica is in sync")

func (r *reconciler) tryFailover(ctx context.Context, c changing, op Operation) (FailoverRecord, error) {
	force := op.Force
	replication := c.instance.Replication
	from := replication.Primary
	others := make(map[int]failover.Observation)
	for _, k := range replication.replicas() {
		others[k] = c.Observe(ctx, k)
	}
	primary := c.Observe(ctx, from)
	to, difference, err := failover.PlannedCandidate(primary.ID, primary, others)
	switch {
	case err != nil && force:
		if to, err = failover.Candidate(primary.ID, others); err != nil {
			return FailoverRecord{}, precondition("no replica has the primary's data: wait until one is in sync (sealane instances describe %s)", c.instance.Name.ID)
		}
	case err != nil:
		return FailoverRecord{}, errNotInSync
	case difference >= failover.MaxDifference && !force && op.Verb == Failover: // others wait for what is missing
		return FailoverRecord{}, precondition("a replica is %d bytes of changes behind the primary, and with data protection mode LIMITED_DATA_LOSS it may be less than %d (30 MB): try again when there are fewer writes, or use FORCE_DATA_LOSS",
			difference, failover.MaxDifference)
	}
	held, err := failover.Planned(ctx, c, from, to)
	if err != nil && !errors.Is(err, failover.ErrBusy) {
		err = &Error{Code: FailedPrecondition, Message: fmt.Sprintf("%s did not take over, and %s goes on as the primary; try again", NodeName(to), NodeName(from)), Err: err}
	}
	return FailoverRecord{Time: r.now().UTC(), From: from, To: to, Reason: "asked for", Planned: true, Took: held}, err
}

// noteFailover records a failover without an operation of its own.
func (r *reconciler) noteFailover(ctx context.Context, i *Instance, f FailoverRecord) error {
	r.logFailover(*i, f)
	c, err := r.changing(*i)
	if err != nil {
		return err
	}
	return r.records.mutate(i.Name, func(now *Instance) error {
		r.notePrimary(ctx, c, now, f)
		*i = *now
		return nil
	})
}

func (r *reconciler) logFailover(i Instance, f FailoverRecord) {
	r.log.Info("failover", "instance", i.Name, "from", NodeName(f.From), "to", NodeName(f.To), "reason", f.Reason, "clients_held", f.Took)
}

// commitFailover records a failover that somebody has asked for, and ends its operation.
func (r *reconciler) commitFailover(ctx context.Context, w *worker, i *Instance, id string, f FailoverRecord) error {
	r.logFailover(*i, f)
	c, err := r.changing(*i)
	if err != nil {
		return err
	}
	return r.finishTask(w, i, id, func(i *Instance) {
		r.notePrimary(ctx, c, i, f)
		i.pending().Held = f.Took
		i.finish(nil, r.now().UTC())
	})
}

// Failover begins to make a replica of an instance the primary. Without force it is refused while a replica is far behind.
func (m *Manager) Failover(_ context.Context, name Name, force bool, apiVersion string) (Operation, error) {
	return m.begin(name, apiVersion, func(i *Instance) (Operation, error) {
		if i.Replication == nil {
			return Operation{}, precondition("tier: '%s' is BASIC, so it has no replica to fail over to; `sealane instances restart %s` restarts its engine", name, name.ID)
		}
		if i.State != Ready {
			return Operation{}, precondition("'%s' is in state %s: wait until it is READY", name, i.State)
		}
		i.State = FailingOver
		from := i.Replication.Primary
		return Operation{Verb: Failover, Force: force, Replaces: &from}, nil
	})
}

package instance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealane/sealane/internal/failover"
)

// Where an instance has replicas, an upgrade or maintenance goes from node to node: each replica's engine is ended and started with the new
// version, and copies the data. When all are in sync, one of them becomes the primary, by a failover that loses nothing. Then the old
// primary is started with the new version. An older engine can't read what a newer one sends, so no replica may have an older engine than
// the primary. The record says which engine each node is to run, and a step makes it so; a server that is killed goes on with that.
//
// The failover is the point of no return. What goes wrong before it makes the operation fail, and the replicas go back to the version of
// before. After it the operation goes on.

// rollPatience is how long a replica with the new engine may be in trouble, and copyPatience how long it may take to come into sync.
const rollPatience, copyPatience = time.Minute, time.Hour

// build is which engine a node runs.
type build struct{ version, patch string }

func (n NodeRecord) build() build { return build{n.Version, n.Patch} }

func (n *NodeRecord) setBuild(b build) { n.Version, n.Patch = b.version, b.patch }

func (t EngineTarget) build() build { return build{t.Version, t.Patch} }

// build is the engine of all nodes, unless one has another for a while.
func (i Instance) build() build { return build{i.Spec.RedisVersion, i.EnginePatch} }

// buildOf is which engine a node is to run. changing says that it may still run another one. Where the primary has another one than the
// instance for a while, all nodes are to have that.
func (i Instance) buildOf(number int) (b build, changing bool) {
	if r := i.Replication; r != nil {
		for _, k := range []int{r.Primary, number} {
			if n := r.node(k); n != nil && n.Version != "" {
				return n.build(), true
			}
		}
	}
	return i.build(), false
}

// rolls says whether the operation under way goes from node to node.
func (i *Instance) rolls() bool {
	op := i.pending()
	return i.Replication != nil && op != nil && op.Target != nil && op.Verb != Import
}

// rolledOver says whether the failover of such an operation is done.
func (i *Instance) rolledOver() bool {
	if !i.rolls() {
		return false
	}
	n := i.Replication.node(i.Replication.Primary)
	return n != nil && n.build() == i.pending().Target.build()
}

// roll does the next step of such an operation.
func (r *reconciler) roll(ctx context.Context, w *worker, i *Instance) error {
	op := *i.pending()
	if i.rolledOver() {
		return r.rollOldPrimary(ctx, w, i, op)
	}
	for _, k := range i.Replication.replicas() {
		if i.Replication.node(k).build() != op.Target.build() {
			r.log.Info("a replica gets another engine", "instance", i.Name, "node", NodeName(k), "version", op.Target.Version, "patch", op.Target.Patch)
			w.rolling = r.now()
			if err := r.changeTask(i, op.ID, func(i *Instance) { i.Replication.node(k).setBuild(op.Target.build()) }); err != nil {
				return err
			}
			return tooSoon(0)
		}
		ready, err := r.rolled(ctx, w, *i, k)
		if err != nil {
			r.log.Error("operation failed", "instance", i.Name, "operation", op.ID, "verb", op.Verb, "err", err)
			return r.endTask(w, i, op.ID, taskFailure(op, i.Name, err))
		}
		if !ready {
			return tooSoon(replicaRetry)
		}
	}
	return r.rollOver(ctx, w, i, op)
}

// rolled says whether a replica is in sync with its new engine. An error is why it never will be.
func (r *reconciler) rolled(ctx context.Context, w *worker, i Instance, k int) (ready bool, err error) {
	n, err := r.nodeOf(i, k, r.now())
	if err != nil {
		return false, err
	}
	o := r.runtime.(Replicator).ObserveEngine(ctx, n)
	if err := w.faults[k].err; err != nil && ctx.Err() == nil {
		if !o.Running() || errors.Is(err, ErrFatal) || w.inTroubleFor(k, r.now()) > rollPatience {
			return false, &Error{Code: FailedPrecondition, Err: err, Message: fmt.Sprintf("%s can't be brought up with the engine of %s; the server's log says why", NodeName(k), n.Version)}
		}
		return false, nil
	}
	if failover.InSync(i.Replication.History, o, 0) {
		return true, nil
	}
	if w.rolling.IsZero() {
		w.rolling = r.now() // another server began with this node
	}
	if r.now().Sub(w.rolling) > copyPatience {
		return false, precondition("%s, with the engine of %s, has not come into sync for %v: try again when clients write less", NodeName(k), n.Version, copyPatience)
	}
	r.progress(i.Name)(NodeName(k) + ", which has the new engine, is copying the data")
	return false, nil
}

// rollOver makes one of the replicas the primary.
func (r *reconciler) rollOver(ctx context.Context, w *worker, i *Instance, op Operation) error {
	r.progress(i.Name)("moving the clients to a replica with the new engine")
	f, err := r.doFailover(ctx, i, op)
	switch {
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		r.log.Error("operation failed", "instance", i.Name, "operation", op.ID, "verb", op.Verb, "err", err)
		return r.endTask(w, i, op.ID, taskFailure(op, i.Name, err))
	}
	f.Reason = string(op.Verb)
	if op.Verb == Update || op.Verb == Reschedule {
		f.Reason = string(Maintain)
	}
	c, err := r.changing(*i)
	if err != nil {
		return err
	}
	r.logFailover(*i, f)
	err = r.changeTask(i, op.ID, func(i *Instance) {
		r.notePrimary(ctx, c, i, f)
		i.pending().Held = f.Took
	})
	if err != nil {
		return err
	}
	return tooSoon(0)
}

// rollOldPrimary waits until the old primary has the new engine and is in sync. Where that doesn't come to be, the operation is done all the
// same: the instance's status says what is wrong.
func (r *reconciler) rollOldPrimary(ctx context.Context, w *worker, i *Instance, op Operation) error {
	for _, k := range i.Replication.replicas() {
		n, err := r.nodeOf(*i, k, r.now())
		if err != nil {
			return err
		}
		if !failover.InSync(i.Replication.History, r.runtime.(Replicator).ObserveEngine(ctx, n), 0) && w.inTroubleFor(k, r.now()) < rollPatience {
			r.progress(i.Name)(NodeName(k) + " is started with the new engine, and copies the data")
			return tooSoon(replicaRetry)
		}
	}
	return r.commitEngine(w, i, op.Held)
}

// endRoll makes the record say which engines the nodes are to run after such an operation. Those of nodes are there until the nodes were
// seen to run them; see renewReplica.
func (i *Instance) endRoll() {
	over := i.rolledOver()
	i.Replication = i.Replication.clone()
	for at := range i.Replication.Nodes {
		switch n := &i.Replication.Nodes[at]; {
		case n.Number == i.Replication.Primary:
			n.setBuild(build{})
		case n.Version != "" || over:
			n.setBuild(i.build())
		}
	}
}

// renewReplica ends a replica's engine where that is not the one that it is to run. What follows in the step starts that. It returns false where
// it runs already.
func (r *reconciler) renewReplica(ctx context.Context, rt Replicator, i Instance, n Node, number int) (renewed bool, err error) {
	have, err := rt.EngineBuild(ctx, n)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	want, _ := i.buildOf(number)
	if builds := r.runtime.Engines(); !installed(builds, want.version, want.patch) {
		want.patch = buildOf(builds, want.version).Patch
	}
	if err == nil && have.Version == want.version && have.Patch == want.patch {
		return false, nil
	}
	if errors.Is(err, ErrNoEngine) && i.rolls() {
		return true, nil
	}
	if err := rt.KillEngine(ctx, n); err != nil {
		return false, err
	}
	if want, _ = i.buildOf(number); want == i.build() {
		return true, rt.ForgetData(ctx, n) // an older engine could not load them
	}
	return true, nil
}

// noteBuilds makes the record say that all nodes run the instance's engine, as far as they do.
func (r *reconciler) noteBuilds(i *Instance, renewed map[int]bool) error {
	if i.rolls() {
		return nil
	}
	next := *i
	next.Replication = i.Replication.clone()
	changed := false
	if own := next.Replication.node(i.Replication.Primary).build(); own.version != "" {
		// The operation has failed, and then this replica had to take over. The others can't go back to an older engine.
		next.Spec.RedisVersion, next.EnginePatch = own.version, own.patch
		for at := range next.Replication.Nodes {
			next.Replication.Nodes[at].setBuild(own)
		}
		next.Replication.node(i.Replication.Primary).setBuild(build{})
		changed = true
	}
	for at := range next.Replication.Nodes {
		if n := &next.Replication.Nodes[at]; n.Version != "" && n.build() == i.build() && !renewed[n.Number] {
			n.setBuild(build{})
			changed = true
		}
	}
	if !changed {
		return nil
	}
	*i = next
	return r.saveReplication(i)
}

package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// Tasks are operations that take long and are work of their own, beside making the node what the record says: upgrade, import,
// maintenance and export. A step of the instance's worker does one to its end, after it has seen that the node is well. A task that fails
// ends its operation, and the instance stays as it is. A server that is killed leaves the operation as it is recorded, and the next one
// begins the task anew, unless the new engine has taken over: then only the record is behind.

// task ends the operation under way where it is a task: what is done, given up, or not to be begun. It returns false where the step has
// to bring the node up first, which work then needs.
func (r *reconciler) settleTask(w *worker, i *Instance) (settled bool, err error) {
	op := i.pending()
	if op == nil || !op.isTask() {
		return false, nil
	}
	if op.Target != nil && !i.rolls() {
		done, err := r.targetServes(i)
		if err != nil {
			return false, fmt.Errorf("see which engine is served: %w", err)
		}
		if done {
			return true, r.commitEngine(w, i, 0)
		}
		if i.Replication != nil && i.Replication.Primary != *op.Replaces {
			return true, r.endTask(w, i, op.ID, taskFailure(*op, i.Name, precondition("a replica had to take over meanwhile; try again")))
		}
	}
	if op.Verb == Failover && i.Replication.Primary != *op.Replaces {
		return true, r.endTask(w, i, op.ID, nil) // the record was behind
	}
	if op.CancelRequested {
		return true, r.endTask(w, i, op.ID, &Failure{Cancelled, "the operation was cancelled; the instance is as it was before"})
	}
	return false, nil
}

// targetServes says whether clients are on the engine that is to take the place of the present one.
func (r *reconciler) targetServes(i *Instance) (bool, error) {
	op := i.pending()
	if i.Replication != nil {
		served, err := r.runtime.(Replicator).ServedEngine(i.nodeID(0))
		return err == nil && served == EngineRef{i.nodeID(*op.Replaces), op.Target.Slot}, ignoreMissing(err)
	}
	slot, err := r.runtime.(EngineReplacer).ServedSlot(i.nodeID(0))
	return err == nil && slot == op.Target.Slot, ignoreMissing(err)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// doTask does the task under way. The node has just been seen to be well.
func (r *reconciler) doTask(ctx context.Context, w *worker, i *Instance) error {
	if i.rolls() {
		return r.roll(ctx, w, i)
	}
	op := *i.pending()
	r.log.Info("operation begins", "instance", i.Name, "operation", op.ID, "verb", op.Verb)
	var held time.Duration
	var err error
	var change FailoverRecord
	switch {
	case op.Verb == Failover:
		change, err = r.doFailover(ctx, i, op)
	case op.Target != nil:
		held, err = r.replaceEngine(ctx, *i, op)
	default:
		err = r.export(ctx, *i, op)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return err // the server ends, or the step is to begin anew
	case err != nil:
		r.log.Error("operation failed", "instance", i.Name, "operation", op.ID, "verb", op.Verb, "err", err)
		return r.endTask(w, i, op.ID, taskFailure(op, i.Name, err))
	case op.Verb == Failover:
		return r.commitFailover(ctx, w, i, op.ID, change)
	case op.Target != nil:
		return r.commitEngine(w, i, held)
	}
	return r.endTask(w, i, op.ID, nil)
}

// taskFailure is how a failed task is told. Only an *Error is for users: others may have paths of the server in them.
func taskFailure(op Operation, name Name, err error) *Failure {
	text, code := "something went wrong that the server's log tells more about", FailedPrecondition
	var e *Error
	if errors.As(err, &e) {
		text, code = e.Message, e.Code
	}
	what := "the instance is as it was before"
	if errors.Is(err, ErrNoEngine) {
		what = "the engine is started again, with the data that it has saved"
	}
	return &Failure{code, fmt.Sprintf("%s %s: %s; %s", op.Verb, name.ID, text, what)}
}

// replaceEngine replaces the node's engine by the operation's target.
func (r *reconciler) replaceEngine(ctx context.Context, i Instance, op Operation) (time.Duration, error) {
	from, err := r.node(i, r.now())
	if err != nil {
		return 0, err
	}
	i.becomes(*op.Target)
	to, err := r.node(i, r.now())
	if err != nil {
		return 0, err
	}
	var data DataSource
	if op.Verb == Import {
		data = r.importSource(i, op)
	}
	return r.runtime.(EngineReplacer).ReplaceEngine(ctx, from, to, data, r.progress(i.Name))
}

// progress is told what the operation under way is doing.
func (r *reconciler) progress(name Name) func(string) {
	return func(detail string) { r.workers.observe(name, func(o *observation) { o.detail = detail }) }
}

// becomes makes the record say that the instance has another engine.
func (i *Instance) becomes(t EngineTarget) {
	i.Spec.RedisVersion, i.EnginePatch = t.Version, t.Patch
	if i.Replication == nil {
		i.EngineSlot = t.Slot
		return
	}
	i.Replication = i.Replication.clone()
	if !i.rolls() {
		i.Replication.node(i.Replication.Primary).Slot = t.Slot
		i.Replication.History, i.Replication.Previous = "", "" // that of other data: nobody who has them may take over
	}
}

// commitEngine records that the operation's target has taken over, and ends the operation. The next step, which begins at once,
// removes the engine that it replaced. held is 0 where it isn't known.
func (r *reconciler) commitEngine(w *worker, i *Instance, held time.Duration) error {
	op := i.pending()
	id, target := op.ID, *op.Target
	r.log.Info("engine replaced", "instance", i.Name, "operation", id, "version", target.Version, "patch", target.Patch, "clients_held", held)
	return r.finishTask(w, i, id, func(i *Instance) {
		i.becomes(target)
		if i.rolls() {
			i.endRoll()
		}
		i.pending().Held = held
		i.Schedule = nil // of maintenance: the engine is the newest of its version
		i.finish(nil, r.now().UTC())
	})
}

// endTask ends a task that leaves the engine as it is.
func (r *reconciler) endTask(w *worker, i *Instance, id string, failure *Failure) error {
	if i.rolledOver() {
		return r.commitEngine(w, i, i.pending().Held)
	}
	return r.finishTask(w, i, id, func(i *Instance) {
		if i.rolls() {
			i.endRoll()
		}
		if b := i.pending().Before; failure != nil && b != nil {
			i.goBack(failure, r.now().UTC())
			return
		}
		i.finish(failure, r.now().UTC())
	})
}

// finishTask changes the record of a task under way for the last time. Something else in the record may have changed since the task
// began, which must not lead to its being done again.
func (r *reconciler) finishTask(w *worker, i *Instance, id string, change func(*Instance)) error {
	err := r.changeTask(i, id, func(now *Instance) {
		change(now)
		now.State = Ready
	})
	if errors.Is(err, errTaskGone) {
		return nil
	}
	w.poke()
	return err
}

// changeTask changes the record of a task under way.
func (r *reconciler) changeTask(i *Instance, id string, change func(*Instance)) error {
	return r.records.mutate(i.Name, func(now *Instance) error {
		if op := now.pending(); op == nil || op.ID != id {
			return errTaskGone
		}
		change(now)
		*i = *now
		return nil
	})
}

// errTaskGone says that an operation has ended meanwhile.
var errTaskGone = errors.New("the operation is not under way any more")

// installed says whether a build is among those of the server.
func installed(builds []EngineBuild, version, patch string) bool {
	return slices.ContainsFunc(builds, func(b EngineBuild) bool { return b.Version == version && b.Patch == patch })
}

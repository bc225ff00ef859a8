package instance

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/snapshot"
	"github.com/sealane/sealane/internal/store"
)

// Snapshots of an instance with persistence are made by its worker. The engine has a setting of its own (save) for the case that the
// server stays down; while the server runs it never comes to that.

// While a snapshot is being made, it is looked at the less often, the longer it takes.
const snapshotPollMin, snapshotPollMax = 200 * time.Millisecond, 10 * time.Second

// EngineSnapshots is what there is of a node's snapshots.
type EngineSnapshots struct {
	InProgress bool
	Age        time.Duration // of the one in progress
	// Finished, Size and Took are those of the last good one, which is restored when the engine starts; zero: there is none.
	Finished time.Time
	Size     int64
	Took     time.Duration
	Failure  string // why the last one has failed; "": it has not
	// Note is what a user should know of the data that were restored. "": nothing.
	Note string
}

// Snapshotter is an optional part of a Runtime: it makes snapshots of a node's data.
type Snapshotter interface {
	// Snapshots says what there is of snapshots. The error is ErrNoEngine where no engine runs.
	Snapshots(ctx context.Context, nodeID string) (EngineSnapshots, error)
	// BeginSnapshot has the engine begin a snapshot, and doesn't wait for its end.
	BeginSnapshot(ctx context.Context, nodeID string) error
}

// snapshotsOf are those of the primary. One that it has from before it became the primary is not of the instance's data: as long as there is no
// other, one is due.
func (i Instance) snapshotsOf(ctx context.Context, s Snapshotter) (EngineSnapshots, error) {
	state, err := s.Snapshots(ctx, i.primaryID())
	if err == nil && state.Finished.Before(i.primarySince()) {
		state.Finished, state.Size, state.Took = time.Time{}, 0, 0
	}
	return state, err
}

// primarySince is when the primary took over; zero: it has been the primary from the beginning.
func (i Instance) primarySince() time.Time {
	if i.Replication != nil {
		if n := len(i.Replication.Failovers); n > 0 {
			return i.Replication.Failovers[n-1].Time
		}
	}
	return time.Time{}
}

// schedule is when snapshots are due, where there is persistence.
func (i Instance) schedule() snapshot.Schedule {
	s := snapshot.Schedule{Start: i.Spec.SnapshotStart, Period: i.Spec.SnapshotPeriod}
	if s.Start.IsZero() {
		s.Start = i.Created
	}
	return s
}

// snapshotRun is a snapshot under way, as far as its worker knows.
type snapshotRun struct {
	node         string
	due, started time.Time
}

// makeSnapshots begins the snapshot that is due, and notes what has become of the last one. It says when it is to be called again; zero:
// with the next step.
func (r *reconciler) makeSnapshots(ctx context.Context, w *worker, i *Instance) (again time.Time, err error) {
	snapshotter, ok := r.runtime.(Snapshotter)
	if !ok {
		return time.Time{}, nil
	}
	defer func() { r.workers.setNote(i.Name, snapshotNote, i.Snapshots.Problem()) }()
	if i.Spec.SnapshotPeriod == 0 {
		w.snapshot = nil
		r.workers.setNote(i.Name, restoreNote, "")
		return time.Time{}, r.setSnapshots(w, i, nil) // they are gone
	}
	if w.unsaved != nil {
		if err := r.setSnapshots(w, i, w.unsaved); err != nil {
			return time.Time{}, err
		}
	}
	now, node := r.now().UTC(), i.primaryID()
	state, err := i.snapshotsOf(ctx, snapshotter)
	if err != nil {
		return time.Time{}, nil // such as BUSY; what keeps an engine from answering is shown elsewhere
	}
	if r.workers.setNote(i.Name, restoreNote, state.Note) && state.Note != "" {
		r.log.Error("the data are not those of the last snapshot", "instance", i.Name, "why", state.Note)
	}
	if w.snapshot != nil && w.snapshot.node != node {
		w.snapshot = nil // it was that of a primary that is none any more
	}
	if state.InProgress {
		if w.snapshot == nil { // another server has begun it, or the engine by itself
			w.snapshot = &snapshotRun{node: node, started: now.Add(-state.Age)}
			w.snapshot.due, _ = i.schedule().Around(w.snapshot.started)
		}
		return now.Add(min(max(now.Sub(w.snapshot.started)/10, snapshotPollMin), snapshotPollMax)), nil
	}
	if err := r.noteSnapshot(w, i, state, now); err != nil {
		return time.Time{}, err
	}
	plan := i.schedule().Plan(now, state.Finished, i.Snapshots)
	if !plan.Begin {
		return plan.Next, nil
	}
	if err := snapshotter.BeginSnapshot(ctx, node); err != nil {
		// It is busy with a script, for example, or the system has no memory for another process.
		return time.Time{}, r.addSnapshot(w, i, snapshot.Run{Due: plan.Due, Started: now, Finished: now, Failure: err.Error()})
	}
	w.snapshot = &snapshotRun{node: node, due: plan.Due, started: now}
	return now.Add(snapshotPollMin), nil
}

// noteSnapshot notes a snapshot that has ended since the last look.
func (r *reconciler) noteSnapshot(w *worker, i *Instance, state EngineSnapshots, now time.Time) error {
	run := w.snapshot
	w.snapshot = nil
	isKnown := slices.ContainsFunc(i.Snapshots, func(s snapshot.Run) bool { return s.Failure == "" && s.Finished.Equal(state.Finished) })
	if state.Note != "" { // the last one could not be restored
		if h := i.Snapshots.Damaged(state.Finished); h != nil {
			return r.setSnapshots(w, i, h)
		}
	}
	switch {
	case !state.Finished.IsZero() && !isKnown:
		s := snapshot.Run{Started: state.Finished.Add(-state.Took).UTC(), Finished: state.Finished.UTC(), Size: state.Size}
		if run != nil {
			s.Due, s.Started = run.due, run.started
		}
		return r.addSnapshot(w, i, s)
	case run != nil:
		failure := state.Failure
		if failure == "" {
			failure = "the engine ended before it was complete"
		}
		return r.addSnapshot(w, i, snapshot.Run{Due: run.due, Started: run.started, Finished: now, Failure: failure})
	}
	return nil
}

// addSnapshot records a snapshot.
func (r *reconciler) addSnapshot(w *worker, i *Instance, s snapshot.Run) error {
	if s.Failure != "" {
		r.log.Error("snapshot failed", "instance", i.Name, "due", s.Due, "err", s.Failure)
	} else {
		r.log.Info("snapshot made", "instance", i.Name, "due", s.Due, "bytes", s.Size, "took", s.Took())
	}
	return r.setSnapshots(w, i, i.Snapshots.With(s))
}

// setSnapshots records what there is of snapshots. On a full disk the record can't be written either; then the worker remembers them.
func (r *reconciler) setSnapshots(w *worker, i *Instance, h snapshot.History) error {
	if len(h) == 0 && len(i.Snapshots) == 0 {
		w.unsaved = nil
		return nil
	}
	i.Snapshots, w.unsaved = h, h
	err := r.records.save(i)
	switch {
	case err == nil:
		w.unsaved = nil
	case !errors.Is(err, store.ErrConflict):
		r.log.Warn("snapshots can't be recorded", "instance", i.Name, "err", err)
		return nil
	}
	return err
}

// Persistence is how an instance's data survive the end of its engine.
type Persistence struct {
	Schedule snapshot.Schedule // a Period of 0: there are no snapshots
	Next     time.Time         // when the next one is due
	// InProgress says that one is being made, since Began.
	InProgress bool
	Began      time.Time
	Runs       snapshot.History
	Problem    string // in words for the user; "": there is none
}

// Snapshots are those of all instances.
type Snapshots struct {
	reader  *reader
	workers *workers
	runtime Runtime
	now     func() time.Time
}

// Get shows an instance's snapshots.
func (s *Snapshots) Get(ctx context.Context, name Name) (Persistence, error) {
	i, err := s.reader.get(name)
	if err != nil || i.Spec.SnapshotPeriod == 0 {
		return Persistence{}, err
	}
	p := Persistence{Schedule: i.schedule(), Runs: i.Snapshots, Problem: strings.Join(nonEmpty(s.workers.note(name, snapshotNote, restoreNote)...), "; ")}
	good, _ := i.Snapshots.LastGood()
	finished := good.Finished
	if snapshotter, ok := s.runtime.(Snapshotter); ok {
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		state, err := i.snapshotsOf(ctx, snapshotter)
		switch {
		case err == nil:
			p.InProgress, p.Began, finished = state.InProgress, s.now().Add(-state.Age), state.Finished
		case errors.Is(err, ErrNoEngine):
			p.Problem = strings.Join(nonEmpty(p.Problem, err.Error()), "; ")
		default:
			p.Problem = strings.Join(nonEmpty(p.Problem, "the engine does not say how its snapshots are"), "; ")
		}
	}
	plan := p.Schedule.Plan(s.now(), finished, i.Snapshots)
	if p.Next = plan.Next; plan.Begin && !p.InProgress {
		p.Next = plan.Due
	}
	return p, nil
}

func nonEmpty(all ...string) (some []string) {
	for _, s := range all {
		if s != "" {
			some = append(some, s)
		}
	}
	return some
}

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/instance"
)

// runningEngine is the node's engine, if one runs.
func (l *Runtime) runningEngine(nodeID string) (*engine.Engine, *node, error) {
	n := l.node(nodeID)
	e := n.engine.Load()
	if e == nil || isClosed(e.Done()) {
		return nil, n, instance.ErrNoEngine
	}
	return e, n, nil
}

// Snapshots implements Snapshotter.
func (l *Runtime) Snapshots(ctx context.Context, nodeID string) (instance.EngineSnapshots, error) {
	e, n, err := l.runningEngine(nodeID)
	if err != nil {
		return instance.EngineSnapshots{}, err
	}
	s, err := e.Snapshots(ctx)
	if err != nil {
		return instance.EngineSnapshots{}, err
	}
	out := instance.EngineSnapshots{InProgress: s.InProgress, Age: s.Age, Finished: s.Finished, Size: s.Size, Took: s.Took, Failure: s.Failure}
	// Once there is a good snapshot of the data that were restored, everything is in order again.
	if r := n.restored.Load(); r != nil && !s.Finished.After(r.at) {
		out.Note = r.note
	}
	return out, nil
}

// BeginSnapshot implements Snapshotter.
func (l *Runtime) BeginSnapshot(ctx context.Context, nodeID string) error {
	e, _, err := l.runningEngine(nodeID)
	if err != nil {
		return err
	}
	return e.BeginSnapshot(ctx)
}

// restored is what was restored in place of a damaged dump.
type restored struct {
	at   time.Time
	note string
}

// startOrRestore starts a node's engine. One that finds its dump damaged is started with the one before it: the instance serves, with data that are
// older by one period, and says so. The damaged one is kept.
func (l *Runtime) startOrRestore(ctx context.Context, n *node, node instance.Node) (*engine.Engine, error) {
	e, err := l.startEngine(ctx, node, nil)
	var refused *engine.StartError
	if !errors.As(err, &refused) || refused.DamagedDump() == "" {
		return e, err
	}
	now := time.Now()
	made, backErr := engine.UsePreviousDump(l.dirOf(node))
	if backErr != nil {
		return nil, fmt.Errorf("the last snapshot (dump.rdb in the node's folder) is damaged, and there is no earlier one to restore: %s; "+
			"put a good RDB file in its place, or remove it to start without data", refused.DamagedDump())
	}
	n.restored.Store(&restored{now, fmt.Sprintf("the last snapshot was damaged when it was to be restored (%s), so the data are those of the one before, of %s; "+
		"the damaged one is kept as dump.damaged.rdb", refused.DamagedDump(), made.UTC().Format(time.RFC3339))})
	return l.startEngine(ctx, node, nil)
}

// RestoreDump implements instance.Replicator.
func (l *Runtime) RestoreDump(_ context.Context, primary instance.Node, others []instance.Node, since time.Time) (from string, err error) {
	n := l.node(primary.ID)
	n.Lock()
	defer n.Unlock()
	dir := l.dirOf(primary)
	if own, err := os.Stat(engine.Dump(dir)); err == nil && !own.ModTime().Before(since) {
		return "", nil
	}
	var best string
	var newest time.Time
	for _, node := range append(others, primary) {
		if file, made := engine.NewestDump(l.dirOf(node)); made.After(newest) {
			best, newest, from = file, made, node.ID
		}
	}
	if best == "" || best == engine.Dump(dir) {
		return "", nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", asFatal(err)
	}
	return from, asFatal(engine.UseDump(best, dir))
}

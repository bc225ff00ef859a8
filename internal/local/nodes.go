package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/failover"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/process"
)

// Nodes of instances that have several.

var _ instance.Replicator = (*Runtime)(nil)

const (
	// observeTimeout is how long an engine may take to say how it is.
	observeTimeout = 250 * time.Millisecond
	// conditionGap is how far apart two observations must be that show what an engine does which does not answer.
	conditionGap = 300 * time.Millisecond
	// roleTimeout bounds a change of an engine's role.
	roleTimeout = 2 * time.Second
)

// EnsureEngine implements instance.Replicator.
func (l *Runtime) EnsureEngine(ctx context.Context, node instance.Node, progress func(string)) error {
	n := l.node(node.ID)
	n.Lock()
	defer n.Unlock()
	if err := os.MkdirAll(l.nodeDir(node.ID), 0o700); err != nil {
		return asFatal(fmt.Errorf("make the node's folder: %w", err))
	}
	if err := l.ensureEngine(ctx, n, node, progress); err != nil {
		return asFatal(err)
	}
	busy, err := l.configure(ctx, n, node)
	if err == nil && busy == nil {
		err = l.takeRole(ctx, n, node)
	}
	if err != nil {
		return asFatal(err)
	}
	if busy != nil {
		return busy
	}
	return nil
}

// takeRole makes an engine the primary, or a replica of it.
func (l *Runtime) takeRole(ctx context.Context, n *node, node instance.Node) error {
	e := n.engine.Load()
	if err := e.SetReplication(ctx, replicationOf(node)); err != nil {
		return err
	}
	if node.Replication.Primary.IsValid() {
		if err := e.FollowTLS(ctx, node.Replication.Primary); err != nil {
			return err
		}
		return n.thaw(ctx, e)
	}
	r, err := e.Replication(ctx)
	if err == nil && r.Role == engine.RoleReplica {
		err = e.Promote(ctx)
	}
	if err != nil {
		return err
	}
	return n.thaw(ctx, e)
}

// thaw lets an engine's offset move on again, where a planned failover has kept it still: of this server, or of one that has died.
func (n *node) thaw(ctx context.Context, e *engine.Engine) error {
	if n.thawed.Load() == e {
		return nil
	}
	if err := e.FreezeOffset(ctx, false); err != nil {
		return err
	}
	n.thawed.Store(e)
	return nil
}

// replicationOf is the engine's part of what a node needs as one of several.
func replicationOf(node instance.Node) engine.ReplicationConfig {
	r := node.Replication
	sum := sha256.Sum256([]byte(r.Password))
	return engine.ReplicationConfig{
		Certificate: r.Certificate, PrivateKey: r.PrivateKey, Authorities: r.Authorities, PasswordHash: hex.EncodeToString(sum[:]),
		AnnounceHost: r.Address.Addr().String(), AnnouncePort: int(r.Address.Port()), Backlog: r.Backlog,
	}
}

// EnsureGateway implements instance.Replicator.
func (l *Runtime) EnsureGateway(ctx context.Context, node instance.Node, progress func(string)) error {
	n := l.node(node.ID)
	n.gatewayMu.Lock()
	defer n.gatewayMu.Unlock()
	if err := os.MkdirAll(l.nodeDir(node.ID), 0o700); err != nil {
		return asFatal(fmt.Errorf("make the node's folder: %w", err))
	}
	if err := l.ensureGateway(ctx, n, node, progress); err != nil {
		return asFatal(err)
	}
	return l.ensureSnapshot(ctx, n, node, progress)
}

// staleAttempts is how often a snapshot is given when the gateway has taken another one in between: an earlier one that was given up.
const staleAttempts = 3

// ApplyGateway implements instance.Replicator.
func (l *Runtime) ApplyGateway(ctx context.Context, node instance.Node) error {
	n := l.node(node.ID)
	n.gatewayMu.Lock()
	defer n.gatewayMu.Unlock()
	if err := l.ensureGateway(ctx, n, node, func(string) {}); err != nil {
		return err
	}
	taken := func() bool {
		served, err := l.ServedEngine(node.ID)
		return err == nil && node.Serves != nil && served == *node.Serves
	}
	var err error
	for range staleAttempts {
		err = l.giveSnapshot(ctx, node, func(client *gateway.Client, s gateway.Snapshot) error {
			return l.applyForSure(ctx, client, n, s, taken)
		})
		if !errors.Is(err, gateway.ErrStale) {
			break
		}
	}
	return err
}

// OfferGateway implements instance.Replicator.
func (l *Runtime) OfferGateway(ctx context.Context, node instance.Node) error {
	return l.giveSnapshot(ctx, node, func(client *gateway.Client, s gateway.Snapshot) error {
		_, err := client.Apply(ctx, s)
		return err
	})
}

// giveSnapshot has give hand a node's gateway its snapshot.
func (l *Runtime) giveSnapshot(ctx context.Context, node instance.Node, give func(*gateway.Client, gateway.Snapshot) error) error {
	client := gateway.NewClient(l.nodeDir(node.ID))
	status, err := client.Status(ctx)
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	snapshot := l.snapshotFor(node, status)
	snapshot.Generation = status.Generation + 1
	return give(client, snapshot)
}

// MoveClients implements instance.Replicator.
func (l *Runtime) MoveClients(ctx context.Context, node instance.Node, to instance.EngineRef) error {
	n := l.node(node.ID)
	n.gatewayMu.Lock()
	defer n.gatewayMu.Unlock()
	if err := l.ensureGateway(ctx, n, node, func(string) {}); err != nil {
		return err
	}
	snapshot, err := gateway.LastGood(l.nodeDir(node.ID))
	if err != nil {
		return err
	}
	snapshot.Engine = engine.Socket(l.engineDir(to.NodeID, to.Slot))
	snapshot.Generation++
	_, err = gateway.NewClient(l.nodeDir(node.ID)).Apply(ctx, snapshot)
	return err
}

// applyForSure gives a gateway a snapshot. What became of a request that was not answered has to be known: a gateway that took the snapshot
// after all would serve another engine than is believed. So one that does not answer is ended, and taken says what its successor serves.
func (l *Runtime) applyForSure(ctx context.Context, client *gateway.Client, n *node, s gateway.Snapshot, taken func() bool) error {
	for {
		_, err := client.Apply(ctx, s)
		var unanswered *url.Error
		if err == nil || !errors.As(err, &unanswered) {
			return err
		}
		if ctx.Err() == nil && !isClosed(n.gateway.Done()) && pause(ctx, replacePoll) == nil {
			continue
		}
		if killErr := kill(n.gateway); killErr != nil {
			return errors.Join(err, killErr)
		}
		if taken() {
			return nil
		}
		return err
	}
}

// StopGateway implements instance.Replicator.
func (l *Runtime) StopGateway(ctx context.Context, nodeID string) error {
	n := l.node(nodeID)
	n.gatewayMu.Lock()
	defer n.gatewayMu.Unlock()
	n.requestStop("gateway")
	return l.stopGateway(ctx, l.nodeDir(nodeID))
}

// ServedEngine implements instance.Replicator.
func (l *Runtime) ServedEngine(nodeID string) (instance.EngineRef, error) {
	last, err := gateway.LastGood(l.nodeDir(nodeID))
	if err != nil {
		return instance.EngineRef{}, err
	}
	// The state folder may have been moved since, so only the end of the path counts.
	dir := filepath.Dir(last.Engine)
	if slot := slotOf(filepath.Base(dir)); slot > 0 {
		return instance.EngineRef{NodeID: filepath.Base(filepath.Dir(dir)), Slot: slot}, nil
	}
	return instance.EngineRef{NodeID: filepath.Base(dir)}, nil
}

// ObserveEngine implements instance.Replicator.
func (l *Runtime) ObserveEngine(ctx context.Context, node instance.Node) failover.Observation {
	n := l.node(node.ID)
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	e := n.engine.Load()
	if e == nil || e.Dir() != l.dirOf(node) {
		if e = l.findEngine(ctx, n, node); e == nil {
			return failover.Observation{At: time.Now(), Condition: n.unknown(l.dirOf(node))}
		}
	}
	seen := e.Observe(ctx)
	o := failover.Observation{At: seen.At, Condition: n.condition(e, seen)}
	if o.Condition == failover.Ended || !isSocket(engine.Socket(e.Dir())) && o.Condition != failover.Stopped {
		if o.Condition != failover.Ended {
			o.Condition = failover.Unreachable
		}
		return o
	}
	if seen.Err != nil {
		return o
	}
	r := seen.Replication
	o.Primary, o.Loading, o.Syncing, o.Linked = r.Role == engine.RolePrimary, r.Loading, r.Syncing, r.Linked
	o.ID, o.Offset, o.ID2 = r.ID, r.Offset, r.ID2
	return o
}

// findEngine looks for an engine that another server has started, and leaves it to EnsureEngine where it does not answer.
func (l *Runtime) findEngine(ctx context.Context, n *node, node instance.Node) *engine.Engine {
	if !n.TryLock() {
		return nil
	}
	defer n.Unlock()
	e, err := engine.Adopt(ctx, l.dirOf(node), node.AdminPassword)
	if err != nil {
		return nil
	}
	l.takeEngine(n, node, e)
	return e
}

// unknown is the condition of an engine that can't be asked.
func (n *node) unknown(dir string) failover.Condition {
	p, err := process.Adopt(engine.Socket(dir))
	switch {
	case err == nil && p.Stopped():
		p.Release()
		return failover.Stopped
	case err == nil:
		p.Release()
		return failover.Busy
	case errors.Is(err, process.ErrNotRunning):
		if locked, err := process.Locked(engine.Lock(dir)); err == nil && locked {
			return failover.Unreachable
		}
		return failover.Ended
	}
	return failover.Busy
}

func isSocket(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSocket != 0
}

// sighting is an earlier observation of an engine.
type sighting struct {
	engine *engine.Engine
	recent []engine.Observation // oldest first
}

// condition is what an engine does, by this observation and those before.
func (n *node) condition(e *engine.Engine, o engine.Observation) failover.Condition {
	n.sightMu.Lock()
	defer n.sightMu.Unlock()
	if n.sight.engine != e {
		n.sight = sighting{engine: e}
	}
	var before engine.Observation
	for len(n.sight.recent) > 1 && o.At.Sub(n.sight.recent[1].At) >= conditionGap {
		n.sight.recent = n.sight.recent[1:]
	}
	if len(n.sight.recent) > 0 {
		before = n.sight.recent[0]
	}
	n.sight.recent = append(n.sight.recent, o)
	return failover.Condition(o.Condition(before))
}

// asked is an engine that runs, to change its role.
func (l *Runtime) asked(node instance.Node) (*engine.Engine, error) {
	e := l.node(node.ID).engine.Load()
	if e == nil || isClosed(e.Done()) || e.Dir() != l.dirOf(node) {
		return nil, instance.ErrNoEngine
	}
	return e, nil
}

// KillEngine implements instance.Replicator.
func (l *Runtime) KillEngine(ctx context.Context, node instance.Node) error {
	n := l.node(node.ID)
	n.requestStop("engine")
	dir := l.dirOf(node)
	if e := n.engine.Load(); e != nil && e.Dir() == dir {
		if err := e.Kill(); err != nil {
			return err
		}
		select {
		case <-e.Done():
		case <-ctx.Done():
			return fmt.Errorf("the engine was killed and has not ended: %w", context.Cause(ctx))
		}
	} else if err := killListener(ctx, engine.Socket(dir), engine.Lock(dir)); err != nil {
		return err
	}
	removeGroup(dir)
	return nil
}

// ForgetData implements instance.Replicator.
func (l *Runtime) ForgetData(ctx context.Context, node instance.Node) error {
	n := l.node(node.ID)
	n.Lock()
	defer n.Unlock()
	return asFatal(l.removeEngine(ctx, node.ID, node.Slot))
}

// RemoveOtherEngines implements instance.Replicator.
func (l *Runtime) RemoveOtherEngines(ctx context.Context, node instance.Node) error {
	n := l.node(node.ID)
	n.Lock()
	defer n.Unlock()
	return asFatal(l.removeOtherEngines(ctx, node))
}

// EngineBuild implements instance.Replicator.
func (l *Runtime) EngineBuild(ctx context.Context, node instance.Node) (instance.EngineBuild, error) {
	ctx, cancel := context.WithTimeout(ctx, roleTimeout)
	defer cancel()
	n := l.node(node.ID)
	e := n.engine.Load()
	if e == nil || isClosed(e.Done()) || e.Dir() != l.dirOf(node) {
		var err error
		if e, err = engine.Adopt(ctx, l.dirOf(node), node.AdminPassword); errors.Is(err, process.ErrNotRunning) {
			return instance.EngineBuild{}, instance.ErrNoEngine
		} else if err != nil {
			return instance.EngineBuild{}, err
		}
		defer e.Release()
	}
	b, err := e.Build(ctx)
	return instance.EngineBuild{Version: versionName(b), Patch: b.Version.String()}, err
}

// PromoteEngine implements instance.Replicator.
func (l *Runtime) PromoteEngine(ctx context.Context, node instance.Node) error {
	e, err := l.asked(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, roleTimeout)
	defer cancel()
	// It may have been the primary of a planned failover, which refuses writes.
	if err := e.RefuseWrites(ctx, false); err != nil {
		return err
	}
	return e.Promote(ctx)
}

// FollowEngine implements instance.Replicator.
func (l *Runtime) FollowEngine(ctx context.Context, node instance.Node, primary netip.AddrPort) error {
	e, err := l.asked(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, roleTimeout)
	defer cancel()
	return e.FollowTLS(ctx, primary)
}

// RefuseWrites implements instance.Replicator.
func (l *Runtime) RefuseWrites(ctx context.Context, node instance.Node, refuse bool) error {
	e, err := l.asked(node)
	if err != nil {
		return err
	}
	if err := e.RefuseWrites(ctx, refuse); err != nil {
		return err
	}
	// What the engine says by itself after its replica was promoted would keep it from following that with a partial resynchronisation.
	n := l.node(node.ID)
	if refuse {
		n.thawed.Store(nil)
		return e.FreezeOffset(ctx, true)
	}
	return n.thaw(ctx, e)
}

// HoldClients implements instance.Replicator.
func (l *Runtime) HoldClients(ctx context.Context, nodeID string, limit time.Duration) error {
	_, err := gateway.NewClient(l.nodeDir(nodeID)).Hold(ctx, limit)
	if errors.Is(err, gateway.ErrBusy) {
		return fmt.Errorf("%w: %w", failover.ErrBusy, err)
	}
	return err
}

// ReleaseClients implements instance.Replicator.
func (l *Runtime) ReleaseClients(ctx context.Context, nodeID string) error {
	_, err := gateway.NewClient(l.nodeDir(nodeID)).Release(ctx)
	return err
}

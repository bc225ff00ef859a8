package api_test

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/sealane/sealane/internal/failover"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/plaintext"
)

// replicas is what nodes is besides, for instances that have several: engines with a role, an offset and no data.
type replicas struct {
	primaries map[string]bool               // by the node's name
	served    map[string]instance.EngineRef // likewise: whose engine its gateway serves
	behind    int64                         // how many bytes every replica lacks, while clients write
	held      bool                          // they can't

	readers      []ledger.Client       // of the read endpoint, with TLS
	plainReaders []plaintext.Connected // likewise, without
}

var _ instance.Replicator = (*nodes)(nil)

var begin = time.Now()

func (n *nodes) EnsureEngine(ctx context.Context, node instance.Node, progress func(string)) error {
	progress("starting the engine")
	n.mu.Lock()
	hold := n.hold
	n.running[node.ID] = !hold
	n.primaries[node.ID] = !node.Replication.Primary.IsValid()
	n.mu.Unlock()
	if hold {
		<-ctx.Done()
		return errors.New("interrupted")
	}
	return nil
}

func (n *nodes) EnsureGateway(ctx context.Context, node instance.Node, _ func(string)) error {
	return n.ApplyGateway(ctx, node)
}

func (n *nodes) OfferGateway(ctx context.Context, node instance.Node) error {
	return n.ApplyGateway(ctx, node)
}

func (n *nodes) ApplyGateway(_ context.Context, node instance.Node) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(node.Gateway.Listeners) > 0 && node.Serves != nil {
		n.given, n.served[node.ID], n.held = node.Gateway, *node.Serves, false
	}
	return nil
}

func (n *nodes) MoveClients(_ context.Context, node instance.Node, to instance.EngineRef) error {
	n.set(func(n *nodes) { n.served[node.ID] = to })
	return nil
}

func (n *nodes) StopGateway(context.Context, string) error { return nil }

func (n *nodes) ServedEngine(nodeID string) (instance.EngineRef, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ref, ok := n.served[nodeID]
	if !ok {
		return ref, errors.New("it has served nobody")
	}
	return ref, nil
}

func (n *nodes) ObserveEngine(_ context.Context, node instance.Node) failover.Observation {
	n.mu.Lock()
	defer n.mu.Unlock()
	o := failover.Observation{At: time.Now(), Condition: failover.Ended}
	if n.running[node.ID] {
		// Clients write 200 MB a second.
		o.Condition, o.Primary, o.ID, o.Offset = failover.Answering, n.primaries[node.ID], "history", 1<<30+200*time.Since(begin).Microseconds()
		if o.Linked = !o.Primary; o.Linked && !n.held {
			o.Offset -= n.behind
		}
	}
	return o
}

func (n *nodes) EngineBuild(_ context.Context, node instance.Node) (instance.EngineBuild, error) {
	return instance.EngineBuild{Version: node.Version, Patch: node.Patch}, nil
}

func (n *nodes) ForgetData(context.Context, instance.Node) error         { return nil }
func (n *nodes) RemoveOtherEngines(context.Context, instance.Node) error { return nil }
func (n *nodes) RestoreDump(context.Context, instance.Node, []instance.Node, time.Time) (string, error) {
	return "", nil
}

func (n *nodes) KillEngine(_ context.Context, node instance.Node) error {
	n.set(func(n *nodes) { n.running[node.ID] = false })
	return nil
}

func (n *nodes) PromoteEngine(_ context.Context, node instance.Node) error {
	n.set(func(n *nodes) { n.primaries[node.ID] = true })
	return nil
}

func (n *nodes) FollowEngine(_ context.Context, node instance.Node, _ netip.AddrPort) error {
	n.set(func(n *nodes) { n.primaries[node.ID] = false })
	return nil
}

func (n *nodes) RefuseWrites(context.Context, instance.Node, bool) error { return nil }

func (n *nodes) HoldClients(context.Context, string, time.Duration) error {
	n.set(func(n *nodes) { n.held = true })
	return nil
}

func (n *nodes) ReleaseClients(context.Context, string) error {
	n.set(func(n *nodes) { n.held = false })
	return nil
}

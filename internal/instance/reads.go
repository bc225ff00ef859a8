package instance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/failover"
)

// Reads: the gateways of all nodes but node-0 accept clients at the read endpoint, and each serves the engine of a replica that may be
// read. The monitor moves clients to another one as soon as it sees that theirs may not be read any more. It does not wait for the
// worker, which may be waiting for that very engine.
//
// An engine that was started anew has no data, or old ones. So the worker starts that of a replica only once no gateway serves it.

// readsLimit bounds the change of a gateway's engine.
const readsLimit = 2 * time.Second

// reads is what a monitor knows of the read endpoint.
type reads struct {
	mu     sync.Mutex        // held while clients are moved, and before monitor.mu
	served map[int]EngineRef // by gateway, what it was last made to serve; it is looked up where it is not here
}

// plan is whose engine each gateway is to serve; nil: as it is now. It is called with m.mu held.
func (m *monitor) plan(gateways []int) map[int]int {
	var readable []int
	for k, w := range m.nodes {
		if w.readable {
			readable = append(readable, k)
		}
	}
	if p := m.nodes[m.subject.primary]; len(readable) == 0 && (p == nil || !p.watch.Last.Answers()) {
		return nil // nobody is better than another
	}
	slices.Sort(readable)
	return failover.ReadPlan(gateways, readable, m.subject.primary)
}

// readFrom is the node whose engine the gateway of a node serves at the read endpoint.
func (ms *monitors) readFrom(i Instance, number int) int {
	m := ms.of(i.Name)
	if m == nil {
		return i.Replication.Primary
	}
	var gateways []int
	for _, n := range i.Replication.Nodes {
		if n.Number != 0 {
			gateways = append(gateways, n.Number)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := i.Replication.node(i.Replication.Primary)
	if p == nil || !m.subject.samePrimary(subject{primary: p.Number, nodes: map[int]Node{p.Number: {Slot: p.Slot}}}) {
		return i.Replication.Primary // it is not known yet who follows it
	}
	if to, ok := m.plan(gateways)[number]; ok && i.Replication.node(to) != nil {
		return to
	}
	return i.Replication.Primary
}

// moveReads makes each gateway of the read endpoint serve the engine that it should.
func (ms *monitors) moveReads(ctx context.Context, m *monitor) {
	m.reads.mu.Lock()
	defer m.reads.mu.Unlock()
	m.mu.Lock()
	s := m.subject
	var gateways []int
	for k, n := range s.nodes {
		if k != 0 && len(n.Gateway.Listeners) > 0 {
			gateways = append(gateways, k)
		}
	}
	plan := m.plan(gateways)
	m.mu.Unlock()
	if m.reads.served == nil {
		m.reads.served = make(map[int]EngineRef)
	}
	var mu sync.Mutex // guards served
	var all sync.WaitGroup
	served := make(map[int]EngineRef)
	for gateway, k := range plan {
		to := EngineRef{NodeID: s.nodes[k].ID, Slot: s.nodes[k].Slot}
		if m.reads.served[gateway] == to {
			continue
		}
		all.Go(func() {
			if ms.serveReads(ctx, s, gateway, to) {
				mu.Lock()
				defer mu.Unlock()
				served[gateway] = to
			}
		})
	}
	all.Wait()
	maps.Copy(m.reads.served, served)
}

// serveReads makes one gateway serve an engine, and says whether it does. One that has not served yet is the worker's.
func (ms *monitors) serveReads(ctx context.Context, s subject, gateway int, to EngineRef) bool {
	ctx, cancel := context.WithTimeout(ctx, readsLimit)
	defer cancel()
	rt := ms.runtime.(Replicator)
	served, err := rt.ServedEngine(s.nodes[gateway].ID)
	if err != nil || to.NodeID == "" {
		return false
	}
	if served == to {
		return true
	}
	if err := rt.MoveClients(ctx, s.nodes[gateway], to); err != nil {
		if ctx.Err() == nil {
			ms.workers.log.Warn("clients of the read endpoint can't be moved to another engine; it is tried again", "instance", s.name,
				"gateway", NodeName(gateway), "engine", to.NodeID, "err", err)
		}
		return false
	}
	ms.workers.log.Info("reads move", "instance", s.name, "gateway", NodeName(gateway), "engine", to.NodeID)
	return true
}

// lookAgain makes moveReads look up what the gateways serve: the worker has given them snapshots.
func (m *monitor) lookAgain() {
	m.reads.mu.Lock()
	defer m.reads.mu.Unlock()
	clear(m.reads.served)
}

// bar keeps reads from the engine of a replica, which does not run, until it is in sync again.
func (m *monitor) bar(k int, o failover.Observation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := &watched{barred: o.At}
	w.watch.Saw(o)
	m.nodes[k] = w
}

// readsLeave takes reads off the engine of a replica if it does not run. After an error it must not be started.
func (r *reconciler) readsLeave(ctx context.Context, rt Replicator, i Instance, m *monitor, n Node, k int) error {
	o := rt.ObserveEngine(ctx, n)
	if o.Running() {
		return nil
	}
	m.bar(k, o)
	r.monitors.moveReads(ctx, m)
	if i.readAddress() == "" {
		return nil
	}
	for _, other := range i.Replication.Nodes {
		served, err := rt.ServedEngine(i.nodeID(other.Number))
		if other.Number != 0 && err == nil && served.NodeID == n.ID {
			return fmt.Errorf("its engine is not started yet, because the gateway of %s would let it be read before it has the data", NodeName(other.Number))
		}
	}
	return nil
}

package instance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/failover"
	"github.com/sealane/sealane/internal/store"
)

// Instances of several nodes: what the worker does in place of Runtime.Ensure. The order is what keeps the data: first it is found out who
// is the primary, and whether it has failed; only then an engine is started, because one that starts without data must not become what
// replicas copy.

// replicaRetry is how soon the worker looks again after a replica that is not well, or not in sync while somebody waits for that.
const replicaRetry = 250 * time.Millisecond

// ensureNodes makes the nodes what the record says.
func (r *reconciler) ensureNodes(ctx context.Context, w *worker, i *Instance, now time.Time) error {
	rt, ok := r.runtime.(Replicator)
	if !ok {
		return fmt.Errorf("%w: this server can't run instances of tier STANDARD_HA", ErrFatal)
	}
	if err := r.followServed(rt, i); err != nil {
		return err
	}
	nodes, err := r.allNodes(*i, now)
	if err != nil {
		return err
	}
	m := r.monitors.look(r.workers.lifetime(), subject{name: i.Name, primary: i.Replication.Primary, history: i.Replication.History, nodes: nodes})
	r.monitors.settle(ctx, m)
	defer m.lookAgain()
	if err := r.mendPrimary(ctx, rt, w, i, m, nodes[i.Replication.Primary]); err != nil {
		return err
	}
	if nodes, err = r.allNodes(*i, now); err != nil { // there may have been a failover
		return err
	}
	r.monitors.look(r.workers.lifetime(), subject{name: i.Name, primary: i.Replication.Primary, history: i.Replication.History, nodes: nodes})
	if err := r.ensurePrimary(ctx, rt, i, nodes); err != nil {
		return err
	}
	r.ensureReplicas(ctx, rt, w, i, m, nodes)
	if err := r.removeNodes(ctx, i); err != nil {
		return err
	}
	if err := r.forgetPrevious(i, m); err != nil {
		return err
	}
	return r.judgeReplicas(w, *i, m)
}

// forgetPrevious ends that a node may take over with the data of before the last failover: from when on one has the primary's.
func (r *reconciler) forgetPrevious(i *Instance, m *monitor) error {
	if i.Replication.Previous == "" {
		return nil
	}
	for k, info := range m.infos() {
		if k != i.Replication.Primary && info.InSync {
			i.Replication = i.Replication.clone()
			i.Replication.Previous = ""
			return r.saveReplication(i)
		}
	}
	return nil
}

// allNodes are the nodes of an instance, by number.
func (r *reconciler) allNodes(i Instance, now time.Time) (map[int]Node, error) {
	nodes := make(map[int]Node)
	for _, record := range i.Replication.Nodes {
		n, err := r.nodeOf(i, record.Number, now)
		if err != nil {
			return nil, err
		}
		nodes[record.Number] = n
	}
	return nodes, nil
}

// followServed makes the record say who is the primary, where a failover went on without its being recorded. A disk that is full must not
// keep the nodes from what the gateway serves already, so the record may stay behind.
func (r *reconciler) followServed(rt Replicator, i *Instance) error {
	served, err := rt.ServedEngine(i.nodeID(0))
	if err != nil || served.NodeID == i.primaryID() {
		return nil // it has not served yet
	}
	number, ok := i.numberOf(served.NodeID)
	if !ok || i.Replication.node(number) == nil {
		return nil
	}
	i.Replication = i.Replication.clone()
	i.Replication.changePrimary(FailoverRecord{Time: r.now().UTC(), From: i.Replication.Primary, To: number, Reason: "a failover was under way when the server ended"})
	return r.saveReplication(i)
}

// numberOf is the number of a node of the instance.
func (i Instance) numberOf(nodeID string) (int, bool) {
	text, ok := strings.CutPrefix(nodeID, i.UID+"-")
	number, err := strconv.Atoi(text)
	return number, ok && err == nil
}

// saveReplication records what has happened already.
func (r *reconciler) saveReplication(i *Instance) error {
	err := r.records.save(i)
	if err == nil || errors.Is(err, store.ErrConflict) {
		return err
	}
	r.log.Error("the nodes of an instance can't be recorded; the server goes on, and tries again", "instance", i.Name, "err", err)
	return nil
}

// ensurePrimary brings the primary up, with the gateways that lead to it.
func (r *reconciler) ensurePrimary(ctx context.Context, rt Replicator, i *Instance, nodes map[int]Node) error {
	progress := r.progress(i.Name)
	primary := nodes[i.Replication.Primary]
	busy := (*BusyError)(nil)
	if err := rt.EnsureEngine(ctx, primary, progress); err != nil && !errors.As(err, &busy) {
		return fmt.Errorf("%s: %w", NodeName(i.Replication.Primary), err)
	}
	if o := rt.ObserveEngine(ctx, primary); o.Answers() && o.Primary && o.ID != "" && o.ID != i.Replication.History {
		i.Replication = i.Replication.clone()
		i.Replication.Previous = ""
		if o.ID2 == i.Replication.History {
			i.Replication.Previous = o.ID2
		}
		i.Replication.History = o.ID
		if err := r.saveReplication(i); err != nil {
			return err
		}
	}
	if i.Replication.Primary != 0 {
		if err := rt.EnsureGateway(ctx, primary, progress); err != nil {
			return fmt.Errorf("%s: %w", NodeName(i.Replication.Primary), err)
		}
	}
	if err := rt.EnsureGateway(ctx, nodes[0], progress); err != nil {
		return err
	}
	if err := rt.RemoveOtherEngines(ctx, primary); err != nil {
		return err
	}
	if busy != nil {
		return busy
	}
	return nil
}

// fault is why a replica could not be brought up.
type fault struct {
	err   error
	since time.Time
}

// inTroubleFor is for how long a replica could not be brought up; 0: it is up.
func (w *worker) inTroubleFor(k int, now time.Time) time.Duration {
	if f, ok := w.faults[k]; ok {
		return now.Sub(f.since)
	}
	return 0
}

// ensureReplicas brings the replicas up, and has them follow the primary. What is wrong with them is in w.faults.
//
// The gateways come first. Reads don't wait for an engine that hangs or loads; and others would copy all data from an old primary that has
// just become a replica.
func (r *reconciler) ensureReplicas(ctx context.Context, rt Replicator, w *worker, i *Instance, m *monitor, nodes map[int]Node) {
	replicas := i.Replication.replicas()
	for _, k := range replicas {
		_ = r.readsLeave(ctx, rt, *i, m, nodes[k], k) // it is asked again below
	}
	failed := onEachNode(replicas, func(k int) error {
		if k == 0 {
			return nil // that of node-0 is the endpoint's
		}
		n, err := r.nodeOf(*i, k, r.now()) // whose engine is read may have changed
		if err != nil {
			return err
		}
		return rt.EnsureGateway(ctx, n, func(string) {})
	})
	m.lookAgain()
	wait := r.workers.checkRestart(w)
	var mu sync.Mutex // guards renewed
	renewed := make(map[int]bool)
	engines := onEachNode(replicas, func(k int) error {
		again, err := r.ensureReplica(ctx, rt, *i, m, nodes[k], k, wait)
		mu.Lock()
		defer mu.Unlock()
		renewed[k] = again || err != nil
		return err
	})
	if ctx.Err() != nil {
		return
	}
	faults := make(map[int]fault)
	for _, k := range replicas {
		if err := errors.Join(failed[k], engines[k]); err != nil {
			faults[k] = fault{err, r.now()}
			if before, ok := w.faults[k]; ok {
				faults[k] = fault{err, before.since}
			}
			renewed[k] = true
		}
	}
	w.faults = faults
	if err := r.noteBuilds(i, renewed); err != nil {
		w.poke() // the record has changed
	}
}

// onEachNode does something for nodes at the same time, and returns what failed, by their numbers.
func onEachNode(nodes []int, do func(k int) error) map[int]error {
	var mu sync.Mutex
	var all sync.WaitGroup
	failed := make(map[int]error)
	for _, k := range nodes {
		all.Go(func() {
			if err := do(k); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[k] = err
			}
		})
	}
	all.Wait()
	return failed
}

// ensureReplica brings the engine of a replica up. wait is why one that does not run is not to be started yet. renewed says that it was not known to be
// the one that it is to be.
func (r *reconciler) ensureReplica(ctx context.Context, rt Replicator, i Instance, m *monitor, n Node, k int, wait error) (renewed bool, err error) {
	if _, changing := i.buildOf(k); changing {
		if renewed, err = r.renewReplica(ctx, rt, i, n, k); err != nil {
			return true, err
		}
	}
	if wait != nil && !renewed && !rt.ObserveEngine(ctx, n).Running() {
		return renewed, wait
	}
	if why := m.hungFor(k, r.now()); why != "" {
		r.log.Warn("a replica is ended and started again", "instance", i.Name, "node", NodeName(k), "why", why)
		if err := rt.KillEngine(ctx, n); err != nil {
			return renewed, err
		}
	}
	if err := r.readsLeave(ctx, rt, i, m, n, k); err != nil {
		return renewed, err
	}
	if err := rt.EnsureEngine(ctx, n, func(string) {}); err != nil {
		return renewed, err
	}
	return renewed, rt.RemoveOtherEngines(ctx, n)
}

// removeNodes removes nodes that are not wanted any more.
func (r *reconciler) removeNodes(ctx context.Context, i *Instance) error {
	if len(i.Replication.Removing) == 0 {
		return nil
	}
	for _, k := range i.Replication.Removing {
		// Its clients of the read endpoint get their replies. A gateway that doesn't end is killed below.
		_ = r.runtime.(Replicator).StopGateway(ctx, i.nodeID(k))
		if err := r.runtime.Remove(ctx, i.nodeID(k)); err != nil {
			return fmt.Errorf("remove %s: %w", NodeName(k), err)
		}
	}
	i.Replication = i.Replication.clone()
	i.Replication.Removing = nil
	return r.saveReplication(i)
}

// judgeReplicas notes which replicas are not in sync. Whoever waits for an operation waits for them too; otherwise the instance serves, and
// says so.
func (r *reconciler) judgeReplicas(w *worker, i Instance, m *monitor) error {
	infos := m.infos()
	var texts, kinds []string
	for _, k := range i.Replication.replicas() {
		if text, kind := replicaTrouble(w.faults[k].err, infos[k]); text != "" {
			texts, kinds = append(texts, NodeName(k)+": "+text), append(kinds, NodeName(k)+": "+kind)
		}
	}
	text := strings.Join(texts, "; ")
	r.workers.setNote(i.Name, replicaNote, text)
	if kind := strings.Join(kinds, "; "); kind != w.loggedReplicas {
		w.loggedReplicas = kind
		if kind != "" {
			r.log.Warn("not all replicas are in sync", "instance", i.Name, "why", text)
		}
	}
	if text == "" {
		return nil
	}
	if op := i.pending(); op != nil && !op.isTask() && op.Verb != Delete {
		for k, f := range w.faults {
			if errors.Is(f.err, ErrFatal) || w.inTroubleFor(k, r.now()) > createTimeout {
				return fmt.Errorf("%w: %s", ErrFatal, text) // it is told to whoever waits, and undone
			}
		}
		r.workers.observe(i.Name, func(o *observation) { o.detail = text })
		return tooSoon(replicaRetry)
	}
	w.wakeBy(r.now().Add(replicaRetry))
	return nil
}

// replicaTrouble says why a replica is not in sync; "": it is. kind leaves out what is different at each look, so that the log has it once.
func replicaTrouble(fault error, info NodeInfo) (text, kind string) {
	var wait tooSoon
	switch {
	case errors.As(fault, &wait):
		return fault.Error(), "it keeps ending"
	case fault != nil:
		text = fault.Error()
	case info.InSync:
		return "", ""
	case info.Fault != "":
		text = info.Fault
	case info.Known && info.Lag >= 100*time.Millisecond:
		return fmt.Sprintf("it is %v behind the primary", info.Lag.Round(100*time.Millisecond)), "it is behind the primary"
	default:
		text = "it is copying the primary's data"
	}
	return text, text
}

// mendPrimary replaces a primary that has failed. It returns nil where the primary may be brought up: it has not failed, or nobody else has
// its data.
func (r *reconciler) mendPrimary(ctx context.Context, rt Replicator, w *worker, i *Instance, m *monitor, primary Node) error {
	if i.Replication.History == "" {
		return nil // it has not run yet
	}
	why, since := m.fault()
	o := rt.ObserveEngine(ctx, primary)
	switch {
	case o.Answers():
		return nil
	case !o.Running():
		why = failover.Ended.Fault()
	case why == "":
		return nil // it may answer yet
	}
	if since.IsZero() {
		since = r.now()
	}
	err := r.failOver(ctx, i, m, why, since)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, failover.ErrNoReplica) && !o.Running():
		if err := r.workers.checkRestart(w); err != nil {
			return err
		}
		// After a clean stop no engine runs, which is no fault.
		if reason, _ := r.workers.lastExit(i.Name); reason != "" {
			r.log.Error("the primary is started again, because no replica has its data", "instance", i.Name, "why", why)
			if err := r.noteLoss(i, since); err != nil {
				return err
			}
		}
		return r.restoreDump(ctx, rt, *i, primary)
	}
	return fmt.Errorf("%s, the primary, has failed (%s), and no replica takes over: %w", NodeName(i.Replication.Primary), why, err)
}

// noteLoss records that the primary is started again because nobody has its data, where users look for failovers.
func (r *reconciler) noteLoss(i *Instance, since time.Time) error {
	primary, now := i.Replication.Primary, r.now().UTC()
	f := FailoverRecord{Time: now, From: primary, To: primary, Took: now.Sub(since),
		Reason: "no engine had the data any more, so the instance began without data; persistence would keep them"}
	if i.Spec.SnapshotPeriod > 0 {
		f.Reason = "no engine had the data any more, so those of the last snapshot were restored"
	}
	if n := len(i.Replication.Failovers); n > 0 && i.Replication.Failovers[n-1].Reason == f.Reason && now.Sub(i.Replication.Failovers[n-1].Time) < createTimeout {
		return nil // it has not come up since
	}
	i.Replication = i.Replication.clone()
	i.Replication.changePrimary(f)
	return r.saveReplication(i)
}

// restoreDump gives a primary that is to be started the last snapshot of the instance's data. Where it has made none since it became the
// primary, that is another node's.
func (r *reconciler) restoreDump(ctx context.Context, rt Replicator, i Instance, primary Node) error {
	if !primary.KeepDump {
		return nil
	}
	nodes, err := r.allNodes(i, r.now())
	if err != nil {
		return err
	}
	var others []Node
	for _, k := range i.Replication.replicas() {
		others = append(others, nodes[k])
	}
	from, err := rt.RestoreDump(ctx, primary, others, i.primarySince())
	if from != "" {
		r.log.Warn("the last snapshot is restored from another node, because the primary has made none since it took over", "instance", i.Name, "from", from)
	}
	return err
}

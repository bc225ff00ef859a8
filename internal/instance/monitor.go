package instance

import (
	"context"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/failover"
)

// monitorInterval is how often the engines of an instance with several nodes are looked at.
const monitorInterval = 200 * time.Millisecond

// settleRounds is how often the engines are looked at before it counts as known which replicas are in sync.
const settleRounds = 5

// monitors look at the engines of instances with several nodes, and wake the worker when something has to be done. They change nothing
// themselves, but for who serves reads (reads.go).
type monitors struct {
	runtime Runtime
	workers *workers
	now     func() time.Time

	mu     sync.Mutex
	byName map[Name]*monitor
}

// monitor is what was seen of one instance's nodes.
type monitor struct {
	mu         sync.Mutex // guards what follows
	subject    subject
	nodes      map[int]*watched // by number
	faultSince time.Time        // since when the primary has not answered; zero: it does
	failed     bool             // it was found to have failed
	settled    bool             // each replica was seen to be in sync, or not to be
	stop       context.CancelFunc

	reads reads
}

// subject is what a monitor looks at.
type subject struct {
	name    Name
	primary int
	history string
	nodes   map[int]Node
}

// samePrimary says whether the primary is the same engine: after an import it is another one, with other data.
func (s subject) samePrimary(o subject) bool {
	return s.primary == o.primary && s.nodes[s.primary].Slot == o.nodes[o.primary].Slot
}

// watched is what was seen of one node.
type watched struct {
	watch    failover.Watch
	lag      failover.Lag
	behind   time.Duration
	inSync   bool
	readable bool
	barred   time.Time // what was seen before is of an engine that has ended
}

// look makes the instance's monitor look at these nodes from now on, and starts it where there is none. ctx is for as long as the server runs.
func (ms *monitors) look(ctx context.Context, s subject) *monitor {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m := ms.byName[s.name]
	if m == nil {
		ctx, stop := context.WithCancel(ctx)
		m = &monitor{nodes: make(map[int]*watched), stop: stop}
		ms.byName[s.name] = m
		m.set(s)
		ms.workers.goroutines.Go(func() { ms.run(ctx, m) })
		return m
	}
	m.set(s)
	return m
}

func (m *monitor) set(s subject) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.subject.samePrimary(s) {
		m.faultSince, m.failed = time.Time{}, false
		m.nodes = make(map[int]*watched) // what was behind one primary says nothing of another
	}
	m.subject = s
	for k := range m.nodes {
		if _, ok := s.nodes[k]; !ok {
			delete(m.nodes, k)
		}
	}
}

// forget ends the monitor of an instance that is deleted.
func (ms *monitors) forget(name Name) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if m := ms.byName[name]; m != nil {
		m.stop()
		delete(ms.byName, name)
	}
}

// of returns the instance's monitor; nil: there is none.
func (ms *monitors) of(name Name) *monitor {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.byName[name]
}

// run is a monitor's goroutine.
func (ms *monitors) run(ctx context.Context, m *monitor) {
	tick := time.NewTicker(monitorInterval)
	defer tick.Stop()
	for {
		ms.round(ctx, m)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// round looks at all nodes once.
func (ms *monitors) round(ctx context.Context, m *monitor) {
	m.mu.Lock()
	s := m.subject
	m.mu.Unlock()
	seen := ms.observe(ctx, s)
	if ctx.Err() != nil {
		return
	}
	failed, work := m.saw(s, seen)
	ms.moveReads(ctx, m)
	if failed {
		ms.workers.interrupt(s.name) // the step under way may be waiting for this very engine
	}
	if work {
		ms.workers.wake(s.name)
	}
}

// observe looks at all nodes at the same time.
func (ms *monitors) observe(ctx context.Context, s subject) map[int]failover.Observation {
	var mu sync.Mutex
	var all sync.WaitGroup
	seen := make(map[int]failover.Observation)
	for k, node := range s.nodes {
		all.Go(func() {
			o := ms.runtime.(Replicator).ObserveEngine(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			seen[k] = o
		})
	}
	all.Wait()
	return seen
}

// saw notes what was seen. failed says that the primary has just been found to have failed, and work that the worker has something to
// do: the primary has failed, a replica came into sync or fell behind, or an engine is not in its role.
func (m *monitor) saw(s subject, seen map[int]failover.Observation) (failed, work bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.subject.samePrimary(s) {
		return false, false // a failover or an import went on meanwhile
	}
	for k, o := range seen {
		w := m.nodes[k]
		if w == nil {
			w = &watched{}
			m.nodes[k] = w
		}
		if !o.At.Before(w.barred) {
			w.watch.Saw(o)
		}
	}
	primary := m.nodes[s.primary]
	if primary == nil {
		return false, false
	}
	// A primary makes itself another replication ID when its first replica comes, which has to be recorded.
	last := primary.watch.Last
	work = last.Answers() && last.Primary && last.ID != s.history
	for k, w := range m.nodes {
		if k == s.primary {
			continue
		}
		w.behind = w.lag.Saw(last, w.watch.Answered)
		was := w.inSync
		w.inSync = w.lag.Known() && failover.InSync(m.history(), w.watch.Last, w.behind)
		w.readable = w.lag.Known() && failover.Readable(m.history(), last, w.watch.Lately(), w.behind)
		// A replica that ended by itself is reported by Runtime.Exits. One that was restarted would not follow anybody.
		work = work || was != w.inSync || w.watch.Last.Answers() && w.watch.Last.Primary
	}
	switch {
	case last.Answers():
		m.faultSince, m.failed = time.Time{}, false
		return false, work
	case m.faultSince.IsZero():
		m.faultSince = last.At
	}
	was := m.failed
	m.failed = primary.watch.Fault() != ""
	// One that has not answered since the server started may be on its way up: its start is not to be ended.
	failed = m.failed && !was && !primary.watch.Answered.At.IsZero()
	return failed, work || m.failed
}

// settle looks until it is known which replicas are in sync: a server that has just started would have them all take no reads.
func (ms *monitors) settle(ctx context.Context, m *monitor) {
	for range settleRounds {
		m.mu.Lock()
		settled := m.settled
		m.mu.Unlock()
		if settled {
			return
		}
		ms.round(ctx, m)
		m.mu.Lock()
		m.settled = true
		for k, w := range m.nodes {
			m.settled = m.settled && (k == m.subject.primary || !w.watch.Last.Answers() || w.lag.Known())
		}
		m.mu.Unlock()
	}
	m.mu.Lock()
	m.settled = true
	m.mu.Unlock()
}

// history is that of the primary's data, by the latest that is known. It is called with m.mu held.
func (m *monitor) history() string {
	if w := m.nodes[m.subject.primary]; w != nil && w.watch.Answered.ID != "" && w.watch.Answered.Primary {
		return w.watch.Answered.ID
	}
	return m.subject.history
}

// replicaPatience is for how long a replica that hangs is left alone. The primary does not need it, and somebody may be looking at it with a
// debugger.
const replicaPatience = 10 * time.Second

// hungFor says what is wrong with a replica that has hung for so long that it is to be started again; "": nothing is.
func (m *monitor) hungFor(k int, now time.Time) (why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.nodes[k]
	if w == nil || !w.watch.Last.Running() || w.watch.Answered.At.IsZero() || now.Sub(w.watch.Answered.At) < replicaPatience {
		return ""
	}
	return w.watch.Fault()
}

// fault says why the primary has failed and since when it did not answer; "": it has not.
func (m *monitor) fault() (why string, since time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.nodes[m.subject.primary]; w != nil {
		why = w.watch.Fault()
	}
	return why, m.faultSince
}

// historyNow is history for those who don't hold m.mu.
func (m *monitor) historyNow() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.history()
}

// infos are what is known of the nodes, by number.
func (m *monitor) infos() map[int]NodeInfo {
	m.mu.Lock()
	defer m.mu.Unlock()
	infos := make(map[int]NodeInfo)
	for k, w := range m.nodes {
		infos[k] = NodeInfo{Known: true, InSync: w.inSync, Lag: w.behind, Offset: w.watch.Answered.Offset, Fault: w.watch.Fault()}
	}
	return infos
}

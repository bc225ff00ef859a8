package gateway

import (
	"sync"
	"time"
)

// connections are all open ones: those that are served and those that are not yet.
type connections struct {
	mu     sync.Mutex // guards open
	open   map[*conn]struct{}
	closed sync.WaitGroup // one per open connection; only the acceptor's goroutine adds, so none is added once every listener is closed
}

func (s *connections) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = struct{}{}
	s.closed.Add(1)
}

func (s *connections) remove(c *conn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	s.closed.Done()
}

func (s *connections) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// each calls f for every connection, without holding the mutex: f may wait.
func (s *connections) each(f func(*conn)) {
	s.mu.Lock()
	all := make([]*conn, 0, len(s.open))
	for c := range s.open {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}

// admit takes a connection in, unless too many are open that are not served yet and none of these can go for it. end is its
// counterpart.
func (g *gateway) admit(c *conn, now time.Time) bool {
	g.count.accepted.Add(1)
	crowded := g.limit.crowded(g.connections.len(), g.arrivals.len(), g.snapshots.active.Load().snapshot)
	if crowded && !g.acceptor.makeRoom(c, now) {
		g.limit.rejected.Add(noCrowded)
		g.limitedLog.warn("crowded", "client closed at once, too many connections are on their way in", "client", c.remote.String())
		return false
	}
	g.arrivals.add(c)
	g.connections.add(c)
	return true
}

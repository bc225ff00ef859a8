package gateway

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxBegun is how many handshakes may be under way, most of them waiting for their client's next flight: each takes
	// some 50 KiB. One program may well begin thousands before it goes on with the first (redis-benchmark does).
	maxBegun = 4096
	// nextFlight is for how long one may wait for that when others need its room.
	nextFlight = 5 * time.Second
)

// places bound how many handshakes compute at a time. One that waits for its client holds none; when the client has
// answered it comes before all that have not begun.
type places struct {
	wanted func() // called when a place is free, or room for another handshake; must not wait

	mu    sync.Mutex // guards the rest
	free  int
	ready list.List // of chan struct{}: handshakes under way that could go on
	begun list.List // of *conn, the oldest first

	admitted, gaveUp atomic.Uint64
}

func newPlaces(n int, wanted func()) *places { return &places{free: n, wanted: wanted} }

// begin takes a place for a handshake to begin. Where too many are under way, stuck is one that should make room.
func (p *places) begin(now time.Time) (ok bool, stuck *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free == 0 {
		return false, nil
	}
	if p.begun.Len() >= maxBegun {
		if c := p.begun.Front().Value.(*conn); now.Sub(c.began) > nextFlight {
			p.begun.Remove(c.place)
			c.place = nil
			return false, c
		}
		return false, nil
	}
	p.free--
	return true, nil
}

// enter is called with the place that begin took.
func (p *places) enter(c *conn, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.admitted.Add(1)
	c.began, c.place = now, p.begun.PushBack(c)
	c.computing = true
}

// pause gives the place up while the client is waited for.
func (p *places) pause() {
	p.mu.Lock()
	if e := p.ready.Front(); e != nil {
		p.ready.Remove(e)
		close(e.Value.(chan struct{}))
		p.mu.Unlock()
		return
	}
	p.free++
	p.mu.Unlock()
	p.wanted()
}

// resume waits for a place.
func (p *places) resume() {
	p.mu.Lock()
	if p.free > 0 {
		p.free--
		p.mu.Unlock()
		return
	}
	turn := make(chan struct{})
	p.ready.PushBack(turn)
	p.mu.Unlock()
	<-turn
}

// leave is called at the end of a handshake.
func (p *places) leave(c *conn) {
	p.mu.Lock()
	if c.place != nil {
		p.begun.Remove(c.place)
		c.place = nil
	}
	p.mu.Unlock()
	if c.computing {
		c.computing = false
		p.pause()
	} else {
		p.wanted()
	}
}

func (d *door) admission() Admission {
	p := d.places
	p.mu.Lock()
	defer p.mu.Unlock()
	return Admission{Admitted: p.admitted.Load(), Begun: int64(p.begun.Len()), Waiting: d.queued.Load(), GaveUp: p.gaveUp.Load()}
}

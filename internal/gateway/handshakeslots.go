package gateway

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxUnderWay is how many handshakes may be under way, most of them waiting for their client's next flight: each takes
	// some 50 KiB. One program may well begin thousands before it goes on with the first (redis-benchmark does).
	maxUnderWay = 4096
	// nextFlight is for how long one may wait for that when others need its room.
	nextFlight = 5 * time.Second
)

// handshakeSlots bound how many handshakes compute at a time. One that waits for its client holds no slot; when the client has
// answered it gets the next free one, before all that have not begun.
type handshakeSlots struct {
	freed func() // called when a slot is free, or another handshake may be under way; must not wait

	mu       sync.Mutex // guards the rest
	free     int
	resuming list.List // of chan struct{}: handshakes under way that could go on
	underWay list.List // of *conn, the oldest first

	begun, gaveUp atomic.Uint64
}

// slot is a connection's part in handshakeSlots.
type slot struct {
	began    time.Time     // guarded by handshakeSlots.mu; likewise:
	underWay *list.Element // nil: its handshake has not begun, or has ended
	held     bool          // of the worker: it may compute
}

func newHandshakeSlots(n int, freed func()) *handshakeSlots {
	return &handshakeSlots{free: n, freed: freed}
}

// reserve takes a slot for a handshake to begin. Where too many are under way, stalled is one that is to be closed for it.
func (p *handshakeSlots) reserve(now time.Time) (ok bool, stalled *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free == 0 {
		return false, nil
	}
	if p.underWay.Len() >= maxUnderWay {
		if c := p.underWay.Front().Value.(*conn); now.Sub(c.slot.began) > nextFlight {
			p.underWay.Remove(c.slot.underWay)
			c.slot.underWay = nil
			return false, c
		}
		return false, nil
	}
	p.free--
	return true, nil
}

// begin gives the slot that was reserved to c, whose handshake begins.
func (p *handshakeSlots) begin(c *conn, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun.Add(1)
	c.slot = slot{began: now, underWay: p.underWay.PushBack(c), held: true}
}

// release gives a slot up, while the client is waited for.
func (p *handshakeSlots) release() {
	p.mu.Lock()
	if e := p.resuming.Front(); e != nil {
		p.resuming.Remove(e)
		close(e.Value.(chan struct{}))
		p.mu.Unlock()
		return
	}
	p.free++
	p.mu.Unlock()
	p.freed()
}

// acquire waits for a slot, for a handshake that is under way.
func (p *handshakeSlots) acquire() {
	p.mu.Lock()
	if p.free > 0 {
		p.free--
		p.mu.Unlock()
		return
	}
	turn := make(chan struct{})
	p.resuming.PushBack(turn)
	p.mu.Unlock()
	<-turn
}

// end is called at the end of a handshake, or where a connection that was given a slot turned out to have none.
func (p *handshakeSlots) end(c *conn) {
	p.mu.Lock()
	if c.slot.underWay != nil {
		p.underWay.Remove(c.slot.underWay)
		c.slot.underWay = nil
	}
	p.mu.Unlock()
	if c.slot.held {
		c.slot.held = false
		p.release()
	} else {
		p.freed()
	}
}

func (a *acceptor) admission() Admission {
	p := a.slots
	p.mu.Lock()
	defer p.mu.Unlock()
	return Admission{Admitted: p.begun.Load(), Begun: int64(p.underWay.Len()), Waiting: a.queued.Load(), GaveUp: p.gaveUp.Load()}
}

package ledger

import (
	"container/list"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Handshake is what a completed handshake tells.
type Handshake struct {
	At       time.Time
	Resumed  bool     // a resumed handshake proves nothing, because no certificate was verified
	Anchors  []string // each of them by itself verifies the certificate
	Declared []string // what the client says it verifies against
}

// Table gathers what is seen of clients: at most max, those seen last. It is safe for concurrent use.
type Table struct {
	max int

	mu          sync.Mutex // guards what follows
	clients     map[Identity]*list.Element
	recent      list.List // of *Client, the one seen last first
	evicted     uint64
	lastEvicted time.Time
}

// NewTable returns an empty Table.
func NewTable(max int) *Table {
	return &Table{max: max, clients: make(map[Identity]*list.Element)}
}

// Seen notes that a client is there, whose connection began with the handshake.
func (t *Table) Seen(id Identity, h Handshake, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.client(id, h.At, now)
	if h.Resumed {
		return
	}
	if len(h.Anchors) == 1 {
		c.change(h.Anchors[0], func(e *Evidence) { e.Proven = later(e.Proven, stamp(h.At)) })
	}
	for _, label := range h.Declared {
		c.change(label, func(e *Evidence) { e.Declared = later(e.Declared, stamp(h.At)) })
	}
}

// Failed notes that a client at an address refused a certificate that each of the anchors verifies. A client that closed without
// an alert counts only where the certificate has one anchor, which means that it was tested: elsewhere a port scan does the same.
func (t *Table) Failed(address netip.Addr, anchors []string, how Failure, now time.Time) {
	if how == Closed && len(anchors) != 1 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.client(Identity{Address: address}, now, now)
	for _, label := range anchors {
		c.change(label, func(e *Evidence) { *e = e.merged(Evidence{Failed: stamp(now), How: how}) })
	}
}

// client is called with mu held.
func (t *Table) client(id Identity, first, last time.Time) *Client {
	id, first, last = id.Bounded(), stamp(first), stamp(last)
	if at := t.clients[id]; at != nil {
		c := at.Value.(*Client)
		c.Last = later(c.Last, last)
		t.recent.MoveToFront(at)
		return c
	}
	if t.recent.Len() >= t.max {
		oldest := t.recent.Back()
		delete(t.clients, t.recent.Remove(oldest).(*Client).Identity)
		t.evicted++
		t.lastEvicted = later(t.lastEvicted, last)
	}
	c := &Client{Identity: id, First: first, Last: last}
	t.clients[id] = t.recent.PushFront(c)
	return c
}

func (c *Client) change(label string, f func(*Evidence)) {
	if c.Anchors == nil {
		c.Anchors = make(map[string]Evidence)
	}
	e := c.Anchors[label]
	f(&e)
	c.Anchors[label] = e
}

// Keep forgets all anchors but these.
func (t *Table) Keep(anchors []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for at := t.recent.Front(); at != nil; at = at.Next() {
		maps.DeleteFunc(at.Value.(*Client).Anchors, func(label string, _ Evidence) bool { return !slices.Contains(anchors, label) })
	}
}

// Ledger is all of it, as it is now.
func (t *Table) Ledger() Ledger {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := Ledger{Clients: make([]Client, 0, t.recent.Len()), Evicted: t.evicted, LastEvicted: t.lastEvicted}
	for at := t.recent.Front(); at != nil; at = at.Next() {
		c := *at.Value.(*Client)
		c.Anchors = maps.Clone(c.Anchors)
		l.Clients = append(l.Clients, c)
	}
	slices.SortFunc(l.Clients, compareClients)
	return l
}

// Count is how many clients are kept, and how many were dropped for want of room.
func (t *Table) Count() (clients int, evicted uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.recent.Len(), t.evicted
}

// stamp is a time as it is kept: exact enough to know the order of a failure and a proof, and without a monotonic part.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

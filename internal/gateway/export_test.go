package gateway

import (
	"context"
	"log/slog"
	"net/netip"
	"time"
)

// LogLimiterForTest shows when a topic may be logged.
func LogLimiterForTest() func(topic string, now time.Time) (uint64, bool) {
	return newLogLimiter(slog.New(slog.DiscardHandler)).allow
}

// AcceptForTest offers a listener that cannot accept to an acceptor, which looks every tenth of a second for so long, and
// returns how often it tried.
func AcceptForTest(address string, err error, duration time.Duration) (calls int, failure error) {
	g := newGateway(context.Background(), Config{Log: slog.New(slog.DiscardHandler)})
	a, failure := newAcceptor(g)
	if failure != nil {
		return 0, failure
	}
	defer a.discard() // it doesn't run: the clock is ours
	l, failure := a.listen(address, false)
	if failure != nil {
		return 0, failure
	}
	defer a.closeListener(l)
	l.next = func() (int, netip.AddrPort, error) { calls++; return -1, netip.AddrPort{}, err }
	a.mu.Lock()
	a.listeners[l.fd] = l
	a.mu.Unlock()
	start := time.Now()
	for now := start; now.Before(start.Add(duration)); now = now.Add(tickPace) {
		if a.tick(now); l.retry.IsZero() {
			a.accept(l, now)
		}
	}
	return calls, nil
}

// LeaveForTest lets clients connect to a shared listener whose acceptor does nothing, and returns how many are accepted when the
// listener is left.
func LeaveForTest(address string, connect func()) (accepted int, err error) {
	g := newGateway(context.Background(), Config{Log: slog.New(slog.DiscardHandler)})
	if err = g.prepare(); err != nil {
		return 0, err
	}
	defer g.loops.Close()
	l, err := g.acceptor.listen(address, true)
	if err != nil {
		return 0, err
	}
	g.snapshots.active.Store(&serving{})
	g.acceptor.watchListener(l)
	connect()
	left := make(chan struct{})
	go func() { g.acceptor.leave(l, g.snapshots.active.Load()); close(left) }()
	for {
		g.acceptor.leaveListeners()
		select {
		case <-left:
			g.connections.each((*conn).cut)
			g.acceptor.discard()
			return int(g.count.accepted.Load()), nil
		default:
		}
	}
}

// ValidateForTest returns what Apply would say of a snapshot, without a gateway.
func (s Snapshot) ValidateForTest() error {
	_, err := newServing(s, nil)
	return err
}

// EncodeForTest is what goes to disk.
func EncodeForTest(s Snapshot) ([]byte, error) { return encodeSnapshot(s) }

// AlertForTest is the alert found in records that come in pieces of n bytes.
func AlertForTest(records []byte, n int) uint8 {
	var a alertWatch
	for len(records) > 0 {
		m := min(n, len(records))
		a.see(records[:m])
		records = records[m:]
	}
	return a.alert
}

// ClientHelloForTest shows what the first bytes of a connection tell.
func ClientHelloForTest(b []byte) (resumes bool, version uint16, complete bool) {
	h, complete := parseClientHello(b)
	return h.resumes, h.version, complete
}

// QueueForTest is a handshake queue of clients that are known by a name.
type QueueForTest struct {
	q     *handshakeQueue
	names map[*queuedHandshake]string
	by    map[string]*queuedHandshake
}

// NewQueueForTest returns an empty queue.
func NewQueueForTest() *QueueForTest {
	return &QueueForTest{newHandshakeQueue(), make(map[*queuedHandshake]string), make(map[string]*queuedHandshake)}
}

// Push lets a client from an address join the queue.
func (t *QueueForTest) Push(name, from string, resumes bool) {
	w := t.q.push(&conn{remote: netip.AddrPortFrom(netip.MustParseAddr(from), 1)}, resumes)
	t.names[w], t.by[name] = name, w
}

// Next is who has its turn; "" when nobody waits. Remove is for who leaves by itself.
func (t *QueueForTest) Next() string       { return t.names[t.q.next()] }
func (t *QueueForTest) Oldest() string     { return t.names[t.q.oldest()] }
func (t *QueueForTest) Remove(name string) { t.q.remove(t.by[name]) }
func (t *QueueForTest) Len() int           { return t.q.len() }

// Left is what the queue still remembers of its sources.
func (t *QueueForTest) Left() int { return len(t.q.by) + t.q.turns.Len() }

// ArrivalsForTest are connections that are not served yet, known by a name.
type ArrivalsForTest struct {
	a     *arrivals
	names map[*conn]string
	by    map[string]*conn
}

// NewArrivalsForTest returns none.
func NewArrivalsForTest() *ArrivalsForTest {
	return &ArrivalsForTest{newArrivals(), make(map[*conn]string), make(map[string]*conn)}
}

// Add counts one in that comes from an address and has got as far as a stage at a time.
func (t *ArrivalsForTest) Add(name, from, at string, now time.Time) {
	c := &conn{remote: netip.AddrPortFrom(netip.MustParseAddr(from), 1), came: now, first: now}
	t.names[c], t.by[name] = name, c
	t.a.add(c)
	t.Move(name, at)
}

// Move notes that one has come as far as a stage.
func (t *ArrivalsForTest) Move(name, to string) {
	for at := range stages {
		if at.String() == to {
			t.a.move(t.by[name], at)
		}
	}
}

// Shed is who goes for a newcomer from an address; "" when it is the newcomer.
func (t *ArrivalsForTest) Shed(newcomer string, now time.Time) string {
	c, _ := t.a.shed(netip.MustParseAddr(newcomer), now)
	return t.names[c]
}

// Remove counts one out.
func (t *ArrivalsForTest) Remove(name string) { t.a.remove(t.by[name]) }

// Len is how many there are, Left what is still remembered of sources.
func (t *ArrivalsForTest) Len() int  { return t.a.len() }
func (t *ArrivalsForTest) Left() int { return len(t.a.sources) + len(t.a.most) }

// SlotsForTest are slots for handshakes; HandshakeForTest is one that has begun, waits for its client, and computes again.
type SlotsForTest struct{ p *handshakeSlots }

// NewSlotsForTest returns n slots.
func NewSlotsForTest(n int, freed func()) SlotsForTest {
	return SlotsForTest{newHandshakeSlots(n, freed)}
}

// Begin begins a handshake if it may; stalled says that one was told to make room for it.
func (t SlotsForTest) Begin(now time.Time) (h *HandshakeForTest, stalled bool) {
	ok, other := t.p.reserve(now)
	if !ok {
		return nil, other != nil
	}
	c := &conn{}
	t.p.begin(c, now)
	return &HandshakeForTest{t.p, c}, false
}

// HandshakeForTest is one handshake that has begun.
type HandshakeForTest struct {
	p *handshakeSlots
	c *conn
}

// Wait waits for the client as long as wait does, without a slot; afterwards it has one again.
func (h *HandshakeForTest) Wait(wait func()) {
	h.p.release()
	wait()
	h.p.acquire()
}

// End ends it.
func (h *HandshakeForTest) End() { h.p.end(h.c) }

// MaxUnderWay is how many may be under way.
const MaxUnderWay = maxUnderWay

// TrailingDotForTest says whether the server name of a ClientHello ends in a dot.
func TrailingDotForTest(b []byte) bool {
	h, _ := parseClientHello(b)
	return h.trailingDot
}

// PlaintextGraceForTest is how long clients have once plaintext is closed.
const PlaintextGraceForTest = plaintextGrace

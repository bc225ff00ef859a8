package gateway

import (
	"context"
	"log/slog"
	"net/netip"
	"time"
)

// ThrottleForTest shows when a topic may be logged.
func ThrottleForTest() func(topic string, now time.Time) (uint64, bool) {
	return newThrottle(slog.New(slog.DiscardHandler)).allow
}

// AcceptForTest offers a listener that cannot accept to a door, which looks every tenth of a second for so long, and
// returns how often it tried.
func AcceptForTest(address string, err error, duration time.Duration) (calls int, failure error) {
	g := newGateway(context.Background(), Config{Log: slog.New(slog.DiscardHandler)})
	d, failure := newDoor(g)
	if failure != nil {
		return 0, failure
	}
	defer d.discard() // it doesn't run: the clock is ours
	l, failure := d.listen(address)
	if failure != nil {
		return 0, failure
	}
	defer d.shut(l)
	l.next = func() (int, netip.AddrPort, error) { calls++; return -1, netip.AddrPort{}, err }
	d.mu.Lock()
	d.listeners[l.fd] = l
	d.mu.Unlock()
	start := time.Now()
	for now := start; now.Before(start.Add(duration)); now = now.Add(doorPace) {
		if d.tick(now); l.retry.IsZero() {
			d.accept(l, now)
		}
	}
	return calls, nil
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

// LineForTest is a line of clients that are known by a name.
type LineForTest struct {
	l     *line
	names map[*waiting]string
	by    map[string]*waiting
}

// NewLineForTest returns an empty line.
func NewLineForTest() *LineForTest {
	return &LineForTest{newLine(), make(map[*waiting]string), make(map[string]*waiting)}
}

// Push lets a client from an address join the line.
func (t *LineForTest) Push(name, from string, resumes bool) {
	w := t.l.push(&conn{remote: netip.AddrPortFrom(netip.MustParseAddr(from), 1)}, resumes)
	t.names[w], t.by[name] = name, w
}

// Next is who has its turn; "" when nobody waits. Remove is for who leaves by itself.
func (t *LineForTest) Next() string       { return t.names[t.l.next()] }
func (t *LineForTest) Oldest() string     { return t.names[t.l.oldest()] }
func (t *LineForTest) Remove(name string) { t.l.remove(t.by[name]) }
func (t *LineForTest) Len() int           { return t.l.len() }

// Left is what the line still remembers of its sources.
func (t *LineForTest) Left() int { return len(t.l.by) + t.l.turns.Len() }

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

// PlacesForTest are places for handshakes; Run is one that has begun, waits for its client, and computes again.
type PlacesForTest struct{ p *places }

// NewPlacesForTest returns n places.
func NewPlacesForTest(n int, wanted func()) PlacesForTest { return PlacesForTest{newPlaces(n, wanted)} }

// Begin begins a handshake if it may; stuck says that one was told to make room for it.
func (t PlacesForTest) Begin(now time.Time) (h *HandshakeForTest, stuck bool) {
	ok, other := t.p.begin(now)
	if !ok {
		return nil, other != nil
	}
	c := &conn{}
	t.p.enter(c, now)
	return &HandshakeForTest{t.p, c}, false
}

// HandshakeForTest is one handshake that has begun.
type HandshakeForTest struct {
	p *places
	c *conn
}

// Wait waits for the client as long as wait does, without a place; afterwards it has one again.
func (h *HandshakeForTest) Wait(wait func()) {
	h.p.pause()
	wait()
	h.p.resume()
}

// End ends it.
func (h *HandshakeForTest) End() { h.p.leave(h.c) }

// MaxBegun is how many may be under way.
const MaxBegun = maxBegun

// TrailingDotForTest says whether the server name of a ClientHello ends in a dot.
func TrailingDotForTest(b []byte) bool {
	h, _ := parseClientHello(b)
	return h.trailingDot
}

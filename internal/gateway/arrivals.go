package gateway

import (
	"container/heap"
	"container/list"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// stage is how far a connection has come that is not served yet.
type stage int

const (
	stageSilent    stage = iota // it has sent nothing
	stageHello                  // a part of its ClientHello is there
	stageQueued                 // its handshake waits for its turn
	stageHandshake              // a goroutine has it: its handshake, or it is told why it is not served
	stages
)

func (s stage) String() string { return [stages]string{"silent", "hello", "queued", "handshake"}[s] }

// shedReason is what closing one for others' sake counts as.
func (s stage) shedReason() string {
	return [stages]string{noSilent, noStalled, noShed, noStalled}[s]
}

// ownSourceTime is how long the clients of a source have for their handshake before one of them goes for a newcomer of the same.
const ownSourceTime = time.Second

// pressureTime is for how long the status says that there was no room.
const pressureTime = time.Minute

// arrivals are the connections that are not served yet, by source: an IPv4 address, an IPv6 /64. Where there is no room for one
// more, the source with the most of them gives way: the oldest that has sent nothing goes first, then the oldest that has come
// less far than the others. So whoever opens connections and says nothing keeps nobody out, a client of the same address neither:
// its ClientHello comes while others stay silent.
type arrivals struct {
	mu       sync.Mutex // guards the rest, and the field arrival of each conn
	sources  map[netip.Prefix]*source
	most     sources
	count    [stages]int
	pressure pressure
}

// pressure is how it was when there was no room last.
type pressure struct {
	at     time.Time
	count  [stages]int
	source *source // with the most, which had
	n      int
}

// source is where connections come from: whoever has an IPv6 address has 2^64 of them.
type source struct {
	key   netip.Prefix
	at    [stages]list.List // of *conn, the oldest first
	n     int
	index int // in most
}

// arrival is where a connection stands among those that are not served yet.
type arrival struct {
	from  *source // nil: it has none
	stage stage
	e     *list.Element
}

func newArrivals() *arrivals { return &arrivals{sources: make(map[netip.Prefix]*source)} }

func sourceOf(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // the zero Addr has the zero Prefix
	return p
}

func (a *arrivals) len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, at := range a.count {
		n += at
	}
	return n
}

// add counts a connection in that has sent nothing yet.
func (a *arrivals) add(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := sourceOf(c.remote.Addr())
	s := a.sources[key]
	if s == nil {
		s = &source{key: key}
		a.sources[key] = s
		heap.Push(&a.most, s)
	}
	s.n++
	heap.Fix(&a.most, s.index)
	a.count[stageSilent]++
	c.arrival = arrival{s, stageSilent, s.at[stageSilent].PushBack(c)}
}

// move notes that a connection has come farther.
func (a *arrivals) move(c *conn, to stage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.arrival.from == nil || c.arrival.stage == to {
		return
	}
	s := c.arrival.from
	s.at[c.arrival.stage].Remove(c.arrival.e)
	a.count[c.arrival.stage]--
	a.count[to]++
	c.arrival.stage, c.arrival.e = to, s.at[to].PushBack(c)
}

// remove counts a connection out, if it is in: it is served now, or at its end.
func (a *arrivals) remove(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop(c)
}

func (a *arrivals) drop(c *conn) {
	s := c.arrival.from
	if s == nil {
		return
	}
	s.at[c.arrival.stage].Remove(c.arrival.e)
	a.count[c.arrival.stage]--
	c.arrival.from, c.arrival.e = nil, nil
	if s.n--; s.n > 0 {
		heap.Fix(&a.most, s.index)
		return
	}
	heap.Remove(&a.most, s.index)
	delete(a.sources, s.key)
}

// shed counts out who is to go for a newcomer; nil when nobody is worth less. A handshake under way goes for a newcomer from another
// source, or when its client has had ownSourceTime.
func (a *arrivals) shed(newcomer netip.Addr, now time.Time) (c *conn, at stage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.most) == 0 {
		return nil, 0
	}
	s := a.most[0]
	a.pressure = pressure{now, a.count, s, s.n}
	for at = stageSilent; at < stages; at++ {
		e := s.at[at].Front()
		if e == nil {
			continue
		}
		c = e.Value.(*conn)
		if at == stageHandshake && s.key == sourceOf(newcomer) && now.Sub(c.first) < ownSourceTime {
			return nil, 0
		}
		a.drop(c)
		return c, at
	}
	return nil, 0
}

// overdue returns connections that have been silent for longer than they may.
func (a *arrivals) overdue(may func(*conn) (time.Duration, bool), now time.Time) []*conn {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count[stageSilent] == 0 {
		return nil
	}
	var all []*conn
	for _, s := range a.sources {
		for e := s.at[stageSilent].Front(); e != nil; e = e.Next() {
			c := e.Value.(*conn)
			if limit, ok := may(c); ok && now.Sub(c.came) >= limit {
				all = append(all, c)
			}
		}
	}
	return all
}

func (a *arrivals) silent() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.count[stageSilent] > 0
}

// Unserved are the open connections that are not served yet.
type Unserved struct {
	// Stages has how many have come how far: silent (nothing was sent), hello (a part of a ClientHello was), queued (the handshake
	// waits for its turn), handshake (it is under way, or the client is told why it is not served).
	Stages map[string]int64 `json:"stages"`
	// Limit is how many there may be at a time.
	Limit int64 `json:"limit"`
	// Source is where most of them come from, an IPv4 address or an IPv6 /64, FromSource how many.
	Source     string `json:"source,omitempty"`
	FromSource int64  `json:"from_source,omitempty"`
}

func (a *arrivals) unserved(limit int64) Unserved {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := Unserved{Stages: make(map[string]int64), Limit: limit}
	for at := range stages {
		u.Stages[at.String()] = int64(a.count[at])
	}
	if len(a.most) > 0 {
		u.Source, u.FromSource = a.most[0].String(), int64(a.most[0].n)
	}
	return u
}

// LogValue is looked at only when a line is written: in a storm that is a small part of those that could be.
func (a *arrivals) LogValue() slog.Value {
	u := a.unserved(0)
	return slog.GroupValue(slog.Int64("silent", u.Stages[stageSilent.String()]), slog.String("source", u.Source), slog.Int64("from_source", u.FromSource))
}

// warning is what an operator should know; "" where there was room for all in the last minute.
func (a *arrivals) warning(now time.Time) string {
	a.mu.Lock()
	p := a.pressure
	a.mu.Unlock()
	if p.source == nil || now.Sub(p.at) >= pressureTime {
		return ""
	}
	sum := 0
	for _, n := range p.count {
		sum += n
	}
	return fmt.Sprintf("too many connections that are no clients yet: %d, of which %d have sent nothing; %d come from %s. The oldest of these are closed "+
		"when others come: find out what connects there and does not go on", sum, p.count[stageSilent], p.n, p.source)
}

// String is an address, or an IPv6 network.
func (s *source) String() string {
	if s.key.IsSingleIP() {
		return s.key.Addr().String()
	}
	return s.key.String()
}

// sources is a heap with the one first that has most.
type sources []*source

func (h sources) Len() int           { return len(h) }
func (h sources) Less(i, j int) bool { return h[i].n > h[j].n }
func (h sources) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *sources) Push(s any) {
	s.(*source).index = len(*h)
	*h = append(*h, s.(*source))
}

func (h *sources) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return s
}

package relay

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

// MONITOR and SLOWLOG say who asked. An engine only sees its socket, so that is found out here: a monitor's lines by
// the request in them, entries of the slow log by their command, time and duration.

// nobody is what the engines write for a peer that they don't know.
const nobody = "?:0"

// monitors are the clients that watch all requests, those of all loops.
type monitors struct {
	any  atomic.Bool // there is one
	mu   sync.Mutex  // guards all
	all  map[*Session]*sightings
	seed maphash.Seed
}

// sightings are the requests that one monitor has yet to be told of: who sent them, by what they say. Who says the same at
// the same time is told apart by nothing but the order, which is the engine's.
type sightings struct {
	by    map[uint64][]netip.AddrPort
	count int
}

// maxSightings bounds what is remembered of requests that no monitor is told of (the engine leaves some out).
const maxSightings = 1 << 16

func (m *monitors) add(s *Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil {
		m.all, m.seed = make(map[*Session]*sightings), maphash.MakeSeed()
	}
	m.all[s] = &sightings{by: make(map[uint64][]netip.AddrPort)}
	m.any.Store(true)
}

func (m *monitors) remove(s *Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.all, s)
	m.any.Store(len(m.all) > 0)
}

func (m *monitors) watches(s *Session) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all[s] != nil
}

// sent notes a request that is about to be sent, and returns what takes the note back if it is refused.
func (m *monitors) sent(client netip.AddrPort, args [][]byte) (refused func()) {
	if len(args) == 0 {
		return func() {}
	}
	h := maphash.Bytes(m.seed, appendQuoted(nil, args))
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, seen := range m.all {
		if seen.count++; seen.count > maxSightings {
			clear(seen.by)
			seen.count = 1
		}
		seen.by[h] = append(seen.by[h], client)
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, seen := range m.all {
			seen.forget(h, client)
		}
	}
}

func (x *sightings) forget(h uint64, client netip.AddrPort) {
	for i, c := range x.by[h] {
		if c == client {
			x.drop(h, i)
			return
		}
	}
}

func (x *sightings) drop(h uint64, i int) {
	x.count--
	left := append(x.by[h][:i], x.by[h][i+1:]...)
	if x.by[h] = left; len(left) == 0 {
		delete(x.by, h)
	}
}

// name puts the client's address into a line for a monitor: +1339518083.107412 [0 unix:/path] "get" "key".
func (m *monitors) name(s *Session, line []byte) []byte {
	open, end := bytes.IndexByte(line, '['), bytes.Index(line, []byte("] "))
	at := bytes.Index(line, []byte(" unix:"))
	if open < 0 || at < open || end < at {
		return line // of a script
	}
	request := bytes.TrimRight(line[end+2:], "\r\n")
	m.mu.Lock()
	defer m.mu.Unlock()
	who := nobody
	h := maphash.Bytes(m.seed, request)
	if seen := m.all[s]; seen != nil && len(seen.by[h]) > 0 {
		who = address(seen.by[h][0])
		seen.drop(h, 0)
	} else if slices.Contains(ours, string(request)) {
		return nil
	}
	return append(append(append([]byte(nil), line[:at+1]...), who...), line[end:]...)
}

// ours are requests that this package makes for itself.
var ours = []string{`"CLIENT" "ID"`, `"CLIENT" "NO-EVICT" "on"`, `"HELLO" "3"`}

// appendQuoted writes a request as the engines show it.
func appendQuoted(b []byte, args [][]byte) []byte {
	for i, a := range args {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, '"')
		for _, c := range a {
			switch escape := strings.IndexByte("\n\r\t\a\b", c); {
			case c == '\\' || c == '"':
				b = append(b, '\\', c)
			case escape >= 0:
				b = append(b, '\\', "nrtab"[escape])
			case c < ' ' || c > '~':
				b = fmt.Appendf(b, `\x%02x`, c)
			default:
				b = append(b, c)
			}
		}
		b = append(b, '"')
	}
	return b
}

// slow are the last requests that took long enough to be in the engine's slow log.
type slow struct {
	mu   sync.Mutex // guards all of it
	last [256]slowRequest
	next int
}

type slowRequest struct {
	command  *command
	client   netip.AddrPort
	name     string
	answered time.Time
	took     time.Duration
}

// slowTime is the engine's slowlog-log-slower-than.
const slowTime = 10 * time.Millisecond

func (x *slow) note(r slowRequest) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last[x.next%len(x.last)] = r
	x.next++
}

// who finds the request that an entry of the slow log is most likely about: one of that command, answered in that second
// or right after it, that took hardly longer.
func (x *slow) who(command string, at int64, took time.Duration) (slowRequest, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var best slowRequest
	for _, r := range x.last {
		if r.command == nil || r.took < took || r.answered.Unix() < at || r.answered.Unix() > at+1 {
			continue
		}
		if name, _, _ := strings.Cut(r.command.name, "|"); name != command && r.command.pin != PinUnknown {
			continue
		}
		if best.command == nil || r.took < best.took {
			best = r
		}
	}
	return best, best.command != nil
}

// showSlow puts the clients into SLOWLOG GET: entries of id, time, microseconds, request, address and name.
func showSlow(_ *upstream, s *Session, reply []byte) []byte {
	v, n, err := resp.ParseReply(reply, resp.Limits{MaxBulk: maxGathered})
	if err != nil || n != len(reply) {
		return reply
	}
	for _, e := range v.Elems {
		if len(e.Elems) < 6 || len(e.Elems[3].Elems) == 0 || !strings.Contains(e.Elems[4].Str, "/") {
			continue
		}
		command := strings.ToLower(e.Elems[3].Elems[0].Str)
		r, ok := s.loop.group.slow.who(command, e.Elems[1].Int, time.Duration(e.Elems[2].Int)*time.Microsecond)
		if e.Elems[4].Str, e.Elems[5].Str = nobody, ""; ok {
			e.Elems[4].Str, e.Elems[5].Str = address(r.client), r.name
		}
	}
	return resp.Append(nil, v)
}

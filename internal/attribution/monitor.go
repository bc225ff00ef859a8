// Package attribution finds out who asked. An engine only sees the connections of the relay, so what MONITOR, SLOWLOG and COMMANDLOG
// say of a request's client is found here: by the request, the time, and how long it took or was. Where two clients have asked the
// same at the same time it may be the wrong one of them. Everything may be used from many goroutines, and memory is bounded.
package attribution

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sealane/sealane/internal/resp"
)

// nobody is what the engines write for a peer that they don't know.
const nobody = "?:0"

// Monitors are the clients that watch all requests. It may be used from many goroutines. The zero value has none.
type Monitors struct {
	any  atomic.Bool // there is one
	mu   sync.Mutex  // guards all
	all  map[int64]*sightings
	seed maphash.Seed
}

// sightings are the requests that one monitor has yet to be told of: who sent them, by what they say. Who says the same at
// the same time is told apart by nothing but the order, which is the engine's.
type sightings struct {
	by    map[uint64][]sighting
	count int
}

// sighting is a request as the engine gets it.
type sighting struct {
	client netip.AddrPort
	shown  []byte // as the client made it, where that differs
	ours   bool   // no client made it
}

// maxSightings bounds what is remembered of requests that no monitor is told of (the engine leaves some out).
const maxSightings = 1 << 16

// Any says whether there is a monitor.
func (m *Monitors) Any() bool { return m.any.Load() }

// Add makes the client with an id a monitor.
func (m *Monitors) Add(id int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil {
		m.all, m.seed = make(map[int64]*sightings), maphash.MakeSeed()
	}
	m.all[id] = &sightings{by: make(map[uint64][]sighting)}
	m.any.Store(true)
}

// Remove ends that.
func (m *Monitors) Remove(id int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.all, id)
	m.any.Store(len(m.all) > 0)
}

// Watches says whether a client is a monitor.
func (m *Monitors) Watches(id int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all[id] != nil
}

// Sent notes a request that is about to be sent, and returns what takes the note back if it is refused. The engine gets
// out, which may say it otherwise, or be several requests.
func (m *Monitors) Sent(client netip.AddrPort, args [][]byte, raw, out []byte) (refused func()) {
	if len(args) == 0 {
		return func() {}
	}
	var hashes []uint64
	var seen []sighting
	add := func(args [][]byte, s sighting) {
		hashes = append(hashes, maphash.Bytes(m.seed, appendQuoted(nil, redacted(args))))
		seen = append(seen, s)
	}
	if len(out) > 0 && &out[0] == &raw[0] {
		add(args, sighting{client: client})
	} else {
		shown := appendQuoted(nil, args)
		for rest := out; len(rest) > 0; {
			var scan resp.CommandScanner
			n, done, err := scan.Next(rest)
			if !done || err != nil {
				break
			}
			add(resp.Arguments(nil, rest[:n]), sighting{client: client, shown: shown, ours: len(seen) > 0})
			rest = rest[n:]
		}
	}
	m.note(hashes, seen)
	return func() { m.forget(hashes, client) }
}

func (m *Monitors) note(hashes []uint64, seen []sighting) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, x := range m.all {
		if x.count += len(seen); x.count > maxSightings {
			clear(x.by)
			x.count = len(seen)
		}
		for i, h := range hashes {
			x.by[h] = append(x.by[h], seen[i])
		}
	}
}

func (m *Monitors) forget(hashes []uint64, client netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, x := range m.all {
		for _, h := range hashes {
			x.forget(h, client)
		}
	}
}

func (x *sightings) forget(h uint64, client netip.AddrPort) {
	for i, s := range x.by[h] {
		if s.client == client {
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

// Name puts the client's address into a line for a monitor: +1339518083.107412 [0 unix:/path] "get" "key". It returns nil for a
// request that no client has made; own says that of one which was not noted.
func (m *Monitors) Name(id int64, line []byte, own func(request string) bool) []byte {
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
	if seen := m.all[id]; seen != nil && len(seen.by[h]) > 0 {
		request := seen.by[h][0]
		seen.drop(h, 0)
		if request.ours {
			return nil
		}
		who = Address(request.client)
		if request.shown != nil {
			line = append(append(append([]byte(nil), line[:end+2]...), request.shown...), '\r', '\n')
		}
	} else if own(string(request)) {
		return nil
	}
	return append(append(append([]byte(nil), line[:at+1]...), who...), line[end:]...)
}

// redacted is a request without the secrets that no monitor is shown.
func redacted(args [][]byte) [][]byte {
	from, to := len(args), len(args)
	switch {
	case len(args) == 0:
	case is(args[0], "auth"):
		from = 1
	case is(args[0], "hello"):
		for i, a := range args {
			if is(a, "auth") {
				from, to = min(i+1, to), min(i+3, to)
				break
			}
		}
	}
	if from == len(args) {
		return args
	}
	shown := slices.Clone(args)
	for i := from; i < to; i++ {
		shown[i] = []byte("(redacted)")
	}
	return shown
}

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

// Address is how a client's address is shown.
func Address(a netip.AddrPort) string {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}

func is(arg []byte, word string) bool { return strings.EqualFold(string(arg), word) }

package relay

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// registry knows every client of all loops.
type registry struct {
	mu   sync.Mutex // guards all of it
	all  map[int64]*Session
	next int64
	// ids go on from here where the server behind gives out ids of its own.
	remoteIDs int64
}

func (r *registry) add(s *Session, remote bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	s.id = r.next
	if remote {
		s.id += r.remoteIDs
	}
	r.all[s.id] = s
}

// beRemote sees to it that no id is one that the server gives out too. They stay below 2^53, for clients in JavaScript.
func (r *registry) beRemote() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.remoteIDs == 0 {
		r.remoteIDs = (1 + rand.Int64N(1<<30)) << 22
	}
}

func (r *registry) remove(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, s.id)
}

// Each calls f with every client that there is.
func (ls *Loops) Each(f func(*Session)) {
	for _, s := range ls.clients.matching(filter{}, time.Now()) {
		f(s)
	}
}

// Clients is how many there are.
func (ls *Loops) Clients() int { return ls.clients.count() }

func (r *registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}

// engineID turns the id of a client into that of its own engine connection, where it has one.
func (r *registry) engineID(id []byte) string {
	if n, err := strconv.ParseInt(string(id), 10, 64); err != nil || n == 0 {
		return string(id) // the engine knows what to say
	}
	s := r.find(id)
	if s == nil && r.remoteIDs > 0 {
		return string(id) // it may be another client of the server
	}
	if s != nil {
		if e := s.engineID.Load(); e > 0 {
			return strconv.FormatInt(e, 10)
		}
	}
	return noID
}

// meant says whether CLIENT KILL's arguments may mean a client here: not if they name another by id or address.
func (r *registry) meant(args [][]byte) bool {
	if len(args) == 1 {
		args = [][]byte{[]byte("addr"), args[0]}
	}
	for ; len(args) >= 2; args = args[2:] {
		value := string(args[1])
		switch {
		case is(args[0], "id") && r.find(args[1]) == nil,
			is(args[0], "addr") && len(r.matching(filter{addr: &value}, time.Time{})) == 0:
			return false
		}
	}
	return true
}

// find returns the client with an id, or nil.
func (r *registry) find(id []byte) *Session {
	n, err := strconv.ParseInt(string(id), 10, 64)
	if err != nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[n]
}

// clientID turns the id of an engine connection into that of the client that it belongs to.
func (r *registry) clientID(engineID int64) int64 {
	if engineID <= 0 {
		return engineID
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.all {
		if s.engineID.Load() == engineID {
			return id
		}
	}
	return engineID
}

// filter says which clients are meant. Empty fields mean all.
type filter struct {
	ids               map[int64]bool
	kind              string
	addr, laddr, user *string
	minAge            time.Duration
	notMe             *Session
	nobody            bool // there is a word that is not understood
}

// parse reads the filter of CLIENT KILL, which the engine checks as well.
func (f *filter) parse(args [][]byte) {
	for ; len(args) >= 2; args = args[2:] {
		value := string(args[1])
		switch {
		case is(args[0], "id"):
			n, _ := strconv.ParseInt(value, 10, 64)
			f.ids = map[int64]bool{n: true}
		case is(args[0], "type"):
			f.kind = strings.ToLower(value)
		case is(args[0], "addr"):
			f.addr = &value
		case is(args[0], "laddr"):
			f.laddr = &value
		case is(args[0], "user"):
			f.user = &value
		case is(args[0], "skipme"):
			if is(args[1], "no") {
				f.notMe = nil
			}
		case is(args[0], "maxage"):
			n, _ := strconv.ParseInt(value, 10, 32)
			f.minAge = time.Duration(n) * time.Second
		default:
			f.nobody = true
		}
	}
}

func (f *filter) matches(s *Session, now time.Time) bool {
	shown := s.shown.Load()
	kind := "normal"
	if s.feeding.Load() {
		kind = "pubsub"
	}
	return !f.nobody && (f.ids == nil || f.ids[s.id]) && (f.kind == "" || f.kind == kind) &&
		(f.addr == nil || *f.addr == s.cfg.address(s.cfg.Remote)) && (f.laddr == nil || *f.laddr == s.cfg.address(s.cfg.Local)) &&
		(f.user == nil || *f.user == s.userName(shown)) && f.notMe != s && now.Sub(s.began) >= f.minAge
}

// userName is who the server takes the client for.
func (s *Session) userName(shown *identity) string {
	if shown.user != "" {
		return shown.user
	}
	if login := s.loop.group.backend.Load().Login; len(login) == 2 {
		return login[0]
	}
	return "default"
}

// matching returns the clients that are meant, oldest first.
func (r *registry) matching(f filter, now time.Time) []*Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []*Session
	for _, s := range r.all {
		if f.matches(s, now) {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b *Session) int { return int(a.id - b.id) })
	return found
}

// list turns the engine's list of its connections into that of the clients. Those without a connection of their own
// look like whoever is in the list, apart from what is known of them.
func (r *registry) list(asks *Session, engine string, f filter, now time.Time) string {
	byID := make(map[int64]string)
	template, others := "", r.others(asks, engine, f)
	for line := range strings.Lines(engine) {
		line = strings.TrimSuffix(line, "\n")
		id, _, _ := strings.Cut(strings.TrimPrefix(line, "id="), " ")
		n, _ := strconv.ParseInt(id, 10, 64)
		byID[n] = line
		template = line
	}
	var b strings.Builder
	b.WriteString(others)
	for _, s := range r.matching(f, now) {
		line, own := template, false
		if e := s.engineID.Load(); e > 0 {
			if theirs, ok := byID[e]; ok {
				line, own = theirs, true
			}
		}
		last := s.lastName()
		if s == asks {
			last = "client|list"
		}
		b.WriteString(s.line(line, own, last, now))
		b.WriteByte('\n')
	}
	return b.String()
}

// others are the lines of a server's clients that do not come from here.
func (r *registry) others(asks *Session, list string, f filter) string {
	if !asks.loop.group.backend.Load().remote() {
		return ""
	}
	ours := make(map[string]bool)
	for _, id := range asks.loop.group.connectionIDs() {
		ours[strconv.FormatInt(id, 10)] = true
	}
	var b strings.Builder
	for line := range strings.Lines(list) {
		id, _, _ := strings.Cut(strings.TrimPrefix(line, "id="), " ")
		n, _ := strconv.ParseInt(id, 10, 64)
		kind := "normal"
		if strings.Contains(line, " flags=P ") || strings.Contains(line, " flags=O ") {
			kind = "pubsub"
		}
		if !ours[id] && (f.ids == nil || f.ids[n]) && (f.kind == "" || f.kind == kind) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// connectionIDs are the ids at the server of all connections to it.
func (ls *Loops) connectionIDs() []int64 {
	ls.idsMu.Lock()
	defer ls.idsMu.Unlock()
	return slices.Collect(maps.Keys(ls.ids))
}

func (ls *Loops) noteConnection(id int64, there bool) {
	if id <= 0 {
		return
	}
	ls.idsMu.Lock()
	defer ls.idsMu.Unlock()
	if there {
		ls.ids[id] = struct{}{}
	} else {
		delete(ls.ids, id)
	}
}

// lastName is what the client asked last.
func (s *Session) lastName() string {
	if c := s.last.Load(); c != nil {
		return c.name
	}
	return "NULL"
}

// line describes the client as the engine would: the fields of an engine's line, in its order. Where the line is that of
// the client's own connection, only what the engine can't know is changed.
func (s *Session) line(engine string, own bool, last string, now time.Time) string {
	shown := s.shown.Load()
	idle := now.Sub(time.Unix(0, s.used.Load()))
	var b strings.Builder
	for field := range strings.FieldsSeq(engine) {
		name, value, ok := strings.Cut(field, "=")
		if ok {
			switch name {
			case "id":
				value = strconv.FormatInt(s.id, 10)
			case "addr":
				value = s.cfg.address(s.cfg.Remote)
			case "laddr":
				value = s.cfg.address(s.cfg.Local)
			case "fd":
				value = strconv.Itoa(int(s.client.fd))
			case "name":
				value = shown.name
			case "lib-name":
				value = shown.libName
			case "lib-ver":
				value = shown.libVer
			case "age":
				value = strconv.Itoa(int(now.Sub(s.began).Seconds()))
			case "idle":
				value = strconv.Itoa(int(max(0, idle).Seconds()))
			case "flags":
				// The engine marks clients of Unix sockets, and these may be of another kind than it takes them for.
				if value = strings.ReplaceAll(value, "U", ""); value == "" || !own {
					value = "N"
				}
				if s.cfg.Path != "" {
					value = strings.TrimSuffix(value, "N") + "U"
				}
			}
			if !own {
				value = s.field(shown, name, value, last)
			}
			field = name + "=" + value
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(field)
	}
	return b.String()
}

// field is the value for a client that shares a connection: it has nothing of its own there.
func (s *Session) field(id *identity, name, value, last string) string {
	switch name {
	case "db":
		return itoa(id.db)
	case "user":
		return s.userName(id)
	case "resp":
		return itoa(id.proto)
	case "cmd":
		return last
	case "multi", "redir":
		return "-1"
	case "sub", "psub", "ssub", "watch", "qbuf", "qbuf-free", "argv-mem", "multi-mem", "obl", "oll", "omem":
		return "0"
	}
	return value
}

// address is how a client's address is shown. Those of Unix sockets have their path (the engines' way).
func (c *Config) address(a netip.AddrPort) string {
	if c.Path != "" {
		return c.Path + ":0"
	}
	return address(a)
}

func address(a netip.AddrPort) string {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}

// counts are what a loop has done.
type counts struct {
	in, out, shared, own, timedOut atomic.Uint64
	pins                           [16]atomic.Uint64
}

func (c *counts) command(shared bool, n uint64) {
	if shared {
		c.shared.Add(n)
	} else {
		c.own.Add(n)
	}
}

func (c *counts) pin(p Pin) { c.pins[slices.Index(Pins, p)].Add(1) }

// Counts are what the loops have done since they began.
type Counts struct {
	// In and Out are the bytes delivered to the engine and to clients, without TLS's own.
	In, Out uint64
	// Shared and Own are the requests by the connection that carried them.
	Shared, Own uint64
	// TimedOut are the clients that Backend.IdleTimeout closed.
	TimedOut uint64
	// Pins are how often a client got a connection of its own, by reason.
	Pins map[Pin]uint64
}

// Counts says what the loops have done.
func (ls *Loops) Counts() Counts {
	c := Counts{Pins: make(map[Pin]uint64, len(Pins))}
	for _, l := range ls.all {
		c.In += l.counts.in.Load()
		c.Out += l.counts.out.Load()
		c.Shared += l.counts.shared.Load()
		c.Own += l.counts.own.Load()
		c.TimedOut += l.counts.timedOut.Load()
		for i, p := range Pins {
			c.Pins[p] += l.counts.pins[i].Load()
		}
	}
	return c
}

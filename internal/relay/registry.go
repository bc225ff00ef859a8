package relay

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/attribution"
	"github.com/sealane/sealane/internal/clientlist"
	"github.com/sealane/sealane/internal/routing"
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
	for _, s := range ls.clients.sorted() {
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

// activeTime is for how long a client counts as active after it has said something: as in Redis, from 8.8 on.
const activeTime = 512 * time.Millisecond

// active is how many clients have said something just now.
func (r *registry) active(now time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, s := range r.all {
		if now.Sub(time.Unix(0, s.activity.lastRequest.Load())) < activeTime && s.activity.bytesIn.Load() > 0 {
			n++
		}
	}
	return n
}

// engineID turns the id of a client into that of its dedicated engine connection, where it has one. ours are the relay's connections
// to a remote server: no client is meant by their ids.
func (r *registry) engineID(id []byte, ours []int64) string {
	if n, err := strconv.ParseInt(string(id), 10, 64); err != nil || n == 0 {
		return string(id) // the engine knows what to say
	}
	s := r.find(id)
	if s == nil && r.remoteIDs > 0 && !slices.Contains(ours, parseID(string(id))) {
		return string(id) // it may be another client of the server
	}
	if s != nil {
		if e := s.profile.engineID.Load(); e > 0 {
			return strconv.FormatInt(e, 10)
		}
	}
	return clientlist.NoID
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
		if s.profile.engineID.Load() == engineID {
			return id
		}
	}
	return engineID
}

// userName is who the server takes the client for.
func (s *Session) userName(shown *routing.Identity) string {
	if shown.User != "" {
		return shown.User
	}
	if login := s.loop.group.backend.Load().Login; len(login) == 2 {
		return login[0]
	}
	return "default"
}

// sorted returns all clients, oldest first.
func (r *registry) sorted() []*Session {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.all))
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b *Session) int { return cmp.Compare(a.id, b.id) })
	return all
}

// connectionIDs are the ids at the server of all connections to it.
func (ls *Loops) trackedEngineIDs() []int64 {
	ls.engineIDsMu.Lock()
	defer ls.engineIDsMu.Unlock()
	return slices.Collect(maps.Keys(ls.engineIDs))
}

func (ls *Loops) trackEngineID(id int64, there bool) {
	if id <= 0 {
		return
	}
	ls.engineIDsMu.Lock()
	defer ls.engineIDsMu.Unlock()
	if there {
		ls.engineIDs[id] = struct{}{}
	} else {
		delete(ls.engineIDs, id)
	}
}

// lastCommandName is what the client asked last.
func (s *Session) lastCommandName() string {
	if c := s.activity.lastCommand.Load(); c != nil {
		return c.Name
	}
	return "NULL"
}

// address is how a client's address is shown. Those of Unix sockets have their path (the engines' way).
func (c *Config) address(a netip.AddrPort) string {
	if c.Path != "" {
		return c.Path + ":0"
	}
	return attribution.Address(a)
}

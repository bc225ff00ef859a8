package relay

import (
	"time"

	"github.com/sealane/sealane/internal/routing"
)

// key says which clients an engine connection can serve: those with the same user, database and protocol.
type key struct {
	engine, user string
	db, proto    int
	auth         uint64 // of those that have not logged in: Backend.Auth when they came
}

// pool are a loop's connections for one key.
type pool struct {
	shared *upstream   // nil until it is needed
	idle   []*upstream // were dedicated to a client, and are clean
}

const (
	// maxIdle is how many connections wait for the next client that needs a dedicated one.
	maxIdle = 32
	// maxIdleTime is for how long they do.
	maxIdleTime = time.Minute
)

// pool returns the connections of a key.
func (l *loop) pool(k key) *pool {
	p := l.pools[k]
	if p == nil {
		p = &pool{}
		l.pools[k] = p
	}
	return p
}

// sharedConn returns the connection that clients of a key share.
func (l *loop) sharedConn(s *Session, c *routing.Command) *upstream {
	k := s.key(l.group.backend.Load())
	if c.AnyDB {
		k.db = 0
	}
	p := l.pool(k)
	if p.shared == nil {
		u := l.newUpstream(k)
		u.shared, u.credentials = true, s.login.secret
		p.shared = u
		u.try()
		return u
	}
	return p.shared
}

// acquire gives a client a connection of a key.
func (l *loop) acquire(k key, s *Session) {
	s.blockedOn = nil
	if p := l.pools[k]; p != nil && len(p.idle) > 0 && !s.state.Pinned() {
		u := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		s.attach(u)
		if b := l.group.backend.Load(); b.remote() {
			u.nameAsClient(s)
			l.fillIdle(b)
		}
		return
	}
	u := l.newUpstream(k)
	u.credentials = s.login.secret
	s.attach(u)
	u.try()
}

// release keeps a clean connection for the next client of its key.
func (l *loop) release(u *upstream) {
	u.paused = false
	if u.needsReset {
		u.reset()
		return
	}
	l.putIdle(u)
}

func (l *loop) putIdle(u *upstream) {
	u.idleSince = l.now
	p := l.pool(u.key)
	if len(p.idle) >= maxIdle {
		u.end()
		return
	}
	p.idle = append(p.idle, u)
	l.used = true // shrinkIdle has something to look at
}

// fillIdle makes sure that there are connections for clients that will need a dedicated one.
func (l *loop) fillIdle(b *Backend) {
	if !b.remote() || b.MinIdle == 0 || l.closing {
		return
	}
	k := b.initialKey()
	have := l.dialingIdle
	if p := l.pools[k]; p != nil {
		have += len(p.idle)
	}
	for n := l.minIdleShare(b); have < n; have++ {
		u := l.newUpstream(k)
		u.forMinIdle = true
		l.dialingIdle++
		u.try()
	}
}

// initialKey is that of clients which have said nothing of themselves.
func (b *Backend) initialKey() key { return key{engine: b.Engine, proto: 2, auth: b.Auth} }

// minIdleShare is how many of Backend.MinIdle are one loop's.
func (l *loop) minIdleShare(b *Backend) int {
	return (b.MinIdle + len(l.group.all) - 1) / len(l.group.all)
}

// isMinIdle says that an idle connection is one of those that are kept ready, and not too old for it.
func (u *upstream) isMinIdle(b *Backend) bool {
	if !b.remote() || u.shared || u.key != b.initialKey() {
		return false
	}
	p := u.loop.pools[u.key]
	return p != nil && len(p.idle) <= u.loop.minIdleShare(b) && u.loop.now.Sub(u.dialStart) < maxIdleAge-time.Duration(u.id%20)*time.Second
}

// isTooOld says that an idle connection could be closed by the server any moment.
func (u *upstream) isTooOld(b *Backend) bool {
	return b.remote() && !u.shared && u.loop.now.Sub(u.idleSince) >= maxIdleAge
}

// shrinkIdle implements owner: it ends connections that nobody has needed for a while.
func (u *upstream) shrinkIdle() {
	if u.client != nil {
		return
	}
	if u.active {
		u.active, u.idleSince = false, u.loop.now
	}
	b := u.loop.group.backend.Load()
	unused := u.loop.now.Sub(u.idleSince) >= maxIdleTime || u.isTooOld(b)
	if u.pendingReplies.len == 0 && len(u.blocked) == 0 && unused && !u.isMinIdle(b) {
		u.hangUp()
		u.loop.fillIdle(b)
		return
	}
	u.loop.freed.Add(uint64(u.FreeIdle()))
	u.loop.used = true
}

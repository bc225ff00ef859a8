package relay

import "time"

// pool are a loop's connections for one key.
type pool struct {
	shared *upstream   // nil until it is needed
	idle   []*upstream // were a client's own, and are clean
}

const (
	// maxSpare is how many connections wait for the next client that needs its own.
	maxIdle = 32
	// spareTime is for how long they do.
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

// sharedFor returns the connection that clients of a key share.
func (l *loop) sharedConn(s *Session, c *command) *upstream {
	k := s.key(l.group.backend.Load())
	if c.anyDB {
		k.db = 0
	}
	p := l.pool(k)
	if p.shared == nil {
		u := l.connect(k, nil)
		u.login = s.secret
		p.shared = u
		u.try()
		return u
	}
	return p.shared
}

// spareFor returns the key of the connection over which AUTH, HELLO or SELECT goes: that of which it would make the client, where
// a connection waits, since it changes nothing there. What succeeds there would on any, and what fails fails for the same
// reason; the client has the connection for itself until the answer is there. Else a login goes over one where nobody is
// logged in: the password that let the client in may no longer be good, which is why it logs in again.
func (s *Session) keyForIdentityChange(c *command, raw []byte, now key) key {
	next, known := c.identityAfter(s.identity, s.arguments(raw))
	if !known || s.passingHead {
		return now
	}
	b := s.loop.group.backend.Load()
	k := s.keyFor(b, next)
	if p := s.loop.pools[k]; p != nil && len(p.idle) > 0 {
		return k
	}
	if now.user != "" && credentialsIn(s.arguments(raw)) != nil {
		return key{engine: now.engine, proto: 2, auth: b.Auth}
	}
	return now
}

// isAnothers says that a connection is one of clients that the session has asked to become like.
func (s *Session) isBorrowed(u *upstream) bool {
	return u.key != s.keyFor(&Backend{Engine: u.key.engine}, s.identity)
}

// take returns a connection of a key for one client.
func (l *loop) acquire(k key, s *Session) *upstream {
	s.blockedOn = nil
	if p := l.pools[k]; p != nil && len(p.idle) > 0 {
		u := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		u.client, s.dedicated = s, u
		s.engineID.Store(u.id)
		if b := l.group.backend.Load(); b.remote() {
			u.nameAsClient(s)
			l.fillIdle(b)
		}
		return u
	}
	u := l.connect(k, s)
	u.login = s.secret
	s.dedicated = u
	u.try()
	return u
}

// giveBack keeps a clean connection for the next client of its key.
func (l *loop) release(u *upstream) {
	u.client.engineID.Store(0)
	u.client, u.paused = nil, false
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
	l.used = true // tidy has something to look at
}

// later sends what u has at the end of the round.
func (u *upstream) flushLater() {
	if !u.dirty {
		u.dirty = true
		u.loop.dirtyUpstreams = append(u.loop.dirtyUpstreams, u)
	}
}

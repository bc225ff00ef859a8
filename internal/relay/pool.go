package relay

import "time"

// pool are a loop's connections for one key.
type pool struct {
	shared *upstream   // nil until it is needed
	spare  []*upstream // were a client's own, and are clean
}

const (
	// maxSpare is how many connections wait for the next client that needs its own.
	maxSpare = 32
	// spareTime is for how long they do.
	spareTime = time.Minute
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
func (l *loop) sharedFor(s *Session, c *command) *upstream {
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
func (s *Session) spareFor(c *command, raw []byte, now key) key {
	next, known := c.leads(s.state, s.arguments(raw))
	if !known || s.partial {
		return now
	}
	b := s.loop.group.backend.Load()
	k := s.keyFor(b, next)
	if p := s.loop.pools[k]; p != nil && len(p.spare) > 0 {
		return k
	}
	if now.user != "" && loggedIn(s.arguments(raw)) != nil {
		return key{engine: now.engine, proto: 2, auth: b.Auth}
	}
	return now
}

// isAnothers says that a connection is one of clients that the session has asked to become like.
func (s *Session) isAnothers(u *upstream) bool {
	return u.key != s.keyFor(&Backend{Engine: u.key.engine}, s.state)
}

// take returns a connection of a key for one client.
func (l *loop) take(k key, s *Session) *upstream {
	s.waitsFor = nil
	if p := l.pools[k]; p != nil && len(p.spare) > 0 {
		u := p.spare[len(p.spare)-1]
		p.spare = p.spare[:len(p.spare)-1]
		u.owner, s.own = s, u
		s.engineID.Store(u.id)
		if b := l.group.backend.Load(); b.remote() {
			u.callAs(s)
			l.keepWarm(b)
		}
		return u
	}
	u := l.connect(k, s)
	u.login = s.secret
	s.own = u
	u.try()
	return u
}

// giveBack keeps a clean connection for the next client of its key.
func (l *loop) giveBack(u *upstream) {
	u.owner.engineID.Store(0)
	u.owner, u.paused = nil, false
	if u.unclean {
		u.clean()
		return
	}
	l.keep(u)
}

func (l *loop) keep(u *upstream) {
	u.since = l.now
	p := l.pool(u.key)
	if len(p.spare) >= maxSpare {
		u.end()
		return
	}
	p.spare = append(p.spare, u)
	l.used = true // tidy has something to look at
}

// later sends what u has at the end of the round.
func (u *upstream) later() {
	if !u.listed {
		u.listed = true
		u.loop.unsent = append(u.loop.unsent, u)
	}
}

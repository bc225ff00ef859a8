package relay

import (
	"github.com/sealane/sealane/internal/routing"
)

// The tie between a client and its dedicated engine connection: Session.dedicated, upstream.client and Session.profile.engineID say
// the same, and this file alone writes them.

// attach gives the session a dedicated connection.
func (s *Session) attach(u *upstream) {
	s.dedicated, u.client = u, s
	s.profile.engineID.Store(u.id)
}

// detach takes the dedicated connection away from the session, whatever is to become of either.
func (s *Session) detach() *upstream {
	u := s.dedicated
	if u != nil {
		s.dedicated, u.client = nil, nil
		s.state.Writes.Elsewhere = true
		s.profile.engineID.Store(0)
	}
	return u
}

// engineIDIs notes what the engine calls the connection; 0: it has not said so yet.
func (u *upstream) engineIDIs(id int64) {
	u.id = id
	if s := u.client; s != nil {
		s.profile.engineID.Store(id)
		if id != 0 {
			s.dedicatedIDKnown()
		}
	}
}

// acquireDedicated gets the session a dedicated connection, for a request.
func (s *Session) acquireDedicated(c *routing.Command, b *Backend, why routing.Pin, raw []byte) {
	s.countPin(why)
	k := s.key(b)
	if b.Multiplexed && c.Affinity == routing.ChangesIdentity {
		k = s.keyForIdentityChange(c, raw, k)
	}
	s.loop.acquire(k, s)
}

// releaseDedicated gives the dedicated connection up if the session can do without it. A draining connection is closed. Another one
// goes back to the pool, if toPool allows that.
func (s *Session) releaseDedicated(toPool bool) {
	if s.dedicated == nil {
		return
	}
	b := s.loop.group.backend.Load()
	env := routing.Env{Multiplexed: b.Multiplexed, Dedicated: s.connState(b)}
	switch routing.Release(&s.state, env, s.input.blocked, s.conn.Pending() >= lowWater) {
	case routing.Return:
		if toPool {
			s.returnDedicated()
		}
	case routing.Leave:
		s.detach().hangUp()
	}
}

// returnDedicated puts the dedicated connection back into the pool.
func (s *Session) returnDedicated() {
	u := s.dedicated
	if !s.isBorrowed(u) {
		u.credentials = s.login.secret // by which it is to be logged in again, should it have to be
	}
	s.detach()
	s.loop.release(u)
}

// dropDedicated is called at the end of the session.
func (s *Session) dropDedicated() {
	s.state.DedicatedLeft = 0
	s.releaseDedicated(true)
	if u := s.detach(); u != nil {
		u.end()
	}
}

// holdDedicated is called when others need the session to have a dedicated connection.
func (s *Session) holdDedicated() {
	b := s.loop.group.backend.Load()
	if s.dedicated == nil && s.state.InFlight() == 0 && s.phase < engineGone {
		s.countPin(routing.PinTracking)
		s.loop.acquire(s.key(b), s)
	}
	if s.dedicated == nil || s.isBorrowed(s.dedicated) {
		return // a borrowed one goes back soon
	}
	// RESET doesn't end it: the engine would send the invalidations to whoever has the connection next.
	s.state.Soil(routing.DirtyForGood)
	if s.dedicated.ready {
		s.dedicated.flushLater() // its id is asked for with the first request, which may never come
	}
	if s.profile.engineID.Load() != 0 {
		s.dedicatedIDKnown()
	}
}

// dedicatedIDKnown lets those go on that waited for the id of the session's dedicated connection.
func (s *Session) dedicatedIDKnown() {
	for _, w := range s.wanted {
		w.loop.post(func() { w.conn.requeue() })
	}
	s.wanted = nil
}

// isBorrowed says whether a connection is for another identity than the client's: for the one that the client has asked for.
func (s *Session) isBorrowed(u *upstream) bool {
	return u.key != s.keyFor(&Backend{Engine: u.key.engine}, s.login.Identity)
}

// key is that of the connections which can serve the session.
func (s *Session) key(b *Backend) key { return s.keyFor(b, s.login.Identity) }

func (s *Session) keyFor(b *Backend, id routing.Identity) key {
	k := key{engine: b.Engine, user: id.User, db: id.DB, proto: id.Proto}
	if id.User == "" {
		k.auth = s.login.auth
	}
	return k
}

// keyForIdentityChange returns the key of the connection over which AUTH, HELLO or SELECT goes: that of which it would make the
// client, where a connection waits, since it changes nothing there. What succeeds there would on any, and what fails fails for the
// same reason; the client has the connection for itself until the answer is there. Else a login goes over one where nobody is
// logged in: the password that let the client in may no longer be good, which is why it logs in again.
func (s *Session) keyForIdentityChange(c *routing.Command, raw []byte, now key) key {
	after, known := c.IdentityAfter(s.login.Identity, s.arguments(raw))
	if !known || s.input.passingHead {
		return now
	}
	b := s.loop.group.backend.Load()
	k := s.keyFor(b, after)
	if p := s.loop.pools[k]; p != nil && len(p.idle) > 0 {
		return k
	}
	if now.user != "" && routing.CredentialsIn(s.arguments(raw)) != nil {
		return key{engine: now.engine, proto: 2, auth: b.Auth}
	}
	return now
}

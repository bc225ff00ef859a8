package relay

import (
	"bytes"

	fixed "github.com/sealane/sealane/internal/wire" // this package has a type wire
)

// goawayProtocol is the ALPN name that is negotiated where a gateway may send goawayPush.
const goawayProtocol = fixed.ALPNSealane

var goawayPush = []byte(fixed.GoawayPush)

type goaway struct{ due, sent bool }

// Goaway asks the client to go on with a fresh connection, as soon as it can, if it understands that. What it has sent, and
// still sends on this one, is answered. It returns whether the client is one that will go.
func (s *Session) Goaway() bool {
	if !s.cfg.Goaway {
		return false
	}
	s.loop.post(func() {
		s.goaway.due = true
		s.touch()
	})
	return true
}

// sayGoaway does so once the client has been told the whole of a reply.
func (s *Session) sayGoaway() {
	if !s.goaway.due || s.goaway.sent || s.gone || s.blind {
		return
	}
	for _, u := range []*upstream{s.own, s.on} {
		if u != nil && u.isTelling(s) {
			return
		}
	}
	s.goaway.sent = true
	s.reply(goawayPush)
}

// isTelling says that a session has been given the beginning of a reply.
func (u *upstream) isTelling(s *Session) bool {
	w := u.queue.head()
	return !u.closed && (u.owner == s || w != nil && w.s == s) && (u.passing || !u.scan.Between() && len(u.gathered) == 0)
}

// takeGoaway looks for the push at the beginning of b, which is between two replies. What may be the beginning of one is kept
// until the rest is there.
func (u *upstream) takeGoaway(b []byte) []byte {
	if len(u.perhaps) > 0 {
		b, u.perhaps = append(u.perhaps, b...), nil
	}
	switch {
	case bytes.HasPrefix(b, goawayPush):
		u.retire()
		return b[len(goawayPush):]
	case bytes.HasPrefix(goawayPush, b):
		u.perhaps = bytes.Clone(b)
		return nil
	}
	return b
}

// retire lets a connection do what it has been asked, and nothing more; but for a client of its own that can't leave it yet.
func (u *upstream) retire() {
	if u.retired || u.closed {
		return
	}
	u.retired = true
	l := u.loop
	if s := u.owner; s != nil {
		s.touch()
		return
	}
	if p := l.pools[u.key]; p != nil && p.shared == u {
		p.shared = nil
	}
	u.wakeAll()
	u.endRetired()
}

// endRetired closes a retired connection that nobody waits for any more.
func (u *upstream) endRetired() {
	if u.retired && u.owner == nil && u.queue.len == 0 && !u.closed {
		u.hangUp()
	}
}

// hangUp ends a connection in good order.
func (u *upstream) hangUp() {
	if u.fd >= 0 {
		u.shutdown = true
		u.flush()
	}
	u.end()
}

// leaveRetired lets a client go on without a connection of its own that is retired, if it has left nothing there.
func (s *Session) leaveRetired() {
	u := s.own
	if u == nil || !u.retired || !u.ready || u.closed || !s.canShare() {
		return
	}
	s.own, u.owner = nil, nil
	s.engineID.Store(0)
	u.hangUp()
}

// staysFor says that a client's next request has to wait: it is to go over another connection, once what is in flight on
// the retired one is answered.
func (s *Session) staysFor() bool {
	u := s.own
	return u != nil && u.retired && u.ready && s.inflight > 0 && (s.resetting || s.leavesNothing())
}

package relay

import (
	"bytes"
)

// Protocol is what both ends have negotiated (by ALPN) where a Session may say Goaway.
const Protocol = "sealane/1"

// Probe is offered (by ALPN, and never selected) by what is no client: proofs that a server serves, and diagnoses.
const Probe = "sealane-probe"

// DeclaresCA begins what a client offers (by ALPN, and never selected) for each CA that it trusts: the SHA-256 of its certificate follows,
// in lower-case hexadecimal.
const DeclaresCA = "sealane-ca/"

// goawayPush asks a client that understands it to go on with a fresh connection. It comes between two replies, also in RESP2.
// The connection serves on until the client closes it.
var goawayPush = []byte(">1\r\n$14\r\nsealane-goaway\r\n")

type goaway struct{ due, sent bool }

// Goaway asks the client to go on with a fresh connection, as soon as it can, if it understands that. What it has sent, and
// still sends on this one, is answered. It returns whether the client is one that will go.
func (s *Session) Goaway() bool {
	if !s.cfg.Goaway {
		return false
	}
	s.loop.post(func() {
		s.goaway.due = true
		s.markDirty()
	})
	return true
}

// sayGoaway does so once the client has been told the whole of a reply.
func (s *Session) sendGoaway() {
	if !s.goaway.due || s.goaway.sent || s.engineGone || s.passthrough {
		return
	}
	for _, u := range []*upstream{s.dedicated, s.inFlightOn} {
		if u != nil && u.isMidReply(s) {
			return
		}
	}
	s.goaway.sent = true
	s.reply(goawayPush)
}

// isTelling says that a session has been given the beginning of a reply.
func (u *upstream) isMidReply(s *Session) bool {
	w := u.pendingReplies.head()
	return !u.closed && (u.client == s || w != nil && w.client == s) && (u.relayingReply || !u.scan.Between() && len(u.replyBuffer) == 0)
}

// takeGoaway looks for the push at the beginning of b, which is between two replies. What may be the beginning of one is kept
// until the rest is there.
func (u *upstream) consumeGoaway(b []byte) []byte {
	if len(u.partialGoaway) > 0 {
		b, u.partialGoaway = append(u.partialGoaway, b...), nil
	}
	switch {
	case bytes.HasPrefix(b, goawayPush):
		u.drain()
		return b[len(goawayPush):]
	case bytes.HasPrefix(goawayPush, b):
		u.partialGoaway = bytes.Clone(b)
		return nil
	}
	return b
}

// retire lets a connection do what it has been asked, and nothing more; but for a client of its own that can't leave it yet.
func (u *upstream) drain() {
	if u.draining || u.closed {
		return
	}
	u.draining = true
	l := u.loop
	if s := u.client; s != nil {
		s.markDirty()
		return
	}
	if p := l.pools[u.key]; p != nil && p.shared == u {
		p.shared = nil
	}
	u.unblockAll()
	u.closeDrained()
}

// endRetired closes a retired connection that nobody waits for any more.
func (u *upstream) closeDrained() {
	if u.draining && u.client == nil && u.pendingReplies.len == 0 && !u.closed {
		u.hangUp()
	}
}

// hangUp ends a connection in good order.
func (u *upstream) hangUp() {
	if u.Attached() {
		u.CloseWrite()
		u.Flush()
	}
	u.end()
}

// leaveRetired lets a client go on without a connection of its own that is retired, if it has left nothing there.
func (s *Session) leaveDraining() {
	u := s.dedicated
	if u == nil || !u.draining || !u.ready || u.closed || !s.isClean() {
		return
	}
	s.dedicated, u.client = nil, nil
	s.engineID.Store(0)
	u.hangUp()
}

// staysFor says that a client's next request has to wait: it is to go over another connection, once what is in flight on
// the retired one is answered.
func (s *Session) blockedByDrain() bool {
	u := s.dedicated
	return u != nil && u.draining && u.ready && s.inFlight > 0 && (s.resetting || s.leavesNothing())
}

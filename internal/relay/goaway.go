package relay

import (
	"bytes"

	"github.com/sealane/sealane/internal/wire"
)

var goawayPush = []byte(wire.GoawayPush)

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

// sendGoaway does so once the client has been told the whole of a reply.
func (s *Session) sendGoaway() {
	if !s.goaway.due || s.goaway.sent || s.phase >= engineGone || s.state.Passthrough {
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

// isMidReply says that a session has been given the beginning of a reply.
func (u *upstream) isMidReply(s *Session) bool {
	w := u.pendingReplies.head()
	return !u.closed && (u.client == s || w != nil && w.client == s) && (u.relayingReply || !u.scan.Between() && len(u.replyBuffer) == 0)
}

// consumeGoaway looks for the push at the beginning of b, which is between two replies. What may be the beginning of one is kept
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

// drain lets a connection do what it has been asked, and nothing more; but for a client to whom it is dedicated, and who can't leave
// it yet.
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

// closeDrained closes a draining connection that nobody waits for any more.
func (u *upstream) closeDrained() {
	if u.draining && u.client == nil && u.pendingReplies.len == 0 && !u.closed {
		u.hangUp()
	}
}

package relay

import (
	"slices"
	"time"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// Clients that share a connection wait for each other's replies, and what one of them does not read has to be kept here. So
// little of a client is in flight on a shared connection (its window), a slow reader goes on with a dedicated connection, where
// the engine keeps its replies as it always did, and so does a client whose reply is long: what comes of it on the shared
// connection is thrown away, and the request is asked again.

const (
	// maxSharedReply is the longest reply that a shared connection carries, where that can be helped.
	maxSharedReply = 256 << 10
	// closeSharedAbove is how long the replies to a client are, all together, that nobody should have to wait for: the shared
	// connection is closed instead.
	closeSharedAbove = 8 << 20
	// windowBytes is how much of a client's replies may be on their way over a shared connection, as far as can be guessed.
	windowBytes = 1 << 20
	// maxInFlight is how many requests a client may have on a shared connection. It waits then: a long pipeline must not
	// keep the others from their turn.
	maxInFlight = 1024
	// assumedReplySize is how long a client's replies are taken to be before it has had one.
	assumedReplySize = windowBytes
	// maxSizingConns is how many connections a loop may have and still make one for a client's first reply; maxRemoteSizingConns
	// where that takes a handshake.
	maxSizingConns       = 48
	maxRemoteSizingConns = 16
	// replySizeTTL is how long what is known of a client's replies counts: behind a sidecar, or a pool of connections, it may be
	// another program that asks next.
	replySizeTTL = 250 * time.Millisecond
	// dedicatedAfterLongReply is for how many requests a client keeps a dedicated connection after a long reply.
	dedicatedAfterLongReply = 32
)

// replySize is how long the replies to a client are.
type replySize struct {
	assumed int       // in bytes, as far as can be guessed
	at      time.Time // since when that is known
}

// isSlowReader says that the client reads less than it asks for.
func (s *Session) isSlowReader() bool { return s.conn.Pending() >= highWater }

// replySizeUnknown says that a read is better asked over a dedicated connection, because nothing is known of the client's replies.
func (s *Session) replySizeUnknown(c *routing.Command) bool {
	known := s.replySize.assumed != assumedReplySize && s.loop.now.Sub(s.replySize.at) < replySizeTTL
	if !c.ReplySizeVaries || s.state.InFlight() > 0 || known {
		return false
	}
	b, most := s.loop.group.backend.Load(), maxSizingConns
	p := s.loop.pools[s.key(b)]
	switch {
	case p != nil && len(p.idle) > 0:
		return true
	case b.remote():
		// A server that is away must not be tried by each client.
		if p == nil || p.shared == nil || !p.shared.ready {
			return false
		}
		most = maxRemoteSizingConns
	}
	return len(s.loop.upstreams) < most
}

// window is how many requests the client may have in flight on a shared connection.
func (s *Session) window() int {
	return min(maxInFlight, max(1, windowBytes/max(1, s.replySize.assumed)))
}

// fitsWindow says whether one more request may go over the shared connection now, and notes what it may leave in flight.
// before are the bytes of those that are about to be sent.
func (s *Session) fitsWindow(c *routing.Command, raw []byte, before int) bool {
	if s.state.InFlight() >= s.window() || s.retry.full(before+len(raw)) || s.replySizeUnknown(c) || s.isBigKey(raw) {
		return false
	}
	s.retry.unsafe = s.retry.unsafe || !c.RetrySafe
	return true
}

// observeReplySize learns from n replies.
func (s *Session) observeReplySize(bytes, n int) {
	r := &s.replySize
	r.at = s.loop.now
	if size := bytes / n; size >= r.assumed {
		r.assumed = size
	} else {
		r.assumed = max(size, r.assumed/4)
	}
}

// partialReply has a part of a reply that is not complete. It is kept as long as the reply may be short, so that a long one can be
// asked for again.
func (u *upstream) partialReply(w *pendingReply, b []byte) {
	s := w.client
	if s != nil && s.phase >= engineGone {
		s = nil
	}
	if u.relayingReply {
		if s != nil {
			s.reply(b)
			s.markDirty()
		}
		return
	}
	u.replyBuffer = append(u.replyBuffer, b...)
	rest, all := u.scan.Rest()
	size := len(u.replyBuffer) + rest
	switch {
	case size > maxSharedReply:
		expected := size
		if s != nil {
			expected *= max(1, s.state.InFlight()) // the others may be as long
		}
		if expected >= closeSharedAbove && u.closeAndRetry(w, size) {
			return
		}
		if s != nil {
			s.replySize.assumed = max(s.replySize.assumed, size)
			if u.retryDedicated(s) {
				s = nil
			}
		}
	case !all, u.isCanary(u.replyBuffer, nil):
		return // it may still become long, or turn out to be for nobody
	}
	if s != nil {
		s.reply(u.replyBuffer)
		s.markDirty()
	}
	u.replyBuffer, u.relayingReply = nil, true
}

// retryDedicated makes a client ask for a long reply again, over a dedicated connection, and with it for all that it waits for
// here. What comes here is for nobody then. It does nothing where a request of the client must not be asked twice, and returns
// false. The client goes on once the long reply is over: until then the engine's time is for those who wait behind it.
func (u *upstream) retryDedicated(s *Session) bool {
	s.state.DedicatedLeft = dedicatedAfterLongReply
	if !s.canRetry() {
		return false
	}
	s.loop.group.bigKeys.note(resp.Arguments(nil, s.retry.unanswered()), s.loop.now)
	for i := range u.pendingReplies.len {
		if x := u.pendingReplies.entry(i); x.client == s {
			x.client, x.handler = nil, nil
		}
	}
	s.retryInFlight()
	u.discardingFor, s.retry.blocked = s, true
	return true
}

// resumeRetry lets a client go on whose long reply was thrown away.
func (u *upstream) resumeRetry() {
	if s := u.discardingFor; s != nil {
		u.discardingFor, s.retry.blocked = nil, false
		s.conn.requeue()
	}
}

// closeAndRetry closes a shared connection on which very long replies begin, before they have come, if all clients that wait there
// may ask again what they have asked. The one that the reply is for does so over a dedicated connection.
func (u *upstream) closeAndRetry(w *pendingReply, size int) bool {
	var waiting []*Session
	for i := range u.pendingReplies.len {
		s := u.pendingReplies.entry(i).client
		if s == nil || s.phase >= engineGone || slices.Contains(waiting, s) {
			continue
		}
		if !s.canRetry() {
			return false
		}
		waiting = append(waiting, s)
	}
	if s := w.client; slices.Contains(waiting, s) {
		s.state.DedicatedLeft, s.replySize.assumed = dedicatedAfterLongReply, max(s.replySize.assumed, size)
		s.loop.group.bigKeys.note(resp.Arguments(nil, s.retry.unanswered()), s.loop.now)
	}
	u.pendingReplies = pendingQueue{}
	for _, s := range waiting {
		s.retryInFlight()
		s.conn.requeue()
	}
	u.unblockAll()
	u.end()
	return true
}

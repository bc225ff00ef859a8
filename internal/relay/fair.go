package relay

import (
	"hash/maphash"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

// Clients that share a connection wait for each other's replies, and what one of them does not read has to be kept here. So
// little of a client is in flight on a shared connection (its window), a client that does not read goes on with a connection
// of its own, where the engine keeps its replies as it always did, and so does a client whose reply is long: the
// shared connection's is thrown away, and the request is asked again.

const (
	// maxSharedReply is the longest reply that a shared connection carries, where that can be helped.
	maxSharedReply = 256 << 10
	// slowReply is how long the replies to a client are, all together, for whose transfer nobody should have to wait.
	closeSharedAbove = 8 << 20
	// windowBytes is how much of a client's replies may be on their way over a shared connection, as far as can be guessed.
	windowBytes = 1 << 20
	// unknownSize is how long a client's replies are taken to be before it has had one.
	assumedReplySize = windowBytes
	// maxTrials is how many connections a loop may have and still make one for a client's first reply; maxFarTrials where that
	// takes a handshake.
	maxSizingConns       = 48
	maxRemoteSizingConns = 16
	// knownFor is how long what is known of a client's replies counts: behind a sidecar, or a pool of connections, it may be another
	// program that asks next.
	replySizeTTL = 250 * time.Millisecond
	// longStay is for how many requests a client keeps a connection of its own after a long reply.
	dedicatedAfterLongReply = 32
	// maxResend is how much of a client's requests is kept to be asked again.
	maxRetryBuffer = 64 << 10
)

// lags says that the client reads less than it asks for.
func (s *Session) isSlowReader() bool { return s.conn.Pending() >= highWater }

// needsTrial says that a request is better asked over a connection of the client's own, because nothing is known of its replies.
func (s *Session) replySizeUnknown(c *command) bool {
	if !c.replySizeVaries || s.inFlight > 0 || s.replySize != assumedReplySize && s.loop.now.Sub(s.replySizeAt) < replySizeTTL {
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
	return min(maxInflight, max(1, windowBytes/max(1, s.replySize)))
}

// noteSize learns from n replies.
func (s *Session) observeReplySize(bytes, n int) {
	s.replySizeAt = s.loop.now
	if size := bytes / n; size >= s.replySize {
		s.replySize = size
	} else {
		s.replySize = max(size, s.replySize/4)
	}
}

// resend keeps a client's requests that are in flight on a shared connection.
type retryBuffer struct {
	requests []byte // since nothing was in flight
	answered int    // of them
	unsafe   bool   // one of them must not be asked twice
}

// begin is called before a request is added.
func (r *retryBuffer) begin(inflight int) {
	if inflight == 0 {
		*r = retryBuffer{requests: r.requests[:0]}
	}
}

func (r *retryBuffer) add(raw []byte) {
	if !r.unsafe {
		r.requests = append(r.requests, raw...)
	}
}

// full says that another request has to wait until all are answered.
func (r *retryBuffer) full(more int) bool { return !r.unsafe && len(r.requests)+more > maxRetryBuffer }

// unanswered returns the requests that are still to be answered.
func (r *retryBuffer) unanswered() []byte {
	var scan resp.CommandScanner
	left := r.requests
	for range r.answered {
		n, _, _ := scan.Next(left)
		left = left[n:]
	}
	return left
}

// passShared hands on replies of a shared connection to the one that waits for them.
func (u *upstream) relayShared(w *pendingReply, b []byte) []byte {
	n, ended := 0, 0
	for n < len(b) {
		if u.scan.Between() && !u.replyFits(w, b[n:]) {
			u.fail(errMismatched)
			return nil
		}
		k, done, err := u.scan.Next(b[n:])
		if err != nil {
			return u.garbled(b)
		}
		if u.scan.Kind() == resp.Push {
			u.fail(errUnasked)
			return nil
		}
		if !done {
			u.deliver(w, b[:n], ended)
			u.partialReply(w, b[n:n+k])
			return nil
		}
		if len(u.replyBuffer) > 0 && u.isCanary(u.replyBuffer, b[n:n+k]) {
			u.fail(errMismatched)
			return nil
		}
		n += k
		if ended++; ended == w.count || w.handler != nil {
			break
		}
	}
	u.deliver(w, b[:n], ended)
	return b[n:]
}

// deliver gives a client whole replies; the first may have been begun before.
func (u *upstream) deliver(w *pendingReply, b []byte, ended int) {
	if ended == 0 {
		return
	}
	s, answer := w.client, w.handler
	if s != nil && (s.closed || s.engineGone) {
		s = nil
	}
	if s != nil {
		if w.command.replySizeVaries {
			s.observeReplySize(len(u.replyBuffer)+len(b), ended)
		}
		s.reply(u.replyBuffer)
		s.reply(b)
		s.inFlight -= ended
		s.retry.answered += ended
		s.markDirty()
		s.noteAnswered(w.command, w.sent)
	}
	u.replyBuffer, u.relayingReply, u.firstError = nil, false, nil
	if w.count -= ended; w.count == 0 {
		u.pendingReplies.pop()
	}
	u.resumeRetry()
	if answer != nil && s != nil {
		answer.answer(u, s, nil)
	}
}

// beginsLong has a part of a reply that is not complete. It is kept as long as it may be short, so that a long one can be
// asked for again.
func (u *upstream) partialReply(w *pendingReply, b []byte) {
	s := w.client
	if u.relayingReply {
		if s != nil && !s.closed && !s.engineGone {
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
		if s != nil && !s.closed && !s.engineGone {
			expected *= max(1, s.inFlight) // the others may be as long
		}
		if expected >= closeSharedAbove && u.closeAndRetry(w, size) {
			return
		}
		if s != nil && !s.closed && !s.engineGone {
			s.replySize = max(s.replySize, size)
			u.retryDedicated(s)
		}
	case !all, u.isCanary(u.replyBuffer, nil):
		return // it may still become long, or turn out to be for nobody
	}
	if s = w.client; s != nil && !s.closed && !s.engineGone {
		s.reply(u.replyBuffer)
		s.markDirty()
	}
	u.replyBuffer, u.relayingReply = nil, true
}

// divert makes a client ask for a long reply again, over a connection of its own, and with it for all that it waits for here.
// What comes here is for nobody then. It does nothing where a request of the client must not be asked twice. The client goes on
// once the long reply is over: until then the engine's time is for those who wait behind it.
func (u *upstream) retryDedicated(s *Session) {
	s.dedicatedLeft = dedicatedAfterLongReply
	if !s.canRetry() {
		return
	}
	s.loop.group.bigKeys.note(resp.Arguments(nil, s.retry.unanswered()), s.loop.now)
	for i := range u.pendingReplies.len {
		if x := &u.pendingReplies.ring[u.pendingReplies.index(i)]; x.client == s {
			x.client, x.handler = nil, nil
		}
	}
	s.retryInFlight()
	u.discardingFor, s.retryBlocked = s, true
}

// abandon ends a shared connection on which very long replies begin, before they have come, if all clients that wait there may ask
// again what they have asked. The one that the reply is for does so over a connection of its own.
func (u *upstream) closeAndRetry(w *pendingReply, size int) bool {
	var waiting []*Session
	for i := range u.pendingReplies.len {
		s := u.pendingReplies.ring[u.pendingReplies.index(i)].client
		if s == nil || s.closed || s.engineGone || slices.Contains(waiting, s) {
			continue
		}
		if !s.canRetry() {
			return false
		}
		waiting = append(waiting, s)
	}
	if s := w.client; slices.Contains(waiting, s) {
		s.dedicatedLeft, s.replySize = dedicatedAfterLongReply, max(s.replySize, size)
		s.loop.group.bigKeys.note(resp.Arguments(nil, s.retry.unanswered()), s.loop.now)
	}
	u.pendingReplies = pendingQueue{}
	for _, s := range waiting {
		s.retryInFlight()
		s.loop.again(&s.conn.socket)
	}
	u.unblockAll()
	u.end()
	return true
}

// mayAskAgain says that all of the client's requests in flight on a shared connection may be asked twice.
func (s *Session) canRetry() bool { return !s.retry.unsafe && !s.passingRest }

// askAgain takes the client's requests in flight back: they are the next that it asks.
func (s *Session) retryInFlight() {
	again := append([]byte(nil), s.retry.unanswered()...)
	again = append(again, s.buffer...)
	s.replay = append(again, s.backlog...)
	s.buffer, s.backlog, s.blocked, s.passingHead, s.blockedOn = nil, nil, false, false, nil
	s.scan, s.inFlight = resp.CommandScanner{}, 0
}

// goOnDiverted lets a client that was diverted go on.
func (u *upstream) resumeRetry() {
	if s := u.discardingFor; s != nil {
		u.discardingFor, s.retryBlocked = nil, false
		s.loop.again(&s.conn.socket)
	}
}

// largeKeys remembers keys that had long values lately, so that clients don't meet them on a shared connection.
type bigKeys struct {
	seed  maphash.Seed
	until atomic.Int64 // Unix seconds: for how long there is one
	slots [1024]atomic.Uint64
}

// largeFor is for how long a key is taken to be large, in seconds.
const bigKeyTTL = 300

func (l *bigKeys) note(args [][]byte, now time.Time) {
	if len(args) < 2 {
		return
	}
	until := now.Unix() + bigKeyTTL
	h := maphash.Bytes(l.seed, args[1])
	l.slots[h%uint64(len(l.slots))].Store(h&^uint64(1<<32-1) | uint64(uint32(until)))
	l.until.Store(until)
}

// empty says that there is none.
func (l *bigKeys) empty(now time.Time) bool { return l.until.Load() <= now.Unix() }

// has says whether a request is about such a key. (Keys with the same hash cost their clients a connection.)
func (l *bigKeys) has(args [][]byte, now time.Time) bool {
	if len(args) < 2 {
		return false
	}
	h := maphash.Bytes(l.seed, args[1])
	v := l.slots[h%uint64(len(l.slots))].Load()
	return v>>32 == h>>32 && int64(uint32(v)) > now.Unix()
}

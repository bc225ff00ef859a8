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
	slowReply = 8 << 20
	// windowBytes is how much of a client's replies may be on their way over a shared connection, as far as can be guessed.
	windowBytes = 1 << 20
	// unknownSize is how long a client's replies are taken to be before it has had one.
	unknownSize = windowBytes
	// maxTrials is how many connections a loop may have and still make one for a client's first reply; maxFarTrials where that
	// takes a handshake.
	maxTrials    = 48
	maxFarTrials = 16
	// knownFor is how long what is known of a client's replies counts: behind a sidecar, or a pool of connections, it may be another
	// program that asks next.
	knownFor = 250 * time.Millisecond
	// longStay is for how many requests a client keeps a connection of its own after a long reply.
	longStay = 32
	// maxResend is how much of a client's requests is kept to be asked again.
	maxResend = 64 << 10
)

// lags says that the client reads less than it asks for.
func (s *Session) lags() bool { return s.client.pending() >= highWater }

// needsTrial says that a request is better asked over a connection of the client's own, because nothing is known of its replies.
func (s *Session) needsTrial(c *command) bool {
	if !c.readsValue || s.inflight > 0 || s.replySize != unknownSize && s.loop.now.Sub(s.sized) < knownFor {
		return false
	}
	b, most := s.loop.group.backend.Load(), maxTrials
	p := s.loop.pools[s.key(b)]
	switch {
	case p != nil && len(p.spare) > 0:
		return true
	case b.remote():
		// A server that is away must not be tried by each client.
		if p == nil || p.shared == nil || !p.shared.ready {
			return false
		}
		most = maxFarTrials
	}
	return len(s.loop.upstreams) < most
}

// window is how many requests the client may have in flight on a shared connection.
func (s *Session) window() int {
	return min(maxInflight, max(1, windowBytes/max(1, s.replySize)))
}

// noteSize learns from n replies.
func (s *Session) noteSize(bytes, n int) {
	s.sized = s.loop.now
	if size := bytes / n; size >= s.replySize {
		s.replySize = size
	} else {
		s.replySize = max(size, s.replySize/4)
	}
}

// resend keeps a client's requests that are in flight on a shared connection.
type resend struct {
	raw      []byte // since nothing was in flight
	answered int    // of them
	never    bool   // one of them must not be asked twice
}

// begin is called before a request is added.
func (r *resend) begin(inflight int) {
	if inflight == 0 {
		*r = resend{raw: r.raw[:0]}
	}
}

func (r *resend) add(raw []byte) {
	if !r.never {
		r.raw = append(r.raw, raw...)
	}
}

// full says that another request has to wait until all are answered.
func (r *resend) full(more int) bool { return !r.never && len(r.raw)+more > maxResend }

// unanswered returns the requests that are still to be answered.
func (r *resend) unanswered() []byte {
	var scan resp.CommandScanner
	left := r.raw
	for range r.answered {
		n, _, _ := scan.Next(left)
		left = left[n:]
	}
	return left
}

// passShared hands on replies of a shared connection to the one that waits for them.
func (u *upstream) passShared(w *waiter, b []byte) []byte {
	n, ended := 0, 0
	for n < len(b) {
		if u.scan.Between() && !u.matches(w, b[n:]) {
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
			u.beginsLong(w, b[n:n+k])
			return nil
		}
		if len(u.gathered) > 0 && u.isCanary(u.gathered, b[n:n+k]) {
			u.fail(errMismatched)
			return nil
		}
		n += k
		if ended++; ended == w.n || w.ask != nil {
			break
		}
	}
	u.deliver(w, b[:n], ended)
	return b[n:]
}

// deliver gives a client whole replies; the first may have been begun before.
func (u *upstream) deliver(w *waiter, b []byte, ended int) {
	if ended == 0 {
		return
	}
	s, answer := w.s, w.ask
	if s != nil && (s.over || s.gone) {
		s = nil
	}
	if s != nil {
		if w.of.readsValue {
			s.noteSize(len(u.gathered)+len(b), ended)
		}
		s.reply(u.gathered)
		s.reply(b)
		s.inflight -= ended
		s.resend.answered += ended
		s.touch()
		s.logged(w.of, w.sent)
	}
	u.gathered, u.passing, u.refusal = nil, false, nil
	if w.n -= ended; w.n == 0 {
		u.queue.pop()
	}
	u.goOnDiverted()
	if answer != nil && s != nil {
		answer.answer(u, s, nil)
	}
}

// beginsLong has a part of a reply that is not complete. It is kept as long as it may be short, so that a long one can be
// asked for again.
func (u *upstream) beginsLong(w *waiter, b []byte) {
	s := w.s
	if u.passing {
		if s != nil && !s.over && !s.gone {
			s.reply(b)
			s.touch()
		}
		return
	}
	u.gathered = append(u.gathered, b...)
	rest, all := u.scan.Rest()
	size := len(u.gathered) + rest
	switch {
	case size > maxSharedReply:
		expected := size
		if s != nil && !s.over && !s.gone {
			expected *= max(1, s.inflight) // the others may be as long
		}
		if expected >= slowReply && u.abandon(w, size) {
			return
		}
		if s != nil && !s.over && !s.gone {
			s.replySize = max(s.replySize, size)
			u.divert(s)
		}
	case !all, u.isCanary(u.gathered, nil):
		return // it may still become long, or turn out to be for nobody
	}
	if s = w.s; s != nil && !s.over && !s.gone {
		s.reply(u.gathered)
		s.touch()
	}
	u.gathered, u.passing = nil, true
}

// divert makes a client ask for a long reply again, over a connection of its own, and with it for all that it waits for here.
// What comes here is for nobody then. It does nothing where a request of the client must not be asked twice. The client goes on
// once the long reply is over: until then the engine's time is for those who wait behind it.
func (u *upstream) divert(s *Session) {
	s.large = longStay
	if !s.mayAskAgain() {
		return
	}
	s.loop.group.largeKeys.note(resp.Arguments(nil, s.resend.unanswered()), s.loop.now)
	for i := range u.queue.len {
		if x := &u.queue.ring[u.queue.index(i)]; x.s == s {
			x.s, x.ask = nil, nil
		}
	}
	s.askAgain()
	u.diverted, s.diverted = s, true
}

// abandon ends a shared connection on which very long replies begin, before they have come, if all clients that wait there may ask
// again what they have asked. The one that the reply is for does so over a connection of its own.
func (u *upstream) abandon(w *waiter, size int) bool {
	var waiting []*Session
	for i := range u.queue.len {
		s := u.queue.ring[u.queue.index(i)].s
		if s == nil || s.over || s.gone || slices.Contains(waiting, s) {
			continue
		}
		if !s.mayAskAgain() {
			return false
		}
		waiting = append(waiting, s)
	}
	if s := w.s; slices.Contains(waiting, s) {
		s.large, s.replySize = longStay, max(s.replySize, size)
		s.loop.group.largeKeys.note(resp.Arguments(nil, s.resend.unanswered()), s.loop.now)
	}
	u.queue = queue{}
	for _, s := range waiting {
		s.askAgain()
		s.loop.again(&s.client.socket)
	}
	u.wakeAll()
	u.end()
	return true
}

// mayAskAgain says that all of the client's requests in flight on a shared connection may be asked twice.
func (s *Session) mayAskAgain() bool { return !s.resend.never && !s.streaming }

// askAgain takes the client's requests in flight back: they are the next that it asks.
func (s *Session) askAgain() {
	again := append([]byte(nil), s.resend.unanswered()...)
	again = append(again, s.part...)
	s.again = append(again, s.rest...)
	s.part, s.rest, s.whole, s.partial, s.waitsFor = nil, nil, false, false, nil
	s.scan, s.inflight = resp.CommandScanner{}, 0
}

// goOnDiverted lets a client that was diverted go on.
func (u *upstream) goOnDiverted() {
	if s := u.diverted; s != nil {
		u.diverted, s.diverted = nil, false
		s.loop.again(&s.client.socket)
	}
}

// largeKeys remembers keys that had long values lately, so that clients don't meet them on a shared connection.
type largeKeys struct {
	seed  maphash.Seed
	until atomic.Int64 // Unix seconds: for how long there is one
	slots [1024]atomic.Uint64
}

// largeFor is for how long a key is taken to be large, in seconds.
const largeFor = 300

func (l *largeKeys) note(args [][]byte, now time.Time) {
	if len(args) < 2 {
		return
	}
	until := now.Unix() + largeFor
	h := maphash.Bytes(l.seed, args[1])
	l.slots[h%uint64(len(l.slots))].Store(h&^uint64(1<<32-1) | uint64(uint32(until)))
	l.until.Store(until)
}

// empty says that there is none.
func (l *largeKeys) empty(now time.Time) bool { return l.until.Load() <= now.Unix() }

// has says whether a request is about such a key. (Keys with the same hash cost their clients a connection.)
func (l *largeKeys) has(args [][]byte, now time.Time) bool {
	if len(args) < 2 {
		return false
	}
	h := maphash.Bytes(l.seed, args[1])
	v := l.slots[h%uint64(len(l.slots))].Load()
	return v>>32 == h>>32 && int64(uint32(v)) > now.Unix()
}

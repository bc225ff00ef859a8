package relay

import (
	"github.com/sealane/sealane/internal/routing"
)

// The engine answers in the order of the requests, so who gets a reply follows from who asked, in that order.

// pendingReply is who asked, and what for: so many replies in a row.
type pendingReply struct {
	client  *Session // nil: this package asked
	count   int
	handler *replyHandler    // nil: the replies are passed on as they are
	command *routing.Command // what for
	sent    int64            // the first of them, in Unix nanoseconds
}

// replyHandler says what becomes of a reply.
type replyHandler struct {
	// complete: the reply is whole when answer gets it. Otherwise only if it is one line, and answer gets nil where it was passed
	// on already.
	complete bool
	// answer returns what the client gets. It runs on the loop.
	answer func(u *upstream, s *Session, reply []byte) []byte
	// exec: the reply has those of a transaction in it.
	exec bool
	// muted: the client does not want the reply.
	muted bool
	// count is for how many requests it is, which are one to the client; 0: one. answer gets each reply by itself, and what it
	// returns for the last one is the client's.
	count int
	// subscription is for commands whose replies are messages.
	subscription *subscription
}

// requests is the number of requests that the handler gets the replies of.
func (h *replyHandler) requests() int {
	if h == nil {
		return 1
	}
	return max(1, h.count)
}

// onLine is a handler that looks at replies of one line.
func onLine(f func(s *Session, reply []byte)) *replyHandler {
	return &replyHandler{answer: func(_ *upstream, s *Session, reply []byte) []byte {
		f(s, reply)
		return reply
	}}
}

// together is a handler of n requests that are one to the client: answer gets all replies.
func together(n int, answer func(u *upstream, s *Session, replies [][]byte) []byte) *replyHandler {
	var all [][]byte
	return &replyHandler{complete: true, count: n, answer: func(u *upstream, s *Session, reply []byte) []byte {
		if all = append(all, append([]byte(nil), reply...)); len(all) < n {
			return nil
		}
		return answer(u, s, all)
	}}
}

// pendingQueue is a ring of pending replies; the ring's length is a power of two.
type pendingQueue struct {
	ring    []pendingReply
	at, len int
}

// maxPendingReplies is how long a queue may become in which different requests of one client are told apart.
const maxPendingReplies = 4096

// index is where in the ring the entry is that has i others before it.
func (q *pendingQueue) index(i int) int { return (q.at + i) & (len(q.ring) - 1) }

// entry is the one that has i others before it.
func (q *pendingQueue) entry(i int) *pendingReply { return &q.ring[q.index(i)] }

func (q *pendingQueue) head() *pendingReply {
	if q.len == 0 {
		return nil
	}
	return &q.ring[q.at]
}

func (q *pendingQueue) push(w pendingReply) {
	if q.len > 0 {
		last := q.entry(q.len - 1)
		if last.client == w.client && last.handler == nil && w.handler == nil && w.client != nil &&
			(last.command == w.command || q.len >= maxPendingReplies && w.client.dedicated != nil) {
			last.count += w.count
			return
		}
	}
	if q.len == len(q.ring) {
		grown := make([]pendingReply, max(4, 2*q.len))
		for i := range q.len {
			grown[i] = *q.entry(i)
		}
		q.ring, q.at = grown, 0
	}
	*q.entry(q.len) = w
	q.len++
}

func (q *pendingQueue) pop() {
	q.ring[q.at] = pendingReply{}
	q.at = q.index(1)
	q.len--
}

// answered notes n replies to the request at the head.
func (q *pendingQueue) answered(n int) {
	if w := &q.ring[q.at]; w.count > n {
		w.count -= n
		return
	}
	q.pop()
}

package relay

import (
	"bytes"
	"strconv"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// transaction are the replies that EXEC's will have in it. The state of the transaction is in routing.State.
type transaction struct {
	queued  []*replyHandler // of each request that the engine has queued; nil: nothing is to be done about its reply
	handled bool            // one of them is not nil
}

func (t *transaction) add(h *replyHandler) {
	t.queued = append(t.queued, h)
	t.handled = t.handled || h != nil
}

// followTransaction follows a transaction: what the engine queues is answered by EXEC.
func (s *Session) followTransaction(c *routing.Command, h *replyHandler, raw []byte) *replyHandler {
	if c.Unpipelined && !s.state.Multi {
		s.state.Queuing = false // nothing else is in flight, so this is what the engine says
	}
	switch {
	case h == onMulti:
		s.state.Queuing = true
	case h == onExec, h == onDiscard, h == onReset:
		s.state.Queuing = false
	case s.state.Queuing && c.Unpipelined && c.Affinity == routing.ChangesIdentity && routing.CredentialsIn(s.arguments(raw)) != nil:
		return onQueuedLogin
	case s.state.Queuing && h == nil:
		return onQueued
	case s.state.Queuing && h.subscription == nil:
		return h.afterExec()
	}
	return h
}

var (
	onMulti = onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.state.Multi, s.transaction = true, transaction{}
		}
	})
	onDiscard = onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.endTransaction()
		}
	})
	onWatch = onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.state.Watching = true
		}
	})
	onUnwatch = onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.state.Watching = false
		}
	})
	// Of the errors only EXECABORT ends a transaction: one that was never begun, or EXEC with an argument, does not.
	onExec = &replyHandler{exec: true, answer: func(u *upstream, s *Session, reply []byte) []byte {
		switch {
		case reply == nil:
		case reply[0] == '*' && s.transaction.handled:
			reply = s.executed(u, reply)
		case reply[0] == '-' && !bytes.HasPrefix(reply, []byte("-EXECABORT")):
			return reply
		}
		s.endTransaction()
		return reply
	}}
	// onQueued is for the requests between MULTI and EXEC that nothing else is to be done about.
	onQueued = onLine(func(s *Session, reply []byte) {
		if isQueued(reply) {
			s.transaction.add(nil)
		}
	})
	// A login in a transaction may lack its answer among EXEC's, so who the client is from then on is not known.
	onQueuedLogin = onLine(func(s *Session, reply []byte) {
		if isQueued(reply) {
			s.transaction.add(nil)
			s.state.Soil(routing.DirtyForGood)
		}
	})
)

// afterExec is a handler that waits for EXEC, if the engine queues the request. Of several requests that are one to the client,
// one reply is shown: a refusal, if there is one.
func (h *replyHandler) afterExec() *replyHandler {
	var replies [][]byte
	return &replyHandler{complete: h.complete, count: h.count, answer: func(u *upstream, s *Session, reply []byte) []byte {
		if h.requests() > 1 {
			if replies = append(replies, bytes.Clone(reply)); len(replies) < h.requests() {
				return nil
			}
		} else {
			replies = [][]byte{reply}
		}
		queued := 0
		for _, r := range replies {
			if r != nil && isQueued(r) {
				s.transaction.add(h)
				queued++
			} else {
				reply = r
			}
		}
		if queued > 0 {
			return reply
		}
		for _, r := range replies {
			reply = h.answer(u, s, r)
		}
		return reply
	}}
}

// executed does with the replies in EXEC's what would have been done with each by itself.
func (s *Session) executed(u *upstream, reply []byte) []byte {
	v, n, err := resp.ParseReply(reply, resp.Limits{MaxBulk: maxBufferedReply})
	if err != nil || n != len(reply) || len(v.Elems) != len(s.transaction.queued) {
		s.state.Soil(routing.DirtyUntilReset) // what it has come to is not known
		return reply
	}
	var all []byte
	left := len(v.Elems)
	for i, h := range s.transaction.queued {
		one := resp.Append(nil, v.Elems[i])
		if h != nil {
			if one = h.answer(u, s, one); one == nil {
				left--
			}
		}
		all = append(all, one...)
	}
	out := strconv.AppendInt([]byte{'*'}, int64(left), 10)
	return append(append(out, '\r', '\n'), all...)
}

func (s *Session) endTransaction() {
	s.transaction = transaction{}
	s.state.EndTransaction()
}

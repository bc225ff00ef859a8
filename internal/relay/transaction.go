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
	refused bool            // the engine did not queue one, so that EXEC fails
}

func (t *transaction) add(h *replyHandler) {
	t.queued = append(t.queued, h)
	t.handled = t.handled || h != nil
}

// replied notes what the engine has said to a request between MULTI and EXEC, and returns whether it was queued.
func (t *transaction) replied(h *replyHandler, reply []byte) (queued bool) {
	if queued = isQueued(reply); queued {
		t.add(h)
	} else if len(reply) > 0 && reply[0] == '-' {
		t.refused = true
	}
	return queued
}

// prepareExec fails a transaction whose watched keys were watched on an engine that is gone, as if one of them had changed.
func prepareExec(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if !s.state.WatchLost || len(args) != 1 {
		return raw, onExec
	}
	return resp.AppendCommand(nil, "DISCARD"), onExecUnwatched
}

// followTransaction follows a transaction: what the engine queues is answered by EXEC.
func (s *Session) followTransaction(c *routing.Command, h *replyHandler, raw []byte) *replyHandler {
	if c.Unpipelined && !s.state.Multi {
		s.state.Queuing = false // nothing else is in flight, so this is what the engine says
	}
	switch {
	case h == onMulti:
		s.state.Queuing = true
	case h == onExec, h == onExecUnwatched, h == onDiscard, h == onReset:
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
			s.state.Unwatch()
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
	// onExecUnwatched is for the DISCARD that stands for an EXEC.
	onExecUnwatched = &replyHandler{complete: true, answer: func(_ *upstream, s *Session, reply []byte) []byte {
		switch {
		case bytes.HasPrefix(reply, []byte("-ERR DISCARD without MULTI")):
			return []byte("-ERR EXEC without MULTI\r\n")
		case !isOK(reply):
			return reply
		case s.transaction.refused:
			reply = []byte("-EXECABORT Transaction discarded because of previous errors.\r\n")
		case s.login.Proto == 3:
			reply = []byte("_\r\n")
		default:
			reply = []byte("*-1\r\n")
		}
		s.endTransaction()
		return reply
	}}
	// onQueued is for the requests between MULTI and EXEC that nothing else is to be done about.
	onQueued = onLine(func(s *Session, reply []byte) { s.transaction.replied(nil, reply) })
	// A login in a transaction may lack its answer among EXEC's, so who the client is from then on is not known.
	onQueuedLogin = onLine(func(s *Session, reply []byte) {
		if s.transaction.replied(nil, reply) {
			s.state.LoseTrack(routing.DirtyForGood)
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
			if r != nil && s.transaction.replied(h, r) {
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
		s.state.LoseTrack(routing.DirtyUntilReset) // what it has come to is not known
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

package relay

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// With Backend.Standby clients outlive their engine, whatever they are doing: they wait for SetBackend with another one, or for an
// engine that listens in the same place again. Package routing says what becomes of their requests (routing.Outlive). This file does
// it, for connections that an engine has closed (fail, and enginedeath.go) and for those that are left because it hangs
// (enginechange.go).
//
// What the client has set on its connection is brought along as in a planned change (kept.go). A transaction that is open is queued again
// on the next connection. Replies stay in order: the errors before the first request that is asked again are told at once, and for one
// behind it something else is asked in its place, whose reply is thrown away.

const tryAgain = "-TRYAGAIN a failover took place: whether this request was carried out is not known\r\n"

// standby is what a session keeps in order to outlive its engine.
type standby struct {
	flight     routing.Flight
	queued     queued
	orphaned   []unanswered // what was in flight on a connection that has ended; see enginedeath.go
	reconnects bool         // it needs a connection without asking for anything
}

// unanswered is a request that has no reply.
type unanswered struct {
	command *routing.Command
	handler *replyHandler
	sent    int64 // Unix nanoseconds
	unread  bool  // the engine has not read all of it
}

// queued are the requests of the transaction that is open, as the engine got them.
type queued struct {
	requests [][]byte
	replies  []int // to each of them
	size     int
	lost     bool // they are not all here
}

func (q *queued) add(request []byte, replies int) {
	if q.size += len(request); q.size > maxRetryBuffer || q.lost {
		*q = queued{lost: true}
		return
	}
	q.requests, q.replies = append(q.requests, bytes.Clone(request)), append(q.replies, replies)
}

// noteSent is called before a request is sent. raw is what the client has said, request what the engine gets, and queuing whether the
// client was in a transaction before.
func (s *Session) noteSent(raw, request []byte, replies int, queuing bool) {
	if s.input.passingHead {
		raw = nil
	}
	s.flight.Add(raw, s.state.InFlight())
	switch {
	case !s.state.Queuing:
	case !queuing:
		s.queued = queued{}
	case raw == nil:
		s.queued = queued{lost: true}
	default:
		s.queued.add(request, replies)
	}
}

// unansweredBy returns what a client has in flight on a connection, in order. unread says that not all that was sent has been read.
func (u *upstream) unansweredBy(s *Session, unread bool) (all []unanswered) {
	for i := range u.pendingReplies.len {
		w := u.pendingReplies.entry(i)
		if w.client != s {
			continue
		}
		n := 1
		if w.handler == nil {
			n = w.count
		}
		for range n {
			all = append(all, unanswered{command: w.command, handler: w.handler, sent: w.sent})
		}
		if i == u.pendingReplies.len-1 {
			all[len(all)-1].unread = unread && !s.flight.Trailed()
		}
	}
	return all
}

// outlive makes a client go on without the connection on which it had these requests in flight. It returns false if it can't.
func (s *Session) outlive(all []unanswered) bool {
	raws := s.flight.Last(len(all))
	requests := make([]routing.Unanswered, len(all))
	for i, r := range all {
		known := raws[i] != nil && (routing.IsOf(raws[i], r.command) || r.command == routing.OutcomeUnknown)
		requests[i] = routing.Unanswered{Command: r.command, Kept: known && !s.mayRunOn(r), Unread: r.unread || r.mayNotWrite()}
	}
	midRequest := s.state.PassingRest
	plan, ok := routing.Outlive(&s.state, requests)
	if !ok {
		return false
	}
	if midRequest {
		s.input.skipRest()
	}
	s.carryTransaction(plan.Members)
	var again []byte
	for i, r := range all {
		muted := r.handler != nil && r.handler.muted
		switch {
		case plan.Again[i]:
			if i == 0 && muted {
				s.state.SkipReply = !s.state.RepliesOff
			}
			again = append(again, s.remainder(r, raws[i])...)
		case muted:
		case len(again) == 0:
			s.reply([]byte(tryAgain))
		default:
			again = append(again, s.loop.group.outcomeUnknown...)
		}
	}
	s.blocked, s.blockedOn = nil, nil
	if len(again) > 0 {
		s.askAgain(again)
	}
	return true
}

// maxScriptTime is for how long a script or function may have been running that is asked again.
const maxScriptTime = time.Second

// mayRunOn says that a request may be what has kept the engine busy, and would do that to the next one, and to all after it.
func (s *Session) mayRunOn(r unanswered) bool {
	return r.command.RunsScript() && s.loop.now.UnixNano()-r.sent > int64(maxScriptTime)
}

// mayNotWrite says that something was sent in place of a request, which writes nothing.
func (r unanswered) mayNotWrite() bool {
	for _, why := range []*refusal{readOnly, outOfMemory} {
		if r.handler != nil && (r.handler == why.request || r.handler == why.form) {
			return true
		}
	}
	return false
}

// carryTransaction makes what is left of a transaction ready to be queued again, without its last n requests, which are not answered.
func (s *Session) carryTransaction(n int) {
	q := &s.queued
	switch {
	case !s.state.Multi:
		s.transaction, *q = transaction{}, queued{}
	case q.lost || s.transaction.refused || n > len(q.requests):
		s.state.Aborted = true
	default:
		q.requests, q.replies = q.requests[:len(q.requests)-n], q.replies[:len(q.replies)-n]
	}
}

// remainder is what is still to be asked of a request.
func (s *Session) remainder(r unanswered, raw []byte) []byte {
	words := texts(resp.Arguments(nil, raw))
	switch {
	case r.command.Waits():
		return resp.AppendCommand(nil, r.command.AfterWaiting(words, s.loop.now.UnixNano()-r.sent)...)
	case r.handler == nil || r.handler.subscription == nil:
		return raw
	}
	if left := r.handler.subscription.left; left > 0 && left < len(words)-1 {
		return resp.AppendCommand(nil, append(words[:1:1], words[len(words)-left:]...)...) // the others are confirmed
	}
	return raw
}

// restoreTransaction opens a transaction again that was open on the connection before.
func (u *upstream) restoreTransaction(s *Session) {
	if !s.state.Multi && !s.state.Aborted {
		return
	}
	u.askSetup(onSetup, "MULTI")
	if s.state.Aborted {
		u.askSetup(onAborted, "GET") // a request that the engine does not queue makes it fail the transaction at EXEC
		return
	}
	for i, request := range s.queued.requests {
		u.setupPending += s.queued.replies[i]
		_, _ = u.Write(request)
		u.pendingReplies.push(pendingReply{count: s.queued.replies[i], handler: onAborted}) // what is refused now fails it, too
	}
}

// orphanClients takes clients off a connection that the engine has closed. They wait until it is known whether the engine has ended.
func (u *upstream) orphanClients(err error) {
	refused := (*SetupError)(nil)
	if !u.loop.group.backend.Load().standsBy() || !u.eof || errors.As(err, &refused) || len(u.firstError) > 0 {
		return
	}
	unread := errors.Is(err, unix.ECONNRESET)
	for _, s := range u.clients() {
		if !u.mayOrphan(s) {
			continue
		}
		s.orphaned = u.unansweredBy(s, unread)
		for i := range u.pendingReplies.len {
			if w := u.pendingReplies.entry(i); w.client == s {
				w.client, w.handler = nil, nil
			}
		}
		if u.client == s {
			s.detach()
		}
		s.suspectDeath(u)
	}
	u.unblockAll() // what they ask was not sent yet
}

// mayOrphan says whether the end of a connection need not be its client's.
func (u *upstream) mayOrphan(s *Session) bool {
	finished := u.client == s && u.WriteClosing() && s.state.InFlight() == 0
	return s.phase == serving && !s.suspectsDeath && s.state.MayOutlive() && !u.isMidReply(s) && !finished
}

// clients are those that a connection is dedicated to, or that have something in flight on it.
func (u *upstream) clients() []*Session {
	var all []*Session
	seen := make(map[*Session]bool)
	add := func(s *Session) {
		if s != nil && s.phase < engineGone && !seen[s] {
			seen[s] = true
			all = append(all, s)
		}
	}
	add(u.client)
	for i := range u.pendingReplies.len {
		add(u.pendingReplies.entry(i).client)
	}
	return all
}

// engineIsGone lets a client go on whose connection has ended because its engine has.
func (s *Session) engineIsGone() {
	all := s.orphaned
	s.orphaned, s.suspectsDeath = nil, false
	switch {
	case s.phase >= engineGone:
	case len(all) > 0 || s.loop.group.backend.Load().standsBy():
		if !s.outlive(all) {
			s.loseEngine()
			return
		}
		s.reconnects = s.hasPushes()
		s.conn.requeue()
	default:
		s.conn.requeue()
	}
}

func (s *Session) hasPushes() bool {
	return s.state.HasPushes(s.kept != nil && s.kept.tracking != nil)
}

// newOutcomeUnknown makes the request that stands for one whose outcome is not known. No client can know it.
func newOutcomeUnknown() []byte {
	random := make([]byte, 16)
	_, _ = rand.Read(random) // it never fails
	return resp.AppendCommand(nil, "SEALANE.OUTCOME-UNKNOWN", hex.EncodeToString(random))
}

// prepareOutcomeUnknown sends a request that the engine refuses, also in a transaction.
func prepareOutcomeUnknown(*Session, []byte, [][]byte) ([]byte, *replyHandler) {
	return refusedRequest, &replyHandler{complete: true, answer: func(*upstream, *Session, []byte) []byte { return []byte(tryAgain) }}
}

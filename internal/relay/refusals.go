package relay

import (
	"bytes"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// While the memory of an instance is used up, commands that need memory are refused, and behind a read endpoint those that write; package
// routing says which. The order of replies, the abort of a transaction and the count of requests stay what they are on any other request,
// because something is sent in place of what is refused: a command that no engine knows, DISCARD for EXEC, EVAL_RO for EVAL. Only its
// reply is changed.

// SetOutOfMemory says that clients may not write from now on, or may again. Requests that are on their way are executed.
func (ls *Loops) SetOutOfMemory(on bool) { ls.outOfMemory.Store(on) }

var (
	outOfMemory = newRefusal("OOM command not allowed under OOM prevention.", func(c *counts) { c.refused.Add(1) })
	readOnly    = newRefusal("READONLY You can't write against a read only replica.", func(*counts) {})

	// refusedRequest takes the place of a request that is refused. The engine's error about it aborts a transaction too.
	refusedRequest = resp.AppendCommand(nil, "SEALANE.REFUSED")
	discardRequest = resp.AppendCommand(nil, "DISCARD")
)

// refusal is a reason for which requests are refused, with what becomes of the replies to what is sent in their place.
type refusal struct {
	words               string
	count               func(*counts)
	request, exec, form *replyHandler
}

// refused sends something else, or nothing, where a request is refused, and says so.
func (s *Session) refused(u *upstream, b *Backend, c *routing.Command, raw []byte) bool {
	if !b.ReadOnly && !s.loop.group.outOfMemory.Load() {
		return false
	}
	in, named := &s.input, c
	var name []byte
	if !in.scan.Inline() {
		name = in.scan.Name()
		if in.passingHead {
			named = s.loop.find(name, in.scan.Second())
		}
	}
	why, what := s.refusalOf(b, named, name)
	request, reply := raw, (*replyHandler)(nil)
	switch what {
	case routing.RefuseRequest:
		request, reply, in.discardingRest = refusedRequest, why.request, in.passingHead
		why.count(&s.loop.counts)
	case routing.RefuseExec:
		request, reply = discardRequest, why.exec
		s.state.Queuing = false
		why.count(&s.loop.counts)
	case routing.RefuseWrites:
		if request, reply = s.renamed(raw, named.ReadOnlyForm), why.form; s.state.Queuing {
			reply = reply.afterExec()
		}
	default:
		return false
	}
	if b.Standby {
		s.noteSent(raw, nil, 1, s.state.Queuing)
		s.queued = queued{lost: s.state.Queuing} // the next engine would be asked what this one was not
	}
	s.state.SendingShared() // none of these makes others wait
	s.state.Sent(1)
	u.pendingReplies.push(pendingReply{client: s, count: 1, handler: reply, command: c, sent: s.loop.now.UnixNano()})
	s.countSent(u, c, 1, len(raw))
	s.queueWrite(u, request)
	return true
}

// refusalOf says whether a request is refused, and why.
func (s *Session) refusalOf(b *Backend, c *routing.Command, name []byte) (why *refusal, what routing.Refusal) {
	if b.ReadOnly {
		if what = routing.ReadOnlyRefusalOf(&s.state, c, name); what != routing.NotRefused {
			return readOnly, what
		}
	}
	if s.loop.group.outOfMemory.Load() {
		what = routing.RefusalOf(&s.state, c, name)
	}
	return outOfMemory, what
}

// renamed is a request, or its head, with another command's name.
func (s *Session) renamed(raw []byte, name string) []byte {
	if raw[0] != '*' {
		args := s.arguments(raw)
		if len(args) == 0 {
			return refusedRequest // a line with quotes, which only the engine can read
		}
		words := []string{name}
		for _, a := range args[1:] {
			words = append(words, string(a))
		}
		return resp.AppendCommand(nil, words...)
	}
	// *COUNT, $LENGTH, NAME, and what follows.
	lines := bytes.SplitN(raw, []byte("\r\n"), 4)
	if len(lines) < 4 {
		return refusedRequest
	}
	head := append(append([]byte(nil), lines[0]...), "\r\n$"...)
	head = append(append(append(head, itoa(len(name))...), "\r\n"...), name...)
	return append(append(head, "\r\n"...), lines[3]...)
}

func newRefusal(words string, count func(*counts)) *refusal {
	r := &refusal{words: words, count: count}
	r.request = &replyHandler{answer: func(u *upstream, s *Session, reply []byte) []byte {
		if reply == nil || reply[0] != '-' {
			return reply
		}
		return r.told(s, u)
	}}
	r.exec = &replyHandler{answer: func(u *upstream, s *Session, reply []byte) []byte {
		switch {
		case reply == nil:
			return nil
		case reply[0] == '-': // there was no transaction, or the engine is busy
			return bytes.ReplaceAll(reply, []byte("DISCARD"), []byte("EXEC"))
		}
		s.endTransaction()
		return []byte("-EXECABORT Transaction discarded because of: " + r.words + "\r\n")
	}}
	// For scripts and functions that may not write. Engines before 7.0 know no such form.
	r.form = &replyHandler{answer: func(u *upstream, s *Session, reply []byte) []byte {
		for _, refusal := range []string{"-ERR unknown command", "-ERR Write commands are not allowed from read-only scripts",
			"-ERR Can not execute a script with write flag"} {
			if bytes.HasPrefix(reply, []byte(refusal)) {
				r.count(&s.loop.counts)
				return r.told(s, u)
			}
		}
		return reply
	}}
	return r
}

// told is what a client reads whose request is refused. The engine asks for a login first.
func (r *refusal) told(s *Session, u *upstream) []byte {
	if s.login.User == "" && u.needsAuth {
		return []byte("-NOAUTH Authentication required.\r\n")
	}
	return []byte("-" + r.words + "\r\n")
}

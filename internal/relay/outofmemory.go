package relay

import (
	"bytes"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// While the memory of an instance is used up, commands that need memory are refused, as package routing says. The order of replies, the
// abort of a transaction and the count of requests stay what they are on any other request, because something is sent in place of what
// is refused: a command that no engine knows, DISCARD for EXEC, EVAL_RO for EVAL. Only its reply is changed.

// SetOutOfMemory says that clients may not write from now on, or may again. Requests that are on their way are executed.
func (ls *Loops) SetOutOfMemory(on bool) { ls.outOfMemory.Store(on) }

const outOfMemory = "OOM command not allowed under OOM prevention."

var (
	// refusedRequest takes the place of a request that is refused. The engine's error about it aborts a transaction too.
	refusedRequest = resp.AppendCommand(nil, "SEALANE.OOM")
	discardRequest = resp.AppendCommand(nil, "DISCARD")
)

// refused sends something else, or nothing, where there is no memory for a request, and says so.
func (s *Session) refused(u *upstream, c *routing.Command, raw []byte) bool {
	if !s.loop.group.outOfMemory.Load() {
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
	request, reply := raw, (*replyHandler)(nil)
	switch routing.RefusalOf(&s.state, named, name) {
	case routing.RefuseRequest:
		request, reply, in.discardingRest = refusedRequest, onRefused, in.passingHead
		s.loop.counts.refused.Add(1)
	case routing.RefuseExec:
		request, reply = discardRequest, onRefusedExec
		s.state.Queuing = false
		s.loop.counts.refused.Add(1)
	case routing.RefuseWrites:
		request, reply = s.renamed(raw, named.ReadOnlyForm), onReadOnlyForm
	default:
		return false
	}
	s.state.SendingShared() // none of these makes others wait
	s.state.Sent(1)
	u.pendingReplies.push(pendingReply{client: s, count: 1, handler: reply, command: c, sent: s.loop.now.UnixNano()})
	s.countSent(u, c, 1, len(raw))
	s.queueWrite(u, request)
	return true
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

var (
	onRefused = &replyHandler{answer: func(u *upstream, s *Session, reply []byte) []byte {
		if reply == nil || reply[0] != '-' {
			return reply
		}
		return s.outOfMemory(u)
	}}
	onRefusedExec = &replyHandler{answer: func(u *upstream, s *Session, reply []byte) []byte {
		switch {
		case reply == nil:
			return nil
		case reply[0] == '-': // there was no transaction, or the engine is busy
			return bytes.ReplaceAll(reply, []byte("DISCARD"), []byte("EXEC"))
		}
		s.endTransaction()
		return []byte("-EXECABORT Transaction discarded because of: " + outOfMemory + "\r\n")
	}}
	// onReadOnlyForm is for scripts and functions that may not write. Engines before 7.0 know no such form.
	onReadOnlyForm = &replyHandler{answer: func(u *upstream, s *Session, reply []byte) []byte {
		for _, refusal := range []string{"-ERR unknown command", "-ERR Write commands are not allowed from read-only scripts",
			"-ERR Can not execute a script with write flag"} {
			if bytes.HasPrefix(reply, []byte(refusal)) {
				s.loop.counts.refused.Add(1)
				return s.outOfMemory(u)
			}
		}
		return reply
	}}
)

// outOfMemory is what a client reads whose request is refused. The engine asks for a login first.
func (s *Session) outOfMemory(u *upstream) []byte {
	if s.login.User == "" && u.needsAuth {
		return []byte("-NOAUTH Authentication required.\r\n")
	}
	return []byte("-" + outOfMemory + "\r\n")
}

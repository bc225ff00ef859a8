package relay

import (
	"github.com/sealane/sealane/internal/routing"
)

// CLIENT REPLY OFF and SKIP are done here: the engine answers everything, and what the client does not want is thrown away. So it is
// always known what the client's requests have come to, and who gets which reply. Whether the user may say CLIENT REPLY is for the
// engine to decide, which is asked for CLIENT REPLY ON in its place. Within MULTI the command is the engine's (passthrough).

// prepareReplyMode is for CLIENT REPLY. No request follows it before it is answered.
func prepareReplyMode(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	c := s.input.cmd
	if c == routing.ReplyOn {
		return raw, onLine(func(s *Session, reply []byte) {
			if isOK(reply) {
				s.state.RepliesOff = false
			}
		})
	}
	return withArgument(args, 2, "on"), &replyHandler{complete: true, answer: func(_ *upstream, s *Session, reply []byte) []byte {
		switch {
		case !isOK(reply):
			return reply
		case c == routing.ReplyOff:
			s.state.RepliesOff = true
		default:
			s.state.SkipReply = !s.state.RepliesOff
		}
		return nil
	}}
}

// mute is a handler for a request whose reply the client does not want. It gets that of CLIENT REPLY ON, and that of RESET where all
// replies were off, which have ended this when they are answered.
func mute(c *routing.Command, h *replyHandler) *replyHandler {
	if h == nil {
		return onMuted
	}
	m := *h
	m.complete, m.muted = true, true
	m.answer = func(u *upstream, s *Session, reply []byte) []byte {
		off := s.state.RepliesOff
		told := h.answer(u, s, reply)
		if c == routing.ReplyOn && isOK(reply) || off && !s.state.RepliesOff {
			return told
		}
		return nil
	}
	return &m
}

var onMuted = &replyHandler{complete: true, muted: true, answer: func(*upstream, *Session, []byte) []byte { return nil }}

package relay

import (
	"github.com/sealane/sealane/internal/resp"
)

// maxBufferedReply bounds a reply that has to be complete before it is passed on: CLIENT LIST, INFO.
const maxBufferedReply = 256 << 20

// receive gives what the engine said to those who asked.
func (u *upstream) receive(b []byte) {
	for len(b) > 0 && !u.closed && u.Attached() {
		if u.goawayNegotiated && !u.relayingReply && len(u.replyBuffer) == 0 && u.scan.Between() {
			if b = u.consumeGoaway(b); len(b) == 0 {
				return
			}
		}
		w := u.pendingReplies.head()
		switch s := u.client; {
		case s != nil && s.state.Passthrough && w == nil && u.scan.Between():
			u.goawayNegotiated = false // who sends this is past asking
			if !s.state.Muted() {
				s.reply(b)
			}
			return
		case s != nil && s.state.Subscriber.On() && (u.scan.Between() || u.relayingReply || len(u.replyBuffer) > 0):
			b = u.receivePush(s, b)
		case w == nil && (s == nil || u.scan.Between() && resp.Kind(b[0]) != resp.Push):
			b = u.unasked(b)
		case w != nil && w.handler != nil && u.needsWholeReply(w, b[0]):
			b = u.bufferReply(w, b)
		case s == nil:
			b = u.relayShared(w, b)
		default:
			b = u.relayDedicated(w, b)
		}
	}
}

// unasked deals with what nobody asked for.
func (u *upstream) unasked(b []byte) []byte {
	if u.client == nil {
		u.fail(errUnasked)
		return nil
	}
	u.client.enterPassthrough()
	u.client.reply(b)
	return nil
}

// notRESP deals with what can't be parsed.
func (u *upstream) notRESP(b []byte) []byte {
	s := u.client
	if s == nil {
		u.fail(errNotRESP)
		return nil
	}
	s.enterPassthrough()
	s.reply(u.replyBuffer)
	s.reply(b)
	u.replies = replies{discardingFor: u.discardingFor, replyBytes: u.replyBytes}
	s.state.NothingInFlight()
	return nil
}

// needsWholeReply says whether the reply under way, or the one that begins with first, is kept until it is complete.
func (u *upstream) needsWholeReply(w *pendingReply, first byte) bool {
	k := u.scan.Kind()
	if u.scan.Between() {
		k = resp.Kind(first)
	}
	if k == resp.Push {
		return false
	}
	return w.handler.complete || w.handler.exec && w.client.transaction.handled || k == resp.Simple || k == resp.Error
}

func (u *upstream) bufferReply(w *pendingReply, b []byte) []byte {
	if u.client == nil && w.client != nil && u.scan.Between() && !u.replyFits(w, b) {
		u.fail(errMismatched)
		return nil
	}
	n, done, err := u.scan.Next(b)
	if err != nil {
		return u.notRESP(b)
	}
	if !done || len(u.replyBuffer) > 0 {
		if len(u.replyBuffer)+n > maxBufferedReply {
			u.fail(errNotRESP)
			return nil
		}
		u.replyBuffer = append(u.replyBuffer, b[:n]...)
	}
	if done {
		reply := b[:n]
		if len(u.replyBuffer) > 0 {
			reply, u.replyBuffer = u.replyBuffer, nil
		}
		u.answered(*w, reply)
	}
	return b[n:]
}

// answered ends the wait of one whose reply is complete.
func (u *upstream) answered(w pendingReply, reply []byte) {
	u.pendingReplies.answered(1)
	s := w.client
	if s == nil {
		if w.handler.answer(u, nil, reply); u.client != nil && u.client.input.blocked {
			u.client.markDirty() // its request may have waited until nothing else was in flight
		}
		return
	}
	if s.phase >= engineGone {
		return
	}
	s.state.Answered(1)
	s.retry.answered++
	u.firstError = nil
	if w.handler != nil {
		reply = w.handler.answer(u, s, reply)
	}
	s.reply(reply)
	s.noteAnswered(w.command, w.sent)
	s.markDirty()
}

// relayDedicated hands on what belongs to the client of a dedicated connection, all of it at once.
func (u *upstream) relayDedicated(w *pendingReply, b []byte) []byte {
	s := u.client
	n, ended := 0, 0
	for n < len(b) {
		k, done, err := u.scan.Next(b[n:])
		if err != nil {
			return u.notRESP(b)
		}
		n += k
		if u.replyBytes += k; u.replyBytes > maxSharedReply {
			s.state.DedicatedLeft = dedicatedAfterLongReply
		}
		if !done {
			break
		}
		size := u.replyBytes
		u.replyBytes = 0
		if u.scan.Kind() == resp.Push || w == nil {
			break
		}
		if w.command.ReplySizeVaries {
			s.observeReplySize(size, 1)
		}
		if ended++; ended == w.count || w.handler != nil || u.goawayNegotiated && n < len(b) && resp.Kind(b[n]) == resp.Push {
			break
		}
	}
	if s.phase < engineGone {
		s.reply(b[:n])
		s.state.Answered(ended)
		s.markDirty()
	}
	if ended > 0 {
		u.firstError = nil
		s.noteAnswered(w.command, w.sent)
		h := w.handler
		u.pendingReplies.answered(ended)
		if h != nil && s.phase < engineGone {
			h.answer(u, s, nil)
		}
	}
	return b[n:]
}

// relayShared hands on replies of a shared connection to the one that waits for them.
func (u *upstream) relayShared(w *pendingReply, b []byte) []byte {
	n, ended := 0, 0
	for n < len(b) {
		if u.scan.Between() && !u.replyFits(w, b[n:]) {
			u.fail(errMismatched)
			return nil
		}
		k, done, err := u.scan.Next(b[n:])
		if err != nil {
			return u.notRESP(b)
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
		// A goaway may come between the replies to two requests of one kind.
		if ended++; ended == w.count || w.handler != nil || u.goawayNegotiated && n < len(b) && resp.Kind(b[n]) == resp.Push {
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
	s, h := w.client, w.handler
	if s != nil && s.phase >= engineGone {
		s = nil
	}
	if s != nil {
		if w.command.ReplySizeVaries {
			s.observeReplySize(len(u.replyBuffer)+len(b), ended)
		}
		s.reply(u.replyBuffer)
		s.reply(b)
		s.state.Answered(ended)
		s.retry.answered += ended
		s.markDirty()
		s.noteAnswered(w.command, w.sent)
	}
	u.replyBuffer, u.relayingReply, u.firstError = nil, false, nil
	u.pendingReplies.answered(ended)
	u.resumeRetry()
	if h != nil && s != nil {
		h.answer(u, s, nil)
	}
}

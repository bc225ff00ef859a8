package relay

import (
	"bytes"

	"github.com/sealane/sealane/internal/routing"
)

// While a client has subscriptions, or is a monitor, each message to it is looked at, to tell replies from what comes in between.

// subscription is a request that is answered by messages, one per channel.
type subscription struct {
	left    int // confirmations to come; -1: one per subscription that there is when it is its turn
	countOf func(*routing.Subscriber) int
}

func prepareSubscription(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) == 0 {
		s.state.EnterPassthrough()
		return raw, nil
	}
	sub := &subscription{left: len(args) - 1, countOf: func(f *routing.Subscriber) int { return f.Channels }}
	switch args[0][0] | ' ' {
	case 'p':
		sub.countOf = func(f *routing.Subscriber) int { return f.Patterns }
	case 's':
		if equalFold(args[0], "ssubscribe") || equalFold(args[0], "sunsubscribe") {
			sub.countOf = func(f *routing.Subscriber) int { return f.Shards }
		}
	}
	if sub.left == 0 {
		sub.left = -1 // or an error, for those that need a channel
	}
	s.state.Subscriber.PendingConfirmations++
	return raw, &replyHandler{complete: true, subscription: sub, answer: func(u *upstream, s *Session, reply []byte) []byte {
		// It was refused, or will be done by EXEC, whose reply is like no other then.
		s.state.Subscriber.PendingConfirmations--
		if isQueued(reply) {
			s.enterPassthrough()
		}
		return reply
	}}
}

// receiveMessage takes what may be a reply or come in between.
func (u *upstream) receivePush(s *Session, b []byte) []byte {
	n, done, err := u.scan.Next(b)
	if err != nil {
		return u.notRESP(b)
	}
	switch {
	case u.relayingReply:
		s.reply(b[:n])
		u.relayingReply = !done
	case done:
		m := b[:n]
		if len(u.replyBuffer) > 0 {
			m, u.replyBuffer = append(u.replyBuffer, m...), nil
		}
		u.push(s, m)
	default:
		u.replyBuffer = append(u.replyBuffer, b[:n]...)
		if kind, known := s.pushKind(u.pendingReplies.head(), u.replyBuffer); known && kind == isMessage && u.replyBuffer[0] != '+' || len(u.replyBuffer) > maxBufferedReply {
			s.reply(u.replyBuffer)
			u.replyBuffer, u.relayingReply = nil, true
		}
	}
	return b[n:]
}

func (u *upstream) push(s *Session, m []byte) {
	w := u.pendingReplies.head()
	kind, _ := s.pushKind(w, m)
	switch {
	case kind == isMessage && m[0] == '+' && (s.state.RepliesOff || showsWaitMessage(m)): // the former is the engines' way
	case kind == isMessage && m[0] == '+':
		s.reply(u.loop.group.monitors.Name(s.id, m, u.loop.group.isOwnRequest))
	case kind == isMessage:
		s.reply(m)
	case kind == isConfirmation && w != nil && w.handler == onResubscribed:
		u.resubscribed(w)
	case kind == isConfirmation:
		s.reply(m)
		u.confirmed(s, w, m)
	case w == nil:
		s.enterPassthrough()
		s.reply(m)
	default:
		u.answered(*w, m)
	}
	s.markDirty()
}

type messageKind uint8

const (
	isReply messageKind = iota
	isMessage
	isConfirmation
)

// kindOf says what the message that begins with m is, as soon as that can be known.
func (s *Session) pushKind(w *pendingReply, m []byte) (k messageKind, known bool) {
	asked := w != nil && w.handler != nil && w.handler.subscription != nil
	switch {
	case m[0] == '+' && s.state.Subscriber.Monitor:
		if len(m) > 1 && m[1] >= '0' && m[1] <= '9' {
			return isMessage, true
		}
		return isReply, len(m) > 1
	case m[0] != '>' && (m[0] != '*' || s.login.Proto == 3 || !asked && !s.state.Subscriber.Subscribed()):
		return isReply, true
	}
	word, known := firstWord(m)
	switch {
	case !known:
		return isReply, false
	case bytes.HasSuffix(word, []byte("subscribe")) && (asked || m[0] == '>'):
		return isConfirmation, true
	case m[0] == '>':
		return isMessage, true
	case s.state.Subscriber.Subscribed() && bytes.HasSuffix(word, []byte("message")):
		return isMessage, true
	}
	return isReply, true
}

// firstWord is the first element of a list, if that is a string: ">3\r\n$7\r\nmessage\r\n".
func firstWord(m []byte) (word []byte, known bool) {
	const longest = len("punsubscribe")
	at := bytes.IndexByte(m, '\n') + 1
	if at == 0 || at == len(m) {
		return nil, false
	}
	if m[at] != '$' {
		return nil, true
	}
	end := bytes.IndexByte(m[at:], '\n') + 1
	if end == 0 {
		return nil, false
	}
	word = m[at+end:]
	if i := bytes.IndexByte(word, '\r'); i >= 0 {
		return word[:i], true
	}
	return nil, len(word) > longest
}

// confirmed counts subscriptions.
func (u *upstream) confirmed(s *Session, w *pendingReply, m []byte) {
	f := &s.state.Subscriber
	if w != nil && w.handler != nil && w.handler.subscription != nil {
		sub := w.handler.subscription
		if sub.left < 0 {
			sub.left = max(1, sub.countOf(f))
		}
		if sub.left--; sub.left == 0 {
			u.pendingReplies.pop()
			s.state.Answered(1)
			f.PendingConfirmations--
		}
	}
	word, _ := firstWord(m)
	n := 0
	if i := bytes.LastIndexByte(m, ':'); i >= 0 {
		n = int(integer(m[i+1:]))
	}
	f.Confirmed(word, n)
	s.keep().confirmed(m)
	s.profile.subscriber.Store(f.Subscribed() || f.Monitor)
}

package relay

import (
	"bytes"
)

// feed is what a client is sent without asking each time: its subscriptions, or what a monitor sees. While there is
// one, each message is looked at, to tell replies from what comes in between.
type subscriber struct {
	monitor                    bool
	channels, patterns, shards int
	pendingConfirmations       int // requests to subscribe, or to end that, whose confirmations are to come
}

func (f *subscriber) on() bool { return f.monitor || f.pendingConfirmations > 0 || f.subscribed() }

func (f *subscriber) subscribed() bool { return f.channels+f.patterns+f.shards > 0 }

// subscribing is a request that is answered by messages, one per channel.
type subscription struct {
	left int // confirmations to come; -1: one per subscription that there is when it is its turn
	of   func(*subscriber) int
}

func prepareSubscription(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) == 0 {
		s.enterPassthrough()
		return raw, nil
	}
	sub := &subscription{left: len(args) - 1, of: func(f *subscriber) int { return f.channels }}
	switch args[0][0] | ' ' {
	case 'p':
		sub.of = func(f *subscriber) int { return f.patterns }
	case 's':
		if equalFold(args[0], "ssubscribe") || equalFold(args[0], "sunsubscribe") {
			sub.of = func(f *subscriber) int { return f.shards }
		}
	}
	if sub.left == 0 {
		sub.left = -1 // or an error, for those that need a channel
	}
	s.subscriber.pendingConfirmations++
	return raw, &replyHandler{complete: true, sub: sub, answer: func(u *upstream, s *Session, reply []byte) []byte {
		// It was refused, or will be done by EXEC, whose reply is like no other then.
		s.subscriber.pendingConfirmations--
		if isQueued(reply) {
			s.passRest()
		}
		return reply
	}}
}

// receiveMessage takes what may be a reply or come in between.
func (u *upstream) receivePush(s *Session, b []byte) []byte {
	n, done, err := u.scan.Next(b)
	if err != nil {
		return u.garbled(b)
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
	case kind == isMessage && m[0] == '+':
		s.reply(u.loop.group.monitors.name(s, m))
	case kind == isMessage:
		s.reply(m)
	case kind == isConfirmation:
		s.reply(m)
		u.confirmed(s, w, m)
	case w == nil:
		s.passRest()
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
	asked := w != nil && w.handler != nil && w.handler.sub != nil
	switch {
	case m[0] == '+' && s.subscriber.monitor:
		if len(m) > 1 && m[1] >= '0' && m[1] <= '9' {
			return isMessage, true
		}
		return isReply, len(m) > 1
	case m[0] != '>' && (m[0] != '*' || s.identity.proto == 3 || !asked && !s.subscriber.subscribed()):
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
	case s.subscriber.subscribed() && bytes.HasSuffix(word, []byte("message")):
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

// confirmed counts subscriptions. The engine says how many there are: of channels and patterns together, and of shard
// channels by themselves.
func (u *upstream) confirmed(s *Session, w *pendingReply, m []byte) {
	f := &s.subscriber
	if w != nil && w.handler != nil && w.handler.sub != nil {
		sub := w.handler.sub
		if sub.left < 0 {
			sub.left = max(1, sub.of(f))
		}
		if sub.left--; sub.left == 0 {
			u.pendingReplies.pop()
			s.inFlight--
			f.pendingConfirmations--
		}
	}
	word, _ := firstWord(m)
	n := 0
	if i := bytes.LastIndexByte(m, ':'); i >= 0 {
		n = int(integer(m[i+1:]))
	}
	switch word[0] {
	case 'p':
		f.patterns = n - f.channels
	case 's':
		if bytes.HasPrefix(word, []byte("ss")) || bytes.HasPrefix(word, []byte("sun")) {
			f.shards = n
			break
		}
		fallthrough
	default:
		f.channels = n - f.patterns
	}
	s.isSubscriber.Store(f.subscribed() || f.monitor)
}

package relay

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

// A shared connection relies on one reply per request, in order. Commands whose answer may fail to come never are on one
// (package routing). This file is the net below that: where replies stop matching requests, whatever the reason, the
// connection is closed with all that wait on it, and what it said last reaches nobody. Replies are of the kinds that their
// commands have, and now and then there is a canary among them: the answer to a request that is known before.

var errMismatched = errors.New("the engine's replies no longer match the requests")

// canary is a request of which the answer is known before. It shows that replies and requests still match.
type canary struct {
	request, reply []byte
	shown          string // the request, as MONITOR shows it
}

// canaryState is where a shared connection is with its canaries.
type canaryState struct {
	sent    time.Time // when the last was
	pending bool      // it is to be answered
	denied  bool      // the user may not ask for it
}

// canaryInterval is how often it is sent over a shared connection that is in use.
const canaryInterval = 100 * time.Millisecond

// newCanary makes one that no client can know, and thus no value can be.
func newCanary() canary {
	random := make([]byte, 16)
	_, _ = rand.Read(random) // it never fails
	word := "sealane-" + hex.EncodeToString(random)
	return canary{
		request: resp.AppendCommand(nil, "ECHO", word),
		reply:   resp.Append(nil, resp.Value{Kind: resp.Bulk, Str: word}),
		shown:   `"ECHO" "` + word + `"`,
	}
}

// sendCanary puts one behind what a shared connection is about to send, if the last was some time ago.
func (u *upstream) sendCanary() {
	now := u.loop.now
	if !u.shared || !u.letsInWithoutAuth || !u.ready || u.canary.denied || u.canary.pending || now.Sub(u.canary.sent) < canaryInterval {
		return
	}
	u.canary.sent, u.canary.pending = now, true
	u.ask(u.loop.group.canary.request, onCanary)
}

// canaryIdleShared sends one over the shared connections where clients wait although nothing else is asked any more.
func (l *loop) canaryIdleShared() {
	for u := range l.upstreams {
		if u.shared && u.pendingReplies.len > 0 {
			u.flushLater() // which sends it
		}
	}
}

var onCanary = &replyHandler{complete: true, answer: func(u *upstream, _ *Session, reply []byte) []byte {
	u.canary.pending = false
	switch {
	case bytes.HasPrefix(reply, []byte("-NOPERM")):
		u.canary.denied = true // the user may not ask for it
	case reply[0] == '-': // an engine that is busy says so to everything
	case !bytes.Equal(reply, u.loop.group.canary.reply):
		u.fail(errMismatched)
	}
	return nil
}}

// isCanary says whether a reply that is not complete may be that to the canary.
func (u *upstream) isCanary(begins, goesOn []byte) bool {
	expected := u.loop.group.canary.reply
	return u.canary.pending && bytes.HasPrefix(expected, begins) && bytes.HasPrefix(expected[len(begins):], goesOn)
}

// replyFits says whether a reply that begins with b can be the answer that w waits for.
func (u *upstream) replyFits(w *pendingReply, b []byte) bool {
	if u.canary.pending && bytes.HasPrefix(b, u.loop.group.canary.reply) {
		return false // it is nobody's
	}
	return w.command == nil || w.command.Replies.Allows(b[0])
}

// A login may go unanswered also where nothing else is in flight: while the engine has messages to send, for a subscription or
// for tracking. There it is followed by a canary. If the canary's reply comes first, the login was not answered.

// sendLoginFence sends that canary.
func (s *Session) sendLoginFence() {
	s.dedicated.ask(s.loop.group.canary.request, onFence)
	s.dedicated.flushLater()
}

var onFence = &replyHandler{complete: true, answer: func(*upstream, *Session, []byte) []byte { return nil }}

var noReplyToLogin = []byte("-WRONGPASS invalid username-password pair or user is disabled.\r\n")

// loginAnswer returns what the engine says, or would have said, to a login that is no longer pending.
func (u *upstream) loginAnswer(reply []byte) []byte {
	if !bytes.Equal(reply, u.loop.group.canary.reply) && !bytes.HasPrefix(reply, []byte("-NOPERM")) {
		return reply
	}
	if w := u.pendingReplies.head(); w != nil && w.client == nil {
		u.pendingReplies.pop()
	}
	return noReplyToLogin
}

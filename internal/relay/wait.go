package relay

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"strings"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// WAIT and WAITAOF count what their connection has written. routing/wait.go says what has to go before them, so that they count what the
// client has written over others, too; this file sends it. Nothing else of the client is in flight by then, so all of that is executed.

// waitChannel is a shard channel whose name nobody can know.
type waitChannel string

const waitChannelPrefix = "sealane-wait-"

func newWaitChannel() waitChannel {
	random := make([]byte, 16)
	_, _ = rand.Read(random) // it never fails
	return waitChannel(waitChannelPrefix + hex.EncodeToString(random))
}

// showsWaitMessage says that a line of MONITOR is a message to such a channel. At a replica, the primary has sent it: whichever gateway it
// came from. +1339518083.107412 [0 127.0.0.1:6379] "SPUBLISH" "sealane-wait-…" ""
func showsWaitMessage(line []byte) bool {
	_, request, _ := bytes.Cut(line, []byte("] "))
	return bytes.HasPrefix(request, []byte(`"SPUBLISH" "`+waitChannelPrefix)) && bytes.HasSuffix(request, []byte("\" \"\"\r\n"))
}

var writesLost = []byte("-ERR the engine, or the connection to it, was lost after this client wrote: it is not known which of its writes " +
	"are still there. Read them back, or write them again, before the next WAIT\r\n")

// waitFence is what has become of the requests before WAIT.
type waitFence struct{ refusal []byte }

// prepareWait sends the fence where it is needed, and says what the client reads if WAIT's own reply would not be true. In a
// transaction WAIT doesn't wait, and is left as it is.
func prepareWait(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if s.state.Queuing {
		return raw, nil
	}
	w := &s.state.Writes
	lost, made, words, fence := w.Lost, w.Made(), texts(args), &waitFence{}
	switch {
	case lost:
		raw = nowait(words)
	case w.Elsewhere:
		fence = s.sendWaitFence()
	}
	w.Elsewhere = w.Elsewhere && lost
	return raw, &replyHandler{complete: true, answer: func(_ *upstream, s *Session, reply []byte) []byte {
		w := &s.state.Writes
		switch {
		case reply[0] == '-':
			w.Elsewhere = w.Elsewhere || fence.refusal != nil
		case lost:
			w.Lost = false
			w.Confirmed(made)
			return writesLost
		case fence.refusal != nil:
			// What the client writes from now on is counted.
			w.OwnConnection = true
			return fence.answer(words[0])
		case routing.WaitConfirms(words, reply):
			w.Confirmed(made)
		}
		return reply
	}}
}

// enginesProcess is the process to which a loop's connections to an engine lead. The zero value says that nothing is known of it.
type enginesProcess struct {
	engine string
	id     int32
}

// connectedTo notes to which process a new connection leads. Another one than before means that the engine has ended meanwhile.
func (l *loop) connectedTo(engine string, process int32) {
	if before := l.process; before.engine == engine && before.id != 0 && process != 0 && before.id != process {
		l.engineLost()
	}
	l.process = enginesProcess{engine, process}
}

// engineLost notes that what the loop's clients have written may not be there any more.
func (l *loop) engineLost() {
	for _, s := range l.sessions() {
		s.state.Writes.EngineLost()
	}
}

// connectionLost does so for those who may have written over a connection to a server that is far, which may have ended.
func (u *upstream) connectionLost() {
	switch {
	case !u.ready || !u.loop.group.backend.Load().remote():
	case u.shared:
		u.loop.engineLost()
	case u.client != nil:
		u.client.state.Writes.EngineLost()
	}
}

// nowait is the same request, but it returns at once, if it has the right form.
func nowait(words []string) []byte {
	for i := 1; i < len(words)-1 && integer([]byte(words[i])) > 0; i++ {
		words[i] = "0"
	}
	return resp.AppendCommand(nil, words...)
}

// sendWaitFence asks what has to be executed before WAIT, over the session's dedicated connection.
func (s *Session) sendWaitFence() *waitFence {
	f := &waitFence{}
	g := s.loop.group
	for _, request := range s.input.cmd.WaitFence(string(g.waitChannel), g.backend.Load().remote()) {
		s.dedicated.ask(resp.AppendCommand(nil, request...), &replyHandler{complete: true, answer: func(_ *upstream, _ *Session, reply []byte) []byte {
			if refusal := routing.FenceRefusal(request, reply); refusal != nil {
				f.refusal = bytes.Clone(refusal)
			}
			return nil
		}})
	}
	return f
}

// answer is what the client reads when the fence did not work.
func (f *waitFence) answer(command string) []byte {
	return []byte("-ERR " + strings.ToUpper(command) + " can't count what this client wrote over a shared connection (" +
		strings.Map(printable, string(f.refusal)) + "). The client has a connection of its own from now on: write again, then " +
		strings.ToUpper(command) + "\r\n")
}

// printable leaves out what would end an error.
func printable(r rune) rune {
	if r < ' ' {
		return -1
	}
	return r
}

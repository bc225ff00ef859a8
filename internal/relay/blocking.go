package relay

import (
	"bytes"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// blockedRequests are a client's requests from one on that waits at the engine (BLPOP and the like). The engine executes none that
// come behind it before it is answered. So all of them can be asked again elsewhere, as long as the first still waits.
type blockedRequests struct {
	all  []sentRequest
	size int
	lost bool // not all of it is here
}

// sentRequest is a request as the client has made it.
type sentRequest struct {
	raw     []byte
	command *routing.Command
	count   int   // how many it is to the engine
	at      int64 // Unix nanoseconds
	wanted  bool  // the client wants the reply
}

// noteBlocked is called before a request is sent, for one that may wait and for those behind it.
func (s *Session) noteBlocked(c *routing.Command, raw []byte, count int, wanted bool) {
	s.forgetAnswered()
	b := s.blocked
	if b == nil {
		if !c.Waits() || s.state.Queuing {
			return
		}
		b = &blockedRequests{}
		s.blocked = b
	}
	if b.size += len(raw); b.size > maxRetryBuffer || s.input.passingHead {
		b.lost, b.all = true, nil
	}
	if !b.lost {
		b.all = append(b.all, sentRequest{bytes.Clone(raw), c, count, s.loop.now.UnixNano(), wanted})
	}
}

// forgetAnswered forgets requests that were all answered. It is called before anything else is in flight, which is not among them.
func (s *Session) forgetAnswered() {
	if s.state.InFlight() == 0 {
		s.blocked = nil
	}
}

// unanswered returns the requests that are in flight; nil where these are not all known.
func (b *blockedRequests) unanswered(inFlight int) []sentRequest {
	if b == nil || b.lost {
		return nil
	}
	for i := len(b.all) - 1; i >= 0 && inFlight > 0; i-- {
		if inFlight -= b.all[i].count; inFlight == 0 {
			return b.all[i:]
		}
	}
	return nil
}

// waitsInEngine says that all that the client has in flight is a request that waits at the engine, and others behind it. Whether
// the engine has got as far as that is for the caller to make sure.
func (s *Session) waitsInEngine() bool {
	all := s.blocked.unanswered(s.state.InFlight())
	return len(all) > 0 && all[0].command.Waits()
}

// askBlockedAgain puts the requests that waited before all else that the client has said.
func (s *Session) askBlockedAgain() {
	var again []byte
	for i, r := range s.blocked.unanswered(s.state.InFlight()) {
		if i > 0 {
			again = append(again, r.raw...)
			continue
		}
		s.state.SkipReply = !r.wanted && !s.state.RepliesOff
		words := r.command.AfterWaiting(texts(resp.Arguments(nil, r.raw)), s.loop.now.UnixNano()-r.at)
		again = resp.AppendCommand(again, words...)
	}
	s.blocked = nil
	s.askAgain(again)
}

// taken says that the engine has read all that was sent to it.
func (u *upstream) taken() bool {
	if u.Pending() > 0 {
		return false
	}
	unread, err := unix.IoctlGetInt(u.FD(), unix.SIOCOUTQ)
	return err != nil || unread == 0
}

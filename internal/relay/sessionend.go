package relay

import (
	"errors"
	"io"
	"time"
)

// A session ends in one of two ways. Either the client has said all: its replies are waited for, and then the connection is closed.
// Or the engine has said all: its last words are sent, the client's direction is read and thrown away for a while, since closing
// a socket with unread input sends a reset, which can destroy those words on their way, and then the connection is closed. All
// ends come to close, with a reason.

// clientEnded is called when the client has said all, or its connection broke.
func (s *Session) clientEnded(err error) {
	s.conn.eof = true
	if errors.Is(err, io.EOF) {
		s.setReason(ClientClosed, nil)
		return
	}
	s.close(ClientFailed, err)
}

// endAfterEngine passes the engine's end on. What the client sends from now on is thrown away.
func (s *Session) endAfterEngine() {
	if s.phase >= engineGone {
		return
	}
	s.phase = engineGone
	s.changed()
	s.dropDedicated()
	s.input.discard()
	s.conn.CloseWrite()
	if s.conn.eof && s.conn.TLS == nil {
		s.conn.OmitFIN() // its close follows at once, and says the same
	}
	s.startLinger()
	s.conn.requeue()
	if s.flush() != nil {
		s.close(ClientFailed, s.conn.WriteErr())
	}
}

// maybeClose gives up what the session no longer needs, and closes it when both directions are done.
func (s *Session) maybeClose() {
	if s.phase == closed {
		return
	}
	if len(s.wanted) > 0 {
		s.holdDedicated()
	}
	s.releaseDedicated(true)
	left := s.conn.Pending()
	waits := s.input.waits()
	if busy := s.phase < engineGone && (s.state.InFlight() > 0 || s.lastWasRequest || waits || s.midRequest() || len(s.input.opening) > 0) || left > 0; busy != s.busy {
		s.busy = busy
		s.activity.busy.Store(busy)
	}
	if s.retire && !s.busy && s.mayRetire() {
		s.quit(Retired)
	}
	if s.phase < engineGone && !waits && (s.conn.eof || s.phase == closeAfterReply) {
		switch {
		case s.dedicated != nil:
			if s.dedicated.CloseWrite(); s.dedicated.ready {
				s.dedicated.Flush()
			}
		case s.state.InFlight() == 0:
			s.endAfterEngine()
		}
	}
	if s.phase == engineGone && s.conn.Pending() == 0 && s.conn.eof && s.conn.WriteClosed() {
		s.close(Cut, nil) // the reason is known already
	}
}

// startLinger begins to measure how long the client takes over the last words of an engine that is gone.
func (s *Session) startLinger() {
	s.loop.lingering[s] = struct{}{}
	s.linger.progress, s.linger.unsent = s.loop.now, s.conn.Pending()
}

// tick looks at a session whose engine is gone.
func (s *Session) tick(now time.Time) {
	left := s.conn.Pending()
	waited := now.Sub(s.linger.progress)
	switch {
	case left == 0 && s.phase < engineGone:
		delete(s.loop.lingering, s) // there is more to be read from the engine
	case left != s.linger.unsent:
		s.linger.unsent, s.linger.progress = left, now
	case left > 0 && waited >= s.cfg.StallTime, left == 0 && waited >= s.cfg.LingerTime:
		s.close(Cut, nil)
	}
}

// discard counts what a client still says to an engine that is gone.
func (s *Session) discard(n int) {
	if s.linger.discarded += int64(n); s.linger.discarded > s.cfg.LingerBytes {
		s.close(Cut, nil)
	}
}

// mayRetire says that a client with no request under way loses nothing but its connection: it is in no transaction, and has been told the
// whole of each message that it was sent.
func (s *Session) mayRetire() bool {
	return !s.state.Multi && !s.state.Queuing && (s.dedicated == nil || !s.dedicated.isMidReply(s))
}

// quit ends the session once the replies under way are there.
func (s *Session) quit(r Reason) {
	s.setReason(r, nil)
	s.phase = max(s.phase, closeAfterReply)
}

// closeNotify closes the session at once, and tells the client by TLS's close_notify that nothing is missing, if it can be told
// without waiting.
func (s *Session) closeNotify(r Reason) {
	if s.phase != closed && s.conn.TLS != nil && s.conn.Pending() == 0 {
		s.conn.TLS.CloseWrite()
		s.conn.Flush()
	}
	s.close(r, nil)
}

// end implements owner.
func (s *Session) end() { s.close(Cut, nil) }

// setReason notes why the session ends; what comes first counts.
func (s *Session) setReason(r Reason, err error) {
	if s.result.Ended == "" {
		s.result.Ended, s.result.Err = r, err
	}
}

// close ends the session at once. Every end comes to this.
func (s *Session) close(r Reason, err error) {
	if s.phase == closed {
		return
	}
	s.phase = closed
	s.changed()
	s.setReason(r, err)
	if !s.conn.closed && s.conn.Pending() > 0 {
		s.conn.Flush() // crypto/tls has said what it thinks of a broken record
	}
	s.dropDedicated()
	s.conn.close()
	s.input.discard()
	s.retry = retryBuffer{}
	delete(s.loop.lingering, s)
	s.finish()
}

// finish tells everybody who wants to know.
func (s *Session) finish() {
	s.phase = closed
	s.loop.group.clients.remove(s)
	if s.state.Subscriber.Monitor {
		s.loop.group.monitors.Remove(s.id)
	}
	s.dedicatedIDKnown()
	s.result.Client = s.Client()
	if s.cfg.Ended != nil {
		s.cfg.Ended(s.result)
	}
	close(s.done)
}

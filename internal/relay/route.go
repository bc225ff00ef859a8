package relay

import (
	"github.com/sealane/sealane/internal/routing"
)

// What is to become of a request is decided by package routing. This file tells it what there is, and does what it says.

// route sends a request where it belongs. It returns false when it has to wait; whatever ends the wait comes back to
// resume.
func (s *Session) route(raw []byte) bool {
	in, b := &s.input, s.loop.group.backend.Load()
	if s.loop.held && !s.mayFinish() || s.change != nil || s.suspectsDeath {
		return false
	}
	if len(b.Passwords) > 0 && !s.state.Passthrough {
		forward, decided := s.checkLogin(b, raw)
		if forward == nil {
			return decided
		}
		raw = forward
	}
	if !s.state.Passthrough {
		if s.blockUntilCommands(b) {
			return false
		}
		if in.cmd == routing.Unknown && !in.passingHead {
			in.cmd = s.lookup(raw) // the engine's commands may be known by now
		}
	}
	r := s.request()
	if s.dedicated != nil && !s.state.Passthrough {
		s.releaseDedicated(routing.MayShare(&s.state, r, s.env(b, r, nil)))
	}
	d := routing.Route(&s.state, r, s.env(b, r, raw))
	if d.Action == routing.Acquire {
		s.acquireDedicated(r.Command, b, d.Pin, raw)
		if s.phase >= engineGone {
			return true // there is no engine any more
		}
		d = routing.Route(&s.state, r, s.env(b, r, raw))
	}
	switch d.Action {
	case routing.Ignore:
	case routing.Pass:
		s.passBytes(raw)
	case routing.AnswerLocally:
		return s.answerLocally(r.Command, raw)
	case routing.SendShared:
		return s.sendShared(b, r.Command, raw)
	case routing.SendDedicated:
		if blockUntil := handlerOf(r.Command).blockUntil; blockUntil != nil && blockUntil(s, s.arguments(raw)) {
			return false
		}
		s.sendDedicated(b, r.Command, raw)
	default:
		return false
	}
	return true
}

// request is what the client asks.
func (s *Session) request() routing.Request {
	return routing.Request{Command: s.input.cmd, HeadOnly: s.input.passingHead, TooLong: s.input.scan.Size() > maxBuffered}
}

// env is what there is around the session. raw is the request, where the size of its reply matters.
func (s *Session) env(b *Backend, r routing.Request, raw []byte) routing.Env {
	env := routing.Env{
		Multiplexed: b.Multiplexed, Paused: s.loop.group.paused(s.loop.now), SlowReader: s.isSlowReader(), Dedicated: s.connState(b),
	}
	if raw != nil && env.Multiplexed && s.dedicated == nil && r.Command.Affinity == routing.Shareable && !r.HeadOnly && !r.TooLong {
		env.ReplySizeUnknown = s.replySizeUnknown(r.Command) || s.isBigKey(raw)
	}
	return env
}

// connState describes the dedicated connection.
func (s *Session) connState(b *Backend) routing.Conn {
	u := s.dedicated
	if u == nil {
		return routing.Conn{}
	}
	unsent := u.Pending() > 0
	return routing.Conn{
		Exists: true, Ready: u.ready, Idle: u.pendingReplies.len == 0 && !unsent, Draining: u.draining, Ended: u.eof || u.closed,
		Closing: u.WriteClosing(), Current: u.key.engine == b.Engine, Unsent: unsent,
	}
}

// isClean says whether the session has left nothing on its dedicated connection, so that it could do without.
func (s *Session) isClean() bool {
	return s.state.Clean(routing.Conn{Exists: true, Closing: s.dedicated.WriteClosing()})
}

// sendShared sends a request over the connection that all clients of the key share.
func (s *Session) sendShared(b *Backend, c *routing.Command, raw []byte) bool {
	s.state.SendingShared()
	if c == routing.Empty {
		return true // the engine says nothing to it
	}
	u := s.loop.sharedConn(s, c)
	inFlight := s.state.InFlight()
	s.retry.begin(inFlight)
	switch {
	case u.closed:
		s.replyUnavailable(u.dialErr)
		return true
	case inFlight > 0 && s.inFlightOn != u || inFlight >= s.window() || s.retry.full(len(raw)):
		return false
	case !u.ready || u.Pending() >= highWater:
		u.block(s)
		return false
	case u.needsAuth || !u.letsInWithoutAuth && s.exceedsUnauthenticatedLimits():
		return s.sendUnauthenticated(u, b, c, raw)
	}
	if s.inFlightOn = u; !c.AnyDB {
		s.shared = u
	}
	s.retry.unsafe = s.retry.unsafe || !c.RetrySafe || c.Handled
	s.retry.add(raw)
	s.state.Writes.Sending(c, false)
	if !s.refused(u, b, c, raw) {
		s.send(u, b, c, raw)
	}
	return true
}

// sendUnauthenticated sends a request that a shared connection can't carry as long as nobody is logged in there.
func (s *Session) sendUnauthenticated(u *upstream, b *Backend, c *routing.Command, raw []byte) bool {
	if s.state.InFlight() > 0 {
		return false
	}
	if u.needsAuth {
		s.countPin(routing.PinIdentity)
	} else {
		s.countPin(routing.PinLarge)
	}
	s.loop.acquire(u.key, s)
	switch {
	case s.phase >= engineGone:
		return true // there is no engine any more
	case s.dedicated.ready:
		s.sendDedicated(b, c, raw)
		return true
	}
	return false
}

// sendDedicated sends a request over the session's dedicated connection.
func (s *Session) sendDedicated(b *Backend, c *routing.Command, raw []byte) {
	switch {
	case c == routing.Empty:
		s.state.SkipReply = false // it counts as a request
		s.flight.Trail()
		s.passBytes(raw)
		return
	case s.refused(s.dedicated, b, c, raw):
		return
	case c.Affinity == routing.PassesThrough, c.SetsReplyMode() && s.state.Multi && c != routing.ReplyOn:
		s.passBytes(raw)
		s.state.EnterPassthrough()
		s.input.passingHead = false
		return
	case c.ResetBeforeReuse:
		s.dedicated.needsReset = true
	case c.Affinity == routing.Resets && b.Login != nil:
		// The engine forgets who logged the connection in: the client goes on with another one.
		s.dedicated.draining, s.state.Resetting = true, true
	}
	s.state.Writes.Sending(c, true)
	s.state.SendingDedicated(c, s.isBorrowed(s.dedicated) || c.SetsReplyMode())
	login := c.Unpipelined && c.Affinity == routing.ChangesIdentity && (s.state.Subscriber.On() || s.state.Dirt != routing.NotDirty) && !s.state.Multi
	s.send(s.dedicated, b, c, raw)
	if login {
		s.sendLoginFence()
	}
}

// send puts a request, or its head, into an engine connection, and the session into the queue of those that wait for a reply.
func (s *Session) send(u *upstream, b *Backend, c *routing.Command, raw []byte) {
	h := handlerOf(c)
	out, onReply := raw, h.onReply
	if h.onRequest != nil && !s.input.passingHead {
		out, onReply = h.onRequest(s, raw, s.arguments(raw))
	}
	if onReply == nil && s.exceedsUnauthenticatedLimits() {
		onReply = onProtocolError
	}
	queuing := s.state.Queuing
	onReply = s.followTransaction(c, onReply, raw)
	if m := &s.loop.group.monitors; m.Any() && !s.input.passingHead {
		refused := m.Sent(s.cfg.Remote, s.arguments(raw), raw, out)
		if onReply == nil {
			onReply = onLine(func(_ *Session, reply []byte) {
				if reply != nil && reply[0] == '-' {
					refused()
				}
			})
		}
	}
	wanted := !s.state.Muted()
	if !wanted {
		onReply = mute(c, onReply)
		s.state.SkipReply = false
	}
	n := onReply.requests()
	if s.blocked != nil || c.Waits() {
		s.noteBlocked(c, raw, n, wanted)
	}
	if b.Standby {
		s.noteSent(raw, out, n, queuing)
	}
	s.state.Sent(n)
	u.pendingReplies.push(pendingReply{client: s, count: n, handler: onReply, command: c, sent: s.loop.now.UnixNano()})
	s.countSent(u, c, 1, len(raw))
	s.queueWrite(u, out)
}

// queueWrite gives an engine connection what it is to send: a dedicated one at once, a shared one at the end of the round.
func (s *Session) queueWrite(u *upstream, b []byte) {
	if u.shared {
		_, _ = u.Write(b)
		u.flushLater()
	} else if u.Send(b) != nil {
		u.requeue()
	}
}

// passBytes passes bytes on that are part of something.
func (s *Session) passBytes(b []byte) {
	s.countBytes(len(b))
	if s.dedicated == nil || s.dedicated.closed {
		return
	}
	if s.dedicated.Send(b) != nil {
		s.dedicated.requeue()
	}
}

// enterPassthrough makes the session pass bytes both ways without a look at them: they can't be told apart any more. What is
// here of a request that is not complete goes first; one that is blocked goes when its turn comes.
func (s *Session) enterPassthrough() {
	if s.state.RepliesOff {
		s.quit(Cut) // the engine answers, and the client would get what it does not want
		return
	}
	s.state.EnterPassthrough()
	s.input.passingHead = false
	if in := &s.input; len(in.buffer) > 0 && !in.blocked {
		s.passBytes(in.buffer)
		in.buffer = nil
	}
}

// countSent counts requests.
func (s *Session) countSent(u *upstream, last *routing.Command, n uint64, bytes int) {
	if s.activity.lastCommand.Load() != last {
		s.activity.lastCommand.Store(last)
	}
	s.activity.commands.Add(n)
	s.loop.counts.command(u.shared, n)
	if !u.shared && s.state.DedicatedLeft > 0 {
		s.state.DedicatedLeft = max(0, s.state.DedicatedLeft-int(n))
	}
	s.countBytes(bytes)
}

func (s *Session) countBytes(n int) {
	s.result.In += uint64(n)
	s.loop.counts.in.Add(uint64(n))
}

// countPin notes why the session gets a dedicated connection.
func (s *Session) countPin(p routing.Pin) { s.loop.counts.pin(p) }

// answerLocally answers what needs no engine: RESET and QUIT of a client that has nothing there.
func (s *Session) answerLocally(c *routing.Command, raw []byte) bool {
	if c.Affinity == routing.Resets {
		return s.resetLocally(raw)
	}
	s.activity.lastCommand.Store(c)
	s.reply([]byte("+OK\r\n"))
	s.quit(ClientClosed)
	s.markDirty()
	return true
}

// resetLocally answers RESET of a client that has nothing at the engine.
func (s *Session) resetLocally(raw []byte) bool {
	if s.input.scan.Args() != 1 {
		return s.sendShared(s.loop.group.backend.Load(), &routing.Command{Name: s.input.cmd.Name}, raw) // a wrong number of arguments
	}
	s.activity.lastCommand.Store(s.input.cmd)
	s.activity.commands.Add(1)
	s.logOut()
	s.setIdentity(s.login.AfterReset())
	s.reply([]byte("+RESET\r\n"))
	return true
}

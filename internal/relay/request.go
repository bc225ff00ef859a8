package relay

import (
	"bytes"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

const (
	// maxBuffered is how long a request may be that is looked at as a whole, or that shares a connection. A longer one is
	// passed on as it comes, on a connection where nobody waits for its end.
	maxBuffered = 64 << 10
)

// input is where a session is in what its client says.
type input struct {
	scan        resp.CommandScanner
	cmd         *routing.Command // of the request under way
	opening     []byte           // what Config.Opening has not decided about
	buffer      []byte           // of the request under way, as far as it is here
	blocked     bool             // buffer has to wait for something
	passingHead bool             // and is the head of a large request, whose rest is passed on as it comes
	// discardingRest: its head was refused, so the rest goes nowhere
	discardingRest bool
	skipping       *resp.CommandScanner // the rest of a request that comes next is for nobody; nil: there is none
	backlog        []byte               // what came behind a blocked request
	replay         []byte               // what is taken before anything else of the client's: requests to be asked again
}

// waits says that the client has said something that can't be sent yet.
func (in *input) waits() bool { return in.blocked || len(in.replay) > 0 }

// discard throws away what was not sent.
func (in *input) discard() { in.blocked, in.buffer, in.backlog, in.replay = false, nil, nil, nil }

// skipRest makes the rest of the request under way be thrown away when it comes.
func (in *input) skipRest() {
	scan := in.scan
	in.skipping, in.scan, in.discardingRest = &scan, resp.CommandScanner{}, false
}

// skip throws away what is for nobody of what the client has said.
func (in *input) skip(b []byte) []byte {
	if in.skipping == nil {
		return b
	}
	n, done, err := in.skipping.Next(b)
	if done || err != nil {
		in.skipping = nil
	}
	return b[n:]
}

// midRequest says that the client is in the middle of a request.
func (s *Session) midRequest() bool {
	return s.state.PassingRest || len(s.input.buffer) > 0 && !s.input.blocked
}

// parse cuts what the client said into requests.
func (s *Session) parse(b []byte) {
	if s.cfg.Opening != nil {
		b = s.open(b)
	}
	in := &s.input
	var run batch
	for len(b) > 0 && s.phase != closed {
		switch {
		case s.phase >= closeAfterReply:
			s.discard(len(b))
			return
		case in.blocked:
			in.backlog = append(in.backlog, b...)
			return
		case s.state.Passthrough:
			s.lastWasRequest = true
			s.passBytes(b)
			return
		}
		n, done, err := in.scan.Next(b)
		if done && err == nil && s.appendToBatch(&run, b[:n]) {
			b = b[n:]
			continue
		}
		s.sendBatch(&run)
		switch {
		case s.state.PassingRest && err == nil:
			if !in.discardingRest {
				s.passBytes(b[:n])
			}
			if s.state.PassingRest = !done; done {
				s.noteLargeRequest(in.scan.Size())
			}
		case s.state.PassingRest:
			s.enterPassthrough()
			n = 0
		case err != nil:
			n = len(b)
			s.submit(routing.ProtocolError, b)
		case done:
			s.submit(nil, b[:n])
		default:
			s.headArrived(b[:n])
		}
		b = b[n:]
	}
	s.sendBatch(&run)
}

// open returns what the client has said so far, once it is known to be one to serve.
func (s *Session) open(b []byte) []byte {
	if len(s.input.opening) > 0 {
		b = append(s.input.opening, b...)
	}
	answer, decided := s.cfg.Opening(b)
	if !decided {
		s.input.opening = append(s.input.opening[:0:0], b...)
		return nil
	}
	s.input.opening, s.cfg.Opening = nil, nil
	if answer == nil {
		return b
	}
	s.setReason(Misdirected, nil)
	s.reply(answer)
	s.endAfterEngine()
	return nil
}

// headArrived deals with a request that is not complete.
func (s *Session) headArrived(b []byte) {
	in := &s.input
	if s.mustLogIn(s.loop.group.backend.Load()) && s.refuseTooLarge() {
		return
	}
	if s.exceedsUnauthenticatedLimits() {
		s.passHead(routing.Large, b)
		return
	}
	if in.scan.Named() {
		c := s.loop.find(in.scan.Name(), in.scan.Second())
		switch tooLong := in.scan.Size() > maxBuffered || in.scan.Longest() > maxBuffered; {
		case tooLong && c.Handled:
			s.passHead(routing.Unknown, b)
			return
		case tooLong && c.Affinity == routing.Shareable:
			s.passHead(routing.Large, b)
			return
		case tooLong, s.dedicated != nil && !s.isClean() && handlerOf(c).onRequest == nil && !routing.IsContainer(in.scan.Name()):
			s.passHead(c, b)
			return
		}
	} else if in.scan.Size() > maxBuffered {
		s.passHead(routing.Unknown, b)
		return
	}
	in.buffer = append(in.buffer, b...)
}

// exceedsUnauthenticatedLimits says that the engine may call the request an error before it is complete: who has not logged in
// may send no more than this. It would end the connection.
func (s *Session) exceedsUnauthenticatedLimits() bool {
	scan := &s.input.scan
	return s.login.User == "" && !s.loop.letsInWithoutAuth && routing.UnauthenticatedTooLarge(scan.Longest(), scan.Args()) != nil
}

// passHead passes on the head of a large request; the rest follows as it comes.
func (s *Session) passHead(c *routing.Command, b []byte) {
	in := &s.input
	in.passingHead, in.discardingRest = true, false
	if in.scan.Longest() > maxSharedReply {
		head := append(in.buffer[:len(in.buffer):len(in.buffer)], b...)
		s.loop.group.bigKeys.note(resp.Arguments(nil, head), s.loop.now)
	}
	s.submit(c, b)
}

// submit has a request, all of it or its head, that ends with b. c is nil where the command has yet to be looked up.
func (s *Session) submit(c *routing.Command, b []byte) {
	in := &s.input
	raw := b
	if len(in.buffer) > 0 {
		in.buffer = append(in.buffer, b...)
		raw = in.buffer
	}
	if c == nil {
		c = s.lookup(raw)
	}
	in.cmd = c
	if s.route(raw) {
		s.sent()
		return
	}
	if len(in.buffer) == 0 {
		in.buffer = append(in.buffer, b...)
	}
	in.blocked = true
}

// sent is called when the request under way needs nothing more.
func (s *Session) sent() {
	in := &s.input
	in.buffer, in.blocked, s.blockedOn = nil, false, nil
	s.state.PassingRest, in.passingHead = in.passingHead, false
}

// resume goes on with what had to wait.
func (s *Session) resume() {
	if s.retry.blocked {
		return
	}
	in := &s.input
	if replay := in.replay; len(replay) > 0 {
		in.replay = nil
		s.parse(replay)
	}
	for in.blocked && s.phase < engineGone {
		if !s.route(in.buffer) {
			return
		}
		s.sent()
		backlog := in.backlog
		in.backlog = nil
		s.parse(backlog)
	}
}

// answerBlocked answers the request that waits to be sent, which then goes nowhere.
func (s *Session) answerBlocked(reply []byte) {
	in := &s.input
	if s.phase >= engineGone || !in.blocked {
		return
	}
	in.replay, in.backlog = in.backlog, nil
	s.sent()
	s.reply(reply)
	s.conn.requeue()
}

// lookup says what command a whole request is.
func (s *Session) lookup(raw []byte) *routing.Command {
	scan := &s.input.scan
	if scan.Args() == 0 {
		return routing.Empty
	}
	c := (*routing.Command)(nil)
	if scan.Size() == len(s.loop.group.outcomeUnknown) && bytes.Equal(raw, s.loop.group.outcomeUnknown) {
		return routing.OutcomeUnknown
	}
	if scan.Inline() {
		args := s.arguments(raw)
		if len(args) == 0 {
			return routing.Unparsed
		}
		var second []byte
		if len(args) > 1 {
			second = bytes.ToLower(args[1])
		}
		c = s.loop.find(bytes.ToLower(args[0]), second)
	} else {
		c = s.loop.find(scan.Name(), scan.Second())
	}
	if c.HasVariants() {
		return c.With(s.arguments(raw))
	}
	return c
}

// arguments are valid until the next request is looked at.
func (s *Session) arguments(raw []byte) [][]byte {
	s.loop.args = resp.Arguments(s.loop.args[:0], raw)
	return s.loop.args
}

// batch are whole requests, one behind the other, that go the same way without any ado: they are sent in one piece.
type batch struct {
	to       *upstream
	bytes    []byte
	n        uint64
	readOnly bool // nothing that may write is one of them
	standby  bool // they are kept until they are answered
}

// appendToBatch adds a request to a batch, if it is one for it.
func (s *Session) appendToBatch(run *batch, raw []byte) bool {
	scan := &s.input.scan
	if len(s.input.buffer) > 0 || s.state.PassingRest || scan.Inline() || scan.Args() == 0 || scan.Size() > maxBuffered {
		return false
	}
	if run.to == nil {
		b := s.loop.group.backend.Load()
		if run.to = s.batchConn(b); run.to == nil {
			return false
		}
		run.readOnly, run.standby = b.ReadOnly, b.Standby
		run.bytes = raw[:0]
	}
	c := s.input.cmd
	if name := scan.Name(); c == nil || string(name) != c.Name || routing.IsContainer(name) {
		c = s.loop.find(name, scan.Second())
	}
	shared := run.to.shared
	if !c.Plain(shared) || run.readOnly && c.MayWrite() || s.exceedsUnauthenticatedLimits() || shared && !s.fitsWindow(c, raw, len(run.bytes)) {
		return false
	}
	s.input.cmd = c
	s.state.Writes.Sending(c, !shared)
	if run.standby {
		s.flight.Add(raw, s.state.InFlight())
	}
	s.state.Sent(1)
	run.to.pendingReplies.push(pendingReply{client: s, count: 1, command: c, sent: s.loop.now.UnixNano()})
	run.n++
	run.bytes = run.bytes[:len(run.bytes)+len(raw)] // they lie one behind the other
	return true
}

// batchConn is the connection for requests that need no closer look; nil when all do.
func (s *Session) batchConn(b *Backend) *upstream {
	g := s.loop.group
	if s.blocked != nil {
		s.forgetAnswered()
	}
	switch u := s.dedicated; {
	case s.state.Queuing || s.state.Unpipelined() || s.suspectsDeath || g.monitors.Any() || g.outOfMemory.Load() || s.loop.held || s.mustLogIn(b) || s.state.Muted() ||
		s.blocked != nil:
		return nil
	case u != nil:
		if !u.ready || u.closed || u.draining || b.Multiplexed && s.isClean() && s.state.DedicatedLeft == 0 {
			return nil
		}
		return u
	case !b.Multiplexed || s.state.DedicatedLeft > 0 || s.isSlowReader() || g.paused(s.loop.now):
		return nil
	}
	u := s.shared
	if u == nil || u.closed || u.draining || u.key.engine != b.Engine || !u.ready || u.Pending() >= highWater ||
		s.state.InFlight() > 0 && s.inFlightOn != u {
		return nil
	}
	s.inFlightOn = u
	s.retry.begin(s.state.InFlight())
	return u
}

// sendBatch sends what has been collected.
func (s *Session) sendBatch(run *batch) {
	if run.n > 0 {
		s.countSent(run.to, s.input.cmd, run.n, len(run.bytes))
		if run.to.shared {
			s.retry.add(run.bytes)
		}
		s.queueWrite(run.to, run.bytes)
	}
	*run = batch{}
}

package relay

import (
	"bytes"

	"github.com/sealane/sealane/internal/resp"
)

const (
	// maxHeld is how long a request may be that is looked at as a whole, or that shares a connection. A longer one is
	// passed on as it comes, on a connection where nobody waits for its end.
	maxHeld = 64 << 10
	// maxInflight is how many requests a client may have on a shared connection. It waits then: a long pipeline must not
	// keep the others from their turn.
	maxInflight = 1024
	// Who has not logged in may send no more than this (the servers' limits); more would end the connection.
	maxUnauthenticated     = 16384
	maxUnauthenticatedArgs = 10
)

// take cuts what the client said into requests.
func (s *Session) take(b []byte) {
	if s.cfg.Opening != nil {
		b = s.opened(b)
	}
	var r run
	for len(b) > 0 && !s.over {
		switch {
		case s.gone || s.quitting:
			s.discard(len(b))
			return
		case s.whole:
			s.rest = append(s.rest, b...)
			return
		case s.blind:
			s.asked = true
			s.toOwn(b)
			return
		}
		n, done, err := s.scan.Next(b)
		if done && err == nil && s.joins(&r, b[:n]) {
			b = b[n:]
			continue
		}
		s.sendRun(&r)
		switch {
		case s.streaming && err == nil:
			s.toOwn(b[:n])
			if s.streaming = !done; done {
				s.loggedRequest(s.scan.Size())
			}
		case s.streaming:
			s.goBlind()
			n = 0
		case err != nil:
			n = len(b)
			s.submit(protocol, b)
		case done:
			s.submit(nil, b[:n])
		default:
			s.begun(b[:n])
		}
		b = b[n:]
	}
	s.sendRun(&r)
}

// opened returns what the client has said so far, once it is known to be one to serve.
func (s *Session) opened(b []byte) []byte {
	if len(s.opening) > 0 {
		b = append(s.opening, b...)
	}
	answer, decided := s.cfg.Opening(b)
	if !decided {
		s.opening = append(s.opening[:0:0], b...)
		return nil
	}
	s.opening, s.cfg.Opening = nil, nil
	if answer == nil {
		return b
	}
	s.why(Misdirected, nil)
	s.reply(answer)
	s.sayGoodbye()
	return nil
}

// run are whole requests, one behind the other, that go the same way without any ado: they are sent in one piece.
type run struct {
	u     *upstream
	bytes []byte
	n     uint64
}

// joins adds a request to a run, if it is one for it.
func (s *Session) joins(r *run, raw []byte) bool {
	if len(s.part) > 0 || s.streaming || s.scan.Inline() || s.scan.Args() == 0 || s.scan.Size() > maxHeld {
		return false
	}
	if r.u == nil {
		if r.u = s.runsOn(); r.u == nil {
			return false
		}
		r.bytes = raw[:0]
	}
	c := s.cmd
	if name := s.scan.Name(); c == nil || string(name) != c.name || isContainer(name) {
		c = s.loop.find(name, s.scan.Second())
	}
	if c.prepare != nil || c.ask != nil || c.place != onShared && (r.u.shared || c.place != onOwn) || c.alone || c.anyDB || c.mayBlock ||
		c.cleans || s.mayBeRefused() || r.u.shared && !s.fitsShared(c, raw, len(r.bytes)) {
		return false
	}
	s.cmd = c
	s.inflight++
	r.u.queue.push(waiter{s: s, n: 1, of: c, sent: s.loop.now.UnixNano()})
	r.n++
	r.bytes = r.bytes[:len(r.bytes)+len(raw)] // they lie one behind the other
	return true
}

// fitsShared says whether one more request may go over the shared connection now, and notes what it may leave in flight.
func (s *Session) fitsShared(c *command, raw []byte, before int) bool {
	if s.inflight >= s.window() || s.resend.full(before+len(raw)) || s.needsTrial(c) || s.isLargeKey(raw) {
		return false
	}
	s.resend.never = s.resend.never || !c.readOnly
	return true
}

// isLargeKey says whether a request is about a key that had a long value lately.
func (s *Session) isLargeKey(raw []byte) bool {
	l := &s.loop.group.largeKeys
	return !l.empty(s.loop.now) && l.has(s.arguments(raw), s.loop.now)
}

// runsOn is the connection for requests that need no closer look; nil when all do.
func (s *Session) runsOn() *upstream {
	g, b := s.loop.group, s.loop.group.backend.Load()
	switch {
	case s.queuing || s.alone || g.monitors.any.Load():
		return nil
	case s.own != nil:
		if !s.own.ready || s.own.closed || s.own.retired || b.Multiplexed && s.canShare() && s.large == 0 {
			return nil
		}
		return s.own
	case !b.Multiplexed || s.large > 0 || s.lags() || g.paused(s.loop.now):
		return nil
	}
	u := s.home
	if u == nil || u.closed || u.retired || u.key.engine != b.Engine || !u.ready || u.pending() >= highWater || s.inflight > 0 && s.on != u {
		return nil
	}
	s.on = u
	s.resend.begin(s.inflight)
	return u
}

// sendRun sends what has been collected.
func (s *Session) sendRun(r *run) {
	if r.n > 0 {
		s.passed(r.u, s.cmd, r.n, len(r.bytes))
		if r.u.shared {
			s.resend.add(r.bytes)
		}
		s.put(r.u, r.bytes)
	}
	*r = run{}
}

// passed counts requests.
func (s *Session) passed(u *upstream, last *command, n uint64, bytes int) {
	if s.last.Load() != last {
		s.last.Store(last)
	}
	s.commands.Add(n)
	s.loop.counts.command(u.shared, n)
	if !u.shared && s.large > 0 {
		s.large = max(0, s.large-int(n))
	}
	s.count(bytes)
}

// put gives an engine connection what it is to send: its own at once, a shared one at the end of the round.
func (s *Session) put(u *upstream, b []byte) {
	if u.shared {
		_, _ = u.Write(b)
		u.later()
	} else if u.send(b) != nil {
		s.loop.again(&u.socket)
	}
}

// begun deals with a request that is not complete.
func (s *Session) begun(b []byte) {
	if s.mayBeRefused() {
		s.stream(large, b)
		return
	}
	if s.scan.Named() {
		c := s.loop.find(s.scan.Name(), s.scan.Second())
		switch tooLong := s.scan.Size() > maxHeld || s.scan.Longest() > maxHeld; {
		case tooLong && (c.prepare != nil || c.ask != nil):
			s.stream(unknown, b)
			return
		case tooLong && c.place == onShared:
			s.stream(large, b)
			return
		case tooLong, s.own != nil && !s.canShare() && c.prepare == nil && !isContainer(s.scan.Name()):
			s.stream(c, b)
			return
		}
	} else if s.scan.Size() > maxHeld {
		s.stream(unknown, b)
		return
	}
	s.part = append(s.part, b...)
}

// mayBeRefused says that the engine may call the request an error before it is complete: who has not logged in may send
// no more than this. It would end the connection.
func (s *Session) mayBeRefused() bool {
	return s.state.user == "" && !s.loop.open && (s.scan.Longest() > maxUnauthenticated || s.scan.Args() > maxUnauthenticatedArgs)
}

// stream passes on the beginning of a request; the rest follows as it comes.
func (s *Session) stream(c *command, b []byte) {
	s.partial = true
	if s.scan.Longest() > maxSharedReply {
		whole := append(s.part[:len(s.part):len(s.part)], b...)
		s.loop.group.largeKeys.note(resp.Arguments(nil, whole), s.loop.now)
	}
	s.submit(c, b)
}

// submit has a request, all of it or its beginning, that ends with b.
func (s *Session) submit(c *command, b []byte) {
	raw := b
	if len(s.part) > 0 {
		s.part = append(s.part, b...)
		raw = s.part
	}
	if c == nil {
		c = s.identify(raw)
	}
	s.cmd = c
	if s.dispatch(raw) {
		s.dispatched()
		return
	}
	if len(s.part) == 0 {
		s.part = append(s.part, b...)
	}
	s.whole = true
}

func (s *Session) dispatched() {
	s.part, s.whole, s.waitsFor = nil, false, nil
	s.streaming, s.partial = s.partial, false
}

// resume goes on with what had to wait.
func (s *Session) resume() {
	if s.diverted {
		return
	}
	if again := s.again; len(again) > 0 {
		s.again = nil
		s.take(again)
	}
	for s.whole && !s.over && !s.gone {
		if !s.dispatch(s.part) {
			return
		}
		s.dispatched()
		rest := s.rest
		s.rest = nil
		s.take(rest)
	}
}

// identify says what command a whole request is.
func (s *Session) identify(raw []byte) *command {
	if s.scan.Args() == 0 {
		return empty
	}
	if s.scan.Inline() {
		s.loop.args = resp.Arguments(s.loop.args[:0], raw)
		if len(s.loop.args) == 0 {
			return quoted
		}
		var second []byte
		if len(s.loop.args) > 1 {
			second = bytes.ToLower(s.loop.args[1])
		}
		return s.refine(s.loop.find(bytes.ToLower(s.loop.args[0]), second), raw)
	}
	return s.refine(s.loop.find(s.scan.Name(), s.scan.Second()), raw)
}

// refine looks for BLOCK, for CAS of VADD, and whether CLIENT REPLY ends replies. BLOCK and CAS stand before other arguments, but a group, a consumer or an element may
// be called that too: a key called BLOCK costs a connection, a block that is overlooked would hold up everybody.
func (s *Session) refine(c *command, raw []byte) *command {
	if !c.mayBlock {
		return c
	}
	if c == commands["client|reply"] {
		if args := s.arguments(raw); len(args) == 3 && !is(args[2], "off") && !is(args[2], "skip") {
			return replyOn
		}
		return c
	}
	word := "block"
	if c.name == "vadd" {
		word = "cas"
	}
	for _, a := range s.arguments(raw) {
		if is(a, word) {
			return commands[c.name+"|"+word]
		}
	}
	return c
}

// arguments are valid until the next request is looked at.
func (s *Session) arguments(raw []byte) [][]byte {
	s.loop.args = resp.Arguments(s.loop.args[:0], raw)
	return s.loop.args
}

// dispatch sends a request where it belongs. It returns false when it has to wait; whatever ends the wait comes back to
// resume.
func (s *Session) dispatch(raw []byte) bool {
	b := s.loop.group.backend.Load()
	if s.blind { // since it waits
		s.toOwn(raw)
		return true
	}
	if s.awaitsCommands(b) {
		return false
	}
	if s.cmd == unknown && !s.partial {
		s.cmd = s.identify(raw) // the engine's commands may be known by now
	}
	c := s.cmd
	if s.shares(c) {
		s.releaseClean()
	}
	s.leaveRetired()
	if s.alone && s.inflight > 0 || s.staysFor() {
		return false
	}
	s.alone = false
	if s.own == nil {
		if b.Multiplexed && s.inflight == 0 && (c.place == takesReset || c.place == takesQuit) && !s.lags() {
			return s.locally(c, raw)
		}
		if b.Multiplexed && s.shares(c) && !s.needsTrial(c) && !s.isLargeKey(raw) {
			return s.onShared(c, raw)
		}
		if s.inflight > 0 {
			return false
		}
		if c == empty {
			return true
		}
		s.takeOwn(c, b, raw)
	}
	if s.over || s.gone {
		return true
	}
	if !s.own.ready || c.alone && !s.isAlone() || c.awaits != nil && c.awaits(s, s.arguments(raw)) {
		return false
	}
	s.onOwn(c, raw)
	return true
}

// takeOwn gets the session a connection of its own, for a request.
func (s *Session) takeOwn(c *command, b *Backend, raw []byte) {
	pin := c.pin
	switch {
	case !b.Multiplexed:
		pin = PinPath
	case c.place == onShared && s.loop.group.paused(s.loop.now):
		pin = PinPause
	case c.place == onShared && pin == "" && !s.partial && s.scan.Size() <= maxHeld:
		pin = PinReplies
	case pin == "":
		pin = PinLarge
	}
	s.pinned(pin)
	k := s.key(b)
	if b.Multiplexed && c.place == moves {
		k = s.spareFor(c, raw, k)
	}
	s.loop.take(k, s)
}

// isAlone says that nothing else is on the session's own connection.
func (s *Session) isAlone() bool {
	return s.inflight == 0 && s.own.queue.len == 0 && s.own.pending() == 0
}

// shares says whether a request may go over a shared connection.
func (s *Session) shares(c *command) bool {
	return c.place == onShared && !s.partial && s.scan.Size() <= maxHeld && s.large == 0 && !s.lags() && !s.loop.group.paused(s.loop.now)
}

// canShare says whether the session has left nothing on its own connection, so that it could do without.
func (s *Session) canShare() bool { return s.inflight == 0 && s.leavesNothing() }

// leavesNothing says that it will be so once the requests in flight are answered.
func (s *Session) leavesNothing() bool {
	return !s.multi && !s.queuing && !s.watch && !s.sticky && s.unsure == 0 && !s.blind && !s.streaming && !s.feed.on() && !s.own.shutdown
}

// onShared sends a request over the connection that all clients of the key share.
func (s *Session) onShared(c *command, raw []byte) bool {
	if c == empty {
		return true // the engine says nothing to it
	}
	u := s.loop.sharedFor(s, c)
	s.resend.begin(s.inflight)
	switch {
	case u.closed:
		s.tellAway(u.failure)
		return true
	case s.inflight > 0 && s.on != u || s.inflight >= s.window() || s.resend.full(len(raw)):
		return false
	case !u.ready || u.pending() >= highWater:
		if s.waitsFor != u {
			s.waitsFor = u
			u.wake = append(u.wake, s)
		}
		return false
	case u.locked || !u.open && s.mayBeRefused():
		if s.inflight > 0 {
			return false
		}
		if u.locked {
			s.pinned(PinIdentity)
		} else {
			s.pinned(PinLarge)
		}
		s.loop.take(u.key, s)
		switch {
		case s.over || s.gone:
			return true // there is no engine any more
		case s.own.ready:
			s.onOwn(c, raw)
			return true
		}
		return false
	}
	if s.on = u; !c.anyDB {
		s.home = u
	}
	s.resend.never = s.resend.never || !c.readOnly || c.ask != nil || c.prepare != nil
	s.resend.add(raw)
	s.send(u, c, raw)
	return true
}

// onOwn sends a request over the session's own connection.
func (s *Session) onOwn(c *command, raw []byte) {
	switch {
	case c == empty:
		s.count(len(raw))
		s.toOwn(raw)
		return
	case c.place == blindly:
		s.toOwn(raw)
		s.goBlind()
		return
	case c == unknown:
		s.unsure++ // the reply tells whether there is anything
	case c.cleans:
		s.own.unclean = true
	case c.place == forGood:
		s.sticky, s.kept = true, true
	case c.place == takesReset && s.loop.group.backend.Load().Login != nil:
		// The engine forgets who logged the connection in: the client goes on with another one.
		s.own.retired, s.resetting = true, true
	case c.place == untilReset, c.place == takesQuit:
		s.sticky = true // after QUIT the engine closes it
	}
	s.alone = c.alone || s.isAnothers(s.own)
	login := c.alone && c.place == moves && (s.feed.on() || s.sticky) && !s.multi
	s.send(s.own, c, raw)
	if login {
		s.followLogin()
	}
}

// send puts a request, or its beginning, into an engine connection, and the session into the queue of those that wait.
func (s *Session) send(u *upstream, c *command, raw []byte) {
	out, a := raw, c.ask
	if c.prepare != nil && !s.partial {
		out, a = c.prepare(s, raw, s.arguments(raw))
	}
	a = s.transacted(c, a, raw)
	if m := &s.loop.group.monitors; m.any.Load() && !s.partial {
		refused := m.sent(s.cfg.Remote, s.arguments(raw), raw, out)
		if a == nil {
			a = onLine(func(_ *Session, reply []byte) {
				if reply != nil && reply[0] == '-' {
					refused()
				}
			})
		}
	}
	n := a.count()
	s.inflight += n
	u.queue.push(waiter{s: s, n: n, ask: a, of: c, sent: s.loop.now.UnixNano()})
	s.passed(u, c, 1, len(raw))
	s.put(u, out)
}

// transacted follows a transaction: what the engine queues is answered by EXEC.
func (s *Session) transacted(c *command, a *ask, raw []byte) *ask {
	if c.alone && !s.multi {
		s.queuing = false // nothing else is in flight, so this is what the engine says
	}
	switch {
	case a == onMulti:
		s.queuing = true
	case a == onExec, a == onDiscard, a == onReset:
		s.queuing = false
	case s.queuing && c.alone && c.place == moves && loggedIn(s.arguments(raw)) != nil:
		return queuedLogin
	case s.queuing && a == nil:
		return inTransaction
	case s.queuing && a.sub == nil:
		return a.later()
	}
	return a
}

// toOwn passes bytes on that are part of something.
func (s *Session) toOwn(b []byte) {
	s.count(len(b))
	if s.own == nil || s.own.closed {
		return
	}
	if s.own.send(b) != nil {
		s.loop.again(&s.own.socket)
	}
}

func (s *Session) count(n int) {
	s.result.In += uint64(n)
	s.loop.counts.in.Add(uint64(n))
}

// goBlind stops looking: from here on the client and its own connection are on their own.
func (s *Session) goBlind() {
	s.blind, s.sticky, s.kept, s.streaming, s.partial = true, true, true, false, false
}

// stopLooking is goBlind in the middle of a request: what is here of it goes first.
func (s *Session) stopLooking() {
	s.goBlind()
	if len(s.part) > 0 && !s.whole {
		s.toOwn(s.part)
		s.part = nil
	}
}

// pinned notes that the session gets a connection of its own.
func (s *Session) pinned(p Pin) { s.loop.counts.pin(p) }

// release gives the session's own connection to whoever needs one next.
func (s *Session) release() {
	u := s.own
	if !s.isAnothers(u) {
		u.login = s.secret // by which it is to be logged in again, should it have to be
	}
	s.own = nil
	s.loop.giveBack(u)
}

// releaseClean does so where the session has left nothing on it.
func (s *Session) releaseClean() {
	u := s.own
	if u == nil || !u.ready || u.eof || u.closed || s.whole || !s.canShare() {
		return
	}
	if s.large > 0 || s.client.pending() >= lowWater {
		return // it would need one of its own again
	}
	if b := s.loop.group.backend.Load(); b.Multiplexed && u.key.engine == b.Engine && !u.retired && u.pending() == 0 {
		s.release()
	}
}

// dropOwn is called at the end of the session.
func (s *Session) dropOwn() {
	u := s.own
	if u == nil {
		return
	}
	s.large = 0
	if s.releaseClean(); s.own == nil {
		return
	}
	s.own = nil
	s.engineID.Store(0)
	u.owner = nil
	u.end()
}

// key is that of the connections which can serve the session.
func (s *Session) key(b *Backend) key {
	return s.keyFor(b, s.state)
}

func (s *Session) keyFor(b *Backend, id identity) key {
	k := key{engine: b.Engine, user: id.user, db: id.db, proto: id.proto}
	if id.user == "" {
		k.auth = s.auth
	}
	return k
}

// locally answers what needs no engine: RESET and QUIT of a client that has nothing there.
func (s *Session) locally(c *command, raw []byte) bool {
	if c.place == takesReset {
		return s.resetLocally(raw)
	}
	s.last.Store(c)
	s.why(ClientClosed, nil)
	s.reply([]byte("+OK\r\n"))
	s.quitting = true
	s.touch()
	return true
}

// resetLocally answers RESET of a client that has nothing at the engine.
func (s *Session) resetLocally(raw []byte) bool {
	if s.scan.Args() != 1 {
		return s.onShared(&command{name: s.cmd.name}, raw) // a wrong number of arguments
	}
	s.last.Store(s.cmd)
	s.commands.Add(1)
	s.auth, s.secret = s.loop.group.backend.Load().Auth, nil
	s.become(s.state.afterReset())
	s.reply([]byte("+RESET\r\n"))
	return true
}

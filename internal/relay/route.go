package relay

import (
	"bytes"

	"github.com/sealane/sealane/internal/resp"
)

const (
	// maxHeld is how long a request may be that is looked at as a whole, or that shares a connection. A longer one is
	// passed on as it comes, on a connection where nobody waits for its end.
	maxBuffered = 64 << 10
	// maxInflight is how many requests a client may have on a shared connection. It waits then: a long pipeline must not
	// keep the others from their turn.
	maxInflight = 1024
	// Who has not logged in may send no more than this (the servers' limits); more would end the connection.
	maxUnauthenticated     = 16384
	maxUnauthenticatedArgs = 10
)

// take cuts what the client said into requests.
func (s *Session) parse(b []byte) {
	if s.cfg.Opening != nil {
		b = s.open(b)
	}
	var r batch
	for len(b) > 0 && !s.closed {
		switch {
		case s.engineGone || s.closeAfterReply:
			s.discard(len(b))
			return
		case s.blocked:
			s.backlog = append(s.backlog, b...)
			return
		case s.passthrough:
			s.lastWasRequest = true
			s.passBytes(b)
			return
		}
		n, done, err := s.scan.Next(b)
		if done && err == nil && s.appendToBatch(&r, b[:n]) {
			b = b[n:]
			continue
		}
		s.sendBatch(&r)
		switch {
		case s.passingRest && err == nil:
			s.passBytes(b[:n])
			if s.passingRest = !done; done {
				s.noteLargeRequest(s.scan.Size())
			}
		case s.passingRest:
			s.enterPassthrough()
			n = 0
		case err != nil:
			n = len(b)
			s.submit(protocolError, b)
		case done:
			s.submit(nil, b[:n])
		default:
			s.headArrived(b[:n])
		}
		b = b[n:]
	}
	s.sendBatch(&r)
}

// opened returns what the client has said so far, once it is known to be one to serve.
func (s *Session) open(b []byte) []byte {
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
	s.setReason(Misdirected, nil)
	s.reply(answer)
	s.endAfterEngine()
	return nil
}

// run are whole requests, one behind the other, that go the same way without any ado: they are sent in one piece.
type batch struct {
	u     *upstream
	bytes []byte
	n     uint64
}

// joins adds a request to a run, if it is one for it.
func (s *Session) appendToBatch(r *batch, raw []byte) bool {
	if len(s.buffer) > 0 || s.passingRest || s.scan.Inline() || s.scan.Args() == 0 || s.scan.Size() > maxBuffered {
		return false
	}
	if r.u == nil {
		if r.u = s.batchConn(); r.u == nil {
			return false
		}
		r.bytes = raw[:0]
	}
	c := s.cmd
	if name := s.scan.Name(); c == nil || string(name) != c.name || isContainer(name) {
		c = s.loop.find(name, s.scan.Second())
	}
	if c.prepare != nil || c.ask != nil || c.affinity != shareable && (r.u.shared || c.affinity != dedicated) || c.unpipelined || c.anyDB || c.hasVariant ||
		c.resetBeforeReuse || s.exceedsUnauthenticatedLimits() || r.u.shared && !s.fitsWindow(c, raw, len(r.bytes)) {
		return false
	}
	s.cmd = c
	s.inFlight++
	r.u.pendingReplies.push(pendingReply{client: s, count: 1, command: c, sent: s.loop.now.UnixNano()})
	r.n++
	r.bytes = r.bytes[:len(r.bytes)+len(raw)] // they lie one behind the other
	return true
}

// fitsShared says whether one more request may go over the shared connection now, and notes what it may leave in flight.
func (s *Session) fitsWindow(c *command, raw []byte, before int) bool {
	if s.inFlight >= s.window() || s.retry.full(before+len(raw)) || s.replySizeUnknown(c) || s.isBigKey(raw) {
		return false
	}
	s.retry.unsafe = s.retry.unsafe || !c.retrySafe
	return true
}

// isLargeKey says whether a request is about a key that had a long value lately.
func (s *Session) isBigKey(raw []byte) bool {
	l := &s.loop.group.bigKeys
	return !l.empty(s.loop.now) && l.has(s.arguments(raw), s.loop.now)
}

// runsOn is the connection for requests that need no closer look; nil when all do.
func (s *Session) batchConn() *upstream {
	g, b := s.loop.group, s.loop.group.backend.Load()
	switch {
	case s.queuing || s.unpipelined || g.monitors.any.Load():
		return nil
	case s.dedicated != nil:
		if !s.dedicated.ready || s.dedicated.closed || s.dedicated.draining || b.Multiplexed && s.isClean() && s.dedicatedLeft == 0 {
			return nil
		}
		return s.dedicated
	case !b.Multiplexed || s.dedicatedLeft > 0 || s.isSlowReader() || g.paused(s.loop.now):
		return nil
	}
	u := s.shared
	if u == nil || u.closed || u.draining || u.key.engine != b.Engine || !u.ready || u.Pending() >= highWater || s.inFlight > 0 && s.inFlightOn != u {
		return nil
	}
	s.inFlightOn = u
	s.retry.begin(s.inFlight)
	return u
}

// sendRun sends what has been collected.
func (s *Session) sendBatch(r *batch) {
	if r.n > 0 {
		s.countSent(r.u, s.cmd, r.n, len(r.bytes))
		if r.u.shared {
			s.retry.add(r.bytes)
		}
		s.queueWrite(r.u, r.bytes)
	}
	*r = batch{}
}

// passed counts requests.
func (s *Session) countSent(u *upstream, last *command, n uint64, bytes int) {
	if s.lastCommand.Load() != last {
		s.lastCommand.Store(last)
	}
	s.commands.Add(n)
	s.loop.counts.command(u.shared, n)
	if !u.shared && s.dedicatedLeft > 0 {
		s.dedicatedLeft = max(0, s.dedicatedLeft-int(n))
	}
	s.count(bytes)
}

// put gives an engine connection what it is to send: its own at once, a shared one at the end of the round.
func (s *Session) queueWrite(u *upstream, b []byte) {
	if u.shared {
		_, _ = u.Write(b)
		u.flushLater()
	} else if u.Send(b) != nil {
		s.loop.again(&u.socket)
	}
}

// begun deals with a request that is not complete.
func (s *Session) headArrived(b []byte) {
	if s.exceedsUnauthenticatedLimits() {
		s.passHead(largeRequest, b)
		return
	}
	if s.scan.Named() {
		c := s.loop.find(s.scan.Name(), s.scan.Second())
		switch tooLong := s.scan.Size() > maxBuffered || s.scan.Longest() > maxBuffered; {
		case tooLong && (c.prepare != nil || c.ask != nil):
			s.passHead(unknown, b)
			return
		case tooLong && c.affinity == shareable:
			s.passHead(largeRequest, b)
			return
		case tooLong, s.dedicated != nil && !s.isClean() && c.prepare == nil && !isContainer(s.scan.Name()):
			s.passHead(c, b)
			return
		}
	} else if s.scan.Size() > maxBuffered {
		s.passHead(unknown, b)
		return
	}
	s.buffer = append(s.buffer, b...)
}

// mayBeRefused says that the engine may call the request an error before it is complete: who has not logged in may send
// no more than this. It would end the connection.
func (s *Session) exceedsUnauthenticatedLimits() bool {
	return s.identity.user == "" && !s.loop.letsInWithoutAuth && (s.scan.Longest() > maxUnauthenticated || s.scan.Args() > maxUnauthenticatedArgs)
}

// stream passes on the beginning of a request; the rest follows as it comes.
func (s *Session) passHead(c *command, b []byte) {
	s.passingHead = true
	if s.scan.Longest() > maxSharedReply {
		whole := append(s.buffer[:len(s.buffer):len(s.buffer)], b...)
		s.loop.group.bigKeys.note(resp.Arguments(nil, whole), s.loop.now)
	}
	s.submit(c, b)
}

// submit has a request, all of it or its beginning, that ends with b.
func (s *Session) submit(c *command, b []byte) {
	raw := b
	if len(s.buffer) > 0 {
		s.buffer = append(s.buffer, b...)
		raw = s.buffer
	}
	if c == nil {
		c = s.lookup(raw)
	}
	s.cmd = c
	if s.route(raw) {
		s.sent()
		return
	}
	if len(s.buffer) == 0 {
		s.buffer = append(s.buffer, b...)
	}
	s.blocked = true
}

func (s *Session) sent() {
	s.buffer, s.blocked, s.blockedOn = nil, false, nil
	s.passingRest, s.passingHead = s.passingHead, false
}

// resume goes on with what had to wait.
func (s *Session) resume() {
	if s.retryBlocked {
		return
	}
	if again := s.replay; len(again) > 0 {
		s.replay = nil
		s.parse(again)
	}
	for s.blocked && !s.closed && !s.engineGone {
		if !s.route(s.buffer) {
			return
		}
		s.sent()
		rest := s.backlog
		s.backlog = nil
		s.parse(rest)
	}
}

// identify says what command a whole request is.
func (s *Session) lookup(raw []byte) *command {
	if s.scan.Args() == 0 {
		return emptyRequest
	}
	if s.scan.Inline() {
		s.loop.args = resp.Arguments(s.loop.args[:0], raw)
		if len(s.loop.args) == 0 {
			return unparsedInline
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
	if !c.hasVariant {
		return c
	}
	if c == commands["client|reply"] {
		if args := s.arguments(raw); len(args) == 3 && !equalFold(args[2], "off") && !equalFold(args[2], "skip") {
			return replyOn
		}
		return c
	}
	word := "block"
	if c.name == "vadd" {
		word = "cas"
	}
	for _, a := range s.arguments(raw) {
		if equalFold(a, word) {
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
func (s *Session) route(raw []byte) bool {
	b := s.loop.group.backend.Load()
	if s.passthrough { // since it waits
		s.passBytes(raw)
		return true
	}
	if s.blockUntilCommands(b) {
		return false
	}
	if s.cmd == unknown && !s.passingHead {
		s.cmd = s.lookup(raw) // the engine's commands may be known by now
	}
	c := s.cmd
	if s.mayShare(c) {
		s.releaseClean()
	}
	s.leaveDraining()
	if s.unpipelined && s.inFlight > 0 || s.blockedByDrain() {
		return false
	}
	s.unpipelined = false
	if s.dedicated == nil {
		if b.Multiplexed && s.inFlight == 0 && (c.affinity == resets || c.affinity == quits) && !s.isSlowReader() {
			return s.answerLocally(c, raw)
		}
		if b.Multiplexed && s.mayShare(c) && !s.replySizeUnknown(c) && !s.isBigKey(raw) {
			return s.sendShared(c, raw)
		}
		if s.inFlight > 0 {
			return false
		}
		if c == emptyRequest {
			return true
		}
		s.acquireDedicated(c, b, raw)
	}
	if s.closed || s.engineGone {
		return true
	}
	if !s.dedicated.ready || c.unpipelined && !s.dedicatedIsIdle() || c.blockUntil != nil && c.blockUntil(s, s.arguments(raw)) {
		return false
	}
	s.sendDedicated(c, raw)
	return true
}

// takeOwn gets the session a connection of its own, for a request.
func (s *Session) acquireDedicated(c *command, b *Backend, raw []byte) {
	pin := c.pin
	switch {
	case !b.Multiplexed:
		pin = PinPath
	case c.affinity == shareable && s.loop.group.paused(s.loop.now):
		pin = PinPause
	case c.affinity == shareable && pin == "" && !s.passingHead && s.scan.Size() <= maxBuffered:
		pin = PinReplies
	case pin == "":
		pin = PinLarge
	}
	s.countPin(pin)
	k := s.key(b)
	if b.Multiplexed && c.affinity == changesIdentity {
		k = s.keyForIdentityChange(c, raw, k)
	}
	s.loop.acquire(k, s)
}

// isAlone says that nothing else is on the session's own connection.
func (s *Session) dedicatedIsIdle() bool {
	return s.inFlight == 0 && s.dedicated.pendingReplies.len == 0 && s.dedicated.Pending() == 0
}

// shares says whether a request may go over a shared connection.
func (s *Session) mayShare(c *command) bool {
	return c.affinity == shareable && !s.passingHead && s.scan.Size() <= maxBuffered && s.dedicatedLeft == 0 && !s.isSlowReader() && !s.loop.group.paused(s.loop.now)
}

// canShare says whether the session has left nothing on its own connection, so that it could do without.
func (s *Session) isClean() bool { return s.inFlight == 0 && s.leavesNothing() }

// leavesNothing says that it will be so once the requests in flight are answered.
func (s *Session) leavesNothing() bool {
	return !s.multi && !s.queuing && !s.watch && !s.dirtyUntilReset && s.unknownEffects == 0 && !s.passthrough && !s.passingRest && !s.subscriber.on() && !s.dedicated.WriteClosing()
}

// onShared sends a request over the connection that all clients of the key share.
func (s *Session) sendShared(c *command, raw []byte) bool {
	if c == emptyRequest {
		return true // the engine says nothing to it
	}
	u := s.loop.sharedConn(s, c)
	s.retry.begin(s.inFlight)
	switch {
	case u.closed:
		s.replyUnavailable(u.dialErr)
		return true
	case s.inFlight > 0 && s.inFlightOn != u || s.inFlight >= s.window() || s.retry.full(len(raw)):
		return false
	case !u.ready || u.Pending() >= highWater:
		if s.blockedOn != u {
			s.blockedOn = u
			u.blocked = append(u.blocked, s)
		}
		return false
	case u.needsAuth || !u.letsInWithoutAuth && s.exceedsUnauthenticatedLimits():
		if s.inFlight > 0 {
			return false
		}
		if u.needsAuth {
			s.countPin(PinIdentity)
		} else {
			s.countPin(PinLarge)
		}
		s.loop.acquire(u.key, s)
		switch {
		case s.closed || s.engineGone:
			return true // there is no engine any more
		case s.dedicated.ready:
			s.sendDedicated(c, raw)
			return true
		}
		return false
	}
	if s.inFlightOn = u; !c.anyDB {
		s.shared = u
	}
	s.retry.unsafe = s.retry.unsafe || !c.retrySafe || c.ask != nil || c.prepare != nil
	s.retry.add(raw)
	s.send(u, c, raw)
	return true
}

// onOwn sends a request over the session's own connection.
func (s *Session) sendDedicated(c *command, raw []byte) {
	switch {
	case c == emptyRequest:
		s.count(len(raw))
		s.passBytes(raw)
		return
	case c.affinity == passthrough:
		s.passBytes(raw)
		s.enterPassthrough()
		return
	case c == unknown:
		s.unknownEffects++ // the reply tells whether there is anything
	case c.resetBeforeReuse:
		s.dedicated.needsReset = true
	case c.affinity == pins:
		s.dirtyUntilReset, s.dirtyForGood = true, true
	case c.affinity == resets && s.loop.group.backend.Load().Login != nil:
		// The engine forgets who logged the connection in: the client goes on with another one.
		s.dedicated.draining, s.resetting = true, true
	case c.affinity == pinsUntilReset, c.affinity == quits:
		s.dirtyUntilReset = true // after QUIT the engine closes it
	}
	s.unpipelined = c.unpipelined || s.isBorrowed(s.dedicated)
	login := c.unpipelined && c.affinity == changesIdentity && (s.subscriber.on() || s.dirtyUntilReset) && !s.multi
	s.send(s.dedicated, c, raw)
	if login {
		s.sendLoginFence()
	}
}

// send puts a request, or its beginning, into an engine connection, and the session into the queue of those that wait.
func (s *Session) send(u *upstream, c *command, raw []byte) {
	out, a := raw, c.ask
	if c.prepare != nil && !s.passingHead {
		out, a = c.prepare(s, raw, s.arguments(raw))
	}
	a = s.transacted(c, a, raw)
	if m := &s.loop.group.monitors; m.any.Load() && !s.passingHead {
		refused := m.sent(s.cfg.Remote, s.arguments(raw), raw, out)
		if a == nil {
			a = onLine(func(_ *Session, reply []byte) {
				if reply != nil && reply[0] == '-' {
					refused()
				}
			})
		}
	}
	n := a.requests()
	s.inFlight += n
	u.pendingReplies.push(pendingReply{client: s, count: n, handler: a, command: c, sent: s.loop.now.UnixNano()})
	s.countSent(u, c, 1, len(raw))
	s.queueWrite(u, out)
}

// transacted follows a transaction: what the engine queues is answered by EXEC.
func (s *Session) transacted(c *command, a *replyHandler, raw []byte) *replyHandler {
	if c.unpipelined && !s.multi {
		s.queuing = false // nothing else is in flight, so this is what the engine says
	}
	switch {
	case a == onMulti:
		s.queuing = true
	case a == onExec, a == onDiscard, a == onReset:
		s.queuing = false
	case s.queuing && c.unpipelined && c.affinity == changesIdentity && credentialsIn(s.arguments(raw)) != nil:
		return queuedLogin
	case s.queuing && a == nil:
		return inTransaction
	case s.queuing && a.sub == nil:
		return a.later()
	}
	return a
}

// toOwn passes bytes on that are part of something.
func (s *Session) passBytes(b []byte) {
	s.count(len(b))
	if s.dedicated == nil || s.dedicated.closed {
		return
	}
	if s.dedicated.Send(b) != nil {
		s.loop.again(&s.dedicated.socket)
	}
}

func (s *Session) count(n int) {
	s.result.In += uint64(n)
	s.loop.counts.in.Add(uint64(n))
}

// goBlind stops looking: from here on the client and its own connection are on their own.
func (s *Session) enterPassthrough() {
	s.passthrough, s.dirtyUntilReset, s.dirtyForGood, s.passingRest, s.passingHead = true, true, true, false, false
}

// stopLooking is goBlind in the middle of a request: what is here of it goes first.
func (s *Session) passRest() {
	s.enterPassthrough()
	if len(s.buffer) > 0 && !s.blocked {
		s.passBytes(s.buffer)
		s.buffer = nil
	}
}

// pinned notes that the session gets a connection of its own.
func (s *Session) countPin(p Pin) { s.loop.counts.pin(p) }

// release gives the session's own connection to whoever needs one next.
func (s *Session) releaseDedicated() {
	u := s.dedicated
	if !s.isBorrowed(u) {
		u.login = s.secret // by which it is to be logged in again, should it have to be
	}
	s.dedicated = nil
	s.loop.release(u)
}

// releaseClean does so where the session has left nothing on it.
func (s *Session) releaseClean() {
	u := s.dedicated
	if u == nil || !u.ready || u.eof || u.closed || s.blocked || !s.isClean() {
		return
	}
	if s.dedicatedLeft > 0 || s.conn.Pending() >= lowWater {
		return // it would need one of its own again
	}
	if b := s.loop.group.backend.Load(); b.Multiplexed && u.key.engine == b.Engine && !u.draining && u.Pending() == 0 {
		s.releaseDedicated()
	}
}

// dropOwn is called at the end of the session.
func (s *Session) dropDedicated() {
	u := s.dedicated
	if u == nil {
		return
	}
	s.dedicatedLeft = 0
	if s.releaseClean(); s.dedicated == nil {
		return
	}
	s.dedicated = nil
	s.engineID.Store(0)
	u.client = nil
	u.end()
}

// key is that of the connections which can serve the session.
func (s *Session) key(b *Backend) key {
	return s.keyFor(b, s.identity)
}

func (s *Session) keyFor(b *Backend, id identity) key {
	k := key{engine: b.Engine, user: id.user, db: id.db, proto: id.proto}
	if id.user == "" {
		k.auth = s.auth
	}
	return k
}

// locally answers what needs no engine: RESET and QUIT of a client that has nothing there.
func (s *Session) answerLocally(c *command, raw []byte) bool {
	if c.affinity == resets {
		return s.resetLocally(raw)
	}
	s.lastCommand.Store(c)
	s.setReason(ClientClosed, nil)
	s.reply([]byte("+OK\r\n"))
	s.closeAfterReply = true
	s.markDirty()
	return true
}

// resetLocally answers RESET of a client that has nothing at the engine.
func (s *Session) resetLocally(raw []byte) bool {
	if s.scan.Args() != 1 {
		return s.sendShared(&command{name: s.cmd.name}, raw) // a wrong number of arguments
	}
	s.lastCommand.Store(s.cmd)
	s.commands.Add(1)
	s.auth, s.secret = s.loop.group.backend.Load().Auth, nil
	s.setIdentity(s.identity.afterReset())
	s.reply([]byte("+RESET\r\n"))
	return true
}

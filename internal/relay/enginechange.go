package relay

import (
	"sync"
	"sync/atomic"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/routing"
)

// All clients move from one engine to another, and none is disconnected for it. It takes three steps:
//
//  1. Hold (hold.go). Loops read no more requests, and finish what is in flight. Clients that wait in a blocking command, and those
//     that only listen, have nothing in flight. Afterwards nothing is written, and the caller can let the new engine catch up.
//  2. SetBackend with another Backend.Engine. Each loop leaves the old engine, in one task (loop.leaveEngine). What an engine
//     connection still has to say is read first. Then routing.ChangeEngine decides about each client:
//     Moved: the client gives its engine connection up. What it has set there is in Session.kept (kept.go), and every connection
//     that it gets later is brought into that state by upstream.prepare. A client that is sent messages needs a connection now;
//     any other gets one with its next request. A request that waited in a blocking command, and those behind it, are put back
//     before the client's input (blocking.go).
//     Lost: a request may have been executed and is not answered, or it is not known what the client has left on its
//     connection. It is closed as it is when an engine dies.
//  3. When each client that needs a connection now has it, the hold ends, so that a message that is published next finds its
//     subscribers. It ends in any case when its time is over.
//
// Without a hold, where the old engine is dead or cut off, step 2 is the same, but a blocking command may have been executed. With
// Backend.Standby, clients that would be lost go on then, too (failover.go).
//
// No reply of the old engine can come after one of the new: the old connection is closed before the client asks anything over another
// one. No request is executed twice: only what was certainly not executed is asked again, and reads that shared a connection
// (retry.go). The order of a client's requests stays: what is asked again comes before everything else that the client has said.

// maxHearAll is how much of what an engine has said is read when its connection is left. What a hung engine has said is less.
const maxHearAll = 16 << 20

// engineChange is one replacement of the engine.
type engineChange struct {
	group *Loops
	hold  holdTerm
	left  atomic.Int64 // clients that need a connection to the new engine first; one more until all have left the old one
}

// ready is called when one of those that the change waits for is ready, or has ended.
func (c *engineChange) ready() {
	if c.left.Add(-1) == 0 {
		c.group.endHold(c.hold)
	}
}

// moveCounts are how many clients have gone through changes of the engine, by what became of them.
type moveCounts struct{ moved, lost atomic.Uint64 }

// changeEngine makes all loops leave the engine before. It returns when they have. Only then clients get new connections: the ids of
// their old ones must not be taken for those of new ones.
func (ls *Loops) changeEngine(b *Backend) {
	ls.commands.Store(nil)
	ls.pausedUntil.Store(0) // CLIENT PAUSE was the old engine's
	c := &engineChange{group: ls, hold: ls.holdTerm()}
	c.left.Add(1)
	ls.onEach(func(l *loop) { l.leaveEngine(b, c) })
	ls.onEach(func(l *loop) {
		for _, s := range l.sessions() {
			s.connectForChange()
		}
	})
	c.ready()
}

// onEach runs a task on each loop, and returns when all have. It must not be called on a loop.
func (ls *Loops) onEach(task func(*loop)) {
	var all sync.WaitGroup
	for _, l := range ls.all {
		all.Add(1)
		if !l.post(func() { task(l); all.Done() }) {
			all.Done()
		}
	}
	all.Wait()
}

// sessions returns the clients of the loop.
func (l *loop) sessions() []*Session {
	var all []*Session
	for i := range l.watching {
		if s, ok := l.watching[i].owner.(*Session); ok {
			all = append(all, s)
		}
	}
	return all
}

// leaveEngine makes the loop's clients leave the engine before.
func (l *loop) leaveEngine(b *Backend, c *engineChange) {
	all := l.sessions()
	for _, s := range all {
		s.hearOut()
	}
	if l.process = (enginesProcess{engine: b.Engine}); !l.held {
		l.engineLost() // the new engine may lack what was written last
	}
	for u := range l.upstreams {
		if u.key.engine != b.Engine && b.standsBy() {
			u.hearAll()
		}
		if u.shared && u.key.engine != b.Engine && !u.closed {
			u.leaveShared(b)
		}
	}
	for _, s := range all {
		s.leaveEngine(b, c)
	}
	for u := range l.upstreams {
		if u.key.engine != b.Engine {
			u.end()
		}
	}
	l.flushClients()
}

// hearOut reads what the engine has said to a client already.
func (s *Session) hearOut() {
	if u := s.dedicated; u != nil && u.Attached() && !u.closed && (s.state.InFlight() > 0 || s.state.Subscriber.On() || s.kept != nil) {
		u.Note(netloop.Readable) // what comes now may not have been told by an event yet
		u.pump()
	}
}

// hearAll reads what the engine has said over a connection that is left, however much it is: what is not read now is lost.
func (u *upstream) hearAll() {
	if !u.Attached() || u.closed {
		return
	}
	u.leaving = true
	u.Note(netloop.Readable)
	for range maxHearAll / share {
		if u.pump(); u.closed || u.Drained() {
			return
		}
	}
}

// leaveShared ends a connection that clients share. They ask again what they have asked, where that does no harm.
func (u *upstream) leaveShared(b *Backend) {
	unread := b.standsBy() && u.Attached() && !u.taken()
	var lost []*Session
	for _, s := range u.clients() {
		switch {
		case b.standsBy() && u.mayOrphan(s) && s.outlive(u.unansweredBy(s, unread)):
			s.conn.requeue()
		case !b.standsBy() && s.canRetry() && !u.isMidReply(s):
			s.retryInFlight()
			s.conn.requeue()
		default:
			lost = append(lost, s)
		}
	}
	u.pendingReplies = pendingQueue{}
	u.unblockAll()
	u.end()
	for _, s := range lost {
		s.loseEngine()
	}
}

// loseEngine ends a client that can't go on with another engine, as the death of its engine would.
func (s *Session) loseEngine() {
	s.loop.group.moves.lost.Add(1)
	s.setReason(EngineClosed, nil)
	s.state.NothingInFlight()
	s.endAfterEngine()
	s.markDirty()
}

// leaveEngine makes one client leave the engine before.
func (s *Session) leaveEngine(b *Backend, c *engineChange) {
	u := s.dedicated
	if s.phase >= engineGone || u != nil && u.key.engine == b.Engine {
		return
	}
	s.shared, s.blockedOn, s.reconnects = nil, nil, false
	s.conn.requeue()
	if s.suspectsDeath {
		s.engineIsGone() // or is to be left, which is the same
		u = s.dedicated
	}
	if s.phase >= engineGone {
		return
	}
	if u == nil {
		s.moved(c)
		return
	}
	waits := s.loop.held && s.waitsInEngine()
	leaving := routing.Leaving{Waits: waits, MidReply: u.isMidReply(s) || waits && len(u.replyBuffer) > 0, Closing: u.WriteClosing()}
	if b.standsBy() && !waits && u.mayOrphan(s) {
		all := u.unansweredBy(s, u.Attached() && !u.taken())
		if s.detach().end(); s.outlive(all) {
			s.moved(c)
		} else {
			s.loseEngine()
		}
		return
	}
	switch routing.ChangeEngine(&s.state, leaving) {
	case routing.Lost:
		s.detach().end()
		s.loseEngine()
	case routing.Finished:
		s.setReason(ClientClosed, nil)
		s.detach().end()
		s.endAfterEngine()
		s.markDirty()
	case routing.Moved:
		s.detach().end()
		if waits {
			s.askBlockedAgain()
		}
		s.moved(c)
	}
}

// moved is called when a client has left the engine before. If it may be sent something, the change waits for its new connection.
func (s *Session) moved(c *engineChange) {
	s.loop.group.moves.moved.Add(1)
	s.changed() // it may not have come to the end of the change before
	if s.hasPushes() {
		c.left.Add(1)
		s.change = c
	}
}

// connectForChange gives a client its connection to the next engine, if it may be sent something over it, and unless it has to wait
// for that of the client that is to be sent its invalidations.
func (s *Session) connectForChange() {
	if s.change == nil && !s.reconnects || s.suspectsDeath || s.phase >= engineGone || s.dedicated != nil || s.kept.waitsForTarget(s) {
		return
	}
	s.reconnects = false
	s.loop.acquire(s.key(s.loop.group.backend.Load()), s)
}

// changed is called when a client has what it needs of the new engine, or has ended.
func (s *Session) changed() {
	if c := s.change; c != nil {
		s.change = nil
		c.ready()
	}
}

// invalidateAll tells a client that keeps values in a cache of its own that all of them may be stale.
func (s *Session) invalidateAll() {
	s.invalidate = true
	s.markDirty()
}

var (
	invalidateAllPush    = []byte(">2\r\n$10\r\ninvalidate\r\n_\r\n")
	invalidateAllMessage = []byte("*3\r\n$7\r\nmessage\r\n$20\r\n" + invalidations + "\r\n$-1\r\n")
)

// invalidations is the channel of invalidations in RESP2.
const invalidations = "__redis__:invalidate"

// sendInvalidation does so once the client has been told the whole of a reply.
func (s *Session) sendInvalidation() {
	if !s.invalidate || s.phase >= engineGone {
		return
	}
	for _, u := range []*upstream{s.dedicated, s.inFlightOn} {
		if u != nil && u.isMidReply(s) {
			return
		}
	}
	s.invalidate = false
	switch {
	case s.state.Passthrough:
	case s.login.Proto == 3:
		s.reply(invalidateAllPush)
	case s.kept.hasChannel(invalidations):
		s.reply(invalidateAllMessage)
	}
}

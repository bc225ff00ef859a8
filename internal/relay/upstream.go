package relay

import (
	"errors"
	"io"
	"slices"
	"time"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// idUnknown is the id of a connection that the engine doesn't tell: its user may not ask, or has not logged in yet.
const idUnknown = -1

// upstream is a connection to the engine. It is dedicated to one client, or shared by all of its key on this loop.
//
// A reply can only reach who asked: the engine answers in order (which is the protocol's own promise), pendingReplies holds who
// asked in that order, and an entry stays at its head until the reply has ended, even if its session is gone. What could break
// the order (a blocking command, a push, a reply that does not come) never is on a shared connection. Where the bytes say
// otherwise, the connection is closed, with all that wait on it.
//
// All its ends come to end; fail and its like say first what becomes of the clients.
type upstream struct {
	peer
	key    key
	id     int64    // in the engine; 0: not known yet, idUnknown: it doesn't tell; written by dedicated.go alone
	client *Session // whose dedicated connection it is; written by dedicated.go alone
	shared bool

	setup
	dialing

	blocked   []*Session // wait until it is ready, or takes more
	dirty     bool       // is in loop.dirtyUpstreams
	active    bool       // something moved since it was last looked at for idleness
	idleSince time.Time
	draining  bool // it is to be left as soon as nothing is lost by that
	leaving   bool // what there is to be read is read, although its client does not take it

	goawayNegotiated bool
	partialGoaway    []byte // the beginning of what may be goaway

	needsReset bool // something may have been left on it that RESET removes
	resetting  bool // it is being reset, and will be idle

	replies
	canary canaryState
}

// replies is where an upstream is in what the engine says.
type replies struct {
	pendingReplies pendingQueue
	scan           resp.ReplyScanner
	replyBuffer    []byte   // of a reply that is not passed on before it is complete
	relayingReply  bool     // the message under way is passed on as it comes
	replyBytes     int      // of a reply on a dedicated connection: its bytes so far
	discardingFor  *Session // whose reply is thrown away just now, because it is asked for again
}

// newUpstream begins a connection for a key.
func (l *loop) newUpstream(k key) *upstream {
	u := &upstream{key: k, idleSince: l.now}
	u.dialStart = time.Now()
	u.peer.loop = l
	l.upstreams[u] = struct{}{}
	return u
}

// block makes a client wait until the connection is ready, or takes more.
func (u *upstream) block(s *Session) {
	if s.blockedOn != u {
		s.blockedOn = u
		u.blocked = append(u.blocked, s)
	}
}

// takeBlocked returns the clients that wait for the connection, and forgets them.
func (u *upstream) takeBlocked() []*Session {
	var all []*Session
	for _, s := range u.blocked {
		if s.blockedOn == u {
			all = append(all, s)
		}
	}
	u.blocked = nil
	return all
}

// unblockAll lets the clients go on that wait for the connection.
func (u *upstream) unblockAll() {
	for _, s := range u.blocked {
		if s.blockedOn == u {
			s.blockedOn = nil
		}
		if s.phase != closed {
			s.conn.requeue()
		}
	}
	u.blocked = nil
}

// flushLater sends what u has at the end of the round.
func (u *upstream) flushLater() {
	if !u.dirty {
		u.dirty = true
		u.loop.dirtyUpstreams = append(u.loop.dirtyUpstreams, u)
	}
}

// progress implements owner.
func (u *upstream) progress() {
	if u.closed || !u.Attached() {
		return
	}
	if u.Pending() > 0 && u.Flush() != nil {
		u.DiscardOutput() // what it still has to say is read; then comes its end
	}
	u.roomMade()
	u.pump()
	if u.TLS != nil && !u.closed && u.Attached() {
		u.SaveReadAhead()
	}
	u.closeDrained()
	u.loop.flushClients()
}

// roomMade is called after each flush: those that waited for it to be taken go on. No event tells of what was taken at once.
func (u *upstream) roomMade() {
	if u.Pending() >= lowWater {
		return
	}
	if len(u.blocked) > 0 && u.ready {
		u.unblockAll()
	}
	if s := u.client; s != nil && s.conn.paused && !s.mustNotRead() {
		s.conn.requeue()
	}
}

// pump takes what the engine says.
func (u *upstream) pump() {
	for left := share; !u.closed && !u.eof; {
		u.leaving = u.leaving || u.HungUp() && u.loop.group.backend.Load().standsBy()
		if s := u.client; s != nil && s.conn.Pending() >= highWater && !u.leaving {
			u.paused = true
			if _, lingers := u.loop.lingering[s]; u.HungUp() && !lingers {
				s.startLinger()
			}
			return
		}
		n, err := u.Read(u.loop.plain[:])
		if n > 0 {
			u.active, u.loop.used = true, true
			u.receive(u.loop.plain[:n])
			if !u.Attached() {
				return // it begins again
			}
			if s := u.client; s != nil && s.flush() != nil {
				s.close(ClientFailed, s.conn.WriteErr())
				return
			}
		}
		if err != nil {
			if err != netloop.ErrAgain {
				u.engineEnded(err)
			}
			return
		}
		if left -= n; left <= 0 {
			u.requeue()
			return
		}
	}
}

// engineEnded is called when the engine has closed. A Unix socket whose peer closed with input unread says ECONNRESET instead
// of EOF, and only after everything that the peer had written: so both are an end.
func (u *upstream) engineEnded(err error) {
	if u.closed {
		return
	}
	u.eof = true
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if b := u.loop.group.backend.Load(); b.remote() && !u.ready && !u.resetting && len(u.firstError) == 0 {
		if b.Failed != nil && u.generation == b.Generation {
			b.Failed(err)
		}
		u.redialAfter(errors.Join(errClosedEarly, err))
		return
	}
	// The beginning of what is passed on as it is goes to the client. That of a reply that would have been changed, or
	// that the client did not ask for, would show it the engine's side.
	if s := u.client; s != nil && len(u.replyBuffer) > 0 && !(u.loop.group.backend.Load().standsBy() && u.mayOrphan(s)) {
		w := u.pendingReplies.head()
		if w == nil || w.client != nil && (w.handler == nil || !w.handler.complete || w.handler.subscription != nil) {
			s.reply(u.replyBuffer)
		}
	}
	u.fail(err)
}

// fail ends a connection that can't be relied on any more, and the clients that wait on it: as if each had had a connection of its
// own that ended now.
func (u *upstream) fail(err error) {
	if u.closed {
		return
	}
	reason := EngineFailed
	if err == nil {
		reason = EngineClosed
	}
	if u.shared {
		u.loop.group.dropCommands(u.key.engine)
	}
	u.connectionLost()
	u.orphanClients(err)
	u.detachUnaffected(err)
	lost := u.takeBlocked()
	for i := range u.pendingReplies.len {
		if s := u.pendingReplies.entry(i).client; s != nil {
			lost = append(lost, s)
		}
	}
	if s := u.client; s != nil {
		lost = append(lost, s)
		s.detach()
	}
	u.end()
	for _, s := range lost {
		if s.phase >= engineGone {
			continue // it was in the queue more than once
		}
		s.setReason(reason, err)
		s.state.NothingInFlight()
		s.reply(u.firstError)
		s.endAfterEngine()
		s.markDirty()
	}
}

// detachUnaffected frees the clients to whom a connection's end is none.
func (u *upstream) detachUnaffected(err error) {
	// Another client may know a password that is still good.
	if refused := (*SetupError)(nil); u.shared && errors.As(err, &refused) {
		for _, s := range u.blocked {
			if s.blockedOn == u && !slices.Equal(s.login.secret, u.credentials) {
				s.blockedOn = nil
				s.conn.requeue()
			}
		}
	}
	if s := u.client; s != nil && !u.mustCloseClient(s, err) {
		s.detach()
		if u.loop.group.backend.Load().remote() {
			s.conn.requeue()
		} else {
			s.suspectDeath(u)
		}
	}
	if u.shared && u.loop.group.backend.Load().remote() && u.ready && len(u.firstError) == 0 {
		u.unblockAll() // what they ask was not sent yet
	}
}

// mustCloseClient says which of the reasons for a connection's end are one for its client's, too.
func (u *upstream) mustCloseClient(s *Session, err error) bool {
	refused := (*SetupError)(nil)
	return !u.ready || errors.As(err, &refused) || len(u.firstError) > 0 ||
		s.state.InFlight() > 0 || s.phase >= engineGone || !s.state.WillBeClean(routing.Conn{Exists: true, Closing: u.WriteClosing()}) ||
		!u.eof && !u.loop.group.backend.Load().remote()
}

// replyUnavailable ends a session whose engine can't be reached.
func (s *Session) replyUnavailable(err error) {
	if s.phase >= engineGone {
		return
	}
	b := s.loop.group.backend.Load()
	if b.Unreachable != nil {
		b.Unreachable(s.cfg.Remote, err)
	}
	s.setReason(EngineAway, err)
	s.detach()
	s.reply(b.unavailableReply())
	s.endAfterEngine()
}

// hangUp ends a connection in good order.
func (u *upstream) hangUp() {
	if u.Attached() {
		u.CloseWrite()
		u.Flush()
	}
	u.end()
}

// end implements owner. It closes the connection; no client is told.
func (u *upstream) end() {
	if p := u.loop.pools[u.key]; p != nil {
		if p.shared == u {
			p.shared = nil
		}
		for i, other := range p.idle {
			if other == u {
				p.idle = append(p.idle[:i], p.idle[i+1:]...)
				break
			}
		}
		if p.shared == nil && len(p.idle) == 0 {
			delete(u.loop.pools, u.key)
		}
	}
	if u.Attached() {
		u.close()
	}
	if u.cancel != nil {
		u.cancel()
	}
	u.minIdleDone()
	u.resumeRetry()
	u.loop.group.trackEngineID(u.id, false)
	u.commandsFetched()
	delete(u.loop.upstreams, u)
	u.closed, u.replyBuffer = true, nil
}

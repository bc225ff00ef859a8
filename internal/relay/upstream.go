package relay

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/resp"
)

// key says which clients an engine connection can serve: those with the same user, database and protocol.
type key struct {
	engine, user string
	db, proto    int
	auth         uint64 // of those that have not logged in: Backend.Auth when they came
}

// credentials are the arguments of AUTH that let a user in. They are in memory only.
type credentials []string

// noneKnown is the id of a connection that the engine doesn't tell: its user may not ask, or has not logged in yet.
const idUnknown = -1

// maxGathered bounds a reply that has to be complete before it is passed on: CLIENT LIST, INFO.
const maxBufferedReply = 256 << 20

// upstream is a connection to the engine. It serves the session that owns it, or all of its key on this loop.
//
// A reply can only reach who asked: the engine answers in order (which is the protocol's own promise), queue holds who
// asked in that order, and an entry stays at its head until the reply has ended, even if its session is gone. What
// could break the order (a blocking command, a push, a reply that does not come) never is on a shared connection.
// Where the bytes say otherwise, the connection is closed, with all that wait on it.
type upstream struct {
	peer
	key               key
	id                int64 // in the engine; 0: not known yet, noneKnown: it doesn't tell
	client            *Session
	shared            bool
	ready             bool // connected, and what its key needs is set up
	letsInWithoutAuth bool // who connects is let in without a password
	needsAuth         bool // it was answered NOAUTH: nobody is logged in on it
	dirty             bool // is in loop.unsent
	active            bool
	idleSince         time.Time // when it became spare

	// Of those that Backend.Dial makes.
	generation       uint64
	cancel           func() // the attempt under way
	attempts         int
	forMinIdle       bool   // it will be spare
	goawayNegotiated bool   // it may be asked to
	draining         bool   // it is to be left
	partialGoaway    []byte // the beginning of what may be goaway
	connName         string // its name at the server

	needsReset bool // something may have been left on it that RESET removes
	resetting  bool // it is being cleaned, and will be spare

	login credentials // of its user, by which it comes in

	firstError   []byte // what the engine has said to our first question, if nothing good came after it
	dialErr      error  // why it could not be reached
	setupPending int    // replies that it still waits for
	dialStart    time.Time
	blocked      []*Session // wait until it is ready, or takes more

	pendingReplies pendingQueue
	scan           resp.ReplyScanner
	replyBuffer    []byte // of a reply that is not passed on before it is complete
	relayingReply  bool   // the message under way is passed on as it comes
	replyBytes     int    // of a reply of its own client's: its bytes so far

	discardingFor *Session // whose reply is thrown away just now, because it is asked for again

	canarySent    time.Time // of a shared connection: when it was last sent one
	canaryPending bool      // and waits for the answer
	canaryDenied  bool      // the user may not ask for it
}

// waiter is who asked, and what for: so many replies in a row.
type pendingReply struct {
	client  *Session // nil: this package did
	count   int
	handler *replyHandler // nil: the replies are passed on as they are
	command *command      // what for
	sent    int64         // the first of them, in Unix nanoseconds
}

// ask says what becomes of a reply.
type replyHandler struct {
	// whole: the reply is complete when answer gets it. Otherwise only if it is one line, and answer gets nil where it
	// was passed on already.
	complete bool
	answer   func(u *upstream, s *Session, reply []byte) []byte
	exec     bool // the reply has those of a transaction in it
	// replies is for how many requests it is, which are one to the client; 0: one. answer gets each reply by itself, and what it
	// returns for the last one is the client's.
	count int
	sub   *subscription // for commands whose replies are messages
}

// queue is a ring of waiters; the ring's length is a power of two.
type pendingQueue struct {
	ring    []pendingReply
	at, len int
}

// maxWaiters is how long a queue may become in which different requests of one client are told apart.
const maxPendingReplies = 4096

// index is where the waiter stands that has i others before it.
func (q *pendingQueue) index(i int) int { return (q.at + i) & (len(q.ring) - 1) }

func (q *pendingQueue) head() *pendingReply {
	if q.len == 0 {
		return nil
	}
	return &q.ring[q.at]
}

func (q *pendingQueue) push(w pendingReply) {
	if q.len > 0 {
		last := &q.ring[q.index(q.len-1)]
		if last.client == w.client && last.handler == nil && w.handler == nil && w.client != nil && (last.command == w.command || q.len >= maxPendingReplies && w.client.dedicated != nil) {
			last.count += w.count
			return
		}
	}
	if q.len == len(q.ring) {
		grown := make([]pendingReply, max(4, 2*q.len))
		for i := range q.len {
			grown[i] = q.ring[q.index(i)]
		}
		q.ring, q.at = grown, 0
	}
	q.ring[q.index(q.len)] = w
	q.len++
}

func (q *pendingQueue) pop() {
	q.ring[q.at] = pendingReply{}
	q.at = q.index(1)
	q.len--
}

// connect begins a connection for a key, for one client or for all.
func (l *loop) connect(k key, owner *Session) *upstream {
	u := &upstream{key: k, dialStart: time.Now(), idleSince: l.now, client: owner, shared: owner == nil}
	u.peer.loop = l
	l.upstreams[u] = struct{}{}
	return u
}

func (u *upstream) try() {
	if u.closed {
		return
	}
	b := u.loop.group.backend.Load()
	if b.remote() {
		u.dial(b)
		return
	}
	fd, err := b.Connect()
	if err != nil {
		u.tryLater(err)
		return
	}
	u.attach(netloop.Conn{FD: fd})
	if err := u.loop.adopt(&u.socket, u); err != nil {
		u.failDial(err)
		return
	}
	u.prepare()
}

var (
	idRequest      = resp.AppendCommand(nil, "CLIENT", "ID")
	noEvictRequest = resp.AppendCommand(nil, "CLIENT", "NO-EVICT", "on")
)

// prepare brings a fresh connection into the state of its key. Nothing of a client is sent before that is known to
// have worked: it would run as somebody else.
func (u *upstream) prepare() {
	must := func(args ...string) {
		u.setupPending++
		_, _ = u.Write(resp.AppendCommand(nil, args...))
		u.pendingReplies.push(pendingReply{count: 1, handler: onSetup})
	}
	b := u.loop.group.backend.Load()
	switch {
	case u.key.user != "":
		must(append([]string{"AUTH"}, u.login...)...)
	case b.remote() && b.Login != nil:
		u.setupPending++
		_, _ = u.Write(resp.AppendCommand(nil, append([]string{"AUTH"}, b.Login...)...))
		u.pendingReplies.push(pendingReply{count: 1, handler: onBackendLogin})
	}
	if u.key.proto == 3 {
		must("HELLO", "3")
	}
	if u.key.db != 0 {
		must("SELECT", itoa(u.key.db))
	}
	switch {
	case u.shared && b.remote():
		u.setConnName(b.Name)
	case b.remote():
		u.nameAsClient(u.client)
	case u.shared:
		// Where memory for clients is short, one that stands for many is not to be the first to go.
		_, _ = u.Write(noEvictRequest)
		u.pendingReplies.push(pendingReply{count: 1, handler: onOptional})
	}
	u.askEngineID()
	u.fetchCommands()
	if u.shared || b.remote() || u.resetting {
		u.setupPending++ // whether it is open decides what may be shared, and whether clients must log in
	}
	if u.setupPending == 0 {
		u.becomeReady()
	} else if u.Flush() != nil {
		u.loop.again(&u.socket)
	}
}

// callAs names a connection as its client is.
func (u *upstream) nameAsClient(s *Session) {
	if s != nil {
		u.setConnName(s.identity.name)
	} else {
		u.setConnName("")
	}
}

func (u *upstream) setConnName(name string) {
	if u.connName == name {
		return
	}
	u.connName = name
	_, _ = u.Write(resp.AppendCommand(nil, "CLIENT", "SETNAME", name))
	u.pendingReplies.push(pendingReply{count: 1, handler: onOptional})
}

// identify asks for the connection's id in the engine. It goes out with the first request.
func (u *upstream) askEngineID() {
	_, _ = u.Write(idRequest)
	u.pendingReplies.push(pendingReply{count: 1, handler: onEngineID})
}

func (u *upstream) becomeReady() {
	u.ready = true
	if u.shared {
		u.firstError = nil // it only means that a user may do little
	}
	if u.client != nil {
		u.blocked = append(u.blocked, u.client)
	}
	u.unblockAll()
	if u.forMinIdle || u.resetting {
		u.minIdleDone()
		u.resetting = false
		u.loop.putIdle(u)
	}
}

func (u *upstream) minIdleDone() {
	if u.forMinIdle {
		u.forMinIdle = false
		u.loop.dialingIdle--
	}
}

func (u *upstream) unblockAll() {
	for _, s := range u.blocked {
		if s.blockedOn == u {
			s.blockedOn = nil
		}
		if !s.closed {
			s.loop.again(&s.conn.socket)
		}
	}
	u.blocked = nil
}

var (
	onSetup = &replyHandler{complete: true, answer: func(u *upstream, _ *Session, reply []byte) []byte {
		if bytes.HasPrefix(reply, []byte("-BUSY")) {
			u.failBusy(reply)
			return nil
		}
		if reply[0] == '-' {
			u.noteFirstError(reply)
			u.fail(&SetupError{string(reply)})
			return nil
		}
		u.setupReplied()
		return nil
	}}
	onOptional = &replyHandler{complete: true, answer: func(u *upstream, _ *Session, reply []byte) []byte {
		u.noteFirstError(reply)
		return nil
	}}
	onEngineID     = &replyHandler{complete: true}
	onBackendLogin = &replyHandler{complete: true}
)

// They lead back to where they are asked from, which the compiler takes for a cycle.
func init() {
	onBackendLogin.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		u.noteFirstError(reply)
		if reply[0] == '-' {
			u.loginRefused(reply)
		} else {
			u.setupReplied()
		}
		return nil
	}
	onEngineID.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		u.noteFirstError(reply)
		if u.resetting && bytes.HasPrefix(reply, []byte("-NOAUTH")) {
			u.end() // whom it served was let in before there was a password
			return nil
		}
		u.id = idUnknown
		u.needsAuth = bytes.HasPrefix(reply, []byte("-NOAUTH"))
		if u.key.user == "" {
			u.loop.letsInWithoutAuth = reply[0] == ':'
		}
		if reply[0] == ':' {
			u.letsInWithoutAuth = true
			u.id = integer(reply[1:])
			u.loop.group.trackEngineID(u.id, u.loop.group.backend.Load().remote())
		} else if bytes.HasPrefix(reply, []byte("-NOAUTH")) && u.key.user == "" && u.loop.group.backend.Load().Refused != nil {
			u.loginRefused(reply)
			return nil
		}
		if u.client != nil {
			u.client.engineID.Store(u.id)
			u.client.dedicatedIDKnown()
		}
		if !u.ready && u.setupPending > 0 {
			u.setupReplied()
		}
		return nil
	}
}

// refused notes an error: an engine that has no room, or is in protected mode, says so to whatever it is asked first, and closes.
func (u *upstream) noteFirstError(reply []byte) {
	u.firstError = nil
	if bytes.HasPrefix(reply, []byte("-ERR ")) || bytes.HasPrefix(reply, []byte("-DENIED ")) {
		u.firstError = append(u.firstError, reply...)
	}
}

func (u *upstream) setupReplied() {
	if u.setupPending--; u.setupPending == 0 {
		u.becomeReady()
	}
}

// SetupError says that the engine no longer lets a user in as it did, so that the client has to log in again.
type SetupError struct{ Reply string }

func (e *SetupError) Error() string { return "the engine refuses to go on for this user: " + e.Reply }

var (
	errUnasked = errors.New("the engine said what nobody asked for")
	errGarbled = errors.New("the engine said what is no RESP")
	errClosed  = errors.New("the server closed a connection before anything was asked on it")
)

// unreachable gives up.
func (u *upstream) failDial(err error) {
	var waiting []*Session
	for _, s := range u.blocked {
		if s.blockedOn == u {
			waiting = append(waiting, s)
		}
	}
	u.blocked = nil
	if u.client != nil {
		waiting = append(waiting, u.client)
	}
	for _, s := range waiting {
		s.replyUnavailable(err)
	}
	u.client, u.dialErr = nil, err
	u.end()
}

// tellAway ends a session whose engine can't be reached.
func (s *Session) replyUnavailable(err error) {
	if s.closed || s.engineGone {
		return
	}
	b := s.loop.group.backend.Load()
	if b.Unreachable != nil {
		b.Unreachable(s.cfg.Remote, err)
	}
	s.setReason(EngineAway, err)
	s.dedicated = nil
	s.reply([]byte(b.UnavailableReply))
	s.endAfterEngine()
}

// notNow gives up a connection that can't be set up while the engine runs a script for too long. Those that wait for it are
// told what the engine says to everybody else, and stay.
func (u *upstream) failBusy(reply []byte) {
	waiting := u.blocked
	u.blocked = nil
	for _, s := range waiting {
		if s.blockedOn == u {
			s.answerBlocked(reply)
		}
	}
	if s := u.client; s != nil {
		s.dedicated, u.client = nil, nil
		s.engineID.Store(0)
		s.answerBlocked(reply)
	}
	u.end()
}

// refuse answers the request that waits to be sent.
func (s *Session) answerBlocked(reply []byte) {
	if s.closed || s.engineGone || !s.blocked {
		return
	}
	s.replay, s.backlog = s.backlog, nil
	s.sent() // what is still to come of it goes nowhere
	s.reply(reply)
	s.loop.again(&s.conn.socket)
}

// letGo frees the clients to whom a connection's end is none.
func (u *upstream) detachUnaffected(err error) {
	// Another client may know a password that is still good.
	if refused := (*SetupError)(nil); u.shared && errors.As(err, &refused) {
		for _, s := range u.blocked {
			if s.blockedOn == u && !slices.Equal(s.secret, u.login) {
				s.blockedOn = nil
				s.loop.again(&s.conn.socket)
			}
		}
	}
	if s := u.client; s != nil && !u.mustCloseClient(s, err) {
		s.dedicated, u.client = nil, nil
		s.engineID.Store(0)
		s.loop.again(&s.conn.socket)
	}
	if u.shared && u.loop.group.backend.Load().remote() && u.ready && len(u.firstError) == 0 {
		u.unblockAll() // what they ask was not sent yet
	}
}

// fail ends a connection that can't be relied on any more, and the clients that wait on it: as if each had been its
// own and ended now.
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
	u.detachUnaffected(err)
	var lost []*Session
	for _, s := range u.blocked {
		if s.blockedOn == u {
			lost = append(lost, s)
		}
	}
	u.blocked = nil
	for i := range u.pendingReplies.len {
		if w := u.pendingReplies.ring[u.pendingReplies.index(i)]; w.client != nil {
			lost = append(lost, w.client)
		}
	}
	if u.client != nil {
		lost = append(lost, u.client)
		u.client.dedicated = nil
		u.client.engineID.Store(0)
		u.client = nil
	}
	u.end()
	for _, s := range lost {
		if s.closed || s.engineGone {
			continue // it was in the queue more than once
		}
		s.setReason(reason, err)
		s.inFlight = 0
		s.reply(u.firstError)
		s.endAfterEngine()
		s.markDirty()
	}
}

// end implements owner.
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

// progress implements owner.
func (u *upstream) progress(*socket) {
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
		u.loop.again(&s.conn.socket)
	}
}

// pump takes what the engine says.
func (u *upstream) pump() {
	for left := share; !u.closed && !u.eof; {
		if s := u.client; s != nil && s.conn.Pending() >= highWater {
			u.paused = true
			if _, expected := u.loop.lingering[s]; u.HungUp() && !expected {
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
				u.ended(err)
			}
			return
		}
		if left -= n; left <= 0 {
			u.loop.again(&u.socket)
			return
		}
	}
}

// ended is called when the engine has closed. A Unix socket whose peer closed with input unread says ECONNRESET instead
// of EOF, and only after everything that the peer had written: so both are an end.
func (u *upstream) ended(err error) {
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
		u.restart(errors.Join(errClosed, err))
		return
	}
	// The beginning of what is passed on as it is goes to the client. That of a reply that would have been changed, or
	// that the client did not ask for, would show it the engine's side.
	if s := u.client; s != nil && len(u.replyBuffer) > 0 {
		if w := u.pendingReplies.head(); w == nil || w.client != nil && (w.handler == nil || !w.handler.complete || w.handler.sub != nil) {
			s.reply(u.replyBuffer)
		}
	}
	u.fail(err)
}

// receive routes what the engine said to those who asked.
func (u *upstream) receive(b []byte) {
	for len(b) > 0 && !u.closed && u.Attached() {
		if u.goawayNegotiated && !u.relayingReply && len(u.replyBuffer) == 0 && u.scan.Between() {
			if b = u.consumeGoaway(b); len(b) == 0 {
				return
			}
		}
		w := u.pendingReplies.head()
		switch s := u.client; {
		case s != nil && s.passthrough && w == nil && u.scan.Between():
			u.goawayNegotiated = false // who sends this is past asking
			s.reply(b)
			return
		case s != nil && s.subscriber.on() && (u.scan.Between() || u.relayingReply || len(u.replyBuffer) > 0):
			b = u.receivePush(s, b)
		case w == nil && (s == nil || u.scan.Between() && resp.Kind(b[0]) != resp.Push):
			b = u.unasked(b)
		case w != nil && w.handler != nil && u.needsWholeReply(w, b[0]):
			b = u.bufferReply(w, b)
		case s == nil:
			b = u.relayShared(w, b)
		default:
			b = u.relayDedicated(w, b)
		}
	}
}

// unasked deals with what nobody asked for.
func (u *upstream) unasked(b []byte) []byte {
	if u.client == nil {
		u.fail(errUnasked)
		return nil
	}
	u.client.passRest()
	u.client.reply(b)
	return nil
}

// garbled deals with what is no RESP.
func (u *upstream) garbled(b []byte) []byte {
	s := u.client
	if s == nil {
		u.fail(errGarbled)
		return nil
	}
	s.passRest()
	s.reply(u.replyBuffer)
	s.reply(b)
	u.replyBuffer, u.pendingReplies, u.scan, u.relayingReply = nil, pendingQueue{}, resp.ReplyScanner{}, false
	s.inFlight = 0
	return nil
}

// isGathered says whether the reply under way, or the one that begins with first, is kept until it is complete.
func (u *upstream) needsWholeReply(w *pendingReply, first byte) bool {
	k := u.scan.Kind()
	if u.scan.Between() {
		k = resp.Kind(first)
	}
	if k == resp.Push {
		return false
	}
	return w.handler.complete || w.handler.exec && w.client.queuedAny || k == resp.Simple || k == resp.Error
}

func (u *upstream) bufferReply(w *pendingReply, b []byte) []byte {
	if u.client == nil && w.client != nil && u.scan.Between() && !u.replyFits(w, b) {
		u.fail(errMismatched)
		return nil
	}
	n, done, err := u.scan.Next(b)
	if err != nil {
		return u.garbled(b)
	}
	if !done || len(u.replyBuffer) > 0 {
		if len(u.replyBuffer)+n > maxBufferedReply {
			u.fail(errGarbled)
			return nil
		}
		u.replyBuffer = append(u.replyBuffer, b[:n]...)
	}
	if done {
		reply := b[:n]
		if len(u.replyBuffer) > 0 {
			reply, u.replyBuffer = u.replyBuffer, nil
		}
		u.answered(*w, reply)
	}
	return b[n:]
}

// answered ends the wait of one whose reply is complete.
func (u *upstream) answered(w pendingReply, reply []byte) {
	if u.pendingReplies.head().count--; w.count == 1 {
		u.pendingReplies.pop()
	}
	if w.client == nil {
		if w.handler.answer(u, nil, reply); u.client != nil && u.client.blocked {
			u.client.markDirty() // its request may have waited to be alone
		}
		return
	}
	if w.client.closed || w.client.engineGone {
		return
	}
	w.client.inFlight--
	w.client.retry.answered++
	u.firstError = nil
	if w.handler != nil {
		reply = w.handler.answer(u, w.client, reply)
	}
	w.client.reply(reply)
	w.client.noteAnswered(w.command, w.sent)
	w.client.markDirty()
}

// pass hands on what belongs to the connection's own client; all of it at once.
func (u *upstream) relayDedicated(w *pendingReply, b []byte) []byte {
	s := u.client
	n, ended := 0, 0
	for n < len(b) {
		k, done, err := u.scan.Next(b[n:])
		if err != nil {
			return u.garbled(b)
		}
		n += k
		if u.replyBytes += k; u.replyBytes > maxSharedReply {
			s.dedicatedLeft = dedicatedAfterLongReply
		}
		if !done {
			break
		}
		size := u.replyBytes
		u.replyBytes = 0
		if u.scan.Kind() == resp.Push || w == nil {
			break
		}
		if w.command.replySizeVaries {
			s.observeReplySize(size, 1)
		}
		if ended++; ended == w.count || w.handler != nil || u.goawayNegotiated && n < len(b) && resp.Kind(b[n]) == resp.Push {
			break
		}
	}
	if !s.closed && !s.engineGone {
		s.reply(b[:n])
		s.inFlight -= ended
		s.markDirty()
	}
	if ended > 0 {
		u.firstError = nil
		s.noteAnswered(w.command, w.sent)
		w.count -= ended
		answer := w.handler
		if w.count == 0 {
			u.pendingReplies.pop()
		}
		if answer != nil && !s.closed && !s.engineGone {
			answer.answer(u, s, nil)
		}
	}
	return b[n:]
}

// tidy implements owner: it ends connections that nobody has needed for a while.
func (u *upstream) tidy() {
	if u.client != nil {
		return
	}
	if u.active {
		u.active, u.idleSince = false, u.loop.now
	}
	if b := u.loop.group.backend.Load(); u.pendingReplies.len == 0 && len(u.blocked) == 0 && (u.loop.now.Sub(u.idleSince) >= maxIdleTime || u.isTooOld(b)) && !u.isMinIdle(b) {
		u.hangUp()
		u.loop.fillIdle(b)
		return
	}
	u.loop.freed.Add(uint64(u.FreeIdle()))
	u.loop.used = true
}

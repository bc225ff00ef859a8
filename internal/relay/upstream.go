package relay

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

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
const noneKnown = -1

// maxGathered bounds a reply that has to be complete before it is passed on: CLIENT LIST, INFO.
const maxGathered = 256 << 20

// upstream is a connection to the engine. It serves the session that owns it, or all of its key on this loop.
//
// A reply can only reach who asked: the engine answers in order (which is the protocol's own promise), queue holds who
// asked in that order, and an entry stays at its head until the reply has ended, even if its session is gone. What
// could break the order (a blocking command, a push, a reply that does not come) never is on a shared connection.
// Where the bytes say otherwise, the connection is closed, with all that wait on it.
type upstream struct {
	peer
	key    key
	id     int64 // in the engine; 0: not known yet, noneKnown: it doesn't tell
	owner  *Session
	shared bool
	ready  bool // connected, and what its key needs is set up
	open   bool // who connects is let in without a password
	locked bool // it was answered NOAUTH: nobody is logged in on it
	listed bool // is in loop.unsent
	moving bool
	since  time.Time // when it became spare

	// Of those that Backend.Dial makes.
	epoch   uint64
	cancel  func() // the attempt under way
	tries   int
	warming bool   // it will be spare
	mayGo   bool   // it may be asked to
	retired bool   // it is to be left
	perhaps []byte // the beginning of what may be goaway
	called  string // its name at the server

	unclean  bool // something may have been left on it that RESET removes
	cleaning bool // it is being cleaned, and will be spare

	login credentials // of its user, by which it comes in

	refusal  []byte // what the engine has said to our first question, if nothing good came after it
	failure  error  // why it could not be reached
	setup    int    // replies that it still waits for
	firstTry time.Time
	wake     []*Session // wait until it is ready, or takes more

	queue    queue
	scan     resp.ReplyScanner
	gathered []byte // of a reply that is not passed on before it is complete
	passing  bool   // the message under way is passed on as it comes
	replied  int    // of a reply of its own client's: its bytes so far

	diverted *Session // whose reply is thrown away just now, because it is asked for again

	canarySent time.Time // of a shared connection: when it was last sent one
	canaryOut  bool      // and waits for the answer
	noCanary   bool      // the user may not ask for it
}

// waiter is who asked, and what for: so many replies in a row.
type waiter struct {
	s    *Session // nil: this package did
	n    int
	ask  *ask     // nil: the replies are passed on as they are
	of   *command // what for
	sent int64    // the first of them, in Unix nanoseconds
}

// ask says what becomes of a reply.
type ask struct {
	// whole: the reply is complete when answer gets it. Otherwise only if it is one line, and answer gets nil where it
	// was passed on already.
	whole  bool
	answer func(u *upstream, s *Session, reply []byte) []byte
	exec   bool // the reply has those of a transaction in it
	// replies is for how many requests it is, which are one to the client; 0: one. answer gets each reply by itself, and what it
	// returns for the last one is the client's.
	replies int
	sub     *subscribing // for commands whose replies are messages
}

// queue is a ring of waiters; the ring's length is a power of two.
type queue struct {
	ring    []waiter
	at, len int
}

// maxWaiters is how long a queue may become in which different requests of one client are told apart.
const maxWaiters = 4096

// index is where the waiter stands that has i others before it.
func (q *queue) index(i int) int { return (q.at + i) & (len(q.ring) - 1) }

func (q *queue) head() *waiter {
	if q.len == 0 {
		return nil
	}
	return &q.ring[q.at]
}

func (q *queue) push(w waiter) {
	if q.len > 0 {
		last := &q.ring[q.index(q.len-1)]
		if last.s == w.s && last.ask == nil && w.ask == nil && w.s != nil && (last.of == w.of || q.len >= maxWaiters && w.s.own != nil) {
			last.n += w.n
			return
		}
	}
	if q.len == len(q.ring) {
		grown := make([]waiter, max(4, 2*q.len))
		for i := range q.len {
			grown[i] = q.ring[q.index(i)]
		}
		q.ring, q.at = grown, 0
	}
	q.ring[q.index(q.len)] = w
	q.len++
}

func (q *queue) pop() {
	q.ring[q.at] = waiter{}
	q.at = q.index(1)
	q.len--
}

// connect begins a connection for a key, for one client or for all.
func (l *loop) connect(k key, owner *Session) *upstream {
	u := &upstream{key: k, firstTry: time.Now(), since: l.now, owner: owner, shared: owner == nil}
	u.socket = socket{fd: -1, loop: l, owner: u}
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
	u.fd = int32(fd)
	if err := u.loop.adopt(&u.socket); err != nil {
		u.unreachable(err)
		return
	}
	u.prepare()
}

var (
	askID      = resp.AppendCommand(nil, "CLIENT", "ID")
	askKeepAll = resp.AppendCommand(nil, "CLIENT", "NO-EVICT", "on")
)

// prepare brings a fresh connection into the state of its key. Nothing of a client is sent before that is known to
// have worked: it would run as somebody else.
func (u *upstream) prepare() {
	must := func(args ...string) {
		u.setup++
		_, _ = u.Write(resp.AppendCommand(nil, args...))
		u.queue.push(waiter{n: 1, ask: askSetup})
	}
	b := u.loop.group.backend.Load()
	switch {
	case u.key.user != "":
		must(append([]string{"AUTH"}, u.login...)...)
	case b.remote() && b.Login != nil:
		u.setup++
		_, _ = u.Write(resp.AppendCommand(nil, append([]string{"AUTH"}, b.Login...)...))
		u.queue.push(waiter{n: 1, ask: askLogin})
	}
	if u.key.proto == 3 {
		must("HELLO", "3")
	}
	if u.key.db != 0 {
		must("SELECT", itoa(u.key.db))
	}
	switch {
	case u.shared && b.remote():
		u.call(b.Name)
	case b.remote():
		u.callAs(u.owner)
	case u.shared:
		// Where memory for clients is short, one that stands for many is not to be the first to go.
		_, _ = u.Write(askKeepAll)
		u.queue.push(waiter{n: 1, ask: askNothing})
	}
	u.identify()
	u.learn()
	if u.shared || b.remote() || u.cleaning {
		u.setup++ // whether it is open decides what may be shared, and whether clients must log in
	}
	if u.setup == 0 {
		u.becomeReady()
	} else if u.flush() != nil {
		u.loop.again(&u.socket)
	}
}

// callAs names a connection as its client is.
func (u *upstream) callAs(s *Session) {
	if s != nil {
		u.call(s.state.name)
	} else {
		u.call("")
	}
}

func (u *upstream) call(name string) {
	if u.called == name {
		return
	}
	u.called = name
	_, _ = u.Write(resp.AppendCommand(nil, "CLIENT", "SETNAME", name))
	u.queue.push(waiter{n: 1, ask: askNothing})
}

// identify asks for the connection's id in the engine. It goes out with the first request.
func (u *upstream) identify() {
	_, _ = u.Write(askID)
	u.queue.push(waiter{n: 1, ask: askIdentity})
}

func (u *upstream) becomeReady() {
	u.ready = true
	if u.shared {
		u.refusal = nil // it only means that a user may do little
	}
	if u.owner != nil {
		u.wake = append(u.wake, u.owner)
	}
	u.wakeAll()
	if u.warming || u.cleaning {
		u.isWarmed()
		u.cleaning = false
		u.loop.keep(u)
	}
}

func (u *upstream) isWarmed() {
	if u.warming {
		u.warming = false
		u.loop.warming--
	}
}

func (u *upstream) wakeAll() {
	for _, s := range u.wake {
		if s.waitsFor == u {
			s.waitsFor = nil
		}
		if !s.over {
			s.loop.again(&s.client.socket)
		}
	}
	u.wake = nil
}

var (
	askSetup = &ask{whole: true, answer: func(u *upstream, _ *Session, reply []byte) []byte {
		if bytes.HasPrefix(reply, []byte("-BUSY")) {
			u.notNow(reply)
			return nil
		}
		if reply[0] == '-' {
			u.refused(reply)
			u.fail(&SetupError{string(reply)})
			return nil
		}
		u.setUp()
		return nil
	}}
	askNothing = &ask{whole: true, answer: func(u *upstream, _ *Session, reply []byte) []byte {
		u.refused(reply)
		return nil
	}}
	askIdentity = &ask{whole: true}
	askLogin    = &ask{whole: true}
)

// They lead back to where they are asked from, which the compiler takes for a cycle.
func init() {
	askLogin.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		u.refused(reply)
		if reply[0] == '-' {
			u.notLetIn(reply)
		} else {
			u.setUp()
		}
		return nil
	}
	askIdentity.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		u.refused(reply)
		if u.cleaning && bytes.HasPrefix(reply, []byte("-NOAUTH")) {
			u.end() // whom it served was let in before there was a password
			return nil
		}
		u.id = noneKnown
		u.locked = bytes.HasPrefix(reply, []byte("-NOAUTH"))
		if u.key.user == "" {
			u.loop.open = reply[0] == ':'
		}
		if reply[0] == ':' {
			u.open = true
			u.id = integer(reply[1:])
			u.loop.group.noteConnection(u.id, u.loop.group.backend.Load().remote())
		} else if bytes.HasPrefix(reply, []byte("-NOAUTH")) && u.key.user == "" && u.loop.group.backend.Load().Refused != nil {
			u.notLetIn(reply)
			return nil
		}
		if u.owner != nil {
			u.owner.engineID.Store(u.id)
			u.owner.ownIsKnown()
		}
		if !u.ready && u.setup > 0 {
			u.setUp()
		}
		return nil
	}
}

// refused notes an error: an engine that has no room, or is in protected mode, says so to whatever it is asked first, and closes.
func (u *upstream) refused(reply []byte) {
	u.refusal = nil
	if bytes.HasPrefix(reply, []byte("-ERR ")) || bytes.HasPrefix(reply, []byte("-DENIED ")) {
		u.refusal = append(u.refusal, reply...)
	}
}

func (u *upstream) setUp() {
	if u.setup--; u.setup == 0 {
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
func (u *upstream) unreachable(err error) {
	var waiting []*Session
	for _, s := range u.wake {
		if s.waitsFor == u {
			waiting = append(waiting, s)
		}
	}
	u.wake = nil
	if u.owner != nil {
		waiting = append(waiting, u.owner)
	}
	for _, s := range waiting {
		s.tellAway(err)
	}
	u.owner, u.failure = nil, err
	u.end()
}

// tellAway ends a session whose engine can't be reached.
func (s *Session) tellAway(err error) {
	if s.over || s.gone {
		return
	}
	b := s.loop.group.backend.Load()
	if b.Unreachable != nil {
		b.Unreachable(s.cfg.Remote, err)
	}
	s.why(EngineAway, err)
	s.own = nil
	s.reply([]byte(b.Away))
	s.sayGoodbye()
}

// notNow gives up a connection that can't be set up while the engine runs a script for too long. Those that wait for it are
// told what the engine says to everybody else, and stay.
func (u *upstream) notNow(reply []byte) {
	waiting := u.wake
	u.wake = nil
	for _, s := range waiting {
		if s.waitsFor == u {
			s.refuse(reply)
		}
	}
	if s := u.owner; s != nil {
		s.own, u.owner = nil, nil
		s.engineID.Store(0)
		s.refuse(reply)
	}
	u.end()
}

// refuse answers the request that waits to be sent.
func (s *Session) refuse(reply []byte) {
	if s.over || s.gone || !s.whole {
		return
	}
	s.again, s.rest = s.rest, nil
	s.dispatched() // what is still to come of it goes nowhere
	s.reply(reply)
	s.loop.again(&s.client.socket)
}

// letGo frees the clients to whom a connection's end is none.
func (u *upstream) letGo(err error) {
	// Another client may know a password that is still good.
	if refused := (*SetupError)(nil); u.shared && errors.As(err, &refused) {
		for _, s := range u.wake {
			if s.waitsFor == u && !slices.Equal(s.secret, u.login) {
				s.waitsFor = nil
				s.loop.again(&s.client.socket)
			}
		}
	}
	if s := u.owner; s != nil && !u.isLost(s, err) {
		s.own, u.owner = nil, nil
		s.engineID.Store(0)
		s.loop.again(&s.client.socket)
	}
	if u.shared && u.loop.group.backend.Load().remote() && u.ready && len(u.refusal) == 0 {
		u.wakeAll() // what they ask was not sent yet
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
		u.loop.group.forget(u.key.engine)
	}
	u.letGo(err)
	var lost []*Session
	for _, s := range u.wake {
		if s.waitsFor == u {
			lost = append(lost, s)
		}
	}
	u.wake = nil
	for i := range u.queue.len {
		if w := u.queue.ring[u.queue.index(i)]; w.s != nil {
			lost = append(lost, w.s)
		}
	}
	if u.owner != nil {
		lost = append(lost, u.owner)
		u.owner.own = nil
		u.owner.engineID.Store(0)
		u.owner = nil
	}
	u.end()
	for _, s := range lost {
		if s.over || s.gone {
			continue // it was in the queue more than once
		}
		s.why(reason, err)
		s.inflight = 0
		s.reply(u.refusal)
		s.sayGoodbye()
		s.touch()
	}
}

// end implements owner.
func (u *upstream) end() {
	if p := u.loop.pools[u.key]; p != nil {
		if p.shared == u {
			p.shared = nil
		}
		for i, other := range p.spare {
			if other == u {
				p.spare = append(p.spare[:i], p.spare[i+1:]...)
				break
			}
		}
		if p.shared == nil && len(p.spare) == 0 {
			delete(u.loop.pools, u.key)
		}
	}
	if u.fd >= 0 {
		u.close()
	}
	if u.cancel != nil {
		u.cancel()
	}
	u.isWarmed()
	u.goOnDiverted()
	u.loop.group.noteConnection(u.id, false)
	u.asksNoMore()
	delete(u.loop.upstreams, u)
	u.closed, u.gathered = true, nil
}

// progress implements owner.
func (u *upstream) progress(*socket) {
	if u.closed || u.fd < 0 {
		return
	}
	if u.pending() > 0 && u.flush() != nil {
		u.release() // what it still has to say is read; then comes its end
	}
	u.roomMade()
	u.pump()
	if u.tls != nil && !u.closed && u.fd >= 0 {
		u.keep()
	}
	u.endRetired()
	u.loop.endStep()
}

// roomMade is called after each flush: those that waited for it to be taken go on. No event tells of what was taken at once.
func (u *upstream) roomMade() {
	if u.pending() >= lowWater {
		return
	}
	if len(u.wake) > 0 && u.ready {
		u.wakeAll()
	}
	if s := u.owner; s != nil && s.client.paused && !s.held() {
		u.loop.again(&s.client.socket)
	}
}

// pump takes what the engine says.
func (u *upstream) pump() {
	for left := share; !u.closed && !u.eof; {
		if s := u.owner; s != nil && s.client.pending() >= highWater {
			u.paused = true
			if _, expected := u.loop.waiting[s]; u.hangup && !expected {
				s.expect()
			}
			return
		}
		n, err := u.read(u.loop.plain[:])
		if n > 0 {
			u.moving, u.loop.used = true, true
			u.receive(u.loop.plain[:n])
			if u.fd < 0 {
				return // it begins again
			}
			if s := u.owner; s != nil && s.flush() != nil {
				s.cut(ClientFailed, s.client.outErr)
				return
			}
		}
		if err != nil {
			if err != errAgain {
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
	if b := u.loop.group.backend.Load(); b.remote() && !u.ready && !u.cleaning && len(u.refusal) == 0 {
		if b.Failed != nil && u.epoch == b.Epoch {
			b.Failed(err)
		}
		u.restart(errors.Join(errClosed, err))
		return
	}
	// The beginning of what is passed on as it is goes to the client. That of a reply that would have been changed, or
	// that the client did not ask for, would show it the engine's side.
	if s := u.owner; s != nil && len(u.gathered) > 0 {
		if w := u.queue.head(); w == nil || w.s != nil && (w.ask == nil || !w.ask.whole || w.ask.sub != nil) {
			s.reply(u.gathered)
		}
	}
	u.fail(err)
}

// receive routes what the engine said to those who asked.
func (u *upstream) receive(b []byte) {
	for len(b) > 0 && !u.closed && u.fd >= 0 {
		if u.mayGo && !u.passing && len(u.gathered) == 0 && u.scan.Between() {
			if b = u.takeGoaway(b); len(b) == 0 {
				return
			}
		}
		w := u.queue.head()
		switch s := u.owner; {
		case s != nil && s.blind && w == nil && u.scan.Between():
			u.mayGo = false // who sends this is past asking
			s.reply(b)
			return
		case s != nil && s.feed.on() && (u.scan.Between() || u.passing || len(u.gathered) > 0):
			b = u.receiveMessage(s, b)
		case w == nil && (s == nil || u.scan.Between() && resp.Kind(b[0]) != resp.Push):
			b = u.unasked(b)
		case w != nil && w.ask != nil && u.isGathered(w, b[0]):
			b = u.gather(w, b)
		case s == nil:
			b = u.passShared(w, b)
		default:
			b = u.pass(w, b)
		}
	}
}

// unasked deals with what nobody asked for.
func (u *upstream) unasked(b []byte) []byte {
	if u.owner == nil {
		u.fail(errUnasked)
		return nil
	}
	u.owner.stopLooking()
	u.owner.reply(b)
	return nil
}

// garbled deals with what is no RESP.
func (u *upstream) garbled(b []byte) []byte {
	s := u.owner
	if s == nil {
		u.fail(errGarbled)
		return nil
	}
	s.stopLooking()
	s.reply(u.gathered)
	s.reply(b)
	u.gathered, u.queue, u.scan, u.passing = nil, queue{}, resp.ReplyScanner{}, false
	s.inflight = 0
	return nil
}

// isGathered says whether the reply under way, or the one that begins with first, is kept until it is complete.
func (u *upstream) isGathered(w *waiter, first byte) bool {
	k := u.scan.Kind()
	if u.scan.Between() {
		k = resp.Kind(first)
	}
	if k == resp.Push {
		return false
	}
	return w.ask.whole || w.ask.exec && w.s.queuedAny || k == resp.Simple || k == resp.Error
}

func (u *upstream) gather(w *waiter, b []byte) []byte {
	if u.owner == nil && w.s != nil && u.scan.Between() && !u.matches(w, b) {
		u.fail(errMismatched)
		return nil
	}
	n, done, err := u.scan.Next(b)
	if err != nil {
		return u.garbled(b)
	}
	if !done || len(u.gathered) > 0 {
		if len(u.gathered)+n > maxGathered {
			u.fail(errGarbled)
			return nil
		}
		u.gathered = append(u.gathered, b[:n]...)
	}
	if done {
		reply := b[:n]
		if len(u.gathered) > 0 {
			reply, u.gathered = u.gathered, nil
		}
		u.answered(*w, reply)
	}
	return b[n:]
}

// answered ends the wait of one whose reply is complete.
func (u *upstream) answered(w waiter, reply []byte) {
	if u.queue.head().n--; w.n == 1 {
		u.queue.pop()
	}
	if w.s == nil {
		if w.ask.answer(u, nil, reply); u.owner != nil && u.owner.whole {
			u.owner.touch() // its request may have waited to be alone
		}
		return
	}
	if w.s.over || w.s.gone {
		return
	}
	w.s.inflight--
	w.s.resend.answered++
	u.refusal = nil
	if w.ask != nil {
		reply = w.ask.answer(u, w.s, reply)
	}
	w.s.reply(reply)
	w.s.logged(w.of, w.sent)
	w.s.touch()
}

// pass hands on what belongs to the connection's own client; all of it at once.
func (u *upstream) pass(w *waiter, b []byte) []byte {
	s := u.owner
	n, ended := 0, 0
	for n < len(b) {
		k, done, err := u.scan.Next(b[n:])
		if err != nil {
			return u.garbled(b)
		}
		n += k
		if u.replied += k; u.replied > maxSharedReply {
			s.large = longStay
		}
		if !done {
			break
		}
		size := u.replied
		u.replied = 0
		if u.scan.Kind() == resp.Push || w == nil {
			break
		}
		if w.of.readsValue {
			s.noteSize(size, 1)
		}
		if ended++; ended == w.n || w.ask != nil || u.mayGo && n < len(b) && resp.Kind(b[n]) == resp.Push {
			break
		}
	}
	if !s.over && !s.gone {
		s.reply(b[:n])
		s.inflight -= ended
		s.touch()
	}
	if ended > 0 {
		u.refusal = nil
		s.logged(w.of, w.sent)
		w.n -= ended
		answer := w.ask
		if w.n == 0 {
			u.queue.pop()
		}
		if answer != nil && !s.over && !s.gone {
			answer.answer(u, s, nil)
		}
	}
	return b[n:]
}

// tidy implements owner: it ends connections that nobody has needed for a while.
func (u *upstream) tidy() {
	if u.owner != nil {
		return
	}
	if u.moving {
		u.moving, u.since = false, u.loop.now
	}
	if b := u.loop.group.backend.Load(); u.queue.len == 0 && len(u.wake) == 0 && (u.loop.now.Sub(u.since) >= spareTime || u.aged(b)) && !u.isWarm(b) {
		u.hangUp()
		u.loop.keepWarm(b)
		return
	}
	u.loop.freed.Add(uint64(freeInput(u.tls)))
	u.loop.used = true
}

// connectUnix is Backend.Connect for an engine behind a Unix socket.
func connectUnix(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// UnixSocket is a Backend.Connect for an engine behind a Unix socket.
func UnixSocket(path string) func() (int, error) {
	return func() (int, error) { return connectUnix(path) }
}

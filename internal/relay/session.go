// Package relay is the data path: it moves what clients ask to an engine, and what that answers back.
//
// Each client is a Session on an event loop. It either has an engine connection of its own, or shares one with the other
// clients of the loop that have the same user, database and protocol version. Which, and why, is in commands.go; a client
// cannot tell. What it says is cut into requests and otherwise passed on as it is.
//
// Guaranteed: every request arrives once, in order and unchanged (but for the few in rewrite.go that name clients, and reads
// with long replies, which may arrive twice: see fair.go), and is never held back to wait for another client's. Memory stays
// small whoever does not read: the engine keeps what a client leaves unread. The end of one direction never cuts the other while it
// still lives; what the engine said last reaches the client even if the client is still sending. A reply can't reach
// another client: see upstream and replies.go for the reason. When a Session is done, its connections are closed, or clean and back in the
// pool, and nothing of it is left.
//
// Loops are one goroutine each, use edge-triggered epoll and never block on a connection. Clients may be encrypted or not:
// relay knows nothing of TLS policy, listeners, or who may connect.
package relay

import (
	"errors"
	"io"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/resp"
)

const (
	// highWater is where reading from one side stops until the other has taken what is queued for it.
	highWater = 256 << 10
	lowWater  = 64 << 10
	// share is how much one side of one session may move in a round before the others have their turn.
	share = 256 << 10

	defaultLingerTime  = 3 * time.Second
	defaultLingerBytes = 16 << 20
	defaultStallTime   = 10 * time.Second
)

// Config has what is known of one client, and its limits. The zero value is ready to use.
type Config struct {
	// Remote and Local are the addresses of the client's connection, as CLIENT LIST shows them. Path is shown for a client
	// that has none: that of the Unix socket by which it came.
	Remote, Local netip.AddrPort
	Path          string
	// Goaway says that the client understands it: it has negotiated Protocol.
	Goaway bool
	// Opening, where given, is shown what the client says first, until it has decided: then either there is an answer, and the
	// client is closed with it, or the client is one to serve. It runs on the loop and must not wait.
	Opening func(head []byte) (answer []byte, decided bool)
	// LingerTime is for how long a client's input is still read, and thrown away, after the engine has ended: closing a
	// socket with unread input sends a reset, which can destroy the last reply on its way. Zero: 3 s.
	LingerTime time.Duration
	// LingerBytes is how much input is thrown away at most. Zero: 16 MiB.
	LingerBytes int64
	// StallTime is how long a client may leave the last words of an engine that is gone unread before it is cut.
	// Zero: 10 s.
	StallTime time.Duration
	// Ended, where given, is called once, when the client's connection is closed. It runs on the loop and must not wait.
	Ended func(Result)
}

// Reason says what ended a Session. The set is closed, so it may label a metric.
type Reason string

const (
	ClientClosed Reason = "client_closed" // the client ended its direction first, or said QUIT
	EngineClosed Reason = "engine_closed" // the engine did
	ClientFailed Reason = "client_failed" // reset, time-out, broken TLS, or it left too much unread
	EngineFailed Reason = "engine_failed" // reset: the engine closed while it had input left to read
	EngineAway   Reason = "engine_away"   // there was none
	IdleTooLong  Reason = "idle_too_long" // the instance's timeout
	Killed       Reason = "killed"        // by CLIENT KILL
	Misdirected  Reason = "misdirected"   // Config.Opening had an answer
	Cut          Reason = "cut"           // Close was called, or the client never read what a gone engine had said
)

// Result is what became of a Session.
type Result struct {
	In, Out uint64 // bytes delivered to the engine, to the client
	Ended   Reason // what came first
	Err     error  // the error behind Ended; nil where that is an orderly end
	Client  Client // as it was at the end
}

// Client is what a client has said of itself.
type Client struct {
	Name    string // as CLIENT SETNAME or HELLO set it
	Library string // as CLIENT SETINFO LIB-NAME has it, also where the engine knows no such command
	User    string // whom the engine has let in; "default" without a login
}

// Client is what the client has said of itself by now.
func (s *Session) Client() Client {
	shown := s.published.Load()
	c := Client{Name: shown.name, Library: shown.libName, User: s.userName(shown)}
	if claimed := s.claimedLibrary.Load(); claimed != nil && c.Library == "" {
		c.Library = *claimed
	}
	return c
}

// Session is one client, from the end of its handshake to its close. Its methods may be called from anywhere.
type Session struct {
	loop *loop
	cfg  Config
	done chan struct{}

	// What others may look at while the loop works.
	id             int64
	began          time.Time
	bytesIn        atomic.Uint64 // bytes that the client has sent
	bytesOut       atomic.Uint64 // and those that it was told
	commands       atomic.Uint64 // that it has sent, as far as they are looked at
	busy           atomic.Bool   // a request has no reply yet, or a reply is not sent
	lastSeen       uint64        // of the watcher: what had moved, when Quiet was last asked
	published      atomic.Pointer[identity]
	claimedLibrary atomic.Pointer[string] // the library's name, where the engine did not take it
	lastCommand    atomic.Pointer[command]
	lastRequest    atomic.Int64 // Unix nanoseconds of the last request
	engineID       atomic.Int64 // of own, in the engine; 0: it has none, or it is not known
	isSubscriber   atomic.Bool  // it has subscriptions, or is a monitor
	redirect       atomic.Int64 // the client that gets its invalidations, as CLIENT TRACKING named it; 0: none

	// Of the loop.
	conn              peer
	result            Result
	closed            bool
	handshakeJustDone bool // the last message of the handshake may be all that the client has sent
	active            bool // something moved since the last tidy
	wasBusy           bool // what busy was set to
	dirty             bool // is in loop.touched
	lastWasRequest    bool // of a session whose bytes are not looked at: what moved last was a request
	engineGone        bool // the engine has said its last; what the client sends is thrown away
	closeAfterReply   bool // so it is after the replies under way

	bytesOutBefore uint64    // of told, when the request before had been answered
	opening        []byte    // what Config.Opening has not decided about
	discarded      int64     // of what is thrown away
	lingerProgress time.Time // when the client last took some of a gone engine's words, as far as ticks tell
	lingerUnsent   int       // at the last tick
	goaway         goaway

	requests
}

// requests is where a session is in what its client asks.
type requests struct {
	scan        resp.CommandScanner
	cmd         *command // of the request under way
	buffer      []byte   // of it, as far as it is here
	backlog     []byte   // what came behind it, while it has to wait
	replay      []byte   // what is to be taken before anything else of the client's: requests to be asked again
	blocked     bool     // part has to wait for something
	passingHead bool     // and is the beginning of a request that is passed on as it comes
	passingRest bool     // the rest of the request goes where its beginning went
	passthrough bool     // nothing is looked at any more: it is between the client and the engine of its own

	identity        identity
	auth            uint64          // Backend.Auth when it came, or was reset
	secret          credentials     // that let it in; nil: it has not logged in
	dedicated       *upstream       // its own engine connection
	shared          *upstream       // the shared one of its key, where it is known
	inFlightOn      *upstream       // the shared one that its requests in flight are on
	blockedOn       *upstream       // whose wake has it: the shared one that is not ready for its next request
	inFlight        int             // requests without a reply
	unpipelined     bool            // nothing follows the request in flight before it is answered
	retry           retryBuffer     // requests in flight on a shared connection
	replySize       int             // how long replies to the client are, as far as can be guessed
	replySizeAt     time.Time       // since when that is known
	retryBlocked    bool            // again waits until a long reply is over
	dedicatedLeft   int             // for so many requests it keeps a connection of its own, because its replies are long
	multi           bool            // between MULTI and EXEC, as far as the engine has said
	queuing         bool            // the same, as far as the client has
	queued          []*replyHandler // what EXEC's reply will have
	queuedAny       bool            // one of them is not nil
	watch           bool
	needDedicated   []*Session // wait until this one has a connection of its own
	dirtyUntilReset bool       // there is state that only the end of the connection, or RESET, undoes
	dirtyForGood    bool       // there is state that not even RESET undoes
	unknownEffects  int        // requests in flight of which is not known what they leave behind
	resetting       bool       // RESET is to be answered before anything else is asked
	subscriber      subscriber
}

// identity is what a client has said of itself: it comes along to every engine connection that serves the client, and
// nobody else sees it. A published one is not changed.
type identity struct {
	user            string // "": as it was connected
	db              int
	proto           int // 2 or 3
	name            string
	libName, libVer string
}

// Serve takes a client over. It is closed by the Session, whatever happens.
func (ls *Loops) Serve(client netloop.Conn, cfg Config) *Session {
	s := ls.session(ls.pick(), client, cfg)
	if !s.loop.post(s.start) {
		unix.Close(client.FD)
		s.closed = true
		s.result.Ended = Cut
		s.finish()
	}
	return s
}

// session is a client that has not begun.
func (ls *Loops) session(l *loop, client netloop.Conn, cfg Config) *Session {
	if cfg.LingerTime == 0 {
		cfg.LingerTime = defaultLingerTime
	}
	if cfg.LingerBytes == 0 {
		cfg.LingerBytes = defaultLingerBytes
	}
	if cfg.StallTime == 0 {
		cfg.StallTime = defaultStallTime
	}
	s := &Session{loop: l, cfg: cfg, done: make(chan struct{}), began: time.Now()}
	s.identity.proto, s.auth, s.replySize = 2, ls.backend.Load().Auth, assumedReplySize
	s.lastRequest.Store(s.began.UnixNano())
	s.publish()
	s.conn.loop = l
	s.conn.attach(client)
	ls.clients.add(s, ls.backend.Load().remote())
	return s
}

// start is the session's first task.
func (s *Session) start() {
	if err := s.loop.adopt(&s.conn.socket, s); err != nil {
		s.close(ClientFailed, err)
		return
	}
	// A client that leaves Nagle's algorithm on (RFC 9293, 3.7.4) sends its first request once its last message of the handshake is
	// acknowledged, and the kernel takes 40 ms to do so by itself. Nothing that crypto/tls writes comes after that message (the
	// session tickets don't), so nothing carries the acknowledgement, unless the first request is here already.
	s.handshakeJustDone = s.conn.TLS != nil
	// The handshake may have read ahead, and no event tells of that.
	s.loop.again(&s.conn.socket)
}

// Done is closed when the client's connection is; then Result says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Result waits for the end of the session.
func (s *Session) Result() Result {
	<-s.done
	return s.result
}

// Close cuts the connection, whatever it is doing. It may be called more than once.
func (s *Session) Close() { s.loop.post(func() { s.closeNotify(Cut) }) }

// Quiet reports whether nothing has moved since the call before, and what moved last was a reply, so that
// closing now most likely interrupts nothing. (Only most likely: a subscriber may be sent something just now.)
// It is for one watching goroutine.
func (s *Session) Quiet() bool {
	moved := s.bytesIn.Load() + s.bytesOut.Load()
	same := moved == s.lastSeen
	s.lastSeen = moved
	return same && !s.busy.Load()
}

// leave ends the session, and tells the client that nothing is missing, if it can be told without waiting.
func (s *Session) closeNotify(r Reason) {
	if !s.closed && s.conn.TLS != nil && s.conn.Pending() == 0 {
		s.conn.TLS.CloseWrite()
		s.conn.Flush()
	}
	s.close(r, nil)
}

// progress implements owner.
func (s *Session) progress(*socket) {
	if s.conn.Pending() > 0 && s.flush() != nil {
		s.close(ClientFailed, s.conn.WriteErr())
		return
	}
	if s.dedicated != nil && s.dedicated.paused && s.conn.Pending() < lowWater {
		s.dedicated.paused = false
		s.loop.again(&s.dedicated.socket)
	}
	s.resume()
	s.pump()
	s.maybeClose()
}

// pump takes what the client says.
func (s *Session) pump() {
	s.conn.paused = false
	for left := share; !s.closed && !s.conn.eof && !s.conn.closed; {
		if s.mustNotRead() {
			s.conn.paused = true
			break
		}
		n, err := s.conn.Read(s.loop.plain[:])
		if n > 0 {
			s.handshakeJustDone = false
			s.bytesIn.Add(uint64(n))
			s.active, s.loop.used = true, true
			s.lastRequest.Store(s.loop.now.UnixNano())
			s.parse(s.loop.plain[:n])
		}
		if err != nil {
			if err != netloop.ErrAgain {
				s.clientEnded(err)
			}
			break
		}
		if left -= n; left <= 0 {
			s.loop.again(&s.conn.socket)
			break
		}
	}
	if s.closed {
		return
	}
	s.conn.SaveReadAhead()
	if s.conn.Drained() && (s.handshakeJustDone || s.midRequest()) {
		s.conn.QuickAck()
	}
	s.handshakeJustDone = false
	if u := s.dedicated; u != nil && u.ready && !u.closed {
		if u.Flush() != nil {
			s.loop.again(&u.socket) // its own direction shows the end
		}
		u.roomMade()
	}
	// crypto/tls may have had something to say by itself.
	if s.conn.Pending() > 0 && s.flush() != nil {
		s.close(ClientFailed, s.conn.WriteErr())
	}
}

// flush sends the client what it takes. A client that takes something is not idle (the engines' rule).
func (s *Session) flush() error {
	before := s.conn.Sent()
	err := s.conn.Flush()
	if s.conn.Sent() != before {
		s.lastRequest.Store(s.loop.now.UnixNano())
	}
	return err
}

// unfinished says that the client is in the middle of a request.
func (s *Session) midRequest() bool { return s.passingRest || len(s.buffer) > 0 && !s.blocked }

// held says whether the client is not to be read now. That it does not read itself is no reason: it may do so once it has
// said all. Its replies are kept by the engine meanwhile.
func (s *Session) mustNotRead() bool {
	if s.engineGone {
		return false
	}
	return s.blocked || len(s.replay) > 0 || s.dedicated != nil && s.dedicated.Pending() >= highWater
}

// reply gives the client some of what the engine said. It is sent at the end of the step.
func (s *Session) reply(b []byte) {
	if s.closed || len(b) == 0 {
		return
	}
	s.bytesOut.Add(uint64(len(b)))
	s.active, s.loop.used, s.lastWasRequest = true, true, false
	if s.conn.TLS != nil {
		_, _ = s.conn.TLS.Write(b) // flush reports it
	} else {
		_, _ = s.conn.Write(b)
	}
	s.result.Out += uint64(len(b))
	s.loop.counts.out.Add(uint64(len(b)))
	s.markDirty()
}

// touch makes sure that the step's end looks at the session.
func (s *Session) markDirty() {
	if !s.dirty {
		s.dirty = true
		s.loop.dirtyClients = append(s.loop.dirtyClients, s)
	}
}

// afterStep sends what the step has brought, and goes on with what had to wait for it.
func (s *Session) flushClient() {
	s.dirty = false
	if s.closed {
		return
	}
	s.sendGoaway()
	if s.flush() != nil {
		s.close(ClientFailed, s.conn.WriteErr())
		return
	}
	if s.conn.Pending() > maxOutputBuffer {
		s.close(ClientFailed, errOutputBuffer)
		return
	}
	if s.blocked {
		s.loop.again(&s.conn.socket)
	}
	s.maybeClose()
}

// maxUnread is how much a client may leave unread of what it asked for over a shared connection, whose other clients
// can't wait for it: one reply of the greatest length, and then some. So much it can only be where the request must not be
// asked twice (GETDEL). One with a connection of its own is waited for.
const maxOutputBuffer = 640 << 20

var errOutputBuffer = errors.New("the client leaves its replies unread")

// clientEnded is called when the client has said all, or its connection broke.
func (s *Session) clientEnded(err error) {
	s.conn.eof = true
	if errors.Is(err, io.EOF) {
		s.setReason(ClientClosed, nil)
		return
	}
	s.close(ClientFailed, err)
}

// sayGoodbye passes the engine's end on. What the client sends from now on is thrown away.
func (s *Session) endAfterEngine() {
	if s.closed || s.engineGone {
		return
	}
	s.engineGone = true
	s.dropDedicated()
	s.blocked, s.buffer, s.backlog, s.replay = false, nil, nil, nil
	s.conn.CloseWrite()
	if s.conn.eof && s.conn.TLS == nil {
		s.conn.OmitFIN() // its close follows at once, and says the same
	}
	s.startLinger()
	s.loop.again(&s.conn.socket)
	if s.flush() != nil {
		s.close(ClientFailed, s.conn.WriteErr())
	}
}

// settle closes the session when both directions are done.
func (s *Session) maybeClose() {
	if s.closed {
		return
	}
	if len(s.needDedicated) > 0 {
		s.holdDedicated()
	}
	s.releaseClean()
	s.leaveDraining()
	left := s.conn.Pending()
	waits := s.blocked || len(s.replay) > 0
	if busy := !s.engineGone && (s.inFlight > 0 || s.lastWasRequest || waits || s.midRequest() || len(s.opening) > 0) || left > 0; busy != s.wasBusy {
		s.wasBusy = busy
		s.busy.Store(busy)
	}
	if !s.engineGone && !waits && (s.conn.eof || s.closeAfterReply) {
		switch {
		case s.dedicated != nil:
			if s.dedicated.CloseWrite(); s.dedicated.ready {
				s.dedicated.Flush()
			}
		case s.inFlight == 0:
			s.endAfterEngine()
		}
	}
	if !s.closed && s.conn.Pending() == 0 && s.engineGone && s.conn.eof && s.conn.WriteClosed() {
		s.close(Cut, nil) // the reason is known already
	}
}

// expect begins to measure how long the client takes over the last words of an engine that is gone.
func (s *Session) startLinger() {
	s.loop.lingering[s] = struct{}{}
	s.lingerProgress, s.lingerUnsent = s.loop.now, s.conn.Pending()
}

// getOwn is called when others need the session to have a connection of its own.
func (s *Session) holdDedicated() {
	b := s.loop.group.backend.Load()
	if s.dedicated == nil && s.inFlight == 0 && !s.engineGone {
		s.countPin(PinTracking)
		s.loop.acquire(s.key(b), s)
	}
	if s.dedicated == nil || s.isBorrowed(s.dedicated) {
		return // or it is about to be given back
	}
	// RESET doesn't end it: the engine would send the invalidations to whoever has the connection next.
	s.dirtyUntilReset, s.dirtyForGood = true, true
	if s.dedicated.ready {
		s.dedicated.flushLater() // its id is asked for with the first request, which may never come
	}
	if s.engineID.Load() != 0 {
		s.dedicatedIDKnown()
	}
}

// ownIsKnown lets those go on that waited for the id of the session's own connection.
func (s *Session) dedicatedIDKnown() {
	for _, w := range s.needDedicated {
		w.loop.post(func() { w.loop.again(&w.conn.socket) })
	}
	s.needDedicated = nil
}

// tick looks at a session whose engine is gone.
func (s *Session) tick(now time.Time) {
	left := s.conn.Pending()
	waited := now.Sub(s.lingerProgress)
	switch {
	case left == 0 && !s.engineGone:
		delete(s.loop.lingering, s) // there is more to be read from the engine
	case left != s.lingerUnsent:
		s.lingerUnsent, s.lingerProgress = left, now
	case left > 0 && waited >= s.cfg.StallTime, left == 0 && waited >= s.cfg.LingerTime:
		s.close(Cut, nil)
	}
}

// discard counts what a client still says to an engine that is gone.
func (s *Session) discard(n int) {
	if s.discarded += int64(n); s.discarded > s.cfg.LingerBytes {
		s.close(Cut, nil)
	}
}

// idleSince is for how long the client could have said something and did not.
func (s *Session) idleSince(now time.Time) time.Duration {
	if s.closed || s.engineGone || s.inFlight > 0 || s.passthrough || s.subscriber.on() {
		return 0
	}
	return now.Sub(time.Unix(0, s.lastRequest.Load()))
}

// tidy implements owner.
func (s *Session) tidy() {
	if s.active {
		s.active, s.loop.used = false, true // looked at again, once it is idle
		return
	}
	if s.inFlight == 0 {
		s.retry = retryBuffer{}
	}
	s.loop.freed.Add(uint64(s.conn.FreeIdle()))
}

func (s *Session) setReason(r Reason, err error) {
	if s.result.Ended == "" {
		s.result.Ended, s.result.Err = r, err
	}
}

// end implements owner.
func (s *Session) end() { s.close(Cut, nil) }

// cut closes the session at once.
func (s *Session) close(r Reason, err error) {
	if s.closed {
		return
	}
	s.closed = true
	s.setReason(r, err)
	if !s.conn.closed && s.conn.Pending() > 0 {
		s.conn.Flush() // crypto/tls has said what it thinks of a broken record
	}
	s.dropDedicated()
	s.conn.close()
	s.buffer, s.backlog, s.replay, s.retry = nil, nil, nil, retryBuffer{}
	delete(s.loop.lingering, s)
	s.finish()
}

func (s *Session) finish() {
	s.loop.group.clients.remove(s)
	if s.subscriber.monitor {
		s.loop.group.monitors.remove(s)
	}
	s.dedicatedIDKnown()
	s.result.Client = s.Client()
	if s.cfg.Ended != nil {
		s.cfg.Ended(s.result)
	}
	close(s.done)
}

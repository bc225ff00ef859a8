// Package relay is the data path: it moves what clients ask to an engine, and what that answers back.
//
// Each client is a Session on an event loop. It either has a dedicated engine connection, or shares one with the other clients
// of the loop that have the same user, database and protocol version. Package routing decides which, and why; this package acts
// on it. What a client says is cut into requests and otherwise passed on as it is.
//
// Guaranteed: every request arrives once, in order and unchanged (but for the few in handlers.go that name clients, and reads
// with long replies, which may arrive twice: see longreplies.go), and is never held back to wait for another client's. Memory
// stays small whoever does not read: the engine keeps what a client leaves unread. The end of one direction never cuts the other
// while it still lives; what the engine said last reaches the client even if the client is still sending. A reply can't reach
// another client: upstream.go and canary.go say why. When a Session is done, its connections are closed, or clean and back in
// the pool, and nothing of it is left.
//
// What clients can see of all this on a connection that they share is in docs/compatibility.md.
//
// Loops are one goroutine each, use edge-triggered epoll and never block on a connection. Clients may be encrypted or not:
// relay knows nothing of TLS policy, listeners, or who may connect.
package relay

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/routing"
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

	// maxOutputBuffer is how much a client may leave unread of what it asked for over a shared connection, whose other clients
	// can't wait for it: one reply of the greatest length, and then some. So much it can only be where the request must not be
	// asked twice (GETDEL). A client with a dedicated connection is waited for.
	maxOutputBuffer = 640 << 20
)

var errOutputBuffer = errors.New("the client leaves its replies unread")

// Config has what is known of one client, and its limits. The zero value is ready to use.
type Config struct {
	// Remote and Local are the addresses of the client's connection, as CLIENT LIST shows them. Path is shown for a client
	// that has none: that of the Unix socket by which it came.
	Remote, Local netip.AddrPort
	Path          string
	// Goaway says that the client understands it: it has negotiated wire.ALPNSealane.
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
	Retired      Reason = "retired"       // Retire was called, and the client was between two requests
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
	shown := s.profile.identity.Load()
	c := Client{Name: shown.Name, Library: shown.LibName, User: s.userName(shown)}
	if claimed := s.profile.claimedLibrary.Load(); claimed != nil && c.Library == "" {
		c.Library = *claimed
	}
	return c
}

// Session is one client, from the end of its handshake to its close. Its exported methods may be called from anywhere.
type Session struct {
	loop  *loop
	cfg   Config
	done  chan struct{}
	id    int64
	began time.Time

	activity activity // atomic: others look at it while the loop works
	profile  profile  // likewise

	// The rest is owned by the loop's goroutine.
	conn       peer
	phase      phase
	result     Result
	linger     linger
	goaway     goaway
	invalidate bool // the client is to be told that its cache may be stale
	retire     bool // it ends at the next moment at which nothing is under way

	input       input
	state       routing.State
	transaction transaction
	retry       retryBuffer
	replySize   replySize
	login       login
	kept        *kept            // nil: nothing
	blocked     *blockedRequests // nil: none is in flight

	dedicated  *upstream     // written by dedicated.go alone
	shared     *upstream     // the one of the session's key, where it is known
	inFlightOn *upstream     // the shared one that the requests in flight are on
	blockedOn  *upstream     // the shared one that is not ready for the next request
	wanted     []*Session    // wait until this one has a dedicated connection
	change     *engineChange // waits for its connection; nil: none does
	standby

	handshakeJustDone bool // the last message of the handshake may be all that the client has sent
	active            bool // something moved since the connection was last looked at for idleness
	busy              bool // what activity.busy was set to
	dirty             bool // is in loop.dirtyClients
	suspectsDeath     bool // is in loop.suspects
	lastWasRequest    bool // in passthrough: what moved last came from the client
}

// phase is how far a session is on its way to its end. It only goes forward.
type phase uint8

const (
	serving         phase = iota
	closeAfterReply       // nothing more is read; the end comes after the replies under way
	engineGone            // the engine has said its last; what the client sends is thrown away
	closed
)

// activity is what a session has moved.
type activity struct {
	bytesIn, bytesOut atomic.Uint64 // what the client has sent, and what it was told
	commands          atomic.Uint64 // that it has sent, as far as they are looked at
	lastCommand       atomic.Pointer[routing.Command]
	lastRequest       atomic.Int64 // Unix nanoseconds of the last request, or of when the client last took some of a reply
	busy              atomic.Bool  // a request has no reply yet, or a reply is not sent

	lastSeen       uint64 // of the watcher: what had moved when Quiet was last asked
	bytesOutBefore uint64 // of the loop: bytesOut when the request before had been answered
}

// profile is how a session looks to other clients.
type profile struct {
	identity       atomic.Pointer[routing.Identity] // never changed once it is here
	claimedLibrary atomic.Pointer[string]           // the library's name, where the engine did not take it
	engineID       atomic.Int64                     // of the dedicated connection, in the engine; 0: there is none, or it is not known; written by dedicated.go alone
	subscriber     atomic.Bool                      // it has subscriptions, or is a monitor
	redirect       atomic.Int64                     // the client that gets its invalidations, as CLIENT TRACKING named it; 0: none
}

// login is who the client is, and by what right.
type login struct {
	routing.Identity
	auth   uint64              // Backend.Auth when the client came, or was reset
	secret routing.Credentials // that let it in; nil: it has not logged in
	// admitted says that the client came when there were no Backend.Passwords, or has shown one of them.
	admitted bool
}

// linger is how a client takes the last words of an engine that is gone.
type linger struct {
	discarded int64     // bytes of the client's that were thrown away
	progress  time.Time // when the client last took some of the words, as far as ticks tell
	unsent    int       // at the last tick
}

// Serve takes a client over. It is closed by the Session, whatever happens.
func (ls *Loops) Serve(client netloop.Conn, cfg Config) *Session {
	s := ls.session(ls.pick(), client, cfg)
	if !s.loop.post(s.start) {
		unix.Close(client.FD)
		s.setReason(Cut, nil)
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
	b := ls.backend.Load()
	s.login.Proto, s.login.auth, s.login.admitted, s.replySize.assumed = 2, b.Auth, len(b.Passwords) == 0, assumedReplySize
	s.activity.lastRequest.Store(s.began.UnixNano())
	s.publish()
	s.conn.loop = l
	s.conn.attach(client)
	ls.clients.add(s, b.remote())
	return s
}

// start is the session's first task.
func (s *Session) start() {
	if err := s.conn.watch(s); err != nil {
		s.close(ClientFailed, err)
		return
	}
	// A client that leaves Nagle's algorithm on (RFC 9293, 3.7.4) sends its first request once its last message of the handshake is
	// acknowledged, and the kernel takes 40 ms to do so by itself. Nothing that crypto/tls writes comes after that message (the
	// session tickets don't), so nothing carries the acknowledgement, unless the first request is here already.
	s.handshakeJustDone = s.conn.TLS != nil
	// The handshake may have read ahead, and no event tells of that.
	s.conn.requeue()
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

// Retire ends the session as soon as the client is between two requests and outside of a transaction. What it has been asked by then is
// answered. A client may be in the middle of something for ever, so whoever cannot wait calls Close later.
func (s *Session) Retire() {
	s.loop.post(func() {
		s.retire = true
		s.markDirty()
	})
}

// Quiet reports whether nothing has moved since the call before, and what moved last was a reply, so that
// closing now most likely interrupts nothing. (Only most likely: a subscriber may be sent something just now.)
// It is for one watching goroutine.
func (s *Session) Quiet() bool {
	moved := s.activity.bytesIn.Load() + s.activity.bytesOut.Load()
	same := moved == s.activity.lastSeen
	s.activity.lastSeen = moved
	return same && !s.activity.busy.Load()
}

// progress implements owner.
func (s *Session) progress() {
	if s.conn.Pending() > 0 && s.flush() != nil {
		s.close(ClientFailed, s.conn.WriteErr())
		return
	}
	if s.dedicated != nil && s.dedicated.paused && s.conn.Pending() < lowWater {
		s.dedicated.paused = false
		s.dedicated.requeue()
	}
	s.connectForChange()
	s.resume()
	s.pump()
	s.maybeClose()
}

// pump takes what the client says.
func (s *Session) pump() {
	s.conn.paused = false
	for left := share; s.phase != closed && !s.conn.eof && !s.conn.closed; {
		if s.mustNotRead() {
			s.conn.paused = true
			break
		}
		n, err := s.conn.Read(s.loop.plain[:])
		if n > 0 {
			s.handshakeJustDone = false
			s.activity.bytesIn.Add(uint64(n))
			s.active, s.loop.used = true, true
			s.activity.lastRequest.Store(s.loop.now.UnixNano())
			s.parse(s.input.skip(s.loop.plain[:n]))
		}
		if err != nil {
			if err != netloop.ErrAgain {
				s.clientEnded(err)
			}
			break
		}
		if left -= n; left <= 0 {
			s.conn.requeue()
			break
		}
	}
	if s.phase == closed {
		return
	}
	s.conn.SaveReadAhead()
	if s.conn.Drained() && (s.handshakeJustDone || s.midRequest()) {
		s.conn.QuickAck()
	}
	s.handshakeJustDone = false
	if u := s.dedicated; u != nil && u.ready && !u.closed {
		if u.Flush() != nil {
			u.requeue() // its own direction shows the end
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
		s.activity.lastRequest.Store(s.loop.now.UnixNano())
	}
	return err
}

// mustNotRead says whether the client is not to be read now. That it does not read itself is no reason: it may do so once it has
// said all. Its replies are kept by the engine meanwhile.
func (s *Session) mustNotRead() bool {
	if s.phase >= engineGone {
		return false
	}
	return s.input.waits() || s.loop.held && !s.mayFinish() || s.suspectsDeath || s.dedicated != nil && s.dedicated.Pending() >= highWater
}

// reply gives the client some of what the engine said. It is sent at the end of the step.
func (s *Session) reply(b []byte) {
	if s.phase == closed || len(b) == 0 {
		return
	}
	s.activity.bytesOut.Add(uint64(len(b)))
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

// markDirty makes sure that the step's end looks at the session.
func (s *Session) markDirty() {
	if !s.dirty {
		s.dirty = true
		s.loop.dirtyClients = append(s.loop.dirtyClients, s)
	}
}

// flushClient sends what the step has brought, and goes on with what had to wait for it.
func (s *Session) flushClient() {
	s.dirty = false
	if s.phase == closed {
		return
	}
	s.sendGoaway()
	s.sendInvalidation()
	if s.flush() != nil {
		s.close(ClientFailed, s.conn.WriteErr())
		return
	}
	if s.conn.Pending() > maxOutputBuffer {
		s.close(ClientFailed, errOutputBuffer)
		return
	}
	if s.input.blocked {
		s.conn.requeue()
	}
	s.maybeClose()
}

// idleSince is for how long the client could have said something and did not.
func (s *Session) idleSince(now time.Time) time.Duration {
	if s.phase >= engineGone || s.state.InFlight() > 0 || s.state.Passthrough || s.state.Subscriber.On() {
		return 0
	}
	return now.Sub(time.Unix(0, s.activity.lastRequest.Load()))
}

// shrinkIdle implements owner.
func (s *Session) shrinkIdle() {
	if s.active {
		s.active, s.loop.used = false, true // looked at again, once it is idle
		return
	}
	if s.state.InFlight() == 0 {
		s.retry, s.flight = retryBuffer{blocked: s.retry.blocked}, routing.Flight{}
	}
	s.loop.freed.Add(uint64(s.conn.FreeIdle()))
}

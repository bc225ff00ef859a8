// Package relay is the data path: it moves what clients ask to an engine, and what that answers back.
//
// Each client is a Session on an event loop. It either has an engine connection of its own, or shares one with the other
// clients of the loop that have the same user, database and protocol version. Which, and why, is in commands.go; a client
// cannot tell. What it says is cut into requests and otherwise passed on as it is.
//
// Guaranteed: every request arrives once, in order and unchanged (but for the few in virtual.go that name clients, and reads
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
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

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

// End is a connection that is handed over: from here on the loop owns the descriptor.
type End struct {
	// FD is a connected stream socket, non-blocking, and watched by nobody else.
	FD int
	// TLS is the connection above it, its handshake done; nil for a plain end. Attach must make it read from and write
	// to the given transport, from then on.
	TLS    *tls.Conn
	Attach func(io.ReadWriter)
	// Head are bytes that were read already, of a plain end.
	Head []byte
}

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
	shown := s.shown.Load()
	c := Client{Name: shown.name, Library: shown.libName, User: s.userName(shown)}
	if claimed := s.claimed.Load(); claimed != nil && c.Library == "" {
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
	id       int64
	began    time.Time
	heard    atomic.Uint64 // bytes that the client has sent
	told     atomic.Uint64 // and those that it was told
	commands atomic.Uint64 // that it has sent, as far as they are looked at
	busy     atomic.Bool   // a request has no reply yet, or a reply is not sent
	seen     uint64        // of the watcher: what had moved, when Quiet was last asked
	shown    atomic.Pointer[identity]
	claimed  atomic.Pointer[string] // the library's name, where the engine did not take it
	last     atomic.Pointer[command]
	used     atomic.Int64 // Unix nanoseconds of the last request
	engineID atomic.Int64 // of own, in the engine; 0: it has none, or it is not known
	feeding  atomic.Bool  // it has subscriptions, or is a monitor
	redirect atomic.Int64 // the client that gets its invalidations, as CLIENT TRACKING named it; 0: none

	// Of the loop.
	client   peer
	result   Result
	over     bool
	fresh    bool // the last message of the handshake may be all that the client has sent
	moving   bool // something moved since the last tidy
	wasBusy  bool // what busy was set to
	touched  bool // is in loop.touched
	asked    bool // of a session whose bytes are not looked at: what moved last was a request
	gone     bool // the engine has said its last; what the client sends is thrown away
	quitting bool // so it is after the replies under way

	toldBefore uint64    // of told, when the request before had been answered
	opening    []byte    // what Config.Opening has not decided about
	discarded  int64     // of what is thrown away
	progressed time.Time // when the client last took some of a gone engine's words, as far as ticks tell
	unsent     int       // at the last tick
	goaway     goaway

	requests
}

// requests is where a session is in what its client asks.
type requests struct {
	scan      resp.CommandScanner
	cmd       *command // of the request under way
	part      []byte   // of it, as far as it is here
	rest      []byte   // what came behind it, while it has to wait
	again     []byte   // what is to be taken before anything else of the client's: requests to be asked again
	whole     bool     // part has to wait for something
	partial   bool     // and is the beginning of a request that is passed on as it comes
	streaming bool     // the rest of the request goes where its beginning went
	blind     bool     // nothing is looked at any more: it is between the client and the engine of its own

	state     identity
	auth      uint64      // Backend.Auth when it came, or was reset
	secret    credentials // that let it in; nil: it has not logged in
	own       *upstream   // its own engine connection
	home      *upstream   // the shared one of its key, where it is known
	on        *upstream   // the shared one that its requests in flight are on
	waitsFor  *upstream   // whose wake has it: the shared one that is not ready for its next request
	inflight  int         // requests without a reply
	alone     bool        // nothing follows the request in flight before it is answered
	resend    resend      // requests in flight on a shared connection
	replySize int         // how long replies to the client are, as far as can be guessed
	sized     time.Time   // since when that is known
	diverted  bool        // again waits until a long reply is over
	large     int         // for so many requests it keeps a connection of its own, because its replies are long
	multi     bool        // between MULTI and EXEC, as far as the engine has said
	queuing   bool        // the same, as far as the client has
	queued    []*ask      // what EXEC's reply will have
	queuedAny bool        // one of them is not nil
	watch     bool
	needOwn   []*Session // wait until this one has a connection of its own
	sticky    bool       // there is state that only the end of the connection, or RESET, undoes
	kept      bool       // there is state that not even RESET undoes
	unsure    int        // requests in flight of which is not known what they leave behind
	resetting bool       // RESET is to be answered before anything else is asked
	feed      feed
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
func (ls *Loops) Serve(client End, cfg Config) *Session {
	s := ls.session(ls.pick(), client, cfg)
	if !s.loop.post(s.start) {
		unix.Close(client.FD)
		s.over = true
		s.result.Ended = Cut
		s.finish()
	}
	return s
}

// session is a client that has not begun.
func (ls *Loops) session(l *loop, client End, cfg Config) *Session {
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
	s.state.proto, s.auth, s.replySize = 2, ls.backend.Load().Auth, unknownSize
	s.used.Store(s.began.UnixNano())
	s.publish()
	s.client.socket = socket{fd: int32(client.FD), loop: s.loop, owner: s, in: client.Head}
	s.client.tls = client.TLS
	if client.Attach != nil {
		client.Attach(&s.client.socket)
	}
	ls.clients.add(s, ls.backend.Load().remote())
	return s
}

// start is the session's first task.
func (s *Session) start() {
	if err := s.loop.adopt(&s.client.socket); err != nil {
		s.cut(ClientFailed, err)
		return
	}
	// A client that leaves Nagle's algorithm on (RFC 9293, 3.7.4) sends its first request once its last message of the handshake is
	// acknowledged, and the kernel takes 40 ms to do so by itself. Nothing that crypto/tls writes comes after that message (the
	// session tickets don't), so nothing carries the acknowledgement, unless the first request is here already.
	s.fresh = s.client.tls != nil
	// The handshake may have read ahead, and no event tells of that.
	s.loop.again(&s.client.socket)
}

// Done is closed when the client's connection is; then Result says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Result waits for the end of the session.
func (s *Session) Result() Result {
	<-s.done
	return s.result
}

// Close cuts the connection, whatever it is doing. It may be called more than once.
func (s *Session) Close() { s.loop.post(func() { s.leave(Cut) }) }

// Quiet reports whether nothing has moved since the call before, and what moved last was a reply, so that
// closing now most likely interrupts nothing. (Only most likely: a subscriber may be sent something just now.)
// It is for one watching goroutine.
func (s *Session) Quiet() bool {
	moved := s.heard.Load() + s.told.Load()
	same := moved == s.seen
	s.seen = moved
	return same && !s.busy.Load()
}

// leave ends the session, and tells the client that nothing is missing, if it can be told without waiting.
func (s *Session) leave(r Reason) {
	if !s.over && s.client.tls != nil && s.client.pending() == 0 {
		s.client.tls.CloseWrite()
		s.client.flush()
	}
	s.cut(r, nil)
}

// progress implements owner.
func (s *Session) progress(*socket) {
	if s.client.pending() > 0 && s.flush() != nil {
		s.cut(ClientFailed, s.client.outErr)
		return
	}
	if s.own != nil && s.own.paused && s.client.pending() < lowWater {
		s.own.paused = false
		s.loop.again(&s.own.socket)
	}
	s.resume()
	s.pump()
	s.settle()
}

// pump takes what the client says.
func (s *Session) pump() {
	s.client.paused = false
	for left := share; !s.over && !s.client.eof && !s.client.closed; {
		if s.held() {
			s.client.paused = true
			break
		}
		n, err := s.client.read(s.loop.plain[:])
		if n > 0 {
			s.fresh = false
			s.heard.Add(uint64(n))
			s.moving, s.loop.used = true, true
			s.used.Store(s.loop.now.UnixNano())
			s.take(s.loop.plain[:n])
		}
		if err != nil {
			if err != errAgain {
				s.clientEnded(err)
			}
			break
		}
		if left -= n; left <= 0 {
			s.loop.again(&s.client.socket)
			break
		}
	}
	if s.over {
		return
	}
	s.client.keep()
	if s.client.drained && (s.fresh || s.unfinished()) {
		s.client.acknowledge()
	}
	s.fresh = false
	if u := s.own; u != nil && u.ready && !u.closed {
		if u.flush() != nil {
			s.loop.again(&u.socket) // its own direction shows the end
		}
		u.roomMade()
	}
	// crypto/tls may have had something to say by itself.
	if s.client.pending() > 0 && s.flush() != nil {
		s.cut(ClientFailed, s.client.outErr)
	}
}

// flush sends the client what it takes. A client that takes something is not idle (the engines' rule).
func (s *Session) flush() error {
	before := s.client.total
	err := s.client.flush()
	if s.client.total != before {
		s.used.Store(s.loop.now.UnixNano())
	}
	return err
}

// unfinished says that the client is in the middle of a request.
func (s *Session) unfinished() bool { return s.streaming || len(s.part) > 0 && !s.whole }

// held says whether the client is not to be read now. That it does not read itself is no reason: it may do so once it has
// said all. Its replies are kept by the engine meanwhile.
func (s *Session) held() bool {
	if s.gone {
		return false
	}
	return s.whole || len(s.again) > 0 || s.own != nil && s.own.pending() >= highWater
}

// reply gives the client some of what the engine said. It is sent at the end of the step.
func (s *Session) reply(b []byte) {
	if s.over || len(b) == 0 {
		return
	}
	s.told.Add(uint64(len(b)))
	s.moving, s.loop.used, s.asked = true, true, false
	if s.client.tls != nil {
		_, _ = s.client.tls.Write(b) // flush reports it
	} else {
		_, _ = s.client.Write(b)
	}
	s.result.Out += uint64(len(b))
	s.loop.counts.out.Add(uint64(len(b)))
	s.touch()
}

// touch makes sure that the step's end looks at the session.
func (s *Session) touch() {
	if !s.touched {
		s.touched = true
		s.loop.touched = append(s.loop.touched, s)
	}
}

// afterStep sends what the step has brought, and goes on with what had to wait for it.
func (s *Session) afterStep() {
	s.touched = false
	if s.over {
		return
	}
	s.sayGoaway()
	if s.flush() != nil {
		s.cut(ClientFailed, s.client.outErr)
		return
	}
	if s.client.pending() > maxUnread {
		s.cut(ClientFailed, errUnread)
		return
	}
	if s.whole {
		s.loop.again(&s.client.socket)
	}
	s.settle()
}

// maxUnread is how much a client may leave unread of what it asked for over a shared connection, whose other clients
// can't wait for it: one reply of the greatest length, and then some. So much it can only be where the request must not be
// asked twice (GETDEL). One with a connection of its own is waited for.
const maxUnread = 640 << 20

var errUnread = errors.New("the client leaves its replies unread")

// clientEnded is called when the client has said all, or its connection broke.
func (s *Session) clientEnded(err error) {
	s.client.eof = true
	if errors.Is(err, io.EOF) {
		s.why(ClientClosed, nil)
		return
	}
	s.cut(ClientFailed, err)
}

// sayGoodbye passes the engine's end on. What the client sends from now on is thrown away.
func (s *Session) sayGoodbye() {
	if s.over || s.gone {
		return
	}
	s.gone = true
	s.dropOwn()
	s.whole, s.part, s.rest, s.again = false, nil, nil, nil
	s.client.shutdown = true
	s.client.finished = s.client.eof && s.client.tls == nil // its close follows at once, and says the same
	s.expect()
	s.loop.again(&s.client.socket)
	if s.flush() != nil {
		s.cut(ClientFailed, s.client.outErr)
	}
}

// settle closes the session when both directions are done.
func (s *Session) settle() {
	if s.over {
		return
	}
	if len(s.needOwn) > 0 {
		s.getOwn()
	}
	s.releaseClean()
	s.leaveRetired()
	left := s.client.pending()
	waits := s.whole || len(s.again) > 0
	if busy := !s.gone && (s.inflight > 0 || s.asked || waits || s.unfinished() || len(s.opening) > 0) || left > 0; busy != s.wasBusy {
		s.wasBusy = busy
		s.busy.Store(busy)
	}
	if !s.gone && !waits && (s.client.eof || s.quitting) {
		switch {
		case s.own != nil:
			if s.own.shutdown = true; s.own.ready {
				s.own.flush()
			}
		case s.inflight == 0:
			s.sayGoodbye()
		}
	}
	if !s.over && s.client.pending() == 0 && s.gone && s.client.eof && s.client.finished {
		s.cut(Cut, nil) // the reason is known already
	}
}

// expect begins to measure how long the client takes over the last words of an engine that is gone.
func (s *Session) expect() {
	s.loop.waiting[s] = struct{}{}
	s.progressed, s.unsent = s.loop.now, s.client.pending()
}

// getOwn is called when others need the session to have a connection of its own.
func (s *Session) getOwn() {
	b := s.loop.group.backend.Load()
	if s.own == nil && s.inflight == 0 && !s.gone {
		s.pinned(PinTracking)
		s.loop.take(s.key(b), s)
	}
	if s.own == nil || s.isAnothers(s.own) {
		return // or it is about to be given back
	}
	// RESET doesn't end it: the engine would send the invalidations to whoever has the connection next.
	s.sticky, s.kept = true, true
	if s.own.ready {
		s.own.later() // its id is asked for with the first request, which may never come
	}
	if s.engineID.Load() != 0 {
		s.ownIsKnown()
	}
}

// ownIsKnown lets those go on that waited for the id of the session's own connection.
func (s *Session) ownIsKnown() {
	for _, w := range s.needOwn {
		w.loop.post(func() { w.loop.again(&w.client.socket) })
	}
	s.needOwn = nil
}

// tick looks at a session whose engine is gone.
func (s *Session) tick(now time.Time) {
	left := s.client.pending()
	waited := now.Sub(s.progressed)
	switch {
	case left == 0 && !s.gone:
		delete(s.loop.waiting, s) // there is more to be read from the engine
	case left != s.unsent:
		s.unsent, s.progressed = left, now
	case left > 0 && waited >= s.cfg.StallTime, left == 0 && waited >= s.cfg.LingerTime:
		s.cut(Cut, nil)
	}
}

// discard counts what a client still says to an engine that is gone.
func (s *Session) discard(n int) {
	if s.discarded += int64(n); s.discarded > s.cfg.LingerBytes {
		s.cut(Cut, nil)
	}
}

// idleSince is for how long the client could have said something and did not.
func (s *Session) idleSince(now time.Time) time.Duration {
	if s.over || s.gone || s.inflight > 0 || s.blind || s.feed.on() {
		return 0
	}
	return now.Sub(time.Unix(0, s.used.Load()))
}

// tidy implements owner.
func (s *Session) tidy() {
	if s.moving {
		s.moving, s.loop.used = false, true // looked at again, once it is idle
		return
	}
	if s.inflight == 0 {
		s.resend = resend{}
	}
	s.loop.freed.Add(uint64(freeInput(s.client.tls)))
}

func (s *Session) why(r Reason, err error) {
	if s.result.Ended == "" {
		s.result.Ended, s.result.Err = r, err
	}
}

// end implements owner.
func (s *Session) end() { s.cut(Cut, nil) }

// cut closes the session at once.
func (s *Session) cut(r Reason, err error) {
	if s.over {
		return
	}
	s.over = true
	s.why(r, err)
	if !s.client.closed && s.client.pending() > 0 {
		s.client.flush() // crypto/tls has said what it thinks of a broken record
	}
	s.dropOwn()
	s.client.close()
	s.part, s.rest, s.again, s.resend = nil, nil, nil, resend{}
	delete(s.loop.waiting, s)
	s.finish()
}

func (s *Session) finish() {
	s.loop.group.clients.remove(s)
	if s.feed.monitor {
		s.loop.group.monitors.remove(s)
	}
	s.ownIsKnown()
	s.result.Client = s.Client()
	if s.cfg.Ended != nil {
		s.cfg.Ended(s.result)
	}
	close(s.done)
}

package gateway

import (
	"container/list"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/firstline"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/wire"
)

const (
	// dialWindow is for how long a client waits for an engine that is being restarted.
	dialWindow = 2 * time.Second

	// A client that has had its answer gets this long to read it and close, and to send this much more. Closing at
	// once, with input unread, would send a reset that can destroy the answer on its way.
	farewellTime  = 2 * time.Second
	farewellBytes = 1 << 20
)

const engineAway = "-" + wire.EngineUnavailable + " is not answering, it is being restarted: retry with backoff\r\n"

// conn is one client, from accept to close: a descriptor that never blocks, made to look like a net.Conn that does. It
// gives out the bytes that were read ahead of it, then the connection's. It has one owner at a time, which alone reads,
// writes and closes: the door, then the goroutine that serves it, then an event loop of relay.
type conn struct {
	door     *door
	fd       int
	local    net.Addr
	remote   netip.AddrPort
	listener string
	accepted *serving      // the snapshot of the time
	wake     chan struct{} // something happened at the socket

	atDoor  atomic.Bool   // written by the door's goroutine
	waiting *waiting      // of the door's goroutine: its place in the line
	place   *list.Element // guarded by places' mutex: it has begun its handshake
	began   time.Time

	arrival arrival // guarded by arrivals' mutex

	silent  atomic.Bool // it has not sent anything yet
	stopped atomic.Bool // it is to end
	shed    atomic.Bool // because others need its room
	session atomic.Pointer[relay.Session]
	shown   *ledger.Handshake // what its handshake shows of its trust; not changed once session is set; nil: nothing

	// Of the owner.
	transport  *netloop.Transport // below TLS
	head       []byte
	ended      error     // what comes after head, where the door has met it
	came       time.Time // when it was accepted; not changed
	first      time.Time // when its first byte came
	computing  bool      // it holds one of the places
	deadline   time.Time // of everything that waits; zero: none
	hello      negotiation
	serving    *serving    // during the handshake
	choice     choice      // likewise
	resumes    bool        // it has a session ticket to show
	alerts     *alertWatch // during the handshake
	handedOver bool        // to an event loop, which forgets it
}

func (c *conn) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		c.watch(b[:n])
		return n, nil
	}
	if c.ended != nil {
		return 0, c.ended
	}
	for {
		n, err := netloop.ReadFD(c.fd, b)
		switch {
		case err == unix.EAGAIN:
			if err := c.wait(); err != nil {
				return 0, err
			}
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			c.watch(b[:n])
			return n, nil
		}
	}
}

func (c *conn) Write(b []byte) (int, error) {
	for sent := 0; ; {
		n, err := netloop.WriteFD(c.fd, b[sent:])
		switch {
		case err == unix.EAGAIN:
			c.door.wantRoom(c)
			if err := c.wait(); err != nil {
				return sent, err
			}
		case err != nil:
			return sent, os.NewSyscallError("write", err)
		default:
			if sent += n; sent == len(b) {
				return sent, nil
			}
		}
	}
}

// wait returns nil when it is worth trying again. A handshake gives up its place meanwhile.
func (c *conn) wait() error {
	if !c.computing {
		return c.block()
	}
	c.computing = false
	c.door.places.pause()
	if err := c.block(); err != nil {
		return err
	}
	c.door.places.resume()
	c.computing = true
	return nil
}

func (c *conn) block() error {
	if c.stopped.Load() {
		return net.ErrClosed
	}
	var late <-chan time.Time
	if !c.deadline.IsZero() {
		left := time.Until(c.deadline)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		t := time.NewTimer(left)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-c.wake:
		return nil
	case <-late:
		return os.ErrDeadlineExceeded
	}
}

// patience is how long the client may take for its handshake.
func (c *conn) patience() time.Duration {
	return c.door.g.snapshots.active.Load().at(c.listener, c.accepted).timeout
}

// maySayNothing is for how long the client may send nothing at all; false: for ever. Without TLS that is the engine's own rule,
// which knows its timeout only.
func (c *conn) maySayNothing() (time.Duration, bool) {
	s := c.door.g.snapshots.active.Load().at(c.listener, c.accepted)
	limit, idle := time.Duration(0), s.snapshot.IdleTimeout
	if s.modes[c.listener] {
		limit = s.firstByte
	}
	if idle > 0 && (limit == 0 || idle < limit) {
		limit = idle
	}
	return limit, limit > 0
}

func (c *conn) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// What net.Conn wants besides. There is one deadline for both directions.

func (c *conn) LocalAddr() net.Addr                { return c.local }
func (c *conn) RemoteAddr() net.Addr               { return net.TCPAddrFromAddrPort(c.remote) }
func (c *conn) SetDeadline(t time.Time) error      { c.deadline = t; return nil }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.SetDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.SetDeadline(t) }

// Close is for the owner.
func (c *conn) Close() error {
	c.door.hangUp(c)
	return nil
}

func (c *conn) watch(b []byte) {
	if c.alerts != nil {
		c.alerts.see(b)
	}
}

// farewell ends a connection whose last words have been written.
func (c *conn) farewell() {
	if unix.Shutdown(c.fd, unix.SHUT_WR) != nil {
		return
	}
	_ = c.SetDeadline(time.Now().Add(farewellTime))
	_, _ = io.CopyN(io.Discard, c, farewellBytes)
}

// idle reports whether closing the connection now interrupts nothing.
func (c *conn) idle() bool {
	if p := c.session.Load(); p != nil {
		return p.Quiet()
	}
	return c.silent.Load()
}

// cut ends the connection without a word of ours; relay says goodbye to one that is idle.
func (c *conn) cut() {
	if p := c.session.Load(); p != nil {
		p.Close()
		return
	}
	c.stopped.Store(true)
	c.poke()
	c.door.sever(c)
}

// wantsTLS says whether c, whose first byte is there, is to be served with TLS.
func (g *gateway) wantsTLS(c *conn) bool {
	return c.head[0] == firstline.Handshake && g.snapshots.active.Load().at(c.listener, c.accepted).modes[c.listener]
}

// serve is the life of one connection from its first bytes on. The first of them decides.
func (g *gateway) serve(c *conn) {
	defer func() {
		if !c.handedOver {
			g.forget(c)
		}
	}()
	s := g.snapshots.active.Load().at(c.listener, c.accepted)
	isTLS, wantsTLS := c.head[0] == firstline.Handshake, s.modes[c.listener]
	if isTLS && wantsTLS {
		g.serveTLS(c, s)
		return
	}
	g.door.places.leave(c) // it may have one: the listener may have changed while it waited
	switch {
	case wantsTLS:
		g.diagnose(c, s)
	case isTLS:
		g.turnAway(c, firstline.TLS, nil, s.snapshot.Connect)
	default:
		g.relay(c, nil, s)
	}
}

func (g *gateway) serveTLS(c *conn, s *serving) {
	ok, done := g.limit.worthAHandshake(s.snapshot)
	if !ok {
		g.door.places.leave(c)
		return
	}
	// In a storm, event loops that were made runnable meanwhile go first.
	if g.door.queued.Load() > 0 {
		runtime.Gosched()
	}
	_ = c.SetDeadline(c.first.Add(s.timeout))
	c.alerts = new(alertWatch)
	c.serving = s
	head := c.head
	c.transport = netloop.NewTransport(c)
	t := tls.Server(c.transport, c.baseConfig(s.chains))
	err := t.Handshake()
	done()
	g.door.places.leave(c)
	if err != nil {
		if !c.hello.seen { // crypto/tls refused the ClientHello before it called selectConfig
			h, _ := parseClientHello(head)
			c.hello.trailingDot = h.trailingDot
		}
		g.handshakeFailed(c, err)
		return
	}
	c.alerts = nil
	state := t.ConnectionState()
	g.count.handshakeDone(state)
	g.trust.handshakeDone(c, state)
	_ = c.SetDeadline(time.Time{})
	g.relay(c, t, s)
}

func (g *gateway) handshakeFailed(c *conn, err error) {
	if n := c.alerts.alert; n != 0 {
		err = fmt.Errorf("remote error: %w", tls.AlertError(n))
	}
	f := classify(err, c.hello)
	if c.shed.Load() {
		f = failShed
	}
	g.count.failures.Add(f.class)
	g.trust.handshakeFailed(c, f)
	g.lines.warn("handshake "+f.class, "TLS handshake failed", "client", c.remote.String(), "class", f.class,
		"error", err, "hint", f.hint)
	if f == failTimeout {
		return
	}
	c.farewell() // crypto/tls has written an alert
}

// diagnose tells a client without TLS what is wrong.
func (g *gateway) diagnose(c *conn, s *serving) {
	_ = c.SetReadDeadline(time.Now().Add(s.timeout))
	k, line := firstline.Undecided, make([]byte, 0, firstline.Max)
	for k == firstline.Undecided {
		n, err := c.Read(line[len(line):cap(line)])
		line = line[:len(line)+n]
		if k = firstline.Of(line); k == firstline.Undecided && err != nil {
			k = firstline.Inline // half a line and then silence: whoever it is reads text
			if line[0] >= 0x80 {
				k = firstline.Garbage
			}
		}
	}
	g.turnAway(c, k, line, s.snapshot.Connect)
}

func (g *gateway) turnAway(c *conn, k firstline.Kind, line []byte, connect string) {
	g.count.diagnosed.Add(string(k))
	g.lines.warn(string(k), "client turned away, it speaks the wrong protocol", "client", c.remote.String(),
		"listener", c.listener, "kind", string(k), "hint", advice(k, connect))
	_ = c.SetWriteDeadline(time.Now().Add(farewellTime))
	if _, err := c.Write(answer(k, line, connect)); err == nil {
		c.farewell()
	}
}

// relay hands c, or the TLS over it, to an event loop.
func (g *gateway) relay(c *conn, t *tls.Conn, s *serving) {
	if !g.limit.enter(s.snapshot) {
		g.rejectFull(c, t)
		return
	}
	g.arrivals.remove(c)
	cfg := relay.Config{
		Remote: c.remote, Local: c.localAddr(),
		Goaway: t != nil && t.ConnectionState().NegotiatedProtocol == wire.ALPNSealane,
		Ended: func(r relay.Result) {
			g.trust.clientLeft(c, r.Client)
			g.limit.leave()
			g.forget(c)
		},
	}
	client := netloop.Conn{FD: c.door.release(c), TLS: t, Transport: c.transport, Head: c.head}
	c.handedOver = true
	p := g.loops.Serve(client, cfg)
	c.session.Store(p)
	// A drain that has cut everything before the line above has missed this one.
	if g.lifetime.cut.Load() {
		p.Close()
	}
}

// localAddr is the address that the client has connected to, where the listener has any.
func (c *conn) localAddr() netip.AddrPort {
	at := c.local.(*net.TCPAddr).AddrPort()
	if !at.Addr().IsUnspecified() {
		return at
	}
	switch a, _ := unix.Getsockname(c.fd); a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return at
}

// backend says how the clients of a snapshot share the engine.
func (g *gateway) backend(s Snapshot) *relay.Backend {
	limit, _ := g.limit.limit(s)
	return &relay.Backend{
		Engine: s.Engine, Connect: relay.UnixSocket(s.Engine), ConnectTimeout: dialWindow, UnavailableReply: func() string { return engineAway },
		Unreachable: func(c netip.AddrPort, err error) {
			g.count.unreachable.Add(1)
			g.lines.warn("engine", "engine cannot be reached, client told to retry", "client", c.String(), "error", err)
		},
		Auth: s.Auth, Multiplexed: s.DataPath == Multiplexed, IdleTimeout: s.IdleTimeout, MaxClients: int(limit),
	}
}

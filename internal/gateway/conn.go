package gateway

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/relay"
)

const (
	// dialWindow is for how long a client waits for an engine that is being restarted.
	dialWindow = 2 * time.Second

	// A client that has had its answer gets this long to read it and close, and to send this much more. Closing at
	// once, with input unread, would send a reset that can destroy the answer on its way.
	farewellTime  = 2 * time.Second
	farewellBytes = 1 << 20
)

const engineAway = "-ERR the engine behind this port is not answering, it is being restarted: retry with backoff\r\n"

// conn is one client, from accept to close. It gives out the bytes that were read ahead of it, then the connection's.
// All but pipe and silent is of the goroutine that serves it, and from then on of the event loop that it is handed to.
type conn struct {
	net.Conn               // as it was accepted; closed when an event loop has it
	under    io.ReadWriter // what TLS reads and writes in its place, from then on
	listener string
	accepted *serving // the snapshot of the time
	head     []byte
	hello    hello
	alerts   *alertWatch // during the handshake

	handedOver bool // to an event loop, which forgets it

	silent atomic.Bool // it has not sent anything yet
	pipe   atomic.Pointer[relay.Session]
}

func (c *conn) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		c.watch(b[:n])
		return n, nil
	}
	if c.under != nil {
		return c.under.Read(b)
	}
	n, err := c.Conn.Read(b)
	c.watch(b[:n])
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if c.under != nil {
		return c.under.Write(b)
	}
	return c.Conn.Write(b)
}

func (c *conn) watch(b []byte) {
	if c.alerts != nil {
		c.alerts.see(b)
	}
}

// CloseWrite sends a FIN.
func (c *conn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// farewell ends a connection whose last words have been written.
func (c *conn) farewell() {
	if c.CloseWrite() != nil {
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(farewellTime))
	_, _ = io.CopyN(io.Discard, c.Conn, farewellBytes)
}

// idle reports whether closing the connection now interrupts nothing.
func (c *conn) idle() bool {
	if p := c.pipe.Load(); p != nil {
		return p.Quiet()
	}
	return c.silent.Load()
}

func (c *conn) closeIdle() {
	if p := c.pipe.Load(); p != nil {
		p.Close()
		return
	}
	c.Close()
}

// cut ends the connection without a word.
func (c *conn) cut() {
	if p := c.pipe.Load(); p != nil {
		p.Close()
		return
	}
	c.Close()
}

// serve is the life of one connection. The first byte decides; until it comes there is no deadline.
func (g *gateway) serve(c *conn) {
	var first [1]byte
	c.silent.Store(true)
	if _, err := io.ReadFull(c.Conn, first[:]); err != nil {
		return
	}
	c.silent.Store(false)
	c.head = first[:]
	s := g.active.Load().at(c.listener, c.accepted)
	switch isTLS := first[0] == recordHandshake; {
	case s.modes[c.listener] && isTLS:
		g.serveTLS(c, s)
	case s.modes[c.listener]:
		g.diagnose(c, s)
	case isTLS:
		g.turnAway(c, tlsOnPlaintext, nil, s.snapshot.Connect)
	default:
		g.relay(c, nil, s)
	}
}

func (g *gateway) serveTLS(c *conn, s *serving) {
	ok, done := g.limit.worthAHandshake(s.snapshot)
	if !ok {
		return
	}
	_ = c.SetDeadline(time.Now().Add(s.timeout))
	c.alerts = new(alertWatch)
	t := tls.Server(c, s.tls)
	err := t.Handshake()
	done()
	if err != nil {
		g.handshakeFailed(c, err)
		return
	}
	c.alerts = nil
	if t.ConnectionState().Version == tls.VersionTLS13 {
		g.count.tls13.Add(1)
	} else {
		g.count.tls12.Add(1)
	}
	_ = c.SetDeadline(time.Time{})
	g.relay(c, t, s)
}

func (g *gateway) handshakeFailed(c *conn, err error) {
	if n := c.alerts.alert; n != 0 {
		err = fmt.Errorf("remote error: %w", tls.AlertError(n))
	}
	f := classify(err, c.hello)
	g.lines.warn("handshake "+f.class, "TLS handshake failed", "client", c.RemoteAddr().String(), "class", f.class,
		"error", err, "hint", f.hint)
	if f == failTimeout {
		g.count.timeout.Add(1)
		return
	}
	g.count.failed.Add(1)
	c.farewell() // crypto/tls has written an alert
}

// diagnose tells a client without TLS what is wrong.
func (g *gateway) diagnose(c *conn, s *serving) {
	_ = c.SetReadDeadline(time.Now().Add(s.timeout))
	k, line := undecided, make([]byte, 0, maxFirstLine)
	for k == undecided {
		n, err := c.Read(line[len(line):cap(line)])
		line = line[:len(line)+n]
		if k = firstLine(line); k == undecided && err != nil {
			k = inline // half a line and then silence: whoever it is reads text
		}
	}
	g.turnAway(c, k, line, s.snapshot.Connect)
}

func (g *gateway) turnAway(c *conn, k kind, line []byte, connect string) {
	g.count.diagnosed(k).Add(1)
	g.lines.warn(string(k), "client turned away, it speaks the wrong protocol", "client", c.RemoteAddr().String(),
		"listener", c.listener, "kind", string(k), "hint", advice(k, connect))
	_ = c.SetWriteDeadline(time.Now().Add(farewellTime))
	if _, err := c.Write(answer(k, line, connect)); err == nil {
		c.farewell()
	}
}

// relay hands c, or the TLS over it, to an event loop.
func (g *gateway) relay(c *conn, t *tls.Conn, s *serving) {
	if !g.limit.enter(s.snapshot) {
		g.refuse(c, t)
		return
	}
	cfg := relay.Config{
		Remote: addrPort(c.RemoteAddr()), Local: addrPort(c.LocalAddr()), In: &g.count.bytesIn, Out: &g.count.bytesOut,
		Ended: func(relay.Result) {
			g.limit.leave()
			g.forget(c)
		},
	}
	client := relay.End{TLS: t, Head: c.head}
	if t != nil {
		client.Head, client.Attach = nil, func(under io.ReadWriter) { c.under = under }
	}
	var err error
	if client.FD, err = detach(c.Conn); err != nil {
		g.limit.leave()
		return
	}
	c.handedOver = true
	p := g.paths.Serve(client, cfg)
	c.pipe.Store(p)
	// A drain that has cut everything before the line above has missed this one.
	if g.dialing.Err() != nil {
		p.Close()
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}

// backend says how the clients of a snapshot share the engine.
func (g *gateway) backend(s Snapshot) *relay.Backend {
	limit, _ := g.limit.limit(s)
	return &relay.Backend{
		Engine: s.Engine, Connect: relay.UnixSocket(s.Engine), Window: dialWindow, Away: engineAway,
		Unreachable: func(c netip.AddrPort, err error) {
			g.count.unreachable.Add(1)
			g.lines.warn("engine", "engine cannot be reached, client told to retry", "client", c.String(), "error", err)
		},
		Multiplexed: s.DataPath == Multiplexed, IdleTimeout: s.IdleTimeout, MaxClients: int(limit),
	}
}

// detach takes the descriptor away from the runtime's poller: a loop is to watch it.
func detach(c net.Conn) (int, error) {
	defer c.Close()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, err
	}
	fd := -1
	controlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if controlErr != nil {
		return 0, controlErr
	}
	if err != nil {
		return 0, os.NewSyscallError("fcntl", err)
	}
	return fd, nil
}

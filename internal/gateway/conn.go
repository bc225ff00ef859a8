package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

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
// All but pipe and silent is of the goroutine that reads it.
type conn struct {
	net.Conn
	listener string
	accepted *serving // the snapshot of the time
	head     []byte
	hello    hello
	alerts   *alertWatch // during the handshake

	silent atomic.Bool // it has not sent anything yet
	pipe   atomic.Pointer[relay.Pipe]
}

func (c *conn) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		c.watch(b[:n])
		return n, nil
	}
	n, err := c.Conn.Read(b)
	c.watch(b[:n])
	return n, err
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

// cut ends the connection without a word: the socket goes first, so that nothing waits for the client.
func (c *conn) cut() {
	c.Close()
	if p := c.pipe.Load(); p != nil {
		p.Close()
	}
}

// encrypted is the TLS end of a client.
type encrypted struct {
	*tls.Conn
	under *conn
}

// CloseWrite sends close_notify, so that the client knows that nothing is missing, and then a FIN.
func (e encrypted) CloseWrite() error {
	if err := e.Conn.CloseWrite(); err != nil {
		return err
	}
	return e.under.CloseWrite()
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
		g.relay(c, c, s)
	}
}

func (g *gateway) serveTLS(c *conn, s *serving) {
	_ = c.SetDeadline(time.Now().Add(s.timeout))
	c.alerts = new(alertWatch)
	t := tls.Server(c, s.tls)
	if err := t.Handshake(); err != nil {
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
	g.relay(c, encrypted{t, c}, s)
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

// relay joins end, which is c or the TLS over it, with the engine.
func (g *gateway) relay(c *conn, end relay.Conn, s *serving) {
	engine, err := g.dialEngine(s.snapshot.Engine)
	if err != nil {
		g.count.unreachable.Add(1)
		g.lines.warn("engine", "engine cannot be reached, client told to retry", "client", c.RemoteAddr().String(), "error", err)
		_ = end.SetWriteDeadline(time.Now().Add(farewellTime))
		if _, err := io.WriteString(end, engineAway); err != nil {
			return
		}
		if e, ok := end.(encrypted); ok && e.Conn.CloseWrite() != nil {
			return
		}
		c.farewell()
		return
	}
	p := relay.New(end, engine, relay.Config{In: &g.count.bytesIn, Out: &g.count.bytesOut})
	c.pipe.Store(p)
	p.Run()
}

// dialEngine tries until dialWindow is over: a socket that is not there, that refuses, or whose queue is full.
func (g *gateway) dialEngine(path string) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(g.dialing, dialWindow)
	defer cancel()
	var d net.Dialer
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		c, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return c.(*net.UnixConn), nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, err
		}
	}
}

package gateway

// What a worker does with a connection: the TLS handshake, or an answer to a client that speaks something else.

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"github.com/sealane/sealane/internal/firstline"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/wire"
)

// wantsTLS says whether c, whose first byte is there, is to be served with TLS.
func (g *gateway) wantsTLS(c *conn) bool {
	return c.head[0] == firstline.Handshake && g.snapshots.active.Load().at(c.listener, c.accepted).modes[c.listener]
}

// serve is a worker's part in the life of a connection. The first bytes decide what that is.
func (g *gateway) serve(c *conn) {
	if why := g.handshakeOrAnswer(c); why != notEnded {
		g.end(c, why)
	}
}

func (g *gateway) handshakeOrAnswer(c *conn) endReason {
	s := g.snapshots.active.Load().at(c.listener, c.accepted)
	isTLS, wantsTLS := c.head[0] == firstline.Handshake, s.modes[c.listener]
	if isTLS && wantsTLS {
		return g.serveTLS(c, s)
	}
	g.acceptor.slots.end(c) // it may have one: the listener may have changed while it waited
	switch {
	case wantsTLS:
		return g.diagnose(c, s)
	case isTLS:
		return g.turnAway(c, firstline.TLS, nil, s.snapshot.Connect)
	}
	return g.relay(c, netloop.Conn{}, s)
}

func (g *gateway) serveTLS(c *conn, s *serving) endReason {
	ok, done := g.limit.worthAHandshake(s.snapshot)
	if !ok {
		g.acceptor.slots.end(c)
		return endBusy
	}
	// In a storm, event loops that were made runnable meanwhile go first.
	if g.acceptor.queued.Load() > 0 {
		runtime.Gosched()
	}
	_ = c.SetDeadline(c.first.Add(s.timeout))
	c.handshake = &handshake{serving: s}
	head := c.head
	transport := netloop.NewTransport(c)
	t := tls.Server(transport, c.baseConfig(s.chains))
	err := t.Handshake()
	done()
	g.acceptor.slots.end(c)
	if err != nil {
		if !c.hello.seen { // crypto/tls refused the ClientHello before it called selectConfig
			h, _ := parseClientHello(head)
			c.hello.trailingDot = h.trailingDot
		}
		g.handshakeFailed(c, err)
		return endHandshakeFailed
	}
	state := t.ConnectionState()
	g.count.handshakeDone(state)
	g.trust.handshakeDone(c, state)
	c.handshake = nil
	_ = c.SetDeadline(time.Time{})
	return g.relay(c, netloop.Conn{TLS: t, Transport: transport}, s)
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
	g.limitedLog.warn("handshake "+f.class, "TLS handshake failed", "client", c.remote.String(), "class", f.class,
		"error", err, "hint", f.hint)
	if f == failTimeout {
		return
	}
	c.farewell() // crypto/tls has written an alert
}

// diagnose tells a client without TLS what is wrong.
func (g *gateway) diagnose(c *conn, s *serving) endReason {
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
	return g.turnAway(c, k, line, s.snapshot.Connect)
}

func (g *gateway) turnAway(c *conn, k firstline.Kind, line []byte, connect string) endReason {
	g.count.diagnosed.Add(string(k))
	g.limitedLog.warn(string(k), "client turned away, it speaks the wrong protocol", "client", c.remote.String(),
		"listener", c.listener, "kind", string(k), "hint", advice(k, connect))
	_ = c.SetWriteDeadline(time.Now().Add(farewellTime))
	if _, err := c.Write(answer(k, line, connect)); err == nil {
		c.farewell()
	}
	return endWrongProtocol
}

// relay hands a connection over to an event loop, with the TLS that over has, if any.
func (g *gateway) relay(c *conn, over netloop.Conn, s *serving) endReason {
	if !g.limit.enter(s.snapshot) {
		g.rejectFull(c, over.TLS)
		return endMaxClients
	}
	g.arrivals.remove(c)
	if over.TLS == nil {
		g.plaintextBegins(c)
	}
	cfg := relay.Config{
		Remote: c.remote, Local: c.localAddr(),
		Goaway: over.TLS != nil && over.TLS.ConnectionState().NegotiatedProtocol == wire.ALPNSealane,
		Ended: func(r relay.Result) {
			g.trust.clientLeft(c, r.Client)
			g.plaintextEnds(c, r.Client)
			g.end(c, endServed)
		},
	}
	g.acceptor.release(c)
	c.owner.Store(ownedByRelay)
	over.FD, over.Head = c.fd, c.head
	session := g.loops.Serve(over, cfg)
	c.session.Store(session)
	// A drain that has cut everything before the line above has missed this one, and so has a change of its listener.
	if g.lifetime.cut.Load() {
		session.Close()
	}
	g.retireIfClosed(c)
	return notEnded
}

// localAddr is the address that the client has connected to, where the listener has any.
func (c *conn) localAddr() netip.AddrPort {
	at := c.local.(*net.TCPAddr).AddrPort()
	if at.Addr().IsUnspecified() {
		if own := netloop.LocalAddr(c.fd); own.IsValid() {
			return own
		}
	}
	return at
}

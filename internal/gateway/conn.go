package gateway

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
)

const (
	// A client that has had its answer gets this long to read it and close, and to send this much more. Closing at
	// once, with input unread, would send a reset that can destroy the answer on its way.
	farewellTime  = 2 * time.Second
	farewellBytes = 1 << 20
)

// conn is one client, from accept to close: a descriptor that never blocks, made to look like a net.Conn that does. It
// gives out the bytes that were read ahead of it, then the connection's. Who may use what is in connowner.go.
type conn struct {
	acceptor *acceptor
	fd       int
	local    net.Addr
	remote   netip.AddrPort
	listener string
	accepted *serving  // the snapshot of the time
	came     time.Time // when it was accepted

	owner   atomic.Int32  // ownedBy…; written by the owner only
	wake    chan struct{} // something happened at the socket
	silent  atomic.Bool   // it has not sent anything yet
	stopped atomic.Bool   // it is to end
	shed    atomic.Bool   // because others need its room
	session atomic.Pointer[relay.Session]
	retired atomic.Bool // it was told to end because it has no TLS

	plaintext bool              // it is served without TLS; not changed once session is set
	shown     *ledger.Handshake // what its handshake shows of its trust; not changed once session is set; nil: nothing

	arrival arrival // guarded by arrivals' mutex
	slot    slot

	// The acceptor's, while it owns the connection.
	queued *queuedHandshake // its place in the queue

	// The owner's.
	head     []byte
	ended    error     // what comes after head, where the acceptor has met it
	first    time.Time // when its first byte came
	resumes  bool      // it has a session ticket to show
	deadline time.Time // of everything that waits; zero: none

	*handshake // a worker's, until it is done; nil: there is none
}

// handshake is a TLS handshake under way.
type handshake struct {
	serving *serving
	hello   negotiation
	choice  choice
	alerts  alertWatch
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
			_ = c.acceptor.poller.Modify(c.fd, netloop.ReadableWritable) // for an event when there is room
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

// wait returns nil when it is worth trying again. A handshake gives up its slot meanwhile.
func (c *conn) wait() error {
	if !c.slot.held {
		return c.block()
	}
	c.slot.held = false
	c.acceptor.slots.release()
	if err := c.block(); err != nil {
		return err
	}
	c.acceptor.slots.acquire()
	c.slot.held = true
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
	return c.acceptor.g.snapshots.active.Load().at(c.listener, c.accepted).timeout
}

// maySayNothing is for how long the client may send nothing at all; false: for ever. Without TLS that is the engine's own rule,
// which knows its timeout only.
func (c *conn) maySayNothing() (time.Duration, bool) {
	s := c.acceptor.g.snapshots.active.Load().at(c.listener, c.accepted)
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

// Close is part of net.Conn. It asks for the end of the connection, which gateway.end is.
func (c *conn) Close() error {
	c.cut()
	return nil
}

// watch looks for an alert in what was read during the handshake.
func (c *conn) watch(b []byte) {
	if c.handshake != nil {
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

// cut asks for the end of the connection, whoever owns it, without a word of ours; relay says goodbye to a client that is idle.
func (c *conn) cut() {
	if p := c.session.Load(); p != nil {
		p.Close()
		return
	}
	c.stopped.Store(true)
	c.poke()
	c.acceptor.shutdownSocket(c)
}

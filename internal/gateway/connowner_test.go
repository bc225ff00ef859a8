package gateway

import (
	"log/slog"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
)

// Whoever owns a connection, and whatever the reason, its end closes the socket once, counts it out everywhere, and counts why where
// that is a mere count.
func TestEndOfAConnection(t *testing.T) {
	t.Parallel()
	g := newGateway(t.Context(), Config{Log: slog.New(slog.DiscardHandler)})
	if err := g.prepare(); err != nil {
		t.Fatal(err)
	}
	defer g.loops.Close()
	defer g.acceptor.discard() // it doesn't run: the test has its part
	for _, tc := range []struct {
		name  string
		owner int32
		why   endReason
		count func() uint64 // goes up by one
	}{
		{"silent", ownedByAcceptor, endSilent, g.count.timedOut.Load},
		{"gave up in the queue", ownedByAcceptor, endGaveUp, g.acceptor.slots.gaveUp.Load},
		{"too late", ownedByAcceptor, endLate, func() uint64 { all, _ := g.limit.rejected.load(); return all[noLate] }},
		{"failed handshake", ownedByWorker, endHandshakeFailed, nil},
		{"served", ownedByRelay, endServed, func() uint64 { return uint64(-g.limit.served.Load()) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(pair[1])
			c := &conn{acceptor: g.acceptor, fd: pair[0], remote: netip.MustParseAddrPort("192.0.2.1:5"), wake: make(chan struct{}, 1)}
			c.owner.Store(tc.owner)
			g.arrivals.add(c)
			g.connections.add(c)
			g.acceptor.conns = make([]*conn, c.fd+1)
			if tc.owner != ownedByRelay {
				g.acceptor.conns[c.fd] = c
			}
			before := uint64(0)
			if tc.count != nil {
				before = tc.count()
			}
			g.end(c, tc.why)
			if tc.count != nil && tc.count() != before+1 {
				t.Errorf("the count went from %d to %d", before, tc.count())
			}
			if c.owner.Load() != ownedByNobody || g.arrivals.len() != 0 || g.connections.len() != 0 || g.acceptor.conns[c.fd] != nil {
				t.Error("something is left of it")
			}
			_, err = netloop.ReadFD(pair[1], make([]byte, 1))
			if open := err == unix.EAGAIN; open != (tc.owner == ownedByRelay) {
				t.Errorf("its socket is open: %t; the owner has to close it, and of a client's that is relay's loop", open)
			}
			if tc.owner == ownedByRelay {
				unix.Close(pair[0])
			}
			c.cut() // of one that has ended: harmless
		})
	}
	g.connections.closed.Wait()
}

package gateway

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/wire"
)

const (
	// maxClientsReply is what an engine says that has no room.
	maxClientsReply = "-" + wire.MaxClients + " reached\r\n"

	// minUnserved is how many connections may be open beside the clients that are served, or as many as clients can be served if that
	// is more: silent ones, those in their handshake, and those that are being told that there is no room. For one more, another one is
	// closed (see arrivals). It is that many because redis-benchmark opens all its connections before the first handshake.
	minUnserved = 1024
	// maxRefusing is how many of these may be in a handshake that only serves to tell the client that there is no room. In a storm of
	// reconnects such handshakes would take the processor from the clients that are served.
	maxRefusing = 64
	// ownDescriptors is how many descriptors the process itself needs: listeners, admin socket, event loops, files.
	ownDescriptors = 128
)

// Why there was no room for a client. Status.Rejected says what each means.
const (
	noLimit   = "limit"
	noCrowded = "crowded"
	noSilent  = "silent"
	noShed    = "shed"
	noLate    = "late"
	noStalled = "stalled"
)

// clientLimit is where the maximum of clients is enforced: that of the snapshot, or what the limit of open files allows if that is less.
type clientLimit struct {
	descriptors uint64 // the limit of open files

	served   atomic.Int64 // clients that an event loop serves
	refusing atomic.Int64 // handshakes under way that only serve to say that there is no room
	rejected tally
}

func newClientLimit() (*clientLimit, error) {
	var r unix.Rlimit
	// The Go runtime has raised the soft limit to the hard one.
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return nil, fmt.Errorf("read the limit of open files: %w", err)
	}
	return &clientLimit{descriptors: r.Cur, rejected: newTally([]string{noLimit, noCrowded, noSilent, noShed, noLate, noStalled})}, nil
}

// clients is how many clients the limit of open files allows. Each needs two descriptors: its own, and one to the engine. An eighth of all
// descriptors is for connections that are not served yet.
func (l *clientLimit) clients() int64 {
	return max(1, (l.usable()-l.usable()/8)/2)
}

// usable is how many descriptors connections can have.
func (l *clientLimit) usable() int64 {
	return max(2, int64(min(l.descriptors, 1<<31))-ownDescriptors)
}

// crowded reports whether there is no room for another connection, where there are so many already and so many of them unserved.
func (l *clientLimit) crowded(connections, unserved int, s Snapshot) bool {
	return int64(unserved) >= l.unserved(s) || int64(connections)+l.served.Load() >= l.usable()
}

// unserved is how many connections that are not served may be open.
func (l *clientLimit) unserved(s Snapshot) int64 {
	n, _ := l.limit(s)
	return max(minUnserved, n)
}

// limit is how many clients can be served under a snapshot. why says what makes it less than the snapshot's maximum; "": it is not less.
func (l *clientLimit) limit(s Snapshot) (n int64, why string) {
	n = l.clients()
	if asked := int64(s.MaxClients); asked > 0 && asked <= n {
		return asked, ""
	}
	if s.MaxClients > 0 {
		why = fmt.Sprintf("the limit of %d open files allows %d clients, not %d: raise it (ulimit -n, LimitNOFILE) and restart the gateway",
			l.descriptors, n, s.MaxClients)
	}
	return n, why
}

// enter counts a client, or returns false where there is no room. leave must be called when a client that was counted has gone.
func (l *clientLimit) enter(s Snapshot) bool {
	n, _ := l.limit(s)
	if l.served.Add(1) > n {
		l.leave()
		return false
	}
	return true
}

func (l *clientLimit) leave() { l.served.Add(-1) }

// worthAHandshake decides whether to begin a handshake. Where there is no room, the handshake only serves to tell the client so, and few
// of these may be under way. done must be called at the end of the handshake.
func (l *clientLimit) worthAHandshake(s Snapshot) (ok bool, done func()) {
	if n, _ := l.limit(s); l.served.Load() < n {
		return true, func() {}
	}
	if l.refusing.Add(1) > maxRefusing {
		l.refusing.Add(-1)
		l.rejected.Add(noLimit)
		return false, nil
	}
	return true, func() { l.refusing.Add(-1) }
}

// rejectFull tells a client that the maximum is reached, as an engine does.
func (g *gateway) rejectFull(c *conn, t *tls.Conn) {
	g.limit.rejected.Add(noLimit)
	g.limitedLog.warn("limit", "client refused, max number of clients reached", "client", c.remote.String(),
		"clients", g.limit.served.Load(), "hint", "find out which clients hold connections (CLIENT LIST), set timeout, or choose a larger instance")
	g.writeAndClose(c, t, maxClientsReply)
}

// writeAndClose writes a line to a client that will not be served, and ends the connection in such a way that the line arrives.
func (g *gateway) writeAndClose(c *conn, t *tls.Conn, line string) {
	_ = c.SetWriteDeadline(time.Now().Add(farewellTime))
	if t == nil {
		if _, err := c.Write([]byte(line)); err != nil {
			return
		}
	} else if _, err := t.Write([]byte(line)); err != nil || t.CloseWrite() != nil {
		return
	}
	c.farewell()
}

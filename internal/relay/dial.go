package relay

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/resp"
)

const (
	minRetryPause = 10 * time.Millisecond
	// maxPause is the most that is waited between two attempts to reach a server.
	maxRetryPause = 2 * time.Second
	// warmAge is for how long a connection waits, at most, for a client that needs its own: a server may close it just when it is
	// taken, if it closes idle ones.
	maxIdleAge = 50 * time.Second
)

// UnixSocket is a Backend.Connect for an engine behind a Unix socket.
func UnixSocket(path string) func() (int, error) {
	return func() (int, error) { return netloop.ConnectUnix(path) }
}

// dial makes one attempt. The loop goes on meanwhile.
func (u *upstream) dial(b *Backend) {
	u.generation = b.Generation
	ctx, cancel := context.WithTimeout(u.loop.group.life, max(time.Second, b.ConnectTimeout))
	u.cancel = cancel
	go func() {
		defer cancel()
		c, err := b.Dial(ctx)
		if !u.loop.post(func() { u.dialled(c, err) }) && err == nil {
			unix.Close(c.FD)
		}
	}()
}

func (u *upstream) dialled(c netloop.Conn, err error) {
	u.cancel = nil
	b := u.loop.group.backend.Load()
	switch {
	case u.closed || u.generation != b.Generation:
		if err == nil {
			unix.Close(c.FD)
		}
		u.try()
		return
	case err != nil:
		u.tryLater(err)
		return
	}
	u.attach(c)
	u.goawayNegotiated = c.TLS != nil && c.TLS.ConnectionState().NegotiatedProtocol == Protocol
	if err := u.loop.adopt(&u.socket, u); err != nil {
		u.failDial(err)
		return
	}
	u.prepare()
	u.loop.again(&u.socket) // the handshake may have read ahead
}

// tryLater makes the next attempt, unless there have been attempts for long enough.
func (u *upstream) tryLater(err error) {
	b := u.loop.group.backend.Load()
	waited := time.Since(u.dialStart)
	if waited >= b.ConnectTimeout || u.loop.closing {
		u.failDial(err)
		return
	}
	pause := min(5*time.Millisecond+waited/4, 200*time.Millisecond)
	if b.remote() {
		// Full jitter: many clients that lost the same server must not come back at the same time.
		pause = time.Millisecond + rand.N(min(minRetryPause<<min(u.attempts, 10), maxRetryPause))
	}
	u.attempts++
	attempt := u.attempts
	time.AfterFunc(pause, func() {
		u.loop.post(func() {
			if u.attempts == attempt { // a new backend may have come first
				u.try()
			}
		})
	})
}

// redial is for a connection that is not there yet when there is a new backend: the next attempt is made with it.
func (u *upstream) redial() {
	if u.cancel != nil {
		u.cancel() // which comes back with an error
		return
	}
	u.attempts++
	u.try()
}

// restart begins again with a connection whose setup failed.
func (u *upstream) restart(err error) {
	u.forgetSocket()
	u.tryLater(err)
}

func (u *upstream) forgetSocket() {
	if u.Attached() {
		u.close()
	}
	u.peer = peer{loop: u.loop}
	u.pendingReplies, u.scan, u.replyBuffer, u.partialGoaway = pendingQueue{}, resp.ReplyScanner{}, nil, nil
	u.loop.group.trackEngineID(u.id, false)
	u.setupPending, u.id, u.goawayNegotiated, u.draining, u.connName = 0, 0, false, false, ""
}

// notLetIn is called when a connection was refused for what it says of itself, or does not say.
func (u *upstream) loginRefused(reply []byte) {
	b := u.loop.group.backend.Load()
	failure := &SetupError{string(bytes.TrimSpace(reply))}
	if b.Refused != nil && b.Refused(failure.Reply) && time.Since(u.dialStart) < b.ConnectTimeout {
		u.restart(failure)
		return
	}
	u.firstError = append(u.firstError[:0], reply...)
	u.fail(failure)
}

// keepWarm makes sure that there are connections for clients that will need one of their own.
func (l *loop) fillIdle(b *Backend) {
	if !b.remote() || b.MinIdle == 0 || l.closing {
		return
	}
	k := b.initialKey()
	have := l.dialingIdle
	if p := l.pools[k]; p != nil {
		have += len(p.idle)
	}
	for n := l.minIdleShare(b); have < n; have++ {
		u := l.connect(k, nil)
		u.shared, u.forMinIdle = false, true
		l.dialingIdle++
		u.try()
	}
}

// firstKey is that of clients which have said nothing of themselves.
func (b *Backend) initialKey() key { return key{engine: b.Engine, proto: 2, auth: b.Auth} }

// warmShare is how many of Backend.Warm are one loop's.
func (l *loop) minIdleShare(b *Backend) int {
	return (b.MinIdle + len(l.group.all) - 1) / len(l.group.all)
}

// isWarm says that a spare connection is one of those that are kept ready, and not too old for it.
func (u *upstream) isMinIdle(b *Backend) bool {
	if !b.remote() || u.shared || u.key != b.initialKey() {
		return false
	}
	p := u.loop.pools[u.key]
	return p != nil && len(p.idle) <= u.loop.minIdleShare(b) && u.loop.now.Sub(u.dialStart) < maxIdleAge-time.Duration(u.id%20)*time.Second
}

// aged says that a connection that waits for a client could be closed by the server any moment.
func (u *upstream) isTooOld(b *Backend) bool {
	return b.remote() && !u.shared && u.loop.now.Sub(u.idleSince) >= maxIdleAge
}

// isLost says which of the reasons for a connection's end are no reason for a client's.
func (u *upstream) mustCloseClient(s *Session, err error) bool {
	refused := (*SetupError)(nil)
	return !u.loop.group.backend.Load().remote() || !u.ready || errors.As(err, &refused) || len(u.firstError) > 0 ||
		s.inFlight > 0 || s.engineGone || !s.leavesNothing()
}

package relay

import (
	"bytes"
	"context"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/wire"
)

const (
	minRetryPause = 10 * time.Millisecond
	// maxPause is the most that is waited between two attempts to reach a server.
	maxRetryPause = 2 * time.Second
	// maxIdleAge is for how long a connection waits, at most, for a client that needs a dedicated one: a server may close it just
	// when it is taken, if it closes idle ones.
	maxIdleAge = 50 * time.Second
)

// UnixSocket is a Backend.Connect for an engine behind a Unix socket.
func UnixSocket(path string) func() (int, error) {
	return func() (int, error) { return netloop.ConnectUnix(path) }
}

// dialing is what has become of the attempts to connect.
type dialing struct {
	dialStart  time.Time // when the first was made
	dialErr    error     // why there is no connection
	attempts   int
	cancel     func() // of the attempt under way
	generation uint64 // Backend.Generation of the connection
	forMinIdle bool   // it is to be idle, for Backend.MinIdle
}

// try makes one attempt to connect.
func (u *upstream) try() {
	if u.closed {
		return
	}
	b := u.loop.group.backend.Load()
	if b.remote() {
		u.dial(b)
		return
	}
	if u.key.engine != b.Engine {
		return // the loop is about to leave that engine (leaveEngine), and would take a connection to the new one for one to that
	}
	fd, err := b.Connect()
	if err != nil {
		u.tryLater(err)
		return
	}
	u.loop.connectedTo(b.Engine, processOf(fd))
	u.attach(netloop.Conn{FD: fd})
	if err := u.watch(u); err != nil {
		u.failDial(err)
		return
	}
	u.prepare()
}

// dial makes one attempt to reach a server that is far. The loop goes on meanwhile.
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
	u.goawayNegotiated = c.TLS != nil && c.TLS.ConnectionState().NegotiatedProtocol == wire.ALPNSealane
	if err := u.watch(u); err != nil {
		u.failDial(err)
		return
	}
	u.prepare()
	u.requeue() // the handshake may have read ahead
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

// redialAfter begins again with a connection whose setup failed.
func (u *upstream) redialAfter(err error) {
	u.forgetSocket()
	u.tryLater(err)
}

func (u *upstream) forgetSocket() {
	if u.Attached() {
		u.close()
	}
	u.loop.group.trackEngineID(u.id, false)
	u.peer = peer{loop: u.loop}
	u.pendingReplies, u.scan, u.replyBuffer, u.partialGoaway = pendingQueue{}, resp.ReplyScanner{}, nil, nil
	u.setupPending, u.goawayNegotiated, u.draining, u.connName = 0, false, false, ""
	u.engineIDIs(0)
}

// loginRefused is called when a connection was refused for what it says of itself, or does not say.
func (u *upstream) loginRefused(reply []byte) {
	b := u.loop.group.backend.Load()
	failure := &SetupError{string(bytes.TrimSpace(reply))}
	if b.Refused != nil && b.Refused(failure.Reply) && time.Since(u.dialStart) < b.ConnectTimeout {
		u.redialAfter(failure)
		return
	}
	if b.Login != nil {
		u.failDial(failure) // the server's words are about a login that clients don't know, and may repeat its password
		return
	}
	u.firstError = append(u.firstError[:0], reply...)
	u.fail(failure)
}

// failDial gives up.
func (u *upstream) failDial(err error) {
	waiting := u.takeBlocked()
	if u.client != nil {
		waiting = append(waiting, u.client)
	}
	for _, s := range waiting {
		s.replyUnavailable(err)
	}
	u.dialErr = err
	u.end()
}

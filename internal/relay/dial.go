package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/resp"
)

const (
	firstPause = 10 * time.Millisecond
	// maxPause is the most that is waited between two attempts to reach a server.
	maxPause = 2 * time.Second
	// warmAge is for how long a connection waits, at most, for a client that needs its own: a server may close it just when it is
	// taken, if it closes idle ones.
	warmAge = 50 * time.Second
)

// Dialled does the client's side of a TLS handshake over conn and makes it a relay's End. It closes conn in any case.
func Dialled(ctx context.Context, conn net.Conn, config *tls.Config) (End, error) {
	return shaken(ctx, conn, func(w net.Conn) *tls.Conn { return tls.Client(w, config) })
}

func shaken(ctx context.Context, conn net.Conn, over func(net.Conn) *tls.Conn) (End, error) {
	defer conn.Close()
	raw, ok := conn.(syscall.Conn)
	if !ok {
		return End{}, errors.New("the connection has no descriptor")
	}
	w := &wire{Conn: conn}
	t := over(w)
	if err := t.HandshakeContext(ctx); err != nil {
		return End{}, err
	}
	fd, err := Descriptor(raw)
	if err != nil {
		return End{}, err
	}
	return End{FD: fd, TLS: t, Attach: func(under io.ReadWriter) { w.under = under }}, nil
}

// wire is what TLS stands on: first a connection, then the socket of a loop.
type wire struct {
	net.Conn
	under io.ReadWriter
}

func (w *wire) Read(b []byte) (int, error) {
	if w.under != nil {
		return w.under.Read(b)
	}
	return w.Conn.Read(b)
}

func (w *wire) Write(b []byte) (int, error) {
	if w.under != nil {
		return w.under.Write(b)
	}
	return w.Conn.Write(b)
}

// Descriptor returns the descriptor of c once more, for a loop to watch: the runtime's poller keeps its own, until c is closed.
func Descriptor(c syscall.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	if controlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); controlErr != nil {
		return -1, controlErr
	}
	return fd, os.NewSyscallError("fcntl", err)
}

// dial makes one attempt. The loop goes on meanwhile.
func (u *upstream) dial(b *Backend) {
	u.epoch = b.Epoch
	ctx, cancel := context.WithTimeout(u.loop.group.life, max(time.Second, b.Window))
	u.cancel = cancel
	go func() {
		defer cancel()
		e, err := b.Dial(ctx)
		if !u.loop.post(func() { u.dialled(e, err) }) && err == nil {
			unix.Close(e.FD)
		}
	}()
}

func (u *upstream) dialled(e End, err error) {
	u.cancel = nil
	b := u.loop.group.backend.Load()
	switch {
	case u.closed || u.epoch != b.Epoch:
		if err == nil {
			unix.Close(e.FD)
		}
		u.try()
		return
	case err != nil:
		u.tryLater(err)
		return
	}
	u.fd, u.tls = int32(e.FD), e.TLS
	if e.Attach != nil {
		e.Attach(&u.socket)
	}
	u.mayGo = e.TLS != nil && e.TLS.ConnectionState().NegotiatedProtocol == goawayProtocol
	if err := u.loop.adopt(&u.socket); err != nil {
		u.unreachable(err)
		return
	}
	u.prepare()
	u.loop.again(&u.socket) // the handshake may have read ahead
}

// tryLater makes the next attempt, unless there have been attempts for long enough.
func (u *upstream) tryLater(err error) {
	b := u.loop.group.backend.Load()
	waited := time.Since(u.firstTry)
	if waited >= b.Window || u.loop.closing {
		u.unreachable(err)
		return
	}
	pause := min(5*time.Millisecond+waited/4, 200*time.Millisecond)
	if b.remote() {
		// Full jitter: many clients that lost the same server must not come back at the same time.
		pause = time.Millisecond + rand.N(min(firstPause<<min(u.tries, 10), maxPause))
	}
	u.tries++
	attempt := u.tries
	time.AfterFunc(pause, func() {
		u.loop.post(func() {
			if u.tries == attempt { // a new backend may have come first
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
	u.tries++
	u.try()
}

// restart begins again with a connection whose setup failed.
func (u *upstream) restart(err error) {
	u.forgetSocket()
	u.tryLater(err)
}

func (u *upstream) forgetSocket() {
	if u.fd >= 0 {
		u.close()
	}
	u.peer = peer{socket: socket{fd: -1, loop: u.loop, owner: u}}
	u.queue, u.scan, u.gathered, u.perhaps = queue{}, resp.ReplyScanner{}, nil, nil
	u.loop.group.noteConnection(u.id, false)
	u.setup, u.id, u.mayGo, u.retired, u.called = 0, 0, false, false, ""
}

// notLetIn is called when a connection was refused for what it says of itself, or does not say.
func (u *upstream) notLetIn(reply []byte) {
	b := u.loop.group.backend.Load()
	failure := &SetupError{string(bytes.TrimSpace(reply))}
	if b.Refused != nil && b.Refused(failure.Reply) && time.Since(u.firstTry) < b.Window {
		u.restart(failure)
		return
	}
	u.refusal = append(u.refusal[:0], reply...)
	u.fail(failure)
}

// keepWarm makes sure that there are connections for clients that will need one of their own.
func (l *loop) keepWarm(b *Backend) {
	if !b.remote() || b.Warm == 0 || l.closing {
		return
	}
	k := b.firstKey()
	have := l.warming
	if p := l.pools[k]; p != nil {
		have += len(p.spare)
	}
	for n := l.warmShare(b); have < n; have++ {
		u := l.connect(k, nil)
		u.shared, u.warming = false, true
		l.warming++
		u.try()
	}
}

// firstKey is that of clients which have said nothing of themselves.
func (b *Backend) firstKey() key { return key{engine: b.Engine, proto: 2, auth: b.Auth} }

// warmShare is how many of Backend.Warm are one loop's.
func (l *loop) warmShare(b *Backend) int { return (b.Warm + len(l.group.all) - 1) / len(l.group.all) }

// isWarm says that a spare connection is one of those that are kept ready, and not too old for it.
func (u *upstream) isWarm(b *Backend) bool {
	if !b.remote() || u.shared || u.key != b.firstKey() {
		return false
	}
	p := u.loop.pools[u.key]
	return p != nil && len(p.spare) <= u.loop.warmShare(b) && u.loop.now.Sub(u.firstTry) < warmAge-time.Duration(u.id%20)*time.Second
}

// aged says that a connection that waits for a client could be closed by the server any moment.
func (u *upstream) aged(b *Backend) bool {
	return b.remote() && !u.shared && u.loop.now.Sub(u.since) >= warmAge
}

// isLost says which of the reasons for a connection's end are no reason for a client's.
func (u *upstream) isLost(s *Session, err error) bool {
	refused := (*SetupError)(nil)
	return !u.loop.group.backend.Load().remote() || !u.ready || errors.As(err, &refused) || len(u.refusal) > 0 ||
		s.inflight > 0 || s.gone || !s.leavesNothing()
}

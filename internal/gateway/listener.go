package gateway

import (
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
)

// keepAlive finds clients that vanish without a FIN after about two minutes. The engine has a keep-alive of its own, but it would
// only show that the gateway is there.
var keepAlive = netloop.KeepAlive{Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

// lastRounds times acceptShare clients of a listener that is being left are accepted at most: more may come all the time.
const lastRounds = 64

// listener is one address at which clients are accepted.
type listener struct {
	fd      int
	address string
	local   net.Addr
	next    func() (int, netip.AddrPort, error) // accept4
	backoff time.Duration                       // the pause after the last failure
	retry   time.Time                           // not before; the acceptor doesn't watch it meanwhile
	shared  bool                                // other gateways accept at the address too
	last    *serving                            // what the last clients of a listener that is being left are served by; nil: it stays
}

// listen opens a listener. Clients are accepted once it is given to watchListener.
func (a *acceptor) listen(address string, shared bool) (*listener, error) {
	fd, local, err := netloop.ListenTCP(a.g.lifetime.accepting, address, shared, keepAlive)
	if err != nil {
		return nil, err
	}
	return &listener{fd: fd, address: address, local: local, shared: shared, next: func() (int, netip.AddrPort, error) { return netloop.Accept(fd) }}, nil
}

// watchListener lets clients of l in.
func (a *acceptor) watchListener(l *listener) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listeners[l.fd] = l
	if err := a.poller.Add(l.fd, netloop.Acceptable); err != nil {
		l.retry = time.Now() // the next tick tries again
	}
}

// share makes a listener one that other gateways may share, or may not.
func (a *acceptor) share(l *listener, shared bool) {
	if l.shared == shared {
		return
	}
	if l.shared = shared; netloop.Share(l.fd, shared) != nil {
		a.g.cfg.Log.Error("whether a listener is shared can't be changed", "listener", l.address, "shared", shared)
	}
}

// leave closes a listener that is watched. One that is shared is closed when those clients have been accepted that the kernel has given to
// it already: it would reset their connections, although others accept at the same address. They are served by last, which is a snapshot
// that has the listener. Still reset are those whose connection is being made at that moment, from their first packet to their second,
// except where net.ipv4.tcp_migrate_req is 1.
func (a *acceptor) leave(l *listener, last *serving) {
	if !l.shared {
		a.closeListener(l)
		return
	}
	done := make(chan struct{})
	a.mu.Lock()
	a.leaving = append(a.leaving, func() { a.acceptLast(l, last, time.Now()); close(done) })
	a.mu.Unlock()
	a.poller.Wake()
	<-done
}

// acceptLast accepts whom the kernel has for a listener that is being left, and closes it before more can come.
func (a *acceptor) acceptLast(l *listener, last *serving, now time.Time) {
	l.last = last
	for rounds := 0; rounds < lastRounds && a.accept(l, now); rounds++ {
	}
	a.closeListener(l)
}

// leaveListeners does what leave asks for.
func (a *acceptor) leaveListeners() {
	a.mu.Lock()
	leaving := a.leaving
	a.leaving = nil
	a.mu.Unlock()
	for _, accept := range leaving {
		accept()
	}
}

// closeListener closes a listener, whether it is watched or not. Once it returns, no client of l comes any more.
func (a *acceptor) closeListener(l *listener) {
	a.accepting.Lock()
	defer a.accepting.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.listeners, l.fd)
	unix.Close(l.fd)
}

// backOff stops watching a listener for a while. Most likely it is EMFILE: that stays until a connection ends, and the
// listener stays readable meanwhile.
func (a *acceptor) backOff(l *listener, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l.backoff = min(max(2*l.backoff, 5*time.Millisecond), time.Second)
	l.retry = now.Add(l.backoff)
	_ = a.poller.Remove(l.fd)
}

// retryListeners watches those again whose pause is over.
func (a *acceptor) retryListeners(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.listeners {
		if !l.retry.IsZero() && !now.Before(l.retry) && a.poller.Add(l.fd, netloop.Acceptable) == nil {
			l.retry = time.Time{}
		}
	}
}

// backingOff says that a listener is not watched for the moment.
func (a *acceptor) backingOff() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.listeners {
		if !l.retry.IsZero() {
			return true
		}
	}
	return false
}

package gateway

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
)

const (
	// acceptShare is how many clients a listener lets in before the other sockets have their turn.
	acceptShare = 64
	// tickPace is how often the acceptor looks at deadlines, while there are any; silentPace is how often at those of silent clients.
	tickPace   = 100 * time.Millisecond
	silentPace = time.Second
)

// acceptor watches the listeners, and the clients' sockets until an event loop of relay has them: one poller and one
// goroutine, whatever the number of clients that are silent or in their handshake. Sockets are plain descriptors all
// along: through the net package each would be set up, given to the runtime's poller, and taken out of it again.
//
// It owns a connection until the ClientHello is there, or it is known that none will come; then a worker does. The socket stays
// in the poller meanwhile, and the acceptor wakes the worker when something happens there.
type acceptor struct {
	g      *gateway
	poller *netloop.Poller
	ending atomic.Bool  // run is to end
	queued atomic.Int64 // how many clients are in the queue
	slots  *handshakeSlots
	done   chan struct{}

	accepting sync.Mutex // held while clients are accepted: after closeListener, none comes

	mu        sync.Mutex        // guards what follows; held for no system call that could wait
	conns     []*conn           // by descriptor
	listeners map[int]*listener // by descriptor
	leaving   []func()          // accept the last clients of listeners that are being left

	// Owned by the acceptor's goroutine.
	queue      *handshakeQueue
	partial    map[*conn]struct{} // a part of their ClientHello is there
	scratch    [maxClientHello]byte
	ticked     time.Time
	silentSeen time.Time // when the silent were looked at
}

func newAcceptor(g *gateway) (*acceptor, error) {
	a := &acceptor{g: g, done: make(chan struct{}), listeners: make(map[int]*listener), queue: newHandshakeQueue(), partial: make(map[*conn]struct{})}
	a.slots = newHandshakeSlots(runtime.GOMAXPROCS(0)-runtime.GOMAXPROCS(0)/4, a.slotFreed)
	var err error
	if a.poller, err = netloop.NewPoller(); err != nil {
		return nil, fmt.Errorf("watch clients: %w", err)
	}
	return a, nil
}

// close ends run, once no listener is left and no client will call.
func (a *acceptor) close() {
	a.ending.Store(true)
	a.poller.Wake()
	<-a.done
}

// discard frees what an acceptor holds that doesn't run.
func (a *acceptor) discard() { a.poller.Close() }

func (a *acceptor) run() {
	defer close(a.done)
	for !a.ending.Load() {
		events, err := a.poller.Wait(time.Now(), a.pace())
		if err != nil {
			panic(fmt.Sprintf("wait for events: %v", err)) // the descriptor is ours: a bug, not a state of the world
		}
		a.poller.Woken() // that a slot is free, or that this is to end: both are looked at each time
		a.leaveListeners()
		now := time.Now()
		for i := range events {
			a.event(int(events[i].Fd), events[i].Events, now)
		}
		if now.Sub(a.ticked) >= tickPace {
			a.ticked = now
			a.tick(now)
		}
		a.beginHandshakes(now)
	}
	a.discard()
}

// pace is how soon deadlines have to be looked at; 0: there are none.
func (a *acceptor) pace() time.Duration {
	switch {
	case len(a.partial) > 0 || a.queue.len() > 0 || a.backingOff():
		return tickPace
	case a.g.arrivals.silent():
		return silentPace
	}
	return 0
}

// event does what an event at a descriptor asks for, which depends on who owns the connection.
func (a *acceptor) event(fd int, events uint32, now time.Time) {
	a.mu.Lock()
	l := a.listeners[fd]
	var c *conn
	if fd < len(a.conns) {
		c = a.conns[fd]
	}
	a.mu.Unlock()
	switch {
	case l != nil:
		a.accept(l, now)
	case c == nil: // it was closed, or went to relay, earlier in this round
	case c.owner.Load() != ownedByAcceptor:
		c.poke()
	case c.queued == nil:
		a.readHello(c, now)
	case netloop.HungUp(events):
		a.drop(c, endGaveUp)
	}
}

// accept lets clients in until there is none, or others should have their turn, which is when there may be more.
func (a *acceptor) accept(l *listener, now time.Time) (more bool) {
	a.accepting.Lock()
	defer a.accepting.Unlock()
	a.mu.Lock()
	closed := a.listeners[l.fd] != l
	a.mu.Unlock()
	for range acceptShare {
		if closed {
			return false
		}
		fd, from, err := l.next()
		switch err {
		case nil:
			l.backoff = 0
			a.begin(l, fd, from, now)
		case unix.EAGAIN:
			return false
		case unix.EINTR, unix.ECONNABORTED:
		default:
			a.backOff(l, now)
			a.g.limitedLog.warn("accept", "client cannot be accepted, trying again", "listener", l.address, "error", os.NewSyscallError("accept4", err))
			return false
		}
	}
	return true
}

// begin begins a connection.
func (a *acceptor) begin(l *listener, fd int, from netip.AddrPort, now time.Time) {
	c := &conn{acceptor: a, fd: fd, local: l.local, remote: from, listener: l.address, came: now, accepted: cmp.Or(l.last, a.g.snapshots.active.Load()), wake: make(chan struct{}, 1)}
	c.silent.Store(true)
	if !a.g.admit(c, now) {
		unix.Close(fd)
		return
	}
	a.mu.Lock()
	if fd >= len(a.conns) {
		a.conns = append(a.conns, make([]*conn, fd+1-len(a.conns))...)
	}
	a.conns[fd] = c
	err := a.poller.Add(fd, netloop.Readable)
	a.mu.Unlock()
	if err != nil {
		a.g.limitedLog.warn("accept", "client cannot be watched", "client", c.remote.String(), "error", err)
		a.drop(c, endUnwatched)
	}
}

// readHello reads what a client says first, and decides whether that is a handshake that must wait for its turn.
func (a *acceptor) readHello(c *conn, now time.Time) {
	for {
		have := copy(a.scratch[:], c.head)
		n, err := netloop.ReadFD(c.fd, a.scratch[have:])
		switch {
		case err == unix.EAGAIN:
			return
		case n <= 0 && have == 0:
			a.drop(c, endUnused)
			return
		case n <= 0:
			if c.ended = io.EOF; err != nil {
				c.ended = os.NewSyscallError("read", err)
			}
			a.toWorker(c) // which finds out what to say
			return
		case have == 0:
			c.silent.Store(false)
			c.first = now
		}
		c.head = append(c.head, a.scratch[have:have+n]...)
		if !a.g.wantsTLS(c) {
			a.toWorker(c)
			return
		}
		if hello, complete := parseClientHello(c.head); complete {
			delete(a.partial, c)
			c.resumes = hello.resumes
			c.queued = a.queue.push(c, hello.resumes)
			a.g.arrivals.move(c, stageQueued)
			a.queued.Store(int64(a.queue.len()))
			return
		}
		a.partial[c] = struct{}{}
		a.g.arrivals.move(c, stageHello)
	}
}

// beginHandshakes gives clients of the queue to workers, as far as there are slots.
func (a *acceptor) beginHandshakes(now time.Time) {
	for a.queue.len() > 0 {
		ok, stalled := a.slots.reserve(now)
		if stalled != nil {
			a.g.limit.rejected.Add(noStalled)
			stalled.shed.Store(true)
			stalled.cut()
			continue
		}
		if !ok {
			return
		}
		c := a.queue.next().c
		a.slots.begin(c, now)
		a.toWorker(c)
	}
}

// slotFreed makes the acceptor begin the next handshake. It does so by way of the poller although the handshake could be begun
// here and now: on its way there the runtime sees what the event loops have to do, and in a storm of handshakes it would not
// look otherwise for up to 10 ms.
func (a *acceptor) slotFreed() {
	if a.queued.Load() > 0 {
		a.poller.Wake()
	}
}

// toWorker lets a worker own a connection from now on. Without a slot there is little to compute for it.
func (a *acceptor) toWorker(c *conn) {
	a.forget(c)
	c.owner.Store(ownedByWorker)
	a.g.arrivals.move(c, stageHandshake)
	a.g.workers.run(c)
}

// drop ends a connection that the acceptor owns.
func (a *acceptor) drop(c *conn, why endReason) {
	a.forget(c)
	a.g.end(c, why)
}

// forget removes a connection from what the acceptor waits for.
func (a *acceptor) forget(c *conn) {
	if c.queued != nil {
		a.queue.remove(c.queued)
		c.queued = nil
		a.queued.Store(int64(a.queue.len()))
	}
	delete(a.partial, c)
}

// makeRoom closes a connection that is not served yet for one that comes; false when none is worth less.
func (a *acceptor) makeRoom(newcomer *conn, now time.Time) bool {
	c, at := a.g.arrivals.shed(newcomer.remote.Addr(), now)
	if c == nil {
		return false
	}
	a.g.limit.rejected.Add(at.shedReason())
	a.g.limitedLog.warn("shed", "too many connections are open that are no clients yet, the oldest of the source with the most are closed",
		"client", c.remote.String(), "stage", at.String(), "unserved", a.g.arrivals,
		"hint", "find out what connects there and says nothing: a health check, a pool without TLS, a scan")
	if c.owner.Load() == ownedByAcceptor {
		a.drop(c, endShed)
	} else {
		c.shed.Store(true)
		c.cut()
	}
	return true
}

// tick watches listeners again that could not accept, and ends what has taken too long.
func (a *acceptor) tick(now time.Time) {
	for c := range a.partial {
		if now.After(c.first.Add(c.patience())) {
			a.toWorker(c) // it will find its deadline over
		}
	}
	for h := a.queue.oldest(); h != nil; h = a.queue.oldest() {
		// What is begun in the last moments would not end in time.
		if limit := h.c.patience(); now.Before(h.c.first.Add(limit - limit/10)) {
			break
		}
		a.g.limitedLog.warn("late", "client closed, its handshake had no turn in time", "client", h.c.remote.String())
		a.drop(h.c, endLate)
	}
	if now.Sub(a.silentSeen) >= silentPace {
		a.silentSeen = now
		a.endSilent(now)
	}
	a.retryListeners(now)
}

// endSilent closes those who have sent nothing for longer than they may.
func (a *acceptor) endSilent(now time.Time) {
	for _, c := range a.g.arrivals.overdue((*conn).maySayNothing, now) {
		a.g.limitedLog.warn("silent", "connection closed, it has sent nothing since it was opened", "client", c.remote.String(),
			"after", now.Sub(c.came).Round(time.Second), "hint", "a health check, a pool without TLS, a scan: find out what connects there and says nothing")
		a.drop(c, endSilent)
	}
}

// release takes the socket of c out of the poller, for another one.
func (a *acceptor) release(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns[c.fd] = nil
	_ = a.poller.Remove(c.fd)
}

// closeSocket closes the socket of c.
func (a *acceptor) closeSocket(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns[c.fd] = nil
	unix.Close(c.fd)
}

// shutdownSocket makes the owner of c find the connection at its end. Anybody may call it, so the descriptor may be another
// connection's by now.
func (a *acceptor) shutdownSocket(c *conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.fd < len(a.conns) && a.conns[c.fd] == c {
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
	}
}

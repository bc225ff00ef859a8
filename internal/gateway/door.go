package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
)

const (
	// acceptShare is how many clients a listener lets in before the other sockets have their turn.
	acceptShare = 64
	// doorPace is how often deadlines at the door are looked at, while there are any; silentPace those of the silent.
	doorPace   = 100 * time.Millisecond
	silentPace = time.Second
)

// door watches the listeners, and the clients' sockets until an event loop of relay has them: one epoll instance and one
// goroutine, whatever the number of clients that are silent or in their handshake. Sockets are plain descriptors all
// along: through the net package each would be set up, given to the runtime's poller, and taken out of it again.
//
// A descriptor is closed by whoever owns its conn: the door's goroutine until the conn is taken, then who took it.
type door struct {
	g      *gateway
	poller *netloop.Poller
	ending atomic.Bool  // run is to end
	queued atomic.Int64 // how many are in the line
	places *places
	done   chan struct{}

	entry sync.Mutex // held while a client is let in: after shut, none comes

	mu        sync.Mutex        // guards what follows; held for no system call that could wait
	clients   []*conn           // by descriptor
	listeners map[int]*listener // by descriptor

	// Of the door's goroutine.
	line    *line
	partial map[*conn]struct{} // a part of their ClientHello is there
	scratch [maxClientHello]byte
	ticked  time.Time
	heard   time.Time // when the silent were looked at
}

// listener is one address at which clients are accepted.
type listener struct {
	fd      int
	address string
	local   net.Addr
	next    func() (int, netip.AddrPort, error) // accept4
	wait    time.Duration                       // the pause after the last failure
	retry   time.Time                           // not before; the door doesn't watch it meanwhile
}

func newDoor(g *gateway) (*door, error) {
	d := &door{g: g, done: make(chan struct{}), listeners: make(map[int]*listener), line: newLine(), partial: make(map[*conn]struct{})}
	d.places = newPlaces(runtime.GOMAXPROCS(0)-runtime.GOMAXPROCS(0)/4, d.placeFree)
	var err error
	if d.poller, err = netloop.NewPoller(); err != nil {
		return nil, fmt.Errorf("watch clients: %w", err)
	}
	return d, nil
}

// listen begins to accept at an address.
func (d *door) listen(address string) (*listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		return errors.Join(c.Control(func(fd uintptr) { failed = inherited(int(fd)) }), failed)
	}}
	ln, err := lc.Listen(d.g.lifetime.accepting, "tcp", address)
	if err != nil {
		return nil, err
	}
	l := &listener{address: address, local: ln.Addr()}
	l.fd, err = netloop.Descriptor(ln.(*net.TCPListener))
	ln.Close() // the runtime's poller is not to watch it
	if err != nil {
		return nil, err
	}
	l.next = func() (int, netip.AddrPort, error) { return netloop.Accept(l.fd) }
	return l, nil
}

// inherited sets on a listener what Linux hands down to the sockets that it accepts: four system calls less for each.
func inherited(fd int) error {
	var errs []error
	for _, o := range []struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAliveIdle / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAliveInterval / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount},
	} {
		errs = append(errs, os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, o.level, o.name, o.value)))
	}
	return errors.Join(errs...)
}

// open lets clients of l in.
func (d *door) open(l *listener) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listeners[l.fd] = l
	if err := d.poller.Add(l.fd, netloop.Acceptable); err != nil {
		l.retry = time.Now() // the next tick tries again
	}
}

// shut closes a listener, whether it was opened or not.
func (d *door) shut(l *listener) {
	d.entry.Lock()
	defer d.entry.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.listeners, l.fd)
	unix.Close(l.fd)
}

// close ends run, once no listener is left and no client will call.
func (d *door) close() {
	d.ending.Store(true)
	d.poller.Wake()
	<-d.done
}

// placeFree makes the door begin the next handshake. It does so by way of epoll although it could be begun here and
// now: on its way there the runtime sees what the event loops have to do, and in a storm of handshakes it would not
// look otherwise for up to 10 ms.
func (d *door) placeFree() {
	if d.queued.Load() > 0 {
		d.poller.Wake()
	}
}

func (d *door) run() {
	defer close(d.done)
	for !d.ending.Load() {
		events, err := d.poller.Wait(time.Now(), d.pace())
		if err != nil {
			panic(fmt.Sprintf("wait for events: %v", err)) // the descriptor is ours: a bug, not a state of the world
		}
		d.poller.Woken() // for handshakes to begin, or to end: both are looked at each time
		now := time.Now()
		for i := range events {
			d.happened(int(events[i].Fd), events[i].Events, now)
		}
		if now.Sub(d.ticked) >= doorPace {
			d.ticked = now
			d.tick(now)
		}
		d.begin(now)
	}
	d.discard()
}

// discard closes a door that doesn't run.
func (d *door) discard() { d.poller.Close() }

func (d *door) happened(fd int, events uint32, now time.Time) {
	d.mu.Lock()
	l := d.listeners[fd]
	var c *conn
	if fd < len(d.clients) {
		c = d.clients[fd]
	}
	d.mu.Unlock()
	switch {
	case l != nil:
		d.accept(l, now)
	case c == nil: // it left earlier in this round
	case !c.atDoor.Load():
		c.poke()
	case c.waiting == nil:
		d.hear(c, now)
	case netloop.HungUp(events):
		d.places.gaveUp.Add(1)
		d.dismiss(c)
	}
}

// begin begins handshakes while there is a place for one.
func (d *door) begin(now time.Time) {
	for d.line.len() > 0 {
		ok, stuck := d.places.begin(now)
		if stuck != nil {
			d.g.limit.rejected.Add(noStalled)
			stuck.shed.Store(true)
			stuck.cut()
			continue
		}
		if !ok {
			return
		}
		c := d.line.next().c
		d.take(c)
		d.places.enter(c, now)
		d.g.crew.run(c)
	}
}

// pace is how soon deadlines have to be looked at; 0: there are none.
func (d *door) pace() time.Duration {
	if len(d.partial) > 0 || d.line.len() > 0 {
		return doorPace
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.listeners {
		if !l.retry.IsZero() {
			return doorPace
		}
	}
	if d.g.arrivals.silent() {
		return silentPace
	}
	return 0
}

// accept lets clients in until there is none, or others should have their turn.
func (d *door) accept(l *listener, now time.Time) {
	d.entry.Lock()
	defer d.entry.Unlock()
	d.mu.Lock()
	shut := d.listeners[l.fd] != l
	d.mu.Unlock()
	for range acceptShare {
		if shut {
			return
		}
		fd, from, err := l.next()
		switch err {
		case nil:
			l.wait = 0
			d.enter(l, fd, from, now)
		case unix.EAGAIN:
			return
		case unix.EINTR, unix.ECONNABORTED:
		default:
			d.pause(l, now)
			d.g.lines.warn("accept", "client cannot be accepted, trying again", "listener", l.address, "error", os.NewSyscallError("accept4", err))
			return
		}
	}
}

// pause stops watching a listener for a while. Most likely it is EMFILE: that stays until a connection ends, and the
// listener stays readable meanwhile.
func (d *door) pause(l *listener, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l.wait = min(max(2*l.wait, 5*time.Millisecond), time.Second)
	l.retry = now.Add(l.wait)
	_ = d.poller.Remove(l.fd)
}

// enter begins a connection.
func (d *door) enter(l *listener, fd int, from netip.AddrPort, now time.Time) {
	c := &conn{door: d, fd: fd, local: l.local, remote: from, listener: l.address, came: now, accepted: d.g.snapshots.active.Load(), wake: make(chan struct{}, 1)}
	c.silent.Store(true)
	c.atDoor.Store(true)
	if !d.g.admit(c, now) {
		unix.Close(fd)
		return
	}
	d.mu.Lock()
	if fd >= len(d.clients) {
		d.clients = append(d.clients, make([]*conn, fd+1-len(d.clients))...)
	}
	d.clients[fd] = c
	err := d.poller.Add(fd, netloop.Readable)
	d.mu.Unlock()
	if err != nil {
		d.g.lines.warn("accept", "client cannot be watched", "client", c.remote.String(), "error", err)
		d.dismiss(c)
	}
}

// hear reads what a client says first, and decides whether that is a handshake that must wait for its turn.
func (d *door) hear(c *conn, now time.Time) {
	for {
		have := copy(d.scratch[:], c.head)
		n, err := netloop.ReadFD(c.fd, d.scratch[have:])
		switch {
		case err == unix.EAGAIN:
			return
		case n <= 0 && have == 0:
			d.dismiss(c) // a port scan, or a pool that was never used
			return
		case n <= 0:
			if c.ended = io.EOF; err != nil {
				c.ended = os.NewSyscallError("read", err)
			}
			d.hand(c) // to a goroutine, which finds out what to say
			return
		case have == 0:
			c.silent.Store(false)
			c.first = now
		}
		c.head = append(c.head, d.scratch[have:have+n]...)
		if !d.g.wantsTLS(c) {
			d.hand(c)
			return
		}
		if hello, complete := parseClientHello(c.head); complete {
			delete(d.partial, c)
			c.resumes = hello.resumes
			c.waiting = d.line.push(c, hello.resumes)
			d.g.arrivals.move(c, stageQueued)
			d.queued.Store(int64(d.line.len()))
			return
		}
		d.partial[c] = struct{}{}
		d.g.arrivals.move(c, stageHello)
	}
}

// hand lets a goroutine serve c without a place: there is little to compute.
func (d *door) hand(c *conn) {
	d.take(c)
	d.g.crew.run(c)
}

// take removes a client from the door. Its caller owns it then.
func (d *door) take(c *conn) {
	if w := c.waiting; w != nil {
		c.waiting = nil
		if w.inAll != nil {
			d.line.remove(w)
		}
		d.queued.Store(int64(d.line.len()))
	}
	delete(d.partial, c)
	c.atDoor.Store(false)
	d.g.arrivals.move(c, stageHandshake)
}

// dismiss ends a client that is at the door.
func (d *door) dismiss(c *conn) {
	d.take(c)
	d.g.forget(c)
}

// makeRoom closes a connection that is not served yet for one that comes; false when none is worth less.
func (d *door) makeRoom(newcomer *conn, now time.Time) bool {
	c, at := d.g.arrivals.shed(newcomer.remote.Addr(), now)
	if c == nil {
		return false
	}
	d.g.limit.rejected.Add(at.shedReason())
	d.g.lines.warn("shed", "too many connections are open that are no clients yet, the oldest of the source with the most are closed",
		"client", c.remote.String(), "stage", at.String(), "unserved", d.g.arrivals,
		"hint", "find out what connects there and says nothing: a health check, a pool without TLS, a scan")
	if at == stageHandshake {
		c.shed.Store(true)
		c.cut()
	} else {
		d.dismiss(c)
	}
	return true
}

// release hands the descriptor of c, which the caller owns, over to another epoll instance.
func (d *door) release(c *conn) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients[c.fd] = nil
	_ = d.poller.Remove(c.fd)
	return c.fd
}

// hangUp closes the descriptor of c, which the caller owns.
func (d *door) hangUp(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.clients != nil && c.fd < len(d.clients) && d.clients[c.fd] == c {
		d.clients[c.fd] = nil
		unix.Close(c.fd)
	}
}

// wantRoom asks to be told when the kernel takes more of what is written to c.
func (d *door) wantRoom(c *conn) {
	_ = d.poller.Modify(c.fd, netloop.ReadableWritable)
}

// sever makes the owner of c, whoever it is, find the connection at its end.
func (d *door) sever(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.fd < len(d.clients) && d.clients[c.fd] == c {
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
	}
}

// tick opens listeners again that could not accept, and ends what has taken too long.
func (d *door) tick(now time.Time) {
	for c := range d.partial {
		if now.After(c.first.Add(c.patience())) {
			d.hand(c) // it will find its deadline over
		}
	}
	for w := d.line.oldest(); w != nil; w = d.line.oldest() {
		// What is begun in the last moments would not end in time.
		if limit := w.c.patience(); now.Before(w.c.first.Add(limit - limit/10)) {
			break
		}
		d.g.limit.rejected.Add(noLate)
		d.g.lines.warn("late", "client closed, its handshake had no turn in time", "client", w.c.remote.String())
		d.dismiss(w.c)
	}
	if now.Sub(d.heard) >= silentPace {
		d.heard = now
		d.endSilent(now)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.listeners {
		if !l.retry.IsZero() && !now.Before(l.retry) && d.poller.Add(l.fd, netloop.Acceptable) == nil {
			l.retry = time.Time{}
		}
	}
}

// endSilent closes those who have sent nothing for longer than they may.
func (d *door) endSilent(now time.Time) {
	for _, c := range d.g.arrivals.overdue((*conn).maySayNothing, now) {
		d.g.count.timedOut.Add(1)
		d.g.lines.warn("silent", "connection closed, it has sent nothing since it was opened", "client", c.remote.String(),
			"after", now.Sub(c.came).Round(time.Second), "hint", "a health check, a pool without TLS, a scan: find out what connects there and says nothing")
		d.dismiss(c)
	}
}

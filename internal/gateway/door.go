package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxHello is what is read ahead: a ClientHello of one record fits.
	maxHello = 5 + 16<<10

	// acceptShare is how many clients a listener lets in before the other sockets have their turn.
	acceptShare = 64
	// doorPace is how often deadlines at the door are looked at, while there are any.
	doorPace = 100 * time.Millisecond

	edgeTriggered = 1 << 31 // unix.EPOLLET is negative
)

// door watches the listeners, and the clients' sockets until an event loop of relay has them: one epoll instance and one
// goroutine, whatever the number of clients that are silent or in their handshake. Sockets are plain descriptors all
// along: through the net package each would be set up, given to the runtime's poller, and taken out of it again.
//
// A descriptor is closed by whoever owns its conn: the door's goroutine until the conn is taken, then who took it.
type door struct {
	g      *gateway
	epoll  *os.File // in the runtime's poller: see relay's loops
	raw    syscall.RawConn
	epfd   int
	wakefd int // written to end run
	done   chan struct{}

	entry sync.Mutex // held while a client is let in: after shut, none comes

	mu        sync.Mutex        // guards what follows; held for no system call that could wait
	clients   []*conn           // by descriptor
	listeners map[int]*listener // by descriptor
	timed     map[*conn]struct{}

	// Of the door's goroutine.
	events  [256]unix.EpollEvent
	found   int
	failure error
	due     bool // the wait has a deadline
	scratch [maxHello]byte
	ticked  time.Time
}

// listener is one address at which clients are accepted.
type listener struct {
	fd      int
	address string
	local   net.Addr
	next    func() (int, netip.AddrPort, error) // accept4
	wait    time.Duration                      // the pause after the last failure
	retry   time.Time                          // not before; the door doesn't watch it meanwhile
}

func newDoor(g *gateway) (*door, error) {
	d := &door{g: g, wakefd: -1, done: make(chan struct{}), listeners: make(map[int]*listener), timed: make(map[*conn]struct{})}
	var err error
	if d.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = unix.SetNonblock(d.epfd, true) // what makes os.NewFile use the poller
	d.epoll = os.NewFile(uintptr(d.epfd), "epoll")
	if err == nil {
		d.raw, err = d.epoll.SyscallConn()
	}
	if err == nil {
		d.wakefd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		err = d.control(unix.EPOLL_CTL_ADD, d.wakefd, unix.EPOLLIN)
	}
	if err != nil {
		d.epoll.Close()
		if d.wakefd >= 0 {
			unix.Close(d.wakefd)
		}
		return nil, fmt.Errorf("watch clients: %w", err)
	}
	return d, nil
}

func (d *door) control(op, fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(d.epfd), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	return nil
}

// listen begins to accept at an address.
func (d *door) listen(address string) (*listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		return errors.Join(c.Control(func(fd uintptr) { failed = inherited(int(fd)) }), failed)
	}}
	ln, err := lc.Listen(d.g.accepting, "tcp", address)
	if err != nil {
		return nil, err
	}
	l := &listener{address: address, local: ln.Addr()}
	if l.fd, err = detach(ln.(*net.TCPListener)); err != nil {
		return nil, err
	}
	l.next = func() (int, netip.AddrPort, error) { return acceptFD(l.fd) }
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
	if err := d.control(unix.EPOLL_CTL_ADD, l.fd, unix.EPOLLIN); err != nil {
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
	unix.Write(d.wakefd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-d.done
}

func (d *door) run() {
	defer close(d.done)
	for {
		if err := d.wait(); err != nil {
			panic(fmt.Sprintf("epoll_wait: %v", err)) // the descriptor is ours: a bug, not a state of the world
		}
		for _, ev := range d.events[:d.found] {
			fd := int(ev.Fd)
			if fd == d.wakefd {
				d.epoll.Close()
				unix.Close(d.wakefd)
				return
			}
			d.mu.Lock()
			l := d.listeners[fd]
			d.mu.Unlock()
			if l != nil {
				d.accept(l, time.Now())
			} else {
				d.event(fd, ev.Events)
			}
		}
		if now := time.Now(); now.Sub(d.ticked) >= doorPace {
			d.ticked = now
			d.tick(now)
		}
	}
}

// wait looks first, and then waits as goroutines do.
func (d *door) wait() error {
	if d.look(); d.found > 0 || d.failure != nil {
		return d.failure
	}
	if due := d.hasDeadlines(); due || d.due {
		var until time.Time
		if due {
			until = time.Now().Add(doorPace)
		}
		d.due = due
		if err := d.epoll.SetReadDeadline(until); err != nil {
			return err
		}
	}
	err := d.raw.Read(d.lookAgain)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return errors.Join(d.failure, err)
}

func (d *door) lookAgain(uintptr) bool {
	d.look()
	return d.found > 0 || d.failure != nil
}

func (d *door) look() {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(d.epfd), uintptr(unsafe.Pointer(&d.events[0])), uintptr(len(d.events)), 0, 0, 0)
	d.found = int(n)
	if errno != 0 {
		d.found = 0
		if errno != unix.EINTR {
			d.failure = os.NewSyscallError("epoll_pwait", errno)
		}
	}
}

func (d *door) hasDeadlines() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.timed) > 0 {
		return true
	}
	for _, l := range d.listeners {
		if !l.retry.IsZero() {
			return true
		}
	}
	return false
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
			d.enter(l, fd, from)
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
	_ = d.control(unix.EPOLL_CTL_DEL, l.fd, 0)
}

// enter begins a connection.
func (d *door) enter(l *listener, fd int, from netip.AddrPort) {
	c := &conn{door: d, fd: fd, local: l.local, remote: from, listener: l.address, accepted: d.g.active.Load(), wake: make(chan struct{}, 1)}
	c.silent.Store(true)
	if !d.g.admit(c) {
		unix.Close(fd)
		return
	}
	d.mu.Lock()
	if fd >= len(d.clients) {
		d.clients = append(d.clients, make([]*conn, fd+1-len(d.clients))...)
	}
	d.clients[fd] = c
	c.atDoor = true
	err := d.control(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN|unix.EPOLLRDHUP|edgeTriggered)
	d.mu.Unlock()
	if err != nil {
		d.g.lines.warn("accept", "client cannot be watched", "client", c.remote.String(), "error", err)
		d.dismiss(c)
	}
}

// event is told that something happened at a client's socket.
func (d *door) event(fd int, events uint32) {
	d.mu.Lock()
	var c *conn
	if fd < len(d.clients) {
		c = d.clients[fd]
	}
	mine := c != nil && c.atDoor
	d.mu.Unlock()
	switch {
	case c == nil: // it left earlier in this round
	case !mine:
		c.poke()
	default:
		d.hear(c)
	}
}

// hear reads what a client says first.
func (d *door) hear(c *conn) {
	n, err := readFD(c.fd, d.scratch[:])
	if err == unix.EAGAIN {
		return
	}
	if n <= 0 {
		d.dismiss(c) // a port scan, or a pool that was never used
		return
	}
	c.head = append([]byte(nil), d.scratch[:n]...)
	c.silent.Store(false)
	if d.take(c) {
		d.g.crew.run(c)
	}
}

// take makes the caller the owner of a client that is at the door.
func (d *door) take(c *conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !c.atDoor {
		return false
	}
	c.atDoor = false
	delete(d.timed, c)
	return true
}

// dismiss ends a client that is at the door. It is for the door's goroutine.
func (d *door) dismiss(c *conn) {
	if d.take(c) {
		d.g.forget(c)
	}
}

// release hands the descriptor of c, which the caller owns, over to another epoll instance.
func (d *door) release(c *conn) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients[c.fd] = nil
	_ = d.control(unix.EPOLL_CTL_DEL, c.fd, 0)
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
	_ = d.control(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|edgeTriggered)
}

// sever makes the owner of c, whoever it is, find the connection at its end.
func (d *door) sever(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.fd < len(d.clients) && d.clients[c.fd] == c {
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
	}
}

// tick opens listeners again that could not accept.
func (d *door) tick(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.listeners {
		if !l.retry.IsZero() && !now.Before(l.retry) && d.control(unix.EPOLL_CTL_ADD, l.fd, unix.EPOLLIN) == nil {
			l.retry = time.Time{}
		}
	}
}

// acceptFD is accept4 past the runtime's scheduler: the listener doesn't block.
func acceptFD(listener int) (int, netip.AddrPort, error) {
	var from unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	fd, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(fd), addrPort(&from), nil
}

func addrPort(from *unix.RawSockaddrAny) netip.AddrPort {
	port := func(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }
	switch from.Addr.Family {
	case unix.AF_INET:
		a := (*unix.RawSockaddrInet4)(unsafe.Pointer(from))
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), port(&a.Port))
	case unix.AF_INET6:
		a := (*unix.RawSockaddrInet6)(unsafe.Pointer(from))
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), port(&a.Port))
	}
	return netip.AddrPort{}
}

// readFD reads past the runtime's scheduler: the call doesn't wait.
func readFD(fd int, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return -1, errno
		}
	}
}

func writeFD(fd int, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return -1, errno
		}
	}
}

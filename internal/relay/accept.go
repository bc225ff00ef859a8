package relay

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// acceptsPerStep bounds how many clients are let in before those that are in have their turn.
	acceptsPerStep = 64
	// acceptPause follows an error that trying again at once would meet again: no descriptors, no memory.
	acceptPause = 100 * time.Millisecond
)

// Acceptor lets plain clients in on the loops themselves: no other goroutine has to wake for one that asks one thing and
// leaves.
type Acceptor struct {
	// Config is called for each client, on its loop, and must not wait.
	Config func(remote netip.AddrPort) Config
	// Failed is told why clients can't be let in for a moment.
	Failed func(error)
}

// Accept lets clients in at a listening socket, which must not block and is watched by nobody else. stop returns once no more
// are let in; it leaves the descriptor open.
func (ls *Loops) Accept(fd int, a Acceptor) (stop func()) {
	var doors []*door
	for _, l := range ls.all {
		d := &door{Acceptor: a}
		d.socket = socket{fd: int32(fd), loop: l, owner: d}
		doors = append(doors, d)
		l.post(d.watch)
	}
	return sync.OnceFunc(func() {
		var gone sync.WaitGroup
		for _, d := range doors {
			gone.Add(1)
			if !d.loop.post(func() { d.leave(); gone.Done() }) {
				gone.Done()
			}
		}
		gone.Wait()
	})
}

// door is an Acceptor's place in one loop.
type door struct {
	socket
	Acceptor
	watched bool
}

// watch asks for events as long as there is somebody to let in, and that one loop is woken, not all.
func (d *door) watch() {
	if d.closed || d.watched {
		return
	}
	d.loop.place(&d.socket)
	if err := d.loop.control(unix.EPOLL_CTL_ADD, int(d.fd), unix.EPOLLIN|unix.EPOLLEXCLUSIVE); err != nil {
		d.Failed(err)
		return
	}
	d.watched = true
}

func (d *door) unwatch() {
	if d.watched {
		d.watched = false
		_ = d.loop.control(unix.EPOLL_CTL_DEL, int(d.fd), 0)
		d.loop.forget(&d.socket)
	}
}

func (d *door) leave() {
	d.unwatch()
	d.closed = true
}

// progress implements owner.
func (d *door) progress(*socket) {
	for range acceptsPerStep {
		fd, remote, err := AcceptFD(int(d.fd))
		switch {
		case err == nil:
			d.letIn(fd, remote)
		case err == unix.ECONNABORTED, err == unix.EINTR: // that one has gone
		case err == unix.EAGAIN:
			return
		default:
			d.Failed(os.NewSyscallError("accept4", err))
			d.unwatch()
			time.AfterFunc(acceptPause, func() { d.loop.post(d.watch) })
			return
		}
	}
}

func (d *door) letIn(fd int, remote netip.AddrPort) {
	d.loop.group.session(d.loop, End{FD: fd}, d.Config(remote)).start()
}

// end implements owner.
func (d *door) end() { d.leave() }

// tidy implements owner.
func (d *door) tidy() {}

// AcceptFD takes the next client at a listening socket that does not block, and says where it comes from, if it has an
// address. It goes past the runtime's scheduler: the call doesn't wait.
func AcceptFD(listener int) (int, netip.AddrPort, error) {
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

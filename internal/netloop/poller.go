// Package netloop is what an event loop over sockets stands on: a Poller over epoll, non-blocking Sockets and TLS Streams, and
// the way of a connection there: accept, connect, TLS handshake. It knows nothing of what the bytes mean.
//
// A Poller and the sockets that it watches belong to one goroutine, the loop, and nothing here is safe for concurrent use
// except Poller.Wake. No call waits, other than Poller.Wait and the handshakes, so a loop may serve any number of peers
// however slow they are. What a peer doesn't take is kept, without a bound: whoever writes looks at Pending.
//
// There is no callback and no interface on the way of an event: the loop gets descriptors and looks up whose they are.
package netloop

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// ReadSize is the most that one read takes from the kernel: a pipeline of small requests, or four TLS records.
	ReadSize = 64 << 10
	// eventsPerWait bounds the work between two looks at what else a loop has to do.
	eventsPerWait = 256

	edgeTriggered = 1 << 31 // unix.EPOLLET is negative
)

// What a descriptor can be watched for. Connections are edge-triggered: there is one event when something comes, not one for
// each look until it is read. Whether there is room for output is asked only while some waits for it, because a Unix
// socket says so each time its peer reads, which would wake the loop for every request.
const (
	Readable         = unix.EPOLLIN | unix.EPOLLRDHUP | edgeTriggered
	ReadableWritable = Readable | unix.EPOLLOUT
	// Acceptable is for a listening socket. It is level-triggered: there is an event as long as a client waits, so that a loop
	// may let in a few at a time.
	Acceptable = unix.EPOLLIN
	// AcceptableByOne is the same for one that several loops watch: one of them is woken for a client, not all.
	AcceptableByOne = unix.EPOLLIN | unix.EPOLLEXCLUSIVE
)

// HungUp says that an event tells of a connection's end, or of the peer's direction.
func HungUp(events uint32) bool {
	return events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
}

// Poller is an epoll instance that one goroutine waits for, and that others can wake.
type Poller struct {
	_         [2048]byte     // so that what is read doesn't begin on a page, as what it is copied to does: their addresses would collide in the CPU
	readAhead [ReadSize]byte // what the last read of a Socket brought

	epfd, wakefd int
	woken        atomic.Bool // Wake was called since the last Woken, and wakefd written

	// Owned by the goroutine that waits.
	epoll     *os.File // epfd, in the runtime's poller
	raw       syscall.RawConn
	lookAgain func(uintptr) bool // made once: a closure a wait would be garbage
	deadline  time.Time          // of the wait; zero: none
	events    [eventsPerWait]unix.EpollEvent
	found     int // events, at the last look
	failure   error
}

// NewPoller returns a Poller that watches nothing yet. Close frees it.
func NewPoller() (*Poller, error) {
	p := &Poller{wakefd: -1}
	p.lookAgain = func(uintptr) bool {
		p.look()
		return p.hasSome()
	}
	var err error
	if p.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = unix.SetNonblock(p.epfd, true) // what makes os.NewFile use the runtime's poller
	p.epoll = os.NewFile(uintptr(p.epfd), "epoll")
	if err == nil {
		p.raw, err = p.epoll.SyscallConn()
	}
	if err == nil {
		p.wakefd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		err = p.Add(p.wakefd, Readable)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("make poller: %w", err)
	}
	return p, nil
}

// Close frees the epoll instance. It is for the goroutine that waits; what is watched stays open, and Wake must not be
// called any more.
func (p *Poller) Close() {
	p.epoll.Close()
	if p.wakefd >= 0 {
		unix.Close(p.wakefd)
	}
}

// Add begins to watch a descriptor, Modify changes what it is watched for, Remove ends it. A descriptor that is closed needs no
// Remove, unless there is another one of the same open file (see Descriptor).
func (p *Poller) Add(fd int, events uint32) error { return p.control(unix.EPOLL_CTL_ADD, fd, events) }

// Modify changes what a descriptor is watched for. The kernel looks at once, so nothing that is there already is missed.
func (p *Poller) Modify(fd int, events uint32) error {
	return p.control(unix.EPOLL_CTL_MOD, fd, events)
}

// Remove ends the watching of a descriptor.
func (p *Poller) Remove(fd int) error { return p.control(unix.EPOLL_CTL_DEL, fd, 0) }

func (p *Poller) control(op, fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(p.epfd), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	return nil
}

// Wake makes the current Wait return, or the next one. It may be called from anywhere, and costs a system call only
// where none before it is still to be noticed. What is to be done must be visible to the loop before Wake is called.
func (p *Poller) Wake() {
	if !p.woken.Swap(true) {
		one := [8]byte{1}
		_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, uintptr(p.wakefd), uintptr(unsafe.Pointer(&one)), uintptr(len(one)))
	}
}

// Woken reports whether Wake was called since the last Woken. The loop asks after each wait, and looks at what it was woken for
// after that. A Wake that comes between the two lines below writes nothing, because it still sees the mark; what it is for was
// visible before, so the loop's look finds it.
func (p *Poller) Woken() bool {
	if !p.woken.Load() {
		return false
	}
	var count [8]byte
	_, _ = ReadFD(p.wakefd, count[:])
	p.woken.Store(false)
	return true
}

// Poll returns the events that are there, without waiting. They are valid until the next Poll or Wait. A descriptor
// that was closed since then may still have an event: whoever handles one before may close another.
func (p *Poller) Poll() ([]unix.EpollEvent, error) {
	p.look()
	return p.events[:p.found], p.failure
}

// Wait is Poll that waits until there is an event, or Wake is called. Where within is not zero it ends after that time at the
// latest, and maybe after half of it (see setDeadline); now is the time as far as the loop knows it.
//
// It asks without waiting first: under load there is always something. When there is not, it waits as goroutines do, with the
// epoll instance itself in the runtime's poller. An epoll_wait that blocks would hold a thread of the scheduler's, and
// hand it over to another and back each time.
func (p *Poller) Wait(now time.Time, within time.Duration) ([]unix.EpollEvent, error) {
	if p.look(); p.hasSome() {
		return p.events[:p.found], p.failure
	}
	if err := p.setDeadline(now, within); err != nil {
		return nil, err
	}
	err := p.raw.Read(p.lookAgain)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, nil
	}
	return p.events[:p.found], errors.Join(p.failure, err)
}

func (p *Poller) hasSome() bool { return p.found > 0 || p.failure != nil || p.woken.Load() }

// setDeadline bounds the next wait. It leaves a deadline alone that is between half of the time and all of it away: to move
// one costs more than the wait, and a loop under load would do so thousands of times a second for a tick that it doesn't need.
func (p *Poller) setDeadline(now time.Time, within time.Duration) error {
	if within == 0 {
		if p.deadline.IsZero() {
			return nil
		}
		p.deadline = time.Time{}
		return p.epoll.SetReadDeadline(p.deadline)
	}
	if left := p.deadline.Sub(now); left > within/2 && left <= within {
		return nil
	}
	p.deadline = time.Now().Add(within)
	return p.epoll.SetReadDeadline(p.deadline)
}

// look takes the events that are there, past the runtime's scheduler: with a timeout of zero the call doesn't wait, and to
// tell the scheduler of it would cost as much again. The wake-up's own event is not one for the caller.
func (p *Poller) look() {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd), uintptr(unsafe.Pointer(&p.events[0])), eventsPerWait, 0, 0, 0)
	if errno != 0 {
		p.found = 0
		if errno != unix.EINTR {
			p.failure = os.NewSyscallError("epoll_pwait", errno)
		}
		return
	}
	p.found = int(n)
	for i := range p.events[:p.found] {
		if p.events[i].Fd == int32(p.wakefd) {
			p.found--
			p.events[i] = p.events[p.found]
			break
		}
	}
}

package relay

import (
	"io"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errAgain says that a socket has nothing more for now. crypto/tls goes on after it because it is Temporary.
var errAgain error = again{}

type again struct{}

func (again) Error() string   { return "nothing to read yet" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

// Buffers of what a peer has not taken yet come in two sizes. chunkSize holds what becomes of one full read, sealed;
// smallSize what most clients get in a step: for hundreds of them at a time the chunks would not stay in the cache.
const (
	chunkSize = 2 * readSize
	smallSize = 2 << 10
)

var (
	chunks = sync.Pool{New: func() any { b := make([]byte, 0, chunkSize); return &b }}
	smalls = sync.Pool{New: func() any { b := make([]byte, 0, smallSize); return &b }}
)

// owner is what a socket belongs to: a Session, or the upstream that it is.
type owner interface {
	// progress does all that can be done now.
	progress(*socket)
	// end closes the socket and all that hangs on it.
	end()
	// tidy frees what an idle socket doesn't need.
	tidy()
}

// socket is a non-blocking descriptor that a loop owns. Reads come out of the loop's buffer; a write always succeeds and
// is sent at the end of the step, together with what else was written in it.
type socket struct {
	fd     int32
	loop   *loop
	owner  owner
	queued bool // is in loop.ready
	closed bool

	in      []byte // read ahead: a part of loop.raw until the step ends, then of kept
	kept    []byte
	drained bool  // the kernel has nothing more until the next event
	hangup  bool  // the peer sends no more: read until the end although a read was short
	inErr   error // io.EOF or a failure, after in

	out      *[]byte // nil when empty
	sent     int     // of *out
	total    uint64  // what the peer has taken, in all
	waits    bool    // epoll is asked for room
	outErr   error
	shutdown bool // FIN after *out
	finished bool // FIN is sent
}

// Read implements io.Reader for the TLS layer and for plain ends.
func (s *socket) Read(b []byte) (int, error) {
	if len(s.in) == 0 {
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(b, s.in)
	s.in = s.in[n:]
	return n, nil
}

// empty says that a Read has nothing to give before the next event.
func (s *socket) empty() bool { return s.drained && s.inErr == nil && len(s.in) == 0 }

// fill reads ahead into the loop's buffer.
func (s *socket) fill() error {
	n, err := s.readInto(s.loop.raw[:])
	if err != nil {
		return err
	}
	s.in = s.loop.raw[:n]
	return nil
}

// readInto reads from the kernel, past the runtime: the call doesn't block.
func (s *socket) readInto(b []byte) (int, error) {
	if s.inErr != nil {
		return 0, s.inErr
	}
	if s.drained {
		return 0, errAgain
	}
	n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(s.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	switch {
	case errno == unix.EAGAIN:
		s.drained = true
		return 0, errAgain
	case errno == unix.EINTR:
		return s.readInto(b)
	case errno != 0:
		s.inErr = os.NewSyscallError("read", errno)
		return 0, s.inErr
	case n == 0:
		s.inErr = io.EOF
		return 0, io.EOF
	}
	// A stream socket that fills less than it could is empty (epoll(7)); an end that is known to come is read, though.
	s.drained = int(n) < len(b) && !s.hangup
	return int(n), nil
}

// acknowledge tells the peer at once what has arrived. One that leaves Nagle's algorithm on (RFC 9293, 3.7.4) holds the end of
// a request back until then, and the kernel would take 40 ms to say so by itself.
func (s *socket) acknowledge() {
	_ = unix.SetsockoptInt(int(s.fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) // not TCP: nothing to be told
}

// keep saves what was read ahead before the loop's buffer is used for another socket.
func (s *socket) keep() {
	if len(s.in) == 0 {
		s.in, s.kept = nil, nil
		return
	}
	s.kept = append([]byte(nil), s.in...)
	s.in = s.kept
}

// Write implements io.Writer. Nothing is sent before flush.
func (s *socket) Write(b []byte) (int, error) {
	if s.outErr != nil {
		return 0, s.outErr
	}
	switch {
	case s.out == nil && len(b) <= smallSize:
		s.out = smalls.Get().(*[]byte)
	case s.out == nil:
		s.out = chunks.Get().(*[]byte)
	case cap(*s.out) == smallSize && len(*s.out)+len(b) > smallSize:
		small := s.out
		s.out = chunks.Get().(*[]byte)
		*s.out = append(*s.out, *small...)
		recycle(small)
	}
	*s.out = append(*s.out, b...)
	return len(b), nil
}

// pending is how much the peer has not taken yet.
func (s *socket) pending() int {
	if s.out == nil {
		return 0
	}
	return len(*s.out) - s.sent
}

// flush sends what it can. What is left goes when the kernel says that there is room.
func (s *socket) flush() error {
	for s.outErr == nil && s.pending() > 0 {
		n, err := writeTo(s.fd, (*s.out)[s.sent:])
		if err == unix.EAGAIN {
			s.shrink()
			s.awaitRoom(true)
			return s.outErr
		}
		if err != nil {
			s.outErr = os.NewSyscallError("write", err)
			break
		}
		s.sent += n
		s.total += uint64(n)
	}
	s.release()
	if s.waits {
		s.awaitRoom(false)
	}
	if s.outErr == nil && s.shutdown && !s.finished {
		s.finished = true
		if err := unix.Shutdown(int(s.fd), unix.SHUT_WR); err != nil {
			s.outErr = os.NewSyscallError("shutdown", err)
		}
	}
	return s.outErr
}

// awaitRoom asks epoll to say when there is room, or no longer to. It looks at once, so that no room is missed.
func (s *socket) awaitRoom(on bool) {
	if s.waits == on {
		return
	}
	events := uint32(inputEvents)
	if on {
		events = roomEvents
	}
	if err := s.loop.control(unix.EPOLL_CTL_MOD, int(s.fd), events); err != nil {
		s.outErr = err
		return
	}
	s.waits = on
}

// send is Write and flush without a copy where nothing is waiting.
func (s *socket) send(b []byte) error {
	for s.pending() == 0 && s.outErr == nil && len(b) > 0 {
		n, err := writeTo(s.fd, b)
		if err == unix.EAGAIN {
			s.awaitRoom(true)
			break
		}
		if err != nil {
			s.outErr = os.NewSyscallError("write", err)
			break
		}
		b = b[n:]
	}
	if len(b) > 0 {
		s.Write(b)
	}
	return s.outErr
}

func writeTo(fd int32, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// shrink moves what is left into a buffer of its size: a peer that takes its time must not hold a whole chunk.
func (s *socket) shrink() {
	if c := cap(*s.out); c <= smallSize || s.sent < readSize && s.pending() > c/4 {
		return
	}
	left := append([]byte(nil), (*s.out)[s.sent:]...)
	s.release()
	s.out = &left
}

func (s *socket) release() {
	if s.out == nil {
		return
	}
	recycle(s.out)
	s.out, s.sent = nil, 0
}

// recycle keeps a buffer for whoever needs one next. One that grew, or was made to measure, is for the collector.
func recycle(b *[]byte) {
	c := cap(*b)
	*b = (*b)[:0]
	switch {
	case c == smallSize:
		smalls.Put(b)
	case c >= chunkSize && c <= 2*chunkSize:
		chunks.Put(b)
	}
}

// event notes what epoll says and lets the pipe go on.
func (s *socket) event(events uint32) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.drained = false
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.hangup = true
	}
	s.owner.progress(s)
}

func (s *socket) close() {
	if s.closed {
		return
	}
	s.closed = true
	s.loop.forget(s)
	unix.Close(int(s.fd)) // takes it out of the epoll set
	s.release()
	s.in, s.kept = nil, nil
}

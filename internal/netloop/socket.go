package netloop

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrAgain says that a socket has nothing more for now. crypto/tls goes on after it because it is Temporary.
var ErrAgain error = again{}

type again struct{}

func (again) Error() string   { return "nothing to read yet" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

// Socket is a non-blocking descriptor of a stream socket that a loop owns. Reads come out of the poller's buffer; a write
// always succeeds and is sent by Flush, together with what else was written before it. A failure of a write is remembered,
// and Flush returns it.
type Socket struct {
	fd     int32
	closed bool
	poller *Poller

	in      []byte // read ahead: a part of poller.readAhead until SaveReadAhead, then of saved
	saved   []byte
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

// Attached says that the socket has a descriptor, which may be closed by now.
func (s *Socket) Attached() bool { return s.poller != nil }

// FD is the descriptor.
func (s *Socket) FD() int { return int(s.fd) }

// Closed says that Close was called.
func (s *Socket) Closed() bool { return s.closed }

// Watch lets the poller tell of events at the socket.
func (s *Socket) Watch() error { return s.poller.Add(int(s.fd), Readable) }

// Note takes in what the poller says of the socket.
func (s *Socket) Note(events uint32) {
	if events&unix.EPOLLIN != 0 || HungUp(events) {
		s.drained = false
	}
	if HungUp(events) {
		s.hangup = true
	}
}

// Drained says that the kernel has nothing to be read before the next event.
func (s *Socket) Drained() bool { return s.drained }

// HungUp says that the peer has ended its direction, or the connection, although that may not have been read yet.
func (s *Socket) HungUp() bool { return s.hangup }

// Read implements io.Reader, for TLS above it and for a plain Stream. It never waits: ErrAgain says that there is nothing.
func (s *Socket) Read(b []byte) (int, error) {
	if len(s.in) == 0 {
		n, err := s.readInto(s.poller.readAhead[:])
		if err != nil {
			return 0, err
		}
		s.in = s.poller.readAhead[:n]
	}
	n := copy(b, s.in)
	s.in = s.in[n:]
	return n, nil
}

// empty says that a Read has nothing to give before the next event.
func (s *Socket) empty() bool { return s.drained && s.inErr == nil && len(s.in) == 0 }

// readInto reads from the kernel, and remembers what that says of the next read. A stream socket that fills less than it could
// is empty (epoll(7)), which saves the read that would say EAGAIN. After a hang-up there is no further event, though, and
// the end is only seen by reading on.
func (s *Socket) readInto(b []byte) (int, error) {
	if s.inErr != nil {
		return 0, s.inErr
	}
	if s.drained {
		return 0, ErrAgain
	}
	n, err := ReadFD(int(s.fd), b)
	switch {
	case err == unix.EAGAIN:
		s.drained = true
		return 0, ErrAgain
	case err != nil:
		s.inErr = os.NewSyscallError("read", err)
		return 0, s.inErr
	case n == 0:
		s.inErr = io.EOF
		return 0, io.EOF
	}
	s.drained = n < len(b) && !s.hangup
	return n, nil
}

// QuickAck tells the peer at once what has arrived. One that leaves Nagle's algorithm on (RFC 9293, 3.7.4) holds the end of
// a request back until then, and the kernel would take 40 ms to say so by itself.
func (s *Socket) QuickAck() {
	_ = unix.SetsockoptInt(int(s.fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) // not TCP: nothing to be told
}

// SaveReadAhead copies what was read and not taken out of the poller's buffer. A loop calls it before it goes on with another
// socket, which would overwrite it.
func (s *Socket) SaveReadAhead() {
	if len(s.in) == 0 {
		s.in, s.saved = nil, nil
		return
	}
	s.saved = append([]byte(nil), s.in...)
	s.in = s.saved
}

// Write implements io.Writer. Nothing is sent before Flush.
func (s *Socket) Write(b []byte) (int, error) {
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

// Pending is how much the peer has not taken yet.
func (s *Socket) Pending() int {
	if s.out == nil {
		return 0
	}
	return len(*s.out) - s.sent
}

// Sent is how many bytes the peer has taken by way of Flush.
func (s *Socket) Sent() uint64 { return s.total }

// WriteErr is the failure of a write, nil as long as there was none.
func (s *Socket) WriteErr() error { return s.outErr }

// CloseWrite ends our direction: FIN follows what is pending, at a Flush.
func (s *Socket) CloseWrite() { s.shutdown = true }

// WriteClosing says that CloseWrite was called.
func (s *Socket) WriteClosing() bool { return s.shutdown }

// WriteClosed says that our direction has ended: FIN was sent, or OmitFIN called.
func (s *Socket) WriteClosed() bool { return s.finished }

// OmitFIN counts our direction as ended without a FIN of its own, because Close follows at once and says the same.
func (s *Socket) OmitFIN() { s.finished = true }

// Flush sends what the peer takes. What is left is to be flushed again at the next event: the poller tells when there is room.
func (s *Socket) Flush() error {
	for s.outErr == nil && s.Pending() > 0 {
		n, err := WriteFD(int(s.fd), (*s.out)[s.sent:])
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
	s.DiscardOutput()
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

// awaitRoom asks the poller to tell when there is room, or no longer to.
func (s *Socket) awaitRoom(on bool) {
	if s.waits == on {
		return
	}
	events := uint32(Readable)
	if on {
		events = ReadableWritable
	}
	if err := s.poller.Modify(int(s.fd), events); err != nil {
		s.outErr = err
		return
	}
	s.waits = on
}

// Send is Write and Flush without a copy where nothing is pending. Whatever b holds may be used again at once.
func (s *Socket) Send(b []byte) error {
	for s.Pending() == 0 && s.outErr == nil && len(b) > 0 {
		n, err := WriteFD(int(s.fd), b)
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

// shrink moves what is left into a buffer of its size: a peer that takes its time must not hold a whole chunk.
func (s *Socket) shrink() {
	if c := cap(*s.out); c <= smallSize || s.sent < ReadSize && s.Pending() > c/4 {
		return
	}
	left := append([]byte(nil), (*s.out)[s.sent:]...)
	s.DiscardOutput()
	s.out = &left
}

// DiscardOutput throws away what is pending: the peer takes nothing any more.
func (s *Socket) DiscardOutput() {
	if s.out == nil {
		return
	}
	recycle(s.out)
	s.out, s.sent = nil, 0
}

// Close closes the descriptor, which ends the watching too. It may be called more than once.
func (s *Socket) Close() {
	if s.closed {
		return
	}
	s.closed = true
	unix.Close(int(s.fd))
	s.DiscardOutput()
	s.in, s.saved = nil, nil
}

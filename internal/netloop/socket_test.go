package netloop

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func randomBytes(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// A peer that doesn't read makes output pend; when it reads, all of it comes, in order, and then the end of our direction.
// Its own direction lives on.
func TestSlowPeerGetsAllInOrderAndThenTheEnd(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	far, fd := tcpPair(t)
	s := attach(t, p, Conn{FD: fd})
	want := randomBytes(8 << 20)
	left := want
	for i := 0; len(left) > 0; i++ {
		n := min(len(left), 1+i*7919%100000)
		if i%2 == 0 {
			_, _ = s.Write(left[:n])
			_ = s.Flush()
		} else if err := s.Send(left[:n]); err != nil {
			t.Fatal(err)
		}
		left = left[n:]
	}
	s.CloseWrite()
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if s.Pending() == 0 || !s.WriteClosing() || s.WriteClosed() {
		t.Fatalf("%d bytes pending, closing %t, closed %t; want some pending and the end after them", s.Pending(), s.WriteClosing(), s.WriteClosed())
	}
	got := make(chan []byte)
	go func() {
		b, err := io.ReadAll(far)
		if err != nil {
			t.Error(err)
		}
		got <- b
	}()
	var all []byte
	loop(t, p, s, func() bool {
		select {
		case all = <-got:
			return true
		default:
			return s.WriteClosed()
		}
	})
	if all == nil {
		all = <-got
	}
	if !bytes.Equal(all, want) {
		t.Errorf("%d bytes came that differ from the %d that were sent", len(all), len(want))
	}
	if _, err := far.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	loop(t, p, s, func() bool {
		n, err := s.Read(b)
		return err == nil && string(b[:n]) == "still here"
	})
	if s.Pending() != 0 || s.Sent() == 0 {
		t.Errorf("%d bytes pending, %d sent", s.Pending(), s.Sent())
	}
}

// Room is asked for only while something waits for it, or each read of a peer would wake the loop.
func TestRoomIsAskedForOnlyWhileOutputPends(t *testing.T) {
	t.Parallel()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	p := newPoller(t)
	s := attach(t, p, Conn{FD: pair[0]})
	b := make([]byte, 1<<20)
	drain := func() (n int) {
		for {
			m, err := ReadFD(pair[1], b)
			if err != nil {
				return n
			}
			n += m
		}
	}
	_, _ = s.Write([]byte("small"))
	if err := s.Flush(); err != nil || s.Pending() != 0 {
		t.Fatal(err, s.Pending())
	}
	drain()
	if events := wait(t, p, 10*time.Millisecond); len(events) != 0 {
		t.Errorf("a peer that has read is an event: %v", events)
	}
	_, _ = s.Write(make([]byte, 4<<20))
	for total := 0; total < 4<<20; total += drain() {
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		if s.Pending() > 0 && !s.waits {
			t.Fatal("output pends, and nobody is told when there is room")
		}
	}
	drain()
	if err := s.Flush(); err != nil || s.waits {
		t.Errorf("room is still asked for, and nothing waits for it (%v)", err)
	}
}

func TestReadUntilTheEnd(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	far, fd := tcpPair(t)
	s := attach(t, p, Conn{FD: fd, Head: []byte("head ")})
	if _, err := far.Write([]byte("and the rest")); err != nil {
		t.Fatal(err)
	}
	far.CloseWrite()
	// The end is known before the first read: no further event will tell of it.
	loop(t, p, s, s.HungUp)
	var got []byte
	var end error
	loop(t, p, s, func() bool {
		// In pieces, so that the reads are short although the peer's end is there already.
		for b := make([]byte, 5); end == nil; {
			n, err := s.Read(b)
			got = append(got, b[:n]...)
			if err == ErrAgain {
				return false
			}
			end = err
		}
		return true
	})
	if string(got) != "head and the rest" || end != io.EOF {
		t.Errorf("got %q, %v; want what was read already, the rest, and EOF", got, end)
	}
	if _, err := s.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the end: %v; want EOF again", err)
	}
}

// Two sockets of a poller share the buffer for what was read ahead.
func TestWhatIsReadAheadSurvivesTheNextSocket(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	var streams [2]*Stream
	for i, text := range []string{"the first", "THE OTHER"} {
		far, fd := tcpPair(t)
		streams[i] = attach(t, p, Conn{FD: fd})
		if _, err := far.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for pending := 2; pending > 0; {
		pending -= len(wait(t, p, patience))
	}
	one := make([]byte, 1)
	for _, s := range streams {
		if _, err := s.Socket.Read(one); err != nil {
			t.Fatal(err)
		}
		s.SaveReadAhead()
	}
	for i, want := range []string{"he first", "HE OTHER"} {
		b := make([]byte, 100)
		if n, err := streams[i].Read(b); err != nil || string(b[:n]) != want {
			t.Errorf("got %q, %v; want %q", b[:n], err, want)
		}
	}
}

func TestPeerThatIsGoneIsAnErrorOfTheFlush(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	far, fd := tcpPair(t)
	s := attach(t, p, Conn{FD: fd})
	far.SetLinger(0)
	far.Close() // a reset
	loop(t, p, s, s.HungUp)
	var err error
	for err == nil {
		_, _ = s.Write([]byte("x"))
		err = s.Flush()
	}
	if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v; want that the connection is broken", err)
	}
	if _, werr := s.Write([]byte("y")); werr != err || s.WriteErr() != err || s.Send([]byte("z")) != err {
		t.Errorf("the error is not remembered: %v, %v", werr, s.WriteErr())
	}
}

func TestCloseIsForThisDescriptorOnce(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	far, fd := tcpPair(t)
	s := attach(t, p, Conn{FD: fd})
	_, _ = s.Write([]byte("thrown away"))
	s.Close()
	if !s.Closed() || s.Pending() != 0 {
		t.Errorf("closed %t, %d bytes pending", s.Closed(), s.Pending())
	}
	if b, err := io.ReadAll(far); err != nil || len(b) > 0 {
		t.Errorf("the peer got %q, %v; want an orderly end", b, err)
	}
	s.Close() // must not close whoever has the number now
	var zero Stream
	if zero.Attached() || !s.Attached() {
		t.Error("a stream is attached from Attach on, and not before")
	}
}

// What a slow peer leaves must not hold a buffer that is many times as long.
func TestRestOfALargeWriteIsKeptInABufferOfItsSize(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	_, fd := tcpPair(t)
	s := attach(t, p, Conn{FD: fd})
	for s.Pending() == 0 {
		_, _ = s.Write(make([]byte, 8<<20))
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if s.sent != 0 || cap(*s.out) > s.Pending()+s.Pending()/4+4096 {
		t.Errorf("%d bytes pend in a buffer of %d", s.Pending(), cap(*s.out))
	}
}

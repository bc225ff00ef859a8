package netloop

import (
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

func newPoller(t testing.TB) *Poller {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// tcpPair is a real connection: the far end is the peer's, with a deadline, and the descriptor is for a loop.
func tcpPair(t testing.TB) (far *net.TCPConn, fd int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	if fd, err = Descriptor(near.(syscall.Conn)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn), fd
}

// attach makes c a stream of p, and watches it.
func attach(t testing.TB, p *Poller, c Conn) *Stream {
	t.Helper()
	s := new(Stream)
	s.Attach(p, c)
	t.Cleanup(s.Close)
	if err := s.Watch(); err != nil {
		t.Fatal(err)
	}
	return s
}

// loop is a loop with one stream: it flushes, calls step after each wait, and returns when that says that it is done.
func loop(t testing.TB, p *Poller, s *Stream, step func() (done bool)) {
	t.Helper()
	for end := time.Now().Add(patience); !step(); {
		if time.Now().After(end) {
			t.Fatalf("not done after %v: %d bytes are pending", patience, s.Pending())
		}
		events, err := p.Wait(time.Now(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range events {
			if int(ev.Fd) != s.FD() {
				t.Fatalf("an event of descriptor %d, which is not watched", ev.Fd)
			}
			s.Note(ev.Events)
		}
		if s.Pending() > 0 || s.WriteClosing() {
			s.Flush()
		}
	}
}

// wait returns what one wait brings.
func wait(t testing.TB, p *Poller, within time.Duration) []unix.EpollEvent {
	t.Helper()
	events, err := p.Wait(time.Now(), within)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

package netloop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
)

// shaken is a TLS connection: the far end, which blocks, and the near one on its way to a loop.
func shaken(t testing.TB, version uint16) (far *tls.Conn, near Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	failed := make(chan error, 1)
	go func() {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err == nil {
			t.Cleanup(func() { c.Close() })
			c.SetDeadline(time.Now().Add(patience))
			far = tls.Client(&recorder{Conn: c}, &tls.Config{InsecureSkipVerify: true, MaxVersion: version})
			err = far.Handshake()
		}
		failed <- err
	}()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	transport := NewTransport(c)
	near, err = handshake(t.Context(), transport, tls.Server(transport, &tls.Config{Certificates: []tls.Certificate{certtest.SelfSigned(t, nil)}}))
	if err = errors.Join(err, <-failed); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection below is still open after the handshake: %v", err)
	}
	return far, near
}

// What TLS carries comes through in both directions at once, whatever the sizes, and ends in good order.
func TestTLSOverASocketThatNeverBlocks(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	far, near := shaken(t, tls.VersionTLS13)
	s := attach(t, p, near)
	want := randomBytes(6 << 20)
	wrote := make(chan error, 1)
	go func() {
		left := want
		for i := 0; len(left) > 0; i++ {
			n := min(len(left), 1+i*7919%70000)
			if _, err := far.Write(left[:n]); err != nil {
				wrote <- err
				return
			}
			left = left[n:]
		}
		wrote <- far.CloseWrite()
	}()
	read := make(chan []byte, 1)
	go func() {
		b, err := io.ReadAll(far)
		if err != nil {
			t.Error(err)
		}
		read <- b
	}()
	var got int
	b := make([]byte, 50000)
	loop(t, p, s, func() bool {
		for {
			n, err := s.Read(b)
			if !bytes.Equal(b[:n], want[got:got+n]) {
				t.Fatalf("what came after byte %d differs", got)
			}
			got += n
			if n%3 == 0 {
				_, _ = s.Write(b[:n])
			} else if err := s.Send(b[:n]); err != nil {
				t.Fatal(err)
			}
			switch {
			case err == io.EOF:
				s.CloseWrite()
				_ = s.Flush()
				return true
			case err != nil && err != ErrAgain:
				t.Fatal(err)
			case err == ErrAgain:
				_ = s.Flush()
				s.SaveReadAhead()
				return false
			}
		}
	})
	loop(t, p, s, s.WriteClosed)
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if back := <-read; got != len(want) || !bytes.Equal(back, want) {
		t.Errorf("%d bytes came and %d went back; want the same %d", got, len(back), len(want))
	}
}

// Replies to many requests are one record, not one each.
func TestWhatIsWrittenBeforeAFlushIsOneRecord(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	far, near := shaken(t, tls.VersionTLS13)
	s := attach(t, p, near)
	for range 5 {
		_, _ = s.Write([]byte("reply"))
	}
	if s.Pending() != 25 || s.Sent() != 0 {
		t.Errorf("%d bytes pending, %d sent; want all pending before the flush", s.Pending(), s.Sent())
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := far.Read(b); err != nil || string(b[:n]) != strings.Repeat("reply", 5) {
		t.Errorf("the first read got %q, %v; want all five replies", b[:n], err)
	}
}

// An end without close_notify could be an attacker's (RFC 8446, 6.1).
func TestEndOfOurDirectionIsSaidInTLS(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	far, near := shaken(t, tls.VersionTLS12)
	s := attach(t, p, near)
	_, _ = s.Write([]byte("first"))
	if err := s.Send([]byte(", last")); err != nil {
		t.Fatal(err)
	}
	s.CloseWrite()
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(far); err != nil || string(b) != "first, last" {
		t.Errorf("got %q, %v", b, err)
	}
	before := far.NetConn().(*recorder).got
	const alert = 21 // the type of a record in TLS 1.2
	last := byte(0)
	for len(before) > 5 {
		last = before[0]
		before = before[min(len(before), 5+int(before[3])<<8+int(before[4])):]
	}
	if last != alert {
		t.Errorf("the last record has the type %d; want an alert", last)
	}
}

// recorder remembers what it has read.
type recorder struct {
	net.Conn
	got []byte
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.got = append(r.got, b[:n]...)
	return n, err
}

// What the peer sends right behind its handshake may be read together with the handshake's end, and no event tells of it.
func TestWhatCameWithTheHandshakeIsNotLost(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cert := certtest.SelfSigned(t, nil)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
		if _, err := s.Write([]byte("early")); err == nil { // after the handshake, in the same flight as the session ticket
			_, _ = io.Copy(io.Discard, s)
		}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := ClientHandshake(t.Context(), c, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	p := newPoller(t)
	s := attach(t, p, near)
	b, got := make([]byte, 100), ""
	loop(t, p, s, func() bool {
		n, err := s.Read(b)
		if got += string(b[:n]); err != nil && err != ErrAgain {
			t.Fatal(err)
		}
		s.SaveReadAhead()
		return got == "early"
	})
}

func TestIdleStreamGivesItsTLSBufferBack(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	far, near := shaken(t, tls.VersionTLS13)
	s := attach(t, p, near)
	want := randomBytes(64 << 10)
	got := 0
	b := make([]byte, len(want))
	take := func() bool {
		n, err := s.Read(b[got:])
		if got += n; err != nil && err != ErrAgain {
			t.Fatal(err)
		}
		return got == len(b)
	}
	for range 2 {
		got = 0
		go far.Write(want)
		loop(t, p, s, take)
		if !bytes.Equal(b, want) {
			t.Fatal("what came differs")
		}
		if freed := s.FreeIdle(); freed <= smallInput {
			t.Errorf("%d bytes were freed after a large record", freed)
		}
	}
	var plain Stream
	if n := plain.FreeIdle(); n != 0 {
		t.Errorf("a plain stream has freed %d bytes", n)
	}
}

func TestFailedHandshakeClosesTheConnection(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(io.Discard, c) // and no answer
			}()
		}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := ClientHandshake(short, c, &tls.Config{InsecureSkipVerify: true}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v; want that the time is over", err)
	}
	if _, err := c.Write(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection is still open: %v", err)
	}
	near, far := net.Pipe()
	defer far.Close()
	if _, err := ClientHandshake(t.Context(), near, &tls.Config{InsecureSkipVerify: true}); err == nil || !strings.Contains(err.Error(), "descriptor") {
		t.Errorf("a connection without a descriptor: got %v", err)
	}
}

package netloop

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listening is a listening socket of a loop's own.
func listening(t testing.TB, network, address string) (fd int, at net.Addr) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("listen: %v", err) // a machine without IPv6
	}
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	fd, err = Descriptor(ln.(syscall.Conn))
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // the descriptor stays
	t.Cleanup(func() { unix.Close(fd) })
	return fd, ln.Addr()
}

func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func TestAcceptSaysWhereAClientComesFrom(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, network, address string }{
		{"IPv4", "tcp4", "127.0.0.1:0"}, {"IPv6", "tcp6", "[::1]:0"}, {"IPv4 at an IPv6 listener", "tcp", "[::]:0"}, {"Unix", "unix", socketPath(t)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ln, at := listening(t, tc.network, tc.address)
			if _, _, err := Accept(ln); err != unix.EAGAIN {
				t.Fatalf("nobody has come: got %v; want EAGAIN", err)
			}
			target := at.String()
			if tc.address == "[::]:0" {
				target = net.JoinHostPort("127.0.0.1", target[len("[::]:"):])
			}
			c, err := net.Dial(at.Network(), target)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			p := newPoller(t)
			if err := p.Add(ln, Acceptable); err != nil {
				t.Fatal(err)
			}
			if events := wait(t, p, patience); len(events) != 1 || int(events[0].Fd) != ln {
				t.Fatalf("a client waits, and the events are %v", events)
			}
			fd, remote, err := Accept(ln)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			want := netip.AddrPort{}
			if a, ok := c.LocalAddr().(*net.TCPAddr); ok {
				want = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
			}
			if remote != want {
				t.Errorf("it comes from %v; want %v", remote, want)
			}
			flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			own, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if flags&unix.O_NONBLOCK == 0 || own&unix.FD_CLOEXEC == 0 {
				t.Errorf("flags %#x, %#x; want non-blocking and close-on-exec", flags, own)
			}
		})
	}
}

// Loops that watch the same listener are woken for a client one at a time.
func TestOneLoopIsWokenForAClient(t *testing.T) {
	t.Parallel()
	ln, at := listening(t, "tcp", "127.0.0.1:0")
	const loops = 4
	var woken atomic.Int64
	var pollers [loops]*Poller
	ended := make(chan struct{}, loops)
	for i := range pollers {
		p := newPoller(t)
		pollers[i] = p
		if err := p.Add(ln, AcceptableByOne); err != nil {
			t.Fatal(err)
		}
		go func() {
			defer func() { ended <- struct{}{} }()
			for {
				events, err := p.Wait(time.Now(), 0)
				if err != nil || p.Woken() {
					return
				}
				woken.Add(int64(len(events)))
				for range events {
					if fd, _, err := Accept(ln); err == nil {
						unix.Close(fd)
					}
				}
			}
		}()
	}
	const clients = 50
	for range clients {
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Read(make([]byte, 1)) // until it is closed
		c.Close()
	}
	for _, p := range pollers {
		p.Wake()
	}
	for range loops {
		<-ended
	}
	// A loop that has just accepted may look once more; all of them for each client would be 200.
	if n := woken.Load(); n < clients || n > 3*clients {
		t.Errorf("%d wake-ups for %d clients", n, clients)
	}
}

// Options that are set on each accepted connection would be system calls for each client.
func TestAcceptedSocketsInheritTheListenersOptions(t *testing.T) {
	t.Parallel()
	k := KeepAlive{Idle: 77 * time.Second, Interval: 13 * time.Second, Count: 3}
	ln, at, err := ListenTCP(t.Context(), "127.0.0.1:0", false, k)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ln)
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := newPoller(t)
	if err := p.Add(ln, Acceptable); err != nil {
		t.Fatal(err)
	}
	wait(t, p, patience)
	fd, _, err := Accept(ln)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, o := range []struct {
		name                string
		level, option, want int
	}{
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 77},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 13},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
	} {
		if got, err := unix.GetsockoptInt(fd, o.level, o.option); err != nil || got != o.want {
			t.Errorf("%s is %d, %v; want %d", o.name, got, err, o.want)
		}
	}
	if got := LocalAddr(fd).String(); got != at.String() {
		t.Errorf("the client is at %s; want %s", got, at)
	}
	if _, _, err := ListenTCP(t.Context(), at.String(), false, k); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a second listener at %s: %v", at, err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if got := LocalAddr(pair[0]); got.IsValid() {
		t.Errorf("a Unix socket has the address %v", got)
	}
}

func TestDescriptorOutlivesItsConnection(t *testing.T) {
	t.Parallel()
	far, fd := tcpPair(t) // which has closed the connection that the descriptor is of
	defer unix.Close(fd)
	if _, err := WriteFD(fd, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	far.Close()
	if _, err := Descriptor(far); err == nil {
		t.Error("a connection that is closed has a descriptor")
	}
}

func TestConnectUnix(t *testing.T) {
	t.Parallel()
	path := socketPath(t)
	if _, err := ConnectUnix(path); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no socket: got %v", err)
	}
	ln, _ := listening(t, "unix", path)
	if err := unix.Listen(ln, 0); err != nil { // the shortest backlog
		t.Fatal(err)
	}
	fd, err := ConnectUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	far, _, err := Accept(ln)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(far)
	p := newPoller(t)
	s := attach(t, p, Conn{FD: far})
	if _, err := WriteFD(fd, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	loop(t, p, s, func() bool {
		n, err := s.Read(b)
		return err == nil && string(b[:n]) == "hello"
	})
	// An engine that accepts nobody must not make the loop wait.
	for range 10 {
		full, err := ConnectUnix(path)
		if errors.Is(err, unix.EAGAIN) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(full)
	}
	t.Error("a full backlog has room for ten")
}

func TestSharedListenersDivideClients(t *testing.T) {
	t.Parallel()
	k := KeepAlive{Idle: time.Minute, Interval: time.Second, Count: 4}
	first, at, err := ListenTCP(t.Context(), "127.0.0.1:0", false, k)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(first)
	if _, _, err := ListenTCP(t.Context(), at.String(), true, k); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("beside one that is not shared: %v", err)
	}
	if err := Share(first, true); err != nil { // it listens already
		t.Fatal(err)
	}
	if _, _, err := ListenTCP(t.Context(), at.String(), false, k); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("one that is not shared beside one that is: %v", err)
	}
	second, _, err := ListenTCP(t.Context(), at.String(), true, k)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(second)
	accepted := map[int]int{}
	for i := range 1000 {
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, l := range []int{first, second} {
			for fd, _, err := Accept(l); err == nil; fd, _, err = Accept(l) {
				accepted[l]++
				unix.Close(fd)
			}
		}
		if accepted[first] > 0 && accepted[second] > 0 {
			if sum := accepted[first] + accepted[second]; sum != i+1 {
				t.Errorf("%d clients were accepted; want %d", sum, i+1)
			}
			return
		}
	}
	t.Errorf("all clients went to one: %v", accepted)
}

package relay

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
)

// A descriptor that is closed and used again between two looks at the poller must not get what was meant for the connection before: a
// hang-up would stay with it, and cut a client that reads slowly.
func TestEventOfAClosedConnectionIsNotForTheNextOne(t *testing.T) {
	t.Parallel()
	l, err := newLoop(new(Loops))
	if err != nil {
		t.Fatal(err)
	}
	defer l.poller.Close()
	connect := func() *upstream {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(pair[1]) })
		u := l.newUpstream(key{})
		u.attach(netloop.Conn{FD: pair[0]})
		if err := u.watch(u); err != nil {
			t.Fatal(err)
		}
		u.closed = true // its progress is of no interest here
		return u
	}
	first := connect()
	fd := first.FD()
	l.round++
	taken := unix.EpollEvent{Fd: int32(fd), Events: unix.EPOLLIN | unix.EPOLLRDHUP}
	first.close()
	next := connect()
	if next.FD() != fd {
		t.Skip("the descriptor went to another test")
	}
	defer next.close()
	if l.event(&taken); next.HungUp() {
		t.Error("the next connection has the hang-up of the one before")
	}
	l.round++
	if l.event(&taken); !next.HungUp() {
		t.Error("an event of its own, in the next round, does not reach it")
	}
}

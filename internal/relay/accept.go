package relay

import (
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
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
	var listeners []*listener
	for _, l := range ls.all {
		n := &listener{Acceptor: a, loop: l, fd: fd}
		listeners = append(listeners, n)
		l.post(n.watch)
	}
	return sync.OnceFunc(func() {
		var stopped sync.WaitGroup
		for _, n := range listeners {
			stopped.Add(1)
			if !n.loop.post(func() { n.end(); stopped.Done() }) {
				stopped.Done()
			}
		}
		stopped.Wait()
	})
}

// listener is a listening socket as one loop sees it: each loop watches it, and lets in some of its clients.
type listener struct {
	Acceptor
	loop    *loop
	fd      int
	watched bool
	ended   bool
}

// watch asks for events as long as there is somebody to let in, and that one loop is woken, not all.
func (n *listener) watch() {
	if n.ended || n.watched {
		return
	}
	if err := n.loop.poller.Add(n.fd, netloop.AcceptableByOne); err != nil {
		n.Failed(err)
		return
	}
	n.loop.enter(n.fd, watched{owner: n})
	n.watched = true
}

func (n *listener) unwatch() {
	if n.watched {
		n.watched = false
		_ = n.loop.poller.Remove(n.fd)
		n.loop.watching[n.fd] = watched{}
	}
}

// progress implements owner.
func (n *listener) progress() {
	for range acceptsPerStep {
		fd, remote, err := netloop.Accept(n.fd)
		switch {
		case err == nil:
			n.loop.group.session(n.loop, netloop.Conn{FD: fd}, n.Config(remote)).start()
		case err == unix.ECONNABORTED, err == unix.EINTR: // that one has gone
		case err == unix.EAGAIN:
			return
		default:
			n.Failed(os.NewSyscallError("accept4", err))
			n.unwatch()
			time.AfterFunc(acceptPause, func() { n.loop.post(n.watch) })
			return
		}
	}
}

// end implements owner. The descriptor stays open.
func (n *listener) end() {
	n.unwatch()
	n.ended = true
}

// shrinkIdle implements owner.
func (n *listener) shrinkIdle() {}

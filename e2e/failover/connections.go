package failover

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Closed is a connection that ended while its client still wanted it.
type Closed struct {
	At       time.Duration
	Client   int
	Clean    bool // the client had no request in flight
	ByServer bool // the other side closed it; otherwise the library did, as after an error or when Sentinel names another primary
}

// owner is the client of a connection.
type owner struct {
	client   int
	endpoint Endpoint
	watch    *connections
	busy     atomic.Bool // a request is in flight
}

func (o *owner) closed(byServer bool) {
	o.watch.report(Closed{Client: o.client, Clean: !o.busy.Load(), ByServer: byServer})
}

// dial connects to a node or a sentinel. Connections to nodes are watched.
func (o *owner) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, network, address)
	if err != nil || o.endpoint.isSentinel(address) {
		return c, err
	}
	return o.watch.add(o, c.(*net.TCPConn))
}

// connections watches connections of this process. A library notices the end of an idle connection only with the next request, so the
// kernel is asked.
type connections struct {
	epoll  int
	report func(Closed)
	done   chan struct{}

	mu      sync.Mutex // guards the rest
	open    map[int]*connection
	stopped bool
}

type connection struct {
	*net.TCPConn
	watch *connections
	owner *owner
	fd    int
}

func watchConnections(report func(Closed)) (*connections, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	w := &connections{epoll: fd, report: report, open: make(map[int]*connection), done: make(chan struct{})}
	go w.loop()
	return w, nil
}

func (w *connections) add(o *owner, c *net.TCPConn) (net.Conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	watched := &connection{TCPConn: c, watch: w, owner: o}
	var failure error
	err = raw.Control(func(fd uintptr) {
		w.mu.Lock()
		defer w.mu.Unlock()
		watched.fd = int(fd)
		w.open[watched.fd] = watched
		failure = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(fd)})
	})
	if err == nil {
		err = failure
	}
	return watched, err
}

// Close is called by the library.
func (c *connection) Close() error {
	c.ended(false)
	return c.TCPConn.Close()
}

func (c *connection) ended(byServer bool) {
	w := c.watch
	w.mu.Lock()
	first := w.open[c.fd] == c && !w.stopped
	if w.open[c.fd] == c {
		delete(w.open, c.fd)
	}
	w.mu.Unlock()
	if first {
		c.owner.closed(byServer)
	}
}

func (w *connections) loop() {
	defer close(w.done)
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(w.epoll, events, 100)
		w.mu.Lock()
		var ended []*connection
		for _, e := range events[:max(n, 0)] {
			if c := w.open[int(e.Fd)]; c != nil {
				ended = append(ended, c)
			}
		}
		stopped := w.stopped
		w.mu.Unlock()
		for _, c := range ended {
			c.ended(true)
		}
		if stopped || err != nil && err != unix.EINTR {
			unix.Close(w.epoll)
			return
		}
	}
}

// reportUnlessIgnored reports the end of a connection of another process.
func (w *connections) reportUnlessIgnored(c Closed) {
	w.mu.Lock()
	stopped := w.stopped
	w.mu.Unlock()
	if !stopped {
		w.report(c)
	}
}

// ignore is called before clients are closed.
func (w *connections) ignore() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	<-w.done
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	connectTimeout = 20 * time.Second
	connecting     = 8   // connections that are opened at the same time
	bursting       = 256 // connections that send and receive a large value at the same time
	// grace is how long answers may take after the last operation was due.
	grace = 5 * time.Second
	// warmUp is how long operations are not recorded, from the first on.
	warmUp = 300 * time.Millisecond
)

// generator is the load of one worker.
type generator struct {
	conns []net.Conn // opened by connect
}

func (g *generator) do(ctx context.Context, r request) (response, error) {
	switch r.Do {
	case "burst":
		return response{}, g.burst(r)
	case "live":
		return g.live(r)
	case "neighbour":
		return g.neighbour(r)
	}
	config, err := clientConfig(r)
	if err != nil {
		return response{}, err
	}
	switch r.Do {
	case "connect":
		return response{}, g.connect(ctx, r, config)
	case "visits":
		return visitAgain(ctx, r, config)
	case "first-reply":
		return firstReplies(ctx, r, config)
	case "storm":
		return storm(ctx, r, config)
	}
	return response{}, fmt.Errorf("unknown request %q", r.Do)
}

// clientConfig returns nil if the target has no TLS.
func clientConfig(r request) (*tls.Config, error) {
	if r.CAFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(r.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	group := tls.CurveID(r.Group)
	if group == 0 {
		group = tls.X25519
	}
	host, _, err := net.SplitHostPort(r.Addr)
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{group}}, nil
}

// refused says whether the other side sent a TLS alert, which means that it can't do what we asked for.
func refused(err error) bool {
	remote := (*net.OpError)(nil)
	return errors.As(err, &remote) && remote.Op == "remote error"
}

var lastSource atomic.Uint32

// dial opens a connection from one of many loopback addresses, since a single address would run out of ports.
func dial(ctx context.Context, addr string, config *tls.Config) (net.Conn, error) {
	n := lastSource.Add(1)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, 0, byte(n%100)+1)}, KeepAlive: -1}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil || config == nil {
		return raw, err
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// ping makes a round trip, after which the target has nothing left to do for the connection.
func ping(conn net.Conn, deadline time.Time) error {
	conn.SetDeadline(deadline)
	defer conn.SetDeadline(time.Time{})
	return exchange(conn, []byte("PING\r\n"), []byte("+PONG\r\n"))
}

// exchange sends a request and checks that it gets the one answer that is right.
func exchange(conn net.Conn, request, want []byte) error {
	if _, err := conn.Write(request); err != nil {
		return err
	}
	got := make([]byte, len(want))
	// An error is shorter than the right answer.
	n, err := io.ReadAtLeast(conn, got, min(5, len(got)))
	if err == nil && !bytes.HasPrefix(want, got[:n]) {
		return fmt.Errorf("sent %.20q, the answer was %.80q", request, got[:n])
	}
	if err == nil {
		_, err = io.ReadFull(conn, got[n:])
	}
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("sent %.20q, the answer was %.80q", request, got)
	}
	return err
}

// each calls f for 0 to n-1, a limited number at a time, until a call fails.
func each(n, atATime int, f func(int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex // guards first
	var first error
	for range min(n, atATime) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					next.Store(int64(n))
					mu.Lock()
					first = errors.Join(first, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return first
}

func (g *generator) connect(ctx context.Context, r request, config *tls.Config) error {
	from := len(g.conns)
	g.conns = append(g.conns, make([]net.Conn, r.Clients)...)
	return each(r.Clients, connecting, func(i int) error {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		conn, err := dial(ctx, r.Addr, config)
		if err != nil {
			return fmt.Errorf("connection %d: %w", from+i+1, err)
		}
		g.conns[from+i] = conn
		if err := ping(conn, time.Now().Add(connectTimeout)); err != nil {
			return fmt.Errorf("connection %d: %w", from+i+1, err)
		}
		return nil
	})
}

// set and get are the requests for a value of a given size, with their answers. Each size has a key of its own.
func set(size int) (request, answer []byte) {
	return fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$16\r\nbench:%010d\r\n$%d\r\n%s\r\n", size, size, value(size)), []byte("+OK\r\n")
}

func get(size int) (request, answer []byte) {
	return fmt.Appendf(nil, "*2\r\n$3\r\nGET\r\n$16\r\nbench:%010d\r\n", size), fmt.Appendf(nil, "$%d\r\n%s\r\n", size, value(size))
}

func value(size int) []byte { return bytes.Repeat([]byte{'x'}, size) }

// burst makes every connection carry a large value in both directions.
func (g *generator) burst(r request) error {
	setRequest, setAnswer := set(r.Bytes)
	getRequest, getAnswer := get(r.Bytes)
	return each(len(g.conns), bursting, func(i int) error {
		g.conns[i].SetDeadline(time.Now().Add(connectTimeout))
		defer g.conns[i].SetDeadline(time.Time{})
		if err := exchange(g.conns[i], setRequest, setAnswer); err != nil {
			return err
		}
		return exchange(g.conns[i], getRequest, getAnswer)
	})
}

// schedule is an open loop: the time at which operation i is due does not depend on how the earlier ones went.
type schedule struct {
	start time.Time
	every time.Duration
	n     int
}

func newSchedule(r request) schedule {
	every := time.Duration(float64(time.Second) / r.Rate)
	return schedule{time.Now().Add(20 * time.Millisecond), every, int(r.For / every)}
}

func (s schedule) due(i int) time.Time { return s.start.Add(time.Duration(i) * s.every) }

// run calls f for each operation when it is due, or at once if that time has passed. It occupies a thread and sleeps in the
// kernel, because Go's own timers may be a millisecond late.
func (s schedule) run(ctx context.Context, f func(i int)) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const setTimerSlack = 29 // PR_SET_TIMERSLACK; the default slack is 50 µs
	syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, 1000, 0)
	for i := range s.n {
		for wait := time.Until(s.due(i)); wait > 0; wait = time.Until(s.due(i)) {
			if ctx.Err() != nil {
				return
			}
			pause := syscall.NsecToTimespec(int64(wait))
			_ = syscall.Nanosleep(&pause, nil) // after a signal the loop sleeps the rest
		}
		f(i)
	}
}

// live sends GETs on all connections in turn, at a constant rate. It measures latency from the time at which an operation was
// due, not from when it could be sent. An operation without an answer counts with the whole time for which live waited.
func (g *generator) live(r request) (response, error) {
	setRequest, setAnswer := set(r.Bytes)
	if err := exchange(g.conns[0], setRequest, setAnswer); err != nil {
		return response{}, err
	}
	ask, want := get(r.Bytes)
	s := newSchedule(r)
	end := s.due(s.n).Add(grace)
	all := response{Sent: s.n, Latency: &histogram{}, SendingLate: &histogram{}}
	var mu sync.Mutex // guards all while the readers run
	var readers sync.WaitGroup
	for c, conn := range g.conns {
		conn.SetDeadline(end)
		readers.Go(func() {
			h, answered, err := s.receive(conn, c, len(g.conns), want, end)
			mu.Lock()
			defer mu.Unlock()
			all.Latency.add(h)
			all.Done += answered
			if err != nil && all.WhyFailed == "" {
				all.WhyFailed = err.Error()
			}
		})
	}
	s.run(context.Background(), func(i int) {
		if late := time.Since(s.due(i)); time.Duration(i)*s.every >= warmUp {
			all.SendingLate.record(late)
		}
		// If this fails, the connection's reader fails too and reports it.
		_, _ = g.conns[i%len(g.conns)].Write(ask)
	})
	readers.Wait()
	all.Failed = all.Sent - all.Done
	for _, conn := range g.conns {
		conn.SetDeadline(time.Time{})
	}
	return all, nil
}

// receive reads the answers on connection c. With n clients, the connection has every n-th operation.
func (s schedule) receive(conn net.Conn, c, clients int, want []byte, end time.Time) (*histogram, int, error) {
	h := &histogram{}
	answered := 0
	in := bufio.NewReader(conn)
	got := make([]byte, len(want))
	var failed error
	for i := c; i < s.n; i += clients {
		if failed == nil {
			if _, failed = io.ReadFull(in, got); failed == nil && !bytes.Equal(got, want) {
				failed = fmt.Errorf("the answer to GET was %.80q", got)
			}
		}
		now := end
		if failed == nil {
			now = time.Now()
			answered++
		}
		if time.Duration(i)*s.every >= warmUp {
			h.record(now.Sub(s.due(i)))
		}
	}
	return h, answered, failed
}

func (h *histogram) add(other *histogram) {
	for bucket, count := range other.counts {
		h.counts[bucket] += count
	}
	h.n += other.n
	h.max = max(h.max, other.max)
}

// visitAgain makes some clients connect again and again. This is a closed loop, which shows the target's capacity.
func visitAgain(ctx context.Context, r request, config *tls.Config) (response, error) {
	configs := make([]*tls.Config, r.Clients)
	for i := range configs {
		if config == nil {
			continue
		}
		configs[i] = config.Clone()
		if r.Resume {
			configs[i].ClientSessionCache = tls.NewLRUClientSessionCache(0)
		}
		// The first visit gets the ticket, and shows whether the target supports this at all.
		if _, err := visit(ctx, r, configs[i], time.Now().Add(connectTimeout)); err != nil {
			return response{}, err
		}
	}
	var all response
	var mu sync.Mutex // guards all
	start := time.Now()
	err := each(r.Clients, r.Clients, func(i int) error {
		for time.Since(start) < r.For {
			resumed, err := visit(ctx, r, configs[i], time.Now().Add(connectTimeout))
			if err != nil {
				return err
			}
			mu.Lock()
			all.Done++
			if resumed {
				all.Resumed++
			}
			mu.Unlock()
		}
		return nil
	})
	all.Elapsed = time.Since(start)
	return all, err
}

// visit connects, sends a PING and hangs up.
func visit(ctx context.Context, r request, config *tls.Config, deadline time.Time) (resumed bool, err error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := dial(ctx, r.Addr, config)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	if secure, ok := conn.(*tls.Conn); ok {
		resumed = secure.ConnectionState().DidResume
	}
	return resumed, ping(conn, deadline)
}

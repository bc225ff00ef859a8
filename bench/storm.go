package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// A storm is clients that arrive at a constant rate, however many are still waiting; each gives up after a timeout.
//
// As many as the target could just about serve are whole clients: they complete a handshake and get the answer to a
// PING. The others send a ClientHello that was recorded before, and hang up as soon as the target has answered with its
// half of the handshake, which is nearly all that the target has to do: ten times as many whole clients would need more
// processor than the target.
type storming struct {
	request
	config *tls.Config
	decoys *decoys
	end    time.Time // arrivals, and what completes, count until then
	room   chan struct{}

	clients sync.WaitGroup
	mu      sync.Mutex // guards all
	all     response
}

// wholeAtOnce is how many whole clients may wait at the same time.
const wholeAtOnce = 4000

func storm(ctx context.Context, r request, config *tls.Config) (response, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return response{}, err
	}
	d, err := newDecoys(r, config, int(limit.Cur)-wholeAtOnce-spareFiles)
	if err != nil {
		return response{}, err
	}
	defer d.close()
	schedule := newSchedule(r)
	s := &storming{request: r, config: config, decoys: d, end: schedule.due(schedule.n), room: make(chan struct{}, wholeAtOnce)}
	d.end = s.end
	// The decoys belong to one thread, which also paces. It goes before all others, if that is allowed: whoever arrives
	// from outside doesn't wait for the servers.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	lowerOthers(r.Nice)
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, syscall.Gettid(), -10)
	whole := 0.0 // how many are due
	schedule.run(ctx, func(int) {
		now := time.Now()
		if now.After(s.end) {
			return // too late to be part of this storm
		}
		if whole += r.Whole / r.Rate; whole >= 1 {
			whole--
			s.arrive(ctx, now)
			return
		}
		d.arrive(now)
	})
	for d.open > 0 && ctx.Err() == nil {
		d.collect(time.Now())
		time.Sleep(time.Millisecond)
	}
	s.clients.Wait()
	s.all.Sent += d.sent
	s.all.Answered = d.answered
	s.all.Failed += d.sent - d.answered
	return s.all, ctx.Err()
}

// lowerOthers lowers the priority of all threads but this one, and of those that they start.
func lowerOthers(nice int) {
	threads, _ := filepath.Glob("/proc/self/task/[0-9]*")
	for _, thread := range threads {
		if id, _ := strconv.Atoi(filepath.Base(thread)); id != syscall.Gettid() {
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, id, nice)
		}
	}
}

// arrive starts a whole client, if this process can hold one more.
func (s *storming) arrive(ctx context.Context, now time.Time) {
	select {
	case s.room <- struct{}{}:
	default:
		return
	}
	s.all.Sent++ // the pacing thread's alone
	s.clients.Go(func() {
		defer func() { <-s.room }()
		err := s.whole(ctx, now.Add(s.Timeout))
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case err == nil && time.Now().Before(s.end):
			s.all.Done++
		case err != nil:
			s.all.Failed++
			if s.all.WhyFailed == "" {
				s.all.WhyFailed = err.Error()
			}
		}
	})
}

// whole cuts the connection at the end, whatever has become of it: ports must not run out.
func (s *storming) whole(ctx context.Context, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	raw, err := dial(ctx, s.Addr, nil)
	if err != nil {
		return err
	}
	defer raw.Close()
	_ = raw.(*net.TCPConn).SetLinger(0)
	raw.SetDeadline(deadline)
	conn := tls.Client(raw, s.config)
	if err := conn.Handshake(); err != nil {
		return err
	}
	return exchange(conn, []byte("PING\r\n"), []byte("+PONG\r\n"))
}

// decoys are connections without a goroutine. One thread uses them.
type decoys struct {
	hello   []byte
	to      *syscall.SockaddrInet4
	timeout time.Duration
	end     time.Time
	most    int

	poll     int
	expiry   []decoy           // in the order of their deadlines; some have ended already
	deadline map[int]time.Time // of those that are open, by descriptor
	events   []syscall.EpollEvent

	open, sent, answered int
}

type decoy struct {
	fd       int
	deadline time.Time
}

func newDecoys(r request, config *tls.Config, most int) (*decoys, error) {
	hello, err := recordHello(config)
	if err != nil {
		return nil, err
	}
	addr, err := net.ResolveTCPAddr("tcp4", r.Addr)
	if err != nil {
		return nil, err
	}
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &decoys{
		hello: hello, to: &syscall.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}, timeout: r.Timeout,
		most: most, poll: poll, deadline: map[int]time.Time{}, events: make([]syscall.EpollEvent, 256),
	}, nil
}

// recorder is a connection that keeps what is written first.
type recorder struct {
	net.Conn
	first []byte
}

var errRecorded = errors.New("recorded")

func (r *recorder) Write(p []byte) (int, error) {
	r.first = append(r.first, p...)
	return 0, errRecorded
}

func (r *recorder) Close() error { return nil }

// recordHello returns the ClientHello of a client with this configuration.
func recordHello(config *tls.Config) ([]byte, error) {
	r := &recorder{}
	if err := tls.Client(r, config).Handshake(); !errors.Is(err, errRecorded) {
		return nil, fmt.Errorf("record a ClientHello: %v", err)
	}
	return r.first, nil
}

// arrive opens one connection and looks after the others now and then.
func (d *decoys) arrive(now time.Time) {
	if d.sent%8 == 0 {
		d.collect(now)
	}
	if d.open >= d.most {
		return
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	d.sent++
	d.open++
	// Closing resets, so that no port is kept.
	_ = syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	// On loopback a connection is there at once, though Connect says that it is under way. If it isn't, the target's queue
	// is full, and this client never gets to speak.
	_ = syscall.Connect(fd, d.to)
	_, _ = syscall.Write(fd, d.hello)
	_ = syscall.EpollCtl(d.poll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)})
	deadline := now.Add(d.timeout)
	d.deadline[fd] = deadline
	d.expiry = append(d.expiry, decoy{fd, deadline})
}

// collect ends those that have an answer and those whose time is over.
func (d *decoys) collect(now time.Time) {
	n, _ := syscall.EpollWait(d.poll, d.events, 0)
	for _, e := range d.events[:max(0, n)] {
		const handshake = 22 // the type of the record that has a ServerHello; an alert's is another
		first := make([]byte, 1)
		got, err := syscall.Read(int(e.Fd), first)
		if err == nil && got == 1 && first[0] == handshake && now.Before(d.end) {
			d.answered++
		}
		d.hangUp(int(e.Fd))
	}
	for len(d.expiry) > 0 && now.After(d.expiry[0].deadline) {
		// A descriptor may have become another connection's since.
		if late := d.expiry[0]; d.deadline[late.fd].Equal(late.deadline) {
			d.hangUp(late.fd)
		}
		d.expiry = d.expiry[1:]
	}
}

func (d *decoys) hangUp(fd int) {
	syscall.Close(fd)
	delete(d.deadline, fd)
	d.open--
}

func (d *decoys) close() {
	for fd := range d.deadline {
		syscall.Close(fd)
	}
	syscall.Close(d.poll)
}

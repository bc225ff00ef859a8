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
// There are two kinds. Whole clients complete a handshake and get the answer to a PING; there are about as many as the target can
// serve. The others are decoys: they send a recorded ClientHello and hang up as soon as the target has answered with its
// flight, which is nearly all of the target's work. Ten times as many whole clients would need more CPU than the target.
type storming struct {
	request
	config *tls.Config
	decoys *decoys
	end    time.Time // arrivals and completed handshakes count until then
	room   chan struct{}

	clients sync.WaitGroup
	mu      sync.Mutex // guards all
	all     response
}

// wholeAtOnce is how many whole clients may be waiting at a time.
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
	// The decoys belong to one thread, which also does the pacing. It runs before all others, if that is allowed: clients that
	// arrive from outside would not wait for the servers' CPU either.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	lowerOthers(r.Nice)
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, syscall.Gettid(), -10)
	whole := 0.0 // how many whole clients are due
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

// lowerOthers lowers the priority of all threads but this one, and of the threads that those start.
func lowerOthers(nice int) {
	threads, _ := filepath.Glob("/proc/self/task/[0-9]*")
	for _, thread := range threads {
		if id, _ := strconv.Atoi(filepath.Base(thread)); id != syscall.Gettid() {
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, id, nice)
		}
	}
}

// arrive starts a whole client, if this process has room for one more.
func (s *storming) arrive(ctx context.Context, now time.Time) {
	select {
	case s.room <- struct{}{}:
	default:
		return
	}
	s.all.Sent++ // only the pacing thread changes it
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

// whole is the life of a whole client. It resets the connection at the end, whatever state it is in, so that ports don't run out.
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

// decoys are connections without goroutines. One thread uses them.
type decoys struct {
	hello   []byte
	to      *syscall.SockaddrInet4
	timeout time.Duration
	end     time.Time
	most    int

	poll     int
	expiry   []decoy           // in the order of their deadlines; some have already ended
	deadline map[int]time.Time // the open ones, by descriptor
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

// recorder is a connection that keeps the first bytes that are written to it.
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

// arrive opens one connection, and collects the others from time to time.
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
	// A close sends a reset, so that no port is kept in TIME_WAIT.
	_ = syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	// On loopback a connection is established at once, although Connect says that it is in progress. If it is not, the target's
	// accept queue is full, and this client can't send anything.
	_ = syscall.Connect(fd, d.to)
	_, _ = syscall.Write(fd, d.hello)
	_ = syscall.EpollCtl(d.poll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)})
	deadline := now.Add(d.timeout)
	d.deadline[fd] = deadline
	d.expiry = append(d.expiry, decoy{fd, deadline})
}

// collect closes the decoys that have their answer and those whose time is over.
func (d *decoys) collect(now time.Time) {
	n, _ := syscall.EpollWait(d.poll, d.events, 0)
	for _, e := range d.events[:max(0, n)] {
		const handshake = 22 // the record type of a ServerHello; an alert has another type
		first := make([]byte, 1)
		got, err := syscall.Read(int(e.Fd), first)
		if err == nil && got == 1 && first[0] == handshake && now.Before(d.end) {
			d.answered++
		}
		d.hangUp(int(e.Fd))
	}
	for len(d.expiry) > 0 && now.After(d.expiry[0].deadline) {
		// The descriptor may belong to another connection by now.
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

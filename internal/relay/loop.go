package relay

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// readSize is the most that one read takes from the kernel: a pipeline of small requests, or four TLS records.
	readSize = 64 << 10
	// eventsPerWait bounds the work between two looks at the tasks.
	eventsPerWait = 256
	// tidyPace is how often a loop looks for connections that are idle.
	tidyPace = 5 * time.Second
	// tickPace is how often a loop looks at pipes that wait for a deadline.
	tickPace = time.Second

	edgeTriggered = 1 << 31 // unix.EPOLLET is negative
)

// Loops are event loops: each has its own epoll instance and goroutine, and the connections that were given to it.
type Loops struct {
	all         []*loop
	next        atomic.Uint32
	done        sync.WaitGroup
	engineIDsMu sync.Mutex         // guards ids
	engineIDs   map[int64]struct{} // of connections, at a server that is far
	life        context.Context    // of all attempts to connect
	endLife     func()
	backend     atomic.Pointer[Backend]
	clients     registry
	monitors    monitors
	log         commandLog
	commands    atomic.Pointer[engineCommands]
	fetching    atomic.Pointer[upstream] // asks for what is to be learnt; nil: none does
	canary      canary
	// largeKeys are those that no shared connection is asked for.
	bigKeys bigKeys
	// pausedUntil is for how long CLIENT PAUSE may hold engine connections up, in Unix nanoseconds.
	pausedUntil atomic.Int64
}

// NewLoops starts n loops. Close ends them.
func NewLoops(n int) (*Loops, error) {
	ls := &Loops{canary: newCanary(), bigKeys: bigKeys{seed: maphash.MakeSeed()}}
	ls.life, ls.endLife = context.WithCancel(context.Background())
	ls.clients.all, ls.engineIDs = make(map[int64]*Session), make(map[int64]struct{})
	for range n {
		l, err := newLoop(ls)
		if err != nil {
			ls.Close()
			return nil, fmt.Errorf("start event loop: %w", err)
		}
		ls.all = append(ls.all, l)
		ls.done.Go(l.run)
	}
	return ls, nil
}

// Close ends the loops and waits for them; pipes that are still open are cut.
func (ls *Loops) Close() {
	ls.endLife()
	for _, l := range ls.all {
		l.post(func() { l.closing = true })
	}
	ls.done.Wait()
}

// Freed is how many bytes of buffers were let go of because their connections are idle. They are the process's until
// the next garbage collection.
func (ls *Loops) Freed() uint64 {
	var n uint64
	for _, l := range ls.all {
		n += l.freed.Load()
	}
	return n
}

func (ls *Loops) pick() *loop {
	return ls.all[int(ls.next.Add(1))%len(ls.all)]
}

// loop owns its sockets and pipes: nothing but its goroutine touches them. Others post a task.
type loop struct {
	group        *Loops
	epfd, wakefd int
	epoll        *os.File // epfd, in the runtime's poller
	epollRaw     syscall.RawConn

	mu     sync.Mutex // guards tasks and ended
	tasks  []func()
	ended  bool
	freed  atomic.Uint64
	posted atomic.Bool // there are tasks; the eventfd was written
	counts counts

	// Of the loop's goroutine.
	events            [eventsPerWait]unix.EpollEvent
	found             int // events, at the last look
	failure           error
	lookAgain         func(uintptr) bool // look, made once: a closure a wait would be garbage
	deadline          time.Time          // of the wait; zero: none
	sockets           []*socket          // by descriptor
	ready             []*socket          // have more to do although no event will come for it
	closing           bool
	lingering         map[*Session]struct{} // sessions with a deadline
	now               time.Time             // of the last look
	ticked            time.Time
	dirtyClients      []*Session  // got something in this step
	dirtyUpstreams    []*upstream // have something to be sent at the end of the round
	awaitingCommands  []*Session  // wait for what the engine says of its commands
	args              [][]byte    // of the request being looked at
	pools             map[key]*pool
	upstreams         map[*upstream]struct{} // all of them
	dialingIdle       int                    // of them, those that will be spare
	letsInWithoutAuth bool                   // the engine lets in who has not logged in
	used              bool                   // something moved since the last look for idle connections
	tidied            time.Time
	raw               [readSize]byte // what the last read brought
	plain             [readSize]byte // what it says
}

func newLoop(group *Loops) (*loop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	wakefd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epfd)
		return nil, os.NewSyscallError("eventfd", err)
	}
	l := &loop{
		group: group, epfd: epfd, wakefd: wakefd, now: time.Now(), lingering: make(map[*Session]struct{}),
		pools: make(map[key]*pool), upstreams: make(map[*upstream]struct{}),
	}
	l.lookAgain = func(uintptr) bool {
		l.look()
		return l.found > 0 || l.failure != nil
	}
	err = unix.SetNonblock(epfd, true) // what makes os.NewFile use the poller
	l.epoll = os.NewFile(uintptr(epfd), "epoll")
	if err == nil {
		l.epollRaw, err = l.epoll.SyscallConn()
	}
	if err == nil {
		err = l.control(unix.EPOLL_CTL_ADD, wakefd, inputEvents)
	}
	if err != nil {
		l.epoll.Close()
		unix.Close(wakefd)
		return nil, err
	}
	return l, nil
}

// What is asked of epoll, edge-triggered: that there is input, always; that there is room, only while something waits for it.
// A Unix socket says so each time its peer reads, which would wake the loop for every request.
const (
	inputEvents = unix.EPOLLIN | unix.EPOLLRDHUP | edgeTriggered
	roomEvents  = inputEvents | unix.EPOLLOUT
)

func (l *loop) control(op, fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.epfd, op, fd, &ev))
}

// adopt begins to watch a socket.
func (l *loop) adopt(s *socket) error {
	l.place(s)
	return l.control(unix.EPOLL_CTL_ADD, int(s.fd), inputEvents)
}

func (l *loop) place(s *socket) {
	if need := int(s.fd) + 1; need > len(l.sockets) {
		l.sockets = append(l.sockets, make([]*socket, need-len(l.sockets))...)
	}
	l.sockets[s.fd] = s
}

func (l *loop) forget(s *socket) {
	if int(s.fd) < len(l.sockets) && l.sockets[s.fd] == s {
		l.sockets[s.fd] = nil
	}
}

// post makes the loop run a task. It returns false when the loop has ended.
func (l *loop) post(task func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.tasks = append(l.tasks, task)
	if !l.posted.Swap(true) {
		one := uint64(1)
		unix.Write(l.wakefd, (*[8]byte)(unsafe.Pointer(&one))[:])
	}
	return true
}

func (l *loop) run() {
	for !l.closing {
		n, err := l.wait()
		if err != nil {
			panic(fmt.Sprintf("epoll_wait: %v", err)) // the descriptor is ours: a bug, not a state of the world
		}
		l.now = time.Now()
		for i := range n {
			ev := &l.events[i]
			if ev.Fd == int32(l.wakefd) {
				continue
			}
			// A socket closed earlier in this round may still have an event here.
			if s := l.sockets[ev.Fd]; s != nil {
				s.event(ev.Events)
			}
		}
		if l.posted.Load() {
			l.runTasks()
		}
		l.runReady()
		l.flushClients()
		l.flushUpstreams()
		l.tick()
	}
	l.shutdown()
}

// wait asks without waiting first: under load there is always something. When there is not, it waits as goroutines do,
// with the epoll instance itself in the runtime's poller: a system call that blocks would cost the runtime a thread's
// hand-over each time.
func (l *loop) wait() (int, error) {
	if l.look(); l.found > 0 || l.failure != nil || len(l.ready) > 0 || l.posted.Load() {
		return l.found, l.failure
	}
	if err := l.setDeadline(); err != nil {
		return 0, err
	}
	err := l.epollRaw.Read(l.lookAgain)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, nil
	}
	return l.found, errors.Join(l.failure, err)
}

// setDeadline makes sure that a wait ends for the next tick, if there is a reason for one. It leaves one that is set alone
// as long as that will do: to move it with every wait would cost more than the wait.
func (l *loop) setDeadline() error {
	switch {
	case !l.hasDeadlines():
		if l.deadline.IsZero() {
			return nil
		}
		l.deadline = time.Time{}
	case l.deadline.Sub(l.now) > tickPace/2:
		return nil
	default:
		l.deadline = time.Now().Add(tickPace)
	}
	return l.epoll.SetReadDeadline(l.deadline)
}

// look takes what there is.
func (l *loop) look() {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epfd), uintptr(unsafe.Pointer(&l.events[0])), eventsPerWait, 0, 0, 0)
	l.found = int(n)
	if errno != 0 {
		l.found = 0
		if errno != unix.EINTR {
			l.failure = os.NewSyscallError("epoll_pwait", errno)
		}
	}
}

func (l *loop) runTasks() {
	var count [8]byte
	unix.Read(l.wakefd, count[:])
	l.mu.Lock()
	tasks := l.tasks
	l.tasks = nil
	l.posted.Store(false)
	l.mu.Unlock()
	for _, task := range tasks {
		task()
	}
}

// runReady goes on with those that used up their share of a round.
func (l *loop) runReady() {
	ready := l.ready
	l.ready = nil
	for _, s := range ready {
		s.queued = false
		if !s.closed {
			s.owner.progress(s)
		}
	}
}

func (l *loop) again(s *socket) {
	if !s.queued {
		s.queued = true
		l.ready = append(l.ready, s)
	}
}

// endStep sends what the step brought for clients: one system call each, however many replies it was.
func (l *loop) flushClients() {
	for i := 0; i < len(l.dirtyClients); i++ {
		l.dirtyClients[i].flushClient()
	}
	clear(l.dirtyClients)
	l.dirtyClients = l.dirtyClients[:0]
}

// sendOut sends what this round has collected for the engine: one system call for the requests of many clients.
func (l *loop) flushUpstreams() {
	for i := 0; i < len(l.dirtyUpstreams); i++ { // a failure may add to it
		u := l.dirtyUpstreams[i]
		u.dirty = false
		u.sendCanary()
		switch {
		case u.closed:
		case u.flush() != nil:
			u.progress(&u.socket) // which finds the reason
		default:
			u.roomMade()
		}
	}
	clear(l.dirtyUpstreams)
	l.dirtyUpstreams = l.dirtyUpstreams[:0]
}

func (l *loop) hasDeadlines() bool {
	b := l.group.backend.Load()
	return len(l.lingering) > 0 || l.used || b != nil && (b.IdleTimeout > 0 || b.MinIdle > 0)
}

func (l *loop) tick() {
	if !l.hasDeadlines() || l.now.Sub(l.ticked) < tickPace {
		return
	}
	l.ticked = l.now
	for s := range l.lingering {
		s.tick(l.now)
	}
	l.closeIdle()
	l.canaryIdleShared()
	if b := l.group.backend.Load(); b != nil {
		l.fillIdle(b)
	}
	if l.now.Sub(l.tidied) < tidyPace {
		return
	}
	// Those that moved nothing since the last time give back what they don't need.
	l.tidied, l.used = l.now, false
	for _, s := range l.sockets {
		if s != nil {
			s.owner.tidy()
		}
	}
}

// closeIdle closes the clients that have sent nothing for too long, as the engine would.
func (l *loop) closeIdle() {
	b := l.group.backend.Load()
	if b == nil || b.IdleTimeout == 0 {
		return
	}
	for _, s := range l.sockets {
		if s == nil {
			continue
		}
		if c, ok := s.owner.(*Session); ok && c.idleSince(l.now) >= b.IdleTimeout {
			l.counts.timedOut.Add(1)
			c.closeNotify(IdleTooLong)
		}
	}
}

func (l *loop) shutdown() {
	l.mu.Lock()
	l.ended = true
	tasks := l.tasks
	l.tasks = nil
	l.mu.Unlock()
	for _, task := range tasks {
		task()
	}
	for _, s := range l.sockets {
		if s != nil && !s.closed {
			s.owner.end()
		}
	}
	unix.Close(l.wakefd)
	l.epoll.Close()
}

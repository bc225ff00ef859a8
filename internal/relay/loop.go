package relay

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/attribution"
	"github.com/sealane/sealane/internal/netloop"
)

const (
	// idlePace is how often a loop looks for connections that are idle.
	idlePace = 5 * time.Second
	// tickPace is how often a loop looks at sessions that wait for a deadline.
	tickPace = time.Second
)

// Loops are event loops: each has its own epoll instance and goroutine, and the connections that were given to it.
type Loops struct {
	all  []*loop
	next atomic.Uint32
	done sync.WaitGroup
	// idsUntold says that the server does not tell the ids of connections: Redis before 5.0, or CLIENT is not allowed.
	idsUntold atomic.Bool

	engineIDsMu sync.Mutex         // guards engineIDs
	engineIDs   map[int64]struct{} // of connections, at a server that is far
	life        context.Context    // of all attempts to connect
	endLife     func()
	backend     atomic.Pointer[Backend]
	clients     registry
	monitors    attribution.Monitors
	log         attribution.CommandLog
	commands    atomic.Pointer[engineCommands]
	fetching    atomic.Pointer[upstream] // it asks the engine for its commands; nil: none does
	canary      canary
	// outcomeUnknown is what stands for a request in failover.go.
	outcomeUnknown []byte
	waitChannel    waitChannel
	// bigKeys are the keys of which nobody asks over a shared connection.
	bigKeys bigKeys
	// pausedUntil is until when CLIENT PAUSE may hold engine connections up, in Unix nanoseconds.
	pausedUntil atomic.Int64

	holdMu sync.Mutex // guards hold
	hold   *hold      // nil: there is none
	// transactionTime is for how long a hold lets open transactions go on.
	transactionTime time.Duration
	moves           moveCounts
	// outOfMemory says that clients may not write.
	outOfMemory atomic.Bool
}

// NewLoops starts n loops. Close ends them.
func NewLoops(n int) (*Loops, error) {
	ls := &Loops{transactionTime: defaultTransactionTime, canary: newCanary(), waitChannel: newWaitChannel(), outcomeUnknown: newOutcomeUnknown(), bigKeys: bigKeys{seed: maphash.MakeSeed()}}
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

// Close ends the loops and waits for them; sessions that are still open are cut.
func (ls *Loops) Close() {
	ls.endLife()
	ls.Release()
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

// owner is what a descriptor belongs to: a Session, the upstream that it is, or a listener.
type owner interface {
	// progress does all that can be done now.
	progress()
	// end closes the connection and all that hangs on it.
	end()
	// shrinkIdle frees what an idle connection doesn't need.
	shrinkIdle()
}

// watched is what a loop knows of a descriptor. The zero value is one that it doesn't watch.
type watched struct {
	stream *netloop.Stream // nil: it is a listener's
	owner  owner
	queued bool   // is in loop.ready
	since  uint64 // the round in which it was entered
}

// loop owns its sockets and sessions: nothing but its goroutine touches them. Others post a task.
type loop struct {
	// plain is what the last read says; it is owned by the loop's goroutine. It begins in the middle of a page, because what it is sealed
	// into begins on a page. Where both do, a load has the lower address bits of a store just before it, and the CPU waits as if it
	// were the same address: a fifth more CPU for replies of 16 KiB.
	_     [2048]byte
	plain [netloop.ReadSize]byte

	group  *Loops
	poller *netloop.Poller

	mu     sync.Mutex // guards tasks and ended
	tasks  []func()
	ended  bool
	freed  atomic.Uint64
	counts counts

	// Owned by the loop's goroutine.
	round            uint64            // how often events were taken
	watching         []watched         // by descriptor
	ready            []*netloop.Stream // have more to do although no event will come for it
	closing          bool
	process          enginesProcess
	lingering        map[*Session]struct{} // sessions with a deadline
	now              time.Time             // of the last look
	ticked           time.Time
	dirtyClients     []*Session  // got something in this step
	dirtyUpstreams   []*upstream // have something to be sent at the end of the round
	awaitingCommands []*Session  // wait for what the engine says of its commands
	args             [][]byte    // of the request being looked at
	pools            map[key]*pool
	upstreams        map[*upstream]struct{} // all of them
	dialingIdle      int                    // of them, those that will be idle
	holding
	suspects          []suspect // see enginedeath.go
	letsInWithoutAuth bool      // the engine lets in who has not logged in
	used              bool      // something moved since the last look for idle connections
	idleSeen          time.Time
}

func newLoop(group *Loops) (*loop, error) {
	p, err := netloop.NewPoller()
	if err != nil {
		return nil, err
	}
	return &loop{
		group: group, poller: p, now: time.Now(), lingering: make(map[*Session]struct{}),
		pools: make(map[key]*pool), upstreams: make(map[*upstream]struct{}),
	}, nil
}

// enter notes whose a descriptor is that will be watched.
func (l *loop) enter(fd int, w watched) {
	if need := fd + 1; need > len(l.watching) {
		l.watching = append(l.watching, make([]watched, need-len(l.watching))...)
	}
	w.since = l.round
	l.watching[fd] = w
}

// forget is called before a connection is closed: its descriptor may be another one's afterwards.
func (l *loop) forget(s *netloop.Stream) {
	if w := l.watched(s); w != nil {
		*w = watched{}
	}
}

// watched is what the loop knows of a connection; nil where it has not begun to watch it, or ceased to.
func (l *loop) watched(s *netloop.Stream) *watched {
	if fd := s.FD(); fd < len(l.watching) && l.watching[fd].stream == s {
		return &l.watching[fd]
	}
	return nil
}

// post makes the loop run a task. It returns false when the loop has ended.
func (l *loop) post(task func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.tasks = append(l.tasks, task)
	l.poller.Wake()
	return true
}

func (l *loop) run() {
	for !l.closing {
		events, err := l.wait()
		if err != nil {
			panic(fmt.Sprintf("wait for events: %v", err)) // the descriptor is ours: a bug, not a state of the world
		}
		l.now = time.Now()
		l.round++
		for i := range events {
			l.event(&events[i])
		}
		if l.poller.Woken() {
			l.runTasks(false)
		}
		l.runReady()
		l.flushClients()
		l.flushUpstreams()
		l.tick()
	}
	l.shutdown()
}

// event lets the owner of a descriptor go on. One that was closed earlier in this round may still have an event. It has no owner then, or
// is another connection's already, which came after the events were taken: what they tell, such as a hang-up, is not about that.
func (l *loop) event(ev *unix.EpollEvent) {
	w := &l.watching[ev.Fd]
	if w.owner == nil || w.since == l.round {
		return
	}
	if w.stream != nil {
		w.stream.Note(ev.Events)
	}
	w.owner.progress()
}

// wait returns at once where there is more to do without an event, and for the next tick if there is a reason for one.
func (l *loop) wait() ([]unix.EpollEvent, error) {
	if len(l.ready) > 0 {
		return l.poller.Poll()
	}
	within := tickPace
	if !l.hasDeadlines() {
		within = 0
	}
	return l.poller.Wait(l.now, within)
}

// runTasks runs what was posted. After the last time nothing is accepted any more.
func (l *loop) runTasks(last bool) {
	l.mu.Lock()
	tasks := l.tasks
	l.tasks, l.ended = nil, last
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
		if w := l.watched(s); w != nil {
			w.queued = false
			w.owner.progress()
		}
	}
}

// requeue makes a connection's owner go on in the next round, although no event will come for it.
func (l *loop) requeue(s *netloop.Stream) {
	if w := l.watched(s); w != nil && !w.queued {
		w.queued = true
		l.ready = append(l.ready, s)
	}
}

// flushClients sends what the step has brought for clients: one system call each, however many replies it was.
func (l *loop) flushClients() {
	for i := 0; i < len(l.dirtyClients); i++ {
		l.dirtyClients[i].flushClient()
	}
	clear(l.dirtyClients)
	l.dirtyClients = l.dirtyClients[:0]
}

// flushUpstreams sends what this round has collected for the engine: one system call for the requests of many clients.
func (l *loop) flushUpstreams() {
	for i := 0; i < len(l.dirtyUpstreams); i++ { // a failure may add to it
		u := l.dirtyUpstreams[i]
		u.dirty = false
		u.sendCanary()
		switch {
		case u.closed:
		case u.Flush() != nil:
			u.progress() // which finds the reason
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
	if l.now.Sub(l.idleSeen) < idlePace {
		return
	}
	// Those that moved nothing since the last time give back what they don't need.
	l.idleSeen, l.used = l.now, false
	for i := range l.watching {
		if o := l.watching[i].owner; o != nil {
			o.shrinkIdle()
		}
	}
}

// closeIdle closes the clients that have sent nothing for too long, as the engine would.
func (l *loop) closeIdle() {
	b := l.group.backend.Load()
	if b == nil || b.IdleTimeout == 0 || l.held {
		return
	}
	for i := range l.watching {
		if c, ok := l.watching[i].owner.(*Session); ok && c.idleSince(l.now) >= b.IdleTimeout {
			l.counts.timedOut.Add(1)
			c.closeNotify(IdleTooLong)
		}
	}
}

func (l *loop) shutdown() {
	l.runTasks(true)
	for i := range l.watching {
		if o := l.watching[i].owner; o != nil {
			o.end()
		}
	}
	l.poller.Close()
}

package systemmemory

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/internal/process"
)

// releasePace is how often this process may collect its garbage because of what is used.
const releasePace = 10 * time.Second

// Watcher looks at the memory of an instance, from within the process in front of its engine.
type Watcher struct {
	log     *slog.Logger
	limits  func() (total int64, engine string)
	changed func(full bool)

	usage atomic.Pointer[Usage]
	wake  chan struct{} // capacity 1

	// The goroutine of Run owns these.
	engine   *process.Process // nil: it has to be found
	socket   string           // where it was found
	released time.Time        // when this process last gave memory back because there was none left
}

// New returns a Watcher. limits says how much memory there is, in bytes (0: any), and on which Unix socket the engine listens; it is asked
// at each look. changed is told after each look whether requests are to be refused.
func New(log *slog.Logger, limits func() (total int64, engine string), changed func(full bool)) *Watcher {
	return &Watcher{log: log, limits: limits, changed: changed, wake: make(chan struct{}, 1)}
}

// Wake makes Run look at once, because the limits have changed.
func (w *Watcher) Wake() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Usage is what was last seen. It may be called from anywhere.
func (w *Watcher) Usage() Usage {
	if u := w.usage.Load(); u != nil {
		return *u
	}
	return Usage{}
}

// Run looks again and again until done is closed.
func (w *Watcher) Run(done <-chan struct{}) {
	defer w.forgetEngine()
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := time.Now()
	for {
		select {
		case <-timer.C:
		case <-w.wake:
		case <-done:
			return
		}
		now, before := time.Now(), w.Usage()
		u := w.look()
		if u.Total > 0 && u.Used() >= u.Total && !before.Full && now.Sub(w.released) > releasePace {
			// It may be garbage of this process that is the last straw.
			w.released = now
			debug.FreeOSMemory()
			u.Gateway = process.Resident()
		}
		took, elapsed := time.Since(now), now.Sub(last)
		u = u.followed(before, elapsed)
		last = now
		w.usage.Store(&u)
		w.changed(u.Full)
		w.report(before, u)
		timer.Reset(u.pace(took, u.Used()-before.Used(), elapsed))
	}
}

// look reads the sizes.
func (w *Watcher) look() Usage {
	u := Usage{Gateway: process.Resident()}
	total, socket := w.limits()
	if total == 0 {
		w.forgetEngine()
		return u
	}
	u.Total = total
	memory, err := w.engineMemory(socket)
	switch {
	case errors.Is(err, process.ErrNotRunning): // it takes no memory
	case err != nil:
		u.Problem = err.Error()
	default:
		u.Engine, u.Snapshot = memory.Own, memory.Children
	}
	return u
}

// engineMemory finds the engine where it is another one than the last time.
func (w *Watcher) engineMemory(socket string) (process.Memory, error) {
	if w.engine != nil && w.socket == socket {
		if memory, err := w.engine.Memory(); err == nil {
			return memory, nil
		}
	}
	w.forgetEngine()
	p, err := process.Adopt(socket)
	if err != nil {
		return process.Memory{}, err
	}
	w.engine, w.socket = p, socket
	return p.Memory()
}

func (w *Watcher) forgetEngine() {
	if w.engine != nil {
		w.engine.Release()
		w.engine = nil
	}
}

// report says once when a mark is passed, in either direction.
func (w *Watcher) report(before, now Usage) {
	switch was, is := before.level(), now.level(); {
	case is > was, now.Problem != before.Problem && now.Problem != "":
		w.log.Warn(now.Warning())
	case is < was && now.Total > 0:
		w.log.Info("there is system memory again", "memory", now.String(), "writes_refused", now.Full, "near_limit", now.High)
	}
}

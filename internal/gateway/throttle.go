package gateway

import (
	"log/slog"
	"sync"
	"time"
)

// throttle logs at most one line a second per topic, so that a client in a loop cannot fill the disk; the next line
// says how many were left out. Topics are from a closed set.
type throttle struct {
	log *slog.Logger

	mu     sync.Mutex // guards topics
	topics map[string]*topic
}

type topic struct {
	last       time.Time
	suppressed uint64
}

func newThrottle(log *slog.Logger) *throttle {
	return &throttle{log: log, topics: make(map[string]*topic)}
}

// allow decides about one line at the time now, and returns how many were left out before it.
func (t *throttle) allow(name string, now time.Time) (suppressed uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.topics[name]
	if p == nil {
		p = new(topic)
		t.topics[name] = p
	} else if now.Sub(p.last) < time.Second {
		p.suppressed++
		return 0, false
	}
	suppressed, p.suppressed, p.last = p.suppressed, 0, now
	return suppressed, true
}

func (t *throttle) warn(name, message string, args ...any) {
	suppressed, ok := t.allow(name, time.Now())
	if !ok {
		return
	}
	if suppressed > 0 {
		args = append(args, "suppressed", suppressed)
	}
	t.log.Warn(message, args...)
}

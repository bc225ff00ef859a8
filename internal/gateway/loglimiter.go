package gateway

import (
	"log/slog"
	"sync"
	"time"
)

// logLimiter logs at most one line a second per topic, so that a client in a loop cannot fill the disk; the next line
// says how many were left out. Topics are from a closed set.
type logLimiter struct {
	log *slog.Logger

	mu     sync.Mutex // guards topics
	topics map[string]*topic
}

type topic struct {
	last       time.Time
	suppressed uint64
}

func newLogLimiter(log *slog.Logger) *logLimiter {
	return &logLimiter{log: log, topics: make(map[string]*topic)}
}

// allow decides about one line at the time now, and returns how many were left out before it.
func (l *logLimiter) allow(name string, now time.Time) (suppressed uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.topics[name]
	if p == nil {
		p = new(topic)
		l.topics[name] = p
	} else if now.Sub(p.last) < time.Second {
		p.suppressed++
		return 0, false
	}
	suppressed, p.suppressed, p.last = p.suppressed, 0, now
	return suppressed, true
}

func (l *logLimiter) warn(name, message string, args ...any) {
	suppressed, ok := l.allow(name, time.Now())
	if !ok {
		return
	}
	if suppressed > 0 {
		args = append(args, "suppressed", suppressed)
	}
	l.log.Warn(message, args...)
}

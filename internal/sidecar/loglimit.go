package sidecar

import (
	"sync"
	"time"
)

// logLimiter logs the same thing once a minute at most.
type logLimiter struct {
	mu   sync.Mutex // guards last
	last map[string]time.Time
}

func (t *logLimiter) warn(log interface{ Warn(string, ...any) }, topic, message string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.last[topic]; ok && time.Since(last) < time.Minute {
		return
	}
	if t.last == nil {
		t.last = make(map[string]time.Time)
	}
	t.last[topic] = time.Now()
	log.Warn(message, args...)
}

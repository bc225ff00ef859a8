package relay

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// An engine closes a connection because it ends, or because it does not want this one any more: its client takes too much memory. A
// client that has nothing at stake stays in the first case, and goes on with the engine that comes next. In the second it is closed. To
// tell the two apart takes a moment, because a process that is killed may close its listening socket last.

// deathTime is for how long an engine that is ending may still accept connections.
const deathTime = 20 * time.Millisecond

// suspectDeath makes a client wait until it is known whether its engine has ended.
func (s *Session) suspectDeath() {
	l := s.loop
	s.suspectsDeath = true
	if l.suspects = append(l.suspects, s); len(l.suspects) > 1 {
		return
	}
	engine := l.group.backend.Load().Engine
	time.AfterFunc(deathTime, func() { l.post(func() { l.endSuspicion(engine) }) })
}

// endSuspicion lets the clients go on whose engine has ended, and closes the others.
func (l *loop) endSuspicion(engine string) {
	all := l.suspects
	l.suspects = nil
	b := l.group.backend.Load()
	gone := b.Engine != engine
	if !gone {
		fd, err := b.Connect()
		if err == nil {
			unix.Close(fd)
		}
		gone = err != nil && !errors.Is(err, unix.EAGAIN)
	}
	for _, s := range all {
		s.suspectsDeath = false
		switch {
		case s.phase >= engineGone:
		case gone:
			s.conn.requeue()
		default:
			s.setReason(EngineClosed, nil)
			s.endAfterEngine()
			s.markDirty()
		}
	}
	l.flushClients()
}

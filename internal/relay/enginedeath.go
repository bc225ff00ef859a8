package relay

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/process"
)

// An engine closes a connection because it ends, or because it does not want this one any more: its client takes too much memory. A
// client that has nothing at stake stays in the first case, and goes on with the engine that comes next; with Backend.Standby every client
// does (failover.go). In the second it is closed. To tell the two apart takes a moment, because a process that is killed may close its
// listening socket last, and take long over it where others want the processor. By then another process may listen in its place already.

// deathTime is for how long an engine that is ending may still accept connections.
const deathTime = 20 * time.Millisecond

// suspect is a client whose engine may have ended.
type suspect struct {
	session *Session
	engine  string
	process int32 // the engine's; 0: not known
}

// processOf is the process at the other end of a Unix socket; 0: not known. It is known of a process that has ended, too.
func processOf(fd int) int32 {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0
	}
	return cred.Pid
}

// suspectDeath makes a client wait until it is known whether its engine, which was at the other end of a connection, has ended.
func (s *Session) suspectDeath(u *upstream) {
	l := s.loop
	s.suspectsDeath = true
	if l.suspects = append(l.suspects, suspect{s, u.key.engine, processOf(u.FD())}); len(l.suspects) > 1 {
		return
	}
	time.AfterFunc(deathTime, func() { l.post(l.endSuspicion) })
}

// endSuspicion lets the clients go on whose engine has ended, and closes the others.
func (l *loop) endSuspicion() {
	all := l.suspects
	l.suspects = nil
	b := l.group.backend.Load()
	listens := int32(0)
	fd, err := b.Connect()
	if err == nil {
		listens = processOf(fd)
		unix.Close(fd)
	}
	gone := err != nil && !errors.Is(err, unix.EAGAIN)
	for _, x := range all {
		s := x.session
		switch {
		case !s.suspectsDeath: // it has left the engine meanwhile
		case s.phase >= engineGone, gone, x.engine != b.Engine, x.process != 0 && (listens != 0 && listens != x.process || process.Ending(int(x.process))):
			s.engineIsGone()
		default:
			s.suspectsDeath, s.orphaned = false, nil
			s.state.NothingInFlight()
			s.setReason(EngineClosed, nil)
			s.endAfterEngine()
			s.markDirty()
		}
	}
	l.flushClients()
}

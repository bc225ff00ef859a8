package sidecar

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/wire"
)

// descriptorFault is for the want of a free file descriptor, in this process or on the machine. It is nil for any other error.
func descriptorFault(err error) *diagnosis.Fault {
	k, want := diagnosis.Descriptors(err)
	if !want {
		return nil
	}
	return diagnosis.Subject{Audience: diagnosis.Sidecar}.Fault(k, diagnosis.Details{Why: fileLimit()})
}

func fileLimit() string {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return "not known"
	}
	return fmt.Sprint(l.Cur)
}

// noRoomAnswer is what a client reads that can't be let in. It begins as a Redis's own error does, which client libraries look for.
const noRoomAnswer = "-" + wire.MaxClients + " reached: the sidecar has no free file descriptor, raise its limit of open files\r\n"

// reservedFiles descriptors are kept from clients and their connections. They are for probes of the ops listener, for connections that
// find out whether the server serves, and for files that are read again.
const reservedFiles = 24

// files keeps an eye on this process's file descriptors.
type files struct {
	asked atomic.Uint32 // by clients that came
	short atomic.Bool   // the last answer of wouldBeShort

	mu    sync.Mutex // guards spare
	spare int        // a descriptor that is kept for answering clients when there is no other; -1: gone
}

func newFiles() *files {
	f := &files{spare: -1}
	f.take()
	return f
}

func (f *files) take() {
	if f.spare < 0 {
		if fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			f.spare = fd
		}
	}
}

func (f *files) drop() {
	if f.spare >= 0 {
		unix.Close(f.spare)
		f.spare = -1
	}
}

func (f *files) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop()
}

// wouldBeShort says whether a new client would take a descriptor that is reserved. Clients that connect for every request would pay
// for looking each time. So while all is well it looks for one client of eight only, which is safe because more than eight are reserved.
func (f *files) wouldBeShort() bool {
	if n := f.asked.Add(1); n%8 != 0 && !f.short.Load() {
		return false
	}
	short := f.areShort(reservedFiles)
	f.short.Store(short)
	return short
}

// areShort says whether fewer than reserved descriptors are free. The system hands out the lowest free number, and none as high as
// the limit.
func (f *files) areShort(reserved int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.take()
	var l unix.Rlimit
	if f.spare < 0 || unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return true
	}
	next, err := unix.FcntlInt(uintptr(f.spare), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return true
	}
	unix.Close(next)
	return uint64(next+reserved) >= l.Cur
}

// turnAway answers clients that wait at a listener, and closes them. Without an answer they would wait for ever.
func (f *files) turnAway(listener int) {
	const most = 64 // at a time, because this is on an event loop
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop()
	for range most {
		fd, _, err := netloop.Accept(listener)
		if err != nil {
			break
		}
		_, _ = unix.Write(fd, []byte(noRoomAnswer))
		_ = unix.Shutdown(fd, unix.SHUT_WR)
		// What the client has already sent is read: closing with it unread would reset the connection, and destroy the answer.
		_, _ = unix.Read(fd, make([]byte, 4096))
		unix.Close(fd)
	}
	f.take()
}

// notAccepted is called, on a loop, when a client could not be let in.
func (l *link) notAccepted(listener int, err error) {
	if descriptorFault(err) == nil {
		l.logLimiter.warn(l.log, "accept", "clients can't be let in", "error", err)
		return
	}
	l.files.turnAway(listener)
	l.counted.turnedAway.Add(1)
	l.areShort(err)
}

// areShort notes the want of descriptors, and returns it as a problem.
func (l *link) areShort(err error) *diagnosis.Fault {
	f := descriptorFault(err)
	l.problem(f)
	l.wakeKeeper()
	return f
}

// lookForDescriptors ends the want of them, once it has ended for good.
func (k *keeper) lookForDescriptors() {
	k.mu.Lock()
	p := k.problems[ofProcess]
	k.mu.Unlock()
	if p != nil && time.Since(p.since) >= clockPace && !k.files.areShort(reservedFiles+8) {
		k.solved(ofProcess)
	}
}

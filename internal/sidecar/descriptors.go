package sidecar

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/relay"
)

// descriptorFault is for an error that says that this process, or the machine, has no free file descriptor. Nil: it says something else.
func descriptorFault(err error) *Fault {
	switch {
	case errors.Is(err, syscall.EMFILE):
		return &Fault{codeDescriptors, fmt.Sprintf("the sidecar has no free file descriptor: its limit of open files is %s", fileLimit()),
			"raise it and start again (systemd: LimitNOFILE=, shell: `ulimit -n`, Docker: --ulimit nofile=), or have clients keep fewer connections: each needs up to two"}
	case errors.Is(err, syscall.ENFILE):
		return &Fault{codeDescriptors, "this machine has no free file descriptor for anybody", "raise it: `sysctl fs.file-max`; `cat /proc/sys/fs/file-nr` shows how many there are"}
	}
	return nil
}

func fileLimit() string {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return "not known"
	}
	return fmt.Sprint(l.Cur)
}

// noRoomAnswer is what a client is told that can't be let in. It begins as a Redis's own, for which client libraries look.
const noRoomAnswer = "-ERR max number of clients reached: the sidecar has no free file descriptor, raise its limit of open files\r\n"

// freeForAll is how many descriptors must be free for the want of them to be over.
const freeForAll = 8

// spareDescriptor is one that is kept for answering clients when there is no other: else they would wait for ever, unanswered.
type spareDescriptor struct {
	mu sync.Mutex // guards fd
	fd int        // -1: gone
}

func newSpareDescriptor() *spareDescriptor {
	s := &spareDescriptor{fd: -1}
	s.take()
	return s
}

func (s *spareDescriptor) take() {
	if s.fd < 0 {
		if fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			s.fd = fd
		}
	}
}

func (s *spareDescriptor) drop() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// turnAway answers clients that wait at a listener, and closes them.
func (s *spareDescriptor) turnAway(listener int) {
	const most = 64 // at a time: this is on an event loop
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
	for range most {
		fd, _, err := relay.AcceptFD(listener)
		if err != nil {
			break
		}
		_, _ = unix.Write(fd, []byte(noRoomAnswer))
		_ = unix.Shutdown(fd, unix.SHUT_WR)
		// What the client has already sent is read: closing with it unread would reset the connection, and destroy the answer.
		_, _ = unix.Read(fd, make([]byte, 4096))
		unix.Close(fd)
	}
	s.take()
}

// close gives the spare back.
func (s *spareDescriptor) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
}

// areThereFree says whether the want of descriptors is over.
func (s *spareDescriptor) areThereFree() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take()
	if s.fd < 0 {
		return false
	}
	var all []int
	for range freeForAll {
		fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			break
		}
		all = append(all, fd)
	}
	for _, fd := range all {
		unix.Close(fd)
	}
	return len(all) == freeForAll
}

// notAccepted is called, on a loop, when a client could not be let in.
func (l *link) notAccepted(listener int, err error) {
	f := descriptorFault(err)
	if f == nil {
		l.misfortunes.warn(l.log, "accept", "clients can't be let in", "error", err)
		return
	}
	l.spare.turnAway(listener)
	l.counted.turnedAway.Add(1)
	l.trouble(f)
	l.rouse()
}

// lookForDescriptors ends the want of them, once it has ended.
func (k *keeper) lookForDescriptors() {
	k.mu.Lock()
	t := k.troubles[ofProcess]
	k.mu.Unlock()
	if t != nil && time.Since(t.since) >= clockPace && k.spare.areThereFree() {
		k.heal(ofProcess)
		k.serveAgain()
	}
}

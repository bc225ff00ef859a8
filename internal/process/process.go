// Package process runs one detached child process that outlives its parent, and finds it again.
//
// Guaranteed: of all processes started with the same lock file at most one lives, even when a parent is killed
// at any instant between the fork and writing anything down. A signal never reaches a process that got a reused
// pid. Each child that is watched is waited for exactly once and reaped.
//
// How: before the fork the parent takes an open-file-description lock (fcntl F_OFD_SETLK) and the child inherits
// the descriptor. The kernel drops such a lock when its last descriptor is closed, so it lives as long as the
// child, and, unlike with flock(2), others can ask for it without taking it. Children of the child inherit
// it too: the lock is free when the last of them is gone. Signals and waiting go through a pidfd.
//
// BoundMemory bounds the memory of a process and its children, as far as the system permits this process to.
//
// Not guaranteed: that a child which was released is reaped before its parent ends, unless it is adopted again.
//
// Needs Linux 5.4 (pidfd_open, waitid on a pidfd).
package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	// ErrLocked says that a process started with the same lock file still lives.
	ErrLocked = errors.New("locked by a running process")
	// ErrNotRunning says that nobody listens on the socket.
	ErrNotRunning = errors.New("not running")
)

// Identity names one process for as long as the machine is up, which a pid alone does not.
type Identity struct {
	PID       int
	StartTime uint64 // field 22 of /proc/PID/stat: clock ticks from boot to its start
}

// Process is a process that is being watched until it exits or Release is called. All methods may be called at the
// same time.
type Process struct {
	id       Identity
	pidfd    *os.File // closed by the watcher after the exit, or by Release
	done     chan struct{}
	exit     string        // written by the watcher before it closes done
	watched  chan struct{} // closed when the watcher has returned
	release  sync.Once
	released chan struct{}
}

// watch makes a Process of a pidfd, which it takes over.
func watch(pidfd int, id Identity) (*Process, error) {
	// Only a non-blocking file gets into the runtime's poller, where waiting costs no thread and ends with Close.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("watch process %d: %w", id.PID, err)
	}
	p := &Process{
		id:       id,
		pidfd:    os.NewFile(uintptr(pidfd), "pidfd"),
		done:     make(chan struct{}),
		watched:  make(chan struct{}),
		released: make(chan struct{}),
	}
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		p.pidfd.Close()
		return nil, fmt.Errorf("watch process %d: %w", id.PID, err)
	}
	go func() {
		defer close(p.watched)
		exit := ""
		err := conn.Read(func(fd uintptr) bool {
			if !exited(int(fd)) {
				return false
			}
			exit = reap(int(fd), id.PID)
			return true
		})
		if err != nil {
			return // released
		}
		p.exit = exit
		close(p.done)
		p.pidfd.Close()
	}()
	return p, nil
}

// exited says whether the process behind pidfd has ended, be it reaped or not.
func exited(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// reap waits for a process that has exited, if it is a child of this one, and says how it ended.
func reap(pidfd, pid int) string {
	// WNOWAIT first: an adopted process need not be a child, and by its pid alone wait4 could get another child
	// that reuses the number. A child that was not waited for keeps its pid.
	if err := unix.Waitid(unix.P_PIDFD, pidfd, nil, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil); err != nil {
		return "exited"
	}
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || got != pid:
			return "exited"
		case status.Signaled():
			return "signal: " + status.Signal().String()
		default:
			return "exit status " + strconv.Itoa(status.ExitStatus())
		}
	}
}

// Identity returns the process's pid and start time.
func (p *Process) Identity() Identity { return p.id }

// Done is closed when the process has exited, and never after Release.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how the process ended: "signal: killed", "exit status 1", or "exited" for one that was adopted and is no
// child of this process. It is empty until Done is closed.
func (p *Process) Exit() string {
	select {
	case <-p.done:
		return p.exit
	default:
		return ""
	}
}

// Signal sends a signal. It returns os.ErrProcessDone when the process has exited, and os.ErrClosed after Release.
func (p *Process) Signal(sig os.Signal) error {
	s, ok := sig.(unix.Signal)
	if !ok {
		return fmt.Errorf("signal process %d: unsupported signal %v", p.id.PID, sig)
	}
	conn, err := p.pidfd.SyscallConn()
	if err == nil {
		ctlErr := conn.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), s, nil, 0) })
		err = errors.Join(err, ctlErr)
	}
	if err == nil {
		return nil
	}
	select {
	case <-p.done:
		return os.ErrProcessDone
	case <-p.released:
		return os.ErrClosed
	default:
	}
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return fmt.Errorf("signal process %d: %w", p.id.PID, err)
}

// Release stops watching and leaves the process alone. When it returns, the watcher is gone. It may be called again,
// and after the exit.
func (p *Process) Release() {
	p.release.Do(func() {
		close(p.released)
		p.pidfd.Close() // wakes the watcher; an error only says that it closed the file itself
	})
	<-p.watched
}

// Stopped says whether the process was stopped, by SIGSTOP or a debugger. It does nothing until it is continued.
func (p *Process) Stopped() bool { return p.Status().Stopped() }

func statPath(pid int) string { return fmt.Sprintf("/proc/%d/stat", pid) }

// startTime reads field 22 of /proc/PID/stat.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(statPath(pid))
	if err != nil {
		return 0, err
	}
	return parseStartTime(string(b))
}

func parseStartTime(stat string) (uint64, error) {
	fields, err := statFields(stat)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// statFields are the fields of /proc/PID/stat from the third (the state) on, at least to the 22nd (the start time).
func statFields(stat string) ([]string, error) {
	// Field 2 is the program's name in parentheses and may itself hold spaces and parentheses.
	i := strings.LastIndexByte(stat, ')')
	if i < 0 {
		return nil, errors.New("stat without a program name")
	}
	fields := strings.Fields(stat[i+1:])
	if len(fields) < 20 {
		return nil, errors.New("stat without a start time")
	}
	return fields, nil
}

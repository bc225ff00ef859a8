package process

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// MaxSocketPath is the longest path of a Unix socket, in bytes: sun_path holds 108 with the final NUL.
const MaxSocketPath = 107

// Adopt finds the process that listens on a Unix socket and watches it. The error is ErrNotRunning where there is no socket, or
// nobody listens on it any more. A child of this process that was released is reaped after it was adopted.
//
// The order is what makes it safe: (1) connect, and take the pid that the kernel noted when the socket began to
// listen; (2) open a pidfd for it; (3) read its start time and check that the pidfd's process had not exited by then,
// so both are of the same process; (4) connect again and find the same pid. Between 1 and 4 the listener lived,
// so the pid was not reused.
func Adopt(socket string) (*Process, error) {
	p, err := adopt(socket)
	if err != nil {
		return nil, fmt.Errorf("adopt listener of %s: %w", socket, err)
	}
	return p, nil
}

func adopt(socket string) (*Process, error) {
	if len(socket) > MaxSocketPath {
		return nil, fmt.Errorf("socket path is %d bytes long, the limit of Unix sockets is %d", len(socket), MaxSocketPath)
	}
	pid, err := listener(socket)
	if err != nil {
		return nil, err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	since, err := startTime(pid)
	if err == nil && exited(pidfd) {
		err = ErrNotRunning
	}
	if err == nil {
		var again int
		if again, err = listener(socket); err == nil && again != pid {
			err = ErrNotRunning
		}
	}
	if err != nil {
		unix.Close(pidfd)
		return nil, err
	}
	return watch(pidfd, Identity{PID: pid, StartTime: since})
}

// listener returns the pid of the process that called listen on the socket.
func listener(socket string) (int, error) {
	conn, err := net.Dial("unix", socket)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return 0, ErrNotRunning
	}
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, ctlErr); err != nil {
		return 0, err
	}
	if cred.Pid <= 0 {
		return 0, errors.New("the listener is in another pid namespace")
	}
	return int(cred.Pid), nil
}

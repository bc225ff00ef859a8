package netloop

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReadFD reads from a non-blocking descriptor, past the runtime's scheduler: the call doesn't wait, and to tell the scheduler
// of it would cost as much as a short read. The error is a syscall.Errno.
func ReadFD(fd int, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// WriteFD writes what a socket takes, in the same way. A peer that has closed is an error, not a signal.
func WriteFD(fd int, b []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

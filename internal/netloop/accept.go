package netloop

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Accept takes the next client at a listening socket that does not block, and says where it comes from, if it has an
// address. It goes past the runtime's scheduler: the call doesn't wait. The error is a syscall.Errno; EAGAIN says that
// there is no client.
func Accept(listener int) (int, netip.AddrPort, error) {
	var from unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	fd, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(fd), addrPort(&from), nil
}

func addrPort(from *unix.RawSockaddrAny) netip.AddrPort {
	port := func(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }
	switch from.Addr.Family {
	case unix.AF_INET:
		a := (*unix.RawSockaddrInet4)(unsafe.Pointer(from))
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), port(&a.Port))
	case unix.AF_INET6:
		a := (*unix.RawSockaddrInet6)(unsafe.Pointer(from))
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), port(&a.Port))
	}
	return netip.AddrPort{}
}

// LocalAddr is the address at which a socket is connected or listens; the zero AddrPort where it has none.
func LocalAddr(fd int) netip.AddrPort {
	switch a, _ := unix.Getsockname(fd); a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// KeepAlive is when the kernel finds out that a peer has vanished without a FIN: it sends a probe when the connection was idle for Idle,
// then one each Interval, and gives up after Count of them. Both times are whole seconds, and all must be positive.
type KeepAlive struct {
	Idle, Interval time.Duration
	Count          int
}

// ListenTCP opens a listening socket for a loop to watch, and says at which address it is. What k says, and that nothing is held
// back to be sent together with more (TCP_NODELAY), is set on it and holds for what is accepted: Linux hands these
// options down, which saves four system calls for each client. Where shared is, other processes of the same user may listen at the same
// address if theirs is too.
func ListenTCP(ctx context.Context, address string, shared bool, k KeepAlive) (int, net.Addr, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		return errors.Join(c.Control(func(fd uintptr) { failed = errors.Join(Share(int(fd), shared), k.setInherited(int(fd))) }), failed)
	}}
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return -1, nil, err
	}
	defer ln.Close() // the runtime's poller is not to watch it
	fd, err := Descriptor(ln.(*net.TCPListener))
	return fd, ln.Addr(), err
}

// Share says whether other sockets may listen at the address of this one, which may be listening already. The kernel then gives each
// client to one of them.
func Share(fd int, shared bool) error {
	value := 0
	if shared {
		value = 1
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, value))
}

func (k KeepAlive) setInherited(fd int) error {
	var errs []error
	for _, o := range []struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(k.Idle / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(k.Interval / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, k.Count},
	} {
		errs = append(errs, os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, o.level, o.name, o.value)))
	}
	return errors.Join(errs...)
}

// Descriptor returns another descriptor of c's socket, for a loop to watch. The runtime's poller keeps its own until c is
// closed, which leaves this one open.
func Descriptor(c syscall.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	if controlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); controlErr != nil {
		return -1, controlErr
	}
	return fd, os.NewSyscallError("fcntl", err)
}

// ConnectUnix makes one attempt at a connection to a Unix socket. It doesn't wait: a listener whose backlog is full is EAGAIN.
func ConnectUnix(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

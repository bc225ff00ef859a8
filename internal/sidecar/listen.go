package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
)

// Listen is where a link's clients come in.
type Listen struct {
	// Either Address, HOST:PORT, is given, or the Path of a Unix socket with its Mode.
	Address, Path string
	Mode          fs.FileMode
	// Anywhere permits addresses that are not loopback: there the clients' bytes cross a network in the clear.
	Anywhere bool
}

// ParseListen reads HOST:PORT or unix:PATH.
func ParseListen(s string) (Listen, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" || len(path) > 107 {
			return Listen{}, fmt.Errorf("%q: want unix:PATH, with a path of at most 107 bytes", s)
		}
		return Listen{Path: path, Mode: 0o600}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n > 65535 || host == "" {
		return Listen{}, fmt.Errorf("%q: want HOST:PORT, such as 127.0.0.1:6379, or unix:PATH", s)
	}
	return Listen{Address: s}, nil
}

// IsLoopback says that what comes in never leaves this machine.
func (l Listen) IsLoopback() bool {
	if l.Path != "" {
		return true
	}
	host, _, _ := net.SplitHostPort(l.Address)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (l Listen) String() string {
	if l.Path != "" {
		return "unix:" + l.Path
	}
	return l.Address
}

// listener is an open Listen: one socket, or two where it is localhost.
type listener struct {
	sockets []socket
	path    string
	name    string   // HOST:PORT or unix:PATH, with the port that it has
	notes   []string // what should be known of it
	stop    func()   // nil: nobody is let in yet
	once    sync.Once
}

// socket is one that clients connect to.
type socket struct {
	net.Listener
	fd    int // the same socket, which the runtime's poller doesn't watch
	local netip.AddrPort
}

func (l *listener) Close() {
	l.once.Do(func() {
		if l.stop != nil {
			l.stop()
		}
		for _, s := range l.sockets {
			s.Listener.Close()
			unix.Close(s.fd)
		}
	})
}

func (l Listen) open() (*listener, error) {
	if !l.IsLoopback() && !l.Anywhere {
		return nil, fmt.Errorf("listen %s: not a loopback address, and clients' bytes would cross a network in the clear", l)
	}
	out := &listener{path: l.Path}
	host, port, _ := net.SplitHostPort(l.Address)
	var err error
	switch {
	case l.Path != "":
		out.name = l.String()
		err = out.add(l.openUnix())
	case host == "localhost":
		err = out.addLocalhost(port)
	default:
		if err = out.add(openTCP("tcp", l.Address)); err == nil {
			out.name = out.sockets[0].Addr().String()
		}
	}
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("listen %s: %w", l, err)
	}
	return out, nil
}

func (l *listener) add(ln net.Listener, err error) error {
	if err != nil {
		return cause(err)
	}
	s := socket{Listener: ln}
	if s.fd, err = netloop.Descriptor(ln.(syscall.Conn)); err != nil {
		ln.Close()
		return err
	}
	if a, ok := ln.Addr().(*net.TCPAddr); ok {
		s.local = a.AddrPort()
	}
	l.sockets = append(l.sockets, s)
	return nil
}

// addLocalhost opens 127.0.0.1 and ::1. A client may connect to either first, and not all try the other.
func (l *listener) addLocalhost(port string) error {
	const tries = 20 // a port that the system chose for one may be taken on the other
	for try := 1; ; try++ {
		four := openTry("tcp4", "127.0.0.1", port)
		six := openTry("tcp6", "::1", four.port)
		err := errors.Join(l.judge(four, six), l.judge(six, four))
		if err == nil {
			l.name = net.JoinHostPort("localhost", six.port)
			return nil
		}
		l.Close()
		if port != "0" || try == tries {
			return err
		}
		*l = listener{}
	}
}

// attempt is one of localhost's two sockets, or why there is none.
type attempt struct {
	net.Listener
	err           error
	address, port string
}

func openTry(network, host, port string) attempt {
	a := attempt{port: port}
	if a.Listener, a.err = openTCP(network, net.JoinHostPort(host, port)); a.err == nil {
		_, a.port, _ = net.SplitHostPort(a.Addr().String())
	}
	a.address = net.JoinHostPort(host, a.port)
	return a
}

// ListenLocal listens at HOST:PORT for something else than clients, and at both addresses where HOST is localhost. name has the port
// that it got.
func ListenLocal(address string) (all []net.Listener, name string, err error) {
	host, port, _ := net.SplitHostPort(address)
	if host != "localhost" {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			return nil, "", err
		}
		return []net.Listener{ln}, ln.Addr().String(), nil
	}
	var l listener
	if err := l.addLocalhost(port); err != nil {
		return nil, "", fmt.Errorf("listen %s: %w", address, err)
	}
	for _, s := range l.sockets {
		unix.Close(s.fd)
		all = append(all, s.Listener)
	}
	return all, l.name, nil
}

// judge takes the socket of one attempt, or says what is wrong. The other attempt decides whether a failure matters.
func (l *listener) judge(a, other attempt) error {
	switch {
	case a.err == nil:
		return l.add(a.Listener, nil)
	case other.err != nil:
		return fmt.Errorf("%s: %w", a.address, cause(a.err))
	case isAbsent(a.err):
		l.notes = append(l.notes, fmt.Sprintf("localhost is %s alone: this machine has no %s (%v)", other.address, a.address, cause(a.err)))
		return nil
	}
	return fmt.Errorf("%s: %w, and %s is free: clients would reach one or the other; stop what has it, or listen on %s alone",
		a.address, cause(a.err), other.address, other.address)
}

// isAbsent says that an address can't be listened on because this machine doesn't have it: IPv6 is off, for instance.
func isAbsent(err error) bool {
	return errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT)
}

func openTCP(network, address string) (net.Listener, error) {
	lc := net.ListenConfig{Control: onSocket(setInherited), KeepAlive: -1}
	return lc.Listen(context.Background(), network, address)
}

// cause is the last part of an error: what the system said.
func cause(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

func onSocket(do func(fd int) error) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var failed error
		return errors.Join(c.Control(func(fd uintptr) { failed = do(int(fd)) }), failed)
	}
}

// setInherited sets what Linux hands down to the sockets that a listener accepts.
func setInherited(fd int) error {
	return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1))
}

func (l Listen) openUnix() (net.Listener, error) {
	if err := removeStale(l.Path); err != nil {
		return nil, err
	}
	// Linux gives the file the mode of the unbound socket, less the umask: nobody else ever finds it open by mistake.
	lc := net.ListenConfig{Control: onSocket(func(fd int) error { return unix.Fchmod(fd, 0o600) })}
	ln, err := lc.Listen(context.Background(), "unix", l.Path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(l.Path, l.Mode); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// removeStale removes a socket that nobody listens on: a sidecar that was killed leaves it.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file of that name which is no socket: remove it, or choose another path")
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return unix.EADDRINUSE
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

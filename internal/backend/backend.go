// Package backend reaches a Redis, Valkey or managed Redis that Sealane did not start: over a Unix socket or TCP, with or without TLS,
// with or without a login.
//
// Guaranteed: nothing is sent to a server whose certificate does not verify, where TLS is asked for. Without TLS nothing is sent over a
// network unless Server.Plaintext says so. The password is in no error, and in nothing that prints or logs a Server.
//
// Not guaranteed: that the server does what Sealane's own engines do. Any version that answers PING is taken.
package backend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/netloop"
)

// Server is where the Redis is, how it is known to be the right one, and how to log in. Its JSON holds the password.
type Server struct {
	// Address is unix:/PATH or HOST:PORT. Parse makes it from what people write.
	Address string `json:"address"`
	// TLS verifies the server by CA, and what is sent is encrypted. Never for a Unix socket.
	TLS bool `json:"tls,omitempty"`
	// CA are the only CAs that are trusted, in PEM. "": those of the machine.
	CA string `json:"ca,omitempty"`
	// ServerName is whom the certificate must be for. "": Address's host.
	ServerName string `json:"server_name,omitempty"`
	// Plaintext allows a connection without TLS that leaves this machine.
	Plaintext bool `json:"plaintext,omitempty"`
	// User and Password are those of AUTH. Without a password clients are whom the server lets in by itself. Without a user AUTH has the
	// password alone, as servers older than 6.0 want it.
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`
}

const (
	// dialTimeout is how long one attempt at a connection may take, TLS included.
	dialTimeout = 5 * time.Second

	// A server that vanishes without a FIN is found out after a minute, and after half of one where it owes an answer.
	keepAliveIdle     = 30 * time.Second
	keepAliveInterval = 10 * time.Second
	keepAliveCount    = 3
	unacknowledged    = 30 * time.Second
)

// Format implements fmt.Formatter. It leaves out the password.
func (s Server) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "{Address:%s TLS:%t ServerName:%s HasCA:%t Plaintext:%t User:%s HasPassword:%t}",
		s.Address, s.TLS, s.ServerName, s.CA != "", s.Plaintext, s.User, s.Password != "")
}

// LogValue implements slog.LogValuer, for handlers that don't format.
func (s Server) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(s)) }

// Login are the arguments of AUTH; nil: there is no login.
func (s Server) Login() []string {
	switch {
	case s.Password == "":
		return nil
	case s.User != "":
		return []string{s.User, s.Password}
	}
	return []string{s.Password}
}

// WithoutPassword is a text without the password, which a server may repeat in an error.
func (s Server) WithoutPassword(text string) string {
	if s.Password == "" {
		return text
	}
	return strings.ReplaceAll(text, s.Password, "(the password)")
}

// path is that of the Unix socket; "": the server is reached over TCP.
func (s Server) path() string {
	path, isUnix := strings.CutPrefix(s.Address, "unix:")
	if !isUnix {
		return ""
	}
	return path
}

// host is the name or address of a server that is reached over TCP.
func (s Server) host() string {
	host, _, _ := net.SplitHostPort(s.Address)
	return host
}

// leavesMachine says that what goes to the host may be seen by others, as far as its name tells.
func leavesMachine(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return !ip.Unmap().IsLoopback()
	}
	return host != "localhost"
}

// Dialer connects to one Server. It keeps TLS sessions, and is safe for concurrent use.
type Dialer struct {
	server Server
	config *tls.Config // nil without TLS
}

// NewDialer returns a Dialer. The server must be one that Check has nothing against.
func NewDialer(s Server) (*Dialer, error) {
	d := &Dialer{server: s}
	if !s.TLS {
		return d, nil
	}
	d.config = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.name(), ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	if s.CA != "" {
		bundle, problem, _ := diagnosis.ParseBundle([]byte(s.CA))
		if problem != "" {
			return nil, fmt.Errorf("ca: %s", problem)
		}
		d.config.RootCAs = x509.NewCertPool()
		for _, c := range bundle.Certs {
			d.config.RootCAs.AddCert(c)
		}
	}
	return d, nil
}

// name is whom the certificate must be for.
func (s Server) name() string {
	if s.ServerName != "" {
		return s.ServerName
	}
	return s.host()
}

// Dial makes a connection on which nobody is logged in yet.
func (d *Dialer) Dial(ctx context.Context) (netloop.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := d.connect(ctx)
	if err != nil {
		return netloop.Conn{}, err
	}
	if d.config != nil {
		return netloop.ClientHandshake(ctx, conn, d.config)
	}
	defer conn.Close()
	fd, err := netloop.Descriptor(conn.(syscall.Conn))
	return netloop.Conn{FD: fd}, err
}

// plaintextError says that a name without TLS has led away from this machine.
type plaintextError struct{ address string }

func (e *plaintextError) Error() string {
	return "it leads to " + e.address + ", which is not on this machine, and what is sent there would not be encrypted"
}

// connect makes a connection without TLS.
func (d *Dialer) connect(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount},
	}
	if path := d.server.path(); path != "" {
		return dialer.DialContext(ctx, "unix", path)
	}
	dialer.Control = func(_, address string, c syscall.RawConn) error {
		if at, err := netip.ParseAddrPort(address); !d.server.TLS && !d.server.Plaintext && (err != nil || !at.Addr().Unmap().IsLoopback()) {
			return &plaintextError{address}
		}
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged/time.Millisecond))
		})
		if err != nil {
			return err
		}
		return failed
	}
	return dialer.DialContext(ctx, "tcp", d.server.Address)
}

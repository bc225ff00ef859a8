package sidecar

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/resp"
)

const (
	// attemptTime is how long one attempt may take, from the DNS to the end of the handshake; that of a server with several
	// addresses is shared among them.
	attemptTime = 5 * time.Second
	// hearTime is how long a server that says nothing to a TLS client has to answer PING without TLS.
	hearTime = time.Second

	maxAddresses = 8

	// A server that vanishes without a FIN is found out after a minute, and after half of one where it owes an answer.
	keepAliveIdle     = 30 * time.Second
	keepAliveInterval = 10 * time.Second
	keepAliveCount    = 3
	unacknowledged    = 30 * time.Second
)

// use does something with a fresh TCP connection, which it closes: a handshake, and more.
type use func(ctx context.Context, conn net.Conn, config *tls.Config) error

// dial makes a verified connection for relay.
func (t *trust) dial(ctx context.Context) (netloop.Conn, *Fault) {
	var end netloop.Conn
	f := t.attempt(ctx, func(ctx context.Context, conn net.Conn, config *tls.Config) (err error) {
		end, err = netloop.ClientHandshake(ctx, conn, config)
		return err
	})
	return end, f
}

// attempt tries every address of the server until use succeeds with one. The last one that worked comes first.
func (t *trust) attempt(ctx context.Context, use use) *Fault {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	addresses, err := t.resolver.LookupHost(ctx, t.host)
	if err != nil {
		return t.dnsFault(err)
	}
	addresses = slices.Compact(addresses[:min(len(addresses), maxAddresses)])
	if last := t.worked.Load(); last != nil {
		slices.SortStableFunc(addresses, func(a, b string) int { return cmp.Compare(rank(a, *last), rank(b, *last)) })
	}
	var fault *Fault
	end, _ := ctx.Deadline()
	for i, a := range addresses {
		share, cancel := context.WithTimeout(ctx, time.Until(end)/time.Duration(len(addresses)-i))
		f := t.at(share, net.JoinHostPort(a, t.port), use)
		cancel()
		if f == nil {
			t.worked.Store(&a)
			return nil
		}
		// What a server said tells more than that another address has none.
		if fault == nil || fault.isFar() && !f.isFar() {
			fault = f
		}
	}
	return fault
}

func rank(a, first string) int {
	if a == first {
		return 0
	}
	return 1
}

// at tries one address.
func (t *trust) at(ctx context.Context, at string, use use) *Fault {
	config := t.config
	if t.noALPN.Load() {
		config = t.bare
	}
	conn, err := dialTCP(ctx, at)
	if err != nil {
		return t.dialFault(at, err)
	}
	asked := false
	config = config.Clone() // which goes on with the session cache
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = true
		return t.clientCertificate(), nil
	}
	err = use(ctx, conn, config)
	if n, _ := alertOf(err); n == alertNoApplicationProtocol && !t.noALPN.Load() {
		t.noALPN.Store(true)
		return t.at(ctx, at, use)
	}
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*Fault](err); ok {
		if f.Code == codeClosed && asked && t.shows == nil {
			return t.clientCertFault(at) // in TLS 1.3 the alert comes after the handshake, and a reset may destroy it
		}
		return f
	}
	if len(conn.heard) == 0 && !errors.Is(ctx.Err(), context.Canceled) && t.speaksPlainly(at) {
		return t.plaintextFault(at)
	}
	return t.handshakeFault(at, handshakeEnd{err, conn.heard, asked})
}

// handshakeEnd is how a handshake failed: what the server said first, and whether it had asked for a client certificate.
type handshakeEnd struct {
	err   error
	heard []byte
	asked bool
}

// listening keeps the first bytes that are read.
type listening struct {
	*net.TCPConn
	heard []byte
}

func (l *listening) Read(b []byte) (int, error) {
	n, err := l.TCPConn.Read(b)
	if room := 64 - len(l.heard); room > 0 {
		l.heard = append(l.heard, b[:min(n, room)]...)
	}
	return n, err
}

func dialTCP(ctx context.Context, at string) (*listening, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount},
		Control: func(_, _ string, c syscall.RawConn) error {
			var failed error
			err := c.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged/time.Millisecond))
			})
			return errors.Join(err, failed)
		},
	}
	c, err := d.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	return &listening{TCPConn: c.(*net.TCPConn)}, nil
}

// speaksPlainly says PING without TLS: a Redis without it waits for the end of a request when it gets a ClientHello, so that
// silence is the usual answer to one; others close.
func (t *trust) speaksPlainly(at string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), hearTime)
	defer cancel()
	conn, err := dialTCP(ctx, at)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(hearTime))
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return false
	}
	_, _ = conn.Read(make([]byte, 64))
	return isRedis(conn.heard)
}

// prove finds out whether clients can be served: a handshake, the password if there is one, and PING.
func (t *trust) prove(ctx context.Context) *Fault {
	return t.attempt(ctx, func(ctx context.Context, conn net.Conn, config *tls.Config) error {
		defer conn.Close()
		c := tls.Client(conn, config)
		if err := c.HandshakeContext(ctx); err != nil {
			return err
		}
		if t.PasswordUnknown {
			return &Fault{codeAuth, conn.RemoteAddr().String() + " has a password, and it is not known: the cache does not keep it", "bring back the API, or give the password (--auth file:PATH)" + byItself}
		}
		deadline, _ := ctx.Deadline()
		_ = c.SetDeadline(deadline)
		login := t.login()
		var request []byte
		if login != nil {
			request = resp.AppendCommand(nil, append([]string{"AUTH"}, login...)...)
		}
		if _, err := c.Write(resp.AppendCommand(request, "PING")); err != nil {
			return err
		}
		if err := t.judge(conn.RemoteAddr().String(), bufio.NewReaderSize(c, 4096), login != nil); err != nil {
			return err
		}
		_ = c.CloseWrite()
		return nil
	})
}

// judge reads the answers.
func (t *trust) judge(at string, r *bufio.Reader, asked bool) error {
	for _, password := range []bool{true, false} {
		if password && !asked {
			continue
		}
		raw, err := r.ReadSlice('\n')
		if err != nil {
			return t.unanswered(at, err)
		}
		reply := strings.TrimSpace(string(raw))
		switch {
		case strings.HasPrefix(reply, "+"):
		case !strings.HasPrefix(reply, "-"):
			return &Fault{codeOther, "what answers inside TLS at " + at + " is no Redis: it says " + short(reply), "give the port of the Redis" + t.examine()}
		default:
			if f := t.replyFault(at, reply, password); f != nil {
				return f
			}
		}
	}
	return nil
}

// unanswered is for a server that was believed and then fell silent. A refusal for want of a client certificate comes
// only now in TLS 1.3.
func (t *trust) unanswered(at string, err error) error {
	if n, _ := alertOf(err); isAboutClientCertificate(n) {
		return err
	}
	if isTimeout(err) {
		return &Fault{codeNoReply, at + " finishes the handshake, but does not answer", "see whether the engine hangs" + byItself}
	}
	return &Fault{codeClosed, at + " finishes the handshake and then closes the connection: " + reason(err), "the server's log of this moment says why" + byItself}
}

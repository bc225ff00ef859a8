package sidecar

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/netloop"
)

const (
	// attemptTimeout is how long one attempt may take, from the DNS to the end of the handshake. A server with several addresses
	// has the same time for all of them.
	attemptTimeout = 5 * time.Second
	// sniffTimeout is how long a server that says nothing to a TLS client has to answer PING without TLS.
	sniffTimeout = time.Second

	maxAddresses = 8

	// A server that vanishes without a FIN is found out after a minute, and after half of one where it owes an answer.
	keepAliveIdle     = 30 * time.Second
	keepAliveInterval = 10 * time.Second
	keepAliveCount    = 3
	unacknowledged    = 30 * time.Second
)

// use does a handshake over a fresh TCP connection, and whatever follows it. It closes the connection.
type use func(ctx context.Context, conn net.Conn, config *tls.Config) error

// dial makes a verified connection for relay.
func (t *trust) dial(ctx context.Context) (netloop.Conn, *diagnosis.Fault) {
	var end netloop.Conn
	f := t.attempt(ctx, func(ctx context.Context, conn net.Conn, config *tls.Config) (err error) {
		end, err = netloop.ClientHandshake(ctx, conn, config)
		return err
	})
	return end, f
}

// attempt tries every address of the server until use succeeds with one. The last one that worked comes first.
func (t *trust) attempt(ctx context.Context, use use) *diagnosis.Fault {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	addresses, err := t.resolver.LookupHost(ctx, t.host)
	if err != nil {
		return t.lookupFault(err)
	}
	addresses = slices.Compact(addresses[:min(len(addresses), maxAddresses)])
	if last := t.worked.Load(); last != nil {
		slices.SortStableFunc(addresses, func(a, b string) int { return cmp.Compare(rank(a, *last), rank(b, *last)) })
	}
	var fault *diagnosis.Fault
	end, _ := ctx.Deadline()
	for i, a := range addresses {
		share, cancel := context.WithTimeout(ctx, time.Until(end)/time.Duration(len(addresses)-i))
		f := t.at(share, net.JoinHostPort(a, t.port), use)
		cancel()
		if f == nil {
			t.worked.Store(&a)
			return nil
		}
		// What one server said is worth more than that another address did not answer.
		if fault == nil || isFar(fault) && !isFar(f) {
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
func (t *trust) at(ctx context.Context, at string, use use) *diagnosis.Fault {
	config := t.config
	if t.noALPN.Load() {
		config = t.bare
	}
	conn, err := dialTCP(ctx, at)
	if err != nil {
		return t.connectFault(at, err)
	}
	asked := false
	config = config.Clone() // which goes on with the session cache
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = true
		return t.clientCertificate(), nil
	}
	err = use(ctx, conn, config)
	if n, _ := diagnosis.AlertOf(err); n == diagnosis.AlertNoApplicationProtocol && !t.noALPN.Load() {
		t.noALPN.Store(true)
		return t.at(ctx, at, use)
	}
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*diagnosis.Fault](err); ok {
		if f.Code == "closed" && asked && t.shows == nil { // in TLS 1.3 the alert comes after the handshake, and a reset may destroy it
			return t.fault(at, diagnosis.ClientCertRequired, diagnosis.Details{})
		}
		return f
	}
	if len(conn.first) == 0 && !errors.Is(ctx.Err(), context.Canceled) && t.speaksPlainly(at) {
		return t.fault(at, diagnosis.PlaintextRedis, diagnosis.Details{})
	}
	return t.handshakeFault(at, diagnosis.Handshake{Err: err, First: conn.first, CertAsked: asked, CertShown: t.shows != nil})
}

// firstBytes keeps the first bytes that are read.
type firstBytes struct {
	*net.TCPConn
	first []byte
}

func (f *firstBytes) Read(b []byte) (int, error) {
	n, err := f.TCPConn.Read(b)
	if room := 64 - len(f.first); room > 0 {
		f.first = append(f.first, b[:min(n, room)]...)
	}
	return n, err
}

func dialTCP(ctx context.Context, at string) (*firstBytes, error) {
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
	return &firstBytes{TCPConn: c.(*net.TCPConn)}, nil
}

// speaksPlainly says PING without TLS. A Redis without TLS takes a ClientHello for the beginning of a request and waits for its end, so
// silence is the usual sign of one. Some close the connection.
func (t *trust) speaksPlainly(at string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), sniffTimeout)
	defer cancel()
	conn, err := dialTCP(ctx, at)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(sniffTimeout))
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return false
	}
	_, _ = conn.Read(make([]byte, 64))
	return diagnosis.Sniff(conn.first) == diagnosis.Redis && !diagnosis.WantsTLS(conn.first)
}

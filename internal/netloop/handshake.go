package netloop

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
)

// Conn is a connection on its way to a loop: whoever attaches it to a Stream owns the descriptor.
type Conn struct {
	// FD is a connected stream socket, non-blocking, and watched by nobody else.
	FD int
	// TLS is the connection above it, its handshake done; nil for a plain one. It stands on Transport.
	TLS       *tls.Conn
	Transport *Transport
	// Head are bytes that were read from FD already, and come before what else it has.
	Head []byte
}

// Transport is what a tls.Conn reads from and writes to. Until the handshake is done that is a net.Conn, which may wait; from
// Stream.Attach on it is the loop's Socket, which never does. crypto/tls can't be moved from one to the other by itself, and
// keeps no state about what is below it, so it doesn't notice.
type Transport struct {
	net.Conn
	socket *Socket
}

// NewTransport returns a Transport over conn.
func NewTransport(conn net.Conn) *Transport { return &Transport{Conn: conn} }

// Read implements net.Conn.
func (t *Transport) Read(b []byte) (int, error) {
	if t.socket != nil {
		return t.socket.Read(b)
	}
	return t.Conn.Read(b)
}

// Write implements net.Conn.
func (t *Transport) Write(b []byte) (int, error) {
	if t.socket != nil {
		return t.socket.Write(b)
	}
	return t.Conn.Write(b)
}

// ClientHandshake does the client's side of a TLS handshake over conn, and waits for it. It closes conn in any case: what is
// returned has a descriptor of its own.
func ClientHandshake(ctx context.Context, conn net.Conn, config *tls.Config) (Conn, error) {
	t := NewTransport(conn)
	return handshake(ctx, t, tls.Client(t, config))
}

func handshake(ctx context.Context, t *Transport, over *tls.Conn) (Conn, error) {
	defer t.Conn.Close()
	raw, ok := t.Conn.(syscall.Conn)
	if !ok {
		return Conn{}, errors.New("the connection has no descriptor")
	}
	if err := over.HandshakeContext(ctx); err != nil {
		return Conn{}, err
	}
	fd, err := Descriptor(raw)
	if err != nil {
		return Conn{}, err
	}
	return Conn{FD: fd, TLS: over, Transport: t}, nil
}

package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// A Link is a TCP port on loopback through which one process, and nobody else, reaches an engine that listens on a Unix socket only:
// an engine can replicate over TCP alone. Each connection that comes is looked up in /proc. Those that are not of that process are
// closed at once, and with the first that is, the port is closed. The connection to the engine is logged in already, so the process
// needs no password.
type Link struct {
	listener *net.TCPListener
	connect  func(context.Context) (net.Conn, error)
}

// Listen opens the port. connect opens a connection to the engine, as a user who may replicate.
func Listen(connect func(context.Context) (net.Conn, error)) (*Link, error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("open a port for the copy of the data: %w", err)
	}
	return &Link{listener: l, connect: connect}, nil
}

// Addr is where the process is to connect.
func (l *Link) Addr() (host, port string) {
	host, port, _ = net.SplitHostPort(l.listener.Addr().String())
	return host, port
}

// Close closes the port. Serve, if it waits for the process, returns.
func (l *Link) Close() error { return l.listener.Close() }

// Serve waits for the process with this id, and carries its connection until either side ends it or ctx ends. It closes the port.
func (l *Link) Serve(ctx context.Context, pid int) error {
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	replica, err := l.accept(pid)
	if err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	defer replica.Close()
	l.Close()
	source, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	return carry(ctx, replica, source)
}

// accept returns the first connection of the process.
func (l *Link) accept(pid int) (*net.TCPConn, error) {
	for {
		conn, err := l.listener.AcceptTCP()
		if err != nil {
			return nil, fmt.Errorf("wait for the process that copies the data: %w", err)
		}
		owned, err := ownsConnection(pid, conn.RemoteAddr().(*net.TCPAddr), conn.LocalAddr().(*net.TCPAddr))
		if err == nil && owned {
			return conn, nil
		}
		conn.Close()
		if err != nil {
			return nil, fmt.Errorf("look up who has connected: %w", err)
		}
	}
}

// carry passes bytes both ways until one side ends.
func carry(ctx context.Context, a, b net.Conn) error {
	var once sync.Once
	end := func() {
		once.Do(func() {
			a.Close()
			b.Close()
		})
	}
	stop := context.AfterFunc(ctx, end)
	defer stop()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(a, b)
		end()
		done <- err
	}()
	_, err := io.Copy(b, a)
	end()
	if back := <-done; err == nil || errors.Is(err, net.ErrClosed) {
		err = back
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

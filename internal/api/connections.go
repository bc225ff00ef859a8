package api

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/sealane/sealane/internal/ops"
)

// What a connection may cost before its caller has shown a valid token. Whoever can reach the port can open one, so
// all of it is small, and none of it lasts.
const (
	// maxUnauthenticated is how many connections without a valid token are kept, over all listeners. One more closes the
	// oldest of them: a caller that has the token shows it within milliseconds.
	maxUnauthenticated = 256
	// unauthenticatedTime is how long such a connection lives.
	unauthenticatedTime = ops.HeaderTimeout
	// maxHeader bounds the headers of one request, names and values, in bytes.
	maxHeader = ops.MaxHeaderBytes
	// maxStreams bounds the requests of one connection that are under way at a time.
	maxStreams = 100
	// window is how much of a request's body is taken before somebody reads it: HTTP/2's smallest.
	window = 64 << 10
)

// limits are gRPC's options: its own defaults are 16 MiB of headers for each of any number of streams, windows that
// grow to 16 MiB, and two minutes for a handshake.
func limits() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		grpc.ConnectionTimeout(unauthenticatedTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: 10 * time.Minute, Time: time.Minute, Timeout: 20 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

// HTTPServer returns a server for the REST handler, or for another one with the same limits. Over TLS it speaks HTTP/2, within
// the limits that gRPC has.
func HTTPServer(h http.Handler) *http.Server {
	s := ops.NewServer(h)
	s.HTTP2 = &http.HTTP2Config{
		MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: window, MaxReceiveBufferPerStream: window,
		SendPingTimeout: time.Minute, PingTimeout: 20 * time.Second,
	}
	return s
}

// unauthenticated are the connections whose callers have not shown a valid token yet.
type unauthenticated struct {
	mu     sync.Mutex
	oldest *list.List               // of *guardedConn
	by     map[string]*list.Element // by addressKey
}

func newUnauthenticated() *unauthenticated {
	return &unauthenticated{oldest: list.New(), by: make(map[string]*list.Element)}
}

// addressKey tells a connection from all others that are open now.
func addressKey(local, remote net.Addr) string {
	if local == nil || remote == nil {
		return ""
	}
	return local.String() + " " + remote.String()
}

// guardedListener puts the connections that it accepts among the unauthenticated ones.
type guardedListener struct {
	net.Listener
	u *unauthenticated
}

// guardedConn leaves the unauthenticated ones when it is closed.
type guardedConn struct {
	net.Conn
	u     *unauthenticated
	key   string
	timer *time.Timer
}

// Guard returns the listener with the limits of connections whose callers have not shown a valid token.
func (s *Server) Guard(l net.Listener) net.Listener { return &guardedListener{l, s.unauthenticated} }

// Accept implements net.Listener.
func (l *guardedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.u.add(conn), nil
}

func (u *unauthenticated) add(conn net.Conn) net.Conn {
	c := &guardedConn{Conn: conn, u: u, key: addressKey(conn.LocalAddr(), conn.RemoteAddr())}
	c.timer = time.AfterFunc(unauthenticatedTime, func() { c.Close() })
	u.mu.Lock()
	u.by[c.key] = u.oldest.PushBack(c)
	var tooMany *guardedConn
	if u.oldest.Len() > maxUnauthenticated {
		tooMany = u.oldest.Front().Value.(*guardedConn)
	}
	u.mu.Unlock()
	if tooMany != nil {
		tooMany.Close()
	}
	return c
}

// known takes a call's connection from the unauthenticated ones.
func (u *unauthenticated) known(ctx context.Context) {
	if from, ok := peer.FromContext(ctx); ok {
		u.remove(addressKey(from.LocalAddr, from.Addr))
	}
}

// remove takes a connection from the unauthenticated ones, because its caller has shown a valid token or it is closed.
func (u *unauthenticated) remove(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if e := u.by[key]; e != nil {
		e.Value.(*guardedConn).timer.Stop()
		u.oldest.Remove(e)
		delete(u.by, key)
	}
}

// Close implements net.Conn.
func (c *guardedConn) Close() error {
	c.u.remove(c.key)
	return c.Conn.Close()
}

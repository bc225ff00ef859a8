package replicationlink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

const (
	// user is whom replicas are logged in as.
	user = "replication"

	// handshakeTimeout is for TLS, loginTimeout for the engine's answer to the login.
	handshakeTimeout = 5 * time.Second
	loginTimeout     = 5 * time.Second
	// writeTimeout is how long a replica may take no byte. The engine itself gives a replica up after 60 seconds (repl-timeout).
	writeTimeout = 90 * time.Second
	// lingerTimeout is how long one half of a link goes on when the other has ended.
	lingerTimeout = 5 * time.Second

	// outBuffer is for what goes to the replica: an RDB file, and then all that is written. What comes back is one short command a second.
	outBuffer = 128 << 10
	inBuffer  = 4 << 10
	maxReply  = 4 << 10

	// plaintextAnswer is for who speaks RESP here: an engine without tls-replication writes it into its log.
	plaintextAnswer = "-ERR this port is for the instance's own replicas: it wants TLS and a client certificate\r\n"
)

// peer is one connection that was accepted, and with its engine connection a link.
type peer struct {
	conn    *net.TCPConn
	serving *Prepared // when it was accepted
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{} // closed when it has ended
	crowded atomic.Bool

	chain   []*x509.Certificate       // what it has shown; Listener.mu guards it and shown
	shown   time.Time                 // when
	since   atomic.Pointer[time.Time] // when the engine let it in; nil: not yet
	out, in atomic.Uint64             // bytes to and from the replica
	cutting sync.Once
}

func newPeer(conn *net.TCPConn, s *Prepared) *peer {
	p := &peer{conn: conn, serving: s, done: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// cut ends it at once. The connection to the engine ends with ctx.
func (p *peer) cut() {
	p.cutting.Do(func() {
		p.cancel()
		p.conn.Close()
	})
}

// crowd ends it because there are too many without a certificate.
func (p *peer) crowd() {
	p.crowded.Store(true)
	p.cut()
}

// serve is the life of a connection.
func (l *Listener) serve(p *peer) {
	replica, why, err := p.handshake()
	if err != nil {
		if p.crowded.Load() {
			why = refusedCrowded
		}
		if p.ctx.Err() == nil || p.crowded.Load() {
			l.refuse(p.conn.RemoteAddr(), why, err)
		}
		return
	}
	if !l.admitted(p, replica.ConnectionState().PeerCertificates) {
		l.refuse(p.conn.RemoteAddr(), refusedForeignCA, errors.New("its certificate was accepted until a moment ago"))
		return
	}
	engine, why, err := p.login()
	if err != nil {
		if p.ctx.Err() == nil {
			l.refuse(p.conn.RemoteAddr(), why, err)
		}
		return
	}
	defer engine.Close()
	stop := context.AfterFunc(p.ctx, func() { engine.Close() })
	defer stop()
	now := time.Now()
	p.since.Store(&now)
	from := p.conn.RemoteAddr().String()
	l.log.Info("replica connected", "from", from, "tls", tls.VersionName(replica.ConnectionState().Version))
	err = p.carry(replica, engine)
	if p.ctx.Err() != nil {
		err = errors.New("cut: the engine is no primary any more, replication has ended here, or the certificate that was shown is not accepted any more")
	}
	l.log.Info("replica disconnected", "from", from, "after", time.Since(now).Round(time.Millisecond), "bytes_out", p.out.Load(), "reason", err)
}

// handshake does the server's side of TLS.
func (p *peer) handshake() (*tls.Conn, refusal, error) {
	var a attempt
	config := p.serving.tls.Clone()
	config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		a.seen, a.hello = true, h.SupportsCertificate(&config.Certificates[0])
		return nil, nil
	}
	_ = p.conn.SetDeadline(time.Now().Add(handshakeTimeout))
	conn := tls.Server(p.conn, config)
	if err := conn.HandshakeContext(p.ctx); err != nil {
		why := a.classify(err)
		if why == refusedPlaintext {
			_, _ = io.WriteString(p.conn, plaintextAnswer)
		}
		return nil, why, err
	}
	_ = p.conn.SetDeadline(time.Time{})
	return conn, refusal{}, nil
}

// login connects to the engine as the user who may replicate.
func (p *peer) login() (*net.UnixConn, refusal, error) {
	ctx, cancel := context.WithTimeout(p.ctx, loginTimeout)
	defer cancel()
	c := p.serving.config
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", c.Engine)
	if err != nil {
		return nil, refusedEngine, err
	}
	_, err = resp.NewClient(conn, maxReply).Do(ctx, "AUTH", user, c.Password)
	var refused resp.ReplyError
	switch {
	case errors.As(err, &refused):
		conn.Close()
		return nil, refusedLogin, fmt.Errorf("the engine answers %s", refused.Code()) // no more of it: it may quote what it was sent
	case err != nil:
		conn.Close()
		return nil, refusedEngine, fmt.Errorf("log in to the engine: %w", err)
	}
	return conn.(*net.UnixConn), refusal{}, conn.SetDeadline(time.Time{})
}

// carry passes bytes both ways until both sides have ended, or one has and the other takes too long, or either fails. The error says
// which side ended it.
func (p *peer) carry(replica *tls.Conn, engine *net.UnixConn) error {
	out, in := make(chan error, 1), make(chan error, 1)
	go func() { out <- p.toReplica(replica, engine) }()
	go func() { in <- p.toEngine(engine, replica) }()
	var first error
	var who string
	var other <-chan error
	select {
	case first = <-out:
		who, other = "the engine", in
	case first = <-in:
		who, other = "the replica", out
	}
	if first != nil { // the connection is of no use in the other direction either
		p.conn.Close()
		engine.Close()
	}
	<-other
	if first == nil {
		return fmt.Errorf("%s has closed its connection", who)
	}
	return first
}

// toReplica is the half of a link that goes to the replica. Its end is passed on.
func (p *peer) toReplica(replica *tls.Conn, engine *net.UnixConn) error {
	if err := copyBytes(punctual{replica}, engine, outBuffer, &p.out); err != nil {
		return fmt.Errorf("engine to replica: %w", err)
	}
	_ = p.conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	return replica.CloseWrite()
}

// toEngine is the other half.
func (p *peer) toEngine(engine *net.UnixConn, replica *tls.Conn) error {
	if err := copyBytes(engine, replica, inBuffer, &p.in); err != nil {
		return fmt.Errorf("replica to engine: %w", err)
	}
	_ = engine.SetReadDeadline(time.Now().Add(lingerTimeout))
	return engine.CloseWrite()
}

// punctual is a replica that has writeTimeout for each write.
type punctual struct{ *tls.Conn }

func (c punctual) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	return c.Conn.Write(b)
}

// copyBytes copies until src ends, and counts what it has written.
func copyBytes(dst io.Writer, src io.Reader, size int, copied *atomic.Uint64) error {
	buf := make([]byte, size)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
			copied.Add(uint64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// closed says that a listener has been closed.
func closed(err error) bool { return errors.Is(err, net.ErrClosed) }

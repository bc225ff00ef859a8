package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/wire"
)

// dialer makes connections to the server: in plain text, with TLS that accepts whatever is presented, and with TLS that verifies.
type dialer struct {
	at         string // ADDRESS:PORT, once the port step has found one that accepts
	host       string // for SNI, and looked for in the certificate
	identity   string // the URI that the certificate must have; "": the server need not be one of Sealane's
	plain      bool   // there is to be no encryption
	clientCert *tls.Certificate
	now        func() time.Time
}

// connect opens a connection whose reads and writes end with ctx.
func (d *dialer) connect(ctx context.Context) (net.Conn, error) {
	var nd net.Dialer
	conn, err := nd.DialContext(ctx, "tcp", d.at)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	return conn, nil
}

// maxFirst is how much is kept of what a server says first.
const maxFirst = 256

// pingPlain says PING without TLS and returns the first bytes that come.
func (d *dialer) pingPlain(ctx context.Context) ([]byte, error) {
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return nil, err
	}
	b := make([]byte, maxFirst)
	n, err := conn.Read(b)
	if err == nil && diagnosis.IsPlainRedis(b[:n]) {
		_ = sayProbe(ctx, resp.NewClient(conn, maxReply))
	}
	return b[:n], err
}

// sayProbe says that this is no client, or a gateway would count it as one that has yet to move to TLS. Whether the server knows the
// command doesn't matter.
func sayProbe(ctx context.Context, c *resp.Client) error {
	_, err := c.Do(ctx, "CLIENT", "SETINFO", "LIB-NAME", wire.ProbeLibrary)
	return err
}

// handshake is what a TLS client sees that accepts every certificate.
type handshake struct {
	first     []byte               // that came, in the clear
	state     *tls.ConnectionState // nil if the handshake failed
	certAsked bool                 // for a client certificate
	err       error                // of the handshake
	replies   []resp.Value         // to PING, and if that is no error to TIME
	inside    []byte               // what came inside TLS in place of a reply
	end       error                // why there is a reply less
	sent      time.Time            // this machine's clock, when they were sent
}

// served is the chain that the server presented.
func (h *handshake) served() []*x509.Certificate { return h.state.PeerCertificates }

// firstBytes keeps the first bytes that are read.
type firstBytes struct {
	net.Conn
	kept []byte
}

func (f *firstBytes) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	f.kept = append(f.kept, b[:min(n, maxFirst-len(f.kept))]...)
	return n, err
}

// handshake verifies nothing, because a certificate that doesn't verify is to be seen as well. So nothing that is secret is sent over
// it: PING, and TIME. change makes the ClientHello another than a client of today sends; nil: nothing.
func (d *dialer) handshake(ctx context.Context, change func(*tls.Config)) handshake {
	var h handshake
	conn, err := d.connect(ctx)
	if err != nil {
		h.err = err
		return h
	}
	defer conn.Close()
	config := &tls.Config{
		InsecureSkipVerify: true,
		ServerName:         d.host,
		MinVersion:         tls.VersionTLS12,
		NextProtos:         d.protocols(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			h.certAsked = true
			return d.clientCertificate(nil)
		},
	}
	if change != nil {
		change(config)
	}
	f := &firstBytes{Conn: conn}
	c := tls.Client(f, config)
	h.err = c.HandshakeContext(ctx)
	h.first = f.kept
	if h.err != nil {
		return h
	}
	state := c.ConnectionState()
	h.state = &state
	h.sent = d.now()
	h.replies, err = resp.NewClient(c, maxReply).Pipeline(ctx, []string{"PING"}, []string{"TIME"})
	h.inside, h.end = noReply(err)
	return h
}

// sniff says hello in TLS, and if that is not answered, PING in plain text. A Redis without TLS waits for the end of a request when it
// gets a ClientHello, so that silence is the usual answer to one. answered is what came upon PING; h what came upon the ClientHello.
func (d *dialer) sniff(ctx context.Context, timeout time.Duration) (h handshake, answered []byte, err error) {
	first, cancel := context.WithTimeout(ctx, timeout*6/10)
	defer cancel()
	done := make(chan handshake, 1)
	go func() { done <- d.handshake(first, nil) }()
	quiet := time.NewTimer(timeout / 10)
	defer quiet.Stop()
	select {
	case h = <-done:
		if diagnosis.Sniff(h.first) == diagnosis.TLSRecord {
			return h, nil, nil
		}
		second, cancel := context.WithTimeout(ctx, timeout*2/10)
		defer cancel()
		answered, err = d.pingPlain(second)
		return h, answered, err
	case <-quiet.C:
	}
	answered, err = d.pingPlain(first)
	if diagnosis.IsPlainRedis(answered) {
		cancel()
	}
	return <-done, answered, err
}

// present asks for a name and returns what is presented, whatever it is. It says that it is no client: otherwise it would count as
// one that has verified this.
func (d *dialer) present(ctx context.Context, name string) ([]*x509.Certificate, error) {
	h := d.handshake(ctx, func(c *tls.Config) { c.ServerName, c.NextProtos = name, []string{wire.ALPNProbe} })
	if h.state == nil {
		return nil, h.err
	}
	return h.served(), nil
}

// trust is what a session is verified by.
type trust struct {
	roots *x509.CertPool         // nil: what this machine trusts
	host  string                 // "": that of the dialer
	cache tls.ClientSessionCache // nil: sessions are not resumed
}

// open connects as a client does that verifies.
func (d *dialer) open(ctx context.Context, t trust) (*session, error) {
	began := time.Now()
	conn, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, client: resp.NewClient(conn, maxReply), connect: time.Since(began)}
	if d.plain {
		if err := sayProbe(ctx, s.client); errors.As(err, new(*resp.ReadError)) {
			conn.Close()
			return nil, err
		}
		return s, nil
	}
	if t.host == "" {
		t.host = d.host
	}
	began = time.Now()
	c := tls.Client(conn, &tls.Config{
		RootCAs: t.roots, ServerName: t.host, MinVersion: tls.VersionTLS12, ClientSessionCache: t.cache, Time: d.now,
		NextProtos: d.protocols(), GetClientCertificate: d.clientCertificate,
		VerifyConnection: func(state tls.ConnectionState) error {
			if d.identity == "" {
				return nil
			}
			return diagnosis.CheckIdentity(state.PeerCertificates[0], d.identity)
		},
	})
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	s.conn, s.client = c, resp.NewClient(c, maxReply)
	s.handshake, s.resumed = time.Since(began), c.ConnectionState().DidResume
	return s, nil
}

// clientCertificate is what a server is shown that asks for one. An empty one says that there is none.
func (d *dialer) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if d.clientCert == nil {
		return &tls.Certificate{}, nil
	}
	return d.clientCert, nil
}

// protocols tell a server of ours that this is no client. Other servers might refuse what they don't know.
func (d *dialer) protocols() []string {
	if d.identity == "" {
		return nil
	}
	return []string{wire.ALPNProbe}
}

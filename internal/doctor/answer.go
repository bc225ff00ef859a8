package doctor

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/wire"
)

// speech is what a peer speaks, by its first bytes.
type speech string

const (
	nothing  speech = ""
	tlsHello speech = "TLS"
	tlsAlert speech = "a TLS alert"
	redis    speech = "Redis"
	http1    speech = "HTTP"
	http2    speech = "HTTP/2"
	other    speech = "something else"
)

// listen says what b, the first bytes of a peer, are.
func listen(b []byte) speech {
	switch {
	case len(b) == 0:
		return nothing
	case len(b) >= 2 && b[0] == 0x16 && b[1] == 3: // a record of the handshake (RFC 8446, section 5.1)
		return tlsHello
	case len(b) >= 2 && b[0] == 0x15 && b[1] == 3:
		return tlsAlert
	case bytes.HasPrefix(b, []byte("HTTP/")):
		return http1
	case len(b) >= 9 && b[0] == 0 && b[3] == 4 && bytes.Equal(b[5:9], make([]byte, 4)): // SETTINGS (RFC 9113, section 6.5)
		return http2
	case len(b) >= 4 && (b[0] == '-' || b[0] == '+') && isUpper(b[1]) && isUpper(b[2]) && isUpper(b[3]): // -ERR, +PONG
		return redis
	}
	return other
}

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }

// look is what a TLS client sees that accepts whatever it is shown.
type look struct {
	first  []byte               // that came, in the clear
	state  *tls.ConnectionState // nil if the handshake failed
	asked  bool                 // for a client certificate
	err    error                // of the handshake
	inside []byte               // what came inside TLS upon PING and TIME
	end    error                // how that ended; nil: two replies
	sent   time.Time            // this machine's clock, when they were sent
}

// recorder keeps the first bytes that are read.
type recorder struct {
	net.Conn
	first []byte
}

const maxFirst = 256

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.first = append(r.first, b[:min(n, maxFirst-len(r.first))]...)
	return n, err
}

// look does a handshake that accepts every certificate, because one that doesn't verify is to be seen as well. Nothing that
// is secret is sent over it: PING, and TIME.
func (x *exam) look(ctx context.Context, change func(*tls.Config)) look {
	var l look
	conn, err := x.connect(ctx)
	if err != nil {
		l.err = err
		return l
	}
	defer conn.Close()
	config := &tls.Config{
		InsecureSkipVerify: true,
		ServerName:         x.Host,
		MinVersion:         tls.VersionTLS12,
		NextProtos:         x.protocols(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			l.asked = true
			return x.clientCertificate(nil)
		},
	}
	if change != nil {
		change(config)
	}
	r := &recorder{Conn: conn}
	c := tls.Client(r, config)
	l.err = c.HandshakeContext(ctx)
	l.first = r.first
	if l.err != nil {
		return l
	}
	state := c.ConnectionState()
	l.state = &state
	l.sent = x.Now()
	l.inside, l.end = ask(c, requests("PING", "TIME"), 2)
	return l
}

// connect opens a connection whose reads and writes end with ctx.
func (x *exam) connect(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", x.at.String())
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	return conn, nil
}

// hear says PING without TLS and returns the first bytes that come.
func (x *exam) hear(ctx context.Context) ([]byte, error) {
	conn, err := x.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return nil, err
	}
	b := make([]byte, maxFirst)
	n, err := conn.Read(b)
	return b[:n], err
}

// probe says hello in TLS, and if that is not answered, PING in plain text. A Redis without TLS waits for the end of a
// request when it gets a ClientHello, so that silence is the usual answer to one.
func (x *exam) probe(ctx context.Context) (heard []byte, err error) {
	first, cancel := context.WithTimeout(ctx, x.Timeout*6/10)
	defer cancel()
	done := make(chan look, 1)
	go func() { done <- x.look(first, nil) }()
	quiet := time.NewTimer(x.Timeout / 10)
	defer quiet.Stop()
	select {
	case x.seen = <-done:
		if listen(x.seen.first) == tlsHello {
			return nil, nil
		}
		second, cancel := context.WithTimeout(ctx, x.Timeout*2/10)
		defer cancel()
		return x.hear(second)
	case <-quiet.C:
	}
	heard, err = x.hear(first)
	if isPlainRedis(heard) {
		cancel()
	}
	x.seen = <-done
	return heard, err
}

// isPlainRedis is true of what only a Redis without TLS says to PING: a port with TLS may also answer with an error.
func isPlainRedis(b []byte) bool { return listen(b) == redis && !bytes.HasPrefix(b, []byte("-ERR ")) }

// wantsTLS is true of what Sealane's ports with TLS say to a client without.
func wantsTLS(b []byte) bool { return bytes.HasPrefix(b, []byte("-"+wire.WantsTLS)) }

// answerStep finds out what speaks at the port.
func (x *exam) answerStep(ctx context.Context) finding {
	if x.plain {
		return x.plainAnswer(ctx)
	}
	heard, err := x.probe(ctx)
	to, plain := listen(x.seen.first), listen(heard)
	switch {
	case to == tlsHello:
		if s := listen(x.seen.inside); s == http1 || s == http2 {
			return failed(x.httpOverTLS(), "TLS, and inside %s", s)
		}
		return ok("TLS")
	case isPlainRedis(heard), to == nothing && plain == redis && !wantsTLS(heard):
		return failed(x.plaintextRedis(), "Redis without TLS: %s", quoted(x.said(string(heard))))
	case to == nothing && x.look(ctx, smallHello).state != nil:
		return failed(x.helloTooBig(), "TLS, but only without post-quantum key exchange: %s", reason(x.seen.err))
	}
	if to == nothing && plain != nothing {
		to, x.seen.first = plain, heard
	}
	switch to {
	case tlsAlert:
		return ok("TLS, with an alert")
	case http1, http2:
		return failed(x.http(), "%s without TLS", to)
	case nothing:
		if isTimeout(x.seen.err) || isTimeout(err) {
			return failed(x.silent(), "not one byte, to a TLS client and to a Redis client")
		}
		return failed(x.closedAtOnce(), "not one byte: %s", reason(x.seen.err))
	}
	return failed(x.otherProtocol(x.said(string(x.seen.first))), "neither TLS nor Redis: %s", quoted(x.said(string(x.seen.first))))
}

// plainAnswer does the same where no encryption is expected.
func (x *exam) plainAnswer(ctx context.Context) finding {
	b, err := x.hear(ctx)
	switch s := listen(b); {
	case wantsTLS(b), s == tlsAlert:
		return failed(x.wantsTLS(), "%s", quoted(x.said(string(b))))
	case s == redis:
		return ok("Redis without TLS")
	case s == http1 || s == http2:
		return failed(x.http(), "%s", s)
	case s == nothing && isTimeout(err):
		return failed(x.silent(), "not one byte")
	case s == nothing:
		return failed(x.closedAtOnce(), "not one byte: %s", reason(err))
	}
	return failed(x.otherProtocol(x.said(string(b))), "not Redis: %s", quoted(x.said(string(b))))
}

// protocolStep names what was negotiated, or finds out why nothing was.
func (x *exam) protocolStep(ctx context.Context) finding {
	l := x.seen
	if l.state == nil {
		return x.noHandshake(ctx)
	}
	// In TLS 1.3 the refusal comes after the handshake, as an alert that a reset may destroy.
	if l.asked && l.end != nil && len(l.inside) == 0 && !isTimeout(l.end) {
		return failed(x.clientCertRequired(), "the server asks for a client certificate: %s", reason(l.end))
	}
	detail := tls.VersionName(l.state.Version) + ", " + tls.CipherSuiteName(l.state.CipherSuite)
	if l.state.CurveID != 0 {
		detail += ", " + l.state.CurveID.String()
	}
	switch {
	case l.asked && x.ClientCertificate != nil:
		detail += "; the server asks for a client certificate and takes this one"
	case l.asked:
		detail += "; the server asks for a client certificate and takes none as well"
	}
	return ok("%s", detail)
}

// noHandshake tries what else a client could offer, to see what the server wants.
func (x *exam) noHandshake(ctx context.Context) finding {
	err, alert := x.seen.err, alertOf(x.seen.err)
	if x.seen.asked {
		return failed(x.clientCertRequired(), "the server asks for a client certificate: %s", reason(err))
	}
	if alert == alertText(unrecognizedName) {
		return failed(x.sniRefused(), "alert: %s", alert)
	}
	if old := x.look(ctx, everything); old.state != nil {
		version, suite := tls.VersionName(old.state.Version), tls.CipherSuiteName(old.state.CipherSuite)
		if old.state.Version < tls.VersionTLS12 {
			return failed(x.tlsTooOld(version), "%s at most", version)
		}
		return failed(x.noSharedCipher(suite), "%s, %s", version, suite)
	}
	if x.look(ctx, smallHello).state != nil {
		return failed(x.helloTooBig(), "only without post-quantum key exchange: %s", reason(err))
	}
	if alert == alertText(handshakeFailure) || alert == alertText(protocolVersion) {
		return failed(x.noSharedCipher(""), "alert: %s", alert)
	}
	return failed(x.handshakeFailed(reason(err)), "%s", reason(err))
}

// everything offers what no client of today should, to see what a server has.
func everything(c *tls.Config) {
	c.MinVersion = tls.VersionTLS10
	c.MaxVersion = tls.VersionTLS12
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		c.CipherSuites = append(c.CipherSuites, s.ID)
	}
}

// smallHello leaves out what makes a ClientHello longer than one packet: the keys of ML-KEM.
func smallHello(c *tls.Config) {
	c.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384}
}

// Alerts of RFC 8446, section 6.
const (
	handshakeFailure = 40
	protocolVersion  = 70
	unrecognizedName = 112
)

func alertText(a tls.AlertError) string { return strings.TrimPrefix(a.Error(), "tls: ") }

// alertOf is the description of the alert that the server ended a connection with, "" if it didn't. crypto/tls has no
// exported type for a received alert, but an operation of its own for it.
func alertOf(err error) string {
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return strings.TrimPrefix(fmt.Sprint(e.Err), "tls: ")
	}
	return ""
}

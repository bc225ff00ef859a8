package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/wire"
)

// maxReply is more than any answer to what is asked here has.
const maxReply = 64 << 10

// ask sends requests and returns what comes back: n replies, or less and why. What is no RESP ends it as well.
func ask(c net.Conn, request []byte, n int) (raw []byte, err error) {
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	chunk := make([]byte, 4<<10)
	for {
		got, err := c.Read(chunk)
		raw = append(raw, chunk[:got]...)
		_, complete, parseErr := replies(raw, n)
		switch {
		case complete:
			return raw, nil
		case parseErr != nil:
			return raw, parseErr
		case err != nil:
			return raw, err
		case len(raw) > maxReply:
			return raw, fmt.Errorf("more than %d bytes without an end", maxReply)
		}
	}
}

// replies reads up to n replies; complete says that so many are there.
func replies(raw []byte, n int) (values []resp.Value, complete bool, err error) {
	for len(values) < n {
		v, size, err := resp.ParseReply(raw, resp.Limits{MaxElements: 64, MaxDepth: 4, MaxBulk: maxReply})
		if errors.Is(err, resp.ErrIncomplete) {
			return values, false, nil
		}
		if err != nil {
			return values, false, err
		}
		values, raw = append(values, v), raw[size:]
	}
	return values, true, nil
}

func requests(commands ...string) []byte {
	var b []byte
	for _, c := range commands {
		b = resp.AppendCommand(b, c)
	}
	return b
}

// reply is an answer, or why there is none.
type reply struct {
	resp.Value
	raw []byte
	err error
}

func (r reply) begins(prefix string) bool { return r.err == nil && strings.HasPrefix(r.Str, prefix) }

// session is a connection on which a client would work.
type session struct {
	net.Conn
	connect, handshake time.Duration
	resumed            bool
}

// trust is by what a session is verified.
type trust struct {
	roots *x509.CertPool // nil: what this machine trusts
	host  string
	cache tls.ClientSessionCache // nil: sessions are not resumed
}

func (x *exam) trust() trust { return trust{roots: x.roots, host: x.Host} }

// open connects as a client does that verifies.
func (x *exam) open(ctx context.Context, t trust) (*session, error) {
	began := time.Now()
	conn, err := x.connect(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{Conn: conn, connect: time.Since(began)}
	if x.plain {
		return s, nil
	}
	began = time.Now()
	c := tls.Client(conn, &tls.Config{
		RootCAs: t.roots, ServerName: t.host, MinVersion: tls.VersionTLS12, ClientSessionCache: t.cache, Time: x.Now,
		NextProtos: x.protocols(), GetClientCertificate: x.clientCertificate,
		VerifyConnection: func(state tls.ConnectionState) error {
			if x.Instance != nil && !hasIdentity(state.PeerCertificates[0], x.Instance.Identity) {
				return fmt.Errorf("the certificate does not name %s", x.Instance.Identity)
			}
			return nil
		},
	})
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	s.Conn, s.handshake, s.resumed = c, time.Since(began), c.ConnectionState().DidResume
	return s, nil
}

// clientCertificate is what a server is shown that asks for one. An empty one says that there is none.
func (x *exam) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if x.ClientCertificate == nil {
		return &tls.Certificate{}, nil
	}
	return x.ClientCertificate, nil
}

// protocols tell a server of ours that this is no client. Other servers might refuse what they don't know.
func (x *exam) protocols() []string {
	if x.Instance == nil {
		return nil
	}
	return []string{wire.ALPNProbe}
}

func (s *session) close() { s.Conn.Close() }

// do sends one command and reads its reply.
func (s *session) do(ctx context.Context, args ...string) reply {
	deadline, _ := ctx.Deadline()
	s.SetDeadline(deadline)
	raw, err := ask(s, resp.AppendCommand(nil, args...), 1)
	values, complete, _ := replies(raw, 1)
	if !complete {
		return reply{raw: raw, err: err}
	}
	return reply{Value: values[0], raw: raw}
}

// authStep finds out whether a password is wanted, and whether the one that was given is right.
func (x *exam) authStep(ctx context.Context) finding {
	s, err := x.open(ctx, x.trust())
	if err != nil {
		return failed(x.handshakeFailed(reason(err)), "a further connection fails: %s", reason(err))
	}
	x.session = s
	x.greeting = s.do(ctx, "PING")
	wanted := x.greeting.begins("NOAUTH")
	x.answers = wanted
	switch {
	case !wanted && x.greeting.Str != "PONG":
		return skipped("not reached: see ping")
	case !wanted && x.Auth == "":
		return ok("no password is needed")
	case x.Auth == "":
		return failed(x.authMissing(), "NOAUTH")
	}
	r := s.do(ctx, "AUTH", x.Auth)
	switch {
	case r.err != nil:
		return failed(x.noReply("AUTH"), "AUTH: %s", reason(r.err))
	case r.Kind == resp.Simple && r.Str == "OK":
		x.authed = true
		return ok("the password (%s) is accepted", x.AuthFrom)
	case !wanted:
		return failed(x.authUnneeded(), "%s", quoted(x.said(r.Str)))
	}
	return failed(x.authWrong(), "%s", quoted(x.said(r.Str)))
}

// pingStep sends PING as the application would.
func (x *exam) pingStep(ctx context.Context) finding {
	r := x.greeting
	if x.authed || r.Str == "PONG" {
		r = x.session.do(ctx, "PING")
	}
	switch said := x.said(r.Str); {
	case r.err != nil:
		return x.noPong(r)
	case r.Str == "PONG":
		x.answers = true
		return ok("PONG")
	case !r.IsError():
		return failed(x.notRedis(said), "%s", quoted(said))
	case r.begins(wire.MaxClients):
		return failed(x.maxClients(), "%s", quoted(said))
	case r.begins("LOADING"):
		return failed(x.loading(), "%s", quoted(said))
	case r.begins(wire.EngineUnavailable):
		return failed(x.engineAway(), "%s", quoted(said))
	default:
		return failed(x.pingRefused(said), "%s", quoted(said))
	}
}

// noPong is a PING without a reply.
func (x *exam) noPong(r reply) finding {
	switch {
	case len(r.raw) > 0:
		said := x.said(string(r.raw))
		return failed(x.notRedis(said), "%s", quoted(said))
	case isTimeout(r.err):
		return failed(x.noReply("PING"), "no reply within %s", x.Timeout)
	case errors.Is(r.err, io.EOF):
		return failed(x.closedAfterHandshake(), "the connection is closed instead of a reply")
	}
	return failed(x.closedAfterHandshake(), "%s", reason(r.err))
}

// engineTime reads the reply to TIME: seconds and microseconds.
func engineTime(v resp.Value) (time.Time, bool) {
	if v.Kind != resp.Array || len(v.Elems) != 2 {
		return time.Time{}, false
	}
	s, err := strconv.ParseInt(v.Elems[0].Str, 10, 64)
	us, err2 := strconv.ParseInt(v.Elems[1].Str, 10, 64)
	if err != nil || err2 != nil || s < 0 || s > 1<<40 || us < 0 || us >= 1e6 {
		return time.Time{}, false
	}
	return time.Unix(s, us*1000), true
}

// reading is another clock: by how much it is ahead of this machine's.
type reading struct {
	of    string
	ahead time.Duration
}

// apiClock is the clock of the API server.
func (x *exam) apiClock() (reading, bool) {
	if x.Instance == nil || x.Instance.Date.IsZero() {
		return reading{}, false
	}
	return reading{"the API server", x.Instance.Date.Sub(x.Instance.Here)}, true
}

// maxSkew is what certificates that are backdated by a minute leave room for, twice.
const maxSkew = 30 * time.Second

// clockStep compares this machine's clock with the server's.
func (x *exam) clockStep(ctx context.Context) finding {
	r, known := x.apiClock()
	if x.session != nil {
		sent := x.Now()
		answer := x.session.do(ctx, "TIME")
		if t, isTime := engineTime(answer.Value); isTime {
			r, known = reading{"the engine", t.Sub(sent.Add(x.Now().Sub(sent) / 2))}, true
		}
	}
	switch {
	case !known:
		return skipped("nothing to compare with: engines tell the time after AUTH, the API does for a NAME")
	case r.ahead.Abs() > maxSkew:
		return warned(x.clockSkew(r), "%s", r)
	}
	return ok("%s", r)
}

func (r reading) String() string {
	switch d := r.ahead.Round(time.Second); {
	case d > 0:
		return fmt.Sprintf("this machine's clock is %s behind that of %s", span(d), r.of)
	case d < 0:
		return fmt.Sprintf("this machine's clock is %s ahead of that of %s", span(d), r.of)
	}
	return "this machine's clock agrees with that of " + r.of
}

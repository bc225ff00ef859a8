package sidecar

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/wire"
)

// Server is what a Source tells: where the server is, and how to know that it is the right one.
type Server struct {
	// Address is HOST:PORT. The name is looked up for every connection.
	Address string
	// Bundle are the only CAs that are trusted, in PEM.
	Bundle string
	// Identity is the URI that the certificate must have. "": it must be for Name, or if that is "" for Address's host.
	Identity, Name string
	// AnyName leaves both out: whoever has a certificate of one of the CAs is believed.
	AnyName bool
	// ClientsLogIn says that the sidecar sends no password: clients log in themselves. Otherwise User and Password are those of clients
	// that have not done so. Password "" means that the server has none.
	ClientsLogIn   bool
	User, Password string
	// PasswordUnknown says that the server has a password which this does not have, because it comes from a cache. No client is served
	// before the password is known.
	PasswordUnknown bool
	// Certificate and Key are what a server is shown that asks for a client certificate, in PEM. "": it is told that there is none.
	Certificate, Key string
}

// Format implements fmt.Formatter. It leaves out the password and the key.
func (s Server) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "{Address:%s Identity:%s Name:%s AnyName:%t ClientsLogIn:%t User:%s HasPassword:%t HasCertificate:%t}",
		s.Address, s.Identity, s.Name, s.AnyName, s.ClientsLogIn, s.User, s.Password != "", s.Certificate != "")
}

// LogValue implements slog.LogValuer, for handlers that don't format.
func (s Server) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(s)) }

func (s *Server) login() []string {
	switch {
	case s.ClientsLogIn || s.Password == "":
		return nil
	case s.User != "":
		return []string{s.User, s.Password}
	}
	return []string{s.Password}
}

// maxDeclared CAs are declared to the server. A bundle with more is not that of one instance, and would make the ClientHello long.
const maxDeclared = 16

// trust is a Server made ready to connect by. It does not change, but for the atomic fields, which hold what was learnt about the server.
type trust struct {
	server     Server
	host, port string
	cas        []*x509.Certificate
	roots      *x509.CertPool
	from       string // what sentences call the bundle
	doctor     string
	now        func() time.Time
	resolver   *net.Resolver

	shows *tls.Certificate // to a server that asks; nil: there is none

	// Each configuration has a cache of TLS sessions of its own, so no session outlives the trust that it was made by.
	config, bare *tls.Config // with and without ALPN
	noALPN       atomic.Bool // the server refuses whoever names a protocol
	worked       atomic.Pointer[string]
	shown        atomic.Pointer[[32]byte] // hash of the certificate that the server showed last
	changed      func()                   // called when it shows another one: there may be a new CA too
}

func newTrust(s Server, l *link) (*trust, *diagnosis.Fault) {
	t := &trust{server: s, from: l.TrustName, doctor: l.DoctorCommand, now: l.now, resolver: l.resolver, changed: l.certificateChanged}
	var err error
	if t.host, t.port, err = net.SplitHostPort(s.Address); err != nil || t.host == "" {
		return nil, &diagnosis.Fault{Code: codeBundle, Sentence: fmt.Sprintf("the server's address is %s, which is not HOST:PORT", diagnosis.Quote(s.Address)), Fix: "correct the address"}
	}
	bundle, kind, details := diagnosis.ParseBundle([]byte(s.Bundle))
	if kind != "" {
		return nil, t.fault(s.Address, kind, details)
	}
	t.cas = bundle.Certs
	if t.server.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(t.server.Certificate), []byte(t.server.Key))
		if err != nil { // ClientCertificate would have said it better
			return nil, clientPairFault("the client certificate can't be used: "+err.Error(), "write it and its key anew")
		}
		t.shows = &pair
	}
	t.roots = x509.NewCertPool()
	protocols := []string{wire.ALPNSealane}
	for _, ca := range t.cas {
		t.roots.AddCert(ca)
		sum := sha256.Sum256(ca.Raw)
		protocols = append(protocols, wire.ALPNTrustsCA+hex.EncodeToString(sum[:]))
	}
	if len(t.cas) > maxDeclared {
		protocols = protocols[:1]
	}
	t.config, t.bare = t.newConfig(protocols), t.newConfig(nil)
	return t, nil
}

func (t *trust) newConfig(protocols []string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ServerName: t.host,
		NextProtos: protocols,
		Time:       t.now,
		// verify does what this switches off, and also for sessions that are resumed, whose chain crypto/tls does not look at
		// again (golang/go#77217).
		InsecureSkipVerify: true,
		VerifyConnection:   t.verify,
		ClientSessionCache: tls.NewLRUClientSessionCache(8),
	}
}

// verify is all that has to hold before anything is sent to a server.
func (t *trust) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the server shows no certificate")
	}
	leaf := cs.PeerCertificates[0]
	_, err := leaf.Verify(diagnosis.Options(cs.PeerCertificates, t.roots, t.now()))
	if err == nil {
		err = t.verifyName(leaf)
	}
	if err != nil {
		return &refusal{cs.PeerCertificates, err}
	}
	sum := sha256.Sum256(leaf.Raw)
	if last := t.shown.Swap(&sum); last != nil && *last != sum {
		t.changed()
	}
	return nil
}

// refusal is the error of verify. It keeps the chain, because a diagnosis needs more than the reason.
type refusal struct {
	served []*x509.Certificate
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// refusedChain is the chain that verify refused, and why. err is nil if a handshake failed for another reason.
func refusedChain(handshake error) (served []*x509.Certificate, err error) {
	if r, ok := errors.AsType[*refusal](handshake); ok {
		return r.served, r.err
	}
	return nil, nil
}

func (t *trust) verifyName(leaf *x509.Certificate) error {
	switch {
	case t.server.AnyName:
		return nil
	case t.server.Identity != "":
		return diagnosis.CheckIdentity(leaf, t.server.Identity)
	}
	return leaf.VerifyHostname(t.name())
}

// name is what the server's certificate must be for, where it need not have an identity.
func (t *trust) name() string { return cmp.Or(t.server.Name, t.host) }

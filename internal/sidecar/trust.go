package sidecar

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/internal/wire"
)

// Server is what a Source says: where a link leads, and whom it may believe there.
type Server struct {
	// Address is HOST:PORT. The name is looked up for every connection.
	Address string
	// Bundle are the only CAs that are trusted, in PEM.
	Bundle string
	// Identity is the URI that the certificate must have. "": it must be for Name, or if that is "" for Address's host.
	Identity, Name string
	// AnyName leaves both out: whoever has a certificate of one of the CAs is believed.
	AnyName bool
	// ClientsLogIn says that the server's password is no matter of the sidecar's. Otherwise User and Password are given for
	// clients that have not logged in themselves; Password "" means that the server has none.
	ClientsLogIn   bool
	User, Password string
	// PasswordUnknown says that the server has a password which nobody has told, as when this comes from a cache: no client is
	// served before it is known.
	PasswordUnknown bool
	// Certificate and Key are what a server is shown that asks for a client certificate, in PEM. "": it is told that there is none.
	Certificate, Key string
}

func (s *Server) login() []string {
	switch {
	case s.ClientsLogIn || s.Password == "":
		return nil
	case s.User != "":
		return []string{s.User, s.Password}
	}
	return []string{s.Password}
}

// mostDeclared CAs are declared to the server: a bundle with more is not of one instance, and would make the ClientHello long.
const mostDeclared = 16

// trust is a Server made ready to be used. But for what it has learnt about the server it is immutable.
type trust struct {
	Server
	host, port string
	cas        []*x509.Certificate
	roots      *x509.CertPool
	from       string // what sentences call the bundle
	doctor     string
	now        func() time.Time
	resolver   *net.Resolver

	shows *tls.Certificate // to a server that asks; nil: there is none

	// Sessions that are resumed are in one configuration's cache, which goes with the bundle: none outlives the trust it was made by.
	config, bare *tls.Config // with and without ALPN
	noALPN       atomic.Bool // the server refuses whoever names a protocol
	worked       atomic.Pointer[string]
	shown        atomic.Pointer[[32]byte] // hash of the certificate that the server showed last
	changed      func()                   // it shows another one: where that is new, something else may be too
}

func newTrust(s Server, l *link) (*trust, *Fault) {
	t := &trust{Server: s, from: l.TrustName, doctor: l.Examine, now: l.now, resolver: l.resolver, changed: l.learn}
	var err error
	if t.host, t.port, err = net.SplitHostPort(s.Address); err != nil || t.host == "" {
		return nil, &Fault{codeBundle, fmt.Sprintf("the server's address is %s, which is not HOST:PORT", short(s.Address)), "correct the address"}
	}
	if t.cas, err = parseBundle([]byte(s.Bundle)); err != nil {
		return nil, &Fault{codeBundle, fmt.Sprintf("%s can't be used: %v", l.TrustName, err), t.newBundle()}
	}
	if t.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(t.Certificate), []byte(t.Key))
		if err != nil { // ClientCertificate would have said it better
			return nil, &Fault{codeClientPair, "the client certificate can't be used: " + err.Error(), "write it and its key anew"}
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
	if len(t.cas) > mostDeclared {
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

// verify is the whole of what makes a server believed.
func (t *trust) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the server shows no certificate")
	}
	leaf := cs.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: t.roots, Intermediates: intermediates, CurrentTime: t.now()}); err != nil {
		return err
	}
	err := t.verifyName(leaf)
	if sum := sha256.Sum256(leaf.Raw); err == nil {
		if last := t.shown.Swap(&sum); last != nil && *last != sum {
			t.changed()
		}
	}
	return err
}

func (t *trust) verifyName(leaf *x509.Certificate) error {
	switch {
	case t.AnyName:
		return nil
	case t.Identity != "":
		return checkIdentity(leaf, t.Identity)
	case t.Name != "":
		return leaf.VerifyHostname(t.Name)
	}
	return leaf.VerifyHostname(t.host)
}

// identityError says that a certificate is another server's.
type identityError struct{ want, got string }

func (e *identityError) Error() string {
	return fmt.Sprintf("the certificate names %s, not %s", e.got, e.want)
}

func checkIdentity(leaf *x509.Certificate, want string) error {
	if slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == want }) {
		return nil
	}
	got := namesOf(leaf)
	if len(leaf.URIs) > 0 {
		got = short(leaf.URIs[0].String())
	}
	return &identityError{want, got}
}

// parseBundle reads a bundle of CAs. All of it must be right: half of one, as it is while somebody writes it, is none.
func parseBundle(raw []byte) ([]*x509.Certificate, error) {
	if isUTF16(raw) {
		return nil, errors.New("it is in UTF-16, as Windows PowerShell's > writes it: save it as plain text, in UTF-8")
	}
	raw = bytes.ReplaceAll(raw, []byte(byteOrderMark), nil)
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, errors.New("it is empty")
	}
	var cas []*x509.Certificate
	blocks := 0
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		blocks++
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a %s where certificates belong", strings.ToLower(short(block.Type)))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d in it is damaged", blocks)
		}
		cas = append(cas, c)
	}
	switch {
	case bytes.Count(raw, []byte("-----BEGIN")) > blocks: // the decoder goes over what is damaged
		return nil, errors.New("a certificate in it is damaged or cut off")
	case len(cas) == 0 && isDER(raw):
		return nil, errors.New("it is in DER, and not in PEM: convert it with `openssl x509 -inform der -in FILE -out ca.pem`")
	case len(cas) == 0:
		return nil, errors.New("it holds no certificate in PEM")
	}
	return cas, nil
}

func isDER(raw []byte) bool {
	_, err := x509.ParseCertificate(raw)
	return err == nil
}

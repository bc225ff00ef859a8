package replicationlink

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"

	"github.com/sealane/sealane/internal/pki"
)

const (
	// maxSocketPath is what sockaddr_un holds besides its final zero byte.
	maxSocketPath = 107
	maxPassword   = 512
)

// Config says where replicas connect to, who may, and which engine they reach. It holds a private key and a password, so printing or
// logging it shows the addresses only.
type Config struct {
	Address     string `json:"address"`          // IP address and port that replicas connect to
	Engine      string `json:"engine"`           // the path of the Unix socket of the engine that they replicate from
	Password    string `json:"password"`         // of the engine's user "replication"
	Certificate []byte `json:"certificate"`      // the PEM chain to present, leaf first
	PrivateKey  []byte `json:"private_key"`      // the leaf's, PEM PKCS#8
	Authorities []byte `json:"authorities"`      // PEM: the CAs that a replica's certificate may be from
	Identity    string `json:"identity"`         // the URI that must be among the names in it
	Closed      bool   `json:"closed,omitempty"` // the engine is no primary: nobody is let in, and who is in is cut
}

// String hides the key and the password from fmt.
func (c Config) String() string { return fmt.Sprintf("replication at %s from %s", c.Address, c.Engine) }

// GoString hides them from %#v.
func (c Config) GoString() string { return c.String() }

// LogValue hides them from slog.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Equal reports whether both say the same.
func (c Config) Equal(o Config) bool {
	return c.Address == o.Address && c.Engine == o.Engine && c.Password == o.Password && c.Identity == o.Identity && c.Closed == o.Closed &&
		bytes.Equal(c.Certificate, o.Certificate) && bytes.Equal(c.PrivateKey, o.PrivateKey) && bytes.Equal(c.Authorities, o.Authorities)
}

// Check returns everything that is wrong with it. Each error begins with the JSON name of the field, and none has a secret.
func (c Config) Check() []error {
	_, problems := c.tls()
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	switch a, err := netip.ParseAddrPort(c.Address); {
	case err != nil:
		add("address %q: must be an IP address and a port", c.Address)
	case a.Port() == 0:
		add("address %q: the port must not be 0", c.Address)
	case a.String() != c.Address:
		add("address %q: must be written %q", c.Address, a)
	}
	if !filepath.IsAbs(c.Engine) || len(c.Engine) > maxSocketPath {
		add("engine %q: must be an absolute path of at most %d bytes", c.Engine, maxSocketPath)
	}
	if c.Password == "" || len(c.Password) > maxPassword {
		add("password (%d bytes, not shown): must have 1 to %d bytes", len(c.Password), maxPassword)
	}
	if u, err := url.Parse(c.Identity); err != nil || u.Scheme == "" || u.Host == "" || u.String() != c.Identity {
		add("identity %.200q: must be a URI with a host, as it is in the certificates", c.Identity)
	}
	return problems
}

// tls is the configuration of the server's side of a handshake.
func (c Config) tls() (*tls.Config, []error) {
	cert, problems := pki.KeyPair("", c.Certificate, c.PrivateKey)
	authorities, rest, err := pki.DecodePEM(c.Authorities)
	noCA := func(c *x509.Certificate) bool { return !c.IsCA }
	switch {
	case err != nil:
		problems = append(problems, fmt.Errorf("authorities: %v: must be CA certificates in PEM", err))
	case len(authorities) == 0 || len(bytes.TrimSpace(rest)) > 0 || slices.ContainsFunc(authorities, noCA):
		problems = append(problems, fmt.Errorf("authorities (%d bytes, %d certificates): must be CA certificates in PEM and nothing else", len(c.Authorities), len(authorities)))
	}
	pool := x509.NewCertPool()
	for _, a := range authorities {
		pool.AddCert(a)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   tls.VersionTLS12,
		CipherSuites: suites12,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		// A session that is resumed would show its certificate to nobody, and engines don't resume. And a replica's engine takes the ticket
		// for the beginning of an answer, and does nothing else for up to 5 s until the answer is there: it could not be promoted.
		SessionTicketsDisabled: true,
		// Small first records are for browsers that render half a page.
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if !hasIdentity(s.PeerCertificates, c.Identity) {
				return errIdentity
			}
			return nil
		},
	}, problems
}

// suites12 are those of TLS 1.2 with forward secrecy and AEAD. Those of TLS 1.3 are all that way.
var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// errIdentity says that a certificate is of one of the authorities, but for something else.
var errIdentity = errors.New("the certificate is for something else than a node of this instance")

func hasIdentity(chain []*x509.Certificate, identity string) bool {
	return len(chain) > 0 && slices.ContainsFunc(chain[0].URIs, func(u *url.URL) bool { return u.String() == identity })
}

package gateway

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"slices"
	"syscall"
	"time"
)

// serving is a valid snapshot, made ready for connections. Immutable.
type serving struct {
	snapshot Snapshot
	digest   string
	modes    map[string]bool // by listener address: whether it has TLS
	tls      *tls.Config     // nil when no listener has TLS
	timeout  time.Duration
}

// newServing is the one place where a snapshot is validated. A predecessor with the same certificate lends its TLS
// configuration, because that one holds the session-ticket keys: a client resumes its session across an apply, and cannot
// across a change of certificate.
func newServing(s Snapshot, previous *serving) (*serving, error) {
	p := s.check()
	v := &serving{snapshot: s, digest: s.Digest(), modes: make(map[string]bool), timeout: s.HandshakeTimeout}
	if v.timeout == 0 {
		v.timeout = defaultHandshakeTimeout
	}
	for _, l := range s.Listeners {
		v.modes[l.Address] = l.TLS
	}
	if s.hasTLS() {
		cert, more := s.keyPair()
		if p = append(p, more...); len(p) == 0 {
			v.tls = previous.tlsFor(s)
		}
		if v.tls == nil && len(p) == 0 {
			v.tls = tlsConfig(cert)
		}
	}
	return v, errors.Join(p...)
}

func (v *serving) tlsFor(s Snapshot) *tls.Config {
	if v == nil || !bytes.Equal(v.snapshot.Certificate, s.Certificate) || !bytes.Equal(v.snapshot.PrivateKey, s.PrivateKey) {
		return nil
	}
	return v.tls
}

// at returns what a connection accepted at address under the snapshot accepted is to be served with: always the newest,
// except where that one no longer has the address.
func (v *serving) at(address string, accepted *serving) *serving {
	if _, ok := v.modes[address]; ok {
		return v
	}
	return accepted
}

// The order says nothing: crypto/tls has its own, with the post-quantum hybrid first.
var curves = []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384}

var (
	suites13 = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}

	suitesECDSA = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	suitesRSA = []uint16{
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
)

func tlsConfig(cert tls.Certificate) *tls.Config {
	suites12 := suitesECDSA
	if _, ok := cert.Leaf.PublicKey.(*rsa.PublicKey); ok {
		suites12 = suitesRSA
	}
	return &tls.Config{
		Certificates:     []tls.Certificate{cert},
		MinVersion:       tls.VersionTLS12,
		CipherSuites:     suites12,
		CurvePreferences: curves,
		// Small first records are for browsers that render half a page; a client here waits for the whole reply.
		DynamicRecordSizingDisabled: true,
		// Changes nothing: it is where the client's offer can be seen before the handshake fails because of it.
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if c, ok := h.Conn.(*conn); ok {
				c.hello = readHello(h, suites12)
			}
			return nil, nil
		},
	}
}

// hello is what a ClientHello says about whether a handshake can succeed.
type hello struct {
	seen                  bool
	version, suite, group bool // there is one that both sides know
}

func readHello(h *tls.ClientHelloInfo, suites12 []uint16) hello {
	shares := func(a, b []uint16) bool {
		return slices.ContainsFunc(a, func(x uint16) bool { return slices.Contains(b, x) })
	}
	has13 := slices.Contains(h.SupportedVersions, tls.VersionTLS13)
	has12 := slices.Contains(h.SupportedVersions, tls.VersionTLS12)
	return hello{
		seen:    true,
		version: has12 || has13,
		suite:   has13 && shares(h.CipherSuites, suites13) || has12 && shares(h.CipherSuites, suites12),
		// A TLS 1.2 client may leave its groups out.
		group: len(h.SupportedCurves) == 0 && !has13 ||
			slices.ContainsFunc(h.SupportedCurves, func(c tls.CurveID) bool { return slices.Contains(curves, c) }),
	}
}

// failure is why a handshake failed: a class from a closed set, and what the operator can do.
type failure struct{ class, hint string }

var (
	failTimeout  = failure{"timeout", "the client sent part of a handshake and no more: check what is between it and this port"}
	failEOF      = failure{"eof", "the client closed during the handshake: a port scan, a health check without TLS, or a client that gave up"}
	failReset    = failure{"reset", "the client reset the connection during the handshake"}
	failNotTLS   = failure{"not_tls", "the bytes are no TLS although the first one is: check what the client speaks"}
	failVersion  = failure{"old_protocol_version", "the client knows no TLS newer than 1.1: update its TLS library, 1.2 is needed"}
	failSuite    = failure{"no_shared_cipher", "the client offers no AEAD cipher with ECDHE for this certificate: widen its cipher list"}
	failGroup    = failure{"no_shared_group", "the client offers none of X25519MLKEM768, X25519, P-256, P-384: widen its list of groups"}
	failAlert    = failure{"client_alert", "the client refused the handshake: its own log says why"}
	failOther    = failure{"other", "see the error"}
	clientAlerts = map[uint64]failure{ // RFC 8446, section 6
		40: {"client_handshake_failure", "the client found no common parameters: check its TLS versions, ciphers and groups"},
		42: {"bad_certificate", "the client does not accept the certificate: check that it connects to a name or address in it, and holds the right CA"},
		43: {"unsupported_certificate", "the client cannot use this kind of certificate: update its TLS library"},
		45: {"certificate_expired", "the client finds the certificate expired: check its clock"},
		46: {"certificate_unknown", "the client does not accept the certificate: check that it connects to a name or address in it, and holds the right CA"},
		48: {"unknown_ca", "the client does not know the CA: give it the CA bundle of this instance"},
		70: {"client_protocol_version", "the client does not want the TLS version: 1.2 and 1.3 are served"},
	}
)

func classify(err error, h hello) failure {
	var alert tls.AlertError
	var op *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failTimeout
	case errors.As(err, &alert):
		return alertFailure(uint64(alert))
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return failReset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return failEOF
	case errors.As(err, &record):
		return failNotTLS
	case errors.As(err, &op) && op.Op == "remote error":
		// crypto/tls keeps the type of its alerts to itself, and its texts are no interface; the number is RFC 8446's.
		if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 {
			return alertFailure(v.Uint())
		}
		return failAlert
	case !h.seen:
		return failOther
	case !h.version:
		return failVersion
	case !h.suite:
		return failSuite
	case !h.group:
		return failGroup
	}
	return failOther
}

func alertFailure(number uint64) failure {
	if f, ok := clientAlerts[number]; ok {
		return f
	}
	return failAlert
}

// alertWatch finds an alert in the records that a client sends during the handshake. An OpenSSL client that does not
// accept a TLS 1.3 certificate says so without encryption, where crypto/tls expects it encrypted and reports only a bad
// record: and the wrong CA is the mistake that users make most.
type alertWatch struct {
	header [5]byte // type, version, length of the record (RFC 8446, section 5.1)
	have   int     // bytes of header
	body   int     // bytes of the record still to come
	first  bool    // the next byte is the first of an alert: its level
	alert  uint8   // its description; 0, close_notify, is none
}

func (a *alertWatch) see(b []byte) {
	for len(b) > 0 {
		if a.body > 0 {
			n := min(a.body, len(b))
			// An encrypted alert is longer, and in TLS 1.3 of another type.
			for _, c := range b[:n] {
				if a.header[0] == 0x15 && a.header[3] == 0 && a.header[4] == 2 && !a.first {
					a.alert = c
				}
				a.first = false
			}
			a.body, b = a.body-n, b[n:]
			continue
		}
		n := copy(a.header[a.have:], b)
		a.have, b = a.have+n, b[n:]
		if a.have == len(a.header) {
			a.have, a.first = 0, true
			a.body = int(a.header[3])<<8 | int(a.header[4])
		}
	}
}

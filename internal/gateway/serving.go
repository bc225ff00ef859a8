package gateway

import (
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
	chains   *chains         // nil when no listener has TLS
	timeout  time.Duration
	// firstByte is how long a client of a listener with TLS may send nothing.
	firstByte time.Duration
}

// newServing is the one place where a snapshot is validated. A predecessor with the same certificates and policy lends its
// TLS configurations, because they hold the session-ticket keys: a client resumes its session across an apply, and cannot
// across a change of any certificate. Clones of them would share the keys of the moment (CVE-2025-68121), so there are none.
func newServing(s Snapshot, previous *serving) (*serving, error) {
	p := s.check()
	v := &serving{snapshot: s, digest: s.Digest(), modes: make(map[string]bool), timeout: s.HandshakeTimeout, firstByte: s.FirstByteTimeout}
	if v.timeout == 0 {
		v.timeout = defaultHandshakeTimeout
	}
	if v.firstByte == 0 {
		v.firstByte = defaultFirstByteTimeout
	}
	for _, l := range s.Listeners {
		v.modes[l.Address] = l.TLS
	}
	if !s.hasTLS() {
		return v, errors.Join(p...)
	}
	if previous != nil && previous.chains != nil && previous.snapshot.sameTLS(s) {
		v.chains = previous.chains
		return v, errors.Join(p...)
	}
	var err error
	v.chains, err = newChains(s)
	return v, errors.Join(append(p, err)...)
}

// at returns what a connection accepted at address under the snapshot accepted is to be served with: always the newest,
// except where that one no longer has the address.
func (v *serving) at(address string, accepted *serving) *serving {
	if _, ok := v.modes[address]; ok {
		return v
	}
	return accepted
}

// hello is what a ClientHello says about whether a handshake can succeed.
type hello struct {
	seen                  bool
	version, suite, group bool   // there is one that both sides know
	newest                uint16 // version that the client knows; 0: SSL 3.0
	dotted                bool   // not seen, because its server name ends in a dot
}

func readHello(h *tls.ClientHelloInfo, v policy) hello {
	shares := func(a, b []uint16) bool {
		return slices.ContainsFunc(a, func(x uint16) bool { return slices.Contains(b, x) })
	}
	has13 := slices.Contains(h.SupportedVersions, tls.VersionTLS13)
	has12 := slices.Contains(h.SupportedVersions, tls.VersionTLS12) && v.min <= tls.VersionTLS12
	newest := uint16(0)
	for _, version := range h.SupportedVersions {
		if version <= tls.VersionTLS13 {
			newest = max(newest, version)
		}
	}
	return hello{
		seen:    true,
		newest:  newest,
		version: has12 || has13,
		suite:   has13 && shares(h.CipherSuites, suites13) || has12 && shares(h.CipherSuites, v.suites12),
		// A TLS 1.2 client may leave its groups out.
		group: len(h.SupportedCurves) == 0 && !has13 ||
			slices.ContainsFunc(h.SupportedCurves, func(c tls.CurveID) bool { return slices.Contains(v.groups, c) }),
	}
}

// failure is why a handshake failed: a class from a closed set, and what the operator can do.
type failure struct{ class, hint string }

var (
	failTimeout = failure{"timeout", "the client sent part of a handshake and no more: check what is between it and this port"}
	failEOF     = failure{"eof", "the client closed during the handshake: a port scan, a health check without TLS, or a client that gave up"}
	failReset   = failure{"reset", "the client reset the connection during the handshake"}
	failNotTLS  = failure{"not_tls", "the bytes are no TLS although the first one is: check what the client speaks"}
	failSuite   = failure{"no_shared_cipher", "the client offers no AEAD cipher with ECDHE for this certificate: widen its cipher list"}
	failGroup   = failure{"no_shared_group", "the client offers no key exchange that is allowed here: widen its list of groups (X25519MLKEM768, X25519, P-256, P-384 unless the instance allows fewer)"}
	failAlert   = failure{"client_alert", "the client refused the handshake: its own log says why"}
	failOther   = failure{"other", "see the error"}
	failDot     = failure{"sni_trailing_dot", "the client sends the server name (SNI) with a dot at its end, which RFC 6066 does not allow and this port refuses: leave the dot out of the host name that the client is given"}
	failShed    = failure{"shed", "the client took long over its handshake while others needed the room: find out who connects so often"}
	oldVersions = map[uint16]failure{
		0:                {"sslv3", "the client knows no TLS, only SSL 3.0: update its TLS library, TLS 1.2 is needed"},
		tls.VersionTLS10: {"tls1.0", "the client knows no TLS newer than 1.0: update its TLS library, 1.2 is needed"},
		tls.VersionTLS11: {"tls1.1", "the client knows no TLS newer than 1.1: update its TLS library, 1.2 is needed"},
		tls.VersionTLS12: {"tls1.2", "the client knows no TLS newer than 1.2 and the instance wants 1.3: update its TLS library"},
	}
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

// failureClasses is the closed set of them.
var failureClasses = func() []string {
	var all []string
	for _, f := range []failure{failTimeout, failEOF, failReset, failNotTLS, failSuite, failGroup, failAlert, failOther, failDot, failShed} {
		all = append(all, f.class)
	}
	for _, f := range oldVersions {
		all = append(all, f.class)
	}
	for _, f := range clientAlerts {
		all = append(all, f.class)
	}
	slices.Sort(all)
	return all
}()

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
	case h.dotted:
		return failDot
	case !h.seen:
		return failOther
	case !h.version:
		return oldVersions[h.newest]
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

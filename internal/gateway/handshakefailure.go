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
)

// Why a handshake was refused, by the client or by the gateway: each class, and what to do about it. The class comes from one of three
// sources. The connection ended or took too long; the client sent an alert (RFC 8446, section 6); or crypto/tls refused the
// ClientHello, and what it lacked is seen by comparing it with what is allowed.

// negotiation is whether a client and the gateway can agree on what a handshake needs, by what the ClientHello says. crypto/tls
// reports only that a handshake failed; with this the reason can be told.
type negotiation struct {
	seen                  bool   // crypto/tls has accepted the ClientHello; if not, only trailingDot says anything
	version, suite, group bool   // both sides know one
	newest                uint16 // version that the client knows; 0: SSL 3.0
	trailingDot           bool   // the server name ends in a dot, for which crypto/tls refuses the ClientHello
}

func negotiate(h *tls.ClientHelloInfo, v policy) negotiation {
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
	return negotiation{
		seen:    true,
		newest:  newest,
		version: has12 || has13,
		suite:   has13 && shares(h.CipherSuites, suites13) || has12 && shares(h.CipherSuites, v.suites12),
		// A TLS 1.2 client may leave its groups out.
		group: len(h.SupportedCurves) == 0 && !has13 ||
			slices.ContainsFunc(h.SupportedCurves, func(c tls.CurveID) bool { return slices.Contains(v.groups, c) }),
	}
}

// The alerts of RFC 8446, section 6, of which a client's says what to do. crypto/tls has no names for them.
const (
	alertHandshakeFailure       uint8 = 40
	alertBadCertificate         uint8 = 42
	alertUnsupportedCertificate uint8 = 43
	alertCertificateExpired     uint8 = 45
	alertCertificateUnknown     uint8 = 46
	alertUnknownCA              uint8 = 48
	alertProtocolVersion        uint8 = 70
)

// failure is why a handshake failed: a class, which metrics, logs and the ledger tell apart, and what the operator can do.
type failure struct{ class, hint string }

var (
	failTimeout     = failure{"timeout", "the client sent part of a handshake and no more: check what is between it and this port"}
	failEOF         = failure{"eof", "the client closed during the handshake: a port scan, a health check without TLS, or a client that gave up"}
	failReset       = failure{"reset", "the client reset the connection during the handshake"}
	failNotTLS      = failure{"not_tls", "the bytes are no TLS although the first one is: check what the client speaks"}
	failSuite       = failure{"no_shared_cipher", "the client offers no AEAD cipher with ECDHE for this certificate: widen its cipher list"}
	failGroup       = failure{"no_shared_group", "the client offers no key exchange that is allowed here: widen its list of groups (X25519MLKEM768, X25519, P-256, P-384 unless the instance allows fewer)"}
	failAlert       = failure{"client_alert", "the client refused the handshake: its own log says why"}
	failOther       = failure{"other", "see the error"}
	failTrailingDot = failure{"sni_trailing_dot", "the client sends the server name (SNI) with a dot at its end, which RFC 6066 does not allow and this port refuses: leave the dot out of the host name that the client is given"}
	failShed        = failure{"shed", "the client took long over its handshake while others needed the room: find out who connects so often"}
	oldVersions     = map[uint16]failure{
		0:                {"sslv3", "the client knows no TLS, only SSL 3.0: update its TLS library, TLS 1.2 is needed"},
		tls.VersionTLS10: {"tls1.0", "the client knows no TLS newer than 1.0: update its TLS library, 1.2 is needed"},
		tls.VersionTLS11: {"tls1.1", "the client knows no TLS newer than 1.1: update its TLS library, 1.2 is needed"},
		tls.VersionTLS12: {"tls1.2", "the client knows no TLS newer than 1.2 and the instance wants 1.3: update its TLS library"},
	}
	clientAlerts = map[uint8]failure{
		alertHandshakeFailure:       {"client_handshake_failure", "the client found no common parameters: check its TLS versions, ciphers and groups"},
		alertBadCertificate:         {"bad_certificate", "the client does not accept the certificate: check that it connects to a name or address in it, and holds the right CA"},
		alertUnsupportedCertificate: {"unsupported_certificate", "the client cannot use this kind of certificate: update its TLS library"},
		alertCertificateExpired:     {"certificate_expired", "the client finds the certificate expired: check its clock"},
		alertCertificateUnknown:     {"certificate_unknown", "the client does not accept the certificate: check that it connects to a name or address in it, and holds the right CA"},
		alertUnknownCA:              {"unknown_ca", "the client does not know the CA: give it the CA bundle of this instance"},
		alertProtocolVersion:        {"client_protocol_version", "the client does not want the TLS version: 1.2 and 1.3 are served"},
	}
)

// failureClasses are all classes that there are.
var failureClasses = func() []string {
	var all []string
	for _, f := range []failure{failTimeout, failEOF, failReset, failNotTLS, failSuite, failGroup, failAlert, failOther, failTrailingDot, failShed} {
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

// classify finds out why a handshake failed: first by what the connection did, then by what the ClientHello lacked.
func classify(err error, n negotiation) failure {
	var alert tls.AlertError
	var op *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failTimeout
	case errors.As(err, &alert):
		return alertFailure(uint8(alert))
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return failReset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return failEOF
	case errors.As(err, &record):
		return failNotTLS
	case errors.As(err, &op) && op.Op == "remote error":
		// The type of crypto/tls's alerts is not exported, and their texts may change. The number is that of RFC 8446.
		if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 {
			return alertFailure(uint8(v.Uint()))
		}
		return failAlert
	case n.trailingDot:
		return failTrailingDot
	case !n.seen:
		return failOther
	case !n.version:
		return oldVersions[n.newest]
	case !n.suite:
		return failSuite
	case !n.group:
		return failGroup
	}
	return failOther
}

func alertFailure(number uint8) failure {
	if f, ok := clientAlerts[number]; ok {
		return f
	}
	return failAlert
}

// alertWatch finds an alert in the records that a client sends during the handshake. It is needed because an OpenSSL client that does
// not accept a TLS 1.3 certificate sends its alert without encryption. crypto/tls expects an encrypted record there, and reports
// only a bad one. The wrong CA is the mistake that users make most, so they must read of it.
type alertWatch struct {
	header [5]byte // type, version, length of the record (RFC 8446, section 5.1)
	have   int     // bytes of header
	body   int     // bytes of the record still to come
	first  bool    // the next byte is the first of a record: an alert's level
	alert  uint8   // the description of the alert; 0 (close_notify): there was none that tells anything
}

// see takes the next bytes that the client has sent.
func (a *alertWatch) see(b []byte) {
	for len(b) > 0 {
		if a.body > 0 {
			n := min(a.body, len(b))
			// An alert without encryption is a record of type 21 with two bytes: level and description. An encrypted one is longer, and
			// in TLS 1.3 of another type.
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

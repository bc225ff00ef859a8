package diagnosis

import (
	"crypto/tls"
	"errors"
)

// Handshake is what was seen of a TLS handshake that failed.
type Handshake struct {
	Err error
	// First are the first bytes that the server sent.
	First []byte
	// CertAsked says that the server asked for a client certificate, CertShown that it was shown one.
	CertAsked, CertShown bool
}

// Explain says why the handshake failed, but for the server's certificate, which Chain.Explain is for. Details: Said, Alert, Why.
//
// A refusal of the client's certificate has many faces. TLS 1.3 has an alert for its absence, which comes after the handshake and
// which a reset may destroy; in TLS 1.2 the alert is a general one.
func (h Handshake) Explain() (Kind, Details) {
	alert, text := AlertOf(h.Err)
	d := Details{Said: string(h.First), Alert: text, Why: Reason(h.Err)}
	_, noRecord := errors.AsType[tls.RecordHeaderError](h.Err)
	switch p := Sniff(h.First); {
	case p == Redis:
		return PlaintextRedis, d
	case p.IsHTTP():
		return HTTP, d
	case noRecord, p == Unknown:
		return OtherProtocol, d
	case h.CertAsked && h.CertShown && (alert == alertCertificateRequired || IsAboutClientCertificate(alert)):
		return ClientCertRefused, d
	case alert == alertCertificateRequired,
		h.CertAsked && !h.CertShown && (alert == AlertHandshakeFailure || IsAboutClientCertificate(alert) || isEnd(h.Err)):
		return ClientCertRequired, d
	case alert == alertUnrecognizedName:
		return SNIRefused, d
	case len(h.First) == 0 && isTimeout(h.Err):
		return Silent, d
	case len(h.First) == 0 && isEnd(h.Err):
		return ClosedAtOnce, d
	}
	return HandshakeFailed, d
}

package doctor

import (
	"context"
	"crypto/tls"

	"github.com/sealane/sealane/internal/diagnosis"
)

// answerStep finds out what speaks at the port.
func (d *diagnoser) answerStep(ctx context.Context) finding {
	if d.dialer.plain {
		return d.plainAnswer(ctx)
	}
	h, answered, err := d.dialer.sniff(ctx, d.config.Timeout)
	d.handshake = h
	toTLS, toPing := diagnosis.Sniff(h.first), diagnosis.Sniff(answered)
	silent := toTLS == diagnosis.Nothing
	switch {
	case toTLS == diagnosis.TLSRecord:
		if p := diagnosis.Sniff(h.inside); p.IsHTTP() {
			return d.failed(diagnosis.HTTPOverTLS, diagnosis.Details{}, "TLS, and inside %s", p)
		}
		return ok("TLS")
	case diagnosis.IsPlainRedis(answered), silent && toPing == diagnosis.Redis && !diagnosis.WantsTLS(answered):
		return d.failed(diagnosis.PlaintextRedis, diagnosis.Details{}, "Redis without TLS: %s", d.config.Password.quote(answered))
	case silent && d.dialer.handshake(ctx, smallHello).state != nil:
		return d.failed(diagnosis.HelloTooBig, diagnosis.Details{}, "TLS, but only without post-quantum key exchange: %s", diagnosis.Reason(h.err))
	case toTLS == diagnosis.TLSAlert:
		return ok("TLS, with an alert")
	case silent && toPing != diagnosis.Nothing:
		return d.noRedis(answered, toPing)
	case !silent:
		return d.noRedis(h.first, toTLS)
	case diagnosis.IsTimeout(h.err), diagnosis.IsTimeout(err):
		return d.failed(diagnosis.Silent, diagnosis.Details{}, "not one byte, to a TLS client and to a Redis client")
	}
	return d.failed(diagnosis.ClosedAtOnce, diagnosis.Details{}, "not one byte: %s", diagnosis.Reason(h.err))
}

// noRedis is for a server that speaks p, which is neither TLS nor Redis.
func (d *diagnoser) noRedis(said []byte, p diagnosis.Protocol) finding {
	switch {
	case p == diagnosis.TLSAlert:
		return ok("TLS, with an alert")
	case p.IsHTTP():
		return d.failed(diagnosis.HTTP, diagnosis.Details{}, "%s without TLS", p)
	}
	return d.failed(diagnosis.OtherProtocol, diagnosis.Details{Said: d.config.Password.printable(string(said))}, "neither TLS nor Redis: %s", d.config.Password.quote(said))
}

// plainAnswer does the same where no encryption is expected.
func (d *diagnoser) plainAnswer(ctx context.Context) finding {
	b, err := d.dialer.pingPlain(ctx)
	switch p := diagnosis.Sniff(b); {
	case diagnosis.WantsTLS(b), p == diagnosis.TLSAlert:
		return d.failed(diagnosis.PortWantsTLS, diagnosis.Details{}, "%s", d.config.Password.quote(b))
	case p == diagnosis.Redis:
		return ok("Redis without TLS")
	case p == diagnosis.Nothing && diagnosis.IsTimeout(err):
		return d.failed(diagnosis.Silent, diagnosis.Details{}, "not one byte")
	case p == diagnosis.Nothing:
		return d.failed(diagnosis.ClosedAtOnce, diagnosis.Details{}, "not one byte: %s", diagnosis.Reason(err))
	default:
		return d.noRedis(b, p)
	}
}

// protocolStep names what was negotiated, or finds out why nothing was.
func (d *diagnoser) protocolStep(ctx context.Context) finding {
	h := d.handshake
	if h.state == nil {
		return d.noHandshake(ctx)
	}
	shown := d.config.ClientCertificate != nil
	// In TLS 1.3 the refusal comes after the handshake, as an alert that a reset may destroy.
	if h.certAsked && h.end != nil && len(h.replies) == 0 && len(h.inside) == 0 && !diagnosis.IsTimeout(h.end) {
		kind := diagnosis.ClientCertRequired
		if shown {
			kind = diagnosis.ClientCertRefused
		}
		return d.failed(kind, diagnosis.Details{}, "the server asks for a client certificate: %s", diagnosis.Reason(h.end))
	}
	detail := tls.VersionName(h.state.Version) + ", " + tls.CipherSuiteName(h.state.CipherSuite)
	if h.state.CurveID != 0 {
		detail += ", " + h.state.CurveID.String()
	}
	switch {
	case h.certAsked && shown:
		detail += "; the server asks for a client certificate and takes this one"
	case h.certAsked:
		detail += "; the server asks for a client certificate and takes none as well"
	}
	return ok("%s", detail)
}

// noHandshake tries what else a client could offer, to see what the server wants.
func (d *diagnoser) noHandshake(ctx context.Context) finding {
	h, why := d.handshake, diagnosis.Reason(d.handshake.err)
	shown := d.config.ClientCertificate != nil
	kind, details := diagnosis.Handshake{Err: h.err, First: h.first, CertAsked: h.certAsked, CertShown: shown}.Explain()
	switch {
	case h.certAsked && shown: // whatever ended it, it came after the certificate
		return d.failed(diagnosis.ClientCertRefused, details, "the server asks for a client certificate: %s", why)
	case h.certAsked:
		return d.failed(diagnosis.ClientCertRequired, details, "the server asks for a client certificate: %s", why)
	case kind == diagnosis.SNIRefused:
		return d.failed(kind, details, "alert: %s", details.Alert)
	}
	if old := d.dialer.handshake(ctx, everything); old.state != nil {
		version, suite := tls.VersionName(old.state.Version), tls.CipherSuiteName(old.state.CipherSuite)
		if old.state.Version < tls.VersionTLS12 {
			return d.failed(diagnosis.TLSTooOld, diagnosis.Details{Version: version}, "%s at most", version)
		}
		return d.failed(diagnosis.NoSharedCipher, diagnosis.Details{Suite: suite}, "%s, %s", version, suite)
	}
	if d.dialer.handshake(ctx, smallHello).state != nil {
		return d.failed(diagnosis.HelloTooBig, diagnosis.Details{}, "only without post-quantum key exchange: %s", why)
	}
	if n, alert := diagnosis.AlertOf(h.err); n == diagnosis.AlertHandshakeFailure || n == diagnosis.AlertProtocolVersion {
		return d.failed(diagnosis.NoSharedCipher, diagnosis.Details{}, "alert: %s", alert)
	}
	return d.failed(diagnosis.HandshakeFailed, details, "%s", why)
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

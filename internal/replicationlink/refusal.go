package replicationlink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
)

// refusal is why a connection did not become a link: a reason, which metrics and logs tell apart, and what the operator can do.
type refusal struct{ reason, hint string }

var (
	refusedNoCertificate = refusal{"no_certificate", "who connects has shown no client certificate that can be read: only the instance's own engines are to connect here"}
	refusedForeignCA     = refusal{"foreign_ca", "the client certificate is of another CA than the instance's: only the instance's own engines are to connect here"}
	refusedExpired       = refusal{"expired_certificate", "the replica's certificate is not valid at this time: check the clocks, and that the server (sealane serve) renews certificates"}
	refusedCertificate   = refusal{"bad_certificate", "see the error"}
	refusedIdentity      = refusal{"wrong_identity", "the client certificate is of the instance's CA, but not one for its nodes: find out who uses it here"}
	refusedPlaintext     = refusal{"not_tls", "who connects does not speak TLS: only the instance's own engines are to connect here"}
	refusedParameters    = refusal{"no_shared_parameters", "the replica offers no TLS version, cipher or group that is allowed here: TLS 1.2 with ECDHE and AEAD, or TLS 1.3, is needed"}
	refusedByReplica     = refusal{"refused_by_replica", "the replica does not accept this node's certificate: its own log says why"}
	refusedTimeout       = refusal{"timeout", "the handshake was begun and not ended: check what is between the nodes"}
	refusedEOF           = refusal{"closed_early", "the connection was closed during the handshake: a port scan, or a replica that was stopped"}
	refusedCrowded       = refusal{"crowded", "too many connect at the same time without a certificate: find out who does"}
	refusedClosed        = refusal{"not_primary", "this node's engine is no primary; replicas will be pointed to the one that is"}
	refusedEngine        = refusal{"engine_unreachable", "the engine behind this port does not answer; replicas try again every second"}
	refusedLogin         = refusal{"login_refused", "the engine refuses the user replication: the server (sealane serve) sets its password"}
	refusedOther         = refusal{"other", "see the error"}

	refusals = []refusal{
		refusedNoCertificate, refusedForeignCA, refusedExpired, refusedCertificate, refusedIdentity, refusedPlaintext, refusedParameters,
		refusedByReplica, refusedTimeout, refusedEOF, refusedCrowded, refusedClosed, refusedEngine, refusedLogin, refusedOther,
	}
)

// tally counts refusals by reason.
type tally map[string]*atomic.Uint64

func newTally() tally {
	t := make(tally)
	for _, r := range refusals {
		t[r.reason] = new(atomic.Uint64)
	}
	return t
}

// load returns the reasons that occurred.
func (t tally) load() map[string]uint64 {
	counts := make(map[string]uint64)
	for reason, n := range t {
		if n := n.Load(); n > 0 {
			counts[reason] = n
		}
	}
	return counts
}

// attempt is what is seen of a handshake while it goes on. crypto/tls has no error of its own for a client without a certificate, so
// that is concluded from the rest.
type attempt struct {
	hello error // why the ClientHello does not fit; nil where it does
	seen  bool  // there was a ClientHello
}

// classify finds out why a handshake failed.
func (a attempt) classify(err error) refusal {
	var verify *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	var op *net.OpError
	switch {
	case errors.Is(err, errIdentity):
		return refusedIdentity
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return refusedForeignCA
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return refusedExpired
	case errors.As(err, &verify):
		return refusedCertificate
	case errors.As(err, new(tls.RecordHeaderError)):
		return refusedPlaintext
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refusedTimeout
	case errors.As(err, &op) && op.Op == "remote error": // an alert
		return refusedByReplica
	case op != nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return refusedEOF
	case a.hello != nil:
		return refusedParameters
	case a.seen:
		return refusedNoCertificate
	}
	return refusedOther
}

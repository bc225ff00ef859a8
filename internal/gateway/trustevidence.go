package gateway

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/relay"
)

// trustEvidence is what handshakes show of the CAs that clients trust. A completed handshake proves that the client trusts the anchors of
// the chain that it was served; some failures show that it does not. Both are kept in the ledger, for the controller to collect.
type trustEvidence struct {
	seen    *ledger.Table // safe for concurrent use
	sampler *sampler      // likewise
}

func newTrustEvidence(dir string, log *slog.Logger) *trustEvidence {
	return &trustEvidence{ledger.NewTable(ledger.MaxClients), newSampler(dir, log)}
}

// introductionTime is how old a connection must be for its client to be known by what it says of itself, which comes after the handshake.
// The client of a connection that has ended has said all that it will.
const introductionTime = time.Second

// trustFailures are the failures of handshakes that tell of the client's trust.
var trustFailures = map[string]ledger.Failure{
	clientAlerts[alertUnknownCA].class:          ledger.UnknownCA,
	clientAlerts[alertBadCertificate].class:     ledger.BadCertificate,
	clientAlerts[alertCertificateUnknown].class: ledger.CertificateUnknown,
	failEOF.class:   ledger.Closed,
	failReset.class: ledger.Closed,
}

// testFailures are those that tell of it too where the chain is one that clients are tested against. Such a client verifies the main
// chain, so it is because of this one that it ends the handshake, whatever its alert.
var testFailures = map[string]ledger.Failure{
	clientAlerts[alertHandshakeFailure].class:       ledger.ClientAlert,
	clientAlerts[alertUnsupportedCertificate].class: ledger.UnsupportedCertificate,
	clientAlerts[alertCertificateExpired].class:     ledger.CertificateExpired,
	failAlert.class: ledger.ClientAlert,
}

// handshakeDone notes what a completed handshake shows. It is kept once the client's connection has ended or the ledger is asked for,
// because only then it is known who the client says it is.
func (e *trustEvidence) handshakeDone(c *conn, state tls.ConnectionState) {
	v := c.choice
	if v.sampled {
		e.sampler.ended(c.remote.Addr(), sampleAccepted)
	}
	if v.probe || len(v.chain.anchors) == 0 {
		return
	}
	c.shown = &ledger.Handshake{At: time.Now(), Resumed: state.DidResume, Anchors: v.chain.anchors, Declared: v.declared}
}

// handshakeFailed notes what a failed handshake shows.
func (e *trustEvidence) handshakeFailed(c *conn, f failure) {
	v := c.choice
	how, trust := trustFailures[f.class]
	if !trust && v.test {
		how, trust = testFailures[f.class]
	}
	if v.sampled {
		outcome := sampleFailed
		if trust && how != ledger.Closed {
			outcome = sampleRefused
		}
		e.sampler.ended(c.remote.Addr(), outcome)
	}
	if trust && v.chain != nil && !v.probe && len(v.chain.anchors) > 0 {
		e.seen.Failed(c.remote.Addr(), v.chain.anchors, how, time.Now())
	}
}

// clientLeft keeps what the handshake of a connection has shown that has ended.
func (e *trustEvidence) clientLeft(c *conn, who relay.Client) {
	if c.shown != nil {
		e.seen.Seen(clientIdentity(c, who), *c.shown, time.Now())
	}
}

func clientIdentity(c *conn, who relay.Client) ledger.Identity {
	return ledger.Identity{Address: c.remote.Addr(), Name: who.Name, Library: who.Library, User: who.User}
}

// ledger is what is known of clients, those that are connected included.
func (g *gateway) ledger() ledger.Ledger {
	now := time.Now()
	g.connections.each(func(c *conn) {
		if s := c.session.Load(); s != nil && c.shown != nil && now.Sub(c.shown.At) >= introductionTime {
			g.trust.seen.Seen(clientIdentity(c, s.Client()), *c.shown, now)
		}
	})
	return g.trust.seen.Ledger()
}

// LedgerStatus is how the gathering of what clients have shown goes. Counters count from Status.Started.
type LedgerStatus struct {
	Clients int               `json:"clients"` // how many are known
	Evicted uint64            `json:"evicted"` // how many are not kept, because there were too many
	Samples map[string]uint64 `json:"samples"` // by outcome: accepted, refused, failed
	// NextCross says that the gateway knows of Snapshot.NextCross. Older ones do not.
	NextCross bool `json:"next_cross"`
}

func (e *trustEvidence) status() *LedgerStatus {
	s := LedgerStatus{NextCross: true}
	s.Clients, s.Evicted = e.seen.Count()
	s.Samples, _ = e.sampler.outcomes.load()
	return &s
}

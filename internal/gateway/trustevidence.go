package gateway

import (
	"crypto/tls"
	"time"

	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/relay"
)

// settled is how old a connection must be for its client to be known by what it says of itself: that comes after the
// handshake. One that ended is known whenever it did.
const settled = time.Second

// trustFailures are the failures of handshakes that tell of the client's trust.
var trustFailures = map[string]ledger.Failure{
	clientAlerts[alertUnknownCA].class:          ledger.UnknownCA,
	clientAlerts[alertBadCertificate].class:     ledger.BadCertificate,
	clientAlerts[alertCertificateUnknown].class: ledger.CertificateUnknown,
	failEOF.class:   ledger.Closed,
	failReset.class: ledger.Closed,
}

// testFailures are those that tell of it too where the certificate is a test's: a client that verifies everything else as well as
// this one ends the handshake because of it, whatever its alert.
var testFailures = map[string]ledger.Failure{
	clientAlerts[alertHandshakeFailure].class:       ledger.ClientAlert,
	clientAlerts[alertUnsupportedCertificate].class: ledger.UnsupportedCertificate,
	clientAlerts[alertCertificateExpired].class:     ledger.CertificateExpired,
	failAlert.class: ledger.ClientAlert,
}

// shaken notes what a completed handshake tells.
func (g *gateway) shaken(c *conn, state tls.ConnectionState) {
	g.count.shaken(state)
	v := c.choice
	c.serving, c.choice = nil, choice{}
	if v.sampled {
		g.sampler.ended(c.remote.Addr(), sampleAccepted)
	}
	if v.probe || len(v.chain.anchors) == 0 {
		return
	}
	c.shake = &ledger.Handshake{At: time.Now(), Resumed: state.DidResume, Anchors: v.chain.anchors, Declared: v.declared}
}

// refused notes what a failed handshake tells.
func (g *gateway) refused(c *conn, f failure) {
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
		g.sampler.ended(c.remote.Addr(), outcome)
	}
	if trust && v.chain != nil && !v.probe && len(v.chain.anchors) > 0 {
		g.seen.Failed(c.remote.Addr(), v.chain.anchors, how, time.Now())
	}
}

// left notes a client whose connection has ended.
func (g *gateway) left(c *conn, who relay.Client) {
	if c.shake != nil {
		g.seen.Seen(identity(c, who), *c.shake, time.Now())
	}
}

func identity(c *conn, who relay.Client) ledger.Identity {
	return ledger.Identity{Address: c.remote.Addr(), Name: who.Name, Library: who.Library, User: who.User}
}

// ledger is what is known of clients, those that are connected included.
func (g *gateway) ledger() ledger.Ledger {
	now := time.Now()
	g.each(func(c *conn) {
		if p := c.pipe.Load(); p != nil && c.shake != nil && now.Sub(c.shake.At) >= settled {
			g.seen.Seen(identity(c, p.Client()), *c.shake, now)
		}
	})
	return g.seen.Ledger()
}

// LedgerStatus is how the gathering of what clients have shown goes. Counters count from Started.
type LedgerStatus struct {
	Clients int               `json:"clients"` // that are known
	Evicted uint64            `json:"evicted"` // not kept, because there were too many
	Samples map[string]uint64 `json:"samples"` // by outcome: accepted, refused, failed
	// NextCross says that it knows of Snapshot.NextCross.
	NextCross bool `json:"next_cross"`
}

func (g *gateway) ledgerStatus() *LedgerStatus {
	s := LedgerStatus{NextCross: true}
	s.Clients, s.Evicted = g.seen.Count()
	s.Samples, _ = g.sampler.outcomes.load()
	return &s
}

package gateway

import (
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/wire"
)

// The chains that a gateway serves, and which client is served which of them.

// NextChain is another certificate with its key, for clients to be tested against. A client is served it when it asks for its name, or
// when it is sampled. The main certificate may be for the same name.
type NextChain struct {
	// Name is the DNS name: clients that ask for it (SNI) are served this chain.
	Name        string `json:"name"`
	Certificate []byte `json:"certificate"`
	PrivateKey  []byte `json:"private_key"`
	// Anchors are labels, as Snapshot.Anchors are. Snapshot.NextCross has one that stands for the chain as a whole.
	Anchors []string `json:"anchors"`
	// Sampling is how many other clients are served this chain, or that of Snapshot.NextCross if there is one. Nil: none.
	Sampling *Sampling `json:"sampling,omitempty"`
}

// Sampling is how many clients are served the next certificate without asking for it. A client that refuses it sees an error.
type Sampling struct {
	Percent float64 `json:"percent"`  // of all full handshakes; more than 0, at most 100
	PerHour int     `json:"per_hour"` // how many clients at most; 1 to MaxSamplesPerHour
}

// MaxSamplesPerHour bounds Sampling, because each sample is written to disk.
const MaxSamplesPerHour = 1000

const (
	maxAnchors = 8
	maxLabel   = 128
	maxName    = 253
)

func (s Snapshot) checkAnchors(p *problems) {
	p.labels("anchors", s.Anchors)
	if s.Next == nil {
		if s.NextCross != nil {
			p.add("next_cross: must be with next")
		}
		return
	}
	if len(s.Anchors) == 0 || !s.hasTLS() {
		p.add("next: must be with anchors and a listener with TLS")
	}
	s.Next.check("next", p)
	if c := s.NextCross; c != nil {
		c.check("next_cross", p)
		if strings.EqualFold(c.Name, s.Next.Name) {
			p.add("next_cross.name %.80q: must be another one than next.name", c.Name)
		}
		if c.Sampling != nil {
			p.add("next_cross.sampling: must not be set: next.sampling is for both")
		}
	}
}

func (n *NextChain) check(field string, p *problems) {
	if n.Name == "" || len(n.Name) > maxName || !printable(n.Name) {
		p.add("%s.name %.80q: must be a DNS name", field, n.Name)
	}
	if len(n.Anchors) == 0 {
		p.add("%s.anchors: must not be empty", field)
	}
	p.labels(field+".anchors", n.Anchors)
	if q := n.Sampling; q != nil {
		if !(q.Percent > 0 && q.Percent <= 100) { // NaN is neither
			p.add("%s.sampling.percent %v: must be more than 0 and at most 100", field, q.Percent)
		}
		if q.PerHour < 1 || q.PerHour > MaxSamplesPerHour {
			p.add("%s.sampling.per_hour %d: must be 1 to %d", field, q.PerHour, MaxSamplesPerHour)
		}
	}
}

func (p *problems) labels(field string, labels []string) {
	if len(labels) > maxAnchors {
		p.add("%s: there are %d: must be at most %d", field, len(labels), maxAnchors)
	}
	for i, l := range labels {
		if l == "" || len(l) > maxLabel || !printable(l) || slices.Contains(labels[:i], l) {
			p.add("%s[%d] %.40q: must be printable ASCII, at most %d bytes, and there once", field, i, l, maxLabel)
		}
	}
}

// Older returns the snapshot for a gateway with this status. It leaves out what an older gateway does not know, and would
// refuse the whole snapshot for.
func (s Snapshot) Older(st Status) Snapshot {
	l := st.Ledger
	if st.Memory == nil {
		s.SystemMemory = 0
	}
	if l == nil {
		s.Anchors, s.Next = nil, nil
	}
	if l == nil || !l.NextCross {
		s.NextCross = nil
	}
	return s
}

// chain is a certificate chain as it is served.
type chain struct {
	anchors []string
	// sidecars is for clients that offer wire.ALPNSealane, and selects it. The others get all, which selects nothing: crypto/tls
	// refuses a client that offers only protocols which the configuration does not have.
	all, sidecars *tls.Config
}

func newChain(cert tls.Certificate, v policy, anchors []string) *chain {
	return &chain{anchors, tlsConfig(cert, v), tlsConfig(cert, v, wire.ALPNSealane)}
}

// tlsConfig returns a configuration with ticket keys of its own, which crypto/tls changes daily. So a session is resumed under the
// configuration that it began with and no other. The two functions at the end are needed for that: without them crypto/tls uses the
// ticket keys of the configuration that the handshake began with (see baseConfig).
func tlsConfig(cert tls.Certificate, v policy, protocols ...string) *tls.Config {
	config := &tls.Config{
		Certificates:     []tls.Certificate{cert},
		MinVersion:       v.min,
		CipherSuites:     v.suites12,
		CurvePreferences: v.groups,
		NextProtos:       protocols,
		// Small first records are for browsers that render half a page; a client here waits for the whole reply.
		DynamicRecordSizingDisabled: true,
	}
	config.WrapSession, config.UnwrapSession = config.EncryptTicket, config.DecryptTicket
	return config
}

// testChain is a chain that clients are tested against.
type testChain struct {
	*chain
	name string // DNS name whose clients are served it
}

// chains are all that a snapshot serves. They are immutable.
type chains struct {
	allowed policy
	main    *chain
	tests   []*testChain // Snapshot.Next and Snapshot.NextCross, as far as there are any
}

func newChains(s Snapshot) (*chains, error) {
	cert, p := pki.KeyPair("", s.Certificate, s.PrivateKey)
	allowed, more := s.policy(cert.Leaf)
	p = slices.Concat(p, more)
	v := &chains{allowed: allowed}
	for _, t := range []struct {
		field string
		*NextChain
	}{{"next.", s.Next}, {"next_cross.", s.NextCross}} {
		if t.NextChain == nil {
			continue
		}
		second, more := pki.KeyPair(t.field, t.Certificate, t.PrivateKey)
		if p = slices.Concat(p, more); len(p) == 0 {
			secondAllowed, _ := s.policy(second.Leaf)
			v.tests = append(v.tests, &testChain{newChain(second, secondAllowed, t.Anchors), t.Name})
		}
	}
	if len(p) > 0 {
		return nil, errors.Join(p...)
	}
	v.main = newChain(cert, allowed, s.Anchors)
	return v, nil
}

// labels returns the anchors of all chains: those of which handshakes may show something.
func (v *chains) labels() []string {
	all := v.main.anchors
	for _, t := range v.tests {
		all = slices.Concat(all, t.anchors)
	}
	return all
}

// test returns the chain that clients of a name are tested against; nil: the name is for no test.
func (v *chains) test(name string) *chain {
	for _, t := range v.tests {
		if strings.EqualFold(name, t.name) {
			return t.chain
		}
	}
	return nil
}

// choice is what selectConfig has decided about a handshake.
type choice struct {
	chain    *chain   // nil: the handshake failed before
	test     bool     // the chain is one that clients are tested against
	sampled  bool     // the client did not ask for that
	probe    bool     // this is no client, but a check by Sealane itself (wire.ALPNProbe)
	declared []string // anchors that the client says it trusts, of those that are known here
}

// baseConfig is what a handshake begins with, until its ClientHello is there. It makes no session tickets: each of the
// configurations that one is selected from has keys of its own.
func (c *conn) baseConfig(v *chains) *tls.Config {
	return &tls.Config{
		MinVersion: v.allowed.min, SessionTicketsDisabled: true,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) { return c.selectConfig(h, v), nil },
	}
}

// selectConfig decides with which certificate a client is served, once its ClientHello is there.
func (c *conn) selectConfig(h *tls.ClientHelloInfo, v *chains) *tls.Config {
	c.hello = negotiate(h, v.allowed) // here, before the handshake fails because of it
	c.choice.chain = v.main
	c.choice.probe = slices.Contains(h.SupportedProtos, wire.ALPNProbe)
	for _, protocol := range h.SupportedProtos {
		if label, ok := strings.CutPrefix(protocol, wire.ALPNTrustsCA); ok && slices.Contains(v.labels(), label) && !slices.Contains(c.choice.declared, label) {
			c.choice.declared = append(c.choice.declared, label)
		}
	}
	if t := v.test(h.ServerName); t != nil {
		c.choice.chain, c.choice.test = t, true
	} else if len(v.tests) > 0 && c.mayBeSampled(h) && c.acceptor.g.trust.sampler.sample(c.remote.Addr(), *c.serving.snapshot.Next) {
		// Chance decides between the chains: in time every client is tested with each.
		c.choice.chain, c.choice.test, c.choice.sampled = v.tests[rand.IntN(len(v.tests))].chain, true, true
	}
	if slices.Contains(h.SupportedProtos, wire.ALPNSealane) {
		return c.choice.chain.sidecars
	}
	return c.choice.chain.all
}

// mayBeSampled reports whether a client may be served a chain that it did not ask for. One that would resume a session may not, because it
// could not under another certificate. One that says what it trusts need not.
func (c *conn) mayBeSampled(h *tls.ClientHelloInfo) bool {
	next := c.serving.snapshot.Next
	return next != nil && next.Sampling != nil && !c.resumes && !slices.Contains(h.Extensions, extensionPreSharedKey) &&
		!c.choice.probe && len(c.choice.declared) == 0
}

package gateway

import (
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/sealane/sealane/internal/relay"
)

// NextChain is another certificate, for clients to be tested against. Which clients get it is decided by the name that they
// ask for, and by sampling: the main certificate may be for that name as well.
type NextChain struct {
	// Name is the DNS name (SNI) whose clients are presented it.
	Name        string `json:"name"`
	Certificate []byte `json:"certificate"`
	PrivateKey  []byte `json:"private_key"`
	// Anchors are as Snapshot.Anchors. Of Snapshot.NextCross it is one label, of the chain as such.
	Anchors []string `json:"anchors"`
	// Sampling presents it, and Snapshot.NextCross if there is one, to other clients too. Nil: to none.
	Sampling *Sampling `json:"sampling,omitempty"`
}

// Sampling is how many clients that did not ask for it are presented the next certificate. One that refuses it sees an error.
type Sampling struct {
	Percent float64 `json:"percent"`  // of the full handshakes, more than 0 and at most 100
	PerHour int     `json:"per_hour"` // at most, 1 to MaxSamplesPerHour
}

// MaxSamplesPerHour bounds Sampling: each is remembered on disk.
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

// Older returns the snapshot for a gateway that says this of itself, without what it does not know of and would refuse.
func (s Snapshot) Older(l *LedgerStatus) Snapshot {
	if l == nil {
		s.Anchors, s.Next = nil, nil
	}
	if l == nil || !l.NextCross {
		s.NextCross = nil
	}
	return s
}

// chain is a certificate as it is served.
type chain struct {
	anchors []string
	// sidecars is for clients that offer relay.Protocol, and selects it; with it the others would be refused for whatever
	// else they offer.
	all, sidecars *tls.Config
}

func newChain(cert tls.Certificate, v policy, anchors []string) *chain {
	return &chain{anchors, tlsConfig(cert, v), tlsConfig(cert, v, relay.Protocol)}
}

// tlsConfig returns a configuration with ticket keys of its own, which crypto/tls changes daily: a session is resumed under the
// configuration that it began with and no other. Where GetConfigForClient returns one, crypto/tls would go on with the keys
// of the one that it was asked by; with the two functions it takes this one's.
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

// test is a chain that clients are tested against.
type test struct {
	*chain
	name string
}

// chains are all that a snapshot serves.
type chains struct {
	allowed    policy
	main       *chain
	tests      []*test     // Snapshot.Next and Snapshot.NextCross, as far as there are any
	baseConfig *tls.Config // handshakes begin with it, and get the one that selectConfig returns
}

func newChains(s Snapshot) (*chains, error) {
	cert, p := keyPair("", s.Certificate, s.PrivateKey)
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
		second, more := keyPair(t.field, t.Certificate, t.PrivateKey)
		if p = slices.Concat(p, more); len(p) == 0 {
			secondAllowed, _ := s.policy(second.Leaf)
			v.tests = append(v.tests, &test{newChain(second, secondAllowed, t.Anchors), t.Name})
		}
	}
	if len(p) > 0 {
		return nil, errors.Join(p...)
	}
	v.main = newChain(cert, allowed, s.Anchors)
	v.baseConfig = &tls.Config{
		Certificates: v.main.all.Certificates, MinVersion: allowed.min,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			return h.Conn.(*conn).selectConfig(h, v), nil
		},
	}
	return v, nil
}

// labels are all anchors of which something may be learnt.
func (v *chains) labels() []string {
	all := v.main.anchors
	for _, t := range v.tests {
		all = slices.Concat(all, t.anchors)
	}
	return all
}

// test is the chain for a name that is for tests, nil for another name.
func (v *chains) test(name string) *chain {
	for _, t := range v.tests {
		if strings.EqualFold(name, t.name) {
			return t.chain
		}
	}
	return nil
}

// choice is what was decided about a handshake once its ClientHello was there.
type choice struct {
	chain    *chain // nil: it didn't get so far
	test     bool   // it is one that clients are tested against
	sampled  bool
	probe    bool     // it is no client's
	declared []string // anchors, of those that are known
}

// selectConfig decides with which certificate a client is served, once its ClientHello is there.
func (c *conn) selectConfig(h *tls.ClientHelloInfo, v *chains) *tls.Config {
	c.hello = negotiate(h, v.allowed) // here, before the handshake fails because of it
	c.choice.chain = v.main
	c.choice.probe = slices.Contains(h.SupportedProtos, relay.Probe)
	for _, protocol := range h.SupportedProtos {
		if label, ok := strings.CutPrefix(protocol, relay.DeclaresCA); ok && slices.Contains(v.labels(), label) && !slices.Contains(c.choice.declared, label) {
			c.choice.declared = append(c.choice.declared, label)
		}
	}
	if t := v.test(h.ServerName); t != nil {
		c.choice.chain, c.choice.test = t, true
	} else if len(v.tests) > 0 && c.mayBeSampled(h) && c.door.g.trust.sampler.take(c.remote.Addr(), *c.serving.snapshot.Next) {
		// Which one is left to chance: in time every client meets each.
		c.choice.chain, c.choice.test, c.choice.sampled = v.tests[rand.IntN(len(v.tests))].chain, true, true
	}
	if slices.Contains(h.SupportedProtos, relay.Protocol) {
		return c.choice.chain.sidecars
	}
	return c.choice.chain.all
}

// mayBeSampled leaves out those that would resume a session, which they could not under another certificate, and those that
// say what they trust.
func (c *conn) mayBeSampled(h *tls.ClientHelloInfo) bool {
	next := c.serving.snapshot.Next
	return next != nil && next.Sampling != nil && !c.resumes && !slices.Contains(h.Extensions, extensionPreSharedKey) &&
		!c.choice.probe && len(c.choice.declared) == 0
}

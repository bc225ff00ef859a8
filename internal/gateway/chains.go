package gateway

import (
	"crypto/tls"
	"errors"
	"slices"
	"strings"

	"github.com/sealane/sealane/internal/relay"
)

// NextChain is a second certificate, for clients to be tested against. Which clients get it is decided by the name that they
// ask for, and by sampling: the main certificate may be for that name as well.
type NextChain struct {
	// Name is the DNS name (SNI) whose clients are presented it.
	Name        string `json:"name"`
	Certificate []byte `json:"certificate"`
	PrivateKey  []byte `json:"private_key"`
	// Anchors are as Snapshot.Anchors.
	Anchors []string `json:"anchors"`
	// Sampling presents it to other clients too. Nil: to none.
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
	n := s.Next
	if n == nil {
		return
	}
	if n.Name == "" || len(n.Name) > maxName || !printable(n.Name) {
		p.add("next.name %.80q: must be a DNS name", n.Name)
	}
	if len(s.Anchors) == 0 || !s.hasTLS() {
		p.add("next: must be with anchors and a listener with TLS")
	}
	if len(n.Anchors) == 0 {
		p.add("next.anchors: must not be empty")
	}
	p.labels("next.anchors", n.Anchors)
	if q := n.Sampling; q != nil {
		if !(q.Percent > 0 && q.Percent <= 100) { // NaN is neither
			p.add("next.sampling.percent %v: must be more than 0 and at most 100", q.Percent)
		}
		if q.PerHour < 1 || q.PerHour > MaxSamplesPerHour {
			p.add("next.sampling.per_hour %d: must be 1 to %d", q.PerHour, MaxSamplesPerHour)
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

// Older returns the snapshot for a gateway that does not know of anchors, which would refuse it.
func (s Snapshot) Older() Snapshot {
	s.Anchors, s.Next = nil, nil
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

// chains are all that a snapshot serves.
type chains struct {
	allowed policy
	main    *chain
	next    *chain      // nil: none
	entry   *tls.Config // what handshakes begin with
}

func newChains(s Snapshot) (*chains, error) {
	cert, p := keyPair("", s.Certificate, s.PrivateKey)
	allowed, more := s.policy(cert.Leaf)
	p = slices.Concat(p, more)
	v := &chains{allowed: allowed}
	var second tls.Certificate
	var secondAllowed policy
	if s.Next != nil {
		second, more = keyPair("next.", s.Next.Certificate, s.Next.PrivateKey)
		p = slices.Concat(p, more)
		secondAllowed, _ = s.policy(second.Leaf)
	}
	if len(p) > 0 {
		return nil, errors.Join(p...)
	}
	v.main = newChain(cert, allowed, s.Anchors)
	if s.Next != nil {
		v.next = newChain(second, secondAllowed, s.Next.Anchors)
	}
	v.entry = &tls.Config{
		Certificates: v.main.all.Certificates, MinVersion: allowed.min,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			return h.Conn.(*conn).choose(h, v), nil
		},
	}
	return v, nil
}

// labels are all anchors of which something may be learnt.
func (v *chains) labels() []string {
	all := v.main.anchors
	if v.next != nil {
		all = slices.Concat(all, v.next.anchors)
	}
	return all
}

// choice is what was decided about a handshake once its ClientHello was there.
type choice struct {
	chain    *chain // nil: it didn't get so far
	sampled  bool
	probe    bool     // it is no client's
	declared []string // anchors, of those that are known
}

// choose decides what a client is served with.
func (c *conn) choose(h *tls.ClientHelloInfo, v *chains) *tls.Config {
	c.hello = readHello(h, v.allowed) // it can be seen here before the handshake fails because of it
	c.choice.chain = v.main
	c.choice.probe = slices.Contains(h.SupportedProtos, relay.Probe)
	for _, protocol := range h.SupportedProtos {
		if label, ok := strings.CutPrefix(protocol, relay.DeclaresCA); ok && slices.Contains(v.labels(), label) && !slices.Contains(c.choice.declared, label) {
			c.choice.declared = append(c.choice.declared, label)
		}
	}
	if next := c.serving.snapshot.Next; v.next != nil && next != nil {
		switch {
		case strings.EqualFold(h.ServerName, next.Name):
			c.choice.chain = v.next
		case c.mayBeSampled(h) && c.door.g.sampler.take(c.remote.Addr(), *next):
			c.choice.chain, c.choice.sampled = v.next, true
		}
	}
	if slices.Contains(h.SupportedProtos, relay.Protocol) {
		return c.choice.chain.sidecars
	}
	return c.choice.chain.all
}

const extensionPreSharedKey = 41 // RFC 8446, 4.2

// mayBeSampled leaves out those that would resume a session, which they could not under another certificate, and those that
// say what they trust.
func (c *conn) mayBeSampled(h *tls.ClientHelloInfo) bool {
	return c.serving.snapshot.Next.Sampling != nil && !c.resumes && !slices.Contains(h.Extensions, extensionPreSharedKey) &&
		!c.choice.probe && len(c.choice.declared) == 0
}

// Package pki knows which certificates should exist: the certificate authorities (CAs) of an instance, one generation
// after another for ever, the server certificate (leaf) that one of them signs, the bundle that clients install.
//
// Plan says what is to be done and why; it is a pure function of what exists and the time. State.Do carries one
// action out and returns a new State; nothing here reads a clock, a file or the network.
//
// # A generation's life
//
// With the default lifetimes, counted from CA-1's creation:
//
//	1,825 days  CA-2 is made: it is published, that is, in the bundle. CA-1 signs its key too (the cross-certificate).
//	            A second leaf is signed by CA-2, for clients to be tested against (NextName, NextCrossName).
//	2,737 days  CA-2 is activated: it signs the leaf. The cross-certificate is served beside it, so clients that hold
//	            only CA-1, only CA-2 or both verify. Sooner, once all clients have been known for 30 days to trust it (WithReady).
//	3,620 days  The cross-certificate is no longer served: an expired one in the chain breaks some clients.
//	3,650 days  CA-1 expires and is retired: it leaves the bundle. CA-3 is made.
//
// A CA is also retired once its successor has been published for 1,825 days, to make room for the next, and a successor
// signs 912 days after its publication at the latest. In the default life these are the same days; they matter when an
// operator starts a generation early: the whole life then begins anew from there.
//
// Guaranteed: for 1,795 days after it was installed (Lifetimes.Grace), a bundle verifies what is served, for every name
// that the instance had in its leaf then and kept, if Plan is carried out at least every four weeks and the clock is
// right; only Retire before its day and Compromise cut that short. A leaf that Do returned verifies, for every name in it,
// against its issuer, and under the cross-certificate against the one before. A leaf never outlives its issuer, nor does
// a cross-certificate. Two CAs are published at most, more only after new names (below) or when the clock was wrong.
// Private keys are in a State only sealed under the master key.
//
// # Name constraints
//
// A CA has none, so it could vouch for any name: clients should trust it for the instance alone. With State.NameConstraints
// the CAs that are made from then on have critical ones, for the names they were made for and NextName: one that is
// installed in a system's trust store can impersonate nothing else. Not every TLS library can use such a CA, see
// ConstraintsCost. What a CA has is read from its certificate, so a State may have CAs of both kinds, as one of a time when
// all had constraints does. A cross-certificate has none: those of the CA that signed it hold below it all the same.
//
// # New names
//
// Under CAs without constraints the leaf has every wanted name at once. The rest of this section is about those with them.
//
// One name outside the constraints of any CA on the path makes clients refuse a leaf for all its names (RFC 5280,
// 6.1.3). So the leaf has those wanted names that all CAs permit which sign one after another, and the rest waits: no
// client loses a name that it uses. When the newest CA does not permit a wanted name, a generation that does is made at
// once, and lives as any other; the second leaf, from it alone, has every name from then on, and who asks for a waiting
// DNS name may be presented that. The leaf gets the waiting names when the last CA that forbids them is retired;
// activating and retiring hastens that. While three CAs follow each other, further new names wait for the oldest to go.
//
// A CA that permits none of the names any more, or not all those in the leaf, is passed over: it stays in the bundle and
// signs nothing, until the names change back.
//
// # Clocks
//
// A clock may jump, and be wrong before or after. Everything noted of a CA (made, activated, retired) counts only
// from the time it was noted: at any time a State means what it would mean had nothing been done at later times. So when
// a clock is years ahead for a while and then right again, the CAs and their roles are those of before, and only leaves
// and cross-certificates are made anew. For that, expired CAs are kept with their keys: a kilobyte every five years.
// Before the first CA's first second nothing is done, and what was there last stays. A leaf made while the clock was wrong is
// valid at the wrong time; Plan replaces it when the clock is right.
package pki

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Two DNS names under which a client can be tested against the CA that signs later, before it does: what is served then is
// to be presented to those who ask for them. Whoever verifies both goes on when that CA is activated, and when the one before
// is retired. Every CA permits them (the second is below the first), so they are the same for all instances. They have a dot
// because Java sends no single label in SNI, and nobody can own them (RFC 2606).
const (
	// NextName is for NextChain: the newest CA alone.
	NextName = "ca-next.sealane.invalid"
	// NextCrossName is for NextCrossChain: the newest CA with its cross-certificate, as on the day after its activation. That
	// alone would not do as a test: who trusts the CA before only verifies it too.
	NextCrossName = "cross.ca-next.sealane.invalid"
)

// TestName says whether a DNS name is for tests, and in every certificate.
func TestName(name string) bool { return name == NextName || name == NextCrossName }

// ConstraintsCost is what users are told of a CA with name constraints.
const ConstraintsCost = "rustls (valkey-glide, Deno, redis-rs), BoringSSL (Bun), wolfSSL, Botan and mbedTLS refuse such a CA and all that it signs"

// Algorithm is the kind of key that certificates are made with.
type Algorithm string

const (
	ECDSAP256 Algorithm = "ecdsa-p256" // the default, also for ""
	RSA2048   Algorithm = "rsa-2048"   // for clients that know nothing newer
)

// Names are what a server certificate is valid for. Order has no meaning.
type Names struct {
	DNS []string
	IPs []netip.Addr
	URI string // the instance's identity, spiffe://…; never changes, for keys are sealed under it
}

// Equal says whether both hold the same names.
func (n Names) Equal(o Names) bool {
	a, b := n.sorted(), o.sorted()
	return a.URI == b.URI && slices.Equal(a.DNS, b.DNS) && slices.Equal(a.IPs, b.IPs)
}

func (n Names) sorted() Names {
	n.DNS = slices.Sorted(slices.Values(n.DNS))
	n.IPs = slices.SortedFunc(slices.Values(n.IPs), netip.Addr.Compare)
	return n
}

// hosts are the names that a client can dial.
func (n Names) hosts() []string {
	hosts := slices.Clone(n.DNS)
	for _, ip := range n.IPs {
		hosts = append(hosts, ip.Unmap().String())
	}
	return hosts
}

// without returns the hosts of n that o does not have.
func (n Names) without(o Names) []string {
	has := o.hosts()
	return slices.DeleteFunc(n.hosts(), func(h string) bool { return slices.Contains(has, h) })
}

// State is all that is remembered of one instance's certificates. It is a value: Do returns a changed copy.
type State struct {
	Algorithm Algorithm `json:",omitempty"`
	Lifetimes Lifetimes `json:",omitzero"`
	// NameConstraints is for CAs that are made from now on; those that there are have what their certificates say.
	NameConstraints bool `json:",omitempty"`

	Names Names // wanted; the leaf has those that its CAs permit
	CAs   []CA  // every generation there ever was, oldest first
	Leaf  *Leaf `json:",omitempty"`

	// Next is the second leaf, by the newest CA. Kept, but not presented, while only one CA is published.
	Next *Leaf `json:",omitempty"`
}

// CA is one generation of an instance's certificate authority. What is noted of it at a time counts from that time.
type CA struct {
	Generation  int       // 1 for the first
	Created     time.Time // and published; the certificate's notBefore is a minute earlier
	Certificate []byte    // DER
	SealedKey   []byte    // nil when compromised

	Activated   time.Time `json:",omitzero"` // when it was to sign, in place of the one before
	Retired     time.Time `json:",omitzero"` // when it was taken out of the bundle
	Compromised time.Time `json:",omitzero"` // when it was given up; counts always
	Ready       time.Time `json:",omitzero"` // since when, without a break, all clients are known to trust it

	Cross     []byte `json:",omitempty"` // DER: this CA's key and subject, signed by another
	CrossedBy int    `json:",omitempty"` // that other's generation
}

// Leaf is a server certificate.
type Leaf struct {
	Issuer      int // the generation of the CA that signed it
	Created     time.Time
	Names       Names  // without the test names
	Certificate []byte // DER
	SealedKey   []byte
	CrossTest   bool `json:",omitempty"` // it has NextCrossName; those of before have NextName only
}

// WithNameConstraints says whether CAs that are made from now on are to have name constraints.
func (s State) WithNameConstraints(on bool) State {
	s.NameConstraints = on
	return s
}

// WithReady notes since when all clients are known to trust a generation; the zero time: they aren't.
func (s State) WithReady(generation int, since time.Time) State {
	s.CAs = slices.Clone(s.CAs)
	for i := range s.CAs {
		if s.CAs[i].Generation == generation {
			if s.CAs[i].Ready = since; !since.IsZero() {
				s.CAs[i].Ready = second(since)
			}
		}
	}
	return s
}

// second returns a time as certificates know it: no smaller unit, UTC.
func second(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// span says a duration in words.
func span(d time.Duration) string {
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

// caName is what users are told of a generation.
func caName(generation int) string { return fmt.Sprintf("CA-%d", generation) }

// inSubtree says whether a DNS name is one that a constraint allows: the same, or below it (RFC 5280, 4.2.1.10).
func inSubtree(name, of string) bool {
	name, of = strings.ToLower(name), strings.ToLower(of)
	return name == of || strings.HasSuffix(name, "."+of)
}

// Package pki knows which certificates should exist for an instance: its certificate authorities (CAs), one generation after
// another for ever; the server certificate (leaf) that one of them signs; the certificate that an instance's nodes show each other (peer.go); and
// the bundle of CAs that clients install.
//
// A State is what is remembered. Plan says what has to be done and why. State.Do carries one action out and returns a new State.
// State.At says what a State means at a time: what is served, and what clients should trust. Nothing here reads a clock, a file or
// the network.
//
// # The life of a generation
//
// With the default lifetimes, counted from CA-1's creation:
//
//	1,825 days  CA-2 is made and published, which means that it is in the bundle. CA-1 signs the key of CA-2 too: that is the
//	            cross-certificate. CA-2 signs a second leaf, for clients to be tested against (NextName, NextCrossName).
//	2,737 days  CA-2 is activated: it signs the leaf. The cross-certificate is served beside it, so clients verify that hold
//	            only CA-1, only CA-2 or both. This comes sooner once all clients have been known for 30 days to trust CA-2 (WithReady).
//	3,620 days  The cross-certificate is no longer served, because an expired one in the chain breaks some clients.
//	3,650 days  CA-1 expires and is retired: it leaves the bundle. CA-3 is made.
//
// A CA is also retired once its successor has been published for 1,825 days, to make room for the next, and a successor
// signs 912 days after its publication at the latest. In the default life these are the same days. They matter when an
// operator starts a generation early: the whole life then begins anew from there.
//
// Guaranteed: a bundle verifies what is served for 1,795 days after it was installed (Lifetimes.Grace), for every name
// that the instance had in its leaf then and kept, if Plan is carried out at least every four weeks and the clock is
// right. Only Retire before its day and Compromise cut that short. A leaf that Do returned verifies, for every name in it,
// against its issuer, and with the cross-certificate against the CA before. A leaf never outlives its issuer, nor does
// a cross-certificate. At most two CAs are published, or more after new names (see below) or when the clock was wrong.
// Private keys are in a State only sealed under the master key.
//
// # Name constraints
//
// A CA has none by default, so it could vouch for any name: clients should trust it for the instance alone. With
// State.NameConstraints the CAs that are made from then on have critical ones, for the names that they were made for and for
// NextName. Such a CA can impersonate nothing else, even where it is installed in a system's trust store; but not every TLS
// library can use it (see ConstraintsCost). Whether a CA has constraints is read from its certificate, so one State may have
// CAs of both kinds, as States have that began with an older version of Sealane. A cross-certificate has none, because the
// constraints of the CA that signed it hold below it all the same.
//
// # New names
//
// Where no CA has constraints, the leaf has every wanted name at once. The rest of this section is about CAs that have them.
//
// One name outside the constraints of any CA on the path makes clients refuse a leaf for all its names (RFC 5280,
// 6.1.3). So the leaf has the wanted names that every CA of the signing chain permits, which are those CAs that sign one after
// another. The other names wait, so that no client loses a name that it uses. When the newest CA does not permit a wanted name, a
// generation that does is made at once, and lives as any other. The second leaf, which only that CA signs, has every name from
// then on, and a client that asks for a waiting DNS name may be presented the second leaf. The leaf gets the waiting names when
// the last CA that forbids them is retired; activating and retiring hastens that. While there are three CAs in the signing chain,
// further new names wait for the oldest to go.
//
// A CA that permits none of the names any more, or not all those in the leaf, is passed over: it stays in the bundle and
// signs nothing until the names change back.
//
// # Clocks
//
// A clock may jump, and be wrong before it does or after. Everything recorded of a CA (made, activated, retired) counts only
// from the time it was recorded with: at any time a State means what it would mean had nothing been done at later times. So when
// a clock is years ahead for a while and then right again, the CAs and their roles are those of before, and only leaves
// and cross-certificates are made anew. Expired CAs are kept with their keys for that, which takes a kilobyte every five years.
// While the clock is behind, which means before the first CA's first second, nothing is done, and what was there last stays.
// A leaf that was made while the clock was wrong is valid at the wrong time; Plan replaces it when the clock is right.
package pki

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A client can be tested against the CA that signs later, before it does, by connecting with two DNS names as server name (SNI): it
// is presented then what will be served. A client that verifies both goes on when that CA is activated, and when the CA before is
// retired. Every CA permits the names (the second is below the first), so they are the same for all instances. They have a dot
// because Java sends no single label in SNI, and nobody can own them (RFC 2606).
const (
	// NextName is for NextChain: the newest CA alone.
	NextName = "ca-next.sealane.invalid"
	// NextCrossName is for NextCrossChain: the newest CA with its cross-certificate, as on the day after its activation. It
	// would not do as the only test, because a client that trusts only the CA before verifies it too.
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
	URI string // the instance's Identity; it never changes, because keys are sealed under it
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
	// NameConstraints is for CAs that are made from now on. Those that exist have what their certificates say.
	NameConstraints bool `json:",omitempty"`

	Names Names // the wanted ones; the leaf has those that its CAs permit
	CAs   []CA  // every generation there ever was, oldest first
	Leaf  *Leaf `json:",omitempty"`

	// Next is the second leaf, by the newest CA. It is kept, but not presented, while only one CA is published.
	Next *Leaf `json:",omitempty"`

	// Peers says that the instance's nodes need a certificate for each other, which is Peer. See peer.go.
	Peers bool  `json:",omitempty"`
	Peer  *Leaf `json:",omitempty"`
	// NoLeaf says that clients connect without TLS: there are CAs for the peer certificate, and no leaf.
	NoLeaf bool `json:",omitempty"`
}

// CA is one generation of an instance's certificate authority. What is recorded of it with a time counts from that time.
type CA struct {
	Generation  int       // 1 for the first
	Created     time.Time // and published; the certificate's notBefore is earlier by Lifetimes.Backdate
	Certificate []byte    // DER
	SealedKey   []byte    // nil when compromised

	Activated   time.Time `json:",omitzero"` // when it was to sign, in place of the one before
	Retired     time.Time `json:",omitzero"` // when it was taken out of the bundle
	Compromised time.Time `json:",omitzero"` // when it was given up; counts always
	Ready       time.Time `json:",omitzero"` // since when, without a break, all clients are known to trust it

	Cross     []byte `json:",omitempty"` // DER: this CA's key and subject, signed by another
	CrossedBy int    `json:",omitempty"` // that other's generation
}

// Leaf is a server certificate, or a peer certificate.
type Leaf struct {
	Issuer      int // the generation of the CA that signed it
	Created     time.Time
	Names       Names  // without the test names
	Certificate []byte // DER
	SealedKey   []byte
	CrossTest   bool `json:",omitempty"` // it has NextCrossName; leaves of older versions of Sealane have NextName only
}

// WithNameConstraints says whether CAs that are made from now on are to have name constraints.
func (s State) WithNameConstraints(on bool) State {
	s.NameConstraints = on
	return s
}

// WithReady records since when all clients are known to trust a generation. The zero time says that they aren't known to.
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

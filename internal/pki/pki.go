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
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
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

// Lifetimes are how long everything lasts, in whole seconds. The zero value stands for DefaultLifetimes; otherwise
// every field counts, also one that is zero. They are chosen before the first CA is made.
type Lifetimes struct {
	CA            time.Duration // of a CA
	PublishAfter  time.Duration // the newest CA's age at which the next is made
	ActivateAfter time.Duration // a CA's age at which the next signs in its place
	CrossEnds     time.Duration // for so long before the older CA expires, no cross-certificate is served
	Leaf          time.Duration // of a leaf
	Renewal       time.Duration // a leaf's age at which it is replaced
	Jitter        time.Duration // up to so much earlier, by chance, lest all instances renew in the same minute
	ReadyFor      time.Duration // once all clients have been known to trust it for so long, the next CA signs; zero: that changes nothing
	Backdate      time.Duration // lets a client whose clock is a little slow accept a certificate made just now
}

const day = 24 * time.Hour

// DefaultLifetimes are those of real life.
func DefaultLifetimes() Lifetimes {
	return Lifetimes{
		CA: 3650 * day, PublishAfter: 1825 * day, ActivateAfter: 2737 * day, CrossEnds: 30 * day,
		Leaf: 270 * day, Renewal: 180 * day, Jitter: 6 * time.Hour, Backdate: time.Minute, ReadyFor: 30 * day,
	}
}

// MinScaledCA is the shortest life of a CA that works: its cross-certificate ends a second before it does, and a second is
// the smallest unit of a certificate.
const MinScaledCA = 20 * time.Second

// A scaled leaf lives so long at least, which leaves a busy machine three seconds to replace it in. Where a CA lives for less
// than 82 seconds that is more than its proportion.
const (
	minLeaf    = 6 * time.Second
	minRenewal = 3 * time.Second
)

// ScaledLifetimes are the defaults in the proportion that a CA lives for ca, MinScaledCA at least, instead of ten years. What
// clients are known to trust changes nothing: no proportion of 30 days would say as much.
func ScaledLifetimes(ca time.Duration) Lifetimes {
	d := DefaultLifetimes()
	scale := func(t time.Duration) time.Duration {
		return t / time.Second * (ca / time.Second) / (d.CA / time.Second) * time.Second
	}
	l := Lifetimes{
		CA: ca.Truncate(time.Second), ActivateAfter: scale(d.ActivateAfter), CrossEnds: max(scale(d.CrossEnds), time.Second),
		Leaf: max(scale(d.Leaf), minLeaf), Renewal: max(scale(d.Renewal), minRenewal), Jitter: scale(d.Jitter), Backdate: scale(d.Backdate),
	}
	l.PublishAfter = ((l.CA + time.Second) / 2).Truncate(time.Second) // rounded up: two halves must not be less than a life
	return l
}

// Grace is for how long after its installation a bundle is good, at least.
func (l Lifetimes) Grace() time.Duration {
	l = l.orDefaults()
	return l.CA - l.CrossEnds - l.PublishAfter
}

// Check says everything that is wrong with lifetimes.
func (l Lifetimes) Check() error {
	l = l.orDefaults()
	var problems []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf("lifetimes: "+format, args...))
		}
	}
	for _, d := range []time.Duration{l.CA, l.PublishAfter, l.ActivateAfter, l.CrossEnds, l.Leaf, l.Renewal, l.Jitter, l.Backdate, l.ReadyFor} {
		want(d >= 0 && d%time.Second == 0, "%v: want whole seconds, not negative", d)
	}
	want(2*l.PublishAfter >= l.CA, "publish after %v: want at least half of a CA's %v, or there would be three", l.PublishAfter, l.CA)
	want(l.PublishAfter < l.ActivateAfter, "activate after %v: want more than publish after, %v", l.ActivateAfter, l.PublishAfter)
	want(l.ActivateAfter < l.CA-l.CrossEnds, "activate after %v: want less than a CA's %v without the %v at its end", l.ActivateAfter, l.CA, l.CrossEnds)
	want(l.CrossEnds > 0, "cross ends %v before the end: want at least a second", l.CrossEnds)
	want(l.Leaf <= l.CA, "leaf %v: want no more than a CA's %v", l.Leaf, l.CA)
	want(l.Renewal < l.Leaf, "renewal %v: want less than a leaf's %v", l.Renewal, l.Leaf)
	want(l.Jitter < l.Renewal, "jitter %v: want less than renewal, %v", l.Jitter, l.Renewal)
	return errors.Join(problems...)
}

func (l Lifetimes) orDefaults() Lifetimes {
	if l == (Lifetimes{}) {
		return DefaultLifetimes()
	}
	return l
}

// Published are the CAs that a client should trust now, oldest first.
func (s State) Published(now time.Time) []CA {
	var out []CA
	for _, a := range look(s, now).live {
		out = append(out, a.CA)
	}
	return out
}

// Bundle is every CA certificate that a client should trust now, as PEM, oldest first.
func (s State) Bundle(now time.Time) []byte {
	var out []byte
	for _, ca := range s.Published(now) {
		out = append(out, EncodePEM(ca.Certificate)...)
	}
	return out
}

// Chain is what the server presents, as PEM, leaf first, with the leaf's private key as PEM (PKCS #8).
func (s State) Chain(key MasterKey, now time.Time) (chain, privateKey []byte, err error) {
	if s.Leaf == nil {
		return nil, nil, errors.New("no server certificate has been issued")
	}
	if privateKey, err = openLeafKey(key, s.Leaf, leafPurpose(s.Names.URI)); err != nil {
		return nil, nil, err
	}
	chain = EncodePEM(s.Leaf.Certificate)
	if v := look(s, now); v.crossServed() && s.Leaf.Issuer == v.line[v.signer].Generation {
		chain = append(chain, EncodePEM(v.line[v.signer].Cross)...)
	}
	return chain, privateKey, nil
}

// NextChain is what the server presents to who asks for NextName: a leaf by the newest CA, without a
// cross-certificate. It is empty while only one CA is published: then Chain stands for all there is.
func (s State) NextChain(key MasterKey, now time.Time) (chain, privateKey []byte, err error) {
	if !look(s, now).nextServed() {
		return nil, nil, nil
	}
	if privateKey, err = openLeafKey(key, s.Next, nextPurpose(s.Names.URI)); err != nil {
		return nil, nil, err
	}
	return EncodePEM(s.Next.Certificate), privateKey, nil
}

// NextCrossChain is what the server presents to who asks for NextCrossName: NextChain with the newest CA's cross-certificate.
// It is empty when no cross-certificate will be served, and once it is: then Chain is that.
func (s State) NextCrossChain(key MasterKey, now time.Time) (chain, privateKey []byte, err error) {
	v := look(s, now)
	if !v.nextCrossServed() {
		return nil, nil, nil
	}
	if chain, privateKey, err = s.NextChain(key, now); err != nil {
		return nil, nil, err
	}
	return append(chain, EncodePEM(v.newest().Cross)...), privateKey, nil
}

// Anchors are the fingerprints of the CAs each of which, by itself, verifies what Chain presents.
func (s State) Anchors(now time.Time) []string {
	if s.Leaf == nil {
		return nil
	}
	v := look(s, now)
	var anchors []string
	for i, a := range v.all {
		signed := a.Generation == s.Leaf.Issuer
		if signed || v.crossServed() && s.Leaf.Issuer == v.line[v.signer].Generation && a.Generation == v.line[v.signer].CrossedBy {
			anchors = append(anchors, v.all[i].Fingerprint())
		}
	}
	return anchors
}

// NextAnchor is the fingerprint of the one CA that verifies what NextChain presents; "" while that is empty.
func (s State) NextAnchor(now time.Time) string {
	if v := look(s, now); v.nextServed() {
		return v.newest().Fingerprint()
	}
	return ""
}

// NextCrossLabel names what NextCrossChain presents beside the leaf, as NextAnchor does the CA: "cross-" and the fingerprint of the
// cross-certificate; "" while that is empty.
func (s State) NextCrossLabel(now time.Time) string {
	if v := look(s, now); v.nextCrossServed() {
		return crossLabel(v.newest().CA)
	}
	return ""
}

// Proofs are the labels of everything that clients will be presented from a generation's activation on: the CA's
// fingerprint, and with the cross-certificate, if that is to be served and isn't yet. Who has verified each is ready.
func (s State) Proofs(generation int, now time.Time) []string {
	v := look(s, now)
	for i, a := range v.line {
		if a.Generation == generation && i > v.signer && v.needsCross(i) && v.crossed(i) {
			return []string{a.Fingerprint(), crossLabel(a.CA)}
		}
	}
	for _, ca := range s.CAs {
		if ca.Generation == generation {
			return []string{ca.Fingerprint()}
		}
	}
	return nil
}

func crossLabel(ca CA) string {
	return "cross-" + fingerprint(ca.Cross)
}

// Fingerprint is the SHA-256 of the CA's certificate, in lower-case hexadecimal.
func (ca CA) Fingerprint() string { return fingerprint(ca.Certificate) }

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Awaited is the CA that is to sign next, if there is one.
func (s State) Awaited(now time.Time) (CA, bool) {
	v := look(s, now)
	if v.behind || v.signer+1 >= len(v.line) || v.counts(v.line[v.signer+1].Activated) {
		return CA{}, false
	}
	return v.line[v.signer+1].CA, true
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

func openLeafKey(key MasterKey, l *Leaf, purpose string) ([]byte, error) {
	der, err := key.Open(l.SealedKey, purpose)
	if err != nil {
		return nil, fmt.Errorf("server certificate's key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// EncodePEM returns a certificate as PEM.
func EncodePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
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

// within says whether a DNS name is one that a constraint allows: the same, or below it (RFC 5280, 4.2.1.10).
func within(name, of string) bool {
	name, of = strings.ToLower(name), strings.ToLower(of)
	return name == of || strings.HasSuffix(name, "."+of)
}

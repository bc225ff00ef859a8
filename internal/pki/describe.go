package pki

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Description is what people and the API are shown of a certificate.
type Description struct {
	PEM               string
	Serial            string // decimal
	SHA256Fingerprint string // of the DER, lower-case hexadecimal without colons
	SHA1Fingerprint   string // likewise
	NotBefore         time.Time
	NotAfter          time.Time
}

// Describe reads a certificate.
func Describe(der []byte) (Description, error) {
	d, _, err := describe(der)
	return d, err
}

func describe(der []byte) (Description, *x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Description{}, nil, fmt.Errorf("parse certificate: %w", err)
	}
	// SHA-1 names the certificate as the API does; nothing is trusted because of it.
	sha1sum, sha256sum := sha1.Sum(der), sha256.Sum256(der)
	return Description{
		PEM:               string(EncodePEM(der)),
		Serial:            cert.SerialNumber.String(),
		SHA256Fingerprint: hex.EncodeToString(sha256sum[:]),
		SHA1Fingerprint:   hex.EncodeToString(sha1sum[:]),
		NotBefore:         cert.NotBefore,
		NotAfter:          cert.NotAfter,
	}, cert, nil
}

// CAState is where in its life a CA is.
type CAState string

const (
	Published   CAState = "published"     // clients should hold it; it does not sign yet
	CrossSigned CAState = "cross-signed"  // it signs, and is served with a cross-certificate by the one before
	Signing     CAState = "signing"       // it signs, and clients must hold it
	Retiring    CAState = "retiring"      // its successor signs; it is still in the bundle
	Retired     CAState = "retired"       // it left the bundle
	Compromised CAState = "compromised"   // it was given up
	PassedOver  CAState = "passed-over"   // in the bundle, but it does not permit the names that are needed to sign
	NotYetValid CAState = "not-yet-valid" // it was made when the clock was ahead
)

// CADescription is one generation.
type CADescription struct {
	Description
	Generation    int
	State         CAState
	Signs         bool
	CrossSignedBy int       // the generation by which it has a cross-certificate; 0: none
	Constrained   bool      // whether it has name constraints
	Activated     time.Time // zero: not yet
	Retired       time.Time // zero: not yet
}

// LeafDescription is a server certificate.
type LeafDescription struct {
	Description
	Issuer     int      // generation
	Names      []string // every name in it
	Waiting    []string // names that it is to have once no CA that forbids them matters any more
	RenewalDue time.Time
}

// Overview is all there is to show of an instance's certificates.
type Overview struct {
	CAs         []CADescription // oldest first, retired ones too
	Leaf        *LeafDescription
	Next        *LeafDescription // what NextChain presents; nil while only one CA is published
	CrossServed bool             // whether a cross-certificate is served beside the leaf
	Upcoming    []Action         // soonest first
	Warnings    []string         // what Plan cannot mend
}

// Overview describes all certificates.
func (v View) Overview() (Overview, error) {
	out := Overview{CrossServed: v.crossServed(), Upcoming: v.Upcoming()}
	for _, a := range v.all {
		d, cert, err := describe(a.Certificate)
		if err != nil {
			return Overview{}, fmt.Errorf("%s: %w", caName(a.Generation), err)
		}
		c := CADescription{Description: d, Generation: a.Generation, State: v.stateOf(a), CrossSignedBy: a.CrossedBy, Constrained: constrained(cert)}
		c.Signs = c.State == Signing || c.State == CrossSigned
		if v.counts(a.Activated) {
			c.Activated = a.Activated
		}
		if v.counts(a.Retired) {
			c.Retired = a.Retired
		}
		out.CAs = append(out.CAs, c)
	}
	var err error
	if out.Leaf, err = v.describeLeaf(v.state.Leaf); err != nil {
		return Overview{}, err
	}
	if v.nextServed() {
		if out.Next, err = v.describeLeaf(v.state.Next); err != nil {
			return Overview{}, err
		}
	}
	if v.clockBehind {
		out.Warnings = append(out.Warnings, v.clockBehindWarning())
	} else if out.Leaf != nil && len(out.Leaf.Waiting) > 0 {
		out.Warnings = append(out.Warnings, v.waitingWarning(out.Leaf.Waiting))
	}
	if warning := v.constraintsWarning(); warning != "" {
		out.Warnings = append(out.Warnings, warning)
	}
	return out, nil
}

func (v View) stateOf(a authority) CAState {
	switch {
	case !a.Compromised.IsZero():
		return Compromised
	case v.now.Before(a.notBefore):
		return NotYetValid
	}
	for i, l := range v.signing {
		switch {
		case l.Generation != a.Generation:
		case i < v.signer:
			return Retiring
		case i > v.signer:
			return Published
		case v.crossServed():
			return CrossSigned
		default:
			return Signing
		}
	}
	if slices.ContainsFunc(v.live, func(l authority) bool { return l.Generation == a.Generation }) {
		return PassedOver
	}
	return Retired
}

func (v View) describeLeaf(l *Leaf) (*LeafDescription, error) {
	if l == nil {
		return nil, nil
	}
	d, cert, err := describe(l.Certificate)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	out := &LeafDescription{Description: d, Issuer: l.Issuer, Names: cert.DNSNames, Waiting: v.state.Names.without(l.Names), RenewalDue: v.renewal(l)}
	for _, ip := range cert.IPAddresses {
		out.Names = append(out.Names, ip.String())
	}
	for _, u := range cert.URIs {
		out.Names = append(out.Names, u.String())
	}
	return out, nil
}

func (v View) clockBehindWarning() string {
	var first time.Time
	for _, a := range v.all {
		if a.Compromised.IsZero() && (first.IsZero() || a.notBefore.Before(first)) {
			first = a.notBefore
		}
	}
	return fmt.Sprintf("the clock is before %s, from when the first certificate authority is valid: set the clock right, or, if it is right now, start the next generation",
		first.Format(time.RFC3339))
}

func (v View) waitingWarning(names []string) string {
	var forbid []string
	for _, a := range v.signing {
		if len(v.state.Names.without(a.permitted(v.state.Names))) > 0 {
			forbid = append(forbid, caName(a.Generation))
		}
	}
	by := strings.Join(forbid, " and ")
	return fmt.Sprintf("%s: not in the server certificate yet, for clients that hold nothing newer than %s would refuse it: have them install the bundle, then activate the next generation and retire %s",
		strings.Join(names, ", "), by, by)
}

// constraintsWarning says which published CAs have name constraints that nobody asked for, as CAs of older versions of Sealane have,
// what that costs, and how to be rid of it; "": there are none.
func (v View) constraintsWarning() string {
	var with []string
	for _, a := range v.live {
		if constrained(a.cert) {
			with = append(with, caName(a.Generation))
		}
	}
	if len(with) == 0 || v.state.NameConstraints {
		return ""
	}
	has, all := "has", strings.Join(with, " and ")
	if len(with) > 1 {
		has = "have"
	}
	newest, out := v.live[len(v.live)-1], "start the next generation, which has none, and activate it once clients have it"
	if !constrained(newest.cert) {
		signs := "once it signs"
		if v.stateOf(newest) == Signing || v.stateOf(newest) == CrossSigned {
			signs = "as it signs now"
		}
		out = fmt.Sprintf("%s has none, so they connect %s, if they hold it (mbedTLS: and not %s)", caName(newest.Generation), signs, all)
	}
	return fmt.Sprintf("%s %s name constraints, and %s: %s", all, has, ConstraintsCost, out)
}

// Expiry is when one of the certificates in use expires.
type Expiry struct {
	Name     string // "ca-1", "cross-2" (of CA-2), "leaf", "next-leaf", "peer"
	NotAfter time.Time
}

// Expiries are those of every published CA and of whatever is presented.
func (v View) Expiries() []Expiry {
	var out []Expiry
	add := func(name string, der []byte) {
		if d, err := Describe(der); err == nil {
			out = append(out, Expiry{name, d.NotAfter})
		}
	}
	for _, ca := range v.live {
		add(fmt.Sprintf("ca-%d", ca.Generation), ca.Certificate)
	}
	if v.crossServed() {
		add(fmt.Sprintf("cross-%d", v.signing[v.signer].Generation), v.signing[v.signer].Cross)
	}
	if v.state.Leaf != nil {
		add("leaf", v.state.Leaf.Certificate)
	}
	if v.nextServed() {
		add("next-leaf", v.state.Next.Certificate)
	}
	if v.state.Peers && v.state.Peer != nil {
		add("peer", v.state.Peer.Certificate)
	}
	return out
}

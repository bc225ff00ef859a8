// Package pki knows which certificates should exist: the CA of an instance, the server certificate (leaf) that it
// signs, the bundle that clients install.
//
// Plan says what is to be done and why; it is a pure function of what exists and the time. State.Do carries one
// action out and returns a new State; nothing here reads a clock, a file or the network. Guaranteed: a State that
// Do returned holds a leaf that verifies, for every name asked for, against its CA; private keys are in it only
// sealed under the master key; a leaf never outlives its issuer; every CA is limited by critical name
// constraints to the names it was made for, so that one installed in a system's trust store can
// impersonate nothing else.
//
// Not here yet: the second CA generation, its cross-certificate and what retires the first.
package pki

import (
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	day = 24 * time.Hour

	caLifetime   = 3650 * day
	leafLifetime = 270 * day
	leafRenewal  = 180 * day

	// backdate lets a client whose clock is a little slow accept a certificate made just now.
	backdate = time.Minute
)

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
	URI string // the instance's identity, spiffe://…
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

// State is all that is remembered of one instance's certificates. It is a value: Do returns a changed copy.
type State struct {
	Algorithm Algorithm `json:",omitempty"`
	Names     Names     // wanted; the leaf has those it was issued with
	CAs       []CA      // oldest first
	Leaf      *Leaf     `json:",omitempty"`
}

// CA is one generation of an instance's certificate authority.
type CA struct {
	Generation  int       // 1 for the first
	Created     time.Time // the certificate's notBefore is a minute earlier
	Certificate []byte    // DER
	SealedKey   []byte
}

// Leaf is a server certificate.
type Leaf struct {
	Issuer      int // the generation of the CA that signed it
	Created     time.Time
	Names       Names
	Certificate []byte // DER
	SealedKey   []byte
}

// Kind names what an Action does.
type Kind string

const (
	CreateCA  Kind = "create-ca"
	IssueLeaf Kind = "issue-leaf"
)

// Action is one step of a plan, with a reason that a user can read.
type Action struct {
	Kind   Kind
	Reason string
}

// Plan says what has to be done at the time now, in order; nothing when all is as it should be.
func Plan(s State, now time.Time) []Action {
	now = now.Truncate(time.Second) // certificates know no smaller unit
	if len(s.CAs) == 0 {
		return []Action{{CreateCA, "the instance has no certificate authority"}, {IssueLeaf, "the certificate authority is new"}}
	}
	if reason := leafDue(s, now); reason != "" {
		return []Action{{IssueLeaf, reason}}
	}
	return nil
}

// leafDue returns why a new leaf is to be issued, or "".
func leafDue(s State, now time.Time) string {
	switch {
	case s.Leaf == nil:
		return "the instance has no server certificate"
	case !s.Leaf.Names.Equal(s.Names):
		return "the names or addresses of the instance changed"
	case s.Leaf.Issuer != s.CAs[len(s.CAs)-1].Generation:
		return "another certificate authority signs now"
	case now.Before(s.Leaf.Created.Add(-backdate)):
		return fmt.Sprintf("the server certificate is not valid before %s: the clock was set back", s.Leaf.Created.Add(-backdate).Format(time.RFC3339))
	case !now.Before(s.Leaf.Created.Add(leafRenewal)):
		return fmt.Sprintf("the server certificate is of %s, %d days old", s.Leaf.Created.Format(time.DateOnly), int(now.Sub(s.Leaf.Created)/day))
	}
	return ""
}

// Do carries an action of a plan out, at the time now.
func (s State) Do(a Action, key MasterKey, now time.Time) (State, error) {
	now = now.UTC().Truncate(time.Second)
	switch a.Kind {
	case CreateCA:
		ca, err := newCA(s, key, now)
		if err != nil {
			return s, fmt.Errorf("create ca: %w", err)
		}
		s.CAs = append(slices.Clone(s.CAs), ca)
		return s, nil
	case IssueLeaf:
		leaf, err := newLeaf(s, key, now)
		if err != nil {
			return s, fmt.Errorf("issue leaf: %w", err)
		}
		s.Leaf = leaf
		return s, nil
	default:
		return s, fmt.Errorf("unknown action %q", a.Kind)
	}
}

// Bundle is every CA certificate that a client should trust, as PEM, oldest first.
func (s State) Bundle() []byte {
	var out []byte
	for _, ca := range s.CAs {
		out = append(out, EncodePEM(ca.Certificate)...)
	}
	return out
}

// Chain is what the server presents, as PEM, leaf first, with the leaf's private key as PEM (PKCS #8).
func (s State) Chain(key MasterKey) (chain, privateKey []byte, err error) {
	if s.Leaf == nil {
		return nil, nil, fmt.Errorf("no server certificate has been issued")
	}
	der, err := key.Open(s.Leaf.SealedKey, leafPurpose(s.Names.URI))
	if err != nil {
		return nil, nil, fmt.Errorf("server certificate's key: %w", err)
	}
	return EncodePEM(s.Leaf.Certificate), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// EncodePEM returns a certificate as PEM.
func EncodePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// Description is what people and the API are shown of a certificate.
type Description struct {
	PEM             string
	Serial          string // decimal
	SHA1Fingerprint string // of the DER, lower-case hexadecimal without colons
	NotBefore       time.Time
	NotAfter        time.Time
}

// Describe reads a certificate.
func Describe(der []byte) (Description, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Description{}, fmt.Errorf("parse certificate: %w", err)
	}
	// SHA-1 names the certificate as the API does; nothing is trusted because of it.
	sum := sha1.Sum(der)
	return Description{
		PEM:             string(EncodePEM(der)),
		Serial:          cert.SerialNumber.String(),
		SHA1Fingerprint: hex.EncodeToString(sum[:]),
		NotBefore:       cert.NotBefore,
		NotAfter:        cert.NotAfter,
	}, nil
}

// Expiry is when one of the certificates in use expires.
type Expiry struct {
	Name     string // "leaf", "ca-1", …
	NotAfter time.Time
}

// Expiries are those of the leaf and of every CA.
func (s State) Expiries() []Expiry {
	var out []Expiry
	add := func(name string, der []byte) {
		if d, err := Describe(der); err == nil {
			out = append(out, Expiry{name, d.NotAfter})
		}
	}
	for _, ca := range s.CAs {
		add(fmt.Sprintf("ca-%d", ca.Generation), ca.Certificate)
	}
	if s.Leaf != nil {
		add("leaf", s.Leaf.Certificate)
	}
	return out
}

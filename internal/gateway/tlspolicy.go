package gateway

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
)

// TLSPolicy narrows what TLS clients may speak. The zero value allows all that the gateway speaks.
type TLSPolicy struct {
	// MinTLSVersion is "1.2" or "1.3". "": 1.2.
	MinTLSVersion string `json:"min_tls_version,omitempty"`
	// Groups are the key exchanges to allow: X25519MLKEM768, X25519, P-256, P-384. Their order means nothing. None: all.
	Groups []string `json:"groups,omitempty"`
	// TLS12Ciphers are the cipher suites to allow in TLS 1.2, by their IANA names: ECDHE with AEAD, others are not to be
	// had. Those for another kind of key than the certificate's change nothing. None: all.
	TLS12Ciphers []string `json:"tls12_ciphers,omitempty"`
}

// Check returns what is wrong with a policy for a server with this certificate, all of it; each error begins with the JSON name
// of the field.
func (t TLSPolicy) Check(leaf *x509.Certificate) []error {
	_, p := t.policy(leaf)
	return p
}

// policy is what TLS the gateway speaks.
type policy struct {
	min      uint16
	groups   []tls.CurveID
	suites12 []uint16
}

// named is something that a snapshot names.
type named[T comparable] struct {
	name  string
	value T
}

// In the order of preference, which is crypto/tls's own whatever the order in a configuration.
var (
	knownGroups = []named[tls.CurveID]{
		{"X25519MLKEM768", tls.X25519MLKEM768}, {"X25519", tls.X25519}, {"P-256", tls.CurveP256}, {"P-384", tls.CurveP384},
	}
	// With forward secrecy and AEAD; the others are not to be had. The first three are for ECDSA and Ed25519, the rest for
	// RSA keys.
	knownSuites12 = []named[uint16]{
		{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
		{"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
		{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
		{"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384},
		{"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256},
	}
	suites13 = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}
)

// lookUp returns the known values that have these names; no names mean all values.
func lookUp[T comparable](p *problems, field string, names []string, known []named[T]) (chosen []T) {
	all := make([]string, len(known))
	for i, k := range known {
		all[i] = k.name
		if len(names) == 0 {
			chosen = append(chosen, k.value)
		}
	}
	for i, name := range names {
		k := slices.Index(all, name)
		switch {
		case k < 0:
			p.add("%s[%d] %.60q: must be one of %s", field, i, name, strings.Join(all, ", "))
		case slices.Contains(chosen, known[k].value):
			p.add("%s[%d] %q: is there twice", field, i, name)
		default:
			chosen = append(chosen, known[k].value)
		}
	}
	return chosen
}

// policy returns what is asked for, with a certificate of this kind; nil: not known.
func (t TLSPolicy) policy(leaf *x509.Certificate) (policy, problems) {
	var p problems
	v := policy{min: tls.VersionTLS12}
	switch t.MinTLSVersion {
	case "", "1.2":
	case "1.3":
		v.min = tls.VersionTLS13
		if len(t.TLS12Ciphers) > 0 {
			p.add(`tls12_ciphers: are for TLS 1.2, and min_tls_version is "1.3": leave them out`)
		}
	default:
		p.add(`min_tls_version %.20q: must be "1.2" or "1.3"`, t.MinTLSVersion)
	}
	v.groups = lookUp(&p, "groups", t.Groups, knownGroups)
	suites := lookUp(&p, "tls12_ciphers", t.TLS12Ciphers, knownSuites12)
	if leaf == nil {
		return v, p
	}
	_, isRSA := leaf.PublicKey.(*rsa.PublicKey)
	for _, k := range knownSuites12 {
		if slices.Contains(suites, k.value) && strings.HasPrefix(k.name, "TLS_ECDHE_RSA_") == isRSA {
			v.suites12 = append(v.suites12, k.value)
		}
	}
	if len(v.suites12) == 0 && len(p) == 0 && v.min == tls.VersionTLS12 {
		p.add(`tls12_ciphers %.200q: none is for the certificate's %v key: add one, or make min_tls_version "1.3"`, t.TLS12Ciphers, leaf.PublicKeyAlgorithm)
	}
	return v, p
}

// sameTLS says whether sessions of one snapshot may be resumed under the other: not when anchors came or went, though the
// certificate that they were made with stays.
func (s Snapshot) sameTLS(o Snapshot) bool {
	return bytes.Equal(s.Certificate, o.Certificate) && bytes.Equal(s.PrivateKey, o.PrivateKey) &&
		slices.Equal(s.Anchors, o.Anchors) && s.Next.sameTLS(o.Next) && s.NextCross.sameTLS(o.NextCross) &&
		s.MinTLSVersion == o.MinTLSVersion && slices.Equal(s.Groups, o.Groups) && slices.Equal(s.TLS12Ciphers, o.TLS12Ciphers)
}

func (n *NextChain) sameTLS(o *NextChain) bool {
	if n == nil || o == nil {
		return n == o
	}
	return n.Name == o.Name && bytes.Equal(n.Certificate, o.Certificate) && bytes.Equal(n.PrivateKey, o.PrivateKey) && slices.Equal(n.Anchors, o.Anchors)
}

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
	// TLS12Ciphers are the cipher suites to allow in TLS 1.2, by their IANA names. Only suites with ECDHE and AEAD can be allowed. Those for
	// another kind of key than the certificate's have no effect. None: all.
	TLS12Ciphers []string `json:"tls12_ciphers,omitempty"`
}

// Check returns everything that is wrong with a policy for a server with this certificate. Each error begins with the JSON name of the
// field. leaf may be nil: then what depends on the kind of its key is not checked.
func (t TLSPolicy) Check(leaf *x509.Certificate) []error {
	_, p := t.policy(leaf)
	return p
}

// policy is a TLSPolicy in the values of crypto/tls, for a certificate with one kind of key.
type policy struct {
	min      uint16 // TLS version
	groups   []tls.CurveID
	suites12 []uint16
}

// named is a value of crypto/tls and its name in a snapshot.
type named[T comparable] struct {
	name  string
	value T
}

// What can be allowed. The order is that of preference, which is crypto/tls's own: it ignores the order of a configuration.
var (
	knownGroups = []named[tls.CurveID]{
		{"X25519MLKEM768", tls.X25519MLKEM768}, {"X25519", tls.X25519}, {"P-256", tls.CurveP256}, {"P-384", tls.CurveP384},
	}
	// All suites of TLS 1.2 with forward secrecy and AEAD. The first three are for ECDSA and Ed25519 keys, the rest for RSA keys.
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

// policy returns the policy for a server with this certificate, and what is wrong with it. leaf may be nil: see Check.
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

// sameTLS reports whether a session that was made under one snapshot may be resumed under the other. It may not where the anchors differ,
// even for the same certificate: what the session's first handshake has shown is not true of the new anchors.
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

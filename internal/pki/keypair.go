package pki

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// KeyPair parses a chain in PEM, leaf first, and the leaf's key, and returns everything that is wrong with them. The errors name the fields
// certificate and private_key, which begin with prefix. A parser's error is never passed on, because what it says about a key may quote
// the key.
func KeyPair(prefix string, chain, private []byte) (cert tls.Certificate, problems []error) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(prefix+format, args...)) }
	certs, rest, err := DecodePEM(chain)
	switch {
	case err != nil:
		add("certificate: %v: must be a PEM chain, leaf first", err)
	case len(bytes.TrimSpace(rest)) > 0:
		add("certificate %.40q: must be a PEM chain, leaf first", rest)
	}
	for _, c := range certs {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	if len(certs) > 0 {
		cert.Leaf = certs[0]
	}
	block, rest := pem.Decode(private)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		add("private_key (%d bytes, not shown): must be one PEM block of type PRIVATE KEY", len(private))
		return cert, problems
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		add("private_key (%d bytes, not shown): is not PKCS#8", len(private))
		return cert, problems
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		add("private_key (%T, not shown): cannot sign", key)
		return cert, problems
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if cert.Leaf != nil && (!ok || !public.Equal(cert.Leaf.PublicKey)) {
		add("private_key (%T, not shown): is not the key of the first certificate, %.80q", key, cert.Leaf.Subject)
	}
	cert.PrivateKey = key
	return cert, problems
}

package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/google/uuid"
)

// noName is permitted in place of a kind of name that an instance doesn't have: an absent list of permitted
// names would mean that all are permitted (RFC 5280, 4.2.1.10). The domain cannot exist (RFC 2606).
const noName = "sealane.invalid"

var oidDNQualifier = asn1.ObjectIdentifier{2, 5, 4, 46}

func newCA(s State, key MasterKey, now time.Time) (CA, error) {
	generation := 1
	if n := len(s.CAs); n > 0 {
		generation = s.CAs[n-1].Generation + 1
	}
	signer, err := newKey(s.Algorithm)
	if err != nil {
		return CA{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return CA{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// A subject of its own for every CA: a client that holds several must not build a path by name to the
		// wrong key.
		Subject: pkix.Name{
			CommonName: "Sealane Redis Server CA",
			ExtraNames: []pkix.AttributeTypeAndValue{{Type: oidDNQualifier, Value: uuid.NewString()}},
		},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1, // the cross-certificate of the next generation hangs below
	}
	if err := constrain(template, s.Names); err != nil {
		return CA{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		return CA{}, err
	}
	sealed, err := sealKey(key, signer, caPurpose(s.Names.URI, generation))
	if err != nil {
		return CA{}, err
	}
	return CA{Generation: generation, Created: now, Certificate: der, SealedKey: sealed}, nil
}

// constrain limits a CA to names.
func constrain(template *x509.Certificate, names Names) error {
	template.PermittedDNSDomainsCritical = true // makes the whole extension critical
	template.PermittedDNSDomains = names.DNS
	if len(names.DNS) == 0 {
		template.PermittedDNSDomains = []string{noName}
	}
	for _, ip := range names.IPs {
		ip = ip.Unmap()
		template.PermittedIPRanges = append(template.PermittedIPRanges,
			&net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())})
	}
	if len(names.IPs) == 0 {
		// RFC 5735's "this host": no packet can come from it.
		template.PermittedIPRanges = []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(32, 32)}}
	}
	template.PermittedURIDomains = []string{noName}
	if names.URI != "" {
		u, err := url.Parse(names.URI)
		if err != nil || u.Host == "" {
			return fmt.Errorf("uri %q: want scheme://host/path", names.URI)
		}
		template.PermittedURIDomains = []string{u.Host}
	}
	template.PermittedEmailAddresses = []string{noName}
	return nil
}

func newLeaf(s State, key MasterKey, now time.Time) (*Leaf, error) {
	if len(s.CAs) == 0 {
		return nil, errors.New("there is no certificate authority to sign it")
	}
	ca := s.CAs[len(s.CAs)-1]
	issuer, err := x509.ParseCertificate(ca.Certificate)
	if err != nil {
		return nil, fmt.Errorf("ca %d: %w", ca.Generation, err)
	}
	caSigner, err := openKey(key, ca.SealedKey, caPurpose(s.Names.URI, ca.Generation))
	if err != nil {
		return nil, fmt.Errorf("ca %d: %w", ca.Generation, err)
	}
	signer, err := newKey(s.Algorithm)
	if err != nil {
		return nil, err
	}
	template, err := leafTemplate(s.Names, issuer, signer, now)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, signer.Public(), caSigner)
	if err != nil {
		return nil, err
	}
	if err := checkLeaf(der, issuer, s.Names, now); err != nil {
		return nil, err
	}
	sealed, err := sealKey(key, signer, leafPurpose(s.Names.URI))
	if err != nil {
		return nil, err
	}
	return &Leaf{Issuer: ca.Generation, Created: now, Names: s.Names, Certificate: der, SealedKey: sealed}, nil
}

func leafTemplate(names Names, issuer *x509.Certificate, signer crypto.Signer, now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// Not an address: OpenSSL holds a common name that looks like a host name against the constraints.
		Subject:     pkix.Name{CommonName: "Sealane Redis Server"},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(leafLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    names.DNS,
	}
	if template.NotBefore.Before(issuer.NotBefore) {
		template.NotBefore = issuer.NotBefore
	}
	if template.NotAfter.After(issuer.NotAfter) {
		template.NotAfter = issuer.NotAfter
	}
	if _, ok := signer.(*rsa.PrivateKey); ok {
		template.KeyUsage |= x509.KeyUsageKeyEncipherment // TLS 1.2 clients of that age ask for it
	}
	for _, ip := range names.IPs {
		template.IPAddresses = append(template.IPAddresses, ip.Unmap().AsSlice())
	}
	if names.URI != "" {
		u, err := url.Parse(names.URI)
		if err != nil {
			return nil, fmt.Errorf("uri: %w", err)
		}
		template.URIs = []*url.URL{u}
	}
	return template, nil
}

// checkLeaf verifies a new leaf as a client would, for every name, before anybody is shown it.
func checkLeaf(der []byte, issuer *x509.Certificate, names Names, now time.Time) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(issuer)
	hosts := slices.Clone(names.DNS)
	for _, ip := range names.IPs {
		hosts = append(hosts, ip.Unmap().String())
	}
	for _, host := range append(hosts, "") { // "" checks the chain alone
		opts := x509.VerifyOptions{Roots: roots, CurrentTime: now, DNSName: host}
		if _, err := leaf.Verify(opts); err != nil {
			return fmt.Errorf("new certificate does not verify for %q: %w", host, err)
		}
	}
	return nil
}

func newKey(a Algorithm) (crypto.Signer, error) {
	switch a {
	case ECDSAP256, "":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	default:
		return nil, fmt.Errorf("key algorithm %q: want %s or %s", a, ECDSAP256, RSA2048)
	}
}

// newSerial returns 127 random bits: positive, unique and within the 20 bytes of RFC 5280, 4.1.2.2.
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return n.Add(n, big.NewInt(1)), nil
}

func sealKey(key MasterKey, signer crypto.Signer, purpose string) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return nil, err
	}
	return key.Seal(der, purpose), nil
}

func openKey(key MasterKey, sealed []byte, purpose string) (crypto.Signer, error) {
	der, err := key.Open(sealed, purpose)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("private key: not PKCS #8") // the parser's error could quote the key
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("private key: %T cannot sign", parsed)
	}
	return signer, nil
}

func caPurpose(uri string, generation int) string { return fmt.Sprintf("ca %d of %s", generation, uri) }
func leafPurpose(uri string) string               { return "leaf of " + uri }

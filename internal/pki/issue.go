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
	"strings"
	"time"

	"github.com/google/uuid"
)

// noName is the only name that is permitted of a kind that the instance doesn't have: an absent list of permitted names would
// mean that all are permitted (RFC 5280, 4.2.1.10). The domain cannot exist (RFC 2606).
const noName = "sealane.invalid"

var oidDNQualifier = asn1.ObjectIdentifier{2, 5, 4, 46}

// Signed is a certificate that an action signed, for the record.
type Signed struct {
	Kind        Kind   // of the action: what sort of certificate it is
	Generation  int    // the CA that it is of, or that signed the leaf
	Issuer      int    // the CA that signed it
	Reason      string // of the action
	Certificate []byte // DER
}

// Do carries one action of a plan out, at the time now. What it signed has to be recorded before the new State is used. After
// an error the State that it returns is the old one.
func (s State) Do(a Action, key MasterKey, now time.Time) (State, []Signed, error) {
	next, signed, err := s.do(a, key, second(now))
	if err != nil {
		return s, nil, fmt.Errorf("%s: %w", strings.ReplaceAll(string(a.Kind), "-", " "), err)
	}
	return next, signed, nil
}

// DoAll carries actions out in turn. An action that fails is left out, and those that don't build on it are done all the same. The
// error says what is missing from the State that it returns.
func (s State) DoAll(actions []Action, key MasterKey, now time.Time) (State, []Signed, error) {
	var all []Signed
	var failures []error
	for _, a := range actions {
		next, signed, err := s.Do(a, key, now)
		if err != nil {
			failures = append(failures, err)
		}
		s, all = next, append(all, signed...)
	}
	return s, all, errors.Join(failures...)
}

func (s State) do(a Action, key MasterKey, now time.Time) (next State, signed []Signed, err error) {
	if err := s.check(a, now); err != nil {
		return s, nil, err
	}
	next = s.apply(a, now)
	at := slices.IndexFunc(next.CAs, func(ca CA) bool { return ca.Generation == a.Generation })
	record := func(issuer int, der []byte) {
		signed = append(signed, Signed{a.Kind, a.Generation, issuer, a.Reason, der})
	}
	switch a.Kind {
	case CreateCA:
		ca := &next.CAs[at]
		if ca.Certificate, ca.SealedKey, err = newCA(s, a.Generation, key, now); err == nil {
			record(a.Generation, ca.Certificate)
		}
	case SignCross:
		ca := &next.CAs[at]
		if ca.Cross, err = signCross(s, *ca, key); err == nil {
			record(ca.CrossedBy, ca.Cross)
		}
	case IssueLeaf:
		if err = newLeaf(s, next.Leaf, s.At(now).leafPath(), leafPurpose(s.Names.URI), key, now); err == nil {
			record(a.Generation, next.Leaf.Certificate)
		}
	case IssueNextLeaf:
		if err = newLeaf(s, next.Next, trustPath{issuer: s.At(now).newest()}, nextPurpose(s.Names.URI), key, now); err == nil {
			record(a.Generation, next.Next.Certificate)
		}
	case IssuePeer:
		if err = newPeer(s, next.Peer, s.At(now).peerPath(a.Generation), key, now); err == nil {
			record(a.Generation, next.Peer.Certificate)
		}
	}
	return next, signed, err
}

// check refuses actions that make no sense for the State, such as those that build on one that failed.
func (s State) check(a Action, now time.Time) error {
	v := s.At(now)
	at := slices.IndexFunc(v.signing, func(l authority) bool { return l.Generation == a.Generation })
	known := slices.ContainsFunc(s.CAs, func(ca CA) bool { return ca.Generation == a.Generation && ca.Compromised.IsZero() })
	ok := true
	switch a.Kind {
	case CreateCA:
		ok = a.Generation == s.nextGeneration()
	case SignCross:
		ok = at > 0
	case ActivateCA:
		ok = at > 0 && (v.crossed(at) || !v.needsCross(at))
	case IssueLeaf:
		ok = !v.clockBehind && at >= 0 && at == v.signer
	case IssueNextLeaf:
		ok = !v.clockBehind && at > 0 && at == len(v.signing)-1
	case IssuePeer:
		ok = s.Peers && !v.clockBehind && slices.ContainsFunc(v.live, func(l authority) bool { return l.Generation == a.Generation })
	case EndCross, RetireCA, CompromiseCA:
		ok = known
	default:
		return fmt.Errorf("unknown action %q", a.Kind)
	}
	if !ok {
		return errors.New("not as things stand: plan anew")
	}
	return nil
}

// newCA makes a self-signed CA.
func newCA(s State, generation int, key MasterKey, now time.Time) (der, sealed []byte, err error) {
	signer, err := newKey(s.Algorithm)
	if err != nil {
		return nil, nil, err
	}
	life := s.Lifetimes.orDefaults()
	template, err := caTemplate(now.Add(-life.Backdate), now.Add(life.CA))
	if err != nil {
		return nil, nil, err
	}
	// A subject of its own for every CA: a client that holds several must not build a path by name to the wrong key.
	template.Subject = pkix.Name{
		CommonName: "Sealane Redis Server CA",
		ExtraNames: []pkix.AttributeTypeAndValue{{Type: oidDNQualifier, Value: uuid.NewString()}},
	}
	template.MaxPathLen = 1 // the cross-certificate of the next generation hangs below
	if s.NameConstraints {
		if err := constrain(template, s.Names); err != nil {
			return nil, nil, err
		}
	}
	if der, err = x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer); err != nil {
		return nil, nil, err
	}
	sealed, err = sealKey(key, signer, caPurpose(s.Names.URI, generation))
	return der, sealed, err
}

func caTemplate(notBefore, notAfter time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	return &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}, err
}

// signCross makes the cross-certificate of ca: a certificate for ca's subject and key, signed by the CA before (ca.CrossedBy). A
// client that trusts only the CA before takes it for an intermediate CA. It has no name constraints, even where both CAs have
// them: the issuer's hold below it anyway, and OTP and BearSSL, which can use a CA with constraints, can't use an intermediate
// with constraints.
func signCross(s State, ca CA, key MasterKey) ([]byte, error) {
	issuer, issuerKey, err := s.issuer(ca.CrossedBy, key)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(ca.Certificate)
	if err != nil {
		return nil, err
	}
	template, err := caTemplate(later(root.NotBefore, issuer.NotBefore), earlier(root.NotAfter, issuer.NotAfter))
	if err != nil {
		return nil, err
	}
	template.RawSubject, template.SubjectKeyId = root.RawSubject, root.SubjectKeyId
	template.MaxPathLenZero = true
	return x509.CreateCertificate(rand.Reader, template, issuer, root.PublicKey, issuerKey)
}

// issuer returns the certificate and the key of a generation.
func (s State) issuer(generation int, key MasterKey) (*x509.Certificate, crypto.Signer, error) {
	for _, ca := range s.CAs {
		if ca.Generation != generation {
			continue
		}
		cert, err := x509.ParseCertificate(ca.Certificate)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", caName(generation), err)
		}
		signer, err := openKey(key, ca.SealedKey, caPurpose(s.Names.URI, generation))
		if err != nil {
			return nil, nil, fmt.Errorf("key of %s: %w", caName(generation), err)
		}
		return cert, signer, nil
	}
	return nil, nil, fmt.Errorf("there is no %s", caName(generation))
}

// constrain limits a CA to names.
func constrain(template *x509.Certificate, names Names) error {
	template.PermittedDNSDomainsCritical = true // makes the whole extension critical
	template.PermittedDNSDomains = append(slices.Clone(names.DNS), NextName)
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

// newLeaf makes the key and the certificate of a leaf that has all but these.
func newLeaf(s State, l *Leaf, path trustPath, purpose string, key MasterKey, now time.Time) error {
	return sign(s, l, path, purpose, key, now, func(template *x509.Certificate) {
		if path.permits(NextName) {
			template.DNSNames = append(slices.Clone(l.Names.DNS), NextName, NextCrossName)
		}
	})
}

// newPeer is newLeaf for the peer certificate.
func newPeer(s State, l *Leaf, path trustPath, key MasterKey, now time.Time) error {
	return sign(s, l, path, peerPurpose(s.Names.URI), key, now, func(template *x509.Certificate) {
		template.Subject.CommonName = "Sealane Redis Node"
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	})
}

// sign makes the key and the certificate of a leaf whose template adjust completes.
func sign(s State, l *Leaf, path trustPath, purpose string, key MasterKey, now time.Time, adjust func(template *x509.Certificate)) error {
	issuer, issuerKey, err := s.issuer(l.Issuer, key)
	if err != nil {
		return err
	}
	signer, err := newKey(s.Algorithm)
	if err != nil {
		return err
	}
	template, err := leafTemplate(l.Names, issuer, signer, now, s.Lifetimes.orDefaults())
	if err != nil {
		return err
	}
	adjust(template)
	if l.Certificate, err = x509.CreateCertificate(rand.Reader, template, issuer, signer.Public(), issuerKey); err != nil {
		return err
	}
	if err := path.check(l.Certificate, now); err != nil {
		return err
	}
	l.SealedKey, err = sealKey(key, signer, purpose)
	return err
}

func leafTemplate(names Names, issuer *x509.Certificate, signer crypto.Signer, now time.Time, life Lifetimes) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The common name is no address, because OpenSSL checks one that looks like a host name against the CA's name constraints.
		Subject:     pkix.Name{CommonName: "Sealane Redis Server"},
		NotBefore:   later(now.Add(-life.Backdate), issuer.NotBefore),
		NotAfter:    earlier(now.Add(life.Leaf), issuer.NotAfter),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    names.DNS,
	}
	if _, ok := signer.(*rsa.PrivateKey); ok {
		template.KeyUsage |= x509.KeyUsageKeyEncipherment // clients that need RSA may want it, for TLS 1.2
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

// trustPath is by which CAs a leaf is verified: by its issuer, and where the cross-certificate is served by the CA before.
type trustPath struct {
	issuer, before authority // before has no certificate where the cross-certificate isn't served
}

func (v View) leafPath() trustPath {
	p := trustPath{issuer: v.signing[v.signer]}
	if v.crossServed() {
		p.before = v.signing[v.signer-1]
	}
	return p
}

func (p trustPath) permits(name string) bool {
	n := Names{DNS: []string{name}}
	return len(p.before.permitted(p.issuer.permitted(n)).DNS) > 0
}

// check verifies a new leaf as clients with either CA would, for every name in it, before it is shown to anybody.
func (p trustPath) check(der []byte, now time.Time) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	hosts := append(slices.Clone(leaf.DNSNames), "") // "" checks the chain alone
	for _, ip := range leaf.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	for _, root := range []authority{p.issuer, p.before} {
		if root.cert == nil {
			continue
		}
		opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
		opts.Roots.AddCert(root.cert)
		opts.Intermediates.AppendCertsFromPEM(EncodePEM(p.issuer.Cross))
		for _, opts.DNSName = range hosts {
			for _, usage := range leaf.ExtKeyUsage {
				opts.KeyUsages = []x509.ExtKeyUsage{usage}
				if _, err := leaf.Verify(opts); err != nil {
					return fmt.Errorf("new certificate does not verify under %s for %q: %w", caName(root.Generation), opts.DNSName, err)
				}
			}
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
func nextPurpose(uri string) string               { return "next leaf of " + uri }
func peerPurpose(uri string) string               { return "peer of " + uri }

package diagnosis

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

// IdentityError says that a certificate is not that of the server with the identity Want.
type IdentityError struct {
	Want string
	Cert *x509.Certificate
}

func (e *IdentityError) Error() string {
	return "the certificate does not name " + e.Want
}

// Chain is what a server presents, and what it was held against.
type Chain struct {
	// Served is the chain as the server sends it, its own certificate first.
	Served []*x509.Certificate
	// Trusted are the CAs that the client trusts; nil where these are the machine's.
	Trusted []*x509.Certificate
	// Current are all CAs of the instance that is meant, from a source that is up to date. Nil: that is not known.
	Current []*x509.Certificate
	// Identity is the URI that the server's certificate must have, "" if it need not have one.
	Identity string
	Now      time.Time
}

// Explain says why the chain was refused, which err, from its verification, says only in part. It is "" if err is not about a
// certificate. Details: Cert, Why, Names, Identity, Trusted.
func (c Chain) Explain(err error) (Kind, Details) {
	leaf := c.Served[0]
	d := Details{Cert: leaf, Names: NamesOf(leaf), Identity: IdentityOf(leaf)}
	if _, ok := errors.AsType[*IdentityError](err); ok {
		if d.Identity == "" && len(leaf.URIs) > 0 {
			d.Names = []string{Printable(leaf.URIs[0].String())}
		}
		return WrongServer, d
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		if len(d.Names) == 0 {
			return NoNames, d
		}
		return NameMismatch, d
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return c.invalid(invalid, d)
	}
	if errors.As(err, new(x509.ConstraintViolationError)) || errors.As(err, new(x509.UnhandledCriticalExtension)) || errors.As(err, new(x509.InsecureAlgorithmError)) {
		d.Why = strings.TrimPrefix(err.Error(), "x509: ")
		return CertificateUnfit, d
	}
	if !errors.As(err, new(x509.UnknownAuthorityError)) && !errors.As(err, new(x509.SystemRootsError)) {
		return "", d
	}
	return c.unknownAuthority(err, d)
}

// invalid is about a certificate of the chain that its CA did sign.
func (c Chain) invalid(err x509.CertificateInvalidError, d Details) (Kind, Details) {
	switch {
	case err.Reason == x509.Expired && err.Cert.Equal(d.Cert) && c.Now.Before(err.Cert.NotBefore):
		return NotYetValid, d
	case err.Reason == x509.Expired && err.Cert.Equal(d.Cert):
		return Expired, d
	case err.Reason == x509.Expired && slices.ContainsFunc(c.Trusted, err.Cert.Equal) && c.Now.After(err.Cert.NotAfter):
		d.Cert = err.Cert
		return CAExpired, d
	case err.Reason == x509.Expired:
		d.Cert = err.Cert
		return IntermediateExpired, d
	case err.Reason == x509.IncompatibleUsage:
		d.Why = "its extended key usage is not that of a server"
	case err.Reason == x509.CANotAuthorizedForThisName:
		d.Why = "its CA may not sign for the names in it (name constraints)"
	default:
		d.Why = strings.TrimPrefix(err.Error(), "x509: ")
	}
	return CertificateUnfit, d
}

// unknownAuthority is about a chain that leads to no trusted CA.
func (c Chain) unknownAuthority(err error, d Details) (Kind, Details) {
	leaf := c.Served[0]
	if c.Identity != "" && d.Identity != "" && d.Identity != c.Identity {
		return WrongServer, d
	}
	if IsSelfSigned(leaf) {
		return SelfSigned, d
	}
	top := highest(c.Served)
	d.Cert = top
	for _, ca := range c.Trusted {
		if !bytes.Equal(ca.RawSubject, top.RawIssuer) {
			continue
		}
		signed := top.CheckSignatureFrom(ca)
		_, weak := errors.AsType[x509.InsecureAlgorithmError](signed)
		switch {
		case weak:
			d.Why = "it is signed with " + top.SignatureAlgorithm.String() + ", which is broken"
			return CertificateUnfit, d
		case signed == nil:
			d.Why = err.Error()
			return CertificateUnfit, d
		case !slices.ContainsFunc(c.Trusted, func(other *x509.Certificate) bool { return top.CheckSignatureFrom(other) == nil }):
			d.Trusted = ca
			return CAReplaced, d
		}
	}
	switch {
	case c.Current != nil && c.verifiesWith(c.Current):
		return CAUnknown, d
	case c.Current != nil:
		return WrongServerCA, d
	case c.likelyIntermediate(top):
		return IntermediateMissing, d
	}
	return CAUnknown, d
}

func (c Chain) verifiesWith(cas []*x509.Certificate) bool {
	roots := x509.NewCertPool()
	for _, ca := range cas {
		roots.AddCert(ca)
	}
	_, err := c.Served[0].Verify(OptionsWhenValid(c.Served, roots, c.Now))
	return err == nil
}

// likelyIntermediate tells an intermediate CA that is not sent from a root that is not trusted, as far as it can be told:
// certificates below an intermediate say where it is to be had, and organisations name it like their root.
func (c Chain) likelyIntermediate(top *x509.Certificate) bool {
	return len(top.IssuingCertificateURL) > 0 || slices.ContainsFunc(c.Trusted, func(ca *x509.Certificate) bool {
		return slices.ContainsFunc(ca.Subject.Organization, func(o string) bool { return slices.Contains(top.Issuer.Organization, o) })
	})
}

// highest follows the signatures among what is served, from the server's certificate on. What signed the result is not there.
func highest(served []*x509.Certificate) *x509.Certificate {
	top := served[0]
	for range served {
		i := slices.IndexFunc(served, func(c *x509.Certificate) bool { return !c.Equal(top) && top.CheckSignatureFrom(c) == nil })
		if i < 0 || IsSelfSigned(served[i]) {
			break
		}
		top = served[i]
	}
	return top
}

// Options are those of a client that verifies served at a time.
func Options(served []*x509.Certificate, roots *x509.CertPool, at time.Time) x509.VerifyOptions {
	intermediates := x509.NewCertPool()
	for _, c := range served[1:] {
		intermediates.AddCert(c)
	}
	return x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at}
}

// OptionsWhenValid are Options at the time next to now at which the server's own certificate is valid: whether a chain leads to a
// trusted CA is then no question of this machine's clock.
func OptionsWhenValid(served []*x509.Certificate, roots *x509.CertPool, now time.Time) x509.VerifyOptions {
	leaf := served[0]
	if now.Before(leaf.NotBefore) {
		now = leaf.NotBefore
	}
	if now.After(leaf.NotAfter) {
		now = leaf.NotAfter
	}
	return Options(served, roots, now)
}

// IsSelfSigned says that a certificate is signed by its own key.
func IsSelfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// NamesOf are the names of a certificate that a client may connect by.
func NamesOf(c *x509.Certificate) []string {
	var names []string
	for _, n := range c.DNSNames {
		names = append(names, Printable(n))
	}
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// IdentityOf is the instance of Sealane's that a certificate names, "" if none.
func IdentityOf(c *x509.Certificate) string {
	for _, u := range c.URIs {
		if _, _, _, ok := pki.ParseIdentity(u.String()); ok {
			return u.String()
		}
	}
	return ""
}

// CheckIdentity returns an *IdentityError unless the certificate has the URI.
func CheckIdentity(c *x509.Certificate, identity string) error {
	if slices.ContainsFunc(c.URIs, func(u *url.URL) bool { return u.String() == identity }) {
		return nil
	}
	return &IdentityError{identity, c}
}

// validity are the days for which a certificate is valid.
func validity(c *x509.Certificate) string {
	return fmt.Sprintf("from %s to %s", Date(c.NotBefore), Date(c.NotAfter))
}

package doctor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// soon is when a certificate's end is worth a warning. Sealane renews its own with 90 days left.
const soon = 30 * 24 * time.Hour

// chainStep verifies the chain alone. A leaf that is expired or not yet valid is held against a time when it was, so that
// the clock is no part of this.
func (x *exam) chainStep(context.Context) finding {
	served := x.seen.state.PeerCertificates
	chains, err := served[0].Verify(x.options(x.roots))
	if err != nil {
		return failed(x.explain(err), "%s", x.serving())
	}
	chain := best(chains)
	root := chain[len(chain)-1]
	detail := fmt.Sprintf("leads to %s", caName(root))
	if identityOf(served[0]) != "" && len(chain) > 2 {
		// A CA that a Sealane instance has moved to: its cross-certificate ends with the CA before it.
		return warned(x.caNextMissing(chain[1]), "%s by way of %s", detail, caName(chain[1]))
	}
	if i := slices.IndexFunc(chain, constrained); identityOf(served[0]) != "" && i >= 0 {
		return warned(x.nameConstraints(chain[i]), "%s, which has name constraints", detail)
	}
	return ok("%s", detail)
}

// options are those of a client that trusts roots, at a time when the leaf is valid.
func (x *exam) options(roots *x509.CertPool) x509.VerifyOptions {
	return optionsFor(x.seen.state.PeerCertificates, roots, x.Now())
}

func optionsFor(served []*x509.Certificate, roots *x509.CertPool, at time.Time) x509.VerifyOptions {
	if at.Before(served[0].NotBefore) {
		at = served[0].NotBefore
	}
	if at.After(served[0].NotAfter) {
		at = served[0].NotAfter
	}
	intermediates := x509.NewCertPool()
	for _, c := range served[1:] {
		intermediates.AddCert(c)
	}
	return x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at}
}

// constrained says whether a certificate has name constraints.
func constrained(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30}) })
}

// serving describes what the server sends.
func (x *exam) serving() string {
	served := x.seen.state.PeerCertificates
	return fmt.Sprintf("%d certificates are sent, the first signed by %s", len(served), issuerName(served[0]))
}

// best is the chain that lasts longest, and of those the shortest.
func best(chains [][]*x509.Certificate) []*x509.Certificate {
	return slices.MaxFunc(chains, func(a, b []*x509.Certificate) int {
		return cmp.Or(end(a).NotAfter.Compare(end(b).NotAfter), len(b)-len(a))
	})
}

// end is the certificate of a chain that expires first.
func end(chain []*x509.Certificate) *x509.Certificate {
	return slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
}

// explain says why the served chain doesn't verify, which err says only in part.
func (x *exam) explain(err error) Fault {
	served := x.seen.state.PeerCertificates
	leaf := served[0]
	if c, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if c.Reason == x509.Expired && slices.ContainsFunc(x.trusted, c.Cert.Equal) && x.Now().After(c.Cert.NotAfter) {
			return x.caExpired(c.Cert)
		}
		return x.certificateUnfit(unfit(c))
	}
	if other := x.otherInstance(leaf); other != "" {
		return x.wrongServer(other)
	}
	if isSelfSigned(leaf) {
		return x.selfSigned(leaf)
	}
	top := highest(served)
	for _, ca := range x.trusted {
		if !bytes.Equal(ca.RawSubject, top.RawIssuer) {
			continue
		}
		signed := top.CheckSignatureFrom(ca)
		_, weak := errors.AsType[x509.InsecureAlgorithmError](signed)
		switch {
		case weak:
			return x.certificateUnfit("it is signed with " + top.SignatureAlgorithm.String() + ", which is broken")
		case signed == nil:
			return x.certificateUnfit(printable(err.Error()))
		case !slices.ContainsFunc(x.trusted, func(c *x509.Certificate) bool { return top.CheckSignatureFrom(c) == nil }):
			return x.caReplaced(top, ca)
		}
	}
	if x.bundleWouldDo() {
		return x.caUnknown(top)
	}
	if x.Instance != nil {
		return x.wrongServer("")
	}
	if x.likelyIntermediate(top) {
		return x.intermediateMissing(top)
	}
	return x.caUnknown(top)
}

func unfit(c x509.CertificateInvalidError) string {
	switch c.Reason {
	case x509.IncompatibleUsage:
		return "its extended key usage is not that of a server"
	case x509.CANotAuthorizedForThisName:
		return "its CA may not sign for the names in it (name constraints)"
	case x509.Expired: // of what is above the leaf: the leaf is held against a time when it is valid
		return fmt.Sprintf("%s above it is valid from %s to %s only", caName(c.Cert), date(c.Cert.NotBefore), date(c.Cert.NotAfter))
	}
	return printable(strings.TrimPrefix(c.Error(), "x509: "))
}

// highest follows the signatures among what is served, from the leaf on; what signed the result is not there.
func highest(served []*x509.Certificate) *x509.Certificate {
	top := served[0]
	for range served {
		i := slices.IndexFunc(served, func(c *x509.Certificate) bool { return !c.Equal(top) && top.CheckSignatureFrom(c) == nil })
		if i < 0 || isSelfSigned(served[i]) {
			break
		}
		top = served[i]
	}
	return top
}

// bundleWouldDo says that the instance's own bundle verifies what the client's file doesn't.
func (x *exam) bundleWouldDo() bool {
	if x.CAFile == "" || x.Instance == nil {
		return false
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(x.Instance.Bundle)
	_, err := x.seen.state.PeerCertificates[0].Verify(x.options(roots))
	return err == nil
}

// likelyIntermediate tells an intermediate CA that is not sent from a root that is not trusted, as far as it can be told:
// certificates below an intermediate say where it is to be had, and organisations name it like their root.
func (x *exam) likelyIntermediate(top *x509.Certificate) bool {
	return len(top.IssuingCertificateURL) > 0 || slices.ContainsFunc(x.trusted, func(ca *x509.Certificate) bool {
		return slices.ContainsFunc(ca.Subject.Organization, func(o string) bool { return slices.Contains(top.Issuer.Organization, o) })
	})
}

// namesStep looks for the dialled host, and for the instance that is meant, in the certificate.
func (x *exam) namesStep(context.Context) finding {
	leaf := x.seen.state.PeerCertificates[0]
	if len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		return failed(x.noNames(leaf), "the certificate has no subject alternative names")
	}
	names := few(namesOf(leaf))
	if leaf.VerifyHostname(x.Host) != nil {
		return failed(x.nameMismatch(leaf), "the certificate is for %s", names)
	}
	identity := identityOf(leaf)
	switch {
	case x.Instance != nil && !hasIdentity(leaf, x.Instance.Identity):
		return failed(x.wrongServer(x.otherInstance(leaf)), "the certificate is for %s, and does not name %s", names, x.Instance.Identity)
	case identity != "":
		return ok("%s is in the certificate, as is %s", x.Host, identity)
	}
	return ok("%s is in the certificate", x.Host)
}

// namesOf are the names that a client may dial.
func namesOf(c *x509.Certificate) []string {
	var names []string
	for _, n := range c.DNSNames {
		names = append(names, printable(n))
	}
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// identityPattern is that of Sealane's instances: project, location, instance. Commands to paste are made of them.
var identityPattern = regexp.MustCompile(`^spiffe://sealane/([a-z0-9][a-z0-9.:-]{1,126})/([a-z][a-z0-9-]{1,62})/([a-z][a-z0-9-]{0,39})$`)

// identityOf is the instance that a certificate names, "" if none.
func identityOf(c *x509.Certificate) string {
	for _, u := range c.URIs {
		if s := u.String(); identityPattern.MatchString(s) {
			return s
		}
	}
	return ""
}

func hasIdentity(c *x509.Certificate, identity string) bool {
	return slices.ContainsFunc(c.URIs, func(u *url.URL) bool { return u.String() == identity })
}

// otherInstance is the instance that the certificate names instead of the one that is meant.
func (x *exam) otherInstance(c *x509.Certificate) string {
	if i := identityOf(c); x.Instance != nil && i != x.Instance.Identity {
		return i
	}
	return ""
}

// expiryStep holds everything that is served against the clock.
func (x *exam) expiryStep(context.Context) finding {
	served := x.seen.state.PeerCertificates
	leaf, now := served[0], x.Now()
	detail := fmt.Sprintf("from %s to %s", date(leaf.NotBefore), date(leaf.NotAfter))
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		if r, known := x.trueTime(); known && r.ahead.Abs() > maxSkew && valid(leaf, now.Add(r.ahead)) {
			return failed(x.clockWrong(r, leaf), "%s; %s", detail, r)
		}
		if now.After(leaf.NotAfter) {
			return failed(x.expired(leaf), "%s", detail)
		}
		return failed(x.notYetValid(leaf), "%s, and this machine's clock says %s", detail, date(now))
	}
	ends := leaf
	if chains, err := leaf.Verify(x.options(x.roots)); err == nil {
		ends = end(best(chains))
	}
	if ends.NotAfter.Sub(now) < soon {
		return warned(x.expiresSoon(ends), "%s", detail)
	}
	if i := slices.IndexFunc(served, func(c *x509.Certificate) bool { return now.After(c.NotAfter) }); i >= 0 {
		return warned(x.expiredExtra(served[i]), "%s, but %s, which is sent too, ended on %s", detail, caName(served[i]), date(served[i].NotAfter))
	}
	return ok("%s: %s left", detail, span(ends.NotAfter.Sub(now)))
}

func valid(c *x509.Certificate, at time.Time) bool {
	return !at.Before(c.NotBefore) && !at.After(c.NotAfter)
}

// trueTime is a clock that can be believed: the API's, or that of an engine whose certificate is right but for the time.
func (x *exam) trueTime() (reading, bool) {
	if r, known := x.apiClock(); known {
		return r, true
	}
	leaf := x.seen.state.PeerCertificates[0]
	if _, err := leaf.Verify(x.options(x.roots)); err != nil || leaf.VerifyHostname(x.Host) != nil {
		return reading{}, false
	}
	values, complete, _ := replies(x.seen.inside, 2)
	if !complete {
		return reading{}, false
	}
	t, isTime := engineTime(values[1])
	return reading{"the engine", t.Sub(x.seen.sent)}, isTime
}

// shortKey is the start of a certificate's own key id.
func shortKey(id []byte) string { return hex.EncodeToString(id[:min(len(id), 4)]) }

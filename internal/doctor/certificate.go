package doctor

import (
	"cmp"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
)

// soon is when a certificate's end is worth a warning. Sealane renews its own with 90 days left.
const soon = 30 * 24 * time.Hour

// chainStep verifies the chain alone. A leaf that is expired or not yet valid is held against a time when it was valid, so that
// this does not depend on the clock.
func (d *diagnoser) chainStep(context.Context) finding {
	served := d.handshake.served()
	chains, err := served[0].Verify(diagnosis.OptionsWhenValid(served, d.roots, d.config.Now()))
	if err != nil {
		kind, details := d.chain().Explain(err)
		if kind == "" {
			kind, details = diagnosis.CertificateUnfit, diagnosis.Details{Why: err.Error()}
		}
		return d.failed(kind, details, "%d certificates are sent, the first signed by %s", len(served), diagnosis.IssuerName(served[0]))
	}
	chain := best(chains)
	detail := "leads to " + diagnosis.CAName(chain[len(chain)-1])
	ours := diagnosis.IdentityOf(served[0]) != ""
	if ours && len(chain) > 2 {
		// The instance has moved to the next CA, and its cross-certificate ends with the CA before it.
		return d.warned(diagnosis.CANextMissing, diagnosis.Details{Cert: chain[1]}, "%s by way of %s", detail, diagnosis.CAName(chain[1]))
	}
	if i := slices.IndexFunc(chain, constrained); ours && i >= 0 {
		return d.warned(diagnosis.NameConstraints, diagnosis.Details{Cert: chain[i]}, "%s, which has name constraints", detail)
	}
	return ok("%s", detail)
}

// chain is what the server presented and what it is held against.
func (d *diagnoser) chain() diagnosis.Chain {
	c := diagnosis.Chain{Served: d.handshake.served(), Trusted: d.trusted, Now: d.config.Now()}
	if i := d.config.Instance; i != nil {
		c.Identity = i.Identity
		c.Current = currentCAs(i)
		if c.Current == nil {
			c.Current = []*x509.Certificate{}
		}
	}
	return c
}

// constrained says whether a certificate has name constraints.
func constrained(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30}) })
}

// best is the chain that lasts longest, and of those the shortest.
func best(chains [][]*x509.Certificate) []*x509.Certificate {
	return slices.MaxFunc(chains, func(a, b []*x509.Certificate) int {
		return cmp.Or(firstToExpire(a).NotAfter.Compare(firstToExpire(b).NotAfter), len(b)-len(a))
	})
}

func firstToExpire(chain []*x509.Certificate) *x509.Certificate {
	return slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
}

// namesStep looks for the dialled host, and for the instance that is meant, in the certificate.
func (d *diagnoser) namesStep(context.Context) finding {
	leaf, host := d.handshake.served()[0], d.config.Host
	names := diagnosis.NamesOf(leaf)
	if err := leaf.VerifyHostname(host); err != nil {
		kind, details := d.chain().Explain(err)
		if kind == diagnosis.NoNames {
			return d.failed(kind, details, "the certificate has no subject alternative names")
		}
		if len(names) > 0 { // a name to try in place of a wildcard
			details.Retry = d.command(strings.Replace(names[0], "*.", "www.", 1))
		}
		return d.failed(kind, details, "the certificate is for %s", diagnosis.Few(names))
	}
	if i := d.config.Instance; i != nil {
		if err := diagnosis.CheckIdentity(leaf, i.Identity); err != nil {
			kind, details := d.chain().Explain(err)
			return d.failed(kind, details, "the certificate is for %s, and does not name %s", diagnosis.Few(names), i.Identity)
		}
	}
	if identity := diagnosis.IdentityOf(leaf); identity != "" {
		return ok("%s is in the certificate, as is %s", host, identity)
	}
	return ok("%s is in the certificate", host)
}

// expiryStep holds everything that is served against the clock.
func (d *diagnoser) expiryStep(context.Context) finding {
	served := d.handshake.served()
	leaf, now := served[0], d.config.Now()
	about := diagnosis.Details{Cert: leaf}
	detail := fmt.Sprintf("from %s to %s", diagnosis.Date(leaf.NotBefore), diagnosis.Date(leaf.NotAfter))
	if !valid(leaf, now) {
		if r, known := d.trueTime(); known && r.ahead.Abs() > maxSkew && valid(leaf, now.Add(r.ahead)) {
			about.Clock = r.String()
			return d.failed(diagnosis.ClockWrong, about, "%s; %s", detail, r)
		}
		if now.After(leaf.NotAfter) {
			return d.failed(diagnosis.Expired, about, "%s", detail)
		}
		return d.failed(diagnosis.NotYetValid, about, "%s, and this machine's clock says %s", detail, diagnosis.Date(now))
	}
	ends := leaf
	if chains, err := leaf.Verify(diagnosis.Options(served, d.roots, now)); err == nil {
		ends = firstToExpire(best(chains))
	}
	if ends.NotAfter.Sub(now) < soon {
		kind := diagnosis.ExpiresSoon
		if ends.IsCA {
			kind = diagnosis.CAExpiresSoon
		}
		return d.warned(kind, diagnosis.Details{Cert: ends}, "%s", detail)
	}
	if i := slices.IndexFunc(served, func(c *x509.Certificate) bool { return now.After(c.NotAfter) }); i >= 0 {
		return d.warned(diagnosis.ExpiredExtra, diagnosis.Details{Cert: served[i]},
			"%s, but %s, which is sent too, ended on %s", detail, diagnosis.CAName(served[i]), diagnosis.Date(served[i].NotAfter))
	}
	return ok("%s: %s left", detail, diagnosis.Span(ends.NotAfter.Sub(now)))
}

func valid(c *x509.Certificate, at time.Time) bool {
	return !at.Before(c.NotBefore) && !at.After(c.NotAfter)
}

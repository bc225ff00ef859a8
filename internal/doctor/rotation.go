package doctor

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/pki"
)

// nextChains are what a server of Sealane's will present, and presents already to a client that asks for the name in SNI.
var nextChains = []struct{ name, when string }{
	{pki.NextCrossName, "with its cross-certificate, from its activation on"},
	{pki.NextName, "by itself, once the CA before is retired"},
}

// rotationStep verifies what will be served once the next CA signs, with the same trust as what is served today.
func (d *diagnoser) rotationStep(ctx context.Context) finding {
	leaf := d.handshake.served()[0]
	if diagnosis.IdentityOf(leaf) == "" {
		return skipped("the server is none of Sealane's")
	}
	verdicts := []string{"today's verifies"}
	var refused *diagnosis.Details
	for _, next := range nextChains {
		served, err := d.dialer.present(ctx, next.name)
		if err != nil {
			return skipped("%s: %s", next.name, diagnosis.Reason(err))
		}
		if served[0].Equal(leaf) {
			continue // no other CA is to sign, or the server does not know this name
		}
		verdict := "verifies"
		if err := verifies(served, d.roots, d.config); err != nil {
			verdict = "does not: " + diagnosis.Printable(err.Error())
			if refused == nil {
				refused = &diagnosis.Details{Cert: served[0], When: next.when, Why: err.Error()}
			}
		}
		verdicts = append(verdicts, fmt.Sprintf("that of %s, %s, %s", diagnosis.IssuerName(served[0]), next.when, verdict))
	}
	detail := strings.Join(verdicts, "; ")
	switch {
	case refused != nil:
		return d.warned(diagnosis.NextChainRefused, *refused, "%s", detail)
	case len(verdicts) == 1:
		return ok("%s, and no other CA is published that is to sign", detail)
	}
	return ok("%s", detail)
}

// verifies does what a client does that dials the host.
func verifies(served []*x509.Certificate, roots *x509.CertPool, c Config) error {
	if _, err := served[0].Verify(diagnosis.OptionsWhenValid(served, roots, c.Now())); err != nil {
		return err
	}
	return served[0].VerifyHostname(c.Host)
}

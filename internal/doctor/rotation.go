package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/wire"
)

// later is a chain that a server of Sealane's will present, and already presents to who asks for a name.
type later struct {
	name string // SNI
	when string // in words: "CA-2, %s"
}

var laters = []later{
	{pki.NextCrossName, "with its cross-certificate, from its activation on"},
	{pki.NextName, "by itself, once the CA before is retired"},
}

// rotationStep verifies what will be served once the next CA signs, as it verified what is served today: with the same trust.
func (x *exam) rotationStep(ctx context.Context) finding {
	leaf := x.seen.state.PeerCertificates[0]
	if identityOf(leaf) == "" {
		return skipped("the server is none of Sealane's")
	}
	said := []string{"today's verifies"}
	var refused *Fault
	for _, l := range laters {
		served, err := x.present(ctx, l.name)
		if err != nil {
			return skipped("%s: %s", l.name, reason(err))
		}
		if served[0].Equal(leaf) {
			continue // nothing else is to come, or not under this name
		}
		what, verdict := fmt.Sprintf("that of %s, %s", issuerName(served[0]), l.when), "verifies"
		if err := x.verifies(served); err != nil {
			verdict = "does not: " + printable(err.Error())
			if refused == nil {
				f := x.nextChainRefused(served[0], l, err)
				refused = &f
			}
		}
		said = append(said, what+", "+verdict)
	}
	detail := strings.Join(said, "; ")
	switch {
	case refused != nil:
		return warned(*refused, "%s", detail)
	case len(said) == 1:
		return ok("%s, and no other CA is published that is to sign", detail)
	}
	return ok("%s", detail)
}

// present asks for a name and returns what is presented, whatever it is. It is said to be no client: otherwise it would count as
// one that has verified this.
func (x *exam) present(ctx context.Context, name string) ([]*x509.Certificate, error) {
	l := x.look(ctx, func(c *tls.Config) { c.ServerName, c.NextProtos = name, []string{wire.ALPNProbe} })
	if l.state == nil {
		return nil, l.err
	}
	return l.state.PeerCertificates, nil
}

// verifies does what a client does that dials the host.
func (x *exam) verifies(served []*x509.Certificate) error {
	if _, err := served[0].Verify(optionsFor(served, x.roots, x.Now())); err != nil {
		return err
	}
	return served[0].VerifyHostname(x.Host)
}

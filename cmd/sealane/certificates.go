package main

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/pki"
)

// newCertificates makes the commands about server certificates.
func newCertificates(e *env) *cobra.Command {
	return group("certificates", "Show and replace the server certificate of an instance",
		"  sealane certificates show first\n  sealane certificates rotate first", newCertificatesShow(e), newCertificatesRotate(e))
}

func newCertificatesShow(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: "show NAME", Short: "Show the server certificate, and what changes next and when", Args: exactly("NAME"),
		Example: "  sealane certificates show first\n  sealane certificates show first --format json",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			certs, raw, err := api.certificates(c.Context(), parent.instance(args[0]))
			if err != nil {
				return err
			}
			if certs.GetLeaf() == nil && format == "table" {
				return withHint(fmt.Errorf("instance %s has no certificate yet", args[0]), "wait until `sealane instances describe %s` says READY", args[0])
			}
			return format.print(e.out, raw, certificatesTable(certs))
		},
	}
	parent.add(c)
	format.add(c)
	return c
}

func newCertificatesRotate(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: "rotate NAME", Short: "Replace the server certificate now", Args: exactly("NAME"),
		Long: `Replace the server certificate now, by one of the same CA. It returns once a handshake from outside has shown the new
one. No connection is dropped, and clients need nothing new.`,
		Example: "  sealane certificates rotate first",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			certs, raw, err := api.changeCertificates(c.Context(), parent.instance(args[0]), "rotateLeaf", &sealanepb.RotateLeafRequest{})
			if err != nil {
				return err
			}
			return format.print(e.out, raw, certificatesTable(certs))
		},
	}
	parent.add(c)
	format.add(c)
	return c
}

func certificatesTable(certs *sealanepb.InstanceCertificates) func(io.Writer) {
	return func(w io.Writer) {
		leaf := certs.GetLeaf()
		cross := "not served"
		for _, ca := range certs.GetAuthorities() {
			if certs.GetCrossCertificateServed() && ca.GetSigns() {
				cross = fmt.Sprintf("served: CA-%d signed by CA-%d", ca.GetGeneration(), ca.GetCrossSignedBy())
			}
		}
		row(w, "serial:", leaf.GetSerialNumber())
		row(w, "issuer:", fmt.Sprintf("CA-%d", leaf.GetIssuerGeneration()))
		row(w, "key:", keyText(leaf.GetCert()))
		row(w, "names:", strings.Join(leaf.GetNames(), ", "))
		if waiting := leaf.GetWaitingNames(); len(waiting) > 0 {
			row(w, "names to come:", strings.Join(waiting, ", "))
		}
		row(w, "from:", leaf.GetNotBefore().AsTime().Format(time.RFC3339))
		row(w, "until:", leaf.GetNotAfter().AsTime().Format(time.RFC3339))
		row(w, "renewal due:", leaf.GetRenewalTime().AsTime().Format(time.RFC3339))
		row(w, "sha256 fingerprint:", leaf.GetSha256Fingerprint())
		row(w, "cross-certificate:", cross)
		row(w, "name constraints:", constraintsText(certs.GetAuthorities()))
		for _, u := range certs.GetUpcoming() {
			row(w, "next:", fmt.Sprintf("%s %s of CA-%d: %s", u.GetTime().AsTime().Format(time.RFC3339), u.GetAction(), u.GetGeneration(), u.GetReason()))
		}
		for _, warning := range certs.GetWarnings() {
			row(w, "warning:", warning)
		}
		if p := certs.GetProblem(); p != "" {
			row(w, "problem:", oneLine(p))
		}
	}
}

// constraintsText says which CAs in the bundle have name constraints, and what that costs.
func constraintsText(all []*sealanepb.CertificateAuthority) string {
	var with []string
	for _, ca := range all {
		switch ca.GetState() {
		case sealanepb.CertificateAuthority_RETIRED, sealanepb.CertificateAuthority_COMPROMISED, sealanepb.CertificateAuthority_NOT_YET_VALID:
		default:
			if ca.GetNameConstraints() {
				with = append(with, fmt.Sprintf("CA-%d", ca.GetGeneration()))
			}
		}
	}
	if len(with) == 0 {
		return "none"
	}
	return strings.Join(with, ", ") + ": " + pki.ConstraintsCost
}

// keyText names the kind of a certificate's key.
func keyText(text string) string {
	certs, _, err := pki.DecodePEM([]byte(text))
	if err != nil {
		return ""
	}
	switch key := certs[0].PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA-%d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	}
	return certs[0].PublicKeyAlgorithm.String()
}

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"cloud.google.com/go/redis/apiv1/redispb"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/pki"
)

func newCA(e *env) *cobra.Command {
	return group("ca", "Show and change the certificate authorities of an instance",
		"  sealane ca bundle first > ca.pem\n  sealane ca list first\n  sealane ca rotate first",
		newCAList(e), newCABundle(e), newCARotate(e), newCAActivate(e), newCARetire(e), newCACompromise(e), newCAClients(e), newCASample(e))
}

func newCAList(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: "list NAME", Short: "List every generation of the CA, and where in its life it is", Args: exactly("NAME"),
		Long: `List every generation of the CA, the oldest first. Clients should trust those that are published, cross-signed, signing
or retiring; that is what ` + "`sealane ca bundle`" + ` prints.`,
		Example: "  sealane ca list first",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			certs, raw, err := api.certificates(c.Context(), parent.instance(args[0]))
			if err != nil {
				return err
			}
			return format.print(e.out, raw, caTable(certs))
		},
	}
	parent.add(c)
	format.add(c)
	return c
}

func caTable(certs *sealanepb.InstanceCertificates) func(io.Writer) {
	return func(w io.Writer) {
		row(w, "CA", "STATE", "SIGNS", "FROM", "UNTIL", "NAME_CONSTRAINTS", "SHA256_FINGERPRINT")
		for _, ca := range certs.GetAuthorities() {
			row(w, fmt.Sprintf("CA-%d", ca.GetGeneration()), ca.GetState().String(), yesNo(ca.GetSigns()), ca.GetNotBefore().AsTime().Format(time.RFC3339),
				ca.GetNotAfter().AsTime().Format(time.RFC3339), yesNo(ca.GetNameConstraints()), ca.GetSha256Fingerprint())
		}
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func newCABundle(e *env) *cobra.Command {
	var parent parentFlags
	c := &cobra.Command{
		Use: "bundle NAME", Short: "Print the CA certificates that clients should trust, as PEM", Args: exactly("NAME"),
		Example: "  sealane ca bundle first > ca.pem",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			i, _, err := api.instance(c.Context(), parent.instance(args[0]))
			if err != nil {
				return err
			}
			switch {
			case len(i.GetServerCaCerts()) == 0 && i.GetState() != redispb.Instance_CREATING && i.GetTransitEncryptionMode() != redispb.Instance_SERVER_AUTHENTICATION:
				return withHint(fmt.Errorf("instance %s has no CA: its transit encryption is disabled", args[0]),
					"`sealane encryption prefer %s` gives it one, and takes TLS beside plaintext", args[0]+parent.flags())
			case len(i.GetServerCaCerts()) == 0:
				return withHint(fmt.Errorf("instance %s has no CA yet: it is %s", args[0], i.GetState()),
					"wait until `sealane instances describe %s` says READY", args[0])
			}
			_, err = e.out.Write(bundleOf(i))
			return err
		},
	}
	parent.add(c)
	return c
}

// bundleOf returns all CA certificates of an instance. Clients need all of them: during a rotation, any may have signed.
func bundleOf(i *redispb.Instance) []byte {
	var out []byte
	for _, ca := range i.GetServerCaCerts() {
		out = append(out, ca.GetCert()...)
	}
	return out
}

func newCARotate(e *env) *cobra.Command {
	var constraints bool
	c := &cobra.Command{
		Use: "rotate NAME", Short: "Publish the next generation of the CA now",
		Long: `Publish the next generation of the CA now: it is in the bundle from then on and signs nothing yet, so no client notices.
By itself that happens every five years. Once all clients have the new bundle, activate it.

It has no name constraints, also where the generation before does, unless the instance was created with --ca-name-constraints:
then --ca-name-constraints=false makes it, and those after it, without.`,
		Example: "  sealane ca rotate first\n  sealane ca bundle first > ca.pem\n  sealane ca rotate first --ca-name-constraints=false",
	}
	caChange(e, c, "rotateCa", func(bool) proto.Message {
		r := &sealanepb.RotateCaRequest{}
		if c.Flags().Changed("ca-name-constraints") {
			r.NameConstraints = &constraints
		}
		return r
	}, "have all clients install the new bundle (`sealane ca bundle %[1]s`); then `sealane ca activate %[1]s`", "")
	c.Flags().BoolVar(&constraints, "ca-name-constraints", false, "whether this generation, and those after it, have critical name constraints; "+
		"with them "+pki.ConstraintsCost+" (default: as the instance was created)")
	return c
}

func newCAActivate(e *env) *cobra.Command {
	return caChange(e, &cobra.Command{
		Use: "activate NAME", Short: "Let the published generation of the CA sign",
		Long: `Let the published generation of the CA sign in place of the one before. Clients that hold only the one before go on,
because a cross-certificate is served beside the new server certificate. No connection is dropped.

Before its day that is done when every client of the last 30 days has shown that it trusts the published generation; see
` + "`sealane ca clients`" + `. Once they all have for 30 days it happens by itself.`,
		Example: "  sealane ca activate first\n  sealane ca activate first --force",
	}, "activateCa", func(force bool) proto.Message { return &sealanepb.ActivateCaRequest{Force: force} },
		"clients that hold only the CA before go on until it is retired", "do it before its day, though not all clients are known to trust the new CA")
}

func newCARetire(e *env) *cobra.Command {
	return caChange(e, &cobra.Command{
		Use: "retire NAME", Short: "Take the oldest generation of the CA out of the bundle",
		Long: `Take the oldest generation of the CA out of the bundle. The cross-certificate by it is no longer served: clients that
hold no other fail at their next handshake.

Before its day that is done when every client of the last 30 days has shown that it trusts the next generation; see
` + "`sealane ca clients`" + `.`,
		Example: "  sealane ca retire first\n  sealane ca retire first --force",
	}, "retireCa", func(force bool) proto.Message { return &sealanepb.RetireCaRequest{Force: force} },
		"clients may install the new bundle, which is without it: `sealane ca bundle %[1]s`", "do it before its day, though not all clients are known to trust the other CA")
}

// caChange makes a command that changes the CAs and shows what came of it. note says on stderr what to do next; force is the
// help of --force, "" for a command without it.
func caChange(e *env, c *cobra.Command, verb string, request func(force bool) proto.Message, note, force string) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	var forced bool
	c.Args = exactly("NAME")
	c.RunE = func(c *cobra.Command, args []string) error {
		api, err := newAPIClient(e)
		if err != nil {
			return err
		}
		certs, raw, err := api.changeCertificates(c.Context(), parent.instance(args[0]), verb, request(forced))
		if err != nil {
			return forceHint(err, args[0]+parent.flags())
		}
		if strings.Contains(note, "%") {
			note = fmt.Sprintf(note, args[0]+parent.flags())
		}
		fmt.Fprintln(e.err, "note: "+note)
		return format.print(e.out, raw, caTable(certs))
	}
	parent.add(c)
	format.add(c)
	if force != "" {
		c.Flags().BoolVar(&forced, "force", false, force)
	}
	return c
}

// forceHint adds to a refusal that is due to clients who are not ready how to see them, and how to go ahead all the same.
func forceHint(err error, id string) error {
	var refused *apiError
	if errors.As(err, &refused) && refused.errorInfo().Reason == instance.ClientsNotReady {
		return withHint(err, "`sealane ca clients %[1]s` shows what each has shown; `sealane ca bundle %[1]s` prints the bundle; --force does it now", id)
	}
	return err
}

func newCACompromise(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	var generation int32
	var quiet bool
	c := &cobra.Command{
		Use: "compromise NAME", Short: "Give a CA up whose key may be stolen", Args: exactly("NAME"),
		Long: `Give a generation of the CA up, or all of them: the key is destroyed, nothing that it signed is served any more, and the
next generation signs a new server certificate at once, without a cross-certificate. Clients that hold no other CA fail
until they have the new bundle, and clients that keep the old one in their bundle can still be deceived: all of them need
the new one.`,
		Example: "  sealane ca compromise first --generation 1\n  sealane ca bundle first > ca.pem",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			if generation < 0 || generation == 0 && c.Flags().Changed("generation") {
				return usage(c, "--generation %d: want that of a CA, as `sealane ca list` shows them", generation)
			}
			before, _, err := api.certificates(c.Context(), parent.instance(args[0]))
			if err != nil {
				return err
			}
			if !quiet {
				if err := confirm(e, compromiseQuestion(args[0], generation, before)); err != nil {
					return err
				}
			}
			certs, raw, err := api.changeCertificates(c.Context(), parent.instance(args[0]), "compromiseCa",
				&sealanepb.CompromiseCaRequest{Generation: generation})
			if err != nil {
				return err
			}
			fmt.Fprintf(e.err, "note: have all clients replace their bundle now: `sealane ca bundle %s`\n", args[0]+parent.flags())
			if n := len(certs.GetAffectedClients()); n > 0 {
				fmt.Fprintf(e.err, "note: %d clients of the last 30 days are not known to trust a CA that remains:\n", n)
				for _, client := range certs.GetAffectedClients() {
					fmt.Fprintln(e.err, "  "+strings.Join(clientCells(client), " "))
				}
			}
			return format.print(e.out, raw, caTable(certs))
		},
	}
	parent.add(c)
	format.add(c)
	c.Flags().Int32Var(&generation, "generation", 0, "the generation to give up, such as 1 for CA-1; all when it is not given")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "don't ask")
	return c
}

// compromiseQuestion says which clients will fail.
func compromiseQuestion(id string, generation int32, certs *sealanepb.InstanceCertificates) string {
	var left []string
	for _, ca := range certs.GetAuthorities() {
		switch ca.GetState() {
		case sealanepb.CertificateAuthority_PUBLISHED, sealanepb.CertificateAuthority_CROSS_SIGNED, sealanepb.CertificateAuthority_SIGNING,
			sealanepb.CertificateAuthority_RETIRING:
			if generation != 0 && ca.GetGeneration() != generation {
				left = append(left, fmt.Sprintf("CA-%d", ca.GetGeneration()))
			}
		}
	}
	what, who := "Every CA", "all clients"
	if generation != 0 {
		what = fmt.Sprintf("CA-%d", generation)
	}
	if len(left) > 0 {
		who = "clients that don't hold " + strings.Join(left, " or ")
	}
	return fmt.Sprintf("%s of %s will be given up for good, and its key destroyed; %s fail until they install the new bundle. Go on?", what, id, who)
}

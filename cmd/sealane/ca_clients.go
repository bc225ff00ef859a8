package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
)

func newCAClients(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: "clients NAME", Short: "List the clients, and which of them trust the CA that comes next", Args: exactly("NAME"),
		Long: `List the clients of the last ninety days, and what each has shown of whether it trusts the CA that comes next: PROVEN (it
verified a certificate that only that CA verifies), DECLARED (it said so, as a sidecar does), FAILED (it refused one) or UNKNOWN.
When all clients of the last 30 days are PROVEN or DECLARED, ` + "`ca activate` and `ca retire`" + ` take no --force, and the CA is
activated by itself 30 days after its publication.

A client proves it by connecting once with the server name (SNI) ca-next.sealane.invalid. A test by another program counts for
the clients of the same address and name:

  redis-cli --tls --cacert ca.pem --sni ca-next.sealane.invalid -h HOST -p 6378 CLIENT SETNAME my-app

Several clients behind one address translator look like one. A resumed session proves nothing.`,
		Example: "  sealane ca clients first\n  sealane ca clients first --format json",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newClient(e)
			if err != nil {
				return err
			}
			clients, raw, err := api.certificateClients(c.Context(), parent.instance(args[0]))
			if err != nil {
				return err
			}
			if err := format.print(e.out, raw, clientsTable(clients)); err != nil {
				return err
			}
			if clients.GetReady() {
				fmt.Fprintf(e.err, "note: every client of the last 30 days trusts CA-%d\n", clients.GetGeneration())
			} else {
				fmt.Fprintf(e.err, "note: in doubt: %s\n", clients.GetDoubt())
			}
			return nil
		},
	}
	parent.add(c)
	format.add(c)
	return c
}

func clientsTable(clients *sealanepb.CertificateClients) func(io.Writer) {
	return func(w io.Writer) {
		row(w, "ADDRESS", "NAME", "LIBRARY", "USER", "LAST_SEEN", fmt.Sprintf("TRUSTS_CA-%d", clients.GetGeneration()), "SINCE")
		for _, c := range clients.GetClients() {
			since := "-"
			if c.GetTrustTime() != nil {
				since = c.GetTrustTime().AsTime().Format(time.RFC3339)
			}
			trust := c.GetTrust().String()
			if c.GetDetail() != "" {
				trust += " (" + c.GetDetail() + ")"
			}
			row(w, c.GetAddress(), cmp.Or(c.GetClientName(), "-"), cmp.Or(c.GetLibrary(), "-"), cmp.Or(c.GetUser(), "-"),
				c.GetLastSeenTime().AsTime().Format(time.RFC3339), trust, since)
		}
	}
}

func newCASample(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	var percent float64
	var perHour int32
	var off bool
	c := &cobra.Command{
		Use: "sample NAME", Short: "Show the next CA's certificate to a share of the clients, to find out which trust it", Args: exactly("NAME"),
		Long: `Show the certificate of the CA that comes next to a share of the clients that come with a full handshake, to find out which
trust it. A client that doesn't FAILS ONCE, and is not asked again; so this is off by default, and at most --per-hour are asked.
` + "`sealane ca clients`" + ` shows the outcome.`,
		Example: "  sealane ca sample first --percent 1 --per-hour 10\n  sealane ca sample first --off",
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case off && (percent != 0 || perHour != 0):
				return usage(c, "--off goes without --percent and --per-hour")
			case !off && !(percent > 0 && percent <= 100):
				return usage(c, "--percent %v: must be more than 0 and at most 100; --off ends it", percent)
			case !off && perHour < 1:
				return usage(c, "--per-hour %d: must be at least 1; each of them may be a client's error", perHour)
			}
			api, err := newClient(e)
			if err != nil {
				return err
			}
			out := &sealanepb.CertificateClients{}
			raw, err := api.call(c.Context(), http.MethodPost, "/v1/"+parent.instance(args[0])+"/certificates:setSampling", nil,
				&sealanepb.SetSamplingRequest{Percent: percent, PerHour: perHour}, out)
			if err != nil {
				return err
			}
			return format.print(e.out, raw, func(w io.Writer) {
				row(w, "PERCENT", "PER_HOUR", "SAMPLED", "FAILED")
				row(w, fmt.Sprint(out.GetSampling().GetPercent()), fmt.Sprint(out.GetSampling().GetPerHour()),
					fmt.Sprint(out.GetSampledCount()), fmt.Sprint(out.GetFailedSamplesCount()))
			})
		},
	}
	parent.add(c)
	format.add(c)
	c.Flags().Float64Var(&percent, "percent", 0, "of the full handshakes")
	c.Flags().Int32Var(&perHour, "per-hour", 0, "how many at most")
	c.Flags().BoolVar(&off, "off", false, "ask no clients")
	return c
}

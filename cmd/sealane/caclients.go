package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
)

func newCAClients(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: "clients NAME", Short: "List the clients, and whether each has shown that it trusts the newest CA", Args: exactly("NAME"),
		Long: `List the clients of the last 90 days, those in doubt first, and what each has shown of the newest published generation:

  proven    full TLS handshakes with all that is served once that generation signs: its certificate by itself, and with the
            cross-certificate by the generation before
  declared  it is a sidecar, and said that it verifies against that generation
  failed    it, or somebody at its address, refused one of these
  unknown   nothing tells, or one of the two is missing: it was only seen under the generation before, or resumed a session

A client shows it when it connects once with the server name (SNI) ca-next.sealane.invalid and once with
cross.ca-next.sealane.invalid; a sidecar does it by itself. Another program with the same trust store may do it in its name: what it
proves counts for all of the same address and name.

  redis-cli --tls --cacert ca.pem --sni ca-next.sealane.invalid -h HOST -p 6378 CLIENT SETNAME my-app
  redis-cli --tls --cacert ca.pem --sni cross.ca-next.sealane.invalid -h HOST -p 6378 CLIENT SETNAME my-app

A client is its address, its connection's name, its library and its user: several behind one address that say the same (NAT)
are one here.`,
		Example: "  sealane ca clients first\n  sealane ca clients first --format json",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			clients, raw, err := api.clients(c.Context(), parent.instance(args[0]))
			if err != nil {
				return err
			}
			if at := clients.GetEvictTime(); at != nil {
				fmt.Fprintf(e.err, "note: there are more clients than are kept account of: some were left out, last on %s\n", at.AsTime().Format(time.RFC3339))
			}
			if clients.GetReady() {
				fmt.Fprintf(e.err, "note: every client of the last 30 days has shown that it trusts CA-%d\n", clients.GetGeneration())
			} else {
				fmt.Fprintln(e.err, "note: "+clients.GetDoubt())
			}
			return format.print(e.out, raw, clientsTable(clients))
		},
	}
	parent.add(c)
	format.add(c)
	return c
}

func clientsTable(clients *sealanepb.ListClientsResponse) func(io.Writer) {
	return func(w io.Writer) {
		row(w, "ADDRESS", "NAME", "LIBRARY", "USER", "LAST_SEEN", fmt.Sprintf("TRUSTS_CA-%d", clients.GetGeneration()), "WHEN")
		for _, c := range clients.GetClients() {
			trusts, when := strings.ToLower(c.GetReadiness().String()), ""
			if c.GetFailure() != "" {
				trusts += " (" + c.GetFailure() + ")"
			}
			if missing := c.GetMissingTests(); len(missing) > 0 {
				trusts += " (not yet as " + strings.Join(missing, ", ") + ")"
			}
			if at := c.GetReadinessTime(); at != nil {
				when = at.AsTime().Format(time.RFC3339)
			}
			row(w, append(clientCells(c), c.GetLastSeenTime().AsTime().Format(time.RFC3339), trusts, when)...)
		}
	}
}

// clientCells are the columns that say who a client is.
func clientCells(c *sealanepb.CertificateClient) []string {
	return []string{c.GetAddress(), ownWords(c.GetClientName()), ownWords(c.GetLibrary()), ownWords(c.GetUser())}
}

// ownWords shows a text that a client has chosen. It is quoted where it could move the cursor of the terminal that shows it.
func ownWords(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsGraphic(r) || r == ' ' }) {
		return strconv.Quote(s)
	}
	if s == "" {
		return "-"
	}
	return s
}

func newCASample(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	var percent float64
	var perHour int32
	var off bool
	c := &cobra.Command{
		Use: "sample NAME", Short: "Test the next CA on some of the clients that come", Args: exactly("NAME"),
		Long: `Present the published generation of the CA, by itself or with its cross-certificate as chance has it, to a share of the clients
that did not ask for it, and note who accepts it; ` + "`sealane ca clients`" + ` shows that.

A CLIENT THAT DOES NOT ACCEPT IT SEES AN ERROR: its connection fails. Most try again at once, and are then served as always: an
address at which a sample failed is never sampled again while the generation is the same. So it is off by default, begin with
a small share, and only after clients were given the bundle. It ends by itself when the generation signs.`,
		Example: "  sealane ca sample first --percent 1 --per-hour 10\n  sealane ca sample first --off",
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case off && (percent != 0 || perHour != 0):
				return usage(c, "--off and --percent or --per-hour: want one or the other")
			case !off && !(percent > 0 && percent <= 100):
				return usage(c, "--percent %v: want more than 0 and at most 100, or --off", percent)
			case !off && perHour < 1:
				return usage(c, "--per-hour %d: want how many clients an hour may be tested at most", perHour)
			}
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			certs, raw, err := api.changeCertificates(c.Context(), parent.instance(args[0]), "setSampling",
				&sealanepb.SetSamplingRequest{Percent: percent, PerHour: perHour})
			if err != nil {
				return err
			}
			return format.print(e.out, raw, func(w io.Writer) {
				s := certs.GetSampling()
				if s == nil {
					fmt.Fprintln(w, "no client is sampled")
					return
				}
				fmt.Fprintf(w, "CA-%d is tested on %v%% of full handshakes, at most %d an hour\n", s.GetGeneration(), s.GetPercent(), s.GetPerHour())
			})
		},
	}
	parent.add(c)
	format.add(c)
	c.Flags().Float64Var(&percent, "percent", 0, "share of the full handshakes")
	c.Flags().Int32Var(&perHour, "per-hour", 0, "at most so many in an hour, 1 to 1000")
	c.Flags().BoolVar(&off, "off", false, "end it")
	return c
}

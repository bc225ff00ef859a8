package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/rehearsal"
)

type rehearseFlags struct {
	parent      parentFlags
	format      formatFlag
	years       float64
	generations int
	client      string
	duration    time.Duration
	longLived   bool
	reconnect   bool

	nameConstraints bool
}

const (
	timelineYears = 12
	clientYears   = 22
	maxYears      = 1000
	tenYears      = 10 // how long a CA lives by default
)

func newRehearse(e *env) *cobra.Command {
	var r rehearseFlags
	c := &cobra.Command{
		Use:   "rehearse [NAME]",
		Short: "Run the years of certificate changes ahead, on paper or with your own client",
		Long: `Without --client, print what will happen to the certificates: of the instance NAME from where it stands, or of a new one.
It is the server's own plan on a fake clock; no connection is made to the instance.

With --client, start a private instance whose certificates live for seconds or minutes in place of years, and run your own,
unmodified client against it through every change. All of it is real, but the lifetimes. Nothing else is touched, and
everything is removed at the end. The client is run by sh, again and again: whenever it ends with a status other than 0 it
has failed. One that does not end must live through all changes. It finds in its environment:

  SEALANE_HOST, SEALANE_PORT  where the instance is; REDIS_URL is the same as rediss://HOST:PORT
  SEALANE_CA_FILE             the bundle; replaced when it changes
  SEALANE_CA_FIRST_FILE       the bundle as it was at first, for a client that is configured once

The exit code is 0 when the client survives, and 1 when it does not: then the first change that would break it is named.`,
		Example: "  sealane rehearse first\n" +
			"  sealane rehearse --client 'redis-cli --tls --cacert \"$SEALANE_CA_FILE\" -h $SEALANE_HOST -p $SEALANE_PORT PING'\n" +
			"  sealane rehearse --client './my-app-test' --generations 2 --duration 1m\n" +
			"  sealane rehearse --client './my-worker' --long-lived --reconnect",
		Args: atMostOne,
		RunE: func(c *cobra.Command, args []string) error {
			if err := r.check(c, args); err != nil {
				return err
			}
			if c.Flags().Changed("client") {
				return r.live(c.Context(), e)
			}
			return r.timeline(c.Context(), e, args)
		},
	}
	r.parent.add(c)
	r.format.add(c)
	c.Flags().Lookup("format").Usage = "table, json or yaml"
	c.Flags().Float64Var(&r.years, "years", timelineYears, fmt.Sprintf("how many years; with --client %d by default", clientYears))
	c.Flags().StringVar(&r.client, "client", "", "the client, a `COMMAND` for sh")
	c.Flags().DurationVar(&r.duration, "duration", 5*time.Minute, "how long the years take with --client")
	c.Flags().IntVar(&r.generations, "generations", 0, "in place of --years: until CA-`N` has taken over")
	c.Flags().BoolVar(&r.longLived, "long-lived", false, "the client must never end, not even with status 0")
	c.Flags().BoolVar(&r.nameConstraints, "ca-name-constraints", false, "with --client: the CAs have name constraints, as those of instances may that were created with this flag or long ago")
	c.Flags().BoolVar(&r.reconnect, "reconnect", false, "cut the client's connections after each change; wants --long-lived")
	return c
}

// atMostOne checks that there is one argument or none.
func atMostOne(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usage(c, "unexpected argument %q", args[1])
	}
	return nil
}

func (r *rehearseFlags) check(c *cobra.Command, args []string) error {
	given := c.Flags().Changed
	if given("generations") {
		switch {
		case given("years"):
			return usage(c, "--generations goes in place of --years, not with it")
		case r.generations < 2 || r.generations > maxYears/5:
			return usage(c, "--generations %d: want 2 to %d", r.generations, maxYears/5)
		}
		r.years = float64(r.generations)*tenYears/2 + 0.5 // CA-N is the only one that clients need; half a year to see it
	}
	if !(r.years > 0 && r.years <= maxYears) {
		return usage(c, "--years %g: want more than 0, and %d at most", r.years, maxYears)
	}
	if !given("client") {
		for _, flag := range []string{"duration", "long-lived", "reconnect", "ca-name-constraints"} {
			if given(flag) {
				return usage(c, "--%s goes with --client", flag)
			}
		}
		return nil
	}
	if !given("years") && !given("generations") {
		r.years = clientYears
	}
	least := time.Duration(r.years/tenYears*float64(pki.MinScaledCA)+float64(time.Second)-1) / time.Second * time.Second
	switch {
	case strings.TrimSpace(r.client) == "":
		return usage(c, "--client %q: want a command for sh", r.client)
	case len(args) > 0:
		return usage(c, "unexpected argument %q: with --client the instance is a new one of its own", args[0])
	case r.reconnect && !r.longLived:
		return usage(c, "--reconnect wants --long-lived: a client that ends connects anew in any case")
	case r.duration < least:
		return usage(c, "--duration %s: want %s at least for %g years, as a CA's life can't be shorter than %s; or fewer --years", r.duration, least, r.years, pki.MinScaledCA)
	case r.duration > 7*24*time.Hour:
		return usage(c, "--duration %s: want a week, 168h, at most", r.duration)
	}
	return nil
}

// How a rehearsal knows what it says.
const (
	fakeClock = "fake clock; no connection was made"
	realTime  = "scaled lifetimes, in real time"
)

// timelineReport is the timeline as JSON.
type timelineReport struct {
	Method   string           `json:"method"`
	Instance string           `json:"instance,omitempty"`
	From     time.Time        `json:"from"`
	Until    time.Time        `json:"until"`
	Days     int              `json:"bundleDays"` // how long a client can go without a newer bundle
	Changes  []timelineChange `json:"changes"`
}

type timelineChange struct {
	Time       time.Time `json:"time"`
	Action     string    `json:"action"`
	Generation int       `json:"generation,omitempty"`
	Change     string    `json:"change"`
	Reason     string    `json:"reason"`
	AnyOf      []string  `json:"clientsNeedAnyOf"`
	Bundle     []string  `json:"bundle"`
}

// timeline prints the changes that lie ahead.
func (r *rehearseFlags) timeline(ctx context.Context, e *env, args []string) error {
	now := time.Now()
	report := timelineReport{Method: fakeClock, From: now.UTC().Truncate(time.Second)}
	var state pki.State
	if len(args) > 0 {
		report.Instance = args[0]
		api, err := newAPIClient(e)
		if err != nil {
			return err
		}
		certs, _, err := api.certificates(ctx, r.parent.instance(args[0]))
		if err != nil {
			return err
		}
		if state, err = certificatesState(certs); err != nil {
			return withHint(fmt.Errorf("instance %s: %w", args[0], err), "wait until `sealane instances describe %s` says READY", args[0])
		}
		for _, warning := range certs.GetWarnings() {
			fmt.Fprintln(e.err, "note: "+warning)
		}
	}
	report.Until = report.From.Add(time.Duration(r.years / tenYears * float64(pki.DefaultLifetimes().CA)))
	report.Days = int(pki.Lifetimes{}.Grace().Hours() / 24)
	if state.Lifetimes != (pki.Lifetimes{}) { // a test system's: a decade of the CA's own
		report.Until = report.From.Add(time.Duration(r.years / tenYears * float64(state.Lifetimes.CA)))
		report.Days = int(state.Lifetimes.Grace().Hours() / 24)
	}
	for _, m := range pki.Forecast(state, now, report.Until) {
		report.add(m)
	}
	var raw bytes.Buffer
	j := json.NewEncoder(&raw)
	j.SetIndent("", "  ")
	j.SetEscapeHTML(false)
	if err := j.Encode(report); err != nil {
		return err
	}
	if err := r.format.print(e.out, raw.Bytes(), report.table); err != nil || r.format != "table" {
		return err
	}
	fmt.Fprintf(e.out, "\n%s\n", fakeClock)
	if report.Days > 0 {
		fmt.Fprintf(e.out, "A client that installs the bundle at least every %d days has what it needs at any time.\n", report.Days)
	}
	return nil
}

func (t *timelineReport) add(m pki.Moment) {
	anyOf, bundle := caNames(m.Accepted), caNames(m.Published)
	for _, a := range m.Actions {
		if text := rehearsal.Describe(a); text != "" {
			t.Changes = append(t.Changes, timelineChange{m.Time, string(a.Kind), a.Generation, text, a.Reason, anyOf, bundle})
		}
	}
	if len(t.Changes) == 0 { // the first moment, and nothing is due that clients could see
		t.Changes = append(t.Changes, timelineChange{m.Time, "none", 0, "as it is now", "", anyOf, bundle})
	}
}

func (t *timelineReport) table(w io.Writer) {
	row(w, "DATE", "WHAT CHANGES", "CLIENTS NEED", "BUNDLE", "WHY")
	layout := time.DateOnly
	if t.Days == 0 {
		layout = time.DateTime
	}
	for _, c := range t.Changes {
		row(w, c.Time.Format(layout), c.Change, strings.Join(c.AnyOf, " or "), strings.Join(c.Bundle, " and "), c.Reason)
	}
}

func caNames(generations []int) []string {
	names := []string{}
	for _, g := range generations {
		names = append(names, fmt.Sprintf("CA-%d", g))
	}
	return names
}

// certificatesState is what the API shows of an instance's certificates, as the plan knows it: without keys, and without the
// second leaf, which is for tests only.
func certificatesState(certs *sealanepb.InstanceCertificates) (pki.State, error) {
	leaf := certs.GetLeaf()
	if leaf == nil || len(certs.GetAuthorities()) == 0 {
		return pki.State{}, fmt.Errorf("there is no certificate yet")
	}
	var s pki.State
	first := certs.GetAuthorities()[0]
	s.Lifetimes = lifetimesOf(first.GetNotAfter().AsTime().Sub(first.GetNotBefore().AsTime()))
	backdate := s.Lifetimes.Backdate
	if s.Lifetimes == pki.DefaultLifetimes() {
		s.Lifetimes = pki.Lifetimes{}
	}
	for _, ca := range certs.GetAuthorities() {
		certs, _, err := pki.DecodePEM([]byte(ca.GetCert()))
		if err != nil {
			return pki.State{}, fmt.Errorf("the certificate of CA-%d can't be read", ca.GetGeneration())
		}
		c := pki.CA{
			Generation: int(ca.GetGeneration()), Created: ca.GetNotBefore().AsTime().Add(backdate), Certificate: certs[0].Raw,
			CrossedBy: int(ca.GetCrossSignedBy()),
		}
		if t := ca.GetActivateTime(); t != nil {
			c.Activated = t.AsTime()
		}
		if t := ca.GetRetireTime(); t != nil {
			c.Retired = t.AsTime()
		}
		if ca.GetState() == sealanepb.CertificateAuthority_COMPROMISED {
			c.Compromised = c.Created // when does not matter
		}
		s.CAs = append(s.CAs, c)
	}
	names := namesOf(leaf.GetNames())
	s.Leaf = &pki.Leaf{Issuer: int(leaf.GetIssuerGeneration()), Created: leaf.GetNotBefore().AsTime().Add(backdate), Names: names}
	s.Names = namesOf(append(leaf.GetNames(), leaf.GetWaitingNames()...))
	return s, nil
}

// lifetimesOf returns the lifetimes that give a CA this validity.
func lifetimesOf(validity time.Duration) pki.Lifetimes {
	d := pki.DefaultLifetimes()
	if validity == d.CA+d.Backdate {
		return d
	}
	l := pki.ScaledLifetimes(validity)
	for l.CA+l.Backdate > validity && l.CA > pki.MinScaledCA {
		l = pki.ScaledLifetimes(l.CA - time.Second)
	}
	return l
}

func namesOf(all []string) pki.Names {
	var n pki.Names
	for _, name := range all {
		ip, err := netip.ParseAddr(name)
		switch {
		case err == nil:
			n.IPs = append(n.IPs, ip)
		case strings.Contains(name, "://"):
			n.URI = name
		case !pki.TestName(name):
			n.DNS = append(n.DNS, name)
		}
	}
	return n
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/instance"
)

func newEncryption(e *env) *cobra.Command {
	c := group("encryption", "Take an instance from plaintext to TLS without downtime, and back",
		"  sealane encryption prefer cache\n  sealane encryption clients cache\n  sealane encryption enforce cache",
		newEncryptionShow(e), newEncryptionPrefer(e), newEncryptionClients(e), newEncryptionEnforce(e), newEncryptionRollback(e), newEncryptionDisable(e))
	c.Long = `Take an instance that has clients without TLS to TLS, while it serves them:

  DISABLED ──prefer──► PREFERRED ──enforce──► SERVER_AUTHENTICATION
           ◄─disable──           ◄─rollback──

PREFERRED takes both, each at a port of its own. Others call the two steps "preferred" and "required". docs/plaintext-to-tls.md is the
runbook.`
	return c
}

// encryptionCommand is a command that makes a step, or none, and shows the mode.
type encryptionCommand struct {
	use, short, long, example string
	flags                     func(*cobra.Command)
	call                      func(c *cobra.Command, api *apiClient, name string) (*sealanepb.TransitEncryption, []byte, error)
	failed                    func(err error, id string) error // adds a hint
	after                     func(t *sealanepb.TransitEncryption, id string)
}

func (x encryptionCommand) command(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: x.use, Short: x.short, Long: x.long, Example: x.example, Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			id := args[0] + parent.flags()
			t, raw, err := x.call(c, api, parent.instance(args[0]))
			if err != nil {
				if x.failed != nil {
					err = x.failed(err, id)
				}
				return err
			}
			if err := format.print(e.out, raw, func(w io.Writer) { encryptionTable(w, t, id) }); err != nil {
				return err
			}
			if x.after != nil {
				x.after(t, id)
			}
			return nil
		},
	}
	parent.add(c)
	format.add(c)
	if x.flags != nil {
		x.flags(c)
	}
	return c
}

// unseenForFlag is --unseen-for.
type unseenForFlag string

func (f *unseenForFlag) add(c *cobra.Command) {
	c.Flags().StringVar((*string)(f), "unseen-for", "", "for how long no client may have come without TLS, such as 1h or 30d (default 7d)")
}

func (f unseenForFlag) duration(c *cobra.Command) (*durationpb.Duration, error) {
	if f == "" {
		return nil, nil
	}
	d, err := parseDays(string(f))
	if err != nil || d < time.Second {
		return nil, usage(c, "--unseen-for %q: want a time such as 90m, 24h or 7d", string(f))
	}
	return durationpb.New(d), nil
}

func newEncryptionShow(e *env) *cobra.Command {
	var unseenFor unseenForFlag
	return encryptionCommand{
		use: "show NAME", short: "Show whether clients use TLS, and whether plaintext can be closed",
		example: "  sealane encryption show cache\n  sealane encryption show cache --unseen-for 1h --format json",
		flags:   unseenFor.add,
		call: func(c *cobra.Command, api *apiClient, name string) (*sealanepb.TransitEncryption, []byte, error) {
			d, err := unseenFor.duration(c)
			if err != nil {
				return nil, nil, err
			}
			return api.transitEncryption(c.Context(), name, d)
		},
	}.command(e)
}

func newEncryptionPrefer(e *env) *cobra.Command {
	var allow bool
	return encryptionCommand{
		use: "prefer NAME", short: "Take TLS beside plaintext, each at a port of its own",
		long: `Make an instance PREFERRED. One without TLS gets a CA, a server certificate and a port with TLS; clients that are connected notice
nothing, and gcloud and Terraform see the mode and the port that they saw before.

On an instance that has TLS alone this opens a port without TLS: passwords and data of whoever uses it can be read on the way. That
takes --allow-plaintext.`,
		example: "  sealane encryption prefer cache",
		flags: func(c *cobra.Command) {
			c.Flags().BoolVar(&allow, "allow-plaintext", false, "open a port without TLS on an instance that has TLS alone")
		},
		call: func(c *cobra.Command, api *apiClient, name string) (*sealanepb.TransitEncryption, []byte, error) {
			return api.changeEncryption(c.Context(), name, "prefer", &sealanepb.PreferTlsRequest{AllowPlaintext: allow})
		},
		failed: func(err error, id string) error {
			return hintFor(err, instance.PlaintextNotAllowed, "`sealane encryption prefer %s --allow-plaintext` does that; `sealane encryption rollback %s` takes the closing of plaintext back", id, id)
		},
		after: func(t *sealanepb.TransitEncryption, id string) {
			fmt.Fprintf(e.err, "note: give clients the CA (`sealane ca bundle %s > ca.pem`), let them connect to port %d with TLS (`sealane connect %s`), "+
				"and see who is left with `sealane encryption clients %s`\n", id, t.GetTlsPort(), id, id)
		},
	}.command(e)
}

func newEncryptionEnforce(e *env) *cobra.Command {
	var unseenFor unseenForFlag
	var force bool
	return encryptionCommand{
		use: "enforce NAME", short: "Close plaintext, if no client uses it any more",
		long: `Make an instance SERVER_AUTHENTICATION: all clients use TLS. It is refused while a client without TLS is connected, or was seen in the
last 7 days (--unseen-for), and the clients are named. --force closes plaintext all the same and names who is cut off: those that are
connected are closed between two requests, or after five seconds.

Those that come later without TLS are told how to connect. "sealane encryption rollback" opens plaintext again.

gcloud and Terraform see SERVER_AUTHENTICATION and the port with TLS from now on. Terraform would REPLACE the instance unless its
configuration says transit_encryption_mode = "SERVER_AUTHENTICATION" too.`,
		example: "  sealane encryption enforce cache\n  sealane encryption enforce cache --unseen-for 1d\n  sealane encryption enforce cache --force",
		flags: func(c *cobra.Command) {
			unseenFor.add(c)
			c.Flags().BoolVar(&force, "force", false, "close plaintext although clients may use it")
		},
		call: func(c *cobra.Command, api *apiClient, name string) (*sealanepb.TransitEncryption, []byte, error) {
			d, err := unseenFor.duration(c)
			if err != nil {
				return nil, nil, err
			}
			return api.changeEncryption(c.Context(), name, "enforce", &sealanepb.EnforceTlsRequest{UnseenFor: d, Force: force})
		},
		failed: func(err error, id string) error {
			if errors.As(err, new(*apiError)) && reasonOf(err) == instance.EncryptionDisabled {
				return withHint(err, "`sealane encryption prefer %s` opens a port with TLS beside the one without", id)
			}
			return hintFor(err, instance.PlaintextClients, "`sealane encryption clients %s` lists all of them; --unseen-for 1h looks back less far, and --force cuts them off", id)
		},
		after: func(t *sealanepb.TransitEncryption, id string) {
			for _, c := range t.GetCutClients() {
				fmt.Fprintf(e.err, "note: cut off: %s\n", strings.Join(plaintextCells(c), " "))
			}
			fmt.Fprintf(e.err, "note: Terraform's configuration must say transit_encryption_mode = \"SERVER_AUTHENTICATION\" from now on, or it replaces the instance; "+
				"`sealane encryption rollback %s` opens plaintext again\n", id)
		},
	}.command(e)
}

func newEncryptionRollback(e *env) *cobra.Command {
	return encryptionCommand{
		use: "rollback NAME", short: "Open plaintext again after it was closed",
		long: `Take "sealane encryption enforce" back: the instance is PREFERRED again, and gcloud and Terraform see what they saw before it.
Clients with TLS stay connected.`,
		example: "  sealane encryption rollback cache",
		call: func(c *cobra.Command, api *apiClient, name string) (*sealanepb.TransitEncryption, []byte, error) {
			return api.changeEncryption(c.Context(), name, "rollback", &sealanepb.RollbackTlsRequest{})
		},
		failed: func(err error, id string) error {
			return hintFor(err, instance.PlaintextNotAllowed, "`sealane encryption prefer %s --allow-plaintext` opens plaintext", id)
		},
	}.command(e)
}

func newEncryptionDisable(e *env) *cobra.Command {
	var force bool
	return encryptionCommand{
		use: "disable NAME", short: "Close TLS on an instance that was created without it",
		long: `Take "sealane encryption prefer" back: the instance is DISABLED again. It is refused while clients are connected with TLS. With --force
their connections stay until they end them, and they can't connect anew. The CA is kept, for the next time.`,
		example: "  sealane encryption disable cache",
		flags: func(c *cobra.Command) {
			c.Flags().BoolVar(&force, "force", false, "close TLS although clients use it")
		},
		call: func(c *cobra.Command, api *apiClient, name string) (*sealanepb.TransitEncryption, []byte, error) {
			return api.changeEncryption(c.Context(), name, "disable", &sealanepb.DisableTlsRequest{Force: force})
		},
		failed: func(err error, id string) error {
			err = hintFor(err, instance.TLSClients, "CLIENT LIST shows all clients; --force closes TLS all the same")
			return hintFor(err, instance.PlaintextNotAllowed, "`sealane encryption rollback %s` opens plaintext, which clients need first", id)
		},
	}.command(e)
}

func newEncryptionClients(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: "clients NAME", Short: "List the clients that still connect without TLS", Args: exactly("NAME"),
		Long: `List the clients without TLS of the last 90 days, those first that are connected. TLS_SINCE is when a client of the same address,
name, library and user was seen with TLS after it was last seen without.

A client is its address, its connection's name (CLIENT SETNAME), its library and its user: several behind one address that say the same
(NAT) are one here. One without a user has sent nothing yet on its connections, as a pool may that opens them early.`,
		Example: "  sealane encryption clients cache\n  sealane encryption clients cache --format json",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			out := &sealanepb.ListPlaintextClientsResponse{}
			raw, err := api.call(c.Context(), http.MethodGet, "/v1/"+parent.instance(args[0])+"/transitEncryption:plaintextClients", nil, nil, out)
			if err != nil {
				return err
			}
			if at := out.GetCountedSinceTime(); at != nil {
				fmt.Fprintf(e.err, "note: clients without TLS are counted since %s\n", at.AsTime().Format(time.RFC3339))
			} else {
				fmt.Fprintln(e.err, "note: clients without TLS are not counted now: there is no port for them, or the gateway does not answer")
			}
			return format.print(e.out, raw, func(w io.Writer) {
				row(w, "ADDRESS", "NAME", "LIBRARY", "USER", "CONNECTIONS", "LAST_SEEN", "TLS_SINCE")
				for _, client := range out.GetClients() {
					since := ""
					if client.GetMoved() {
						since = client.GetLastTlsTime().AsTime().Format(time.RFC3339)
					}
					row(w, append(plaintextCells(client), since)...)
				}
			})
		},
	}
	parent.add(c)
	format.add(c)
	return c
}

func plaintextCells(c *sealanepb.PlaintextClient) []string {
	last := "now"
	if c.GetConnections() == 0 {
		last = c.GetLastSeenTime().AsTime().Format(time.RFC3339)
	}
	return []string{c.GetAddress(), ownWords(c.GetClientName()), ownWords(c.GetLibrary()), ownWords(c.GetUser()), strconv.Itoa(int(c.GetConnections())), last}
}

// encryptionTable writes a mode for people.
func encryptionTable(w io.Writer, t *sealanepb.TransitEncryption, id string) {
	at := func(port, connections int32) string {
		if port == 0 {
			return "none"
		}
		return fmt.Sprintf("%s, %d clients connected", net.JoinHostPort(t.GetHost(), strconv.Itoa(int(port))), connections)
	}
	row(w, "encryption:", t.GetMode().String())
	row(w, "with TLS:", at(t.GetTlsPort(), t.GetTlsConnections()))
	row(w, "without TLS:", at(t.GetPlaintextPort(), t.GetPlaintextConnections()))
	if t.GetEnforceTime() != nil {
		row(w, "plaintext closed:", t.GetEnforceTime().AsTime().Format(time.RFC3339))
	}
	if t.GetProblem() != "" {
		row(w, "problem:", t.GetProblem())
	}
	if t.GetMode() != sealanepb.TransitEncryption_PREFERRED {
		return
	}
	if t.GetSafeToEnforce() {
		row(w, "safe to enforce:", "yes: `sealane encryption enforce "+id+"` cuts nobody off that is known of")
		return
	}
	row(w, "safe to enforce:", "no")
	for _, reason := range t.GetReasons() {
		row(w, "because:", reason)
	}
}

// encryptionText is the mode with its ports, where there is more to know than the Memorystore API tells.
func encryptionText(t *sealanepb.TransitEncryption) string {
	text := t.GetMode().String()
	if t.GetMode() == sealanepb.TransitEncryption_PREFERRED {
		text += fmt.Sprintf(" (TLS at port %d, plaintext at port %d)", t.GetTlsPort(), t.GetPlaintextPort())
	}
	return text
}

// reasonOf is the reason of an error of the API; "": it has none.
func reasonOf(err error) instance.Reason {
	var refused *apiError
	if errors.As(err, &refused) {
		return refused.errorInfo().Reason
	}
	return ""
}

// hintFor adds a hint to an error that has the reason.
func hintFor(err error, reason instance.Reason, format string, args ...any) error {
	if reasonOf(err) != reason {
		return err
	}
	return withHint(err, format, args...)
}

// transitEncryption shows an instance's mode, and whether its plaintext can be closed.
func (c *apiClient) transitEncryption(ctx context.Context, name string, unseenFor *durationpb.Duration) (*sealanepb.TransitEncryption, []byte, error) {
	var query url.Values
	if unseenFor != nil {
		query = url.Values{"unseenFor": {strconv.FormatFloat(unseenFor.AsDuration().Seconds(), 'f', -1, 64) + "s"}}
	}
	out := &sealanepb.TransitEncryption{}
	raw, err := c.call(ctx, http.MethodGet, "/v1/"+name+"/transitEncryption", query, nil, out)
	return out, raw, err
}

// changeEncryption makes a step, and returns once it is served.
func (c *apiClient) changeEncryption(ctx context.Context, name, verb string, in proto.Message) (*sealanepb.TransitEncryption, []byte, error) {
	out := &sealanepb.TransitEncryption{}
	raw, err := c.call(ctx, http.MethodPost, "/v1/"+name+"/transitEncryption:"+verb, nil, in, out)
	return out, raw, err
}

package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
)

// newTokens makes the commands about who may call the API.
func newTokens(e *env) *cobra.Command {
	return group("tokens", "Make, list and revoke bearer tokens for the API",
		"  sealane tokens create --role redis.viewer --description monitoring\n  sealane tokens list",
		newTokensCreate(e), newTokensList(e), newTokensDescribe(e), newTokensRevoke(e))
}

type tokenFlags struct {
	role, project, region, instance string
	bindings                        []string
	expires, description            string
	format                          formatFlag
}

func newTokensCreate(e *env) *cobra.Command {
	var f tokenFlags
	c := &cobra.Command{
		Use: "create", Short: "Make a token and print it, once",
		Long: `Make a token and print it to standard output. It can't be shown again: the server keeps its hash. What it may do goes
to standard error.

Roles, each with what the one before it has, but for the first:
  redis.dbConnectionUser  connect, as a client or a sidecar: see an instance and its CA, and read its password
  redis.viewer (viewer)   see instances, operations, certificates and clients; no password
  redis.editor            change instances, read and replace passwords; not create or delete instances, nor give a CA up as stolen
  editor                  that too
  redis.admin (owner)     make and revoke tokens

A role counts in a project, a region of it, or an instance there, which need not exist yet. A token can't have more than the
one it is made with, and not live longer.`,
		Example: `  TOKEN=$(sealane tokens create --role redis.viewer --description monitoring)
  sealane tokens create --role redis.editor --region us-central1 --instance web --expires 2h
  sealane tokens create --binding redis.viewer=* --binding redis.admin=projects/staging --expires never`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			in, err := f.request(c)
			if err != nil {
				return usage(c, "%v", err)
			}
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			made := &sealanepb.CreateTokenResponse{}
			raw, err := api.call(c.Context(), http.MethodPost, "/v1/tokens", nil, in, made)
			if err != nil {
				return err
			}
			t := made.GetToken()
			fmt.Fprintf(e.err, "token %s: %s; %s\n", tokenID(t), bindingsText(t), expiryText(t))
			fmt.Fprintf(e.err, "it is shown only this once; use it as SEALANE_TOKEN, or in the header \"authorization: Bearer TOKEN\"; `sealane tokens revoke %s` ends it\n", tokenID(t))
			return f.format.print(e.out, raw, func(w io.Writer) { fmt.Fprintln(w, made.GetSecret()) })
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.role, "role", "roles/redis.viewer", "what the token may do")
	fl.StringVar(&f.project, "project", "local", "where: a project, or * for all")
	fl.StringVar(&f.region, "region", "", "a region of the project (default: all of them)")
	fl.StringVar(&f.instance, "instance", "", "an instance of the project, in --region or else in region local")
	fl.StringArrayVar(&f.bindings, "binding", nil, "ROLE=SCOPE, in place of the flags above, as often as needed; SCOPE is *, projects/P, projects/P/locations/R or projects/P/locations/R/instances/NAME")
	fl.StringVar(&f.expires, "expires", "", "after which time: 90m, 24h, 7d, or never (default: 30d, or with the token it is made with)")
	fl.StringVar(&f.description, "description", "", "what it is for, or whose it is")
	f.format.add(c)
	return c
}

// request is what the flags ask for. What is wrong with the names, the server says.
func (f *tokenFlags) request(c *cobra.Command) (*sealanepb.CreateTokenRequest, error) {
	in := &sealanepb.CreateTokenRequest{Token: &sealanepb.Token{Description: f.description}}
	if err := f.setExpiration(in); err != nil {
		return nil, err
	}
	for _, b := range f.bindings {
		for _, flag := range []string{"role", "project", "region", "instance"} {
			if c.Flags().Changed(flag) {
				return nil, fmt.Errorf("--binding and --%s exclude each other: a binding names the role and the place", flag)
			}
		}
		role, scope, ok := strings.Cut(b, "=")
		if !ok || role == "" || scope == "" {
			return nil, fmt.Errorf("--binding %q: want ROLE=SCOPE, such as redis.viewer=projects/local", b)
		}
		in.Token.Bindings = append(in.Token.Bindings, &sealanepb.TokenBinding{Role: role, Scope: scope})
	}
	if len(f.bindings) > 0 {
		return in, nil
	}
	scope := "*"
	switch {
	case f.project == "*" && f.region+f.instance != "":
		return nil, fmt.Errorf("--project * means everything: leave --region and --instance out, or name the project")
	case f.project == "*":
	case f.instance != "":
		region := f.region
		if region == "" {
			region = "local"
		}
		scope = parentFlags{f.project, region}.instance(f.instance)
	case f.region != "":
		scope = parentFlags{f.project, f.region}.parent()
	default:
		scope = "projects/" + f.project
	}
	in.Token.Bindings = []*sealanepb.TokenBinding{{Role: f.role, Scope: scope}}
	return in, nil
}

func (f *tokenFlags) setExpiration(in *sealanepb.CreateTokenRequest) error {
	switch f.expires {
	case "":
		return nil
	case "never":
		in.Expiration = &sealanepb.CreateTokenRequest_NeverExpires{NeverExpires: true}
		return nil
	}
	ttl, err := parseDays(f.expires)
	if err != nil || ttl < time.Second {
		return fmt.Errorf("--expires %q: want a time such as 90m, 24h or 7d, or never", f.expires)
	}
	in.Expiration = &sealanepb.CreateTokenRequest_Ttl{Ttl: durationpb.New(ttl)}
	return nil
}

// parseDays reads a duration, which may be in days.
func parseDays(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		d, err := time.ParseDuration(days + "h")
		if d > 1<<63/25 || d < 0 {
			return 0, fmt.Errorf("%q is too long", s)
		}
		return 24 * d, err
	}
	return time.ParseDuration(s)
}

func newTokensList(e *env) *cobra.Command {
	var format formatFlag
	c := &cobra.Command{
		Use: "list", Short: "List tokens, without their secrets",
		Long: `List the tokens that the caller may see: those whose every role is where the caller is redis.admin or owner. A token that
has ended is listed for 30 days more. The administrator's token is not among them: it is in the state folder.`,
		Example: "  sealane tokens list", Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			all := &sealanepb.ListTokensResponse{}
			raw, err := api.call(c.Context(), http.MethodGet, "/v1/tokens", nil, nil, all)
			if err != nil {
				return err
			}
			return format.print(e.out, raw, func(w io.Writer) {
				row(w, "ID", "STATE", "ROLES", "DESCRIPTION", "CREATOR", "CREATED", "EXPIRES", "LAST_USED")
				for _, t := range all.GetTokens() {
					row(w, tokenID(t), t.GetState().String(), bindingsText(t), t.GetDescription(), lastPart(t.GetCreator()),
						t.GetCreateTime().AsTime().Format(time.RFC3339), expires(t), lastUse(t))
				}
			})
		},
	}
	format.add(c)
	return c
}

func newTokensDescribe(e *env) *cobra.Command {
	return tokenCommand(e, "describe", "Show a token, without its secret", http.MethodGet, "", "  sealane tokens describe 3f9a1c0b7d2e", nil)
}

func newTokensRevoke(e *env) *cobra.Command {
	in := &sealanepb.RevokeTokenRequest{}
	c := tokenCommand(e, "revoke", "End a token now", http.MethodPost, ":revoke",
		"  sealane tokens revoke 3f9a1c0b7d2e\n  sealane tokens revoke 3f9a1c0b7d2e --descendants     # it was stolen", in)
	c.Flags().BoolVar(&in.Descendants, "descendants", false, "end those too that were made with it, and those that were made with these")
	return c
}

// tokenCommand makes a command about one token, with in as the request's body, if any. It shows the token.
func tokenCommand(e *env, verb, short, method, suffix, example string, in proto.Message) *cobra.Command {
	var format formatFlag
	c := &cobra.Command{
		Use: verb + " ID", Short: short, Example: example, Args: exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id := strings.TrimPrefix(args[0], "tokens/")
			if strings.HasPrefix(id, "sealane_") || strings.Contains(id, "/") || id == "" {
				return usage(c, "that is no id: want the ID that `sealane tokens list` shows, not the token itself") // which must not be repeated
			}
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			t := &sealanepb.Token{}
			raw, err := api.call(c.Context(), method, "/v1/tokens/"+url.PathEscape(id)+suffix, nil, in, t)
			if err != nil {
				return err
			}
			return format.print(e.out, raw, func(w io.Writer) { tokenTable(w, t) })
		},
	}
	format.add(c)
	return c
}

func tokenTable(w io.Writer, t *sealanepb.Token) {
	row(w, "id:", tokenID(t))
	row(w, "state:", t.GetState().String())
	row(w, "description:", t.GetDescription())
	for _, b := range t.GetBindings() {
		row(w, "role:", b.GetRole()+" at "+b.GetScope())
	}
	row(w, "created:", t.GetCreateTime().AsTime().Format(time.RFC3339)+" by "+lastPart(t.GetCreator()))
	row(w, "expires:", expires(t))
	if revoked := t.GetRevokeTime(); revoked != nil {
		row(w, "revoked:", revoked.AsTime().Format(time.RFC3339))
	}
	row(w, "last used:", lastUse(t))
}

func tokenID(t *sealanepb.Token) string { return lastPart(t.GetName()) }

func bindingsText(t *sealanepb.Token) string {
	var parts []string
	for _, b := range t.GetBindings() {
		parts = append(parts, b.GetRole()+" at "+b.GetScope())
	}
	return strings.Join(parts, ", ")
}

func expires(t *sealanepb.Token) string {
	if t.GetExpireTime() == nil {
		return "never"
	}
	return t.GetExpireTime().AsTime().Format(time.RFC3339)
}

func expiryText(t *sealanepb.Token) string {
	if t.GetExpireTime() == nil {
		return "it does not expire"
	}
	return "it expires at " + expires(t)
}

func lastUse(t *sealanepb.Token) string {
	if t.GetLastUseTime() == nil {
		return "never"
	}
	return t.GetLastUseTime().AsTime().Format(time.RFC3339)
}

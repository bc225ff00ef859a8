package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"cloud.google.com/go/redis/apiv1/redispb"
	"github.com/spf13/cobra"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/wire"
)

func newConnect(e *env) *cobra.Command {
	var parent parentFlags
	var caFile, library string
	c := &cobra.Command{
		Use:   "connect NAME",
		Short: "Print ready-to-paste snippets that connect and verify",
		Long: `Save the instance's CA bundle, connect once with it to be sure that it works, and print snippets for redis-cli
and client libraries. All of them verify the server's certificate; none holds the password. With --client it is one
complete program, for ` + strings.Join(snippetNames(), ", ") + `.`,
		Example: "  sealane connect first\n  sealane connect first --ca-file ca.pem\n  sealane connect first --client jedis > Example.java",
		Args:    exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			snippet := shortSnippets
			if c.Flags().Changed("client") {
				if snippet = snippetOf(library); snippet == nil {
					return usage(c, "--client %q: want %s", library, strings.Join(snippetNames(), ", "))
				}
			}
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			return connect(c.Context(), e, api, parent, args[0], caFile, snippet)
		},
	}
	parent.add(c)
	c.Flags().StringVar(&caFile, "ca-file", "", "where to save the CA bundle (default: a file in the user's cache folder)")
	c.Flags().StringVar(&library, "client", "", "print one complete program for this client")
	c.RegisterFlagCompletionFunc("client", cobra.FixedCompletions(snippetNames(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

// target is the instance that snippets connect to, as their templates see it.
type target struct {
	ID, Host, Port string
	TLS, Auth      bool
	CAFile         string
	Where          string // flags that name the project and region, where they are not the default ones
	SidecarEnv     string // environment variables that name them to a sidecar
	Verified       string
	Read           *target // the read endpoint; nil: there is none
	Plaintext      string  // the address without TLS, where clients may choose; "": they may not
}

func (t target) Address() string { return net.JoinHostPort(t.Host, t.Port) }

// AuthPrefix sets redis-cli's password without putting it into an argument list or the history.
func (t target) AuthPrefix() string {
	if !t.Auth {
		return ""
	}
	return fmt.Sprintf(`REDISCLI_AUTH="$(sealane instances get-auth-string %s%s)" `, t.ID, t.Where)
}

// BracketedHost is the host as URLs have it.
func (t target) BracketedHost() string {
	if strings.Contains(t.Host, ":") {
		return "[" + t.Host + "]"
	}
	return t.Host
}

// Notes are a program's first lines: where its CA bundle and its password come from, as comments of its language.
func (t target) Notes(comment, variable string) string {
	var b strings.Builder
	if t.TLS {
		fmt.Fprintf(&b, "%s CA bundle: sealane ca bundle %s%s > %s\n", comment, t.ID, t.Where, diagnosis.ShellWord(t.CAFile))
	}
	if t.Auth {
		fmt.Fprintf(&b, "%s Password: export %s=\"$(sealane instances get-auth-string %s%s)\"\n", comment, variable, t.ID, t.Where)
	}
	return b.String()
}

// Clients are the names that --client takes.
func (t target) Clients() string { return strings.Join(snippetNames(), ", ") }

func connect(ctx context.Context, e *env, api *apiClient, parent parentFlags, id, caFile string, snippet *template.Template) error {
	i, _, err := api.instance(ctx, parent.instance(id))
	if err != nil {
		return err
	}
	if i.GetHost() == "" {
		return withHint(fmt.Errorf("instance %s is %s", id, i.GetState()), "wait until `sealane instances describe %s` says READY", id)
	}
	t := target{
		ID: id, Host: i.GetHost(), Port: strconv.Itoa(int(i.GetPort())),
		TLS: i.GetTransitEncryptionMode() == redispb.Instance_SERVER_AUTHENTICATION, Auth: i.GetAuthEnabled(),
		Where: parent.flags(), SidecarEnv: parent.sidecarEnv(),
	}
	mode, _, err := api.transitEncryption(ctx, i.GetName(), nil)
	if err != nil {
		return err
	}
	if mode.GetMode() == sealanepb.TransitEncryption_PREFERRED { // clients are to move to TLS
		t.Plaintext = net.JoinHostPort(t.Host, strconv.Itoa(int(mode.GetPlaintextPort())))
		t.TLS, t.Port = true, strconv.Itoa(int(mode.GetTlsPort()))
	}
	if !t.TLS && snippet == snippetOf("sidecar") {
		return withHint(fmt.Errorf("instance %s has no TLS, which is what a sidecar is for", id),
			"connect to %s directly, or give it TLS with `sealane encryption prefer %s%s`", t.Address(), id, t.Where)
	}
	if t.TLS {
		if t.CAFile, err = saveBundle(caFile, parent, i); err != nil {
			return err
		}
	}
	auth := &redispb.InstanceAuthString{}
	if t.Auth {
		if _, err := api.call(ctx, http.MethodGet, "/v1/"+i.GetName()+"/authString", nil, nil, auth); err != nil {
			return err
		}
	}
	if t.Verified, err = verify(ctx, t, bundleOf(i), auth.GetAuthString()); err != nil {
		return withHint(fmt.Errorf("instance %s at %s: %w", id, t.Address(), err),
			"snippets are printed only when they work; `sealane instances describe %s` shows its state", id)
	}
	t.tryReadEndpoint(ctx, i, auth.GetAuthString())
	if snippet != shortSnippets { // stdout is a program, to be put into a file
		fmt.Fprintf(e.err, "%s at %s: %s\n", t.ID, t.Address(), t.Verified)
	}
	return snippet.Execute(e.out, t)
}

// tryReadEndpoint connects to where the replicas are read, if anywhere. A fault there is shown, and the other snippets work all the same.
func (t *target) tryReadEndpoint(ctx context.Context, i *redispb.Instance, auth string) {
	if i.GetReadEndpoint() == "" {
		return
	}
	read := *t
	read.Host, read.Port = i.GetReadEndpoint(), strconv.Itoa(int(i.GetReadEndpointPort()))
	read.TLS = i.GetTransitEncryptionMode() == redispb.Instance_SERVER_AUTHENTICATION
	var err error
	if read.Verified, err = verify(ctx, read, bundleOf(i), auth); err != nil {
		read.Verified = "does not work now: " + oneLine(err.Error())
	}
	t.Read = &read
}

// saveBundle writes the bundle where the snippets can name it.
func saveBundle(file string, parent parentFlags, i *redispb.Instance) (string, error) {
	if file == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", withHint(fmt.Errorf("no folder for the CA bundle: %w", err), "name a file with --ca-file")
		}
		name := strings.Join([]string{parent.project, parent.region, lastPart(i.GetName())}, "_") + ".pem"
		file = filepath.Join(cache, "sealane", strings.ReplaceAll(name, ":", "_"))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return "", err
		}
	}
	file, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	if err := durable.WriteFile(file, bundleOf(i), 0o644); err != nil {
		return "", withHint(err, "name another file with --ca-file")
	}
	return file, nil
}

// verify connects as the snippets do and returns what it saw.
func verify(ctx context.Context, t target, bundle []byte, auth string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	began := time.Now()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", t.Address())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	seen := "not encrypted"
	if t.TLS {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(bundle)
		c := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: t.Host, MinVersion: tls.VersionTLS12, NextProtos: []string{wire.ALPNProbe}})
		if err := c.HandshakeContext(ctx); err != nil {
			return "", err
		}
		seen = tls.VersionName(c.ConnectionState().Version) + ", " + tls.CipherSuiteName(c.ConnectionState().CipherSuite) + ", certificate verified"
		conn = c
	} else if err := sayProbe(ctx, conn); err != nil {
		return "", err
	}
	if err := logInAndPing(ctx, conn, auth); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, PONG in %s", seen, time.Since(began).Round(100*time.Microsecond)), nil
}

// sayProbe says that this is no client, which would be listed as one that has yet to move to TLS. Whether the engine knows the command
// doesn't matter.
func sayProbe(ctx context.Context, conn net.Conn) error {
	_, err := resp.NewClient(conn, maxReply).Do(ctx, "CLIENT", "SETINFO", "LIB-NAME", wire.ProbeLibrary)
	if failed, ok := errors.AsType[*resp.ReadError](err); ok {
		return fmt.Errorf("CLIENT SETINFO is answered by %q: %w", failed.Received, failed.Err)
	}
	return nil
}

// maxReply is far above the length of any reply to AUTH and PING.
const maxReply = 64 << 10

// logInAndPing is what the snippets' clients do first.
func logInAndPing(ctx context.Context, conn net.Conn, auth string) error {
	commands := [][]string{{"PING"}}
	if auth != "" {
		commands = [][]string{{"AUTH", auth}, {"PING"}}
	}
	replies, err := resp.NewClient(conn, maxReply).Pipeline(ctx, commands...)
	if failed, ok := errors.AsType[*resp.ReadError](err); ok {
		return fmt.Errorf("PING is answered by %q: %w", failed.Received, failed.Err)
	}
	last := replies[len(replies)-1]
	if err != nil || last.Str != "PONG" {
		return fmt.Errorf("%s is answered by %q", commands[len(replies)-1][0], last.Str)
	}
	return nil
}

// Each of snippets/CLIENT.LANGUAGE.tmpl is a program that connects, verifies, and sets and gets a key.
//
//go:embed snippets/*.tmpl
var snippetFiles embed.FS

var (
	quoting = template.FuncMap{
		"shell": diagnosis.ShellWord,
		"quote": strconv.Quote, // as Go, Python, Java, JavaScript, C# and C read it
		"php":   func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" },
	}
	snippets      = template.Must(template.New("").Funcs(quoting).ParseFS(snippetFiles, "snippets/*.tmpl"))
	shortSnippets = template.Must(template.New("").Funcs(quoting).Parse(shortText))
)

// snippetNames are the clients that have a snippet.
func snippetNames() []string {
	var names []string
	for _, t := range snippets.Templates() {
		names = append(names, clientOf(t))
	}
	slices.Sort(names)
	return names
}

// snippetOf is the snippet of a client, or nil.
func snippetOf(name string) *template.Template {
	for _, t := range snippets.Templates() {
		if strings.EqualFold(clientOf(t), name) {
			return t
		}
	}
	return nil
}

// clientOf takes the two endings from a file's name: a client's may have a dot, too.
func clientOf(t *template.Template) string {
	name := strings.TrimSuffix(t.Name(), ".tmpl")
	return strings.TrimSuffix(name, filepath.Ext(name))
}

const shortText = `# {{.ID}} at {{.Address}}: {{.Verified}}
{{- if .TLS}}
# CA bundle: {{.CAFile}} (again, at any time: sealane ca bundle {{.ID}}{{.Where}})
{{- end}}
{{- if .Plaintext}}
# Without TLS, until plaintext is closed (sealane encryption show {{.ID}}{{.Where}}): {{.Plaintext}}
{{- end}}

# redis-cli
{{.AuthPrefix}}redis-cli {{if .TLS}}--tls --cacert {{shell .CAFile}} {{end}}-h {{.Host}} -p {{.Port}} PING
{{- with .Read}}

# The read endpoint, where replicas answer reads: {{.Address}}: {{.Verified}}
{{.AuthPrefix}}redis-cli {{if .TLS}}--tls --cacert {{shell .CAFile}} {{end}}-h {{.Host}} -p {{.Port}} PING
{{- end}}

// Go, github.com/redis/go-redis/v9
{{- if .TLS}}
pem, err := os.ReadFile({{printf "%q" .CAFile}})
if err != nil {
	log.Fatal(err)
}
roots := x509.NewCertPool()
roots.AppendCertsFromPEM(pem)
{{- end}}
rdb := redis.NewClient(&redis.Options{
	Addr: "{{.Address}}",
{{- if .Auth}}
	Password: os.Getenv("REDIS_AUTH"),
{{- end}}
{{- if .TLS}}
	TLSConfig: &tls.Config{RootCAs: roots, ServerName: "{{.Host}}", MinVersion: tls.VersionTLS12},
{{- end}}
})

# Python, redis
r = redis.Redis(host="{{.Host}}", port={{.Port}}
{{- if .Auth}}, password=os.environ["REDIS_AUTH"]{{end}}
{{- if .TLS}},
    ssl=True, ssl_ca_certs={{printf "%q" .CAFile}}, ssl_check_hostname=True{{end}})

// Node.js, ioredis
const redis = new Redis({
  host: "{{.Host}}", port: {{.Port}},
{{- if .Auth}} password: process.env.REDIS_AUTH,{{end}}
{{- if .TLS}}
  tls: { ca: fs.readFileSync({{printf "%q" .CAFile}}) },
{{- end}}
});

# A complete program: sealane connect {{.ID}}{{.Where}} --client NAME
# NAME: {{.Clients}}
`

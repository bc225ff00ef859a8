package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/redis/apiv1/redispb"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/sealane/sealane/internal/doctor"
	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/ops"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/sidecar"
)

// sidecarConfig is the sidecar's configuration file. All of it is read at the start.
type sidecarConfig struct {
	// Ops is the address of /livez, /readyz, /metrics and /debug/pprof; "none": there is none. Default 127.0.0.1:7381.
	Ops string `yaml:"ops"`
	// Metrics is who may read /metrics: token, who has the one in OpsTokenFile, or anyone who can connect to Ops. /debug/pprof always
	// wants the token. Default token.
	Metrics string `yaml:"metrics"`
	// OpsTokenFile holds that token; it is made if it is not there. Default ops.token in the state folder.
	OpsTokenFile string `yaml:"ops_token_file"`
	// AllowQuit lets whoever reaches ops end the sidecar (POST /quit). Default false.
	AllowQuit bool `yaml:"allow_quit"`
	// Drain is for how long it serves on after SIGTERM, new clients too, unless they have all gone before: what needs it may be ending
	// at the same time. Default 0s.
	Drain time.Duration `yaml:"drain"`
	// DrainTimeout is how long clients get to finish at the end, after Drain. Default 30s.
	DrainTimeout time.Duration `yaml:"drain_timeout"`
	// Cache is a folder in which each instance's address and CA bundle are kept, but no password, for a start without the API.
	// Default none.
	Cache string `yaml:"cache"`
	// Links are the ways from a port here to a server.
	Links []linkConfig `yaml:"links"`

	flags bool // it comes from flags: problems name those
}

// linkConfig is one link.
type linkConfig struct {
	// Name is what logs, metrics and /readyz call the link. Default the instance or the address.
	Name string `yaml:"name"`
	// Listen is HOST:PORT or unix:PATH. Default 127.0.0.1:6379.
	Listen string `yaml:"listen"`
	// ListenMode is the mode of a Unix socket. Default "0600".
	ListenMode string `yaml:"listen_mode"`
	// AllowNonLoopback permits to listen where other machines can connect, in the clear. Default false.
	AllowNonLoopback bool `yaml:"allow_non_loopback"`

	// Instance is one of Sealane's, in Project and Region (both "local" by default).
	Instance string `yaml:"instance"`
	Project  string `yaml:"project"`
	Region   string `yaml:"region"`

	// Address is HOST:PORT of any other Redis with TLS, CA the PEM file of those who may have signed its certificate.
	Address string `yaml:"address"`
	CA      string `yaml:"ca"`
	// ServerName is the name in its certificate, ServerIdentity a URI (spiffe://…) in it that counts instead of a name. Default
	// the host of Address.
	ServerName     string `yaml:"server_name"`
	ServerIdentity string `yaml:"server_identity"`
	// VerifyName false accepts every certificate of the CAs, whoever it is for. Default true.
	VerifyName *bool `yaml:"verify_name"`

	// Cert and Key are a certificate for servers that want one from their clients, and its key: each a PEM file, file:PATH or
	// env:NAME. Default none; Key's default is Cert. Read again when they change.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`

	// Auth is where the password comes from: auto (the API, for an instance), none (clients log in themselves), file:PATH,
	// env:NAME. Default auto for an instance, else none. User goes with file and env.
	Auth string `yaml:"auth"`
	User string `yaml:"user"`
	// Warm is how many connections are kept ready for clients that need one of their own. Default 2.
	Warm *int `yaml:"warm"`

	listen sidecar.Listen
}

type sidecarFlags struct {
	cfg            sidecarConfig
	link           linkConfig
	file, authFile string
	fromStunnel    string
	verifyName     bool
	warm           int
}

const defaultListen = "127.0.0.1:6379"

func (f *sidecarFlags) add(c *cobra.Command) {
	s := c.Flags()
	s.StringVar(&f.link.Instance, "instance", "", "`NAME` of an instance of Sealane's")
	s.StringVar(&f.link.Project, "project", "local", "project of the instance")
	s.StringVar(&f.link.Region, "region", "local", "region of the instance")
	s.StringVar(&f.link.Address, "address", "", "`HOST:PORT` of any other Redis with TLS")
	s.StringVar(&f.link.CA, "ca", "", "PEM `FILE` of the CAs that may have signed its certificate; read again when it changes")
	s.StringVar(&f.link.ServerName, "server-name", "", "the name in its certificate (default: the host of --address)")
	s.StringVar(&f.link.ServerIdentity, "server-identity", "", "`URI` (spiffe://…) in its certificate that counts instead of a name")
	s.BoolVar(&f.verifyName, "verify-name", true, "false: accept every certificate of the CAs, whoever it is for")
	s.StringVar(&f.link.Cert, "cert", "", "PEM `FILE` of a certificate for servers that want one from their clients, or env:NAME; read again when it changes")
	s.StringVar(&f.link.Key, "key", "", "PEM `FILE` of its key, or env:NAME (default: the file of --cert)")
	s.StringVar(&f.link.Auth, "auth", "", "password for clients that have not logged in: auto (of the instance), none, file:`PATH`, env:NAME (default auto with --instance, else none)")
	s.StringVar(&f.authFile, "auth-file", "", "`FILE`: the same as --auth file:FILE")
	s.StringVar(&f.link.User, "user", "", "the user that the password is of (default: the default user)")
	s.StringVar(&f.link.Listen, "listen", defaultListen, "`HOST:PORT` or unix:PATH")
	s.StringVar(&f.link.ListenMode, "listen-mode", "", "mode of the Unix socket (default 0600)")
	s.BoolVar(&f.link.AllowNonLoopback, "allow-non-loopback", false, "listen where other machines can connect, in the clear")
	s.IntVar(&f.warm, "warm", 2, "connections kept ready for clients that need one of their own")
	s.StringVar(&f.file, "config", "", "configuration `FILE` (YAML) with one or more links, in place of the flags above")
	s.StringVar(&f.cfg.Ops, "ops", defaultSidecarOps, "address of /livez, /readyz, /metrics and /debug/pprof, or none")
	s.StringVar(&f.cfg.Metrics, "metrics", ops.WithToken, "who may read /metrics: token, or anyone who can connect to --ops")
	s.StringVar(&f.cfg.OpsTokenFile, "ops-token-file", "", "`FILE` with the bearer token for /metrics and /debug/pprof; made if it is not there (default ops.token in the state folder)")
	s.BoolVar(&f.cfg.AllowQuit, "allow-quit", false, "let whoever reaches --ops end the sidecar (`sealane sidecar quit`)")
	s.Lookup("allow-quit").Usage = "let whoever reaches --ops end the sidecar, as 'sealane sidecar quit' does"
	s.DurationVar(&f.cfg.Drain, "drain", 0, "how long to serve on after SIGTERM, for applications that end at the same time")
	s.DurationVar(&f.cfg.DrainTimeout, "drain-timeout", 30*time.Second, "how long clients get to finish at the end, after --drain")
	s.StringVar(&f.cfg.Cache, "cache", "", "`FOLDER` for the instance's address and CA bundle (no password), for a start without the API")
	s.StringVar(&f.fromStunnel, "from-stunnel", "", "print the configuration that does what this stunnel configuration `FILE` does, and end")
}

// changed is a flag that was given, besides those that may be.
func changed(c *cobra.Command, may ...string) string {
	name := ""
	c.Flags().Visit(func(f *pflag.Flag) {
		for _, m := range append(may, "state") {
			if f.Name == m {
				return
			}
		}
		name = f.Name
	})
	return name
}

// config is what file or flags say, checked.
func (f *sidecarFlags) config(c *cobra.Command) (*sidecarConfig, error) {
	if f.file != "" {
		if n := changed(c, "config"); n != "" {
			return nil, usage(c, "--%s does not go with --config: set it in %s", n, f.file)
		}
		return readSidecarConfig(f.file)
	}
	if f.authFile != "" {
		if f.link.Auth != "" {
			return nil, usage(c, "--auth and --auth-file: want one of them")
		}
		f.link.Auth = "file:" + f.authFile
	}
	f.link.VerifyName, f.link.Warm = &f.verifyName, &f.warm
	if f.link.Instance == "" {
		if n := f.instanceOnly(c); n != "" {
			return nil, usage(c, "--%s goes with --instance", n)
		}
		f.link.Project, f.link.Region = "", ""
	}
	cfg := f.cfg
	cfg.flags, cfg.Links = true, []linkConfig{f.link}
	if problems := cfg.check(); len(problems) > 0 {
		return nil, usage(c, "%s", strings.Join(problems, "; "))
	}
	return &cfg, nil
}

func (f *sidecarFlags) instanceOnly(c *cobra.Command) string {
	for _, n := range []string{"project", "region", "cache"} {
		if c.Flags().Changed(n) {
			return n
		}
	}
	return ""
}

func readSidecarConfig(path string) (*sidecarConfig, error) {
	const where = "docs/sidecar.md lists every field"
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, withHint(fmt.Errorf("--config: %w", err), "name a file that is there, or say what you want by flags")
	}
	c := &sidecarConfig{Ops: defaultSidecarOps, DrainTimeout: 30 * time.Second}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, withHint(fmt.Errorf("--config %s: %w", path, err), where)
	}
	if problems := c.check(); len(problems) > 0 {
		return nil, withHint(fmt.Errorf("--config %s: %s", path, strings.Join(problems, "; ")), where)
	}
	return c, nil
}

// check fills the defaults in and returns every problem; each names the field and the value.
func (c *sidecarConfig) check() []string {
	var problems []string
	name := func(i int, field string) string {
		if c.flags {
			return "--" + strings.ReplaceAll(field, "_", "-")
		}
		if i < 0 {
			return field
		}
		return fmt.Sprintf("links[%d].%s", i, field)
	}
	host, port, err := net.SplitHostPort(c.Ops)
	if n, portErr := strconv.ParseUint(port, 10, 16); c.Ops != "none" && (err != nil || portErr != nil || n > 65535 || host == "") {
		problems = append(problems, fmt.Sprintf("%s: %q: want HOST:PORT, such as %s, or none", name(-1, "ops"), c.Ops, defaultSidecarOps))
	}
	if problem := ops.CheckReaders(c.Metrics); problem != "" {
		problems = append(problems, name(-1, "metrics")+": "+problem)
	}
	if c.Drain < 0 {
		problems = append(problems, fmt.Sprintf("%s: %s: want 0 or more", name(-1, "drain"), c.Drain))
	}
	if c.DrainTimeout < 0 {
		problems = append(problems, fmt.Sprintf("%s: %s: want 0 or more", name(-1, "drain_timeout"), c.DrainTimeout))
	}
	if len(c.Links) == 0 {
		problems = append(problems, "links: there is none")
	}
	names, listens := make(map[string]bool), make(map[string]bool)
	for i := range c.Links {
		l := &c.Links[i]
		add := func(field, format string, args ...any) {
			problems = append(problems, name(i, field)+": "+fmt.Sprintf(format, args...))
		}
		l.check(add)
		if names[l.Name] && l.Name != "" {
			add("name", "%q: another link is called so", l.Name)
		}
		if listens[l.Listen] && !strings.HasSuffix(l.Listen, ":0") {
			add("listen", "%q: another link listens there", l.Listen)
		}
		names[l.Name], listens[l.Listen] = true, true
	}
	return problems
}

// resourceName is what a part of a resource's name may be, and a part of a file's. What there is the API knows.
var resourceName = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]{0,126}$`)

var linkName = regexp.MustCompile(`^[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]{0,250}$`)

func (l *linkConfig) check(add func(field, format string, args ...any)) {
	if l.Listen == "" {
		l.Listen = defaultListen
	}
	l.checkListen(add)
	switch {
	case l.Instance == "" && l.Address == "":
		add("instance", "want the name of an instance, or address and ca for any other Redis")
	case l.Instance != "" && l.Address != "":
		add("address", "%q: does not go with instance", l.Address)
	case l.Instance != "":
		l.checkInstance(add)
	default:
		l.checkAddress(add)
	}
	if l.Name != "" && !linkName.MatchString(l.Name) {
		add("name", "%q: want letters, digits and . _ : -", l.Name)
	}
	if l.Name == "" {
		l.Name = l.Instance + l.Address
	}
	l.checkAuth(add)
	l.checkCert(add)
	if l.Warm == nil {
		l.Warm = new(int)
		*l.Warm = 2
	}
	if *l.Warm < 0 || *l.Warm > 1000 {
		add("warm", "%d: want 0 to 1000", *l.Warm)
	}
}

func (l *linkConfig) checkListen(add func(field, format string, args ...any)) {
	var err error
	if l.listen, err = sidecar.ParseListen(l.Listen); err != nil {
		add("listen", "%v", err)
		return
	}
	l.listen.Anywhere = l.AllowNonLoopback
	if !l.listen.IsLoopback() && !l.AllowNonLoopback {
		add("listen", "%q is not a loopback address: clients' bytes and passwords would cross a network in the clear; allow_non_loopback (--allow-non-loopback) permits it", l.Listen)
	}
	if l.ListenMode == "" {
		return
	}
	mode, err := strconv.ParseUint(l.ListenMode, 8, 9)
	switch {
	case err != nil:
		add("listen_mode", "%q: want an octal mode, such as 0660", l.ListenMode)
	case l.listen.Path == "":
		add("listen_mode", "%q: goes with unix:PATH", l.ListenMode)
	default:
		l.listen.Mode = fs.FileMode(mode)
	}
}

func (l *linkConfig) checkInstance(add func(field, format string, args ...any)) {
	for _, f := range []struct{ field, value string }{{"ca", l.CA}, {"server_name", l.ServerName}, {"server_identity", l.ServerIdentity}} {
		if f.value != "" {
			add(f.field, "%q: goes with address; of an instance the API tells it", f.value)
		}
	}
	if l.Project == "" {
		l.Project = "local"
	}
	if l.Region == "" {
		l.Region = "local"
	}
	for _, f := range []struct{ field, value string }{{"instance", l.Instance}, {"project", l.Project}, {"region", l.Region}} {
		if !resourceName.MatchString(f.value) {
			add(f.field, "%q: want lower-case letters, digits and hyphens", f.value)
		}
	}
}

func (l *linkConfig) checkAddress(add func(field, format string, args ...any)) {
	host, port, err := net.SplitHostPort(l.Address)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n == 0 || host == "" || strings.ContainsAny(host, "/@") {
		add("address", "want HOST:PORT, such as redis.example.com:6378, and not a URL") // which may hold a password: it is not shown
		l.Address = ""
	} else if l.CA == "" {
		add("ca", "is missing: name the PEM file of the CAs that may have signed the certificate of %s", l.Address)
	}
	if l.ServerName != "" && l.ServerIdentity != "" {
		add("server_name", "%q: does not go with server_identity", l.ServerName)
	}
	if l.ServerIdentity != "" && !strings.Contains(l.ServerIdentity, "://") {
		add("server_identity", "%q: want a URI, such as spiffe://sealane/local/local/first", l.ServerIdentity)
	}
	if l.Project != "" || l.Region != "" {
		add("project", "goes with instance, and so does region")
	}
}

func (l *linkConfig) checkAuth(add func(field, format string, args ...any)) {
	if l.Auth == "" {
		if l.Auth = "none"; l.Instance != "" {
			l.Auth = "auto"
		}
	}
	kind, value, _ := strings.Cut(l.Auth, ":")
	switch {
	case l.Auth == "none", l.Auth == "auto" && l.Instance != "":
		if l.User != "" {
			add("user", "%q: goes with a password from file: or env:", l.User)
		}
	case l.Auth == "auto":
		add("auth", "auto: goes with instance; want none, file:PATH or env:NAME")
	case kind == "file" && value != "":
	case kind == "env" && value != "":
		if os.Getenv(value) == "" {
			add("auth", "%q: the environment variable %s is not set, or empty", l.Auth, value)
		}
	default: // not shown: it may be the password itself
		add("auth", "want auto, none, file:PATH or env:NAME")
	}
}

func (l *linkConfig) checkCert(add func(field, format string, args ...any)) {
	for _, f := range []struct{ field, value string }{{"cert", l.Cert}, {"key", l.Key}} {
		if name, ok := strings.CutPrefix(f.value, "env:"); ok && os.Getenv(name) == "" {
			add(f.field, "%q: the environment variable %s is not set, or empty", f.value, name)
		}
		if strings.Contains(f.value, "-----BEGIN") { // not shown: it may be the key itself
			add(f.field, "want the name of a PEM file, or env:NAME, and not what is in it")
		}
	}
	if l.Key != "" && l.Cert == "" {
		add("key", "goes with cert")
	}
	if l.Key == "" {
		l.Key = l.Cert
	}
}

// links makes what runs.
func (c *sidecarConfig) links(e *env) ([]sidecar.Link, error) {
	if c.Cache != "" {
		if err := os.MkdirAll(c.Cache, 0o700); err != nil {
			return nil, withHint(fmt.Errorf("cache: %w", err), "name a folder that this user may write")
		}
	}
	var all []sidecar.Link
	for _, l := range c.Links {
		out := sidecar.Link{Name: l.Name, Listen: l.listen, Warm: *l.Warm, Local: l.local()}
		if l.Instance != "" {
			if c.Cache != "" {
				out.Cache = filepath.Join(c.Cache, strings.Join([]string{l.Project, l.Region, l.Instance}, "_")+".json")
			}
			where := parentFlags{l.Project, l.Region}.flags()
			out.TrustName, out.Examine = "the bundle of instance "+l.Instance, "sealane doctor "+l.Instance+where+l.certFlags()
			out.Source = l.fromAPI(e)
		} else {
			out.Every = 3 * time.Second
			out.TrustName, out.Examine = l.CA, "sealane doctor "+l.Address+" --ca "+doctor.ShellWord(l.CA)+l.certFlags()
			out.Source = l.fromFiles()
		}
		if !l.verifiesName() {
			out.Warnings = append(out.Warnings, "the name in the server's certificate is not checked (verify_name: false): whoever has a certificate of the same CAs is believed")
		}
		if !l.listen.IsLoopback() {
			out.Warnings = append(out.Warnings, "clients from other machines are let in, in the clear (allow_non_loopback)")
		}
		all = append(all, out)
	}
	return all, nil
}

func (l *linkConfig) verifiesName() bool { return l.VerifyName == nil || *l.VerifyName }

// password is what file: and env: lead to.
func (l *linkConfig) password() (string, error) {
	kind, value, _ := strings.Cut(l.Auth, ":")
	if kind == "env" {
		return os.Getenv(value), nil
	}
	return sidecar.Password(value)
}

func (l *linkConfig) fromFiles() sidecar.Source {
	return sidecar.Files(sidecar.Server{Address: l.Address, Identity: l.ServerIdentity, Name: l.ServerName}, l.CA)
}

// local adds what only this machine knows, also to what the cache has: the configuration may be another since.
func (l *linkConfig) local() func(*sidecar.Server) error {
	return func(s *sidecar.Server) (err error) {
		s.ClientsLogIn, s.AnyName = l.Auth == "none", !l.verifiesName()
		if l.Auth != "none" && l.Auth != "auto" {
			s.User = l.User
			if s.Password, err = l.password(); err != nil {
				return err
			}
		}
		if l.Cert != "" {
			s.Certificate, s.Key, err = sidecar.ClientCertificate(l.Cert, l.Key)
		}
		return err
	}
}

// certFlags are those of `sealane doctor` for the client certificate.
func (l *linkConfig) certFlags() string {
	if l.Cert == "" {
		return ""
	}
	return " --cert " + doctor.ShellWord(l.Cert) + " --key " + doctor.ShellWord(l.Key)
}

// fromAPI asks the server about an instance. It needs nothing but what the Memorystore API has.
func (l *linkConfig) fromAPI(e *env) sidecar.Source {
	parent := parentFlags{l.Project, l.Region}
	return func(ctx context.Context) (sidecar.Server, error) {
		api, err := newClient(e)
		if err != nil {
			return sidecar.Server{}, sourceFault(err)
		}
		i, _, err := api.instance(ctx, parent.instance(l.Instance))
		if err != nil {
			return sidecar.Server{}, sourceFault(err)
		}
		switch {
		case i.GetHost() == "":
			return sidecar.Server{}, sidecar.SourceFault(fmt.Sprintf("instance %s is %s and has no address", l.Instance, i.GetState()), "wait until it is READY; it is asked again by itself")
		case i.GetTransitEncryptionMode() != redispb.Instance_SERVER_AUTHENTICATION:
			return sidecar.Server{}, sidecar.SourceFault(fmt.Sprintf("instance %s has no encryption", l.Instance), "clients need no sidecar for it: connect to "+net.JoinHostPort(i.GetHost(), strconv.Itoa(int(i.GetPort()))))
		}
		s := sidecar.Server{
			Address: net.JoinHostPort(i.GetHost(), strconv.Itoa(int(i.GetPort()))), Bundle: string(bundleOf(i)),
			Identity: pki.Identity(l.Project, l.Region, l.Instance),
		}
		if l.Auth == "auto" && i.GetAuthEnabled() {
			auth := &redispb.InstanceAuthString{}
			_, err = api.call(ctx, http.MethodGet, "/v1/"+i.GetName()+"/authString", nil, nil, auth)
			s.Password = auth.GetAuthString()
		}
		if err != nil {
			return sidecar.Server{}, sourceFault(err)
		}
		return s, nil
	}
}

func sourceFault(err error) *sidecar.Fault {
	if f, ok := errors.AsType[*sidecar.Fault](err); ok {
		return f
	}
	fix := hint.Of(err)
	if fix == "" {
		fix = "the API's log has the details"
	}
	return sidecar.SourceFault(oneLine(err.Error()), fix+"; it is asked again by itself")
}

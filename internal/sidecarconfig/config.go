// Package sidecarconfig is the configuration of `sealane sidecar`: its fields, where each may be set, and what may be in it.
//
// Each field is set in the file of --config, by an environment variable (SEALANE_SIDECAR_ and the field's name), and some by a flag.
// A flag counts more than the environment, and that more than the file. All of it is read at the start, and every problem is told at
// once, by the name of where it was set. A password or a key is never a value: only the name of the file or of the environment variable
// that holds it.
package sidecarconfig

import (
	"time"

	"github.com/sealane/sealane/internal/ops"
	"github.com/sealane/sealane/internal/sidecar"
)

const (
	// DefaultOps is where a sidecar's ops listener is.
	DefaultOps = "127.0.0.1:7381"
	// NoOps in its place: there is none.
	NoOps = "none"

	defaultListen = "127.0.0.1:6379"
	defaultParent = "local" // project, and region
)

// Config is the file of --config. Every field may be left out; an unknown one is an error. docs/sidecar.md has a row for each.
type Config struct {
	// Ops is the address of /livez, /readyz, /metrics and /debug/pprof, HOST:PORT; "none": there is none. Default 127.0.0.1:7381.
	Ops string `yaml:"ops"`
	// Metrics is who may read /metrics: token, who has the one in OpsTokenFile, or anyone who can connect to Ops. /debug/pprof always
	// wants the token. Default token.
	Metrics string `yaml:"metrics"`
	// OpsTokenFile holds that token; it is made if it is not there. Default ops.token in the state folder.
	OpsTokenFile string `yaml:"ops_token_file"`
	// AllowQuit lets whoever reaches ops end the sidecar (POST /quit). Default false.
	AllowQuit bool `yaml:"allow_quit"`
	// Drain is for how long the sidecar serves on after SIGTERM, new clients too, unless they have all gone before: what needs it may be
	// ending at the same time. Default 0s.
	Drain time.Duration `yaml:"drain"`
	// DrainTimeout is how long clients get to finish at the end, after Drain. Default 30s.
	DrainTimeout time.Duration `yaml:"drain_timeout"`
	// Cache is a folder in which each instance's address and CA bundle are kept, but no password, for a start without the API.
	// Default none.
	Cache string `yaml:"cache"`
	// Links are the ways from a port here to a server. Environment and flags describe one link.
	Links []Link `yaml:"links"`

	// Strays are variables of the environment that may have been meant for the sidecar, and that it does not read.
	Strays []Stray `yaml:"-"`
}

// Stray is a variable that is called like one of the sidecar's.
type Stray struct{ Name, Meant string }

// Link is one way from a port on this machine to a server: either Instance or Address says which.
type Link struct {
	// Name is what logs, metrics and /readyz call the link. Default the instance or the address.
	Name string `yaml:"name"`
	// Listen is HOST:PORT or unix:PATH. Default 127.0.0.1:6379.
	Listen string `yaml:"listen"`
	// ListenMode is the mode of a Unix socket, in octal. Default 0600.
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
	// env:NAME. Default auto for an instance, else none. User goes with file and env; default: the default user.
	Auth string `yaml:"auth"`
	User string `yaml:"user"`
	// Warm is how many connections are kept ready for clients that need one of their own, 0 to 1000. Default 2.
	Warm *int `yaml:"warm"`

	listen sidecar.Listen
}

// Default is the configuration without a file, with one link. The default of a field that is empty here depends on others, or there is
// none.
func Default() *Config {
	verify, warm := true, 2
	return &Config{
		Ops: DefaultOps, Metrics: ops.WithToken, DrainTimeout: 30 * time.Second,
		Links: []Link{{Listen: defaultListen, VerifyName: &verify, Warm: &warm}},
	}
}

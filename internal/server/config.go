package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/objects"
	"github.com/sealane/sealane/internal/ops"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/statedir"
)

// Config is the file that `sealane serve --config` reads. Every field may be left out; an unknown one is an error. A change needs a
// restart of `sealane serve`, which drops no client connection. docs/configuration.md has a row for each field. (The sidecar's is
// internal/sidecarconfig/config.go.)
type Config struct {
	// HTTP is where REST is served, HOST:PORT. Off loopback tls is required. Default 127.0.0.1:7378.
	HTTP string `yaml:"http"`
	// GRPC is where gRPC is served, likewise. Default 127.0.0.1:7379.
	GRPC string `yaml:"grpc"`
	// Ops is where /livez, /readyz, /metrics and /debug/pprof are served, in plain text. Default 127.0.0.1:7380.
	Ops string `yaml:"ops"`
	// Metrics is who may read /metrics: token, who has the one in ops.token of the state folder, or anyone who can connect to ops.
	// /debug/pprof always wants the token. Default token.
	Metrics string `yaml:"metrics"`
	// TLS is the certificate of the API and its key, PEM files. Default none.
	TLS struct {
		Certificate string `yaml:"certificate"`
		Key         string `yaml:"key"`
	} `yaml:"tls"`
	// Engines are paths of redis-server or valkey-server, the default one first. Default: those in PATH.
	Engines []string `yaml:"engines"`
	// Addresses are where instances are reached. Default: an address each in 127.83.0.0/16.
	Addresses struct {
		// Pool is a network of this machine's addresses; each instance gets one, with port 6378.
		Pool string `yaml:"pool"`
		// Host is one address of this machine for all instances; each gets one of Ports, FIRST-LAST.
		Host  string `yaml:"host"`
		Ports string `yaml:"ports"`
		// DNSNames are further names for the certificates; {instance}, {location} and {project} are replaced.
		DNSNames []string `yaml:"dns_names"`
	} `yaml:"addresses"`
	// Nodes are where the processes of node-0, node-1 and so on of every instance run. Those that are not in it run as the server does.
	Nodes []struct {
		// NetworkNamespace is the file of a network namespace, such as /run/netns/NAME. Default: the server's own.
		NetworkNamespace string `yaml:"network_namespace"`
		// Address is what the other nodes connect to for replication. Default: an address as those of instances.
		Address string `yaml:"address"`
	} `yaml:"nodes"`
	// Projects and Locations are those that may be used. Default: any.
	Projects  []string `yaml:"projects"`
	Locations []string `yaml:"locations"`
	// MasterKeyFile holds the master key, 32 bytes as base64. Default: master.key in the state folder, which
	// is made on first start. SEALANE_MASTER_KEY and the systemd credential sealane-master-key come first.
	MasterKeyFile string `yaml:"master_key_file"`
	// CALifetime is how long a CA lives, 20s to 87600h; everything else about certificates is in proportion. It counts for
	// instances that are created from then on, and is for tests: clients have to follow. Default 87600h, ten years.
	CALifetime string `yaml:"ca_lifetime"`
	// CAKeyAlgorithm is that of the CAs and certificates of instances for which none is asked: ecdsa-p256 or rsa-2048, for
	// clients that know no ECDSA. Default ecdsa-p256.
	CAKeyAlgorithm string `yaml:"ca_key_algorithm"`
	// CANameConstraints gives the CAs of instances critical name constraints for which nothing else is asked. Not every TLS
	// library can use such a CA. Default false.
	CANameConstraints bool `yaml:"ca_name_constraints"`

	// Buckets are where imports and exports find gs://NAME/…; "*" stands for all buckets that have no entry. Default: each bucket is a
	// folder below buckets in the state folder.
	Buckets map[string]objects.Bucket `yaml:"buckets"`

	// What follows from the fields above, by ReadConfig.

	InstanceAddresses instance.Addresses `yaml:"-"`
	Lifetimes         pki.Lifetimes      `yaml:"-"` // zero: the default
}

// DefaultConfig is the configuration without a file. The default of a field that is empty here is with what uses it.
func DefaultConfig() *Config {
	return &Config{HTTP: "127.0.0.1:7378", GRPC: "127.0.0.1:7379", Ops: "127.0.0.1:7380", Metrics: ops.WithToken}
}

// ReadConfig reads the file, "" for none, and lets the flags override it.
func ReadConfig(path, httpFlag, grpcFlag string) (*Config, error) {
	c := DefaultConfig()
	if path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, hint.Wrap(fmt.Errorf("--config: %w", err), "name a file that is there, or leave --config out for the defaults")
		}
		d := yaml.NewDecoder(bytes.NewReader(raw))
		d.KnownFields(true)
		if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
			return nil, hint.Wrap(fmt.Errorf("--config %s: %w", path, err), "docs/configuration.md lists every field")
		}
	}
	if httpFlag != "" {
		c.HTTP = httpFlag
	}
	if grpcFlag != "" {
		c.GRPC = grpcFlag
	}
	if problems := c.check(); len(problems) > 0 {
		return nil, hint.Wrap(errors.New("configuration: "+strings.Join(problems, "; ")), "docs/configuration.md lists every field")
	}
	return c, nil
}

// check returns every problem; each names the field and the value.
func (c *Config) check() []string {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, l := range []struct{ field, address string }{{"http", c.HTTP}, {"grpc", c.GRPC}, {"ops", c.Ops}} {
		host, port, err := net.SplitHostPort(l.address)
		if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n > 65535 {
			add("%s: %q: want HOST:PORT, such as 127.0.0.1:7378", l.field, l.address)
			continue
		}
		if !isLoopback(host) && l.field != "ops" && c.TLS.Certificate == "" {
			add("%s: %q is not a loopback address: set tls.certificate and tls.key, because the bearer token would cross the network in the clear", l.field, l.address)
		}
	}
	if problem := ops.CheckReaders(c.Metrics); problem != "" {
		add("metrics: %s", problem)
	}
	if (c.TLS.Certificate == "") != (c.TLS.Key == "") {
		add("tls: want both certificate and key")
	}
	problems = append(problems, c.checkAddresses()...)
	problems = append(problems, objects.CheckBuckets(c.Buckets)...)
	if problem := c.checkLifetime(); problem != "" {
		problems = append(problems, problem)
	}
	if a := pki.Algorithm(c.CAKeyAlgorithm); a != "" && a != pki.ECDSAP256 && a != pki.RSA2048 {
		add("ca_key_algorithm: %q: want %s or %s", a, pki.ECDSAP256, pki.RSA2048)
	}
	for _, p := range c.Projects {
		if err := instance.CheckParent("projects", p, "local"); err != nil {
			add("%v", err)
		}
	}
	for _, l := range c.Locations {
		if err := instance.CheckParent("locations", "local", l); err != nil {
			add("%v", err)
		}
	}
	return problems
}

func (c *Config) checkLifetime() string {
	longest := pki.DefaultLifetimes().CA
	if c.CALifetime == "" {
		return ""
	}
	ca, err := time.ParseDuration(c.CALifetime)
	if err != nil || ca < pki.MinScaledCA || ca > longest || ca%time.Second != 0 {
		return fmt.Sprintf("ca_lifetime: %q: want whole seconds, %s to %gh, such as 2h", c.CALifetime, pki.MinScaledCA, longest.Hours())
	}
	if ca < longest {
		c.Lifetimes = pki.ScaledLifetimes(ca)
	}
	return ""
}

func (c *Config) checkAddresses() []string {
	var problems []string
	var err error
	a := instance.Addresses{DNSNames: c.Addresses.DNSNames}
	if c.Addresses.Pool == "" && c.Addresses.Host == "" {
		a.Pool = instance.DefaultAddresses().Pool
	}
	if c.Addresses.Pool != "" {
		if a.Pool, err = netip.ParsePrefix(c.Addresses.Pool); err != nil {
			problems = append(problems, fmt.Sprintf("addresses.pool: %q: want a network, such as 10.0.0.0/24", c.Addresses.Pool))
		}
	}
	if c.Addresses.Host != "" {
		if a.Host, err = netip.ParseAddr(c.Addresses.Host); err != nil {
			problems = append(problems, fmt.Sprintf("addresses.host: %q: want an IP address; names go into addresses.dns_names", c.Addresses.Host))
		}
		first, last, _ := strings.Cut(c.Addresses.Ports, "-")
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil {
			problems = append(problems, fmt.Sprintf("addresses.ports: %q: want FIRST-LAST, such as 6378-6399", c.Addresses.Ports))
		}
		a.FirstPort, a.LastPort = uint16(from), uint16(to)
	} else if c.Addresses.Ports != "" {
		problems = append(problems, "addresses.ports: goes with addresses.host")
	}
	for k, n := range c.Nodes {
		place := instance.Place{NetworkNamespace: n.NetworkNamespace}
		if n.Address != "" {
			if place.Address, err = netip.ParseAddr(n.Address); err != nil {
				problems = append(problems, fmt.Sprintf("nodes[%d].address: %q: want an IP address, without a port", k, n.Address))
			}
		}
		if n.NetworkNamespace != "" && !filepath.IsAbs(n.NetworkNamespace) {
			problems = append(problems, fmt.Sprintf("nodes[%d].network_namespace: %q: want an absolute path, such as /run/netns/%s", k, n.NetworkNamespace, filepath.Base(n.NetworkNamespace)))
		}
		a.Nodes = append(a.Nodes, place)
	}
	c.InstanceAddresses = a
	if len(problems) > 0 {
		return problems
	}
	return a.Check()
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// checkSecretFiles checks who else can read the secrets that the configuration names.
func (c *Config) checkSecretFiles() error {
	if c.MasterKeyFile != "" {
		if err := statedir.CheckMode("master_key_file", c.MasterKeyFile, statedir.Private); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Buckets)) {
		if file := c.Buckets[name].CredentialsFile; file != "" {
			if err := statedir.CheckMode("buckets."+name+".credentials_file", file, statedir.PrivateToGroup); err != nil {
				return err
			}
		}
	}
	if c.TLS.Key == "" {
		return nil
	}
	return statedir.CheckMode("tls.key", c.TLS.Key, statedir.PrivateToGroup)
}

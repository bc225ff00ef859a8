package server_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/server"
)

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "serve.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestFlagsCountMoreThanTheFile(t *testing.T) {
	t.Parallel()
	file := write(t, "http: 127.0.0.1:1\ngrpc: 127.0.0.1:2\nca_lifetime: 2h\naddresses: {host: 127.0.0.1, ports: 7000-7009}\n")
	c, err := server.ReadConfig(file, "127.0.0.1:3", "")
	if err != nil {
		t.Fatal(err)
	}
	if c.HTTP != "127.0.0.1:3" || c.GRPC != "127.0.0.1:2" || c.Ops != server.DefaultConfig().Ops {
		t.Errorf("%+v", c)
	}
	if a := c.InstanceAddresses; a.Host.String() != "127.0.0.1" || a.FirstPort != 7000 || a.LastPort != 7009 || a.Pool.IsValid() || c.Lifetimes.CA != 2*time.Hour {
		t.Errorf("%+v", c)
	}
}

func TestWithoutAFileThereAreDefaults(t *testing.T) {
	t.Parallel()
	c, err := server.ReadConfig("", "", "")
	if err != nil || c.InstanceAddresses.Pool != instance.DefaultAddresses().Pool || c.Lifetimes.CA != 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestAllProblemsOfAConfigurationAreToldAtOnce(t *testing.T) {
	t.Parallel()
	_, err := server.ReadConfig(write(t, `http: nowhere
grpc: 10.0.0.5:7379
metrics: everyone
tls: {key: api.key}
ca_key_algorithm: ed25519
ca_lifetime: 1.5s
addresses: {pool: 10.0.0.0, ports: 1-2}
`), "", "")
	for _, want := range []string{
		`http: "nowhere": want HOST:PORT`, `grpc: "10.0.0.5:7379" is not a loopback address`, `metrics: "everyone": want token or anyone`,
		"tls: want both certificate and key", `ca_key_algorithm: "ed25519": want ecdsa-p256 or rsa-2048`, `ca_lifetime: "1.5s": want whole seconds`,
		`addresses.pool: "10.0.0.0": want a network`, "addresses.ports: goes with addresses.host",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

// Where nodes run is told with the rest, and what is wrong with it by its place in the list.
func TestNodesOfAConfiguration(t *testing.T) {
	t.Parallel()
	c, err := server.ReadConfig(write(t, "nodes: [{address: 10.99.0.1}, {address: 10.99.0.2, network_namespace: /run/netns/b}]\n"), "", "")
	want := []instance.Place{{Address: netip.MustParseAddr("10.99.0.1")}, {Address: netip.MustParseAddr("10.99.0.2"), NetworkNamespace: "/run/netns/b"}}
	if err != nil || !slices.Equal(c.InstanceAddresses.Nodes, want) {
		t.Errorf("%+v, %v", c, err)
	}
	for text, want := range map[string]string{
		"nodes: [{address: 'host:1'}]":                                            `nodes[0].address: "host:1": want an IP address`,
		"nodes: [{address: 0.0.0.0}]":                                             "nodes[0].address: 0.0.0.0: want an address that other nodes can connect to",
		"nodes: [{network_namespace: /run/netns/a, address: 10.0.0.1}]":           `nodes[0].network_namespace: "/run/netns/a": want none`,
		"nodes: [{}, {network_namespace: /run/netns/b, address: 10.0.0.1}]":       `nodes[0].address: "": want an address off loopback`,
		"nodes: [{address: 10.0.0.1}, {network_namespace: b}]":                    `nodes[1].network_namespace: "b": want an absolute path, such as /run/netns/b`,
		"nodes: [{address: 10.0.0.1}, {network_namespace: /b, address: 127.1}]":   `nodes[1].address: "127.1": want an IP address`,
		"nodes: [{address: 10.0.0.1}, {network_namespace: /b, address: '::1'}]":   `nodes[1].address: "::1": want an address off loopback`,
		"nodes: [{address: 10.0.0.1}, {network_namespace: /b, adress: 10.0.0.2}]": "adress",
	} {
		if _, err := server.ReadConfig(write(t, text+"\n"), "", ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
}

func TestBucketsAreCheckedAlongWithTheRest(t *testing.T) {
	t.Parallel()
	_, err := server.ReadConfig(write(t, "metrics: everyone\nbuckets: {backups: {folder: here}, other: {service: s3, endpoint: 'http://key:hunter2@10.0.0.1'}}\n"), "", "")
	for _, want := range []string{"metrics:", `buckets.backups.folder: "here": want an absolute path`, "buckets.other.endpoint: has a user name or password in it"} {
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if _, err := server.ReadConfig(write(t, "buckets: {backups: {secret_key: hunter2}}\n"), "", ""); err == nil || !strings.Contains(err.Error(), "secret_key") {
		t.Errorf("a secret in the configuration: %v", err)
	}
}

package server_test

import (
	"os"
	"path/filepath"
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

package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// wantStartError starts a server that must fail to start and say these words on stderr.
func (s *server) wantStartError(words ...string) {
	s.t.Helper()
	before := len(s.stderr.String())
	s.launch()
	s.waitEnd()
	got := s.stderr.String()[before:]
	if code := s.cmd.ProcessState.ExitCode(); code != 1 {
		s.t.Errorf("exit code: got %d, want 1", code)
	}
	for _, w := range append([]string{"sealane: error: ", "sealane: hint: "}, words...) {
		if !strings.Contains(got, w) {
			s.t.Errorf("got %q, want %q in it", got, w)
		}
	}
	if strings.Contains(got, "panic") || strings.Contains(got, "goroutine ") {
		s.t.Errorf("got a panic:\n%s", got)
	}
	if strings.Contains(s.stdout.String(), "ready") {
		s.t.Errorf("it says %q", s.stdout)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	const ports = "http: 127.0.0.1:0\ngrpc: 127.0.0.1:0\nops: 127.0.0.1:0\n"
	for _, c := range []struct {
		name, config string
		words        []string
	}{
		{"unknown key", ports + "htpp: 127.0.0.1:0\n", []string{"htpp"}},
		{"unknown nested key", ports + "addresses: {pol: 127.1.0.0/24}\n", []string{"pol"}},
		{"no YAML", "\t{", []string{"sealane.yaml"}},
		{"a number that is no address", "http: 7378\n", []string{`http: "7378": want HOST:PORT`}},
		{"a pool that is none", ports + "addresses: {pool: nonsense}\n", []string{`addresses.pool: "nonsense": want a network`}},
		{"a pool and a host", ports + "addresses: {pool: 127.1.0.0/24, host: 127.0.0.1, ports: 7000-7001}\n", []string{"addresses: pool and host are both set"}},
		{"a host without ports", ports + "addresses: {host: 127.0.0.1}\n", []string{`addresses.ports: ""`}},
		{"ports the wrong way round", ports + "addresses: {host: 127.0.0.1, ports: 7001-7000}\n", []string{"addresses.ports: 7001-7000"}},
		{"a host that is a name", ports + "addresses: {host: example.com, ports: 7000-7001}\n", []string{`addresses.host: "example.com"`}},
		{"a DNS name that is none", ports + "addresses: {dns_names: ['{instance}..x']}\n", []string{`addresses.dns_names: "{instance}..x"`}},
		{"off loopback without TLS", "http: 0.0.0.0:0\ngrpc: 127.0.0.1:0\nops: 127.0.0.1:0\n", []string{`http: "0.0.0.0:0" is not a loopback address`, "tls.certificate"}},
		{"gRPC off loopback without TLS", "http: 127.0.0.1:0\ngrpc: ':0'\nops: 127.0.0.1:0\n", []string{`grpc: ":0" is not a loopback address`}},
		{"a certificate without its key", ports + "tls: {certificate: /tmp/x.pem}\n", []string{"tls: want both certificate and key"}},
		{"all problems at once", "http: x\ngrpc: y\naddresses: {pool: z}\nprojects: [BAD]\n", []string{`http: "x"`, `grpc: "y"`, `addresses.pool: "z"`, `project "BAD"`}},
		{"a TLS certificate that is missing", ports + "tls: {certificate: /nonexistent/c.pem, key: /nonexistent/k.pem}\n", []string{"/nonexistent/c.pem"}},
		{"an engine that is missing", ports + "engines: [/nonexistent/redis-server]\n", []string{"/nonexistent/redis-server"}},
		{"an engine that is none", ports + "engines: [/bin/ls]\n", []string{"/bin/ls"}},
		{"a master key that is missing", ports + "master_key_file: /nonexistent/key\n", []string{"/nonexistent/key", "openssl rand"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			newServer(t, serverOptions{config: c.config}).wantStartError(c.words...)
		})
	}
	t.Run("a file that is missing", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, serverOptions{})
		s.conf += ".missing"
		s.wantStartError("sealane.yaml.missing")
	})
}

func TestStartErrors(t *testing.T) {
	t.Parallel()
	t.Run("busy port", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s := newServer(t, serverOptions{config: "http: " + l.Addr().String() + "\ngrpc: 127.0.0.1:0\nops: 127.0.0.1:0\n"})
		s.wantStartError("http: "+l.Addr().String()+" is in use", "sealane stop")
	})
	t.Run("two servers with one state", func(t *testing.T) {
		t.Parallel()
		first := startServer(t, serverOptions{})
		i := first.create("first")
		second := newServer(t, serverOptions{state: first.state})
		second.wantStartError("another sealane serve uses the state folder "+first.state, "sealane stop")
		first.wantPong(i, first.bundle("first"))
	})
	t.Run("lost master key", func(t *testing.T) {
		t.Parallel()
		s := startServer(t, serverOptions{})
		i, key := s.create("first"), filepath.Join(s.state, "master.key")
		s.cli("stop")
		s.waitEnd()
		if err := os.Rename(key, key+".away"); err != nil {
			t.Fatal(err)
		}
		s.wantStartError(key+" is gone", "put it back from your backup")
		if _, err := os.Stat(key); err == nil {
			t.Error("another master key was made")
		}
		if err := os.Rename(key+".away", key); err != nil {
			t.Fatal(err)
		}
		s.start()
		s.wantPong(i, s.bundle("first"))
	})
	t.Run("wrong master key", func(t *testing.T) {
		t.Parallel()
		s := startServer(t, serverOptions{})
		i := s.create("first")
		s.cli("stop")
		s.waitEnd()
		s.env = []string{"SEALANE_MASTER_KEY=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}
		s.wantStartError("another master key")
		s.env = []string{"SEALANE_MASTER_KEY=short"}
		s.wantStartError("SEALANE_MASTER_KEY")
		s.env = nil
		s.start()
		s.wantPong(i, s.bundle("first"))
	})
	t.Run("a configuration that was mended after a failed start", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, serverOptions{})
		good := localConfig()
		s.write(s.conf, good+"master_key_file: /nonexistent/key\n")
		s.wantStartError("/nonexistent/key")
		// Nothing was ever sealed, so no key is missing.
		s.write(s.conf, good)
		s.start()
	})
	t.Run("state path that is too long", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, serverOptions{})
		s.state = filepath.Join(s.base, strings.Repeat("x", 75))
		s.wantStartError("characters are too many", "at most 72 characters")
	})
	t.Run("state that is a file", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, serverOptions{})
		s.write(s.state, "")
		s.wantStartError("state folder", "--state")
		os.Remove(s.state)
	})
	t.Run("no engine", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, serverOptions{env: []string{"PATH=/nonexistent"}})
		s.wantStartError("no redis-server or valkey-server in PATH", "install")
	})
	t.Run("a state that is no store", func(t *testing.T) {
		t.Parallel()
		s := startServer(t, serverOptions{})
		s.cli("stop")
		s.waitEnd()
		s.write(filepath.Join(s.state, "state.db"), strings.Repeat("not a store", 1000))
		s.wantStartError("state.db")
		os.Remove(filepath.Join(s.state, "state.db"))
	})
}

// The API can be served to other machines.
func TestAPIOverTLS(t *testing.T) {
	t.Parallel()
	need(t, "openssl")
	s := newServer(t, serverOptions{})
	cert, key := filepath.Join(s.base, "api.pem"), filepath.Join(s.base, "api.key")
	s.mustRun(s.program("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/CN=sealane", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert))
	// 0.0.0.0 is not loopback, so the server refuses it without a certificate.
	s.write(s.conf, "http: 0.0.0.0:0\ngrpc: 0.0.0.0:0\nops: 127.0.0.1:0\naddresses: {pool: "+newPool()+"}\ntls: {certificate: "+cert+", key: "+key+"}\n")
	s.start()
	if !strings.HasPrefix(s.api, "https://") {
		t.Fatalf("server.json: got http %q, want https", s.api)
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.api, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	req, err := http.NewRequest("GET", "https://127.0.0.1:"+port+"/v1/projects/local/locations/local/instances", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 {
		t.Errorf("got %d, %s", resp.StatusCode, body)
	}
	plain, err := http.Get("http://127.0.0.1:" + port + "/v1/projects/local/locations/local/instances")
	if err == nil {
		defer plain.Body.Close()
		if plain.StatusCode == 200 {
			t.Error("the API answers without TLS")
		}
	}
	// No CA that this machine trusts has signed the certificate, so the CLI has to be told of it.
	cli := s.command("instances", "list")
	cli.Env = append(cli.Env, "SEALANE_API=https://127.0.0.1:"+port, "SSL_CERT_FILE="+cert)
	if got := s.mustRun(cli); !strings.Contains(got, "NAME") {
		t.Errorf("instances list over TLS: got %q", got)
	}
}

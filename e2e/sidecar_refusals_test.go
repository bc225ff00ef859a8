package e2e_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
)

// clientCertificate writes a client certificate that the server's CA has signed, and its key beside it.
func (n *nativeRedis) clientCertificate(file, name string) {
	n.s.t.Helper()
	cert := n.ca.Leaf(n.s.t, certtest.CommonName(name), certtest.ForClients)
	n.s.write(file, string(certtest.PEM(cert.Certificate...))+string(certtest.KeyPEM(n.s.t, cert.PrivateKey)))
}

// says is the line that a client of the sidecar reads.
func (c *sidecar) says(request string) string {
	c.s.t.Helper()
	conn, err := net.Dial("tcp", c.listens())
	if err != nil {
		c.s.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintf(conn, "%s\r\n", request); err != nil {
		c.s.t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		c.s.t.Fatalf("%s: %v; the sidecar's log:\n%s", request, err, c.stderr)
	}
	return strings.TrimSpace(line)
}

// listens is the address at which a sidecar listens, ready or not. It is read from the log.
func (c *sidecar) listens() string {
	c.s.t.Helper()
	address := ""
	eventually(c.s.t, 10*time.Second, "the sidecar listens", func() bool {
		_, rest, ok := strings.Cut(c.stderr.String(), `msg=listening links="`)
		address, _, _ = strings.Cut(rest, " -> ")
		_, rest, _ = strings.Cut(rest, " ops=")
		c.ops, _, _ = strings.Cut(rest, "\n")
		return ok
	})
	return address
}

// wantNotReady waits until /readyz says in these words why the sidecar is not ready.
func (c *sidecar) wantNotReady(words string) {
	c.s.t.Helper()
	c.listens()
	c.wantNotReadyAnyMore(words)
	if strings.Contains(c.stdout.String(), "ready") {
		c.s.t.Errorf("it says %s", c.stdout)
	}
}

func (c *sidecar) wantNotReadyAnyMore(words string) {
	c.s.t.Helper()
	eventually(c.s.t, 20*time.Second, "not ready: "+words, func() bool {
		out := run(c.s.command("sidecar", "wait", "--ops", c.ops, "--max", "300ms"))
		return out.code == 1 && strings.Contains(out.stderr, words)
	})
}

// outside is an address of this machine that protected mode treats as another machine's.
func outside(t *testing.T) string {
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	t.Skip("this machine has no address but loopback")
	return ""
}

// If a real server refuses the sidecar, the operator and the clients are told so in the server's own words. No client is served as
// another user than the configured one.
func TestSidecarSaysWhatAServerRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, code, words, client string
		change                    func(*nativeRedis)
		env                       []string
	}{
		{name: "protected mode", code: "protected-mode", words: "DENIED ", client: "-DENIED ",
			change: func(n *nativeRedis) {
				n.host = outside(n.s.t)
				n.args = []string{"--protected-mode", "yes", "--bind", n.host, "127.0.0.1"}
			}},
		{name: "a wrong password, and a default user who may everything", code: "auth", words: "WRONGPASS", client: "-ERR the sidecar can't reach the server: ",
			change: func(n *nativeRedis) { n.args = []string{"--user", "app", "on", ">horse", "~*", "+@all"} }, env: []string{"SEALANE_SIDECAR_USER=app", "SEALANE_SIDECAR_AUTH=env:WRONG", "WRONG=wrong"}},
		{name: "a replica without its master", code: "master-down", words: "MASTERDOWN Link with MASTER is down", client: "-MASTERDOWN",
			change: func(n *nativeRedis) {
				n.args = []string{"--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "no"}
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, serverOptions{})
			n := newNativeRedis(s)
			tc.change(n)
			n.start()
			c := s.launchSidecar(tc.env, "--address", net.JoinHostPort(n.host, n.port), "--ca", n.caFile)
			c.wantNotReady(tc.words)
			if got := c.says("GET key"); !strings.Contains(got, tc.client) {
				t.Errorf("the client is told %q; want %q; the log:\n%s", got, tc.client, c.stderr)
			}
			if log := c.stderr.String(); strings.Count(log, "msg=problem") != 1 || !strings.Contains(log, " code="+tc.code+" ") || strings.Contains(log, "where it is") {
				t.Errorf("the log says %s", log)
			}
		})
	}
}

// ask sends requests to the server over a connection of its own. It does not wait for the answer to the last one.
func (n *nativeRedis) ask(requests ...string) {
	n.s.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(n.ca.Cert)
	c, err := tls.Dial("tcp", net.JoinHostPort(n.host, n.port), &tls.Config{RootCAs: roots})
	if err != nil {
		n.s.t.Fatal(err)
	}
	n.s.t.Cleanup(func() { c.Close() })
	in := bufio.NewReader(c)
	for i, r := range requests {
		if _, err := fmt.Fprintf(c, "%s\r\n", r); err != nil {
			n.s.t.Fatal(err)
		}
		if i == len(requests)-1 {
			return
		}
		if line, err := in.ReadString('\n'); err != nil || line[0] == '-' {
			n.s.t.Fatalf("%s: %q %v", r, line, err)
		}
	}
}

// A server that was well and refuses later is noticed too, as soon as a connection to it is made.
func TestSidecarHearsWhatAServerSaysOfItself(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverOptions{})
	n := newNativeRedis(s)
	data := filepath.Join(s.base, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	n.args = []string{"--dir", data, "--save", "3600", "1", "--lua-time-limit", "50", "--enable-debug-command", "yes",
		"--tls-cert-file", filepath.Join(s.base, "native.pem"), "--tls-key-file", filepath.Join(s.base, "native.key")}
	n.start()
	address := []string{"--address", net.JoinHostPort(n.host, n.port), "--ca", n.caFile}
	early := s.startSidecar(address...)

	n.ask("EVAL 'while true do end' 0")
	during := s.launchSidecar(nil, address...)
	during.wantNotReady("BUSY ") // followed by the product's name
	if got := during.says("GET key"); !strings.HasPrefix(got, "-BUSY") {
		t.Errorf("the client is told %q", got)
	}
	n.ask("SCRIPT KILL", "PING")
	during.waitReady()

	// The engine can't write snapshots, so it refuses writes and serves reads.
	if err := os.Remove(data); err != nil {
		t.Fatal(err)
	}
	n.ask("BGSAVE", "PING")
	eventually(t, 10*time.Second, "the snapshot has failed", func() bool { return strings.HasPrefix(early.says("SET key value"), "-MISCONF") })
	readers := s.startSidecar(address...)
	if got := readers.says("GET key"); !strings.HasPrefix(got, "$") {
		t.Errorf("a reader is told %q", got)
	}
	if log := readers.stderr.String(); !strings.Contains(log, "code=misconf ") || !strings.Contains(log, "MISCONF ") {
		t.Errorf("the log says %s", log)
	}
	readers.wantHealthy()

	// The server is restarted, and loads its data for some seconds.
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	n.stop()
	n.start()
	n.ask("DEBUG POPULATE 20000", "SAVE", "PING")
	n.stop()
	n.args = append(n.args, "--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
	n.start()
	eventually(t, 10*time.Second, "loading is noticed", func() bool {
		_ = early.says("GET key") // which makes a connection
		return strings.Contains(early.stderr.String(), "code=loading ")
	})
	if out := run(s.command("sidecar", "wait", "--ops", early.ops, "--max", "2s")); out.code != 1 || !strings.Contains(out.stderr, "LOADING ") {
		t.Errorf("while it loads: %d %s", out.code, out.stderr)
	}
	n.stop()
}

// A user who may neither PING nor ask for the connection's id is served the commands that the user may send. The log says which right
// is missing.
func TestSidecarWithAUserOfFewRights(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverOptions{})
	n := newNativeRedis(s)
	n.args = []string{"--user", "app", "on", ">horse", "~*", "+get", "+set"}
	n.start()
	passFile := filepath.Join(s.base, "password")
	s.write(passFile, "horse\n")
	c := s.startSidecarWith([]string{"SEALANE_SIDECAR_USER=app"}, "--address", net.JoinHostPort(n.host, n.port), "--ca", n.caFile, "--auth", "file:"+passFile)
	for request, want := range map[string]string{"SET key value": "+OK", "PING": "-NOPERM", "DEL key": "-NOPERM"} {
		if got := c.says(request); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q; want %q", request, got, want)
		}
	}
	if log := c.stderr.String(); !strings.Contains(log, "code=no-permission ") {
		t.Errorf("the log says %s", log)
	}
	c.wantHealthy()
}

// redis-server with default settings wants a client certificate, and gets it.
func TestSidecarShowsAClientCertificate(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverOptions{})
	n := newNativeRedis(s)
	n.args = []string{"--tls-auth-clients", "yes"}
	n.start()
	pair := filepath.Join(s.base, "client.pem")
	n.clientCertificate(pair, "one")
	args := []string{"--address", net.JoinHostPort(n.host, n.port), "--ca", n.caFile}
	without := s.launchSidecar(nil, args...)
	without.wantNotReady("wants a certificate from its clients")
	c := s.startSidecarWith([]string{"SEALANE_SIDECAR_CERT=" + pair}, args...)
	if got := c.says("SET key value"); got != "+OK" {
		t.Errorf("SET: %q", got)
	}
	c.wantHealthy()
	// A new client certificate, which the sidecar sees only in the file, makes connections move.
	n.clientCertificate(pair, "two")
	eventually(t, 10*time.Second, "the next certificate", func() bool { return strings.Contains(c.stderr.String(), "client certificate changed") })
	if got := c.says("GET key"); got != "$5" {
		t.Errorf("GET: %q", got)
	}
	c.wantHealthy()
	if out := s.cli(append([]string{"doctor"}, "--ca", n.caFile, "--cert", pair, net.JoinHostPort(n.host, n.port))...); !strings.Contains(out, "takes this one") {
		t.Errorf("doctor says %s", out)
	}
	// The sidecar refuses a key that everybody can read.
	if err := os.Chmod(pair, 0o644); err != nil {
		t.Fatal(err)
	}
	open := s.launchSidecar([]string{"SEALANE_SIDECAR_CERT=" + pair}, args...)
	open.wantNotReady("has mode 0644")
}

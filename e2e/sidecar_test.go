package e2e_test

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/sealane/sealane/internal/certtest"
)

// sidecar is `sealane sidecar` while it runs.
type sidecar struct {
	s              *server
	cmd            *exec.Cmd
	stdout, stderr *output
	ended          chan struct{}
	address, ops   string
}

var readyLine = regexp.MustCompile(`(?m)^ready: (\S+) -> \S+ \(\S+\); ops (\S+)$`)

// launchSidecar starts a sidecar on free ports and does not wait for anything.
func (s *server) launchSidecar(env []string, args ...string) *sidecar {
	s.t.Helper()
	return s.launchSidecarUnder(nil, env, args...)
}

// launchSidecarUnder lets another program start the sidecar.
func (s *server) launchSidecarUnder(program, env []string, args ...string) *sidecar {
	s.t.Helper()
	c := &sidecar{s: s, stdout: newOutput(), stderr: newOutput(), ended: make(chan struct{})}
	c.cmd = s.command(append([]string{"sidecar", "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0"}, args...)...)
	if len(program) > 0 {
		under := s.program(program[0], append(program[1:], c.cmd.Args...)...)
		under.Args[len(program)] = c.cmd.Path
		under.Env = c.cmd.Env
		c.cmd = under
	}
	c.cmd.Env = append(c.cmd.Env, env...)
	c.cmd.Stdout, c.cmd.Stderr = c.stdout, c.stderr
	if err := c.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		c.cmd.Wait()
	}()
	s.t.Cleanup(func() {
		c.cmd.Process.Kill()
		<-c.ended
		if isBroken(c.stderr.String()) {
			s.t.Errorf("the sidecar has a bug:\n%s", c.stderr)
		}
		if s.t.Failed() {
			s.t.Logf("the sidecar's log:\n%s", c.stderr)
		}
	})
	return c
}

// startSidecar starts a sidecar and waits until it serves requests.
func (s *server) startSidecar(args ...string) *sidecar {
	s.t.Helper()
	return s.startSidecarWith(nil, args...)
}

// startSidecarWith has an environment besides.
func (s *server) startSidecarWith(env []string, args ...string) *sidecar {
	s.t.Helper()
	c := s.launchSidecar(env, args...)
	c.waitReady()
	return c
}

func (c *sidecar) waitReady() {
	c.s.t.Helper()
	eventually(c.s.t, 20*time.Second, "the sidecar is ready", func() bool { return strings.Contains(c.stdout.String(), "ready: ") || isClosed(c.ended) })
	m := readyLine.FindStringSubmatch(c.stdout.String())
	if m == nil {
		c.s.t.Fatalf("the sidecar wrote %s%s", c.stdout, c.stderr)
	}
	c.address, c.ops = m[1], m[2]
}

// stream is a client without TLS that must notice nothing.
func (c *sidecar) stream(key string, change func(*goredis.Options)) *stream {
	c.s.t.Helper()
	o := &goredis.Options{Addr: c.address}
	if change != nil {
		change(o)
	}
	var d net.Dialer
	return startStreamBy(c.s.t, o, d.DialContext, key)
}

func (c *sidecar) wantHealthy() {
	c.s.t.Helper()
	if out := run(c.s.command("sidecar", "wait", "--ops", c.ops, "--max", "10s")); out.code != 0 {
		c.s.t.Errorf("the sidecar is not well: %s; its log:\n%s", out.stderr, c.stderr)
	}
}

// wantTrusted waits until the sidecar trusts exactly the CAs of a bundle.
func (c *sidecar) wantTrusted(bundle string) {
	c.s.t.Helper()
	raw, err := os.ReadFile(bundle)
	if err != nil {
		c.s.t.Fatal(err)
	}
	var want []string
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			c.s.t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("ca=%q", hex.EncodeToString(ca.SubjectKeyId)))
	}
	eventually(c.s.t, 20*time.Second, "the present CAs are trusted", func() bool {
		text := c.s.askOps(c.ops, "/metrics")
		for _, ca := range want {
			if !strings.Contains(text, ca) {
				return false
			}
		}
		return strings.Count(text, "\nsealane_sidecar_ca_expiry_timestamp_seconds{") == len(want)
	})
}

// Clients in every state stay connected and see no error while certificates and CAs change, the password comes and goes, gateways are
// replaced, and the control plane is down.
func TestSidecarHidesEverythingThatChanges(t *testing.T) {
	t.Parallel()
	onEveryDataPath(t, func(t *testing.T, path string) {
		s := startServer(t, serverOptions{})
		s.createOn(path, "first", "--enable-auth")
		side := s.startSidecar("--instance", "first")
		clients := []*stream{
			side.stream("resp3", nil),
			side.stream("resp2", func(o *goredis.Options) { o.Protocol = 2 }),
			side.stream("named", func(o *goredis.Options) { o.ClientName = "app"; o.DB = 3 }),
			side.stream("logged-in", func(o *goredis.Options) {
				o.Username, o.Password = "default", strings.TrimSpace(s.cli("instances", "get-auth-string", "first"))
			}),
		}
		all := func() {
			t.Helper()
			for i, c := range clients {
				c.wantProgress(t)
				if len(c.ended) > 0 {
					err := <-c.ended
					t.Fatalf("client %d: %v", i, err)
				}
			}
		}
		for range 3 {
			s.cli("certificates", "rotate", "first")
			all()
			s.replaceGateway(syscall.SIGTERM)
			all()
		}
		for range 2 {
			s.cli("ca", "rotate", "first")
			all()
			s.cli("ca", "activate", "first", "--force")
			all()
			s.cli("ca", "retire", "first", "--force")
			all()
		}
		// The sidecar has learnt the new CA from the API before the API goes away.
		side.wantTrusted(s.bundle("first"))
		s.signal(syscall.SIGTERM)
		all()
		s.start()
		all()
		for _, c := range clients {
			c.wantUnnoticed(t)
		}
		side.wantHealthy()
	})
}

// replaceGateway ends the gateway and waits for its successor.
func (s *server) replaceGateway(sig syscall.Signal) {
	s.t.Helper()
	old := s.node("gateway")
	if err := syscall.Kill(old, sig); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, 20*time.Second, "another gateway", func() bool { n := s.nodes("gateway"); return len(n) == 1 && n[0] != old })
}

// A client without a request in flight does not even notice that the gateway is killed.
func TestSidecarClientsSurviveAGatewayThatIsKilled(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	s.create("first")
	side := s.startSidecar("--instance", "first")
	db := goredis.NewClient(&goredis.Options{Addr: side.address, PoolSize: 1, MaxRetries: -1, ReadTimeout: 30 * time.Second})
	defer db.Close()
	ctx := context.Background()
	id := db.ClientID(ctx).Val()
	for n := range 3 {
		s.replaceGateway(syscall.SIGKILL)
		if err := db.Set(ctx, "key", n, 0).Err(); err != nil {
			t.Errorf("after kill %d: %v; the sidecar's log:\n%s", n, err, side.stderr)
		}
	}
	if again := db.ClientID(ctx).Val(); again != id || id == 0 {
		t.Errorf("the client's id was %d and is %d", id, again)
	}
}

// nativeRedis is a redis-server with its own TLS and a certificate by a CA of its own.
type nativeRedis struct {
	s            *server
	ca           *certtest.Authority
	host, port   string
	caFile, pass string
	args         []string // further arguments; they come last
	cmd          *exec.Cmd
}

func newNativeRedis(s *server) *nativeRedis {
	s.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	n := &nativeRedis{s: s, host: "127.0.0.1", port: strconv.Itoa(ln.Addr().(*net.TCPAddr).Port), caFile: filepath.Join(s.base, "native-ca.pem")}
	ln.Close()
	n.newCA()
	s.t.Cleanup(n.stop)
	return n
}

// newCA replaces the CA. The certificate changes with the next start.
func (n *nativeRedis) newCA() {
	n.s.t.Helper()
	n.ca = certtest.NewAuthority(n.s.t, "native CA")
	n.s.write(n.caFile, string(n.ca.PEM()))
}

func (n *nativeRedis) start() {
	n.s.t.Helper()
	cert := n.ca.Leaf(n.s.t, certtest.Names(n.host))
	n.s.write(filepath.Join(n.s.base, "native.pem"), string(certtest.PEM(cert.Certificate...)))
	n.s.write(filepath.Join(n.s.base, "native.key"), string(certtest.KeyPEM(n.s.t, cert.PrivateKey)))
	args := []string{"--port", "0", "--tls-port", n.port, "--bind", n.host, "--tls-cert-file", "native.pem", "--tls-key-file", "native.key",
		"--tls-ca-cert-file", n.caFile, "--tls-auth-clients", "no", "--save", ""}
	if n.pass != "" {
		args = append(args, "--requirepass", n.pass)
	}
	args = append(args, n.args...)
	n.cmd = n.s.program("redis-server", args...)
	if err := n.cmd.Start(); err != nil {
		n.s.t.Fatal(err)
	}
	eventually(n.s.t, 10*time.Second, "redis-server listens", func() bool {
		c, err := net.Dial("tcp", net.JoinHostPort(n.host, n.port))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (n *nativeRedis) stop() {
	if n.cmd != nil {
		n.cmd.Process.Kill()
		n.cmd.Wait()
		n.cmd = nil
	}
}

// The sidecar serves any Redis with TLS. If that restarts with another CA and another password, the sidecar learns both from the files,
// and connected clients stay.
func TestSidecarBeforeARedisWithItsOwnTLS(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverOptions{})
	n := newNativeRedis(s)
	passFile := filepath.Join(s.base, "password")
	n.pass = "old-horse"
	s.write(passFile, n.pass+"\n")
	n.start()
	side := s.startSidecar("--address", net.JoinHostPort(n.host, n.port), "--ca", n.caFile, "--auth", "file:"+passFile)
	db := goredis.NewClient(&goredis.Options{Addr: side.address, PoolSize: 1, MaxRetries: -1, ReadTimeout: 30 * time.Second})
	defer db.Close()
	ctx := context.Background()
	id := db.ClientID(ctx).Val()
	for i := range 2 {
		n.stop()
		n.newCA()
		n.pass = fmt.Sprintf("new-horse-%d", i)
		s.write(passFile, n.pass+"\n")
		n.start()
		if err := db.Set(ctx, "key", i, 0).Err(); err != nil {
			t.Fatalf("after restart %d: %v; the sidecar's log:\n%s", i, err, side.stderr)
		}
	}
	if again := db.ClientID(ctx).Val(); again != id || id == 0 {
		t.Errorf("the client's id was %d and is %d", id, again)
	}
	if strings.Contains(side.stderr.String(), "horse") {
		t.Errorf("a password is in the log:\n%s", side.stderr)
	}
	side.wantHealthy()
}

// Service managers are notified, and SIGTERM lets clients finish. A second SIGTERM does not.
func TestSidecarUnderAServiceManager(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	s.create("first")
	socket := filepath.Join(s.base, "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	told := func() string {
		b := make([]byte, 4096)
		_ = manager.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := manager.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	side := s.launchSidecar([]string{"NOTIFY_SOCKET=" + socket}, "--instance", "first")
	if got := told(); !strings.HasPrefix(got, "READY=1\n") {
		t.Errorf("told %q", got)
	}
	side.waitReady()
	busy, err := net.Dial("tcp", side.address)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if _, err := busy.Write([]byte("*3\r\n$5\r\nBLPOP\r\n$4\r\nlist\r\n$1\r\n0\r\n")); err != nil {
		t.Fatal(err)
	}
	db := goredis.NewClient(&goredis.Options{Addr: side.address})
	defer db.Close()
	eventually(t, 10*time.Second, "a blocked client", func() bool { return strings.Contains(db.ClientList(context.Background()).Val(), "cmd=blpop") })
	if err := side.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := told(); got != "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000" {
		t.Errorf("told %q", got)
	}
	eventually(t, 10*time.Second, "no new clients", func() bool {
		c, err := net.Dial("tcp", side.address)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if isClosed(side.ended) {
		t.Error("it ended although a client has something under way")
	}
	if err := side.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the end", func() bool { return isClosed(side.ended) })
	if code := side.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

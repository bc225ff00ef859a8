package e2e_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Plaintext never reaches a network interface: the engine is behind a Unix socket that only its owner can open.
func TestEngineHasNoTCPListener(t *testing.T) {
	t.Parallel()
	need(t, "ss")
	s := startServer(t, serverOptions{})
	s.create("first")
	listeners := s.mustRun(s.program("ss", "-H", "-l", "-n", "-p", "-t", "-u", "-w"))
	if gateway := fmt.Sprintf("pid=%d,", s.node("gateway")); !strings.Contains(listeners, gateway) {
		t.Fatalf("ss doesn't show the gateway (%s), so it would not show the engine either:\n%s", gateway, listeners)
	}
	engine := fmt.Sprintf("pid=%d,", s.node("engine"))
	if strings.Contains(listeners, engine) {
		t.Errorf("the engine (%s) listens on the network:\n%s", engine, listeners)
	}
	if unix := s.mustRun(s.program("ss", "-H", "-l", "-n", "-p", "-x")); strings.Count(unix, engine) != 1 {
		t.Errorf("ss -lxp: got %d Unix sockets of the engine, want 1:\n%s", strings.Count(unix, engine), unix)
	}
}

func TestEngineSocketIsItsOwnersAlone(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	s.create("first")
	sockets, err := filepath.Glob(filepath.Join(s.state, "nodes", "*", "engine.sock"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("got sockets %q, %v, want one", sockets, err)
	}
	socket := sockets[0]
	node := filepath.Dir(socket)
	for _, c := range []struct {
		path string
		want fs.FileMode
	}{
		{s.state, fs.ModeDir | 0o700}, {filepath.Dir(node), fs.ModeDir | 0o700}, {node, fs.ModeDir | 0o700},
		{socket, fs.ModeSocket | 0o600}, {filepath.Join(node, "gateway.sock"), fs.ModeSocket | 0o600},
		{filepath.Join(s.state, "admin.token"), 0o600}, {filepath.Join(s.state, "master.key"), 0o600}, {filepath.Join(s.state, "state.db"), 0o600},
		{filepath.Join(s.state, "audit.log"), 0o600}, {filepath.Join(s.state, "audit.head"), 0o600},
		{filepath.Join(node, "engine.conf"), 0o600},
	} {
		if info, err := os.Stat(c.path); err != nil {
			t.Error(err)
		} else if info.Mode() != c.want {
			t.Errorf("%s: got mode %v, want %v", c.path, info.Mode(), c.want)
		}
	}
	if out := s.mustRun(s.program("redis-cli", "-s", socket, "PING")); out != "PONG\n" {
		t.Errorf("the owner gets %q, want PONG", out)
	}

	t.Run("another user", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("only root can become another user, so it is not shown here that one cannot open the socket")
		}
		need(t, "setpriv")
		chmod := func(mode fs.FileMode, paths ...string) {
			for _, p := range paths {
				if err := os.Chmod(p, mode); err != nil {
					t.Fatal(err)
				}
			}
		}
		asNobody := func() string {
			c := s.program("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "redis-cli", "-s", socket, "PING")
			c.Dir = "/"
			out := run(c)
			return out.stdout + out.stderr
		}
		chmod(0o755, s.base)
		if got := asNobody(); !strings.Contains(got, "Permission denied") {
			t.Errorf("the folders don't keep another user out: got %q", got)
		}
		// The mode of the socket itself is the second protection.
		chmod(0o755, s.state, filepath.Dir(node), node)
		if got := asNobody(); !strings.Contains(got, "Permission denied") {
			t.Errorf("with the folders open, the socket doesn't keep another user out: got %q", got)
		}
	})
}

// Even a client with the password can't make the engine listen elsewhere, copy its data away, or end it.
func TestClientCannotOpenTheEngine(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first", "--enable-auth")
	ca := s.bundle("first")
	auth := strings.TrimSpace(s.cli("instances", "get-auth-string", "first"))
	engine := s.node("engine")
	cli := func(args ...string) string {
		c := s.program("redis-cli", append([]string{"--tls", "--cacert", ca, "-h", first.Host, "-p", "6378"}, args...)...)
		c.Env = append(c.Env, "REDISCLI_AUTH="+auth)
		out := run(c)
		return strings.TrimSpace(out.stdout + out.stderr)
	}
	if got := cli("PING"); got != "PONG" {
		t.Fatalf("PING with the AUTH string: got %q", got)
	}
	for _, command := range []string{
		"CONFIG SET port 7777", "CONFIG SET unixsocketperm 777", "CONFIG SET requirepass x", "CONFIG REWRITE",
		"REPLICAOF 127.0.0.1 7777", "SLAVEOF 127.0.0.1 7777", "PSYNC ? -1", "MODULE LOAD /tmp/x.so", "MODULE LIST",
		"SHUTDOWN NOSAVE", "DEBUG SLEEP 0", "DEBUG SEGFAULT", "MIGRATE 127.0.0.1 7777 key 0 100", "CLUSTER MEET 127.0.0.1 7777",
		"SAVE", "BGSAVE", "BGREWRITEAOF", "ACL SETUSER default nopass", "ACL LIST", "FAILOVER",
	} {
		got := cli(strings.Fields(command)...)
		// Redis 7 has switches of its own for MODULE and DEBUG, which it checks before the user's rights.
		if !strings.Contains(got, "NOPERM ") && !strings.Contains(got, "ERR "+strings.Fields(command)[0]+" command not allowed.") {
			t.Errorf("%s: got %q, want NOPERM", command, got)
		}
	}
	// Ordinary commands work.
	for _, c := range []struct{ command, want string }{
		{"CONFIG GET maxmemory-policy", "maxmemory-policy"}, {"ACL WHOAMI", "default"}, {"FLUSHALL", "OK"}, {"INFO server", "redis_version"},
		{"CLIENT LIST", "addr="},
	} {
		if got := cli(strings.Fields(c.command)...); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q in it", c.command, got, c.want)
		}
	}
	if now := s.node("engine"); now != engine {
		t.Errorf("the engine is process %d now, was %d", now, engine)
	}
}

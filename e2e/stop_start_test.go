package e2e_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func (s *server) redis(i instance, ca string, args ...string) string {
	s.t.Helper()
	got := s.redisCLI(i, ca, args...)
	if got.code != 0 {
		s.t.Fatalf("redis-cli %v: exit code %d, %q, %q", args, got.code, got.stdout, got.stderr)
	}
	return strings.TrimSuffix(got.stdout, "\n")
}

// wantStopped fails the test while a process of the server runs.
func (s *server) wantStopped() {
	s.t.Helper()
	eventually(s.t, 10*time.Second, "no process is left", func() bool { return len(processes(s.state)) == 0 })
}

// A clean stop loses no data, although persistence is off.
func TestCleanStopKeepsDataAndCA(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(*server){
		"Ctrl-C":       func(s *server) { s.signal(syscall.SIGINT) },
		"sealane stop": func(s *server) { s.cli("stop"); s.waitEnd() },
		"sealane stop, after kill -9 of the server": func(s *server) {
			s.kill9(s.pid)
			s.waitEnd()
			s.cli("stop")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, serverOptions{})
			first := s.create("first")
			ca := s.bundle("first")
			s.redis(first, ca, "SET", "greeting", "hello")
			for range 2 {
				stop(s)
				s.wantStopped()
				s.start()
				if got := s.describe("first"); got.State != "READY" || got.address() != first.address() || got.ServerCACerts[0] != first.ServerCACerts[0] {
					t.Errorf("after the start: got %+v, want the address and the CA of %+v", got, first)
				}
				if got := s.redis(first, ca, "GET", "greeting"); got != "hello" {
					t.Errorf("GET greeting: got %q, want hello", got)
				}
			}
		})
	}
}

func TestStopWithoutAServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverOptions{})
	if got := s.cliFails(1, "stop"); !strings.Contains(got, "no server runs with the state folder "+s.state) || !strings.Contains(got, "sealane: hint: ") {
		t.Errorf("got %q", got)
	}
}

// A service manager's restart ends only the control plane.
func TestSIGTERMLeavesClientsConnected(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first")
	ca := s.bundle("first")
	engine, gateway := s.node("engine"), s.node("gateway")
	client := startStream(t, first, ca, "counter")
	s.signal(syscall.SIGTERM)
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code: got %d, want 0", code)
	}
	client.wantProgress(t)
	s.wantPong(first, ca)
	s.start()
	client.wantUnnoticed(t)
	if e, g := s.node("engine"), s.node("gateway"); e != engine || g != gateway {
		t.Errorf("engine and gateway are processes %d and %d now, were %d and %d", e, g, engine, gateway)
	}
}

// Without persistence a crash loses the data, as in the managed service. It must not bring back older data, which an application
// would take for the current ones.
func TestCrashDoesNotBringBackAnOldDump(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode string
		want string // the value, after the crash, of the key that the last clean stop saved
	}{{"disabled", ""}, {"rdb", "old"}} {
		t.Run("persistence "+c.mode, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, serverOptions{})
			first := s.create("first", "--persistence-mode", c.mode)
			ca := s.bundle("first")
			s.redis(first, ca, "SET", "key", "old")
			s.cli("stop")
			s.waitEnd()
			s.start()
			if got := s.redis(first, ca, "GET", "key"); got != "old" {
				t.Fatalf("GET after the clean stop: got %q, want old", got)
			}
			s.redis(first, ca, "SET", "key", "new")
			engine := s.node("engine")
			s.kill9(engine)
			eventually(t, 10*time.Second, "another engine serves", func() bool {
				pids := s.nodes("engine")
				return len(pids) == 1 && pids[0] != engine && s.redisCLI(first, ca, "PING").stdout == "PONG\n"
			})
			if got := s.redis(first, ca, "GET", "key"); got != c.want {
				t.Errorf("GET after the crash: got %q, want %q", got, c.want)
			}
		})
	}
}

// The password and the CA survive a stop and a start too.
func TestCleanStopKeepsAuthString(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first", "--enable-auth")
	ca := s.bundle("first")
	auth := s.cli("instances", "get-auth-string", "first")
	s.cli("stop")
	s.waitEnd()
	s.start()
	if got := s.cli("instances", "get-auth-string", "first"); got != auth {
		t.Errorf("AUTH string: got %q, want %q", got, auth)
	}
	if got := s.redisCLI(first, ca, "PING"); !strings.HasPrefix(got.stdout, "NOAUTH ") {
		t.Errorf("PING without the AUTH string: got %q, want NOAUTH", got.stdout)
	}
	c := s.program("redis-cli", "--tls", "--cacert", ca, "-h", first.Host, "-p", "6378", "PING")
	c.Env = append(c.Env, "REDISCLI_AUTH="+strings.TrimSpace(auth))
	if got := s.mustRun(c); got != "PONG\n" {
		t.Errorf("PING with the AUTH string: got %q, want PONG", got)
	}
}

// `sealane stop` gets only the state folder, and finds the server's configuration from there.
func TestStopAfterKillWithMasterKeyElsewhere(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverOptions{})
	key := filepath.Join(s.base, "key")
	s.write(key, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n")
	s.write(s.conf, localConfig()+"master_key_file: "+key+"\n")
	s.start()
	first := s.create("first")
	s.redis(first, s.bundle("first"), "SET", "greeting", "hello")
	s.kill9(s.pid)
	s.waitEnd()
	if got := run(s.command("stop")); got.code != 0 {
		t.Errorf("sealane stop: exit code %d, %q", got.code, got.stderr)
		s.start() // it records where the key is, so that gateway and engine can be stopped
		s.cli("stop")
	}
	s.wantStopped()
	s.start()
	if got := s.redis(first, s.bundle("first"), "GET", "greeting"); got != "hello" {
		t.Errorf("GET greeting: got %q, want hello", got)
	}
}

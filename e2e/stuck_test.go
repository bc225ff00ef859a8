package e2e_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// unkillable runs a script that writes and then never ends.
func (s *server) unkillable(i instance, ca string) {
	s.t.Helper()
	const script = "redis.call('SET','k','v') while true do redis.call('PING') end"
	c := s.program("redis-cli", "--tls", "--cacert", ca, "-h", i.Host, "-p", fmt.Sprint(i.Port), "EVAL", script, "0")
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
}

const lostAll = "all its data are lost, because its persistence is off"

// An engine with a script that can't be ended can be restarted and stopped with --force. Before that option the instance was REPAIRING
// for ever, and `sealane stop` refused.
func TestAScriptThatCantBeKilled(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first")
	ca := s.bundle("first")
	s.unkillable(first, ca)
	eventually(t, 40*time.Second, "the instance says that a script runs", func() bool {
		got := s.describe("first")
		return got.State == "REPAIRING" && strings.Contains(got.StatusMessage, "a script or function has been running in the engine for ") &&
			strings.Contains(got.StatusMessage, "`sealane instances restart first --force` ends the engine, and "+lostAll)
	})
	got := s.cliFails(1, "instances", "restart", "first")
	for _, want := range []string{"UNKILLABLE", "`sealane instances restart first --force` ends it, and " + lostAll} {
		if !strings.Contains(got, want) {
			t.Errorf("restart: got %q, want %q in it", got, want)
		}
	}
	eventually(t, 10*time.Second, "the instance says that the script can't be killed", func() bool {
		return strings.Contains(s.describe("first").StatusMessage, "a script or function that has written has been running in the engine for ")
	})
	if got := s.cli("instances", "restart", "first", "--force"); got != "restarted first\n" {
		t.Errorf("restart --force: got %q", got)
	}
	s.wantPong(first, ca)
	if got := s.describe("first"); got.State != "READY" {
		t.Errorf("after the restart: got %+v", got)
	}
	s.unkillable(first, ca)
	eventually(t, 20*time.Second, "the script runs", func() bool { return s.redisCLI(first, ca, "PING").stdout != "PONG\n" })
	got = s.cliFails(1, "stop")
	for _, want := range []string{"first: its engine is saving its data", "UNKILLABLE", "`sealane stop --force` ends it, and " + lostAll, "sealane: hint: "} {
		if !strings.Contains(got, want) {
			t.Errorf("stop: got %q, want %q in it", got, want)
		}
	}
	s.waitEnd()
	if got := s.cli("stop", "--force"); got != "stopped\n" {
		t.Errorf("stop --force: got %q", got)
	}
	s.wantStopped()
}

func TestARestartKeepsTheDataAndTheClients(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first")
	ca := s.bundle("first")
	s.redis(first, ca, "SET", "greeting", "hello")
	engine, gateway := s.node("engine"), s.node("gateway")
	s.cli("instances", "restart", "first")
	if got := s.redis(first, ca, "GET", "greeting"); got != "hello" {
		t.Errorf("GET greeting: got %q, want hello", got)
	}
	if e, g := s.node("engine"), s.node("gateway"); e == engine || g != gateway {
		t.Errorf("engine %d, was %d, want another one; gateway %d, was %d, want the same", e, engine, g, gateway)
	}
	if log := s.stderr.String(); strings.Contains(log, "process ended, restarting it") {
		t.Error("the restart was taken for a crash")
	}
	got := s.cliFails(1, "instances", "restart", "none")
	if !strings.Contains(got, "was not found") {
		t.Errorf("restart of what isn't there: got %q", got)
	}
}

func TestProcessesThatAreStoppedAreNamed(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first")
	for _, kind := range []string{"engine", "gateway"} {
		pid := s.node(kind)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		eventually(t, 40*time.Second, "the instance says that its "+kind+" is stopped", func() bool {
			got := s.describe("first")
			return got.State == "REPAIRING" && strings.Contains(got.StatusMessage, fmt.Sprintf("the %s (process %d) is stopped", kind, pid)) &&
				strings.Contains(got.StatusMessage, fmt.Sprintf("kill -CONT %d", pid))
		})
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		eventually(t, 40*time.Second, "the instance is well again", func() bool { return s.describe("first").State == "READY" })
	}
	s.wantPong(first, s.bundle("first"))
}

// `sealane stop` says that an engine is stopped (SIGSTOP), and does not wait for it for ever.
func TestStopOfAnEngineThatIsStopped(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*server){
		"with its server":             func(*server) {},
		"after kill -9 of its server": func(s *server) { s.kill9(s.pid); s.waitEnd() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, serverOptions{})
			s.create("first")
			pid := s.node("engine")
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			prepare(s)
			began := time.Now()
			got := s.cliFails(1, "stop")
			for _, want := range []string{
				"first: its clients are being drained", fmt.Sprintf("the engine (process %d) is stopped", pid), fmt.Sprintf("kill -CONT %d", pid),
				"`sealane stop --force` ends it, and " + lostAll, "sealane: hint: ",
			} {
				if !strings.Contains(got, want) {
					t.Errorf("stop: got %q, want %q in it", got, want)
				}
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("stop took %v", took)
			}
			s.waitEnd()
			s.cli("stop", "--force")
			s.wantStopped()
		})
	}
}

// `sealane stop` tells a server that hangs from one that is slow.
func TestStopOfAServerThatIsStopped(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	if err := syscall.Kill(s.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	got := s.cliFails(1, "stop")
	if !strings.Contains(got, fmt.Sprintf("the server (process %d) is stopped", s.pid)) || !strings.Contains(got, "kill -CONT") {
		t.Errorf("got %q", got)
	}
	if err := syscall.Kill(s.pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

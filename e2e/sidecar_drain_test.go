package e2e_test

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// All containers of a pod, or of a Compose project, get SIGTERM at the same time. The application goes on meanwhile, also with new
// connections, and is served.
func TestSidecarServesOnAfterSIGTERM(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverOptions{})
	n := newNativeRedis(s)
	n.start()
	args := []string{"--address", net.JoinHostPort(n.host, n.port), "--ca", n.caFile}
	drain := []string{"SEALANE_SIDECAR_DRAIN=60s"}

	t.Run("until the clients have gone", func(t *testing.T) {
		t.Parallel()
		c := s.startSidecarWith(drain, args...)
		client, err := net.Dial("tcp", c.address)
		if err != nil {
			t.Fatal(err)
		}
		c.signal(syscall.SIGTERM)
		c.wantNotReadyAnyMore("draining: it was told to end, and serves on")
		for range 3 {
			if got := c.says("SET key value"); got != "+OK" {
				t.Errorf("a new client reads %q", got)
			}
		}
		gone := time.Now()
		client.Close()
		eventually(t, 30*time.Second, "the end", func() bool { return isClosed(c.ended) })
		if took := time.Since(gone); took < 4*time.Second {
			t.Errorf("it ended %s after its last client", took)
		}
		if code := c.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("but a second signal ends it at once", func(t *testing.T) {
		t.Parallel()
		for _, second := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			c := s.startSidecarWith(drain, args...)
			client, err := net.Dial("tcp", c.address)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			c.signal(syscall.SIGTERM)
			c.wantNotReadyAnyMore("draining")
			c.signal(second)
			eventually(t, 10*time.Second, "the end", func() bool { return isClosed(c.ended) })
			if code := c.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		}
	})
	t.Run("and `quit` says that nobody needs it any more", func(t *testing.T) {
		t.Parallel()
		c := s.startSidecarWith(append(drain, "SEALANE_SIDECAR_ALLOW_QUIT=true"), args...)
		client, err := net.Dial("tcp", c.address)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c.signal(syscall.SIGTERM)
		c.wantNotReadyAnyMore("draining")
		s.cli("sidecar", "quit", "--ops", c.ops)
		eventually(t, 10*time.Second, "the end", func() bool { return isClosed(c.ended) })
	})
	t.Run("at most for that time", func(t *testing.T) {
		t.Parallel()
		c := s.startSidecarWith([]string{"SEALANE_SIDECAR_DRAIN=1s"}, args...)
		client, err := net.Dial("tcp", c.address)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c.signal(syscall.SIGTERM)
		if got := c.says("SET key value"); got != "+OK" {
			t.Errorf("a new client reads %q", got)
		}
		eventually(t, 10*time.Second, "the end", func() bool { return isClosed(c.ended) })
	})
}

func (c *sidecar) signal(sig syscall.Signal) {
	c.s.t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		c.s.t.Fatal(err)
	}
}

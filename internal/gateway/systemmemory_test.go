package gateway_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/systemmemory"
)

// startEngine starts a real engine on the world's socket.
func (w *world) startEngine(args ...string) *exec.Cmd {
	w.t.Helper()
	cmd := exec.Command(enginetest.All(w.t)[0].Path, append([]string{"--port", "0", "--unixsocket", w.engine, "--save", "", "--dir", w.dir}, args...)...)
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(w.t, "the engine listens", func() bool {
		c, err := net.Dial("unix", w.engine)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return cmd
}

// asks is a connection on which requests are asked one after the other.
type asks struct {
	t testing.TB
	c net.Conn
	r *bufio.Reader
}

func asking(t testing.TB, c net.Conn, err error) *asks {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &asks{t, c, bufio.NewReader(c)}
}

// do returns the first line of the reply.
func (a *asks) do(args ...string) string {
	a.t.Helper()
	if _, err := a.c.Write(resp.AppendCommand(nil, args...)); err != nil {
		return err.Error()
	}
	line, err := a.r.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	if n := 0; line[0] == '$' && line[1] != '-' {
		if _, err := fmt.Sscanf(line, "$%d", &n); err == nil {
			_, _ = a.r.Discard(n + 2)
		}
	}
	return strings.TrimSpace(line)
}

const mib = 1 << 20

// The engine, which has no maxmemory here, is kept within what it may use together with the gateway: writes are refused, reads and
// deletes go on, and once there is memory again so do writes. A new engine is found by itself.
//
// It does not run beside others, because what they take is this process's too.
func TestWritesAreRefusedWhileMemoryIsUsedUp(t *testing.T) {
	w := newWorld(t)
	first := w.startEngine()
	w.run()
	s := w.snapshot(1)
	s.SystemMemory = 256 * mib
	w.apply(s)
	c, err := tls.Dial("tcp", w.addr, trusting(w.id))
	k := asking(t, c, err)
	value := strings.Repeat("x", mib)
	written := 0
	eventually(t, "writes are refused", func() bool {
		reply := k.do("SET", fmt.Sprint(written), value)
		if reply == "+OK" {
			written++
			time.Sleep(5 * time.Millisecond) // a rate that leaves the gateway time to look
		}
		return strings.HasPrefix(reply, "-OOM command not allowed under OOM prevention.")
	})
	m := w.status().Memory
	if m.Used() > s.SystemMemory*2 || m.Used() < s.SystemMemory || !m.Full || w.status().RefusedOOM == 0 || m.Engine < 100*mib {
		t.Errorf("it stopped at %v; want that it is full, and not much over its %d MiB", m, s.SystemMemory/mib)
	}
	if got := w.status().Warning; !strings.Contains(got, "the system memory is used up (") || !strings.Contains(got, "give the instance more memory") {
		t.Errorf("warning: %q", got)
	}
	if got := k.do("GET", "0"); got != fmt.Sprint("$", mib) {
		t.Errorf("GET: %q", got)
	}
	for i := range written {
		if got := k.do("DEL", fmt.Sprint(i)); got != ":1" {
			t.Fatalf("DEL: %q", got)
		}
	}
	direct, err := net.Dial("unix", w.engine)
	asking(t, direct, err).do("MEMORY", "PURGE")
	eventually(t, "writes are taken", func() bool { return k.do("SET", "k", "v") == "+OK" })
	m = w.status().Memory
	if m.Full || m.FullTime < 50*time.Millisecond || m.FullTime > patience {
		t.Errorf("afterwards: %+v", m)
	}
	log := w.log.String()
	for _, want := range []string{"the system memory is nearly used up (", "the system memory is used up (", "there is system memory again"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
	if n := strings.Count(log, "the system memory is used up"); n != 1 {
		t.Errorf("the log says %d times that it is used up:\n%s", n, log)
	}

	_ = first.Process.Kill()
	_ = first.Wait()
	w.startEngine()
	direct, err = net.Dial("unix", w.engine)
	d := asking(t, direct, err)
	for i := range 64 {
		d.do("SET", fmt.Sprint(i), value)
	}
	eventually(t, "the new engine is accounted for", func() bool { return w.status().Memory.Engine > 64*mib })
}

// A snapshot takes what is written while it is made, once more; that is seen, and counts.
func TestSnapshotUnderWayCountsAsMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startEngine("--rdb-key-save-delay", "500000") // microseconds for each key: it takes longer than this test
	w.run()
	s := w.snapshot(1)
	s.SystemMemory = 4096 * mib
	w.apply(s)
	c, err := net.Dial("unix", w.engine)
	d := asking(t, c, err)
	write := func(char string) {
		for i := range 64 {
			d.do("SET", fmt.Sprint(i), strings.Repeat(char, mib))
		}
	}
	write("a")
	if got := d.do("BGSAVE"); got != "+Background saving started" {
		t.Fatal(got)
	}
	write("b")
	eventually(t, "the child's copies are accounted for", func() bool { return w.status().Memory.Snapshot > 32*mib })
	if m := w.status().Memory; m.Engine < 64*mib || m.Snapshot > 128*mib {
		t.Errorf("got %+v; want the values once with the engine and once with its child", m)
	}
	d.do("SHUTDOWN", "NOSAVE", "NOW", "FORCE")
	eventually(t, "it ends with the child", func() bool { return w.status().Memory.Snapshot == 0 })
}

func TestAGatewayThatDoesNotLookAtMemoryIsNotAskedTo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.snapshot(1)
	s.SystemMemory = 1
	if s.Older(gateway.Status{Memory: &systemmemory.Usage{}}).SystemMemory != 1 || s.Older(gateway.Status{}).Digest() != w.snapshot(1).Digest() {
		t.Error("only a gateway that says nothing of memory is to be asked for nothing")
	}
	s.SystemMemory = -1
	if err := s.ValidateForTest(); err == nil || !strings.Contains(err.Error(), "system_memory -1: must be 0 or more") {
		t.Errorf("a negative size: %v", err)
	}
}

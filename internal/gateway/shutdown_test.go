package gateway_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/gateway"
)

func TestStopLetsARequestFinishAndClosesIdleClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.drain = patience
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	fakeEngine(t, w.engine, func(c *net.UnixConn) {
		line := make([]byte, 6)
		if !introduced(c) {
			return
		}
		for {
			if _, err := io.ReadFull(c, line); err != nil {
				return
			}
			if string(line) == "slow\r\n" {
				<-hold
			}
			send(t, c, string(line))
		}
	})
	w.run()
	w.apply(w.snapshot(1))
	t.Cleanup(release)
	idle, busy, silent := w.dial(), w.dial(), dialTCP(t, w.addr)
	roundTrip(t, idle, "ping")
	roundTrip(t, busy, "ping")
	send(t, busy, "slow\r\n")
	eventually(t, "all are there", func() bool { st := w.status(); return st.Connections == 3 && st.BytesIn == 18 })

	stopped := make(chan error, 1)
	go func() { stopped <- w.client.Stop(context.Background()) }()
	for name, c := range map[string]io.Reader{"idle": idle, "silent": silent} {
		if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
			t.Errorf("%s client read %q, %v; want a clean end", name, got, err)
		}
	}
	if c, err := net.Dial("tcp", w.addr); err == nil {
		c.Close()
		t.Error("a stopping gateway accepts clients")
	}
	if _, err := w.client.Apply(context.Background(), w.snapshot(2)); !errors.Is(err, gateway.ErrStopping) {
		t.Errorf("apply while stopping: %v; want %v", err, gateway.ErrStopping)
	}
	select {
	case err := <-stopped:
		t.Fatalf("Stop returned (%v) with a request under way", err)
	default:
	}
	release()
	expect(t, busy, "slow")
	if err := <-stopped; err != nil {
		t.Errorf("Stop: %v", err)
	}
	if err := w.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := os.Stat(gateway.Socket(w.dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("admin socket after the end: %v", err)
	}
}

// Everything that a connection can be stuck in: a reply that never comes, a client that does not read, an engine that
// does not, a handshake, half a line, an engine that is not there.
func TestStopCutsWhatDoesNotFinish(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.drain = 300 * time.Millisecond
	fakeEngine(t, w.engine, func(c *net.UnixConn) {
		kind := make([]byte, 1)
		if !introduced(c) {
			return
		}
		if _, err := io.ReadFull(c, kind); err != nil {
			return
		}
		for chunk := make([]byte, 64<<10); string(kind) == "w"; {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
		if string(kind) == "r" {
			_, _ = io.Copy(io.Discard, c)
			return
		}
		_, _ = c.Read(nil)
		raw, err := c.SyscallConn()
		if err == nil { // wait for the end without reading
			_ = raw.Read(func(fd uintptr) bool {
				n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
				return err == nil && n == 0 || err != nil && err != syscall.EAGAIN
			})
		}
	})
	w.run()
	w.apply(w.snapshot(1))
	send(t, w.dial(), "r\r\n")
	send(t, w.dial(), "w\r\n")
	send(t, dialTCP(t, w.addr), "\x16")
	send(t, dialTCP(t, w.addr), "PIN")
	full := w.dial()
	send(t, full, "n\r\n")
	full.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	for chunk := make([]byte, 64<<10); ; {
		if _, err := full.Write(chunk); err != nil {
			break
		}
	}
	eventually(t, "all are there", func() bool { return w.status().Connections == 5 })
	begin := time.Now()
	if err := w.client.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("stopping took %v", took)
	}
}

// A listener that cannot accept (EMFILE) stays readable, so a loop without back-off would take a whole core.
func TestAcceptErrorsDoNotSpin(t *testing.T) {
	t.Parallel()
	n, err := gateway.AcceptForTest(address(), syscall.EMFILE, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if n < 30 || n > 80 {
		t.Errorf("%d calls of accept in a minute; want about one a second", n)
	}
}

package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/plaintext"
	"github.com/sealane/sealane/internal/wire"
)

// both is a snapshot that takes TLS at w.addr, and plaintext at another address as long as it is open there.
func (w *world) both(generation uint64, plain string, open bool) gateway.Snapshot {
	s := w.snapshot(generation)
	s.Listeners = append(s.Listeners, gateway.Listener{Address: plain, TLS: !open})
	return s
}

// plaintextClients are those without TLS, as their names and connections.
func (w *world) plaintextClients() (names []string, a plaintext.Account) {
	w.t.Helper()
	a, err := w.client.Plaintext(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range a.Clients(ledger.Ledger{}) {
		names = append(names, fmt.Sprintf("%s/%s/%s=%d", c.Name, c.Library, c.User, c.Connections))
	}
	slices.Sort(names)
	return names, a
}

func TestBothAreTakenUntilPlaintextIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	plain := address()
	w.apply(w.both(1, plain, true))
	overTLS, without, silent := w.dial(), dialTCP(t, plain), dialTCP(t, plain)
	roundTrip(t, overTLS, "a")
	roundTrip(t, without, "b")
	if st := w.status(); st.Plaintext == nil || st.Plaintext.Connections != 1 || st.Clients != 2 {
		t.Errorf("plaintext %+v of %d clients", st.Plaintext, st.Clients)
	}
	eventually(t, "both connections without TLS are known", func() bool {
		names, _ := w.plaintextClients()
		return slices.Equal(names, []string{"//=1", "//default=1"})
	})

	w.apply(w.both(2, plain, false))
	if rest, err := io.ReadAll(without); err != nil || len(rest) > 0 {
		t.Errorf("the client without TLS read %q, %v; want a clean end", rest, err)
	}
	roundTrip(t, overTLS, "c")
	for name, c := range map[string]net.Conn{"silent": silent, "new": dialTCP(t, plain)} {
		send(t, c, "PING\r\n")
		got, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(got), "-"+wire.WantsTLS+": "+connectHow) {
			t.Errorf("the %s client read %q, %v", name, got, err)
		}
	}
	without.Close()
	eventually(t, "it is counted", func() bool { return *w.status().Plaintext == plaintext.Counts{Served: 1, Closed: 1, Clients: 2} })

	w.apply(w.both(3, plain, true))
	back := dialTCP(t, plain)
	roundTrip(t, back, "d")
	roundTrip(t, overTLS, "e")
}

// A client that is in the middle of a request when plaintext is closed gets its answer. One that never comes to an end is cut after a while.
func TestRequestUnderWayOutlivesPlaintext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	fakeEngine(t, w.engine, func(c *net.UnixConn) {
		if !introduced(c) {
			return
		}
		line := make([]byte, 6)
		if _, err := io.ReadFull(c, line); err != nil {
			return
		}
		if string(line) == "never\n" {
			_, _ = io.Copy(io.Discard, c)
			return
		}
		<-hold
		send(t, c, "+OK\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	w.run()
	t.Cleanup(release)
	plain := address()
	w.apply(w.both(1, plain, true))
	slow, never := dialTCP(t, plain), dialTCP(t, plain)
	send(t, slow, "slow\r\n")
	send(t, never, "never\n")
	eventually(t, "both are under way", func() bool { return w.status().BytesIn == 12 })
	w.apply(w.both(2, plain, false))
	began := time.Now()
	if err := slow.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Read(make([]byte, 1)); err == nil || !isTimeout(err) {
		t.Fatalf("the client with a request under way: %v; want to wait", err)
	}
	release()
	slow.SetReadDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(slow); err != nil || string(got) != "+OK\r\n" {
		t.Errorf("the client with a request under way read %q, %v", got, err)
	}
	if got, _ := io.ReadAll(never); len(got) != 0 {
		t.Errorf("the client without an answer read %q", got)
	}
	if took := time.Since(began); took > 2*gateway.PlaintextGraceForTest {
		t.Errorf("it was cut after %s", took)
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// Connections come all the time while plaintext is opened and closed: none without TLS is left afterwards.
func TestNoPlaintextConnectionIsMissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	plain := address()
	w.apply(w.both(1, plain, true))
	stop := make(chan struct{})
	var dialers sync.WaitGroup
	t.Cleanup(dialers.Wait)
	t.Cleanup(func() { close(stop) })
	for range 16 {
		dialers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("tcp", plain)
				if err != nil {
					continue
				}
				c.SetDeadline(time.Now().Add(patience))
				fmt.Fprint(c, "x\r\n")
				_, _ = io.Copy(io.Discard, c) // until plaintext is closed
				c.Close()
			}
		})
	}
	for generation := uint64(2); generation < 100; generation += 2 {
		w.apply(w.both(generation, plain, true))
		eventually(t, "somebody is served", func() bool { return w.status().Plaintext.Connections > 0 })
		w.apply(w.both(generation+1, plain, false))
		eventually(t, "no client without TLS is left", func() bool { return w.status().Plaintext.Connections == 0 })
	}
}

func TestProbesWithoutTLSAreNoClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fakeEngine(t, w.engine, answering)
	w.run()
	w.apply(w.plain(1))
	probe, client := dialTCP(t, w.addr), dialTCP(t, w.addr)
	send(t, probe, "CLIENT SETINFO LIB-NAME "+wire.ProbeLibrary+"\r\n")
	expect(t, probe, "-NOAUTH\r\n")
	send(t, client, "CLIENT SETINFO LIB-NAME go-redis\r\n")
	expect(t, client, "-NOAUTH\r\n")
	want := []string{"/go-redis/default=1"}
	if names, _ := w.plaintextClients(); !slices.Equal(names, want) {
		t.Errorf("while they are connected: %q; want %q", names, want)
	}
	probe.Close()
	client.Close()
	eventually(t, "both have ended", func() bool { return w.status().Plaintext.Connections == 0 })
	want = []string{"/go-redis/default=0"}
	if names, a := w.plaintextClients(); !slices.Equal(names, want) || a.Since.IsZero() {
		t.Errorf("afterwards: %q, since %s; want %q", names, a.Since, want)
	}
}

// answering is an engine that wants a password.
func answering(c *net.UnixConn) {
	if !introduced(c) {
		return
	}
	for b := make([]byte, 4096); ; {
		if _, err := c.Read(b); err != nil {
			return
		}
		if _, err := io.WriteString(c, "-NOAUTH\r\n"); err != nil {
			return
		}
	}
}

// The limit counts clients with TLS and without together, and each kind is told in its own way that it is reached.
func TestLimitCountsBothKindsOfClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	plain := address()
	s := w.both(1, plain, true)
	s.MaxClients = 2
	w.apply(s)
	overTLS, without := w.dial(), dialTCP(t, plain)
	roundTrip(t, overTLS, "a")
	roundTrip(t, without, "b")
	more := dialTCP(t, plain)
	send(t, more, "PING\r\n")
	if got, err := io.ReadAll(more); err != nil || string(got) != "-"+wire.MaxClients+" reached\r\n" {
		t.Errorf("one more without TLS read %q, %v", got, err)
	}
	if got, err := io.ReadAll(w.dial()); err != nil || string(got) != "-"+wire.MaxClients+" reached\r\n" {
		t.Errorf("one more with TLS read %q, %v", got, err)
	}
	// Plaintext is closed: its client makes room.
	s = w.both(2, plain, false)
	s.MaxClients = 2
	w.apply(s)
	if rest, err := io.ReadAll(without); err != nil || len(rest) > 0 {
		t.Errorf("the client without TLS read %q, %v", rest, err)
	}
	without.Close()
	eventually(t, "there is room", func() bool { return w.status().Clients == 1 })
	roundTrip(t, w.dial(), "c")
}

package gateway_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/wire"
)

// sidecars are plain clients of a gateway, by way of connections that can be asked to go.
func (w *world) sidecars(multiplexed bool, trust func() *tls.Config) *relay.Loops {
	w.t.Helper()
	ls, err := relay.NewLoops(1)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(ls.Close)
	ls.SetBackend(&relay.Backend{
		ConnectTimeout: patience, Multiplexed: multiplexed, Generation: 1, Name: "sidecar",
		Dial: func(ctx context.Context) (netloop.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.addr)
			if err != nil {
				return netloop.Conn{}, err
			}
			cfg := trust()
			cfg.NextProtos = []string{wire.ALPNSealane, "sealane-ca/0"}
			return netloop.ClientHandshake(ctx, c, cfg)
		},
	})
	return ls
}

// plainClient is one of them.
func plainClient(t testing.TB, ls *relay.Loops) net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near := dialTCP(t, ln.Addr().String())
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	f, err := far.(*net.TCPConn).File()
	far.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	ls.Serve(netloop.Conn{FD: fd}, relay.Config{})
	return near
}

// count sends one INCR after the other, by itself or in a transaction, and fails unless each is done exactly once.
func count(c net.Conn, key string, inTransaction bool, done *atomic.Int64, stop <-chan struct{}) error {
	in := bufio.NewReader(c)
	for n := 1; ; n++ {
		select {
		case <-stop:
			return nil
		default:
		}
		ask, want := "INCR "+key+"\r\n", fmt.Sprintf(":%d\r\n", n)
		if inTransaction {
			ask, want = "MULTI\r\n"+ask+"EXEC\r\n", "+OK\r\n+QUEUED\r\n*1\r\n"+want
		}
		if _, err := io.WriteString(c, ask); err != nil {
			return err
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
			return fmt.Errorf("%s is %q after %d, %v", key, got, n-1, errors.Join(err))
		}
		done.Add(1)
	}
}

func TestSidecarClientsOutliveRestartsAndCertificates(t *testing.T) {
	for _, multiplexed := range []bool{true, false} {
		t.Run(fmt.Sprintf("multiplexed=%t", multiplexed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			redis(t, w)
			w.run()
			w.apply(w.snapshot(1))
			second := newIdentity(t, w.addr)
			first := w.id
			ls := w.sidecars(multiplexed, func() *tls.Config {
				cfg := trusting(first, second)
				cfg.ServerName, _, _ = net.SplitHostPort(w.addr)
				return cfg
			})
			var clients sync.WaitGroup
			var done atomic.Int64
			stop := make(chan struct{})
			for i := range 20 {
				c := plainClient(t, ls)
				clients.Go(func() {
					if err := count(c, fmt.Sprint("key", i), i%4 == 0, &done, stop); err != nil {
						t.Error(err)
					}
				})
			}
			idle := plainClient(t, ls)
			roundTrip := func() {
				t.Helper()
				send(t, idle, "PING\r\n")
				expect(t, idle, "+PONG\r\n")
			}
			roundTrip()
			for round := range 5 {
				before := done.Load()
				eventually(t, "clients get on", func() bool { return done.Load() > before+200 })
				if err := w.stop(); err != nil {
					t.Fatal(err)
				}
				w.run()
				before = done.Load()
				eventually(t, "clients get on after a restart", func() bool { return done.Load() > before+200 })
				if w.id = first; round%2 == 0 {
					w.id = second
				}
				w.apply(w.snapshot(uint64(2 + round)))
			}
			roundTrip()
			close(stop)
			clients.Wait()
			t.Logf("%d increments", done.Load())
		})
	}
}

func TestConnectionsMoveToANewCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	redis(t, w)
	w.run()
	w.apply(w.snapshot(1))
	first, second := w.id, newIdentity(t, w.addr)
	var met sync.Map
	ls := w.sidecars(true, func() *tls.Config {
		cfg := trusting(first, second)
		cfg.ServerName, _, _ = net.SplitHostPort(w.addr)
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			met.Store(s.PeerCertificates[0].SerialNumber.String(), true)
			return nil
		}
		return cfg
	})
	c := plainClient(t, ls)
	ping := func() {
		send(t, c, "PING\r\n")
		expect(t, c, "+PONG\r\n")
	}
	ping()
	w.id = second
	w.apply(w.snapshot(2))
	eventually(t, "the client's connection is one under the new certificate", func() bool {
		ping()
		_, ok := met.Load(second.cert.SerialNumber.String())
		return ok
	})
}

func TestClientsWithOtherProtocolsAreServed(t *testing.T) {
	t.Parallel()
	w := serving(t)
	cfg := w.trust()
	cfg.NextProtos = []string{"redis", "h2"}
	c := tls.Client(dialTCP(t, w.addr), cfg)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c, "hello")
	if p := c.ConnectionState().NegotiatedProtocol; p != "" {
		t.Errorf("negotiated %q", p)
	}
}

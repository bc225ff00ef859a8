package relay_test

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/wire"
)

// far is a server with TLS in front of the engine, as a gateway is, and clients' loops that dial it, as a sidecar's.
type far struct {
	t       testing.TB
	rnd     *rand.Rand
	server  *relay.Loops
	ln      net.Listener
	config  *tls.Config
	set     func(engine string, multiplexed bool) // of the server
	clients *relay.Loops
	epoch   uint64
	serving sync.WaitGroup
	mu      sync.Mutex // guards all
	all     []*relay.Session
}

func newFar(t testing.TB, seed uint64, set func(string, bool), server *relay.Loops) *far {
	t.Helper()
	clients, err := relay.NewLoops(2)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &far{t: t, rnd: rand.New(rand.NewPCG(seed, 4)), server: server, ln: ln, set: set, clients: clients}
	f.config = &tls.Config{Certificates: []tls.Certificate{certtest.SelfSigned(t, nil)}, NextProtos: []string{wire.ALPNSealane}}
	set("a", seed%2 == 0)
	f.serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f.serving.Go(func() { f.accept(c) })
		}
	})
	return f
}

func (f *far) accept(c net.Conn) {
	defer c.Close()
	transport := netloop.NewTransport(c)
	t := tls.Server(transport, f.config)
	if t.Handshake() != nil {
		return // the client has gone meanwhile
	}
	fd, err := netloop.Descriptor(c.(syscall.Conn))
	if err != nil {
		return
	}
	end := netloop.Conn{FD: fd, TLS: t, Transport: transport}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, f.server.Serve(end, relay.Config{Goaway: end.TLS.ConnectionState().NegotiatedProtocol == wire.ALPNSealane}))
}

// backend is called at first, and when something is to change: clients are to leave, by the server's or their own will.
func (f *far) backend(_ string, multiplexed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.all {
		if f.rnd.IntN(3) == 0 {
			s.Goaway()
		}
	}
	if f.epoch == 0 || f.rnd.IntN(4) == 0 {
		f.epoch++
	}
	f.clients.SetBackend(&relay.Backend{
		Engine: "far", Generation: f.epoch, Multiplexed: multiplexed, ConnectTimeout: patience, MinIdle: 3, Name: "many",
		Login: []string{"u9", "pw-u9"},
		Dial: func(ctx context.Context) (netloop.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", f.ln.Addr().String())
			if err != nil {
				return netloop.Conn{}, err
			}
			return netloop.ClientHandshake(ctx, c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{wire.ALPNSealane}})
		},
	})
}

func (f *far) stop() {
	f.ln.Close()
	f.serving.Wait()
	f.server.Close()
}

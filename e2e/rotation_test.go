package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// SEALANE_ROTATIONS=all gives the test 500 connections, 50 leaf rotations and 4 CA generations. It is read here because TestMain
// removes Sealane's variables from the environment.
var allRotations = os.Getenv("SEALANE_ROTATIONS") == "all"

// rotations is a run with connections that stay, and with newcomers that use every trust store with which a client must succeed.
type rotations struct {
	t       *testing.T
	s       *server
	target  instance
	stop    chan struct{}
	replies atomic.Int64
	shaken  atomic.Int64

	// A newcomer holds it for reading while it connects, so that its trust store is not retired meanwhile.
	mu     sync.RWMutex // guards stores
	stores map[string]*x509.CertPool
}

// Every connection stays and every reply is right. No newcomer is refused that holds the bundle, or any single CA to which the
// served chain leads.
func TestRotationsUnderLoadAreNotNoticed(t *testing.T) {
	t.Parallel()
	connections, leaves, generations := 100, 12, 2
	if allRotations {
		connections, leaves, generations = 500, 50, 4
	}
	s := startServer(t, serverOptions{})
	i := s.create("first")
	r := &rotations{t: t, s: s, target: i, stop: make(chan struct{}), stores: map[string]*x509.CertPool{}}
	r.learn()

	var clients sync.WaitGroup
	for n := range connections {
		c := r.connect(r.stores["bundle"])
		clients.Go(func() { r.stay(c, n) })
	}
	for range 3 {
		clients.Go(r.come)
	}
	start := time.Now()
	for g := range generations {
		for l := range leaves / generations {
			if l == 0 { // the data path changes too
				s.useDataPath("first", []string{"multiplexed", "transparent"}[g%2])
			}
			s.cli("certificates", "rotate", "first")
		}
		s.cli("ca", "rotate", "first")
		r.learn()
		s.cli("certificates", "rotate", "first")
		s.cli("ca", "activate", "first", "--force")
		r.learn()
		s.cli("certificates", "rotate", "first")
		r.forget(g + 1)
		s.cli("ca", "retire", "first", "--force")
		r.learn()
	}
	close(r.stop)
	clients.Wait()
	r.wantNewest()
	t.Logf("%d connections, %d replies, %d new connections in %v", connections, r.replies.Load(), r.shaken.Load(), time.Since(start).Round(time.Second))
}

// certificatesOf is what `sealane ca list` shows.
type certificatesOf struct {
	Authorities []struct {
		Generation  int
		State, Cert string
	}
	Leaf struct{ SerialNumber string }
}

func (r *rotations) list() (out certificatesOf) {
	r.t.Helper()
	text := r.s.cli("ca", "list", "first", "--format", "json")
	if err := json.Unmarshal([]byte(text), &out); err != nil || len(out.Authorities) == 0 {
		r.t.Fatalf("%v in %s", err, text)
	}
	return out
}

// learn finds out with which trust stores a client must succeed now.
func (r *rotations) learn() {
	r.t.Helper()
	stores := map[string]*x509.CertPool{"bundle": pool(r.s.cli("ca", "bundle", "first"))}
	for _, ca := range r.list().Authorities {
		switch ca.State {
		case "SIGNING", "CROSS_SIGNED", "RETIRING":
			stores[fmt.Sprint(ca.Generation)] = pool(ca.Cert)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stores = stores
}

// forget removes a CA that is about to be retired.
func (r *rotations) forget(generation int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.stores, fmt.Sprint(generation))
}

func pool(text string) *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM([]byte(text))
	return p
}

func (r *rotations) connect(roots *x509.CertPool) *tls.Conn {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: soakPatience}, "tcp", r.target.address(), &tls.Config{RootCAs: roots})
	if err != nil {
		r.t.Errorf("connect: %v", err)
		return nil
	}
	return c
}

// stay is a client that never leaves.
func (r *rotations) stay(c *tls.Conn, n int) {
	if c == nil {
		return
	}
	defer c.Close()
	in := bufio.NewReader(c)
	value := bytes.Repeat([]byte{'a' + byte(n%26)}, 1+n)
	for k := 0; ; k++ {
		select {
		case <-r.stop:
			return
		case <-time.After(time.Duration(rand.IntN(60)) * time.Millisecond):
		}
		_ = c.SetDeadline(time.Now().Add(soakPatience))
		ask := fmt.Sprintf("SET key:%d %s%d\r\nGET key:%d\r\n", n, value, k, n)
		if k%8 == 7 { // a command that needs a dedicated connection
			ask = fmt.Sprintf("SET key:%d %s%d\r\nEVAL \"return redis.call('get',KEYS[1])\" 1 key:%d\r\n", n, value, k, n)
		}
		said := fmt.Sprintf("%s%d", value, k)
		want := fmt.Sprintf("+OK\r\n$%d\r\n%s\r\n", len(said), said)
		got := make([]byte, len(want))
		_, err := io.WriteString(c, ask)
		if err == nil {
			_, err = io.ReadFull(in, got)
		}
		if err != nil || string(got) != want {
			r.t.Errorf("client %d: %.60q, %v; want %.60q", n, got, err, want)
			return
		}
		r.replies.Add(2)
	}
}

// come connects again and again, each time with one of these trust stores.
func (r *rotations) come() {
	for {
		select {
		case <-r.stop:
			return
		case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond):
		}
		r.mu.RLock()
		for name, roots := range r.stores { // in any order
			c := r.connect(roots)
			if c == nil {
				r.t.Errorf("that was with %s", name)
				break
			}
			_ = c.SetDeadline(time.Now().Add(soakPatience))
			got := make([]byte, len("+PONG\r\n"))
			_, err := io.WriteString(c, "PING\r\n")
			if err == nil {
				_, err = io.ReadFull(c, got)
			}
			if err != nil || string(got) != "+PONG\r\n" {
				r.t.Errorf("a new client with %s: %q, %v", name, got, err)
			}
			c.Close()
			r.shaken.Add(1)
			break
		}
		r.mu.RUnlock()
	}
}

// wantNewest fails the test unless the served certificate is the newest according to the server.
func (r *rotations) wantNewest() {
	r.t.Helper()
	c := r.connect(r.stores["bundle"])
	if c == nil {
		return
	}
	defer c.Close()
	served := c.ConnectionState().PeerCertificates[0]
	if newest := r.list().Leaf.SerialNumber; served.SerialNumber.String() != newest {
		r.t.Errorf("the served leaf is %d, the newest %s", served.SerialNumber, newest)
	}
	if metric := r.s.metric("sealane_certificate_served_is_intended"); metric != 1 {
		r.t.Errorf("served is intended: %v", metric)
	}
}

package gateway_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/gateway"
)

// patience ends what should not take that long.
const patience = 30 * time.Second

const connectHow = "redis-cli --tls --cacert ca.pem -h 127.83.0.1 -p 6378"

var addresses atomic.Uint32

// address returns an address that no other test has: all of 127/8 is this machine's, so a port need not be guessed.
func address() string {
	n := addresses.Add(1)
	return fmt.Sprintf("127.%d.%d.%d:6378", 128+os.Getpid()%100, 1+n/250, 1+n%250)
}

// tempDir has a path short enough for a socket in it.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// identity is a server certificate, self-signed, with its key. It is for localhost, and addresses (with a port) or names.
type identity struct {
	cert *x509.Certificate
	chain, key,
	keyDER []byte
}

func newIdentity(t testing.TB, addresses ...string) identity {
	t.Helper()
	return signed(t, certtest.NewKey(t), addresses...)
}

// reissued is another certificate for the same key.
func reissued(t testing.TB, id identity, addresses ...string) identity {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(id.keyDER)
	if err != nil {
		t.Fatal(err)
	}
	return signed(t, key.(crypto.Signer), addresses...)
}

func signed(t testing.TB, key crypto.Signer, addresses ...string) identity {
	t.Helper()
	cert := certtest.SelfSigned(t, key, certtest.Names("localhost"), func(c *x509.Certificate) {
		// Clients tell CAs apart by their subjects.
		c.Subject.CommonName = "test " + rand.Text()
		for _, a := range addresses {
			if host, _, err := net.SplitHostPort(a); err == nil {
				a = host
			}
			certtest.Names(a)(c)
		}
	})
	private := certtest.KeyPEM(t, key)
	block, _ := pem.Decode(private)
	return identity{cert: cert.Leaf, keyDER: block.Bytes, chain: certtest.PEM(cert.Certificate...), key: private}
}

// trusting is the configuration of a client that holds exactly these certificates as its CAs.
func trusting(ids ...identity) *tls.Config {
	pool := x509.NewCertPool()
	for _, id := range ids {
		pool.AddCert(id.cert)
	}
	return &tls.Config{RootCAs: pool}
}

// fakeEngine serves a Unix socket: one call of serve per connection, which is closed after it.
func fakeEngine(t testing.TB, path string, serve func(*net.UnixConn)) (stop func()) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() { c.Close(); mu.Lock(); delete(open, c); mu.Unlock() }()
				serve(c.(*net.UnixConn))
			})
		}
	})
	stop = sync.OnceFunc(func() {
		ln.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// asksID is what the gateway asks on each engine connection, before the client's first request.
const asksID = "*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n"

// echo is an engine that says back what it reads, and ends when the client has.
func echo(c *net.UnixConn) {
	if introduced(c) {
		_, _ = io.Copy(struct{ io.Writer }{c}, c)
	}
}

// introduced answers what the gateway asks.
func introduced(c *net.UnixConn) bool {
	asked := make([]byte, len(asksID))
	if _, err := io.ReadFull(c, asked); err != nil || string(asked) != asksID {
		return false
	}
	_, err := io.WriteString(c, ":1\r\n")
	return err == nil
}

// safeBuffer is a log that can be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// world is a gateway, its folder and its controller.
type world struct {
	t      testing.TB
	dir    string
	engine string // path of the engine's socket
	addr   string
	id     identity
	client *gateway.Client
	log    *safeBuffer
	drain  time.Duration
	// stop ends the gateway as a signal would, waits for Run and returns its error.
	stop func() error
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir, addr := tempDir(t), address()
	return &world{
		t: t, dir: dir, engine: filepath.Join(dir, "e"), addr: addr, id: newIdentity(t, addr),
		client: gateway.NewClient(dir), log: new(safeBuffer),
	}
}

// run starts the gateway and waits until its admin socket answers. When the test ends no goroutine of it may be left.
func (w *world) run() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	label := fmt.Sprintf("gateway-%d", addresses.Add(1))
	ended := make(chan error, 1)
	go pprof.Do(ctx, pprof.Labels("leak", label), func(ctx context.Context) {
		ended <- gateway.Run(ctx, gateway.Config{Dir: w.dir, Drain: w.drain, Log: slog.New(slog.NewTextHandler(w.log, nil))})
	})
	w.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			w.noGoroutine(label)
			return err
		case <-time.After(patience):
			w.t.Error("Run did not end")
			return nil
		}
	})
	w.t.Cleanup(func() {
		if err := w.stop(); err != nil {
			w.t.Errorf("Run: %v", err)
		}
		w.hidesKey("log", w.log.String())
	})
	eventually(w.t, "admin socket answers", func() bool {
		select {
		case err := <-ended:
			w.t.Fatalf("Run ended at once: %v", err)
		default:
		}
		_, err := w.client.Status(context.Background())
		return err == nil
	})
}

func (w *world) noGoroutine(label string) {
	var text strings.Builder
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		text.Reset()
		if err := pprof.Lookup("goroutine").WriteTo(&text, 1); err != nil {
			w.t.Error(err)
		}
		// net/http's last connection may still be on its way out.
		if !strings.Contains(text.String(), fmt.Sprintf("%q:%q", "leak", label)) {
			return
		}
	}
	w.t.Errorf("goroutines of %s are left after Run:\n%s", label, text.String())
}

func (w *world) hidesKey(where, text string) {
	w.t.Helper()
	lines := strings.Split(strings.TrimSpace(string(w.id.key)), "\n")
	for _, secret := range append(lines[1:len(lines)-1], fmt.Sprintf("%x", w.id.keyDER)) {
		if strings.Contains(text, secret) {
			w.t.Errorf("the private key is in the %s", where)
		}
	}
}

// snapshot has one TLS listener at w.addr.
func (w *world) snapshot(generation uint64) gateway.Snapshot {
	return gateway.Snapshot{
		Generation: generation, Listeners: []gateway.Listener{{Address: w.addr, TLS: true}}, Engine: w.engine,
		Certificate: w.id.chain, PrivateKey: w.id.key, Connect: connectHow,
	}
}

// plain has the same listener without TLS.
func (w *world) plain(generation uint64) gateway.Snapshot {
	s := w.snapshot(generation)
	s.Listeners[0].TLS = false
	return s
}

func (w *world) apply(s gateway.Snapshot) gateway.Status {
	w.t.Helper()
	st, err := w.client.Apply(context.Background(), s)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

func (w *world) status() gateway.Status {
	w.t.Helper()
	st, err := w.client.Status(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// serving is a running gateway with an echoing engine and its first snapshot.
func serving(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	w.apply(w.snapshot(1))
	return w
}

func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// dial connects with verified TLS.
func (w *world) dial() *tls.Conn {
	w.t.Helper()
	c := tls.Client(dialTCP(w.t, w.addr), w.trust())
	if err := c.Handshake(); err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) trust() *tls.Config {
	cfg := trusting(w.id)
	cfg.ServerName, _, _ = net.SplitHostPort(w.addr)
	return cfg
}

func send(t testing.TB, c io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("write %.40q: %v", s, err)
	}
}

func expect(t testing.TB, c io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %.80q, %v; want %.80q", got, err, want)
	}
}

// roundTrip sends a line, which an engine would take as a command, and reads it back.
func roundTrip(t testing.TB, c io.ReadWriter, s string) {
	t.Helper()
	s = strings.TrimSuffix(s, "\r\n") + "\r\n"
	send(t, c, s)
	expect(t, c, s)
}

// eventually polls for what another process or goroutine will have done soon.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-poll.C {
		if f() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

package replicationlink_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/replicationlink"
)

const (
	patience = 30 * time.Second
	identity = "spiffe://sealane/local/local/first/node"
	password = "word-that-nobody-guesses"
	login    = "*3\r\n$4\r\nAUTH\r\n$11\r\nreplication\r\n$24\r\n" + password + "\r\n"
)

var addresses atomic.Uint32

// address returns an address that no other test has.
func address() string {
	n := addresses.Add(1)
	return fmt.Sprintf("127.%d.%d.%d:6390", 128+os.Getpid()%100, 1+n/250, 1+n%250)
}

// forPeers makes a certificate one that nodes show each other.
func forPeers(c *x509.Certificate) {
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
}

// peerOf is a node's certificate.
func peerOf(t testing.TB, ca *certtest.Authority, change ...certtest.Change) tls.Certificate {
	t.Helper()
	return ca.Leaf(t, append([]certtest.Change{forPeers, certtest.Names(identity)}, change...)...)
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

// world is a listener with its configuration, and the CA of an instance.
type world struct {
	t        testing.TB
	ca       *certtest.Authority
	config   replicationlink.Config
	listener *replicationlink.Listener
	log      *safeBuffer
}

// newWorld serves the engine at a socket. When the test ends no secret may be in the log.
func newWorld(t testing.TB, engine string) *world {
	t.Helper()
	w := &world{t: t, ca: certtest.NewAuthority(t, "CA of first"), log: new(safeBuffer)}
	w.config = replicationlink.Config{Address: address(), Engine: engine, Password: password, Authorities: w.ca.PEM(), Identity: identity}
	w.present(peerOf(t, w.ca))
	log := slog.New(slog.NewTextHandler(w.log, nil))
	w.listener = replicationlink.New(log, func(_, message string, args ...any) { log.Warn(message, args...) })
	t.Cleanup(func() {
		w.listener.Close()
		if s := w.listener.Status(); len(s.Replicas) > 0 {
			t.Errorf("after Close there is %v", s)
		}
		w.hidesSecrets(w.log.String())
	})
	w.apply()
	return w
}

func (w *world) present(cert tls.Certificate) {
	w.config.Certificate, w.config.PrivateKey = certtest.PEM(cert.Certificate...), certtest.KeyPEM(w.t, cert.PrivateKey)
}

func (w *world) hidesSecrets(text string) {
	w.t.Helper()
	if strings.Contains(text, password) || strings.Contains(text, string(w.config.PrivateKey[40:80])) {
		w.t.Errorf("a secret is in %s", text)
	}
}

// apply makes the configuration take effect.
func (w *world) apply() {
	w.t.Helper()
	if problems := w.config.Check(); problems != nil {
		w.t.Fatal(problems)
	}
	c := w.config
	p, err := w.listener.Prepare(w.t.Context(), &c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.listener.Commit(p)
}

// dial connects as a replica with this certificate. The error may come with the first read only.
func (w *world) dial(cert ...tls.Certificate) (*tls.Conn, error) {
	w.t.Helper()
	c := w.dialTCP()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.config.Authorities)
	conn := tls.Client(c, &tls.Config{
		// As engines do: the chain is verified, names are not.
		InsecureSkipVerify: true,
		// As engines do: it is shown whatever CAs the server names.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(cert) == 0 {
				return new(tls.Certificate), nil
			}
			return &cert[0], nil
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool})
			return err
		},
	})
	return conn, conn.Handshake()
}

func (w *world) dialTCP() *net.TCPConn {
	w.t.Helper()
	c, err := net.Dial("tcp", w.config.Address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// link connects as a replica should, and shows that bytes go both ways.
func (w *world) link() *tls.Conn {
	w.t.Helper()
	c, err := w.dial(peerOf(w.t, w.ca))
	if err != nil {
		w.t.Fatal(err)
	}
	roundTrip(w.t, c, "hello")
	return c
}

// wantRefused waits until one more was refused for a reason.
func (w *world) wantRefused(reason string, n uint64) {
	w.t.Helper()
	eventually(w.t, "refused: "+reason, func() bool { return w.listener.Status().Refused[reason] == n })
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

// engineThat is an engine that lets the user replication in and then serves as it is told. logins counts.
func engineThat(t testing.TB, serve func(*net.UnixConn)) (socket string, logins *atomic.Int32) {
	t.Helper()
	socket, logins = filepath.Join(tempDir(t), "e"), new(atomic.Int32)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { c.Close() })
			wg.Go(func() {
				defer stop()
				defer c.Close()
				said := make([]byte, len(login))
				if _, err := io.ReadFull(c, said); err != nil || string(said) != login {
					t.Errorf("the engine is told %q, %v", said, err)
					return
				}
				logins.Add(1)
				if _, err := io.WriteString(c, "+OK\r\n"); err == nil {
					serve(c.(*net.UnixConn))
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); cancel(); wg.Wait() })
	return socket, logins
}

// echo says back what it reads, and ends when the other side has.
func echo(c *net.UnixConn) { _, _ = io.Copy(struct{ io.Writer }{c}, c) }

func roundTrip(t testing.TB, c io.ReadWriter, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("write %q: %v", s, err)
	}
	got := make([]byte, len(s))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != s {
		t.Fatalf("read %q, %v; want %q", got, err, s)
	}
}

// wantCut fails unless the other side ends the connection, after what bytes ever.
func wantCut(t testing.TB, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, c); err != nil && os.IsTimeout(err) {
		t.Error("the link is still up")
	}
}

// eventually polls for what another goroutine will have done soon.
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

package relay_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/relay"
)

func tlsPair(t testing.TB) (client net.Conn, server relay.End) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	here, there := tcpPair(t)
	under := &transport{ReadWriter: there, Conn: there}
	s := tls.Server(under, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	c := tls.Client(here, &tls.Config{InsecureSkipVerify: true})
	failed := make(chan error, 1)
	go func() { failed <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	return c, relay.End{FD: descriptor(t, there), TLS: s, Attach: func(rw io.ReadWriter) { under.ReadWriter = rw }}
}

// transport is what TLS is over: a connection first, a loop's socket later.
type transport struct {
	io.ReadWriter
	net.Conn
}

func (t *transport) Read(b []byte) (int, error)  { return t.ReadWriter.Read(b) }
func (t *transport) Write(b []byte) (int, error) { return t.ReadWriter.Write(b) }

// roundTrips returns a function that sends one request of size bytes through a Pipe and reads its reply of the same size.
func roundTrips(t testing.TB, client net.Conn, clientEnd relay.End, size int) func() {
	t.Helper()
	engineEnd, engine := unixPair(t)
	p := loops(t).Join(clientEnd, relay.End{FD: descriptor(t, engineEnd)}, relay.Config{})
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		for buf := make([]byte, size); ; {
			if _, err := io.ReadFull(engine, buf); err != nil {
				return
			}
			if _, err := engine.Write(buf); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { p.Close(); <-p.Done(); <-echoed })
	request, reply := make([]byte, size), make([]byte, size)
	return func() {
		if _, err := client.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, reply); err != nil {
			t.Fatal(err)
		}
	}
}

func benchmarkRoundTrip(b *testing.B, client net.Conn, clientEnd relay.End, size int) {
	trip := roundTrips(b, client, clientEnd, size)
	trip()
	b.SetBytes(int64(2 * size))
	b.ReportAllocs()
	for b.Loop() {
		trip()
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, size := range []struct {
		name  string
		bytes int
	}{{"64B", 64}, {"16KiB", 16 << 10}} {
		b.Run("plain/"+size.name, func(b *testing.B) {
			c, s := tcpPair(b)
			benchmarkRoundTrip(b, c, relay.End{FD: descriptor(b, s)}, size.bytes)
		})
		b.Run("tls/"+size.name, func(b *testing.B) {
			c, s := tlsPair(b)
			benchmarkRoundTrip(b, c, s, size.bytes)
		})
	}
}

// Not parallel: it counts the allocations of the whole process. Without TLS, because crypto/tls makes some of its own for
// each record that it reads, which is not the relay's doing; BenchmarkRoundTrip shows how many.
func TestDataPathDoesNotAllocate(t *testing.T) {
	c, s := tcpPair(t)
	trip := roundTrips(t, c, relay.End{FD: descriptor(t, s)}, 1024)
	trip()
	if n := testing.AllocsPerRun(500, trip); n > 0 {
		t.Errorf("%v allocations per round trip; want none", n)
	}
}

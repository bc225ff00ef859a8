package relay_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/resp"
)

func tlsPair(t testing.TB) (client net.Conn, server netloop.Conn) {
	t.Helper()
	here, there := tcpPair(t)
	under := netloop.NewTransport(there)
	s := tls.Server(under, &tls.Config{Certificates: []tls.Certificate{certtest.SelfSigned(t, nil)}})
	c := tls.Client(here, &tls.Config{InsecureSkipVerify: true})
	failed := make(chan error, 1)
	go func() { failed <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	return c, netloop.Conn{FD: descriptor(t, there), TLS: s, Transport: under}
}

// answering is an engine that gives the same answer to everything but the questions for the connection's id, and ECHO.
func answering(engine net.Conn, answer []byte) {
	var scan resp.CommandScanner
	in, out := make([]byte, 64<<10), []byte(nil)
	for {
		n, err := engine.Read(in)
		if err != nil {
			return
		}
		out = out[:0]
		for b := in[:n]; len(b) > 0; {
			n, done, _ := scan.Next(b)
			request := b[:n]
			b = b[n:]
			switch {
			case done && string(scan.Second()) == "id":
				out = append(out, ":1\r\n"...)
			case done && string(scan.Name()) == "echo":
				out = append(out, request[bytes.IndexByte(request, '$')+len("$4\r\nECHO\r\n"):]...)
			case done:
				out = append(out, answer...)
			}
		}
		if _, err := engine.Write(out); err != nil {
			return
		}
	}
}

// roundTrips returns a function that sends one SET of a value of size bytes and reads the reply.
func roundTrips(t testing.TB, client net.Conn, clientEnd netloop.Conn, size int, multiplexed bool) func() {
	t.Helper()
	engineEnd, engine := unixPair(t)
	fd := descriptor(t, engineEnd)
	ls := loops(t)
	ls.SetBackend(&relay.Backend{Connect: func() (int, error) { return fd, nil }, Multiplexed: multiplexed})
	s := ls.Serve(clientEnd, relay.Config{})
	ended := make(chan struct{})
	go func() { defer close(ended); answering(engine, []byte("+OK\r\n")) }()
	t.Cleanup(func() { s.Close(); <-s.Done(); ls.Close(); <-ended })
	request, reply := resp.AppendCommand(nil, "SET", "key", strings.Repeat("v", size)), make([]byte, 5)
	return func() {
		if _, err := client.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, reply); err != nil {
			t.Fatal(err)
		}
	}
}

func benchmarkRoundTrip(b *testing.B, client net.Conn, clientEnd netloop.Conn, size int, multiplexed bool) {
	trip := roundTrips(b, client, clientEnd, size, multiplexed)
	trip()
	b.SetBytes(int64(size))
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
		for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
			b.Run(path+"/plain/"+size.name, func(b *testing.B) {
				c, s := tcpPair(b)
				benchmarkRoundTrip(b, c, netloop.Conn{FD: descriptor(b, s)}, size.bytes, multiplexed)
			})
			b.Run(path+"/tls/"+size.name, func(b *testing.B) {
				c, s := tlsPair(b)
				benchmarkRoundTrip(b, c, s, size.bytes, multiplexed)
			})
		}
	}
}

// Not parallel: it counts the allocations of the whole process. Without TLS, because crypto/tls makes some of its own for
// each record that it reads, which is not the relay's doing; BenchmarkRoundTrip shows how many.
func TestDataPathDoesNotAllocate(t *testing.T) {
	if underRace {
		t.Skip("sync.Pool drops some of what it is given under the race detector")
	}
	for _, multiplexed := range []bool{false, true} {
		c, s := tcpPair(t)
		trip := roundTrips(t, c, netloop.Conn{FD: descriptor(t, s)}, 1024, multiplexed)
		trip()
		if n := testing.AllocsPerRun(500, trip); n > 0 {
			t.Errorf("multiplexed %t: %v allocations per round trip; want none", multiplexed, n)
		}
	}
}

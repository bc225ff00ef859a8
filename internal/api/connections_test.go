package api_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"cloud.google.com/go/redis/apiv1/redispb"

	"github.com/sealane/sealane/internal/api"
)

// onTCP serves both APIs as `sealane serve` does and returns their addresses.
func (s *server) onTCP() (rest, grpcAddress string) {
	s.t.Helper()
	var listeners [2]net.Listener
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.t.Fatal(err)
		}
		listeners[i] = l
	}
	hs := api.HTTPServer(s.api.REST)
	go hs.Serve(s.api.Guard(listeners[0]))
	s.t.Cleanup(func() { hs.Close() })
	go s.api.GRPC.Serve(s.api.Guard(listeners[1]))
	return listeners[0].Addr().String(), listeners[1].Addr().String()
}

func dialTCP(t testing.TB, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// greet sends HTTP/2's preface and answers the server's settings.
func greet(t testing.TB, conn net.Conn) *http2.Framer {
	t.Helper()
	f := http2.NewFramer(conn, conn)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Without a limit gRPC holds 16 MiB of a caller's headers, for each request, before anybody looks for a token.
func TestHeadersWithoutATokenTakeLittleMemory(t *testing.T) { // not parallel: it looks at the process's memory
	s := newServer(t)
	_, address := s.onTCP()
	const callers, perCaller = 8, 4 << 20
	before := heap()
	for range callers {
		conn := dialTCP(t, address)
		f := greet(t, conn)
		go io.Copy(io.Discard, conn) // what it says to it is not of interest
		writeEndlessHeaders(f, perCaller)
	}
	// The server takes them in at its own pace.
	highest := uint64(0)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		highest = max(highest, heap())
	}
	grown := (float64(highest) - float64(before)) / callers / 1024
	t.Logf("%.0f KiB per connection", grown)
	if grown > 512 {
		t.Errorf("headers of %d bytes without a token take %.0f KiB of each connection, want at most 512", perCaller, grown)
	}
}

// writeEndlessHeaders sends headers that don't end, until so many bytes are sent or the server hangs up.
func writeEndlessHeaders(f *http2.Framer, size int) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	noise := make([]byte, 4<<10)
	for i, sent := 0, 0; sent < size; i++ {
		block.Reset()
		rand.Read(noise)
		enc.WriteField(hpack.HeaderField{Name: fmt.Sprintf("x-%d", i), Value: hex.EncodeToString(noise), Sensitive: true})
		var err error
		if i == 0 {
			err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes()})
		} else {
			err = f.WriteContinuation(1, false, block.Bytes())
		}
		if err != nil {
			return
		}
		sent += block.Len()
	}
}

// gRPC reads a whole request before an interceptor sees it: the token is checked when the headers are there.
func TestARequestWithoutATokenIsRefusedBeforeItsBody(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, address := s.onTCP()
	f := greet(t, dialTCP(t, address))
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/google.cloud.redis.v1.CloudRedis/ListInstances"}, {":authority", "x"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"authorization", "Bearer wrong"},
	} {
		enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("the request without a body is not answered: %v", err)
		}
		if h, ok := frame.(*http2.MetaHeadersFrame); ok {
			for _, field := range h.Fields {
				if field.Name == "grpc-status" && field.Value == fmt.Sprint(int(codes.Unauthenticated)) {
					return
				}
			}
			t.Fatalf("got %v, want grpc-status %d", h.Fields, codes.Unauthenticated)
		}
	}
}

func TestConnectionsWithoutATokenAreFew(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	rest, address := s.onTCP()
	// One with a token first: it is to stay.
	client, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	list := func() error {
		_, err := redispb.NewCloudRedisClient(client).ListInstances(authorized(t), &redispb.ListInstancesRequest{Parent: "projects/p1/locations/local"})
		return err
	}
	if err := list(); err != nil {
		t.Fatal(err)
	}
	keep := dialTCP(t, rest)
	if err := getOn(keep, "Bearer "+token); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for i := range 2 * api.MaxUnauthenticated {
		conns = append(conns, dialTCP(t, []string{rest, address}[i%2]))
	}
	// The oldest are closed; reading of one that is not would wait.
	for i, c := range conns[:api.MaxUnauthenticated] {
		if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatalf("connection %d of %d without a token: %v, want it closed", i, len(conns), err)
		}
	}
	if err := list(); err != nil {
		t.Errorf("a gRPC connection with a token: %v", err)
	}
	if err := getOn(keep, "Bearer "+token); err != nil {
		t.Errorf("a REST connection with a token: %v", err)
	}
	if err := getOn(conns[len(conns)-2], "Bearer "+token); err != nil {
		t.Errorf("the newest connection: %v", err)
	}
}

// getOn makes one request on a connection.
func getOn(conn net.Conn, authorization string) error {
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\n\r\n", instances, authorization)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// pipes is a listener within a bubble.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

var pipePorts atomic.Int32

// pipeConn has an address, as the connection of a network does.
type pipeConn struct {
	net.Conn
	remote *net.TCPAddr
}

func (c pipeConn) RemoteAddr() net.Addr { return c.remote }
func (c pipeConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p pipes) dial() net.Conn {
	here, there := net.Pipe()
	p <- pipeConn{there, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(pipePorts.Add(1))}}
	return here
}

func TestAConnectionWithoutATokenDoesNotLast(t *testing.T) {
	s := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		l := make(pipes)
		hs := api.HTTPServer(s.api.REST)
		go hs.Serve(s.api.Guard(l))
		began := time.Now()
		silent, wrong, right := l.dial(), l.dial(), l.dial()
		if err := getOn(right, "Bearer "+token); err != nil {
			t.Fatal(err)
		}
		for asked := 0; ; asked++ {
			// Each request is answered, and keeps an HTTP connection alive by itself.
			if err := getOn(wrong, "Bearer wrong"); err == nil || !strings.Contains(err.Error(), "401") {
				if asked == 0 {
					t.Fatal(err)
				}
				break
			}
			time.Sleep(time.Second)
			if time.Since(began) > time.Minute {
				t.Fatal("a connection with a wrong token lives for more than a minute")
			}
		}
		io.Copy(io.Discard, silent)
		if lived := time.Since(began); lived > 15*time.Second {
			t.Errorf("connections without a token live for %v, want some 10 s", lived)
		}
		if err := getOn(right, "Bearer "+token); err != nil {
			t.Errorf("a connection with a token: %v", err)
		}
		for _, c := range []net.Conn{silent, wrong, right} {
			c.Close()
		}
		close(l)
		hs.Close()
	})
}

func TestOneConnectionTooManyClosesTheOldestAtOnce(t *testing.T) {
	s := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		l := make(pipes)
		hs := api.HTTPServer(s.api.REST)
		go hs.Serve(s.api.Guard(l))
		began := time.Now()
		known := l.dial()
		if err := getOn(known, "Bearer "+token); err != nil {
			t.Fatal(err)
		}
		var silent []net.Conn
		for range api.MaxUnauthenticated + 3 {
			silent = append(silent, l.dial())
		}
		for _, c := range silent[:3] {
			io.Copy(io.Discard, c)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("the oldest are closed after %v, want at once", waited)
		}
		for _, c := range []net.Conn{known, silent[3]} {
			if err := getOn(c, "Bearer "+token); err != nil {
				t.Errorf("one that was not too many: %v", err)
			}
		}
		for _, c := range append(silent, known) {
			c.Close()
		}
		close(l)
		hs.Close()
	})
}

func TestTooManyHeadersAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	rest, address := s.onTCP()
	conn := dialTCP(t, rest)
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 64<<10))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("REST: %v, %v; want status 431", resp, err)
	}
	client, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = redispb.NewCloudRedisClient(client).ListInstances(withHeader(authorized(t), strings.Repeat("x", 64<<10)), &redispb.ListInstancesRequest{Parent: "projects/p1/locations/local"})
	if status.Code(err) == codes.OK {
		t.Error("gRPC: headers of 64 KiB are taken")
	}
}

func withHeader(ctx context.Context, value string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x", value)
}

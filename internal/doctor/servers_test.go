package doctor_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/doctor"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/resp"
)

const (
	patience = 30 * time.Second
	day      = 24 * time.Hour
	password = "s3cret-5f0c1d2e"
	first    = "spiffe://sealane/local/local/first"
)

// bench is what one broken set-up is made on. now is the time of its certificates and of the client.
type bench struct {
	*testing.T
	dir string
	ip  string // of its servers: all of 127/8 is this machine's, so that no port is taken by another test
	now time.Time
	ca  *authority
}

var benches atomic.Int32

func newBench(t *testing.T) *bench {
	dir, err := os.MkdirTemp("", "sl") // short: a gateway's socket is in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := benches.Add(1)
	ip := fmt.Sprintf("127.%d.%d.%d", 10+os.Getpid()%60, 1+n/250, 1+n%250)
	b := &bench{T: t, dir: dir, ip: ip, now: time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)}
	b.ca = b.authority("Redis CA")
	return b
}

// realTime is for servers whose clock can't be set.
func (b *bench) realTime() {
	b.now = time.Now()
	b.ca = b.authority("Redis CA")
}

// file writes a file of the client's.
func (b *bench) file(name string, content []byte) string {
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// client dials addr, trusting what is in ca.pem.
func (b *bench) client(addr string, bundle []byte) doctor.Config {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		b.Fatal(err)
	}
	return doctor.Config{Host: host, Port: port, CAFile: b.file("ca.pem", bundle), Now: func() time.Time { return b.now }}
}

// authority is a CA of a bench. What it signs is right at the bench's time.
type authority struct {
	*certtest.Authority
	b *bench
}

// issued gives a CA the bench's time, before the changes that a test makes.
func (b *bench) issued(change []certtest.Change) []certtest.Change {
	return append([]certtest.Change{certtest.Valid(b.now.Add(-1000*day), b.now.Add(2000*day))}, change...)
}

func (b *bench) authority(name string, change ...certtest.Change) *authority {
	return &authority{certtest.NewAuthority(b, name, b.issued(change)...), b}
}

// below makes a CA that a signs.
func (a *authority) below(name string, change ...certtest.Change) *authority {
	return &authority{a.Below(a.b, name, a.b.issued(change)...), a.b}
}

// cross makes a certificate of a for the key of another authority.
func (a *authority) cross(of *authority, name string, change ...certtest.Change) *authority {
	return &authority{a.Cross(a.b, of.Authority, name, a.b.issued(change)...), a.b}
}

func (a *authority) pem() []byte { return a.PEM() }

// leaf makes a server certificate for the bench's address and cache.internal; chain is sent with it.
func (a *authority) leaf(change certtest.Change, chain ...*authority) tls.Certificate {
	b := a.b
	c := a.Leaf(b, certtest.CommonName("cache"), certtest.Names("cache.internal", b.ip), certtest.Valid(b.now.Add(-10*day), b.now.Add(200*day)), change)
	for _, ca := range chain {
		c.Certificate = append(c.Certificate, ca.Cert.Raw)
	}
	return c
}

// clientCertificate is one that a client shows.
func (b *bench) clientCertificate(ca *authority) *tls.Certificate {
	c := ca.leaf(func(c *x509.Certificate) {
		certtest.CommonName("application")(c)
		certtest.ForClients(c)
	})
	return &c
}

// identity gives a certificate the name of one of Sealane's instances.
func identity(uri string) certtest.Change { return certtest.Names(uri) }

// serve runs a server on loopback until the test's end. What handle leaves open is closed after it.
func (b *bench) serve(handle func(net.Conn)) string {
	l, err := net.Listen("tcp", b.ip+":0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(c)
				c.Close()
			})
		}
	})
	b.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// serveTLS runs a server that speaks TLS with config, and inside what handle says.
func (b *bench) serveTLS(config *tls.Config, handle func(net.Conn)) string {
	if config.Time == nil {
		config.Time = func() time.Time { return b.now }
	}
	return b.serve(func(c net.Conn) {
		t := tls.Server(c, config)
		if t.Handshake() == nil {
			handle(t)
		}
	})
}

// redis serves a Redis with a certificate, whose clock is the bench's.
func (b *bench) redis(cert tls.Certificate) string {
	return b.serveTLS(&tls.Config{Certificates: []tls.Certificate{cert}}, b.speakRedis)
}

// rotating serves a Redis whose certificate a next CA will sign: under the names of tests it presents that, with its
// cross-certificate or alone.
func (b *bench) rotating(now, next tls.Certificate, cross *authority) string {
	crossed := next
	crossed.Certificate = append(slices.Clone(next.Certificate), cross.Cert.Raw)
	return b.serveTLS(&tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		switch h.ServerName {
		case pki.NextName:
			return &next, nil
		case pki.NextCrossName:
			return &crossed, nil
		}
		return &now, nil
	}}, b.speakRedis)
}

// speakRedis answers PING, TIME and, as one without a password does, AUTH.
func (b *bench) speakRedis(c net.Conn) {
	answer := map[string]string{
		"PING": "+PONG\r\n",
		"TIME": fmt.Sprintf("*2\r\n$10\r\n%d\r\n$1\r\n0\r\n", b.now.Unix()),
		"AUTH": "-ERR AUTH <password> called without any password configured\r\n",
	}
	b.speak(c, func(args []string) string { return answer[args[0]] })
}

// speak answers commands.
func (b *bench) speak(c net.Conn, answer func(args []string) string) {
	var buf []byte
	chunk := make([]byte, 4096)
	for {
		n, err := c.Read(chunk)
		if err != nil {
			return
		}
		buf = append(buf, chunk[:n]...)
		for {
			args, size := command(buf)
			if size == 0 {
				break
			}
			buf = buf[size:]
			if _, err := io.WriteString(c, answer(args)); err != nil {
				return
			}
		}
	}
}

// command cuts a command off, as an array or inline; size 0: it is not complete.
func command(buf []byte) (args []string, size int) {
	if len(buf) > 0 && buf[0] != '*' {
		line, _, complete := bytes.Cut(buf, []byte("\r\n"))
		if !complete {
			return nil, 0
		}
		return strings.Fields(string(line)), len(line) + 2
	}
	v, size, err := resp.ParseReply(buf, resp.Limits{})
	if err != nil {
		return nil, 0
	}
	for _, e := range v.Elems {
		args = append(args, e.Str)
	}
	return args, size
}

// hold reads until the client is gone and says nothing.
func hold(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// says answers the first bytes with text.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, text)
		if t, ok := c.(interface{ CloseWrite() error }); ok {
			_ = t.CloseWrite()
		}
		hold(c)
	}
}

// web is a web server, with TLS if config says how.
func (b *bench) web(config *tls.Config) string {
	l, err := net.Listen("tcp", b.ip+":0")
	if err != nil {
		b.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Listener.Close()
	s.Listener, s.TLS, s.Config.ErrorLog = l, config, log.New(io.Discard, "", 0)
	if config == nil {
		s.Start()
	} else {
		s.StartTLS()
	}
	b.Cleanup(s.Close)
	return l.Addr().String()
}

// full is a listener whose queue is full, so that the kernel swallows further SYNs.
func (b *bench) full() string {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte(net.ParseIP(b.ip).To4())}), syscall.Listen(fd, 0)); err != nil {
		b.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		b.Fatal(err)
	}
	addr := net.JoinHostPort(b.ip, strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	for range 20 {
		c, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			return addr
		}
		b.Cleanup(func() { c.Close() })
	}
	b.Fatal("the queue is never full")
	return ""
}

// closed is a port that nothing listens on.
func (b *bench) closed() string {
	l, err := net.Listen("tcp", b.ip+":0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// nameServer answers every question: rcode 0 with the addresses, in IPv4; rcode -1 not at all.
func (b *bench) nameServer(rcode int, addresses ...string) *net.Resolver {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	b.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if rcode >= 0 && n > 12 {
				_, _ = c.WriteTo(dnsAnswer(buf[:n], rcode, addresses), from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", c.LocalAddr().String())
	}}
}

// dnsAnswer is an answer to a query of RFC 1035: header, question, and for type A the addresses.
func dnsAnswer(query []byte, rcode int, addresses []string) []byte {
	end := 12 + bytes.IndexByte(query[12:], 0) + 5
	answer := bytes.Clone(query[:end])
	answer[2], answer[3] = 0x85, 0x80|byte(rcode)
	clear(answer[6:12])
	if isA := query[end-3] == 1; isA && rcode == 0 {
		answer[7] = byte(len(addresses))
		for _, a := range addresses {
			answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
			answer = append(answer, net.ParseIP(a).To4()...)
		}
	}
	return answer
}

// realRedis runs redis-server with its TLS on, and returns its address.
func (b *bench) realRedis(args ...string) string {
	cert := b.ca.leaf(nil)
	return b.startRedis("--tls-port", append([]string{
		"--port", "0", "--tls-auth-clients", "no", "--tls-ca-cert-file", b.file("server-ca.pem", b.ca.pem()),
		"--tls-cert-file", b.file("server.pem", certtest.PEM(cert.Certificate[0])),
		"--tls-key-file", b.file("server.key", certtest.KeyPEM(b, cert.PrivateKey)),
	}, args...)...)
}

// startRedis runs redis-server with a free port for portFlag.
func (b *bench) startRedis(portFlag string, args ...string) string {
	if _, err := exec.LookPath("redis-server"); err != nil {
		b.Skip("redis-server is not installed")
	}
	addr := b.closed()
	_, port, _ := net.SplitHostPort(addr)
	args = append([]string{portFlag, port, "--bind", b.ip, "--save", "", "--dir", b.dir, "--logfile", filepath.Join(b.dir, "log")}, args...)
	b.start("redis-server", args...)
	b.waitFor(addr)
	return addr
}

// start runs a program until the test's end, or until stop is called.
func (b *bench) start(name string, args ...string) (stop func()) {
	cmd := exec.Command(name, args...)
	cmd.Dir = b.dir
	if err := cmd.Start(); err != nil {
		b.Skipf("%s: %v", name, err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	b.Cleanup(stop)
	return stop
}

func (b *bench) waitFor(addr string) {
	for until := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(until) {
			log, _ := os.ReadFile(filepath.Join(b.dir, "log"))
			b.Fatalf("%v: %s", err, log)
		}
	}
}

// loadingRedis is a real engine that takes its time to load.
func (b *bench) loadingRedis() string {
	socket := filepath.Join(b.dir, "s")
	stop := b.start("redis-server", "--port", "0", "--unixsocket", socket, "--dir", b.dir, "--enable-debug-command", "yes", "--logfile", filepath.Join(b.dir, "log"))
	var c net.Conn
	var err error
	for until := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if c, err = net.Dial("unix", socket); err == nil {
			break
		}
		if time.Now().After(until) {
			b.Fatal(err)
		}
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for _, line := range []string{"DEBUG POPULATE 50000\r\n", "SAVE\r\n"} {
		_, _ = io.WriteString(c, line)
		if reply, err := r.ReadString('\n'); !strings.HasPrefix(reply, "+OK") {
			b.Fatalf("%s: %q, %v", line, reply, err)
		}
	}
	stop()
	return b.realRedis("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
}

// sealane runs a gateway in front of socket, as the server would set it up.
func (b *bench) sealane(engine string, encrypted bool, maxClients int) string {
	addr := b.closed()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- gateway.Run(ctx, gateway.Config{Dir: b.dir, Drain: time.Millisecond}) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Errorf("gateway: %v", err)
		}
	})
	s := gateway.Snapshot{
		Generation: 1, Listeners: []gateway.Listener{{Address: addr, TLS: encrypted}}, Engine: engine, MaxClients: maxClients,
	}
	if encrypted {
		cert := b.ca.leaf(identity(first))
		s.Certificate = certtest.PEM(cert.Certificate[0])
		s.PrivateKey = certtest.KeyPEM(b, cert.PrivateKey)
		s.Connect = "redis-cli --tls --cacert ca.pem -h 127.0.0.1 -p 6378"
	}
	admin := gateway.NewClient(b.dir)
	for until := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		_, err := admin.Apply(context.Background(), s)
		if err == nil {
			return addr
		}
		if time.Now().After(until) {
			b.Fatal(err)
		}
	}
}

// engine is a Redis on a Unix socket.
func (b *bench) engine() string {
	socket := filepath.Join(b.dir, "e")
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				b.speak(c, func(args []string) string {
					if args[0] == "CLIENT" {
						return ":7\r\n"
					}
					return "+PONG\r\n"
				})
			})
		}
	})
	b.Cleanup(func() { l.Close() })
	return socket
}

// openssl runs openssl s_server with a certificate of the bench's CA and returns its address.
func (b *bench) openssl(args ...string) string {
	cert := b.ca.leaf(nil)
	addr := b.closed()
	b.start("openssl", append([]string{
		"s_server", "-accept", addr, "-quiet", "-cert", b.file("server.pem", certtest.PEM(cert.Certificate[0])),
		"-key", b.file("server.key", certtest.KeyPEM(b, cert.PrivateKey)),
	}, args...)...)
	b.waitFor(addr)
	return addr
}

// smallHellosOnly lets only a ClientHello through that fits into one packet.
func (b *bench) smallHellosOnly(config *tls.Config) string {
	config.Time = func() time.Time { return b.now }
	return b.serve(func(c net.Conn) {
		r := bufio.NewReaderSize(c, 4096)
		head, err := r.Peek(5)
		if err != nil || int(head[3])<<8|int(head[4]) > 1400 {
			return
		}
		if t := tls.Server(buffered{c, r}, config); t.Handshake() == nil {
			b.speakRedis(t)
		}
	})
}

type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

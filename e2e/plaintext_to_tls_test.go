package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// encryption has the fields of `sealane encryption show` that the tests read.
type encryption struct {
	Mode                                                         string
	TLSPort, PlaintextPort, PlaintextConnections, TLSConnections int
	SafeToEnforce                                                bool
	Reasons                                                      []string
	CutClients                                                   []struct{ Address, ClientName, Library, User string }
}

func (s *server) encryption(args ...string) (e encryption) {
	s.t.Helper()
	text := s.cli(append(append([]string{"encryption"}, args...), "--format", "json")...)
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		s.t.Fatalf("%v in %s", err, text)
	}
	return e
}

// mover is a client that is always at work on a key of its own, without TLS until it is told to move. It must see no error.
type mover struct {
	move     chan *goredis.Options // to go on with
	moved    chan struct{}
	requests atomic.Int64
	ended    chan error
}

func startMover(ctx context.Context, key string, plain *goredis.Options) *mover {
	m := &mover{move: make(chan *goredis.Options, 1), moved: make(chan struct{}, 1), ended: make(chan error, 1)}
	connect := func(o *goredis.Options) *goredis.Client {
		o.ClientName, o.PoolSize, o.MaxRetries, o.DialerRetries, o.ReadTimeout = key, 1, -1, 1, soakPatience
		return goredis.NewClient(o)
	}
	go func() {
		db := connect(plain)
		defer func() { db.Close() }()
		for n := int64(1); ctx.Err() == nil; n++ {
			select {
			case o := <-m.move:
				next := connect(o)
				if err := next.Ping(context.Background()).Err(); err != nil {
					m.ended <- fmt.Errorf("%s: first request elsewhere: %w", key, err)
					return
				}
				db.Close()
				db = next
				m.moved <- struct{}{}
			default:
			}
			if got, err := db.Incr(context.Background(), key).Result(); err != nil || got != n {
				m.ended <- fmt.Errorf("%s: request %d: got %d, %w", key, n, got, err)
				return
			}
			m.requests.Store(n)
			time.Sleep(time.Duration(n%7) * 10 * time.Millisecond) // a pace: 100 clients leave the machine some room
		}
		m.ended <- nil
	}()
	return m
}

// shell is a client that connects for each request: redis-cli, again and again.
func (s *server) shell(ctx context.Context, key string, connect *atomic.Pointer[[]string]) (requests int, err error) {
	for n := 1; ctx.Err() == nil; n++ {
		c := exec.Command("redis-cli", append(*connect.Load(), "INCR", key)...)
		c.Dir = s.base
		out, err := c.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != strconv.Itoa(n) {
			return n, fmt.Errorf("%s: request %d: %q, %v", key, n, got, err)
		}
		time.Sleep(100 * time.Millisecond)
		requests = n
	}
	return requests, nil
}

// A hundred clients of four libraries go from plaintext to TLS under load. No request fails, while the server is killed, certificates are
// rotated, the data path is changed and plaintext is closed. Those that don't move are known by name.
func TestHundredClientsGoFromPlaintextToTLS(t *testing.T) {
	t.Parallel()
	need(t, "redis-cli")
	s := startServer(t, serverOptions{})
	cache := s.create("cache", "--transit-encryption-mode", "disabled")
	moveHundredClients(t, s, cache, cache.address())
}

// A Redis that runs already, with a hundred clients, goes to TLS without being touched: an instance stands in front of it. Some clients go by
// the instance's port without TLS, the others straight to the one with TLS.
func TestRunningRedisGoesToTLS(t *testing.T) {
	t.Parallel()
	need(t, "redis-cli")
	s := startServer(t, serverOptions{})
	redis := s.plainRedis()
	moveHundredClients(t, s, s.create("cache", "--backend", redis, "--transit-encryption-mode", "disabled"), redis)
}

// plainRedis starts a Redis of its own, without TLS, and returns its address.
func (s *server) plainRedis() string {
	s.t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	_, port, _ := net.SplitHostPort(address)
	c := s.program("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", s.base)
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	eventually(s.t, 10*time.Second, "Redis listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return address
}

// moveHundredClients takes the instance "cache", which has no TLS, all the way and back. Its clients are at first somewhere else, or at the
// instance itself.
func moveHundredClients(t *testing.T, s *server, cache instance, from string) {
	testdata, err := filepath.Abs(filepath.Join("testdata", "clients"))
	if err != nil {
		t.Fatal(err)
	}
	const tlsPort = "6378"
	ca := filepath.Join(s.base, "cache.pem")
	with := func(c *exec.Cmd) *exec.Cmd {
		c.Env = append(c.Env, "CA_FILE="+ca, "TLS_HOST="+cache.Host, "TLS_PORT="+tlsPort)
		return c
	}
	fleets := []*fleet{
		startFleet(t, with(node(t, s, testdata, "move.mjs")), from, 20),
		startFleet(t, with(python(t, s, "redis", filepath.Join(testdata, "move.py"))), from, 20),
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var movers []*mover
	for n := range 57 {
		movers = append(movers, startMover(ctx, fmt.Sprint("go-redis-", n), &goredis.Options{Addr: from}))
	}
	legacy := startMover(ctx, "legacy", &goredis.Options{Addr: from})
	var connect atomic.Pointer[[]string]
	host, port, _ := net.SplitHostPort(from)
	connect.Store(&[]string{"-h", host, "-p", port})
	var shells sync.WaitGroup
	for n := range 2 {
		shells.Go(func() {
			if n, err := s.shell(ctx, fmt.Sprint("redis-cli-", n), &connect); err != nil {
				t.Errorf("%d: %v", n, err)
			}
		})
	}
	eventually(t, 20*time.Second, "all clients are at work", func() bool { return legacy.requests.Load() > 0 && movers[56].requests.Load() > 0 })

	prefer(t, s)
	s.bundle("cache")
	without := 98 // but for redis-cli, which is there for a moment each time
	if from != cache.address() {
		tell(t, append(movers[:57:57], legacy), func() *goredis.Options { return &goredis.Options{Addr: cache.address()} })
		without = 58
	}
	// One that knows no TLS stays as it is, with a sidecar on its machine.
	behind := startMover(ctx, "behind", &goredis.Options{Addr: s.startSidecar("--instance", "cache").address})
	target := instance{Host: cache.Host, Port: 6378}
	if e := s.encryption("show", "cache"); e.PlaintextConnections < without || e.SafeToEnforce {
		t.Errorf("preferred: %+v", e)
	}
	said := s.cliFails(1, "encryption", "enforce", "cache")
	if !strings.Contains(said, "clients are connected without TLS: 127.0.0.1 name=") || !strings.Contains(said, "more") {
		t.Errorf("enforce: %s", said)
	}
	// Half of them move, the CA is rotated, and the others move.
	withTLS := func() *goredis.Options { return goRedis(t, target, ca, "") }
	tell(t, movers[:30], withTLS)
	s.useDataPath("cache", "multiplexed")
	s.cli("ca", "rotate", "cache")
	s.bundle("cache")
	s.cli("ca", "activate", "cache", "--force")
	tell(t, movers[30:], withTLS)
	for _, f := range fleets {
		fmt.Fprintln(f.in, "tls")
		if !f.out.Scan() || f.out.Text() != "all moved" {
			t.Fatalf("%s: %q\n%s", f.cmd, f.out.Text(), f.err)
		}
	}
	connect.Store(&[]string{"--tls", "--cacert", ca, "-h", cache.Host, "-p", tlsPort})

	// One is left, and is named. It is cut off between two requests.
	eventually(t, 20*time.Second, "one client is left without TLS", func() bool {
		e := s.encryption("show", "cache", "--unseen-for", "1s")
		return e.PlaintextConnections == 1 && len(e.Reasons) == 1 && strings.Contains(e.Reasons[0], `1 client is connected without TLS: 127.0.0.1 name="legacy" library="go-redis`)
	})
	if said := s.cliFails(1, "encryption", "enforce", "cache", "--unseen-for", "1s"); !strings.Contains(said, `name="legacy"`) || strings.Contains(said, "redis-py") {
		t.Errorf("enforce: %s", said)
	}
	e := s.encryption("enforce", "cache", "--unseen-for", "1s", "--force")
	if e.Mode != "SERVER_AUTHENTICATION" || len(e.CutClients) != 1 || e.CutClients[0].ClientName != "legacy" || e.PlaintextConnections != 0 {
		t.Errorf("enforced: %+v", e)
	}
	select {
	case err := <-legacy.ended:
		if err == nil || strings.Contains(err.Error(), "got 1,") {
			t.Errorf("the client without TLS: %v", err)
		}
	case <-time.After(soakPatience):
		t.Error("the client without TLS is still served")
	}
	wantTold(t, cache)
	wantKept(t, s, cache, legacy)

	// Back by one command, which those with TLS don't notice.
	if e := s.encryption("rollback", "cache"); e.Mode != "PREFERRED" {
		t.Errorf("rolled back: %+v", e)
	}
	if got := s.describe("cache"); got.Port != cache.Port || got.TransitEncryptionMode != cache.TransitEncryptionMode {
		t.Errorf("rolled back, it is shown as %+v", got)
	}
	if got := run(s.program("redis-cli", "-h", cache.Host, "-p", cache.port(), "PING")); got.stdout != "PONG\n" {
		t.Errorf("rolled back, PING without TLS: %q %q", got.stdout, got.stderr)
	}
	stop()
	shells.Wait()
	var requests int64
	for _, m := range append(movers, behind) {
		if err := <-m.ended; err != nil {
			t.Error(err)
		}
		requests += m.requests.Load()
	}
	for _, f := range fleets {
		t.Log(f.end(t))
	}
	t.Logf("58 clients of go-redis, %d requests", requests)
}

// tell lets clients go on elsewhere, and returns when all do.
func tell(t *testing.T, movers []*mover, where func() *goredis.Options) {
	t.Helper()
	for _, m := range movers {
		m.move <- where()
	}
	for _, m := range movers {
		select {
		case <-m.moved:
		case err := <-m.ended:
			t.Fatalf("a client ended: %v", err)
		case <-time.After(soakPatience):
			t.Fatal("a client doesn't move")
		}
	}
}

// prefer takes TLS beside plaintext while the server is killed in the middle of it. Asked again, it does what is left.
func prefer(t *testing.T, s *server) {
	t.Helper()
	c := s.command("encryption", "prefer", "cache")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // somewhere in the middle
	s.kill9(s.pid)
	s.waitEnd()
	_ = c.Wait() // it may have been told or not
	s.start()
	if e := s.encryption("prefer", "cache"); e.Mode != "PREFERRED" || e.TLSPort != 6378 || e.PlaintextPort != 6379 {
		t.Fatalf("preferred: %+v", e)
	}
}

// wantTold fails the test unless a client without TLS is told how to connect.
func wantTold(t *testing.T, i instance) {
	t.Helper()
	c, err := net.Dial("tcp", i.address())
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(soakPatience))
	_, _ = io.WriteString(c, "*1\r\n$4\r\nPING\r\n")
	if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "-ERR this port wants TLS: redis-cli --tls --cacert ca.pem -h "+i.Host+" -p 6378") {
		t.Errorf("a client without TLS is told %q, %v", got, err)
	}
}

// wantKept fails the test unless what the client was told is what the engine has: no request of it was made that it wasn't told of.
func wantKept(t *testing.T, s *server, i instance, m *mover) {
	t.Helper()
	got := s.redisCLI(instance{Host: i.Host, Port: 6378}, filepath.Join(s.base, "cache.pem"), "GET", "legacy")
	if n, _ := strconv.ParseInt(strings.TrimSpace(got.stdout), 10, 64); n != m.requests.Load() {
		t.Errorf("the client was told %d, and the engine has %q %q", m.requests.Load(), got.stdout, got.stderr)
	}
}

// A gateway that is killed comes back in the mode in which it was, in the middle of each step, and what is known of clients is kept.
func TestKilledGatewayComesBackInItsMode(t *testing.T) {
	t.Parallel()
	need(t, "redis-cli")
	s := startServer(t, serverOptions{})
	cache := s.create("cache", "--transit-encryption-mode", "disabled")
	plain := func() string { return run(s.program("redis-cli", "-h", cache.Host, "-p", "6379", "PING")).stdout }
	ca := ""
	encrypted := func() string {
		return s.redisCLI(instance{Host: cache.Host, Port: 6378}, ca, "PING").stdout
	}
	told := "ERR this port wants TLS"
	for _, step := range []struct {
		args        []string
		mode        string
		plain, with string
	}{
		{[]string{"prefer", "cache"}, "PREFERRED", "PONG", "PONG"},
		{[]string{"enforce", "cache", "--force"}, "SERVER_AUTHENTICATION", told, "PONG"},
		{[]string{"rollback", "cache"}, "PREFERRED", "PONG", "PONG"},
		{[]string{"disable", "cache", "--force"}, "DISABLED", "PONG", ""},
	} {
		c := s.command(append([]string{"encryption"}, step.args...)...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		for _, pid := range s.nodes("gateway") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = c.Wait()
		if e := s.encryption(step.args...); e.Mode != step.mode {
			t.Fatalf("%v: %+v", step.args, e)
		}
		if ca == "" {
			ca = s.bundle("cache")
		}
		eventually(t, 20*time.Second, "the gateway is "+step.mode+" again", func() bool {
			return strings.HasPrefix(plain(), step.plain) && strings.HasPrefix(encrypted(), step.with)
		})
	}
	if got := s.cli("encryption", "clients", "cache"); !strings.Contains(got, "127.0.0.1") {
		t.Errorf("clients: %s", got)
	}
}

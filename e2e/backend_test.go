package e2e_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// ownRedis is a Redis that somebody else runs.
type ownRedis struct {
	t       *testing.T
	dir     string
	address string
	socket  string
	cmd     *exec.Cmd
}

const ownPassword = "correct-horse"

func startOwnRedis(t *testing.T) *ownRedis {
	t.Helper()
	dir, err := os.MkdirTemp("", "slb") // short: the path of a Unix socket is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &ownRedis{t: t, dir: dir, address: ln.Addr().String(), socket: filepath.Join(dir, "s")}
	ln.Close()
	t.Cleanup(r.kill)
	r.start()
	return r
}

func (r *ownRedis) start() {
	r.t.Helper()
	_, port, _ := net.SplitHostPort(r.address)
	r.cmd = exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--unixsocket", r.socket, "--dir", r.dir, "--appendonly", "yes",
		"--requirepass", ownPassword, "--logfile", filepath.Join(r.dir, "log"))
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	db := goredis.NewClient(&goredis.Options{Addr: r.address, Password: ownPassword})
	defer db.Close()
	eventually(r.t, 30*time.Second, "the Redis answers", func() bool { return db.Ping(r.t.Context()).Err() == nil })
}

func (r *ownRedis) kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

// hundred are clients that ask all the time, each over one connection, and none of them tries a request twice.
type hundred struct {
	t       *testing.T
	options atomic.Pointer[goredis.Options] // where they are to be connected
	asked   atomic.Int64
	moved   atomic.Int64 // clients that are where options says
	failed  atomic.Int64
	last    atomic.Pointer[string] // the last failure
	stop    context.CancelFunc
	clients sync.WaitGroup
}

func startHundred(t *testing.T, n int, options *goredis.Options) *hundred {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &hundred{t: t, stop: cancel}
	c.options.Store(options)
	for i := range n {
		c.clients.Go(func() { c.ask(ctx, fmt.Sprintf("counter-%d", i)) })
	}
	t.Cleanup(c.end)
	c.wait(n)
	return c
}

func (c *hundred) ask(ctx context.Context, key string) {
	var at *goredis.Options
	var db *goredis.Client
	for ctx.Err() == nil {
		if now := c.options.Load(); now != at {
			if db != nil {
				db.Close()
			}
			at = now
			o := *now
			o.PoolSize, o.MaxRetries, o.DialTimeout, o.ReadTimeout = 1, -1, 20*time.Second, 20*time.Second
			db = goredis.NewClient(&o)
			if err := db.Incr(context.Background(), key).Err(); err == nil {
				c.asked.Add(1)
				c.moved.Add(1)
			} else {
				c.fail(err)
			}
			continue
		}
		if err := db.Incr(context.Background(), key).Err(); err != nil {
			c.fail(err)
		} else {
			c.asked.Add(1)
		}
	}
	db.Close()
}

func (c *hundred) fail(err error) {
	text := err.Error()
	c.failed.Add(1)
	c.last.Store(&text)
}

func (c *hundred) wait(n int) {
	c.t.Helper()
	eventually(c.t, 60*time.Second, "all clients are there", func() bool { return c.moved.Load() == int64(n) })
}

// move has all clients connect elsewhere, one after another as each comes to it.
func (c *hundred) move(n int, to *goredis.Options) {
	c.t.Helper()
	c.moved.Store(0)
	c.options.Store(to)
	c.wait(n)
}

func (c *hundred) end() {
	c.stop()
	c.clients.Wait()
}

func (c *hundred) wantNoFailure(after string) {
	c.t.Helper()
	if n := c.failed.Load(); n != 0 {
		c.t.Fatalf("%s: %d of %d requests failed, the last one with %s", after, n, c.asked.Load(), *c.last.Load())
	}
}

// A Redis that runs already, with a hundred clients without TLS, goes to TLS only: it is put behind an instance, its clients move to the
// instance, then to TLS, and plaintext is closed. No request fails, and none is lost or done twice.
func TestPlaintextRedisGoesToTLSWithItsClients(t *testing.T) {
	t.Parallel()
	const n = 100
	redis := startOwnRedis(t)
	clients := startHundred(t, n, &goredis.Options{Addr: redis.address, Password: ownPassword})

	s := startServer(t, serverOptions{})
	password := filepath.Join(s.base, "password")
	s.write(password, ownPassword+"\n")
	plain := s.create("mine", "--backend", redis.address, "--backend-password-file", password, "--transit-encryption-mode", "disabled")
	clients.move(n, &goredis.Options{Addr: plain.address(), Password: ownPassword}) // they go on logging in as they did
	clients.wantNoFailure("behind an instance without TLS")

	s.cli("encryption", "prefer", "mine")
	s.cli("instances", "update", "mine", "--backend", "unix:"+redis.socket, "--backend-password-file", password)
	s.cli("instances", "update", "mine", "--data-path", "multiplexed")
	clients.wantNoFailure("with a port with TLS, over a socket, and sharing connections")
	ca := s.bundle("mine")
	tls := plain
	tls.Port = 6378
	over := goRedis(t, tls, ca, ownPassword)
	clients.move(n, over)
	clients.wantNoFailure("over TLS")

	s.cli("certificates", "rotate", "mine")
	s.cli("ca", "rotate", "mine")
	s.kill9(s.pid)
	s.waitEnd()
	s.start()
	time.Sleep(1100 * time.Millisecond) // for the last client without TLS to be more than a second ago
	s.cli("encryption", "enforce", "mine", "--unseen-for", "1s")
	clients.wantNoFailure("with TLS only")
	if got := run(s.program("redis-cli", "-h", plain.Host, "-p", plain.port(), "PING")); got.stdout == "PONG\n" {
		t.Errorf("plaintext is still taken: %+v", got)
	}
	clients.end()
	clients.wantNoFailure("at the end")

	db := goredis.NewClient(&goredis.Options{Addr: redis.address, Password: ownPassword})
	defer db.Close()
	total := int64(0)
	for i := range n {
		v, err := db.Get(t.Context(), fmt.Sprintf("counter-%d", i)).Int64()
		if err != nil {
			t.Fatal(err)
		}
		total += v
	}
	if total != clients.asked.Load() {
		t.Errorf("the Redis has counted %d requests, the clients %d", total, clients.asked.Load())
	}
	t.Logf("%d requests, none failed", total)
	// The instance goes, the Redis and its data stay.
	s.cli("instances", "delete", "mine", "--quiet")
	if v, err := db.Get(t.Context(), "counter-0").Int64(); err != nil || v == 0 {
		t.Errorf("after the delete: %d, %v", v, err)
	}
}

// While a backend is away its clients stay connected, the instance says what is wrong, and both are well again when it is back.
func TestBackendGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	redis := startOwnRedis(t)
	s := startServer(t, serverOptions{})
	password := filepath.Join(s.base, "password")
	s.write(password, ownPassword)
	i := s.create("mine", "--backend", redis.address, "--backend-password-file", password)
	ca := s.bundle("mine")
	o := goRedis(t, i, ca, "")
	o.PoolSize, o.MaxRetries = 1, -1
	db := goredis.NewClient(o)
	defer db.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id := db.ClientID(ctx).Val()
	if err := redis.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = redis.cmd.Wait()
	eventually(t, 30*time.Second, "the instance says what is wrong", func() bool {
		d := s.describe("mine")
		return d.State == "REPAIRING" && d.StatusMessage == "the backend "+redis.address+" refuses connections: nothing listens there; correct the address (--backend), or start the Redis there"
	})
	if v := s.metric("sealane_instance_state", `state="REPAIRING"`); v != 1 {
		t.Errorf("the metric says %v", v)
	}
	redis.start()
	if again, err := db.ClientID(ctx).Result(); err != nil || again != id {
		t.Errorf("the client is %d, %v; it was %d", again, err, id)
	}
	eventually(t, 60*time.Second, "the instance is well again", func() bool { return s.describe("mine").State == "READY" })
	s.wantPong(i, ca)
}

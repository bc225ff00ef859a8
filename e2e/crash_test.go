package e2e_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// stream is a client that sends commands one after the other on one connection. It remembers whether it noticed anything: an error
// or a new connection.
type stream struct {
	commands, dials atomic.Int64
	stop            context.CancelFunc
	ended           chan error
}

func startStream(t *testing.T, i instance, ca, key string) *stream {
	t.Helper()
	o := goRedis(t, i, ca, "")
	d := tls.Dialer{Config: o.TLSConfig}
	return startStreamBy(t, o, d.DialContext, key)
}

func startStreamBy(t *testing.T, o *goredis.Options, dial func(ctx context.Context, network, address string) (net.Conn, error), key string) *stream {
	t.Helper()
	st := &stream{ended: make(chan error, 1)}
	o.PoolSize, o.MaxRetries, o.DialerRetries, o.ReadTimeout = 1, -1, 1, 30*time.Second
	o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		st.dials.Add(1)
		return dial(ctx, network, address)
	}
	db := goredis.NewClient(o)
	ctx, cancel := context.WithCancel(context.Background())
	st.stop = cancel
	go func() {
		defer db.Close()
		for n := int64(1); ctx.Err() == nil; n++ {
			got, err := db.Incr(context.Background(), key).Result()
			if err != nil || got != n {
				st.ended <- fmt.Errorf("command %d: got %d, %v", n, got, err)
				return
			}
			st.commands.Store(n)
		}
		st.ended <- nil
	}()
	t.Cleanup(cancel)
	st.wantProgress(t)
	return st
}

// wantProgress fails the test unless commands are answered now.
func (st *stream) wantProgress(t *testing.T) {
	t.Helper()
	before := st.commands.Load()
	eventually(t, 10*time.Second, "the client's commands are answered", func() bool {
		return st.commands.Load() >= before+50 || len(st.ended) > 0
	})
}

// wantUnnoticed ends the stream, and fails the test if the stream saw an error or a new connection.
func (st *stream) wantUnnoticed(t *testing.T) {
	t.Helper()
	st.wantProgress(t)
	st.stop()
	if err := <-st.ended; err != nil {
		t.Errorf("the client saw an error: %v", err)
	}
	if n := st.dials.Load(); n != 1 {
		t.Errorf("the client connected %d times, want once", n)
	}
	if st.commands.Load() == 0 {
		t.Error("the client sent no command")
	}
}

func TestKilledServerIsNotNoticedByClients(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first")
	ca := s.bundle("first")
	engine, gateway := s.node("engine"), s.node("gateway")
	var streams [4]*stream
	for n := range streams {
		streams[n] = startStream(t, first, ca, fmt.Sprint("counter-", n))
	}
	for range 2 {
		s.kill9(s.pid)
		s.waitEnd()
		for _, st := range streams {
			st.wantProgress(t)
		}
		s.wantPong(first, ca) // new clients are served too
		s.start()
		if got := s.describe("first"); got.State != "READY" || got.address() != first.address() {
			t.Errorf("after the restart: got %+v", got)
		}
	}
	for _, st := range streams {
		st.wantUnnoticed(t)
	}
	if e, g := s.node("engine"), s.node("gateway"); e != engine || g != gateway {
		t.Errorf("engine and gateway are processes %d and %d now, were %d and %d", e, g, engine, gateway)
	}
	if n := s.metric("sealane_node_restarts_total"); n != 0 {
		t.Errorf("sealane_node_restarts_total: got %v, want 0", n)
	}
}

func (s *server) operation(name string) (done bool, failure string) {
	s.t.Helper()
	var op struct {
		Done  bool
		Error struct{ Message string }
	}
	r := s.rest("GET", "/v1/"+name, "")
	if r.code != 200 {
		s.t.Fatalf("operation %s: got %d, %s", name, r.code, r.body)
	}
	if err := json.Unmarshal(r.body, &op); err != nil {
		s.t.Fatal(err)
	}
	return op.Done, op.Error.Message
}

func (s *server) wantDone(name string) {
	s.t.Helper()
	eventually(s.t, 30*time.Second, name+" is done", func() bool {
		done, failure := s.operation(name)
		if failure != "" {
			s.t.Fatalf("%s: %s", name, failure)
		}
		return done
	})
}

// The engine can't start before the server is killed, so the create is certainly in progress then.
func TestCreateUnderWayFinishesAfterKill(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverOptions{})
	release := s.holdEngines()
	s.start()
	op := strings.TrimSpace(s.cli("instances", "create", "first", "--async"))
	s.kill9(s.pid)
	s.waitEnd()
	s.start()
	if done, _ := s.operation(op); done {
		t.Fatal("the create was done before the engine could start")
	}
	if got := s.describe("first"); got.State != "CREATING" {
		t.Errorf("state of the instance: got %s, want CREATING", got.State)
	}
	release()
	s.wantDone(op)
	s.wantPong(s.describe("first"), s.bundle("first"))
}

// At whatever moment of a create or a delete the server dies, the next server finishes it, and no process runs twice.
func TestKillAtAnyMoment(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	var creates []string
	delays := []time.Duration{0, 5 * time.Millisecond, 30 * time.Millisecond, 80 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond}
	names := make([]string, len(delays))
	for n, delay := range delays {
		names[n] = fmt.Sprint("i", n)
		creates = append(creates, strings.TrimSpace(s.cli("instances", "create", names[n], "--async")))
		time.Sleep(delay) // this picks the moment of the kill; it does not wait for anything
		s.kill9(s.pid)
		s.waitEnd()
		s.start()
	}
	for n, op := range creates {
		s.wantDone(op)
		s.wantPong(s.describe(names[n]), s.bundle(names[n]))
	}
	if e, g := len(s.nodes("engine")), len(s.nodes("gateway")); e != len(names) || g != len(names) {
		t.Errorf("got %d engines and %d gateways, want %d of each", e, g, len(names))
	}
	for n, delay := range delays {
		op := strings.TrimSpace(s.cli("instances", "delete", names[n], "--quiet", "--async"))
		time.Sleep(delay)
		s.kill9(s.pid)
		s.waitEnd()
		s.start()
		s.wantDone(op)
	}
	if e, g := len(s.nodes("engine")), len(s.nodes("gateway")); e != 0 || g != 0 {
		t.Errorf("got %d engines and %d gateways after the deletes, want none", e, g)
	}
	if left, err := os.ReadDir(filepath.Join(s.state, "nodes")); len(left) != 0 || err != nil {
		t.Errorf("folders of nodes after the deletes: got %v, %v, want none", left, err)
	}
}

// This test is not parallel, because what it promises is a time.
func TestKilledNodeIsBackWithinTwoSeconds(t *testing.T) {
	s := startServer(t, serverOptions{})
	first := s.create("first")
	ca := s.bundle("first")
	for _, kind := range []string{"engine", "gateway"} {
		t.Run(kind, func(t *testing.T) {
			pid := s.node(kind)
			other := map[string]string{"engine": "gateway", "gateway": "engine"}[kind]
			survivor := s.node(other)
			began := time.Now()
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			// The old process may still answer for a moment.
			eventually(t, 2*time.Second, "the process is gone", func() bool { return commandLine(pid) == "" })
			eventually(t, 2*time.Second-time.Since(began), "a new client gets PONG", func() bool {
				return s.redisCLI(first, ca, "PING").stdout == "PONG\n"
			})
			t.Logf("a new client was served %v after the kill", time.Since(began).Round(time.Millisecond))
			eventually(t, 5*time.Second, "the instance is READY", func() bool { return s.describe("first").State == "READY" })
			if now := s.node(other); now != survivor {
				t.Errorf("the %s is process %d now, was %d", other, now, survivor)
			}
			if n := s.metric("sealane_node_restarts_total", `instance="first"`, `process="`+kind+`"`); n != 1 {
				t.Errorf("sealane_node_restarts_total: got %v, want 1", n)
			}
			lines := 0
			for line := range strings.Lines(s.stderr.String()) {
				if strings.Contains(line, "process ended") && strings.Contains(line, "process="+kind) {
					lines++
				}
			}
			if lines != 1 {
				t.Errorf("got %d log lines of the end of the %s, want 1", lines, kind)
			}
		})
	}
	if n := strings.Count(s.stderr.String(), "process ended"); n != 2 {
		t.Errorf("got %d log lines \"process ended\", want 2", n)
	}
}

func TestEverythingKilledComesBackWithItsCA(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first")
	ca := s.bundle("first")
	s.kill9(s.pid, s.node("engine"), s.node("gateway"))
	s.waitEnd()
	s.start()
	eventually(t, 10*time.Second, "the instance is READY", func() bool { return s.describe("first").State == "READY" })
	if got := s.describe("first"); got.address() != first.address() || got.ServerCACerts[0] != first.ServerCACerts[0] {
		t.Errorf("after the restart: got %+v, want the address and the CA of %+v", got, first)
	}
	s.wantPong(first, ca)
}

// The next server finds processes that died while no server ran, and starts them again.
func TestNodeKilledWhileServerIsDown(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"engine", "gateway"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, serverOptions{})
			first := s.create("first")
			ca := s.bundle("first")
			s.kill9(s.pid)
			s.waitEnd()
			s.kill9(s.node(kind))
			s.start()
			eventually(t, 10*time.Second, "the instance is READY", func() bool { return s.describe("first").State == "READY" })
			s.wantPong(first, ca)
		})
	}
}

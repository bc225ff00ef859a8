package local_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/local"
	"github.com/sealane/sealane/internal/resp"
)

// TestMain lets this program be the gateway too, which a Runtime starts as a process of its own.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "gateway" && os.Args[2] == "--dir" {
		if err := gateway.Run(context.Background(), gateway.Config{Dir: os.Args[3]}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// machine is a Runtime with one node, whose clients need no TLS.
type machine struct {
	*local.Runtime
	t    *testing.T
	dir  string
	node instance.Node
}

func newMachine(t *testing.T, engines []engine.Binary, version string) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, node: instance.Node{
		ID: fmt.Sprintf("n%d-0", os.Getpid()), Version: version, AdminPassword: "admin-password", Host: "127.0.0.1",
		Directives: map[string]string{"maxmemory": strconv.Itoa(64 << 20), "maxmemory-policy": "noeviction", "maxclients": "500", "save": ""},
		Gateway:    gateway.Snapshot{Listeners: []gateway.Listener{{Address: freeAddress(t)}}},
	}}
	m.Runtime = m.boot(engines)
	t.Cleanup(func() {
		if err := m.KillNode(context.Background(), m.node.ID); err != nil {
			t.Error(err)
		}
		m.Close()
		os.RemoveAll(dir)
	})
	m.ensure()
	return m
}

// boot is a server's start.
func (m *machine) boot(engines []engine.Binary) *local.Runtime {
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	return local.New(m.dir, []string{self, "gateway"}, engines)
}

// restartServer is another server that finds the node.
func (m *machine) restartServer(engines []engine.Binary) {
	m.t.Helper()
	m.Close()
	m.Runtime = m.boot(engines)
	m.ensure()
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (m *machine) ensure() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	for err := m.Ensure(ctx, m.node, func(string) {}); err != nil; err = m.Ensure(ctx, m.node, func(string) {}) {
		select { // a process that was killed may not have ended yet
		case <-ctx.Done():
			m.t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// next is the node with another engine.
func (m *machine) next(version string) instance.Node {
	to := m.node
	to.Version, to.Slot = version, m.node.Slot%instance.Slots+1
	return to
}

func (m *machine) client() *client {
	m.t.Helper()
	return dialClient(m.t, m.node.Gateway.Listeners[0].Address)
}

func dialClient(t *testing.T, address string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{resp.NewClient(conn, 1<<20), t}
}

type client struct {
	*resp.Client
	t *testing.T
}

// do sends a command that works.
func (c *client) do(args ...string) resp.Value {
	c.t.Helper()
	v, err := c.Do(c.t.Context(), args...)
	if err != nil {
		c.t.Fatalf("%v: %v", args, err)
	}
	return v
}

// fill writes n keys, and a few that are special.
func (c *client) fill(n int) {
	c.t.Helper()
	for from := 0; from < n; from += 500 {
		var commands [][]string
		for i := from; i < min(n, from+500); i++ {
			commands = append(commands, []string{"SET", "key:" + strconv.Itoa(i), strings.Repeat("v", 100) + strconv.Itoa(i)})
		}
		if _, err := c.Pipeline(c.t.Context(), commands...); err != nil {
			c.t.Fatal(err)
		}
	}
	c.do("XADD", "stream", "1-1", "field", "value")
	c.do("XGROUP", "CREATE", "stream", "group", "0")
	c.do("SET", "expiring", "1", "EX", "1000")
	c.do("ZADD", "zset", "1.5", "a", "2", "b")
	c.do("HSET", "hash", "a", "1")
	c.do("PFADD", "hll", "a", "b")
}

func (c *client) checkFilled(n int) {
	c.t.Helper()
	if got := c.do("DBSIZE").Int; got != int64(n+5) {
		c.t.Errorf("%d keys; want %d", got, n+5)
	}
	if got := c.do("GET", "key:"+strconv.Itoa(n-1)).Str; !strings.HasSuffix(got, "v"+strconv.Itoa(n-1)) {
		c.t.Errorf("the last key has %q", got)
	}
	if got := c.do("TTL", "expiring").Int; got < 900 || got > 1000 {
		c.t.Errorf("TTL %d", got)
	}
	if got := len(c.do("XINFO", "GROUPS", "stream").Elems); got != 1 {
		c.t.Errorf("%d consumer groups", got)
	}
}

func (c *client) version() string {
	c.t.Helper()
	var v string
	for line := range strings.Lines(c.do("INFO", "server").Str) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "valkey_version" || name == "redis_version" && v == "" {
			v = value
		}
	}
	return v
}

// versionOf is the API's name of an engine's version.
func versionOf(b engine.Binary) string {
	return local.New("", nil, []engine.Binary{b}).Engines()[0].Version
}

// load is clients that increment a counter each, until stop is called. It returns how many increments were answered, by client, and
// the longest wait.
func (m *machine) load(clients int) (stop func() (counts []int64, longest time.Duration)) {
	m.t.Helper()
	var working sync.WaitGroup
	var stopped atomic.Bool
	counts := make([]int64, clients)
	waits := make([]time.Duration, clients)
	for n := range clients {
		c := m.client()
		working.Go(func() {
			for !stopped.Load() {
				began := time.Now()
				v, err := c.Do(context.Background(), "INCR", "counter:"+strconv.Itoa(n))
				if err != nil {
					m.t.Errorf("client %d: %v", n, err)
					return
				}
				waits[n] = max(waits[n], time.Since(began))
				if counts[n]++; v.Int != counts[n] {
					m.t.Errorf("client %d: counted %d, and the answer is %d", n, counts[n], v.Int)
					return
				}
			}
		})
	}
	return func() ([]int64, time.Duration) {
		stopped.Store(true)
		working.Wait()
		longest := time.Duration(0)
		for _, w := range waits {
			longest = max(longest, w)
		}
		return counts, longest
	}
}

// Every engine that is there takes over from every older one, with all data, while clients write. None of them loses its connection or
// gets an error.
func TestAnEngineIsReplacedUnderLoad(t *testing.T) {
	engines := enginetest.All(t)
	for _, from := range engines {
		for _, to := range engines {
			maintenance := versionOf(from) == versionOf(to) && from.Version.Compare(to.Version) < 0
			if from == to || !maintenance && instance.CheckUpgrade(versionOf(from), versionOf(to)) != nil {
				continue
			}
			t.Run(enginetest.Name(from)+" to "+enginetest.Name(to), func(t *testing.T) {
				m := newMachine(t, []engine.Binary{from}, versionOf(from))
				m.restartServer([]engine.Binary{from, to})
				c := m.client()
				const keys = 20000
				c.fill(keys)
				stop := m.load(20)
				next := m.next(versionOf(to))
				next.Patch = to.Version.String()
				held, err := m.ReplaceEngine(t.Context(), m.node, next, nil, func(string) {})
				if err != nil {
					t.Fatal(err)
				}
				m.node = next
				m.ensure()
				counts, longest := stop()
				t.Logf("clients were held for %v; the longest wait of a client was %v", held, longest)
				if got, want := c.version(), to.Version.String(); got != want {
					t.Errorf("version %s; want %s", got, want)
				}
				for n, want := range counts {
					if got := c.do("GET", "counter:"+strconv.Itoa(n)).Str; got != strconv.FormatInt(want, 10) {
						t.Errorf("counter %d is %s; want %d", n, got, want)
					}
					c.do("DEL", "counter:"+strconv.Itoa(n))
				}
				c.checkFilled(keys)
				if got := c.do("CONFIG", "GET", "masterauth").Elems; len(got) != 2 || got[1].Str != "" {
					t.Errorf("masterauth: %v", got)
				}
				m.checkOneEngine()
			})
		}
	}
}

// checkOneEngine wants nothing to be left of any engine but the node's own.
func (m *machine) checkOneEngine() {
	m.t.Helper()
	var have []string
	for _, pattern := range []string{"engine.*", "*.rdb", "1", "2"} {
		found, _ := filepath.Glob(filepath.Join(m.dir, m.node.ID, pattern))
		for _, f := range found {
			have = append(have, filepath.Base(f))
		}
	}
	if slot := m.node.Slot; slot > 0 && (len(have) != 1 || have[0] != strconv.Itoa(slot)) || slot == 0 && (len(have) == 0 || have[len(have)-1] < "3") {
		m.t.Errorf("the engine is in slot %d, and there are %v", slot, have)
	}
}

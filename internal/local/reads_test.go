package local_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/local"
	"github.com/sealane/sealane/internal/process"
	"github.com/sealane/sealane/internal/resp"
)

// staleBound is how old what is read at the read endpoint may be: a replica counts as in sync up to 2 s behind, and it takes two looks at
// it, a quarter of a second each at most, until its clients are elsewhere.
const staleBound = 3 * time.Second

// crowd is a writer at the primary endpoint, and clients that read at the read endpoint without a break.
type crowd struct {
	s       *standard
	address string
	roots   *tls.Config

	mu       sync.Mutex
	acked    []time.Time // by the number that was written
	stalest  time.Duration
	longest  time.Duration // that a client waited for a reply
	problems []string
	closed   int            // connections of clients that expect it
	engines  map[string]int // replies by the engine's run_id, since the last look
	mayClose atomic.Bool

	stop context.CancelFunc
	all  sync.WaitGroup
}

// readings are what clients do, one of these each.
var readings = []func(ctx context.Context, c *resp.Client) (clock string, err error){
	func(ctx context.Context, c *resp.Client) (string, error) { return text(c.Do(ctx, "GET", "clock")) },
	func(ctx context.Context, c *resp.Client) (string, error) {
		v, err := c.Do(ctx, "MGET", "clock", "fixed")
		if err == nil && (len(v.Elems) != 2 || v.Elems[1].Str != "here") {
			return "", fmt.Errorf("MGET: %v", v)
		}
		if err != nil {
			return "", err
		}
		return v.Elems[0].Str, nil
	},
	func(ctx context.Context, c *resp.Client) (string, error) {
		all := make([][]string, 10)
		for k := range all {
			all[k] = []string{"GET", "clock"}
		}
		replies, err := c.Pipeline(ctx, all...)
		if err != nil {
			return "", err
		}
		return text(replies[0], nil)
	},
	func(ctx context.Context, c *resp.Client) (string, error) {
		v, err := c.Do(ctx, "SCAN", "0", "COUNT", "10")
		if err == nil && len(v.Elems) != 2 {
			err = fmt.Errorf("SCAN: %v", v)
		}
		return "", err
	},
	func(ctx context.Context, c *resp.Client) (string, error) {
		return text(c.Do(ctx, "EVAL_RO", "return redis.call('get', KEYS[1])", "1", "clock"))
	},
	func(ctx context.Context, c *resp.Client) (string, error) {
		_, err := c.Do(ctx, "XREAD", "BLOCK", "700", "STREAMS", "stream", "$")
		return "", err
	},
	func(ctx context.Context, c *resp.Client) (string, error) {
		v, err := c.Do(ctx, "INFO", "server")
		return v.Str, err
	},
	func(ctx context.Context, c *resp.Client) (string, error) {
		_, err := c.Do(ctx, "SET", "clock", "0")
		if refused := resp.ReplyError(""); !errors.As(err, &refused) || refused.Code() != "READONLY" {
			return "", fmt.Errorf("SET at the read endpoint: %w", err)
		}
		return "", nil
	},
}

func text(v resp.Value, err error) (string, error) { return v.Str, err }

func newCrowd(s *standard, clients int) *crowd {
	s.t.Helper()
	i := s.get()
	host, port := i.ReadEndpoint()
	ctx, cancel := context.WithCancel(context.Background())
	c := &crowd{s: s, address: net.JoinHostPort(host, strconv.Itoa(port)), stop: cancel, engines: make(map[string]int)}
	if i.Certificates != nil {
		c.roots = &tls.Config{RootCAs: x509.NewCertPool()}
		c.roots.RootCAs.AppendCertsFromPEM(i.Certificates.At(time.Now()).Bundle())
	}
	writer := resp.NewClient(c.dial(i.Address()), 1<<16)
	for _, request := range [][]string{{"SET", "fixed", "here"}, {"SET", "clock", "0"}, {"WAIT", strconv.Itoa(int(i.Spec.ReplicaCount)), "5000"}} {
		if _, err := writer.Do(ctx, request...); err != nil {
			s.t.Fatal(err)
		}
	}
	c.acked = []time.Time{time.Now()}
	c.all.Go(func() { c.write(ctx, writer) })
	for k := range clients {
		c.all.Go(func() { c.read(ctx, k) })
	}
	s.t.Cleanup(c.end)
	return c
}

func (c *crowd) end() {
	c.stop()
	c.all.Wait()
}

func (c *crowd) dial(address string) net.Conn {
	conn, err := net.Dial("tcp", address)
	if err == nil && c.roots != nil {
		conn, err = (&tls.Dialer{Config: c.roots}).Dial("tcp", address)
	}
	if err != nil {
		if !c.mayClose.Load() { // a gateway that ends may have just accepted it
			c.problem("connect: %v", err)
		}
		conn, _ = net.Pipe()
		conn.Close()
	}
	return conn
}

func (c *crowd) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// write counts up. A write whose outcome is not known is made again.
func (c *crowd) write(ctx context.Context, writer *resp.Client) {
	for n := 1; ctx.Err() == nil; {
		_, err := writer.Pipeline(ctx, []string{"SET", "clock", strconv.Itoa(n)}, []string{"XADD", "stream", "MAXLEN", "10", "*", "n", strconv.Itoa(n)})
		if failed := (*resp.ReadError)(nil); errors.As(err, &failed) && ctx.Err() == nil {
			c.problem("the writer: %v", err)
			return
		}
		if err == nil {
			c.mu.Lock()
			c.acked = append(c.acked, time.Now())
			c.mu.Unlock()
			n++
		}
		pauseFor(ctx, 10*time.Millisecond)
	}
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// read is one client. It comes again when its connection is closed.
func (c *crowd) read(ctx context.Context, k int) {
	kind := readings[k%len(readings)]
	for ctx.Err() == nil {
		conn := c.dial(c.address)
		client := resp.NewClient(conn, 1<<16)
		for ctx.Err() == nil {
			began := time.Now()
			clock, err := kind(ctx, client)
			if failed := (*resp.ReadError)(nil); errors.As(err, &failed) && ctx.Err() == nil && c.mayClose.Load() {
				if !errors.Is(err, io.ErrClosedPipe) { // which it never had
					c.mu.Lock()
					c.closed++
					c.mu.Unlock()
				}
				break
			}
			if err != nil && ctx.Err() == nil {
				c.problem("client %d, kind %d, after %v: %v", k, k%len(readings), time.Since(began), err)
				break
			}
			c.check(k%len(readings), began, clock)
			pauseFor(ctx, 20*time.Millisecond)
		}
		conn.Close()
	}
}

// check notes how old what was read is, or which engine was read.
func (c *crowd) check(kind int, began time.Time, clock string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.longest = max(c.longest, time.Since(began))
	if kind == 6 {
		c.engines[infoField(clock, "run_id")]++
		return
	}
	if kind == 3 || kind == 5 || kind == 7 {
		return
	}
	n, err := strconv.Atoi(clock)
	if err != nil {
		c.problems = append(c.problems, fmt.Sprintf("kind %d: the clock is %q", kind, clock))
		return
	}
	if n+1 < len(c.acked) && c.acked[n+1].Before(began) {
		c.stalest = max(c.stalest, began.Sub(c.acked[n+1]))
	}
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// looked returns which engines were read since it was last called, and how long the slowest reply and the oldest value were, and fails the
// test for what clients saw.
func (c *crowd) looked(after string) map[string]int {
	c.s.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, p := range c.problems {
		if k < 10 {
			c.s.t.Errorf("%s: %s", after, p)
		}
	}
	if n := len(c.problems); n > 10 {
		c.s.t.Errorf("%s: %d problems in all", after, n)
	}
	if c.stalest > staleBound {
		c.s.t.Errorf("%s: what was read was %v old", after, c.stalest)
	}
	c.s.t.Logf("%s: oldest value %v, slowest reply %v, engines %v, closed %d, %d writes", after, c.stalest, c.longest, c.engines, c.closed, len(c.acked))
	engines := c.engines
	c.problems, c.stalest, c.longest, c.engines, c.closed = nil, 0, 0, make(map[string]int), 0
	return engines
}

// member is a process of an instance.
type member struct {
	*process.Process
	t *testing.T
}

func (m member) send(signal syscall.Signal) {
	m.t.Helper()
	if err := m.Signal(signal); err != nil {
		m.t.Fatal(err)
	}
}

// engineOf is the process of a node's engine, and gatewayOf that of its gateway.
func (s *standard) engineOf(k int) member {
	s.t.Helper()
	return s.listener(engine.Socket(s.nodeDir(k)))
}
func (s *standard) gatewayOf(k int) member {
	s.t.Helper()
	return s.listener(gateway.Socket(s.nodeDir(k)))
}

func (s *standard) listener(socket string) member {
	s.t.Helper()
	p, err := process.Adopt(socket)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(p.Release)
	return member{p, s.t}
}

func (s *standard) nodeDir(k int) string {
	return filepath.Join(s.dir, "nodes", s.get().UID+"-"+strconv.Itoa(k))
}

// serves awaits that the gateways of the read endpoint serve these nodes' engines, in the order of the gateways.
func (s *standard) serves(what string, want ...int) {
	s.t.Helper()
	var got []int
	defer func() {
		if s.t.Failed() {
			s.t.Logf("%s: served %v, want %v", what, got, want)
		}
	}()
	s.await(what, func(i instance.Instance) bool {
		got = nil
		for _, n := range i.Replication.Nodes {
			if n.Number == 0 {
				continue
			}
			ref, err := s.runtime.ServedEngine(i.UID + "-" + strconv.Itoa(n.Number))
			if err != nil {
				return false
			}
			for _, o := range i.Replication.Nodes {
				if ref.NodeID == i.UID+"-"+strconv.Itoa(o.Number) {
					got = append(got, o.Number)
				}
			}
		}
		return slices.Equal(got, want)
	})
}

// fenced is a Runtime that notes when the engine of a replica, which has no data yet, is started while a gateway would let it be read.
type fenced struct {
	*local.Runtime
	mu     sync.Mutex
	broken []string
	starts int // of replicas that had been read
}

func (f *fenced) EnsureEngine(ctx context.Context, node instance.Node, progress func(string)) error {
	if !f.ObserveEngine(ctx, node).Running() {
		uid := node.ID[:strings.LastIndex(node.ID, "-")]
		f.mu.Lock()
		f.starts++
		for k := 1; k <= 3; k++ {
			if served, err := f.ServedEngine(uid + "-" + strconv.Itoa(k)); err == nil && served.NodeID == node.ID && node.Replication.Primary.IsValid() {
				f.broken = append(f.broken, fmt.Sprintf("the engine of %s is started while the gateway of node-%d serves it", node.ID, k))
			}
		}
		f.mu.Unlock()
	}
	return f.Runtime.EnsureEngine(ctx, node, progress)
}

func newReadable(t *testing.T, replicas int32) (*standard, *fenced) {
	t.Helper()
	f := &fenced{}
	s := newStandardOn(t, func(spec *instance.Spec) {
		spec.MemorySizeGB, spec.ReplicaCount, spec.ReadReplicas, spec.TransitEncryption = 5, replicas, true, true
	}, func(r *local.Runtime) instance.Runtime { f.Runtime = r; return f })
	t.Cleanup(func() {
		for _, b := range f.broken {
			t.Error(b)
		}
	})
	return s, f
}

// inSyncAgain awaits that all replicas are in sync and that node k's engine is another process than p.
func (s *standard) inSyncAgain(what string, k int, p *process.Process) {
	s.t.Helper()
	s.await(what, func(i instance.Instance) bool {
		now, err := process.Adopt(engine.Socket(filepath.Join(s.dir, "nodes", i.UID+"-"+strconv.Itoa(k))))
		if err != nil {
			return false
		}
		defer now.Release()
		return now.Identity() != p.Identity() && inSync(i)
	})
}

// Clients of the read endpoint notice nothing of what happens to engines, and read nothing that is old.
func TestReadEndpointLeavesReplicas(t *testing.T) {
	t.Parallel()
	s, _ := newReadable(t, 2)
	s.serves("each gateway serves its own engine", 1, 2)
	c := newCrowd(s, 32)
	pauseFor(t.Context(), 300*time.Millisecond)
	c.looked("at the beginning")

	hung := s.engineOf(1)
	began := time.Now()
	hung.send(syscall.SIGSTOP)
	s.serves("a replica that hangs is not read", 2, 2)
	if took := time.Since(began); took > time.Second {
		t.Errorf("a replica that hangs was read for %v", took)
	}
	pauseFor(t.Context(), 300*time.Millisecond)
	c.looked("one hangs")
	hung.send(syscall.SIGCONT)
	s.serves("it is read again", 1, 2)
	c.looked("one hung")

	dead := s.engineOf(2)
	dead.send(syscall.SIGKILL)
	s.inSyncAgain("it has come again", 2, dead.Process)
	s.serves("it is read again", 1, 2)
	c.looked("one was killed")

	s.engineOf(0).send(syscall.SIGKILL)
	i := s.await("another node is the primary", func(i instance.Instance) bool { return i.Replication.Primary != 0 })
	if i.Replication.Primary == 1 {
		s.serves("node-0 and node-2 are read", 0, 2)
	} else {
		s.serves("node-1 and node-0 are read", 1, 0)
	}
	c.looked("the primary was killed")
}

// Nor do they notice what is done to an instance that is well, nor that the server ends. When a gateway ends, its own clients come to
// another one.
func TestReadEndpointThroughChanges(t *testing.T) {
	t.Parallel()
	s, _ := newReadable(t, 2)
	s.serves("each gateway serves its own engine", 1, 2)
	c := newCrowd(s, 32)
	if _, err := s.manager.Failover(t.Context(), s.name, false, "v1"); err != nil {
		t.Fatal(err)
	}
	i := s.await("another node is the primary", func(i instance.Instance) bool {
		return i.State == instance.Ready && i.Replication.Primary != 0 && inSync(i)
	})
	instead := map[int][]int{1: {0, 2}, 2: {1, 0}}[i.Replication.Primary] // node-0 has no gateway there
	s.serves("both replicas are read", instead...)
	c.looked("a failover that was asked for")

	s.close()
	pauseFor(t.Context(), 100*time.Millisecond)
	s.start()
	s.await("the server is back", inSync)
	s.serves("both replicas are read", instead...)
	c.looked("the server has ended, and another one started")

	if _, err := s.update(func(spec *instance.Spec) { spec.ReplicaCount = 3 }); err != nil {
		t.Fatal(err)
	}
	s.await("there is one more", func(i instance.Instance) bool { return inSync(i) && len(i.Replication.Nodes) == 4 })
	s.serves("all are read", append(instead, 3)...)
	c.looked("one more")
	c.shown()
	rotated := map[string]func() error{
		"leaf": func() error { return s.manager.Certificates.RenewLeaf(t.Context(), s.name) },
		"CA":   func() error { return s.manager.Certificates.RotateCA(t.Context(), s.name, nil) },
	}
	for _, what := range []string{"leaf", "CA"} {
		if err := rotated[what](); err != nil {
			t.Fatal(err)
		}
		s.await("all are in sync", inSync)
		c.looked("another " + what)
	}

	c.partly("the end of a gateway", s.clientsOf(2), func() {
		s.gatewayOf(2).send(syscall.SIGKILL)
		pauseFor(t.Context(), 300*time.Millisecond)
	})
	c.partly("fewer", 2*32, func() { // two gateways end, one after the other
		if _, err := s.update(func(spec *instance.Spec) { spec.ReplicaCount = 1 }); err != nil {
			t.Fatal(err)
		}
		s.await("one is left", func(i instance.Instance) bool {
			return inSync(i) && len(i.Replication.Nodes) == 2 && len(i.Replication.Removing) == 0
		})
	})
}

// shown looks at what users see of the clients.
func (c *crowd) shown() {
	s := c.s
	s.t.Helper()
	plane, err := s.manager.DataPlanes.Get(s.t.Context(), s.name)
	if err != nil || plane.ReadClients != 32 || plane.ReadLimit < 3*plane.Limit || plane.Clients != 1 {
		s.t.Errorf("%d clients read, of %d, and %d write, of %d: %v", plane.ReadClients, plane.ReadLimit, plane.Clients, plane.Limit, err)
	}
	sum := 0.0
	for k := range 4 {
		v, ok := s.metric("sealane_gateway_clients", "instance=ha", "node=node-"+strconv.Itoa(k))
		if sum += v; !ok {
			s.t.Errorf("there is no metric for node-%d", k)
		}
	}
	if sum != 33 {
		s.t.Errorf("%v clients in the metrics", sum)
	}
}

// partly does something by which so many connections end at most. Their clients come again.
func (c *crowd) partly(what string, limit int64, do func()) {
	c.s.t.Helper()
	c.mayClose.Store(true)
	do()
	c.mayClose.Store(false)
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed > int(limit) {
		c.s.t.Errorf("%s: %d connections were closed of the %d that may be", what, closed, limit)
	}
	c.looked(what)
}

// clientsOf is how many clients a node's gateway serves, once it answers.
func (s *standard) clientsOf(k int) (n int64) {
	s.t.Helper()
	s.await(fmt.Sprintf("the gateway of node-%d answers", k), func(i instance.Instance) bool {
		status, err := s.runtime.GatewayStatus(s.t.Context(), i.UID+"-"+strconv.Itoa(k))
		n = status.Clients
		return err == nil
	})
	return n
}

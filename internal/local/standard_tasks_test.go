package local_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/local"
	"github.com/sealane/sealane/internal/resp"
)

// versions are the engines that this test can use, the oldest first, where one can be upgraded to the next.
func versions(t *testing.T) (from, to string) {
	t.Helper()
	var have []string
	for _, v := range []string{"REDIS_7_0", "REDIS_8_0"} {
		for _, b := range enginetest.All(t) {
			if b.TLS && "REDIS_"+strconv.Itoa(b.Version.Major)+"_"+strconv.Itoa(b.Version.Minor) == v {
				have = append(have, v)
				break
			}
		}
	}
	if len(have) < 2 {
		t.Skip("there are no two engines with TLS of which one can follow the other")
	}
	return have[0], have[1]
}

// ended waits until an operation has ended.
func (s *standard) ended(op instance.Operation, err error) instance.Operation {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	var out instance.Operation
	s.await("the operation has ended", func(i instance.Instance) bool {
		for _, o := range i.Operations {
			if o.ID == op.ID {
				out = o
			}
		}
		return out.Done
	})
	return out
}

func (s *standard) inSync() instance.Instance {
	s.t.Helper()
	return s.await("it is READY with its replicas in sync", func(i instance.Instance) bool {
		// A snapshot that was under way when its engine was killed has failed, and says so until the next one.
		return inSync(i) && (i.StatusMessage == "" || strings.HasPrefix(i.StatusMessage, "the snapshot of "))
	})
}

func (s *standard) wantKeys(c *client, n int) {
	s.t.Helper()
	for k := range n {
		if v := c.do("GET", "key"+strconv.Itoa(k)); v.Str != strconv.Itoa(k) {
			s.t.Fatalf("key%d is %q", k, v.Str)
		}
	}
}

func (s *standard) setKeys(c *client, n int) {
	for k := range n {
		c.do("SET", "key"+strconv.Itoa(k), strconv.Itoa(k))
	}
}

// An upgrade moves clients once, to a replica that has the new engine already, and all nodes have it afterwards.
func TestUpgradeOfStandardCostsOneFailover(t *testing.T) {
	t.Parallel()
	from, to := versions(t)
	s := newStandard(t, func(spec *instance.Spec) {
		spec.RedisVersion, spec.MemorySizeGB, spec.ReadReplicas, spec.ReplicaCount = from, 5, true, 2
	})
	c, writer := s.client(), s.client()
	s.setKeys(c, 100)
	host, port := s.get().ReadEndpoint()
	reader := dialClient(t, net.JoinHostPort(host, strconv.Itoa(port)))
	c.do("WAIT", "2", "5000")
	var stop atomic.Bool
	var reading sync.WaitGroup
	reading.Go(func() {
		for !stop.Load() {
			if v, err := reader.Do(t.Context(), "GET", "key7"); err != nil || v.Str != "7" {
				t.Errorf("the reader: %v, %v", v, err)
				return
			}
			pauseFor(t.Context(), time.Millisecond)
		}
	})
	written := make(chan int, 1)
	go func() {
		n := 0
		for ; !stop.Load(); n++ {
			if _, err := writer.Do(t.Context(), "INCR", "written"); err != nil {
				t.Errorf("the writer: %v", err)
				break
			}
			pauseFor(t.Context(), time.Millisecond)
		}
		written <- n
	}()
	op := s.ended(s.manager.Upgrade(t.Context(), s.name, to, "v1"))
	if op.Failure != nil {
		t.Fatalf("the upgrade failed: %+v", op.Failure)
	}
	stop.Store(true)
	reading.Wait()
	if want, got := strconv.Itoa(<-written), c.do("GET", "written").Str; got != want {
		t.Errorf("%s writes were acknowledged, and %s are there", want, got)
	}
	i := s.get()
	if n := len(i.Replication.Failovers); n != 1 || i.Spec.RedisVersion != to || op.Held <= 0 || op.Held > 500*time.Millisecond {
		t.Errorf("failovers %+v, version %s, held %v", i.Replication.Failovers, i.Spec.RedisVersion, op.Held)
	}
	for _, n := range i.Replication.Nodes {
		if got := s.versionOf(n); got != to {
			t.Errorf("node-%d runs %s", n.Number, got)
		}
	}
	s.wantKeys(c, 100) // the same connection
	s.inSync()
}

// versionOf is which engine a node runs.
func (s *standard) versionOf(n instance.NodeRecord) string {
	s.t.Helper()
	info, err := s.runtime.EngineInfo(s.t.Context(), s.get().UID+"-"+strconv.Itoa(n.Number), "server")
	if err != nil {
		s.t.Fatal(err)
	}
	parts := strings.Split(info["redis_version"], ".")
	return "REDIS_" + parts[0] + "_" + parts[1]
}

// A server that ends in the middle of an upgrade leaves it to the next one.
func TestUpgradeOfStandardGoesOnWithTheNextServer(t *testing.T) {
	t.Parallel()
	from, to := versions(t)
	s := newStandard(t, func(spec *instance.Spec) { spec.RedisVersion = from })
	c := s.client()
	s.setKeys(c, 100)
	op, err := s.manager.Upgrade(t.Context(), s.name, to, "v1")
	if err != nil {
		t.Fatal(err)
	}
	s.await("a replica is to have the new engine", func(i instance.Instance) bool { return i.Replication.Nodes[1].Version == to })
	s.close()
	s.start()
	if op := s.ended(op, nil); op.Failure != nil {
		t.Fatalf("the upgrade failed: %+v", op.Failure)
	}
	i := s.await("all nodes were seen to have it", func(i instance.Instance) bool {
		return i.Replication.Nodes[0].Version+i.Replication.Nodes[1].Version == ""
	})
	if n := len(i.Replication.Failovers); n != 1 || i.Spec.RedisVersion != to {
		t.Errorf("failovers %+v, version %s", i.Replication.Failovers, i.Spec.RedisVersion)
	}
	for _, n := range i.Replication.Nodes {
		if got := s.versionOf(n); got != to {
			t.Errorf("%s runs %s", instance.NodeName(n.Number), got)
		}
	}
	s.wantKeys(c, 100)
}

// An engine that does not start makes the upgrade fail, and the replica is as it was.
func TestUpgradeOfStandardFailsBeforeTheFailover(t *testing.T) {
	t.Parallel()
	s := newStandard(t, func(spec *instance.Spec) { spec.RedisVersion = "REDIS_7_0" })
	c := s.client()
	s.setKeys(c, 100)
	op := s.ended(s.manager.Upgrade(t.Context(), s.name, brokenVersion, "v1"))
	if op.Failure == nil || !strings.Contains(op.Failure.Message, "node-1 can't be brought up") {
		t.Fatalf("the upgrade: %+v", op.Failure)
	}
	i := s.inSync()
	for _, n := range i.Replication.Nodes {
		if got := s.versionOf(n); got != "REDIS_7_0" {
			t.Errorf("%s runs %s", instance.NodeName(n.Number), got)
		}
	}
	if i.Replication.Primary != 0 || len(i.Replication.Failovers) != 0 {
		t.Errorf("%+v", i.Replication.Failovers)
	}
	s.wantKeys(c, 100)
}

// A restart is a failover, and the engine that was the primary is another process then.
func TestRestartOfStandardIsAFailover(t *testing.T) {
	t.Parallel()
	s := newStandard(t, nil)
	c := s.client()
	s.setKeys(c, 100)
	old := s.primary()
	if err := s.manager.Engines.Restart(t.Context(), s.name, false); err != nil {
		t.Fatal(err)
	}
	<-old.Done()
	i := s.inSync()
	if f := i.Replication.Failovers; len(f) != 1 || !f[0].Planned || f[0].Reason != "restart" {
		t.Errorf("%+v", f)
	}
	s.wantKeys(c, 100)
}

// After a restart that has to be forced because the primary hangs, a replica has taken over.
func TestForcedRestartOfStandardWhosePrimaryHangs(t *testing.T) {
	t.Parallel()
	s := newStandard(t, nil)
	s.setKeys(s.client(), 100)
	s.client().do("WAIT", "1", "5000")
	old := s.primary()
	old.Signal(syscall.SIGSTOP)
	if err := s.manager.Engines.Restart(t.Context(), s.name, true); err != nil {
		t.Fatal(err)
	}
	<-old.Done()
	s.inSync()
	s.wantKeys(s.client(), 100)
}

// withoutReplicas is a Runtime on which no replica's engine starts.
type withoutReplicas struct{ *local.Runtime }

func (r withoutReplicas) EnsureEngine(ctx context.Context, n instance.Node, progress func(string)) error {
	if n.Replication.Primary.IsValid() {
		return errors.New("the replica does not start")
	}
	return r.Runtime.EnsureEngine(ctx, n, progress)
}

// An instance of which only the primary comes up is not created, and nothing of it is left.
func TestCreateOfStandardThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(r *local.Runtime) instance.Runtime { return withoutReplicas{r} })
	op, err := s.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.await("it is told what is wrong", func(i instance.Instance) bool { return i.StatusMessage != "" })
	s.later.Store(int64(2 * time.Minute))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		of, err := s.manager.Operations.Get(s.name.Project, s.name.Location, op.ID)
		if err != nil {
			t.Fatal(err)
		}
		if of.Done {
			if of.Failure == nil || !strings.Contains(of.Failure.Message, "does not start") {
				t.Errorf("%+v", of.Failure)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatal("the create does not end")
		}
	}
	if left, _ := os.ReadDir(filepath.Join(s.dir, "nodes")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A directive that only a replica refuses is undone on all nodes; a new size and its backlog reach all.
func TestConfigurationOfStandardIsTheSameOnAllNodes(t *testing.T) {
	t.Parallel()
	var refuse atomic.Bool
	s := newStandardOn(t, nil, func(r *local.Runtime) instance.Runtime { return refusingReplicas{r, &refuse} })
	want := func(name, value string) {
		t.Helper()
		i := s.inSync()
		for _, n := range i.Replication.Nodes {
			if got := s.setting(n, name); got != value {
				t.Errorf("node-%d: %s is %s, want %s", n.Number, name, got, value)
			}
		}
	}
	if op := s.ended(s.update(func(spec *instance.Spec) { spec.MemorySizeGB = 2 })); op.Failure != nil {
		t.Fatalf("%+v", op.Failure)
	}
	want("maxmemory", strconv.Itoa(2<<30))
	want("repl-backlog-size", strconv.Itoa(2<<30/10))
	refuse.Store(true)
	policy := func(spec *instance.Spec) { spec.RedisConfigs = map[string]string{"maxmemory-policy": "allkeys-lfu"} }
	if op := s.ended(s.update(policy)); op.Failure == nil {
		t.Error("the update did not fail")
	}
	want("maxmemory-policy", "volatile-lru")
}

// refusingReplicas is a Runtime whose replicas refuse a policy.
type refusingReplicas struct {
	*local.Runtime
	refuse *atomic.Bool
}

func (r refusingReplicas) EnsureEngine(ctx context.Context, n instance.Node, progress func(string)) error {
	if n.Replication.Primary.IsValid() && n.Directives["maxmemory-policy"] == "allkeys-lfu" && r.refuse.Load() {
		return fmt.Errorf("%w: the engine refuses it", instance.ErrFatal)
	}
	return r.Runtime.EnsureEngine(ctx, n, progress)
}

// setting is what a node's engine has for a directive.
func (s *standard) setting(n instance.NodeRecord, name string) string {
	s.t.Helper()
	i := s.get()
	dir := filepath.Join(s.dir, "nodes", i.UID+"-"+strconv.Itoa(n.Number))
	conn, err := net.Dial("unix", engine.Socket(dir))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	c := client{resp.NewClient(conn, 1<<20), s.t}
	return c.do("CONFIG", "GET", name).Elems[1].Str
}

// Read replicas are switched on while an instance with TLS serves: its certificate is then for the read endpoint too. When fewer replicas
// are wanted, a primary that would be among those that go stays.
func TestReadEndpointOfStandardHasACertificate(t *testing.T) {
	t.Parallel()
	s := newStandard(t, func(spec *instance.Spec) { spec.MemorySizeGB, spec.TransitEncryption = 5, true })
	op := s.ended(s.update(func(spec *instance.Spec) {
		spec.ReadReplicas, spec.SecondaryIPRange, spec.ReplicaCount = true, "auto", 2
	}))
	if op.Failure != nil {
		t.Fatalf("%+v", op.Failure)
	}
	i := s.inSync()
	roots := x509.NewCertPool()
	for _, ca := range i.ServerCAs {
		certificate, err := x509.ParseCertificate(ca.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		roots.AddCert(certificate)
	}
	host, port := i.ReadEndpoint()
	conn, err := tls.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port)), &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := client{resp.NewClient(conn, 1<<20), t}
	c.do("GET", "key")
	if _, err := c.Do(t.Context(), "SET", "key", "1"); err == nil || !strings.HasPrefix(err.Error(), "READONLY") {
		t.Errorf("SET at the read endpoint: %v", err)
	}

	first := pidOf(engine.Socket(filepath.Join(s.dir, "nodes", i.UID+"-1")))
	syscall.Kill(first, syscall.SIGSTOP)
	s.failOver()
	syscall.Kill(first, syscall.SIGCONT)
	if primary := s.get().Replication.Primary; primary != 2 {
		t.Fatalf("the primary is node-%d", primary)
	}
	for _, count := range []int32{1, 2} {
		if op := s.ended(s.update(func(spec *instance.Spec) { spec.ReplicaCount = count })); op.Failure != nil {
			t.Fatalf("%+v", op.Failure)
		}
		if i := s.inSync(); len(i.Replication.Nodes) != int(count)+1 || i.Replication.Primary != 2 {
			t.Errorf("%d replicas: primary %d of %+v", count, i.Replication.Primary, i.Replication.Nodes)
		}
	}
}

// stopsAtFailover is a Runtime whose server ends when the endpoint's gateway has just been given another primary.
type stopsAtFailover struct {
	*local.Runtime
	served chan struct{}
}

func (r stopsAtFailover) ApplyGateway(ctx context.Context, n instance.Node) error {
	err := r.Runtime.ApplyGateway(ctx, n)
	if err == nil && n.Serves != nil && strings.HasSuffix(n.Serves.NodeID, "-1") {
		close(r.served)
		<-ctx.Done()
	}
	return err
}

// Where the server and the old primary end just after the failover of an upgrade, before it is recorded, the old primary is started with the
// new engine: the old one could not load what the new primary sends.
func TestUpgradeOfStandardGoesOnAfterAFailoverThatIsNotRecorded(t *testing.T) {
	t.Parallel()
	from, to := versions(t)
	served := make(chan struct{})
	s := newStandardOn(t, func(spec *instance.Spec) { spec.RedisVersion = from }, func(r *local.Runtime) instance.Runtime { return stopsAtFailover{r, served} })
	s.setKeys(s.client(), 100)
	op, err := s.manager.Upgrade(t.Context(), s.name, to, "v1")
	if err != nil {
		t.Fatal(err)
	}
	<-served
	old := pidOf(engine.Socket(s.primaryDir()))
	s.wrap = nil
	dead := s.get() // as it was recorded
	s.close()
	syscall.Kill(old, syscall.SIGKILL)
	s.start()
	if dead.Replication.Primary != 0 {
		t.Fatal("the failover was recorded")
	}
	if op := s.ended(op, nil); op.Failure != nil {
		t.Fatalf("the upgrade failed: %+v", op.Failure)
	}
	i := s.inSync()
	for _, n := range i.Replication.Nodes {
		if got := s.versionOf(n); got != to {
			t.Errorf("node-%d runs %s", n.Number, got)
		}
	}
	log, err := os.ReadFile(filepath.Join(s.dir, "nodes", i.UID+"-0", "engine.log"))
	if err != nil || strings.Contains(string(log), "Can't handle RDB format") {
		t.Errorf("the old engine has got the new one's data: %v", err)
	}
	s.wantKeys(s.client(), 100)
}

package local_test

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/instance"
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
	return s.await("it is READY with its replicas in sync", func(i instance.Instance) bool { return i.State == instance.Ready && i.StatusMessage == "" })
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
	s := newStandard(t, func(spec *instance.Spec) { spec.RedisVersion = from })
	c := s.client()
	s.setKeys(c, 100)
	op := s.ended(s.manager.Upgrade(t.Context(), s.name, to, "v1"))
	if op.Failure != nil {
		t.Fatalf("the upgrade failed: %+v", op.Failure)
	}
	i := s.get()
	if n := len(i.Replication.Failovers); n != 1 || i.Spec.RedisVersion != to || op.Held <= 0 || op.Held > time.Second {
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

// A server that ends in the middle of an upgrade leaves it to the next one, wherever it was.
func TestUpgradeOfStandardGoesOnWithTheNextServer(t *testing.T) {
	t.Parallel()
	from, to := versions(t)
	for name, reached := range map[string]func(instance.Instance) bool{
		"a replica is to have the new engine": func(i instance.Instance) bool { return i.Replication.Nodes[1].Version == to },
		"the replica has taken over":          func(i instance.Instance) bool { return i.Replication.Primary != 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStandard(t, func(spec *instance.Spec) { spec.RedisVersion = from })
			c := s.client()
			s.setKeys(c, 100)
			op, err := s.manager.Upgrade(t.Context(), s.name, to, "v1")
			if err != nil {
				t.Fatal(err)
			}
			s.await(name, reached)
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
		})
	}
}

// An engine that does not start makes the upgrade fail, and the replica is as it was.
func TestUpgradeOfStandardFailsBeforeTheFailover(t *testing.T) {
	t.Parallel()
	s := newStandard(t, func(spec *instance.Spec) { spec.RedisVersion = "REDIS_7_0" })
	c := s.client()
	s.setKeys(c, 100)
	op := s.ended(s.manager.Upgrade(t.Context(), s.name, brokenVersion, "v1"))
	if op.Failure == nil || !strings.Contains(op.Failure.Message, "can't be started on node-1") {
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
	for _, force := range []bool{false, true} {
		t.Run(map[bool]string{false: "restart", true: "force"}[force], func(t *testing.T) {
			t.Parallel()
			s := newStandard(t, nil)
			c := s.client()
			s.setKeys(c, 100)
			old := s.primary()
			if err := s.manager.Engines.Restart(t.Context(), s.name, force); err != nil {
				t.Fatal(err)
			}
			<-old.Done()
			i := s.inSync()
			if f := i.Replication.Failovers; len(f) != 1 || !f[0].Planned || f[0].Reason != "restart" {
				t.Errorf("%+v", f)
			}
			s.wantKeys(c, 100)
		})
	}
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

package local_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/local"
)

// failOver makes another node the primary.
func (s *standard) failOver() {
	s.t.Helper()
	if op := s.ended(s.manager.Failover(s.t.Context(), s.name, false, "v1")); op.Failure != nil {
		s.t.Fatalf("failover: %+v", op.Failure)
	}
}

// killAll ends all processes at once, as the loss of the machine does, and starts another server.
func (s *standard) killAll(before func()) {
	s.t.Helper()
	i := s.get()
	s.close()
	if before != nil {
		before()
	}
	for _, n := range i.Replication.Nodes {
		if err := local.New(filepath.Join(s.dir, "nodes"), nil, nil).KillNode(s.t.Context(), i.UID+"-"+strconv.Itoa(n.Number)); err != nil {
			s.t.Fatal(err)
		}
	}
	s.start()
}

// An import goes to the node that is the primary, the replicas copy it, and nobody goes back to the old data, also when the primary dies
// at once.
func TestImportIntoStandard(t *testing.T) {
	t.Parallel()
	s := newStandard(t, func(spec *instance.Spec) { spec.SnapshotPeriod = time.Hour })
	s.failOver()
	c := s.client()
	s.setKeys(c, 100)
	const object = "gs://bucket/dump.rdb"
	if op := s.ended(s.manager.Export(t.Context(), s.name, object, "v1")); op.Failure != nil {
		t.Fatalf("export: %+v", op.Failure)
	}
	c.do("FLUSHALL")
	c.do("SET", "besides", "x")
	c.do("WAIT", "1", "5000")
	old := s.primaryDir()
	if op := s.ended(s.manager.Import(t.Context(), s.name, object, "v1")); op.Failure != nil {
		t.Fatalf("import: %+v", op.Failure)
	}
	s.wantKeys(c, 100) // the same connection
	if s.primaryDir() == old {
		t.Fatal("the primary's engine is the same")
	}
	s.primary().Signal(syscall.SIGKILL)
	s.inSync() // on a busy machine a start may take longer than clients wait
	s.wantKeys(s.client(), 100)
	if n := s.client().do("EXISTS", "besides"); n.Int != 0 {
		t.Error("what was there before the import is there again")
	}
	if _, err := os.Lstat(engine.Socket(old)); err == nil {
		t.Error("the engine that was replaced is still there")
	}
	s.failOver()
	s.wantKeys(s.client(), 100)
}

// stopsAfterImport is a Runtime whose server ends when the engine with the imported data has just taken over.
type stopsAfterImport struct {
	*local.Runtime
	replaced chan struct{}
}

func (r stopsAfterImport) ReplaceEngine(ctx context.Context, from, to instance.Node, data instance.DataSource, progress func(string)) (time.Duration, error) {
	held, err := r.Runtime.ReplaceEngine(ctx, from, to, data, progress)
	if err == nil {
		close(r.replaced)
		<-ctx.Done()
		err = ctx.Err()
	}
	return held, err
}

// Where server and primary end just after an import, before it is recorded, the next server goes on with the imported data, and not with
// what the replica has.
func TestImportIntoStandardIsNotUndone(t *testing.T) {
	t.Parallel()
	s := newStandard(t, func(spec *instance.Spec) { spec.SnapshotPeriod = time.Hour })
	c := s.client()
	s.setKeys(c, 100)
	const object = "gs://bucket/dump.rdb"
	if op := s.ended(s.manager.Export(t.Context(), s.name, object, "v1")); op.Failure != nil {
		t.Fatalf("export: %+v", op.Failure)
	}
	c.do("FLUSHALL")
	c.do("SET", "besides", "x")
	c.do("WAIT", "1", "5000")
	replaced := make(chan struct{})
	s.wrap = func(r *local.Runtime) instance.Runtime { return stopsAfterImport{r, replaced} }
	s.close()
	s.start()
	op, err := s.manager.Import(t.Context(), s.name, object, "v1")
	if err != nil {
		t.Fatal(err)
	}
	<-replaced
	dir := s.primaryDir()
	s.close()
	syscall.Kill(pidOf(engine.Socket(filepath.Join(dir, "1"))), syscall.SIGKILL)
	s.wrap = nil
	s.start()
	if op := s.ended(op, nil); op.Failure != nil {
		t.Fatalf("import: %+v", op.Failure)
	}
	s.wantKeys(s.client(), 100)
	if n := s.client().do("EXISTS", "besides"); n.Int != 0 {
		t.Error("what was there before the import is there again")
	}
}

// After the loss of all processes the data are those of the last snapshot of the primary, and where it has made none since it took over,
// of the last snapshot that there is.
func TestStandardRestoresTheLastSnapshot(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]bool{"of the primary": false, "of another node": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStandard(t, func(spec *instance.Spec) { spec.SnapshotPeriod = time.Hour })
			before := s.get().Replication.Primary
			s.setKeys(s.client(), 100)
			s.failOver()
			s.await("a snapshot was made at once", func(instance.Instance) bool {
				dump, err := os.Stat(engine.Dump(s.primaryDir()))
				return err == nil && dump.Size() > 1000
			})
			s.inSync()
			s.failOver() // node-0 has a dump from before the keys, and must not load that
			if s.get().Replication.Primary != before {
				t.Fatal("the primary is another node")
			}
			if !lost {
				s.await("another one was made", func(instance.Instance) bool {
					dump, err := os.Stat(engine.Dump(s.primaryDir()))
					return err == nil && dump.Size() > 1000
				})
			}
			dump := engine.Dump(s.primaryDir())
			s.killAll(func() {
				if lost {
					os.Remove(dump)
				}
			})
			s.wantKeys(s.client(), 100)
			s.inSync()
		})
	}
}

// Without snapshots a clean stop saves the data of the primary, whoever that is.
func TestCleanStopOfStandardKeepsTheData(t *testing.T) {
	t.Parallel()
	s := newStandard(t, nil)
	s.failOver()
	s.setKeys(s.client(), 100)
	if err := s.manager.StopAll(context.Background(), instance.StopAllOptions{}); err != nil {
		t.Fatal(err)
	}
	s.close()
	if left, err := filepath.Glob(filepath.Join(s.dir, "nodes", "*", "engine.cgroup")); err != nil || len(left) > 0 {
		t.Errorf("cgroups of engines are left: %v, %v", left, err)
	}
	var log bytes.Buffer
	s.log = &log
	s.start()
	i := s.inSync()
	s.wantKeys(s.client(), 100)
	if i.Replication.Primary != 1 {
		t.Errorf("the primary is node-%d", i.Replication.Primary)
	}
	s.close() // nothing is logged any more
	if strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("a start after a clean stop logs an error:\n%s", &log)
	}
}

// The number of replicas goes up and down while a client reads at the read endpoint. One that can't be started makes the update fail.
func TestReplicasOfStandardUpAndDown(t *testing.T) {
	t.Parallel()
	s := newStandard(t, func(spec *instance.Spec) { spec.MemorySizeGB = 5 })
	s.setKeys(s.client(), 100)
	s.ended(s.update(func(spec *instance.Spec) { spec.ReadReplicas, spec.SecondaryIPRange = true, "auto" }))
	host, port := s.get().ReadEndpoint()
	reader := dialClient(t, host+":"+strconv.Itoa(port))
	var stop atomic.Bool
	done := make(chan error, 1)
	go func() {
		for !stop.Load() {
			if v, err := reader.Do(t.Context(), "GET", "key7"); err != nil || v.Str != "7" {
				done <- err
				return
			}
			pauseFor(t.Context(), time.Millisecond)
		}
		done <- nil
	}()
	for _, count := range []int32{3, 1} {
		if op := s.ended(s.update(func(spec *instance.Spec) { spec.ReplicaCount = count })); op.Failure != nil {
			t.Fatalf("%d replicas: %+v", count, op.Failure)
		}
		if n := len(s.get().Replication.Nodes); n != int(count)+1 {
			t.Errorf("%d nodes", n)
		}
	}
	before := s.get()
	// Its configuration can't be written.
	if err := os.MkdirAll(filepath.Join(s.dir, "nodes", before.UID+"-2", "engine.conf", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	op, err := s.update(func(spec *instance.Spec) { spec.ReplicaCount = 2 })
	if err != nil {
		t.Fatal(err)
	}
	s.await("it is told what is wrong", func(i instance.Instance) bool { return i.StatusMessage != "" })
	s.later.Store(int64(2 * time.Minute))
	if op = s.ended(op, nil); op.Failure == nil {
		t.Error("an update with a replica that can't be started succeeded")
	}
	if i := s.inSync(); len(i.Replication.Nodes) != 2 || i.Spec.ReplicaCount != 1 {
		t.Errorf("%d replicas, nodes %+v", i.Spec.ReplicaCount, i.Replication.Nodes)
	}
	stop.Store(true)
	if err := <-done; err != nil {
		t.Errorf("the reader: %v", err)
	}
	if _, err := s.manager.Delete(s.name, "v1"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if left, _ := os.ReadDir(filepath.Join(s.dir, "nodes")); len(left) == 0 {
			return
		} else if time.Now().After(end) {
			t.Fatalf("left behind: %v", left)
		}
	}
}

func (s *standard) update(change instance.Change) (instance.Operation, error) {
	return s.manager.Update(s.t.Context(), s.name, change, "v1")
}

// A replica that is started again does not load the dump that it finds: it would be taken for one that has the primary's data.
func TestReplicaOfStandardStartsWithoutItsOldDump(t *testing.T) {
	t.Parallel()
	s := newStandard(t, func(spec *instance.Spec) { spec.SnapshotPeriod = time.Hour })
	s.await("the primary has made a snapshot", func(instance.Instance) bool {
		_, err := os.Stat(engine.Dump(s.primaryDir()))
		return err == nil
	})
	dump, err := os.ReadFile(engine.Dump(s.primaryDir()))
	if err != nil {
		t.Fatal(err)
	}
	replica := filepath.Join(s.dir, "nodes", s.get().UID+"-1")
	if err := os.WriteFile(engine.Dump(replica), dump, 0o600); err != nil {
		t.Fatal(err)
	}
	before := pidOf(engine.Socket(replica))
	syscall.Kill(before, syscall.SIGKILL)
	s.await("the replica was started again", func(i instance.Instance) bool {
		pid := pidOf(engine.Socket(replica))
		return pid != 0 && pid != before && i.StatusMessage == ""
	})
	if _, err := os.Stat(engine.Dump(replica)); err == nil {
		t.Error("it has loaded its old dump")
	}
}

// That all engines died, and with them the data, is where users look for failovers.
func TestLossOfAllEnginesIsShown(t *testing.T) {
	t.Parallel()
	s := newStandard(t, nil)
	s.client().do("SET", "key", "1")
	for k := range 2 {
		s.engineOf(k).send(syscall.SIGSTOP) // both end before either is noticed
	}
	for k := range 2 {
		s.engineOf(k).send(syscall.SIGKILL)
	}
	i := s.await("the loss is shown", func(i instance.Instance) bool { return len(i.Replication.Failovers) > 0 })
	if f := i.Replication.Failovers[0]; !strings.Contains(f.Reason, "without data") || f.From != f.To {
		t.Errorf("%+v", f)
	}
	s.inSync()
	if n := s.client().do("EXISTS", "key"); n.Int != 0 {
		t.Error("the key is there")
	}
}

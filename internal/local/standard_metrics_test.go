package local_test

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/process"
)

// metric returns the value of a metric whose labels contain these; ok is false where there is none. The value of a histogram is its count.
func (s *standard) metric(name string, labels ...string) (value float64, ok bool) {
	s.t.Helper()
	registry := prometheus.NewPedanticRegistry()
	for _, c := range s.manager.Metrics() {
		if err := registry.Register(c); err != nil {
			s.t.Fatal(err)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.Metric {
			var all []string
			for _, l := range m.Label {
				all = append(all, l.GetName()+"="+l.GetValue())
			}
			switch missing := func(l string) bool { return !slices.Contains(all, l) }; {
			case slices.ContainsFunc(labels, missing):
			case m.Histogram != nil:
				return float64(m.Histogram.GetSampleCount()), true
			case m.Counter != nil:
				return m.Counter.GetValue(), true
			default:
				return m.Gauge.GetValue(), true
			}
		}
	}
	return 0, false
}

// becomes waits until a metric has a value.
func (s *standard) becomes(what string, is func(float64) bool, name string, labels ...string) {
	s.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		v, ok := s.metric(name, labels...)
		if ok && is(v) {
			return
		}
		select {
		case <-deadline:
			s.t.Fatalf("%s%q never became %s: %v, %t", name, labels, what, v, ok)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Each metric of replication moves when the thing happens that it is about.
func TestMetricsOfReplication(t *testing.T) {
	t.Parallel()
	s := newStandard(t, nil)
	const managed = "stackdriver_redis_instance_redis_googleapis_com_replication_"
	is := func(want float64) func(float64) bool { return func(v float64) bool { return v == want } }
	above := func(least float64) func(float64) bool { return func(v float64) bool { return v > least } }
	node := func(k int) []string {
		return []string{"unit=1", "project_id=p", "region=local", "instance_id=projects/p/locations/local/instances/ha", "node_id=node-" + strconv.Itoa(k)}
	}
	s.becomes("1", is(1), managed+"role", node(0)...)
	s.becomes("0", is(0), managed+"role", node(1)...)
	s.becomes("1", is(1), "sealane_replica_in_sync", "instance=ha", "node=node-1")
	if v, ok := s.metric("sealane_replica_in_sync", "node=node-0"); ok {
		t.Errorf("the primary is shown as a replica in sync: %v", v)
	}

	replica, err := process.Adopt(engine.Socket(filepath.Join(s.dir, "nodes", s.get().UID+"-1")))
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Release()
	if err := replica.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	offset, _ := s.metric(managed + "master_repl_offset")
	s.client().do("SET", "a", strings.Repeat("x", 100_000))
	s.becomes("greater", above(offset+100_000), managed+"master_repl_offset", "unit=By", "role=primary", "node_id=node-0")
	s.becomes("greater", above(99_999), managed+"offset_diff", "role=primary", "node_id=node-0")
	s.becomes("0", is(0), "sealane_replica_in_sync", "node=node-1")
	if err := replica.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.becomes("1", is(1), "sealane_replica_in_sync", "node=node-1")
	s.becomes("0", is(0), managed+"master_slaves_lag", "unit=s", "slave=node-1", "node_id=node-0")
	s.becomes("greater", above(offset+100_000), managed+"master_slaves_offset", "unit=By", "slave=node-1", "node_id=node-0")
	s.await("the replica is well", func(i instance.Instance) bool { return i.State == instance.Ready && i.StatusMessage == "" })

	if err := s.primary().Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.becomes("1", is(1), "sealane_failovers_total", "instance=ha", "reason=ended")
	s.becomes("1", is(1), "sealane_failover_seconds", "instance=ha", "kind=unplanned")
	s.becomes("1", is(1), managed+"role", node(1)...)
	s.becomes("0", is(0), managed+"role", node(0)...)
	s.becomes("1", is(1), "sealane_replica_in_sync", "node=node-0")
	if _, err := s.manager.Failover(t.Context(), s.name, false, "v1"); err != nil {
		t.Fatal(err)
	}
	s.becomes("1", is(1), "sealane_failovers_total", "reason=requested")
	s.becomes("1", is(1), "sealane_failover_seconds", "kind=planned")
}

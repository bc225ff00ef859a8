package e2e_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// The whole way: switched on with the CLI, listed, restored after a crash, shown in metrics; switched off, nothing is restored.
func TestSnapshotsFromTheCommandLine(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first")
	ca := s.bundle("first")
	s.redis(first, ca, "SET", "k", "saved")
	if got := s.cli("instances", "snapshots", "first"); !strings.Contains(got, "OUTCOME") {
		t.Errorf("without persistence: %q", got)
	}
	s.cli("instances", "update", "first", "--rdb-snapshot-period", "1h")
	var list struct {
		Snapshots []struct {
			DueTime, StartTime, EndTime time.Time
			Size                        string
			Failure                     string
		}
		NextSnapshotTime time.Time
		Problem          string
	}
	eventually(t, 30*time.Second, "a snapshot is made", func() bool {
		if err := json.Unmarshal([]byte(s.cli("instances", "snapshots", "first", "--format", "json")), &list); err != nil {
			t.Fatal(err)
		}
		return len(list.Snapshots) > 0
	})
	made := list.Snapshots[0]
	if made.Failure != "" || made.Size == "" || made.DueTime.IsZero() || made.EndTime.Before(made.StartTime) || list.Problem != "" ||
		time.Until(list.NextSnapshotTime) > time.Hour || time.Until(list.NextSnapshotTime) < 58*time.Minute {
		t.Errorf("got %+v; want a good one, and the next within an hour", list)
	}
	if text := s.cli("instances", "snapshots", "first"); !strings.Contains(text, " good") {
		t.Errorf("the list: %q", text)
	}
	for name, want := range map[string]float64{"sealane_rdb_snapshot_last_status": 1, "sealane_rdb_snapshot_in_progress": 0, "sealane_engine_maxmemory_bytes": 1 << 30} {
		if got := s.metric(name); got != want {
			t.Errorf("%s: %v; want %v", name, got, want)
		}
	}
	if age, next := s.metric("sealane_rdb_snapshot_last_success_age_seconds"), s.metric("sealane_rdb_snapshot_time_until_next_run_seconds"); age < 0 || age > 60 || next < 3400 || next > 3600 {
		t.Errorf("the last one is %v s old, the next due in %v s", age, next)
	}
	if usage, ratio := s.metric("sealane_engine_memory_usage_bytes"), s.metric("sealane_engine_memory_usage_ratio"); usage < 500_000 || ratio <= 0 || ratio > 0.1 {
		t.Errorf("the engine uses %v bytes, a ratio of %v", usage, ratio)
	}
	s.redis(first, ca, "SET", "k", "lost")
	pid := s.node("engine")
	s.kill9(pid)
	eventually(t, 20*time.Second, "another engine serves", func() bool {
		pids := s.nodes("engine")
		return len(pids) == 1 && pids[0] != pid && s.redisCLI(first, ca, "PING").stdout == "PONG\n"
	})
	if got := s.redis(first, ca, "GET", "k"); got != "saved" {
		t.Errorf("after a crash: %q; want what the snapshot had", got)
	}
	s.cli("instances", "update", "first", "--persistence-mode", "disabled")
	if got := s.cli("instances", "snapshots", "first"); strings.Contains(got, " good") {
		t.Errorf("switched off: %q", got)
	}
}

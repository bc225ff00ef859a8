package e2e_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// memoryGroup is the memory cgroup of an engine of the server, by version 1 or 2.
func (s *server) memoryGroup() (dir, limitFile string) {
	s.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", s.node("engine")))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if !strings.HasPrefix(filepath.Base(f[2]), "sealane-") {
			continue
		}
		for _, d := range []struct{ root, file string }{
			{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}, {"/sys/fs/cgroup/unified", "memory.max"},
		} {
			dir := filepath.Join(d.root, f[2])
			if _, err := os.Stat(filepath.Join(dir, d.file)); err == nil {
				return dir, filepath.Join(dir, d.file)
			}
		}
	}
	s.t.Skipf("NOT SHOWN HERE: the engine is in no memory cgroup of its own, because this user may make none on this machine; describe says:\n%s", s.cli("instances", "describe", "first"))
	return "", ""
}

// Without a bound, an engine with maxmemory 0.2 GB reached 10 GB.
func TestAnEnginesMemoryIsBounded(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first", "--redis-config", "maxmemory-gb=0.2")
	ca := s.bundle("first")
	const limit = 2*214748364 + 3<<30 + 1<<29 // twice maxmemory, clients, the program
	text := s.cli("instances", "describe", "first")
	if !strings.Contains(text, "memory bound:  3.9 GiB by ") {
		t.Errorf("describe: got %q, want the bound of 3.9 GiB", text)
	}
	if got := s.redis(first, ca, "CONFIG", "GET", "maxmemory-clients"); got != "maxmemory-clients\n3221225472" {
		t.Errorf("maxmemory-clients: got %q, want 3 GiB", got)
	}
	dir, file := s.memoryGroup()
	raw, err := os.ReadFile(file)
	got, parseErr := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil || parseErr != nil || got > limit || got < limit-65536 { // the kernel rounds to pages
		t.Errorf("%s: got %s, %v, want %d", file, raw, err, limit)
	}
	// The bound stays when the server stops, and the next server knows it.
	s.kill9(s.pid)
	s.waitEnd()
	s.start()
	if text := s.cli("instances", "describe", "first"); !strings.Contains(text, "memory bound:  3.9 GiB by cgroup v") {
		t.Errorf("describe after a restart: got %q, want the bound of 3.9 GiB", text)
	}
	// 3.9 GiB are more than a test should take.
	if err := os.WriteFile(file, []byte(strconv.Itoa(96<<20)), 0); err != nil {
		t.Fatal(err)
	}
	pid := s.node("engine")
	s.redisCLI(first, ca, "EVAL", "for i=1,40 do redis.call('SET', i, string.rep('x', 4194304)) end", "0")
	eventually(t, 20*time.Second, "another engine serves", func() bool {
		pids := s.nodes("engine")
		return len(pids) == 1 && pids[0] != pid && s.redisCLI(first, ca, "PING").stdout == "PONG\n"
	})
	const why = "killed by the system (OOM): it needed more memory than its bound of "
	if text := s.cli("instances", "describe", "first"); !strings.Contains(text, "engine ended:  ") || !strings.Contains(text, why) {
		t.Errorf("describe: got %q, want that the engine was killed by the system, and when", text)
	}
	if !strings.Contains(s.stderr.String(), why) {
		t.Errorf("the log does not say %q", why)
	}
	s.cli("stop")
	s.waitEnd()
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cgroup %s is left: %v", dir, err)
	}
}

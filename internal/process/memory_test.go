package process_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/process"
)

func TestMemoryGroupIsFound(t *testing.T) {
	t.Parallel()
	const (
		v1Mounts = "25 1 0:24 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
			"30 1 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n" +
			"31 1 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
		v2Mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	)
	for name, tt := range map[string]struct {
		mounts, cgroup, want string
		v2                   bool
	}{
		"v1": {v1Mounts, "9:name=systemd:/\n4:memory:/a/b\n0::/\n", "/sys/fs/cgroup/memory/a/b", false},
		"v1, several controllers in one": {
			strings.ReplaceAll(v1Mounts, "rw,memory", "rw,cpuset,memory"), "4:cpuset,memory:/a\n", "/sys/fs/cgroup/memory/a", false},
		"v2":              {v2Mounts, "0::/user.slice/user-1000.slice/session-3.scope\n", "/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope", true},
		"v2 at its root":  {v2Mounts, "0::/\n", "/sys/fs/cgroup", true},
		"a colon in it":   {v2Mounts, "0::/a:b\n", "/sys/fs/cgroup/a:b", true},
		"a container's":   {"30 1 0:27 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n", "4:memory:/docker/x/y\n", "/sys/fs/cgroup/memory/y", false},
		"not mounted":     {"", "0::/\n", "", false},
		"outside":         {"30 1 0:27 /docker/x /m ro - cgroup cgroup rw,memory\n", "4:memory:/docker/z\n", "", false},
		"garbage":         {"x\n - \n", "::\n:\n\n", "", false},
		"v1 with a space": {"30 1 0:27 / /m\\040x ro - cgroup cgroup rw,memory\n", "4:memory:/\n", "/m x", false},
	} {
		dir, v2, err := process.MemoryGroup([]byte(tt.mounts), []byte(tt.cgroup))
		if dir != tt.want || v2 != tt.v2 || (err == nil) != (tt.want != "") {
			t.Errorf("%s: got %q, %v, %v; want %q, %v", name, dir, v2, err, tt.want, tt.v2)
		}
	}
}

// hog is a process that takes memory without end once the file is there.
func hog(t *testing.T) (p *process.Process, begin func()) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3, which is to take the memory, is not installed")
	}
	file := filepath.Join(t.TempDir(), "begin")
	const program = "import os,sys,time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)\na=[]\nwhile True: a.append(b'x'*(1<<20))\n"
	p, err = process.Start(process.Config{Path: python, Args: []string{"-c", program, file}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Signal(syscall.SIGKILL)
		<-p.Done()
	})
	return p, func() {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const bound = 64 << 20

func waitForEnd(t *testing.T, p *process.Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("it has taken memory for 30 s, and lives")
	}
}

func TestMemoryIsBoundedByACgroup(t *testing.T) {
	t.Parallel()
	p, begin := hog(t)
	name := "test-" + strconv.Itoa(p.Identity().PID)
	b := p.BoundMemory(name, bound)
	if b.Group == "" {
		t.Skipf("NOT SHOWN HERE: this user may make no memory cgroup on this machine: %s", b.Problem)
	}
	t.Cleanup(func() { process.RemoveGroup(b.Group) })
	if b.Limit != bound || b.Problem != "" {
		t.Errorf("got %+v", b)
	}
	// Whoever comes later finds the same.
	if again := p.MemoryBound(); again != b {
		t.Errorf("found again: %+v, want %+v", again, b)
	}
	if again := p.BoundMemory(name, bound); again != b {
		t.Errorf("bounded again: %+v, want %+v", again, b)
	}
	// The bound follows an instance's size.
	for _, limit := range []int64{3 * bound, 2 * bound, bound} {
		if moved := p.BoundMemory(name, limit); moved.Limit != limit || moved.Group != b.Group || moved.Problem != "" {
			t.Errorf("moved to %d: %+v", limit, moved)
		}
	}
	begin()
	waitForEnd(t, p)
	if p.Exit() != "signal: killed" || !b.OutOfMemory() {
		t.Errorf("exit %q, out of memory %v", p.Exit(), b.OutOfMemory())
	}
	if err := process.RemoveGroup(b.Group); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(b.Group); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cgroup %s is left: %v", b.Group, err)
	}
}

// Whoever may make no cgroup can at least limit what a process allocates.
func TestMemoryIsBoundedWithoutCgroups(t *testing.T) {
	t.Parallel()
	p, begin := hog(t)
	b := process.BoundWithoutGroup(p, bound)
	if b.Limit != bound || b.By != "RLIMIT_DATA" || b.Problem == "" || b.Group != "" {
		t.Errorf("got %+v", b)
	}
	if again := p.MemoryBound(); again.Limit != bound || again.By != "RLIMIT_DATA" {
		t.Errorf("found again: %+v", again)
	}
	for _, limit := range []int64{2 * bound, bound} {
		if moved := process.BoundWithoutGroup(p, limit); moved.Limit != limit {
			t.Errorf("moved to %d: %+v", limit, moved)
		}
	}
	begin()
	waitForEnd(t, p) // of a MemoryError
	if p.Exit() != "exit status 1" || b.OutOfMemory() {
		t.Errorf("exit %q, out of memory %v", p.Exit(), b.OutOfMemory())
	}
}

func TestRemoveGroupRemovesNothingElse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, d := range []string{"", dir, filepath.Join(dir, "sealane-gone")} {
		if err := process.RemoveGroup(d); err != nil {
			t.Errorf("%q: %v", d, err)
		}
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

func FuzzMemoryGroup(f *testing.F) {
	f.Add([]byte("30 1 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"), []byte("4:memory:/a\n0::/\n"))
	f.Fuzz(func(t *testing.T, mounts, cgroup []byte) {
		if dir, _, err := process.MemoryGroup(mounts, cgroup); err == nil && dir == "" {
			t.Error("no error, and no folder")
		}
	})
}

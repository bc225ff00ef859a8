package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tmpfs mounts a small file system and returns a folder on it. Without the right to mount the test is skipped.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sle")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	mount(t, "-t", "tmpfs", "-o", "mode=0700,size="+size, "tmpfs", dir)
	return dir
}

// mount mounts a file system until the end of the test. The last argument is the mount point.
func mount(t *testing.T, args ...string) (unmount func()) {
	t.Helper()
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		t.Skipf("it takes root and the right to mount to show %s, so it is not shown here: mount %v: %v, %s", t.Name(), args, err, out)
	}
	mounted := true
	unmount = func() {
		if !mounted {
			return
		}
		mounted = false
		// The unmount is lazy. A process that still holds a file there is found by the next check.
		if out, err := exec.Command("umount", "-l", args[len(args)-1]).CombinedOutput(); err != nil {
			t.Errorf("umount: %v, %s", err, out)
		}
	}
	t.Cleanup(unmount)
	return unmount
}

func remount(t *testing.T, options, dir string) {
	t.Helper()
	if out, err := exec.Command("mount", "-o", "remount,"+options, dir).CombinedOutput(); err != nil {
		t.Fatalf("remount %s: %v, %s", dir, err, out)
	}
}

// fill fills the disk with a file.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{64 << 10, 4 << 10, 1} {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("fill %s: %v, want that the disk is full", dir, err)
		}
		err = nil
	}
	return func() { os.Remove(f.Name()) }
}

// wantRunning fails the test unless the server answers and the instance is reachable.
func (s *server) wantRunning(i instance, ca string) {
	s.t.Helper()
	if list := s.cli("instances", "list"); !strings.Contains(list, "first") {
		s.t.Errorf("list: got %q, want first in it", list)
	}
	s.wantPong(i, ca)
	if !s.alive() {
		s.t.Error("the server has ended")
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{state: tmpfs(t, "8m")})
	first := s.create("first")
	ca := s.bundle("first")
	client := startStream(t, first, ca, "counter")
	free := fill(t, s.state)
	t.Cleanup(free)
	for range 2 {
		got := s.cliFails(1, "instances", "create", "second")
		if !strings.Contains(got, "no space left on device") && !strings.Contains(got, "the disk is full") {
			t.Errorf("create: got %q, want that the disk is full", got)
		}
		if !strings.Contains(got, "sealane: hint: ") {
			t.Errorf("create: got %q, want a hint", got)
		}
		s.wantRunning(first, ca)
	}
	update := run(s.command("instances", "update", "first", "--display-name", "x"))
	if update.code != 0 && !strings.Contains(update.stderr, "the disk is full: free space in the server's state folder and try again") {
		t.Errorf("update: got %q, want that the disk is full and what to do", update.stderr)
	}
	s.wantRunning(first, ca)
	free()
	s.wantPong(s.create("second"), s.bundle("second"))
	if got := s.describe("first"); got.State != "READY" {
		t.Errorf("afterwards: got %+v", got)
	}
	client.wantUnnoticed(t)
}

// A stop that cannot save says so and leaves the engine up, with its data.
func TestStopOnFullDiskLosesNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{state: tmpfs(t, "8m")})
	first := s.create("first")
	ca := s.bundle("first")
	random := make([]byte, 256<<10) // does not fit, because it can't be compressed
	urandom, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer urandom.Close()
	if _, err := io.ReadFull(urandom, random); err != nil {
		t.Fatal(err)
	}
	large := s.program("redis-cli", "--tls", "--cacert", ca, "-h", first.Host, "-p", "6378", "-x", "SET", "large")
	large.Stdin = strings.NewReader(string(random))
	s.mustRun(large)
	engine := s.node("engine")
	free := fill(t, s.state)
	t.Cleanup(free)
	if got := s.cliFails(1, "stop"); !strings.Contains(got, "the engine stays up, because it could not save its data") || !strings.Contains(got, "sealane: hint: ") {
		t.Errorf("stop: got %q, want that the engine stays up, and why", got)
	}
	if now := s.node("engine"); now != engine {
		t.Errorf("the engine is process %d now, was %d", now, engine)
	}
	free()
	s.cli("stop")
	s.wantStopped()
	s.start()
	if got := s.redis(first, ca, "STRLEN", "large"); got != "262144" {
		t.Errorf("STRLEN large: got %q, want 262144", got)
	}
}

func TestReadOnlyState(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first")
	ca := s.bundle("first")
	client := startStream(t, first, ca, "counter")
	// The files that the server has open stay writable. Everything that it opens by its path is read-only.
	writable := mount(t, "--bind", s.state, s.state)
	remount(t, "bind,ro", s.state)
	got := s.cliFails(1, "instances", "create", "second")
	if !strings.Contains(got, "read-only file system") || !strings.Contains(got, "sealane: hint: ") {
		t.Errorf("create: got %q, want that the file system is read-only, and a hint", got)
	}
	s.wantRunning(first, ca)
	writable()
	s.wantPong(s.create("second"), s.bundle("second"))
	client.wantUnnoticed(t)
}

func TestStartOnFullOrReadOnlyDisk(t *testing.T) {
	t.Parallel()
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		state := tmpfs(t, "1m")
		free := fill(t, state)
		s := newServer(t, serverOptions{state: state})
		s.wantStartError("no space left on device")
		free()
		s.start()
	})
	// Half a file may be left behind. The next start works with or without it.
	for _, kib := range []int{4, 8, 12, 16, 20, 24, 28, 32} {
		t.Run(fmt.Sprintf("%d KiB free", kib), func(t *testing.T) {
			t.Parallel()
			state := tmpfs(t, "1m")
			s := newServer(t, serverOptions{state: state})
			free := fill(t, state)
			if err := os.Truncate(filepath.Join(state, "filler"), int64(1024-kib)<<10); err != nil {
				t.Fatal(err)
			}
			s.launch()
			if !within(20*time.Second, func() bool { return isClosed(s.ended) || strings.Contains(s.stdout.String(), "ready") }) {
				t.Fatal("sealane serve is neither ready nor does it end")
			}
			if s.alive() {
				s.signal(syscall.SIGTERM)
			} else if got := s.stderr.String(); !strings.Contains(got, "sealane: error: ") || !strings.Contains(got, "sealane: hint: ") {
				t.Errorf("got %q, want an error and a hint", got)
			}
			free()
			s.start()
		})
	}
	t.Run("read-only", func(t *testing.T) {
		t.Parallel()
		state := tmpfs(t, "1m")
		s := newServer(t, serverOptions{state: state})
		remount(t, "ro", state)
		s.wantStartError("read-only file system")
	})
}

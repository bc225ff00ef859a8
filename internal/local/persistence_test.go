package local_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
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
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/snapshot"
	"github.com/sealane/sealane/internal/store"
)

const patience = 60 * time.Second

// host is a machine with one instance, "first", of real processes, and a clock that can be moved.
type host struct {
	t       *testing.T
	dir     string
	key     pki.MasterKey
	pool    netip.Prefix
	ahead   atomic.Int64 // of the real clock, in nanoseconds
	store   *store.Store
	runtime *local.Runtime
	manager *instance.Manager
	log     safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var hosts atomic.Uint32

func newHost(t *testing.T, dir string) *host {
	t.Helper()
	key, err := pki.ParseMasterKey(pki.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, key: key}
	h.pool = netip.MustParsePrefix(fmt.Sprintf("127.%d.%d.0/28", 130+os.Getpid()%60, hosts.Add(1)))
	h.start()
	t.Cleanup(func() {
		if err := h.manager.StopAll(context.Background(), instance.StopAllOptions{Force: true}); err != nil {
			t.Errorf("stop: %v", err)
		}
		h.end()
	})
	return h
}

func (h *host) now() time.Time { return time.Now().Add(time.Duration(h.ahead.Load())) }

// start begins a server on what there is, as after a kill of the one before.
func (h *host) start() {
	h.t.Helper()
	var err error
	if h.store, err = store.Open(filepath.Join(h.dir, "state.db"), make([]byte, 32)); err != nil {
		h.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	h.runtime = local.New(filepath.Join(h.dir, "n"), []string{self, "gateway"}, enginetest.All(h.t)[:1])
	h.manager, err = instance.New(instance.Config{
		Store: h.store, Runtime: h.runtime, Key: h.key, Addresses: instance.Addresses{Pool: h.pool, FirstPort: 6378, LastPort: 6379},
		Now: h.now, Log: slog.New(slog.NewTextHandler(&h.log, nil)),
	})
	if err == nil {
		err = h.manager.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// end ends the server and leaves the processes, as a kill does.
func (h *host) end() {
	h.manager.Close()
	h.runtime.Close()
	h.store.Close()
}

var first = instance.Name{Project: "p", Location: "l", ID: "first"}

// create makes the instance and waits until it is ready.
func (h *host) create(spec instance.Spec) {
	h.t.Helper()
	spec.MemorySizeGB = 1
	if _, err := h.manager.Create(first, spec, "v1"); err != nil {
		h.t.Fatal(err)
	}
	h.eventually("it is ready", func() bool { return h.get().State == instance.Ready })
}

func (h *host) get() instance.Instance {
	h.t.Helper()
	i, err := h.manager.Get(first)
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

// update changes the spec.
func (h *host) update(change func(*instance.Spec)) {
	h.t.Helper()
	if _, err := h.manager.Update(h.t.Context(), first, instance.Change(change), "v1"); err != nil {
		h.t.Fatal(err)
	}
	h.eventually("the update is done", func() bool { return h.get().State == instance.Ready })
}

func (h *host) persistence() instance.Persistence {
	h.t.Helper()
	p, err := h.manager.Snapshots.Get(h.t.Context(), first)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// latest waits until so many snapshots were made, and returns the last one.
func (h *host) latest(n int) snapshot.Run {
	h.t.Helper()
	h.eventually(fmt.Sprintf("there are %d snapshots", n), func() bool { p := h.persistence(); return len(p.Runs) >= n && !p.InProgress })
	p := h.persistence()
	if len(p.Runs) != n {
		h.t.Fatalf("there are %d snapshots, %+v; want %d", len(p.Runs), p.Runs, n)
	}
	return p.Runs[n-1]
}

func (h *host) eventually(what string, ok func() bool) {
	h.t.Helper()
	for until := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			h.t.Fatalf("never: %s\n%s", what, h.log.String())
		}
	}
}

// advance moves the clock and makes the worker look at it.
func (h *host) advance(d time.Duration) {
	h.t.Helper()
	h.ahead.Add(int64(d))
	h.poke()
}

// poke makes the worker look again, which it would do within ten seconds.
func (h *host) poke() {
	h.update(func(s *instance.Spec) { s.DisplayName += "x" })
}

// nodeDir is the folder of the instance's node.
func (h *host) nodeDir() string {
	h.t.Helper()
	all, err := filepath.Glob(filepath.Join(h.dir, "n", "*"))
	if err != nil || len(all) != 1 {
		h.t.Fatalf("nodes: %v, %v", all, err)
	}
	return all[0]
}

// do asks the instance one thing.
func (h *host) do(args ...string) string {
	h.t.Helper()
	c, err := net.Dial("tcp", h.get().Address())
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	v, err := resp.NewClient(c, 1<<20).Do(h.t.Context(), args...)
	if err != nil {
		return err.Error()
	}
	return v.Str
}

func (h *host) want(want string, args ...string) {
	h.t.Helper()
	if got := h.do(args...); got != want {
		h.t.Errorf("%.60q: got %.100q; want %q", args, got, want)
	}
}

// enginePID is the engine's process.
func (h *host) enginePID() int {
	h.t.Helper()
	c, err := net.Dial("unix", engine.Socket(h.nodeDir()))
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	return peerPID(c)
}

// peerPID is the process at the other end of a Unix socket.
func peerPID(c net.Conn) int {
	raw, _ := c.(*net.UnixConn).SyscallConn()
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// crash kills the engine and waits until another one serves.
func (h *host) crash() {
	h.t.Helper()
	pid := h.enginePID()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	h.eventually("another engine serves", func() bool {
		c, err := net.Dial("unix", engine.Socket(h.nodeDir()))
		if err != nil {
			return false
		}
		defer c.Close()
		return peerPID(c) != pid && h.do("PING") == "PONG"
	})
}

// holdSnapshot moves the clock, and stops the process that makes the snapshot which is due then. It needs some data to be in time.
func (h *host) holdSnapshot(d time.Duration) (child int) {
	h.t.Helper()
	parent := h.enginePID()
	children := fmt.Sprintf("/proc/%d/task/%d/children", parent, parent)
	if _, err := os.Stat(children); err != nil {
		h.t.Skipf("NOT SHOWN HERE: this kernel doesn't tell the children of a process: %v", err)
	}
	found := make(chan int, 1)
	go func() {
		pid := 0
		for until := time.Now().Add(patience); pid == 0 && time.Now().Before(until); time.Sleep(200 * time.Microsecond) {
			if text, err := os.ReadFile(children); err == nil {
				if _, err := fmt.Sscan(string(text), &pid); err == nil {
					_ = syscall.Kill(pid, syscall.SIGSTOP)
				}
			}
		}
		found <- pid
	}()
	h.advance(d)
	if child = <-found; child == 0 {
		h.t.Fatalf("the engine has begun no snapshot\n%s", h.log.String())
	}
	h.eventually("it is shown", func() bool { return h.persistence().InProgress })
	return child
}

// noise is data that can't be compressed.
func noise(size int) string {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(b)
	return string(b)
}

// Snapshots are made on time, in the schedule, and what was missed is made up for once. After a crash the last one is back.
func TestSnapshotsFollowTheirSchedule(t *testing.T) {
	t.Parallel()
	h := newHost(t, tempDir(t))
	begin := h.now().Truncate(time.Second).UTC()
	h.create(instance.Spec{SnapshotPeriod: time.Hour, SnapshotStart: begin})
	if s := h.latest(1); s.Failure != "" || !s.Due.Equal(begin) || s.Size == 0 || s.Took() > patience {
		t.Errorf("the first snapshot: %+v; want a good one for %v", s, begin)
	}
	if p := h.persistence(); !p.Next.Equal(begin.Add(time.Hour)) || p.Problem != "" || p.InProgress {
		t.Errorf("after the first: %+v; want the next at %v", p, begin.Add(time.Hour))
	}
	if got := h.do("CONFIG", "GET", "save"); got != "" { // a list
		t.Errorf("save: %q", got)
	}
	h.want("OK", "SET", "k", "second")
	h.advance(time.Hour)
	if s := h.latest(2); !s.Due.Equal(begin.Add(time.Hour)) {
		t.Errorf("an hour later: %+v", s)
	}
	h.want("OK", "SET", "k", "lost")
	h.crash()
	h.want("second", "GET", "k")

	// The server is down for a day: one is made up for.
	h.end()
	h.ahead.Add(int64(24*time.Hour + 10*time.Minute))
	h.start()
	if s := h.latest(3); !s.Due.Equal(begin.Add(25 * time.Hour)) {
		t.Errorf("after a day: %+v; want one for %v", s, begin.Add(25*time.Hour))
	}
	if p := h.persistence(); !p.Next.Equal(begin.Add(26 * time.Hour)) {
		t.Errorf("after a day the next is at %v", p.Next)
	}
	// The clock is put back by a week, and forth again: one snapshot too many, at most.
	h.advance(-7 * 24 * time.Hour)
	h.poke()
	h.advance(7 * 24 * time.Hour)
	h.poke()
	if p := h.persistence(); len(p.Runs) > 4 || p.Problem != "" || !p.Next.Equal(begin.Add(26*time.Hour)) {
		t.Errorf("after the clock was put back and forth: %+v", p)
	}
}

// Persistence is switched, and its schedule changed, while the instance serves.
func TestPersistenceChangesLive(t *testing.T) {
	t.Parallel()
	h := newHost(t, tempDir(t))
	h.create(instance.Spec{})
	h.want("OK", "SET", "k", "v")
	if p := h.persistence(); p.Schedule.Period != 0 || !p.Next.IsZero() || len(p.Runs) != 0 {
		t.Errorf("without persistence: %+v", p)
	}
	for range 2 {
		start := h.now().UTC()
		h.update(func(s *instance.Spec) { s.SnapshotPeriod, s.SnapshotStart = 6*time.Hour, start })
		if s := h.latest(1); s.Failure != "" || !s.Due.Equal(start) {
			t.Errorf("switched on: %+v", s)
		}
		later := start.Add(40 * time.Minute)
		h.update(func(s *instance.Spec) { s.SnapshotStart = later })
		if p := h.persistence(); !p.Next.Equal(later) {
			t.Errorf("a later start: next at %v; want %v", p.Next, later)
		}
		h.update(func(s *instance.Spec) { s.SnapshotPeriod, s.SnapshotStart = time.Hour, start })
		if p := h.persistence(); !p.Next.Equal(start.Add(time.Hour)) || len(p.Runs) != 1 {
			t.Errorf("a shorter period: %+v; want the next at %v", p, start.Add(time.Hour))
		}
		h.update(func(s *instance.Spec) { s.SnapshotPeriod, s.SnapshotStart = 0, time.Time{} })
		h.eventually("its snapshots are forgotten", func() bool { return len(h.get().Snapshots) == 0 })
		if left, _ := filepath.Glob(filepath.Join(h.nodeDir(), "dump*.rdb")); len(left) > 1 || len(left) == 1 && filepath.Base(left[0]) != "dump.loaded.rdb" {
			t.Errorf("switched off, %v are left", left)
		}
	}
	h.want("v", "GET", "k")
}

// A snapshot whose process is killed is shown as failed, clients write on, and another attempt follows. A server that is killed in the
// middle of a snapshot, or an engine, leaves nothing half done.
func TestSnapshotIsKilled(t *testing.T) {
	t.Parallel()
	h := newHost(t, tempDir(t))
	begin := h.now().UTC()
	h.create(instance.Spec{SnapshotPeriod: time.Hour, SnapshotStart: begin})
	good := h.latest(1)
	for n := range 4 {
		h.want("OK", "SET", fmt.Sprint("big", n), noise(16<<20))
	}
	h.want("OK", "SET", "k", "v")
	if err := syscall.Kill(h.holdSnapshot(time.Hour), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if s := h.latest(2); s.Failure != "Background saving terminated by signal 9" || !s.Due.Equal(begin.Add(time.Hour)) {
		t.Errorf("killed: %+v", s)
	}
	want := "failed: Background saving terminated by signal 9; the last good one is of " + good.Finished.Format(time.RFC3339)
	h.eventually("the status message says so", func() bool { return strings.Contains(h.get().StatusMessage, want) })
	if i := h.get(); i.State != instance.Ready {
		t.Errorf("the instance is %s; want that it is ready", i.State)
	}
	h.want("OK", "SET", "k", "w")
	if p := h.persistence(); p.Next.Before(h.now()) || p.Next.After(h.now().Add(6*time.Minute)) {
		t.Errorf("the next attempt is at %v, and it is %v", p.Next, h.now())
	}

	// The server is killed during the next attempt, which goes on, and the next server notes how it ended.
	child := h.holdSnapshot(6 * time.Minute)
	h.end()
	h.start()
	h.eventually("the next server sees it", func() bool { return h.persistence().InProgress })
	if err := syscall.Kill(child, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	h.eventually("it is over", func() bool { return !h.persistence().InProgress })
	if s := h.latest(3); s.Failure != "" || !s.Due.Equal(begin.Add(time.Hour)) {
		t.Errorf("the next attempt: %+v; want a good one", s)
	}
	h.eventually("all is well again", func() bool { return h.get().StatusMessage == "" })
	h.crash()
	h.want("w", "GET", "k")
}

// The disk is full when a snapshot is made: the last good one stays, clients write on, and when there is room the next attempt works.
func TestSnapshotOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	disk := filepath.Join(dir, "d")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=0700,size=40m", "tmpfs", disk).CombinedOutput(); err != nil {
		t.Skipf("NOT SHOWN HERE: it takes root and the right to mount: %v, %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", disk).CombinedOutput(); err != nil {
			t.Errorf("umount: %v, %s", err, out)
		}
	})
	h := newHost(t, disk)
	begin := h.now().UTC()
	h.create(instance.Spec{SnapshotPeriod: time.Hour, SnapshotStart: begin})
	good := h.latest(1)
	h.want("OK", "SET", "k", "v")
	h.want("OK", "SET", "big", noise(16<<20))
	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	h.ahead.Add(int64(time.Hour)) // the record can't be written, so the worker is not woken; it looks by itself
	h.eventually("the status message says so", func() bool {
		return strings.Contains(h.get().StatusMessage, "No space left on device; the last good one is of "+good.Finished.Format(time.RFC3339))
	})
	if i := h.get(); i.State != instance.Ready {
		t.Errorf("the instance is %s, %s; want that it is ready", i.State, i.StatusMessage)
	}
	h.want("OK", "SET", "k", "w")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	h.ahead.Add(int64(6 * time.Minute))
	h.eventually("the next attempt has worked", func() bool { return h.get().StatusMessage == "" && len(h.get().Snapshots) == 3 })
	h.crash()
	h.want("w", "GET", "k")
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{64 << 10, 4 << 10, 1} {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
}

// A dump that was damaged on disk gives way to the one before it, and users are told.
func TestDamagedSnapshotIsNotRestored(t *testing.T) {
	t.Parallel()
	h := newHost(t, tempDir(t))
	h.create(instance.Spec{SnapshotPeriod: time.Hour, SnapshotStart: h.now().UTC()})
	h.latest(1)
	h.want("OK", "SET", "k", "old")
	h.advance(time.Hour)
	h.latest(2)
	h.want("OK", "SET", "k", "new")
	h.advance(time.Hour)
	h.latest(3)
	dump := filepath.Join(h.nodeDir(), "dump.rdb")
	f, err := os.OpenFile(dump, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if size, err := f.Seek(0, io.SeekEnd); err != nil || f.Truncate(size-9) != nil {
		t.Fatal(size, err)
	}
	f.Close()
	h.crash()
	h.want("old", "GET", "k")
	if _, err := os.Stat(filepath.Join(h.nodeDir(), "dump.damaged.rdb")); err != nil {
		t.Error(err)
	}
	h.eventually("the log says so", func() bool {
		return strings.Contains(h.log.String(), "the last snapshot was damaged when it was to be restored (") &&
			strings.Contains(h.log.String(), "so the data are those of the one before, of ")
	})
	h.eventually("another one was made", func() bool { return len(h.get().Snapshots) == 4 && h.get().StatusMessage == "" })
	if runs := h.persistence().Runs; runs[2].Failure != "it was damaged on the disk when it was to be restored" || runs[3].Failure != "" {
		t.Errorf("got %+v", runs)
	}
}

func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

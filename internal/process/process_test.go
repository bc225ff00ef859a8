package process_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/process"
)

// The test binary is its own child: HELPER chooses the role.
func TestMain(m *testing.M) {
	switch os.Getenv("HELPER") {
	case "":
		os.Exit(m.Run())
	case "listen":
		helperListen()
	case "parent":
		helperParent()
	case "exit":
		fmt.Println("to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
		os.Exit(3)
	}
}

// helperListen listens on SOCKET, then reports by connecting to READY, and lives until it is killed.
func helperListen() {
	l, err := net.Listen("unix", os.Getenv("SOCKET"))
	if err != nil {
		panic(err)
	}
	if _, err := net.Dial("unix", os.Getenv("READY")); err != nil {
		panic(err)
	}
	for {
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}
}

// helperParent starts a listener and hangs as a parent that is killed before it wrote anything down.
func helperParent() {
	if _, err := process.Start(listenConfig(os.Getenv("DIR"))); err != nil {
		panic(err)
	}
	select {}
}

func listenConfig(dir string) process.Config {
	return process.Config{
		Path: "/proc/self/exe",
		Env:  []string{"HELPER=listen", "SOCKET=" + filepath.Join(dir, "s"), "READY=" + filepath.Join(dir, "ready")},
		Log:  filepath.Join(dir, "log"),
		Lock: filepath.Join(dir, "lock"),
	}
}

type fixture struct {
	dir    string
	socket string
	lock   string
	ready  *net.UnixListener
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	// t.TempDir can be longer than a socket path may be.
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ready, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "ready")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ready.Close() })
	ready.SetDeadline(time.Now().Add(30 * time.Second))
	return &fixture{dir: dir, socket: filepath.Join(dir, "s"), lock: filepath.Join(dir, "lock"), ready: ready}
}

func (f *fixture) waitReady(t *testing.T) {
	t.Helper()
	c, err := f.ready.Accept()
	if err != nil {
		t.Fatalf("wait for the child: %v", err)
	}
	c.Close()
}

func (f *fixture) start(t *testing.T) *process.Process {
	t.Helper()
	p, err := process.Start(listenConfig(f.dir))
	if err != nil {
		t.Fatal(err)
	}
	f.killAtEnd(t, p)
	f.waitReady(t)
	return p
}

// killAtEnd also ends a process whose handle the test has released.
func (f *fixture) killAtEnd(t *testing.T, p *process.Process) {
	t.Cleanup(func() {
		defer p.Release()
		err := p.Signal(syscall.SIGKILL)
		if err == nil {
			waitDone(t, p)
		}
		if !errors.Is(err, os.ErrClosed) {
			return
		}
		q, err := process.Adopt(f.socket)
		if err != nil {
			return // it has ended
		}
		defer q.Release()
		if q.Identity() == p.Identity() && q.Signal(syscall.SIGKILL) == nil {
			<-q.Done()
		}
	})
}

func waitDone(t *testing.T, p *process.Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the process does not end")
	}
}

func (f *fixture) wantLocked(t *testing.T, want bool) {
	t.Helper()
	if got, err := process.Locked(f.lock); err != nil || got != want {
		t.Errorf("locked: got %v, %v; want %v", got, err, want)
	}
}

func TestExitStatusAndLog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cfg := process.Config{
		Path: "/proc/self/exe",
		Env:  []string{"HELPER=exit", "GOCOVERDIR=" + f.dir}, // without a folder -cover writes a warning into the log
		Log:  filepath.Join(f.dir, "log"),
		Lock: f.lock,
	}
	for range 2 {
		p, err := process.Start(cfg)
		if err != nil {
			t.Fatal(err)
		}
		f.killAtEnd(t, p)
		waitDone(t, p)
		if got, want := p.Exit(), "exit status 3"; got != want {
			t.Errorf("exit: got %q, want %q", got, want)
		}
		if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal after the exit: got %v, want os.ErrProcessDone", err)
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.Identity().PID)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the child was not reaped: %v", err)
		}
	}
	log, err := os.ReadFile(cfg.Log)
	if want := strings.Repeat("to stdout\nto stderr\n", 2); err != nil || string(log) != want {
		t.Errorf("log: got %q, %v; want %q", log, err, want)
	}
	info, err := os.Stat(cfg.Log)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("log mode: got %v, %v; want 0600", info.Mode(), err)
	}
}

func TestOneProcessPerLock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.wantLocked(t, false)
	p := f.start(t)
	f.wantLocked(t, true)

	cfg := listenConfig(f.dir)
	cfg.Prepare = func() error { t.Error("prepared without the lock"); return nil }
	if _, err := process.Start(cfg); !errors.Is(err, process.ErrLocked) {
		t.Errorf("second start: got %v, want ErrLocked", err)
	}
	if got := p.Exit(); got != "" {
		t.Errorf("exit of a running process: got %q", got)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitDone(t, p)
	if got, want := p.Exit(), "signal: killed"; got != want {
		t.Errorf("exit: got %q, want %q", got, want)
	}
	f.wantLocked(t, false)
}

// The parent is killed with SIGKILL right after the start: the child lives, holds the lock and can be adopted.
func TestParentKilled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	parent := exec.Command("/proc/self/exe")
	parent.Env = []string{"HELPER=parent", "DIR=" + f.dir}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	f.waitReady(t)
	parent.Process.Kill()
	parent.Wait()

	f.wantLocked(t, true)
	if _, err := process.Start(listenConfig(f.dir)); !errors.Is(err, process.ErrLocked) {
		t.Errorf("start beside the orphan: got %v, want ErrLocked", err)
	}
	p, err := process.Adopt(f.socket)
	if err != nil {
		t.Fatal(err)
	}
	f.killAtEnd(t, p)
	if p.Identity().PID == parent.Process.Pid || p.Identity().StartTime == 0 {
		t.Errorf("identity: got %+v", p.Identity())
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitDone(t, p)
	if got, want := p.Exit(), "exited"; got != want {
		t.Errorf("exit: got %q, want %q", got, want)
	}
	f.wantLocked(t, false)
	if _, err := process.Adopt(f.socket); !errors.Is(err, process.ErrNotRunning) {
		t.Errorf("adopt a dead socket: got %v, want ErrNotRunning", err)
	}
}

// Release leaves the process alone; the one who adopts it gets the same identity and reaps it.
func TestReleaseThenAdopt(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := f.start(t)
	p.Release()
	p.Release()
	if err := p.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrClosed) {
		t.Errorf("signal after release: got %v, want os.ErrClosed", err)
	}
	q, err := process.Adopt(f.socket)
	if err != nil {
		t.Fatal(err)
	}
	f.killAtEnd(t, q)
	if q.Identity() != p.Identity() {
		t.Errorf("identity: got %+v, want %+v", q.Identity(), p.Identity())
	}
	if err := q.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitDone(t, q)
	if got, want := q.Exit(), "signal: terminated"; got != want {
		t.Errorf("exit of an adopted child: got %q, want %q", got, want)
	}
	select {
	case <-p.Done():
		t.Error("a released process reported its exit")
	default:
	}
}

func TestDetached(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := f.start(t)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Identity().PID))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if got, want := fields[3], fmt.Sprint(p.Identity().PID); got != want {
		t.Errorf("session: got %s, want its own, %s", got, want)
	}
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cfg := listenConfig(f.dir)
	boom := errors.New("boom")
	cfg.Prepare = func() error {
		f.wantLocked(t, true)
		return boom
	}
	if _, err := process.Start(cfg); !errors.Is(err, boom) {
		t.Errorf("got %v, want the error of Prepare", err)
	}
	f.wantLocked(t, false)
}

func TestStartErrors(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, cfg := range []process.Config{
		{Path: filepath.Join(f.dir, "missing"), Lock: f.lock},
		{Path: "/proc/self/exe", Lock: filepath.Join(f.dir, "no", "lock")},
		{Path: "/proc/self/exe", Lock: f.lock, Log: filepath.Join(f.dir, "no", "log")},
	} {
		if _, err := process.Start(cfg); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), f.dir) {
			t.Errorf("got %v, want an os.ErrNotExist that names the file", err)
		}
		f.wantLocked(t, false)
	}
}

func TestAdoptErrors(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := process.Adopt(f.socket); !errors.Is(err, process.ErrNotRunning) {
		t.Errorf("no socket: got %v, want ErrNotRunning", err)
	}
	long := filepath.Join(f.dir, strings.Repeat("x", 108))
	if _, err := process.Adopt(long); err == nil || !strings.Contains(err.Error(), "107") {
		t.Errorf("long path: got %v, want an error with the limit", err)
	}
}

// A watcher costs one descriptor and one goroutine, and both go away with it.
func TestNothingLeaks(t *testing.T) {
	f := newFixture(t)
	f.start(t).Release()
	fds, goroutines := openFiles(t), runtime.NumGoroutine()
	for range 20 {
		q, err := process.Adopt(f.socket)
		if err != nil {
			t.Fatal(err)
		}
		q.Release()
	}
	if got := openFiles(t); got > fds {
		t.Errorf("open files: got %d, want %d", got, fds)
	}
	// The last watcher may have reported its end and not have left the scheduler yet.
	if got := runtime.NumGoroutine(); got > goroutines+5 {
		t.Errorf("goroutines: got %d, want about %d", got, goroutines)
	}
	q, err := process.Adopt(f.socket)
	if err != nil {
		t.Fatal(err)
	}
	f.killAtEnd(t, q)
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestParseStartTime(t *testing.T) {
	t.Parallel()
	fields := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21"
	// A program may call itself ") S 1 2 3" to look like another process.
	for _, name := range []string{"redis-server", "a b", ") S 1 2 3 ("} {
		if got, err := process.ParseStartTime("1 (" + name + ")" + fields); err != nil || got != 4711 {
			t.Errorf("%q: got %d, %v; want 4711", name, got, err)
		}
	}
	for _, bad := range []string{"", "1 (x) S 1", "no name"} {
		if _, err := process.ParseStartTime(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

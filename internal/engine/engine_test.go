package engine_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/process"
	"github.com/sealane/sealane/internal/resp"
)

const admin = "the admin's secret"

// The test binary plays engines that do not behave: a link to it prints the file that is called like the link plus
// ".out", its environment when that says "env", or hangs when it is empty.
func TestMain(m *testing.M) {
	out, err := os.ReadFile(os.Args[0] + ".out")
	switch {
	case err != nil:
		os.Exit(m.Run())
	case len(out) == 0:
		select {}
	case string(out) == "env":
		fmt.Println(os.Environ())
		os.Exit(1)
	default:
		os.Stdout.Write(out)
		// os.Exit(0) of a binary built with -race sleeps for a second.
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

func fake(t *testing.T, dir, name, out string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".out", []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tempDir is shorter than t.TempDir, for the path of the socket.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// binary is the engine in PATH.
func binary(t *testing.T) engine.Binary {
	t.Helper()
	return enginetest.All(t)[0]
}

func config(t *testing.T) engine.Config {
	return engine.Config{Dir: filepath.Join(tempDir(t), "e"), AdminPassword: admin}
}

func start(t *testing.T, cfg engine.Config) *engine.Engine {
	t.Helper()
	return startOf(t, binary(t), cfg)
}

func startOf(t *testing.T, b engine.Binary, cfg engine.Config) *engine.Engine {
	t.Helper()
	e, err := engine.Start(deadline(t), b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	killAtEnd(t, cfg.Dir, e)
	return e
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// killAtEnd also ends an engine whose handle the test has released.
func killAtEnd(t *testing.T, dir string, e *engine.Engine) {
	t.Cleanup(func() {
		defer e.Release()
		err := e.Kill()
		if err == nil {
			waitDone(t, e)
			return
		}
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("kill: %v", err)
		}
		p, err := process.Adopt(engine.Socket(dir))
		if err != nil {
			return // it has ended
		}
		defer p.Release()
		if p.Identity() == e.Identity() && p.Signal(syscall.SIGKILL) == nil {
			<-p.Done()
		}
	})
}

func waitDone(t *testing.T, e *engine.Engine) {
	t.Helper()
	select {
	case <-e.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the engine does not end")
	}
}

func stop(t *testing.T, e *engine.Engine, save bool) {
	t.Helper()
	if err := e.Stop(deadline(t), save); err != nil {
		t.Fatal(err)
	}
	if got, want := e.Exit(), "exit status 0"; got != want {
		t.Errorf("exit: got %q, want %q", got, want)
	}
}

// client is an ordinary client of the default user.
type client struct {
	t    *testing.T
	conn net.Conn
}

func connect(t *testing.T, dir string) *client {
	t.Helper()
	conn, err := net.Dial("unix", engine.Socket(dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &client{t, conn}
}

func (c *client) do(args ...string) resp.Value {
	c.t.Helper()
	if _, err := c.conn.Write(resp.AppendCommand(nil, args...)); err != nil {
		c.t.Fatal(err)
	}
	var in []byte
	chunk := make([]byte, 64<<10)
	for {
		v, _, err := resp.ParseReply(in, resp.Limits{})
		if err == nil {
			return v
		}
		n, readErr := c.conn.Read(chunk)
		if readErr != nil || !errors.Is(err, resp.ErrIncomplete) {
			c.t.Fatalf("%v: %v, %v", args, err, readErr)
		}
		in = append(in, chunk[:n]...)
	}
}

func (c *client) want(want string, args ...string) {
	c.t.Helper()
	if got := c.do(args...); got.Str != want {
		c.t.Errorf("%v: got %+v, want %q", args, got, want)
	}
}

func exists(t *testing.T, path string, want bool) {
	t.Helper()
	if _, err := os.Stat(path); (err == nil) != want {
		t.Errorf("%s: got %v, want exists=%v", filepath.Base(path), err, want)
	}
}

// The promise of TLS only: no TCP listener, and a socket that no other user reaches, even in a folder that was
// world-readable before.
func TestListensOnPrivateSocketOnly(t *testing.T) { enginetest.Each(t, listensOnPrivateSocketOnly) }

func listensOnPrivateSocketOnly(t *testing.T, b engine.Binary) {
	t.Parallel()
	cfg := config(t)
	if err := os.Mkdir(cfg.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	e := startOf(t, b, cfg)
	for path, want := range map[string]os.FileMode{
		cfg.Dir:                               0o700 | os.ModeDir,
		engine.Socket(cfg.Dir):                0o600 | os.ModeSocket,
		filepath.Join(cfg.Dir, "engine.conf"): 0o600,
		filepath.Join(cfg.Dir, "engine.log"):  0o600,
		filepath.Join(cfg.Dir, "engine.lock"): 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: got %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	for _, line := range networkSockets(t, e) {
		t.Errorf("the engine has a network socket: %s", line)
	}
}

// networkSockets are the engine's lines of /proc/net/tcp and the like. The fourth field is the state: 0A listens.
func networkSockets(t *testing.T, e *engine.Engine) (lines []string) {
	t.Helper()
	inodes := sockets(t, e.Identity().PID)
	if len(inodes) == 0 {
		t.Fatal("found no socket of the engine: the check checks nothing")
	}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		b, err := os.ReadFile("/proc/net/" + table)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 9 && slices.Contains(inodes, f[9]) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// sockets are the inodes of all sockets of a process.
func sockets(t *testing.T, pid int) (inodes []string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, _ := os.Readlink(filepath.Join(dir, e.Name()))
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes = append(inodes, strings.TrimSuffix(inode, "]"))
		}
	}
	return inodes
}

func TestBlockedCommands(t *testing.T) { enginetest.Each(t, blockedCommands) }

func blockedCommands(t *testing.T, b engine.Binary) {
	t.Parallel()
	cfg := config(t)
	e := startOf(t, b, cfg)
	c := connect(t, cfg.Dir)
	for _, cmd := range []string{
		"CONFIG SET port 16399", "CONFIG SET maxmemory 1", "CONFIG REWRITE", "SHUTDOWN", "SHUTDOWN NOSAVE", "DEBUG JMAP",
		"REPLICAOF 127.0.0.1 1", "SLAVEOF NO ONE", "FAILOVER", "MIGRATE 127.0.0.1 1 k 0 10", "MODULE LIST",
		"MODULE LOAD /x.so", "ACL LIST", "ACL USERS", "ACL GETUSER sealane", "ACL SETUSER x on", "ACL DELUSER sealane",
		"ACL SAVE", "ACL LOAD", "ACL LOG", "PSYNC ? -1", "SYNC", "REPLCONF listening-port 1", "SAVE", "BGSAVE",
		"BGREWRITEAOF", "CLUSTER MEET 127.0.0.1 1",
		"EVAL return(redis.call('CONFIG','SET','port','16399')) 0",
	} {
		// Some are forbidden by a check of their own that comes before the one of the user's rights.
		if got := c.do(strings.Fields(cmd)...); !got.IsError() || !strings.HasPrefix(got.Str, "NOPERM") &&
			!strings.Contains(got.Str, "not allowed") {
			t.Errorf("%s: got %+v, want NOPERM", cmd, got)
		}
	}
	for _, cmd := range []string{
		"CONFIG GET maxmemory", "CONFIG RESETSTAT", "ACL WHOAMI", "ACL CAT", "EVAL return(1) 0", "CLIENT LIST", "SLOWLOG GET",
		"LATENCY LATEST", "MEMORY USAGE k", "INFO", "SET k v", "DEL k", "KEYS *", "FLUSHALL", "COMMAND COUNT", "WAIT 0 0",
		"MULTI", "PUBLISH ch m", "EXEC", "SUBSCRIBE ch", "RESET", "MONITOR",
	} {
		if got := c.do(strings.Fields(cmd)...); got.IsError() {
			t.Errorf("%s: got %+v, want no error", cmd, got)
		}
	}
	if _, err := engine.Call(e, deadline(t), []string{"CONFIG", "SET", "maxmemory", "100mb"}, []string{"ACL", "LIST"}); err != nil {
		t.Errorf("the control plane's user: %v", err)
	}
}

func TestAuth(t *testing.T) { enginetest.Each(t, passwords) }

func passwords(t *testing.T, b engine.Binary) {
	t.Parallel()
	sum := sha256.Sum256([]byte("user's secret"))
	on, off := config(t), config(t)
	on.PasswordHashes = []string{hex.EncodeToString(sum[:])}
	startOf(t, b, on)
	startOf(t, b, off)

	c := connect(t, on.Dir)
	c.want("NOAUTH Authentication required.", "PING")
	c.want("WRONGPASS invalid username-password pair or user is disabled.", "AUTH", "wrong")
	// The hash is not the password.
	c.want("WRONGPASS invalid username-password pair or user is disabled.", "AUTH", on.PasswordHashes[0])
	c.want("OK", "AUTH", "user's secret")
	c.want("PONG", "PING")
	connect(t, off.Dir).want("PONG", "PING")
	connect(t, off.Dir).want("WRONGPASS invalid username-password pair or user is disabled.", "AUTH", "sealane", "wrong")
}

func TestPasswordsChangeLive(t *testing.T) { enginetest.Each(t, passwordsChangeLive) }

func passwordsChangeLive(t *testing.T, b engine.Binary) {
	t.Parallel()
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return hex.EncodeToString(sum[:])
	}
	cfg := config(t)
	e := startOf(t, b, cfg)
	stays := connect(t, cfg.Dir)
	stays.want("PONG", "PING")
	for _, step := range []struct {
		what   string
		hashes []string
		yes    []string // passwords that are accepted; none: no password is asked for
		no     []string
	}{
		{"on", []string{hash("a")}, []string{"a"}, []string{"b"}},
		{"two", []string{hash("b"), hash("a")}, []string{"a", "b"}, []string{"c"}},
		{"the new one only", []string{hash("b")}, []string{"b"}, []string{"a"}},
		{"again the same", []string{hash("b")}, []string{"b"}, []string{"a"}},
		{"off", nil, nil, nil},
	} {
		if err := e.SetPasswords(deadline(t), step.hashes); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		for _, password := range step.yes {
			c := connect(t, cfg.Dir)
			c.want("NOAUTH Authentication required.", "PING")
			c.want("OK", "AUTH", password)
		}
		for _, password := range step.no {
			connect(t, cfg.Dir).want("WRONGPASS invalid username-password pair or user is disabled.", "AUTH", password)
		}
		if step.yes == nil {
			connect(t, cfg.Dir).want("PONG", "PING")
		}
		stays.want("PONG", "PING") // who was let in stays
	}
	c := connect(t, cfg.Dir)
	if got := c.do("CONFIG", "SET", "maxmemory", "1"); !strings.HasPrefix(got.Str, "NOPERM ") || !strings.Contains(got.Str, "'config|set'") {
		t.Errorf("CONFIG SET: got %+v, want NOPERM", got) // Redis 7.0 says "this user", later ones name it
	}
}

// Neither the arguments nor a file of the engine holds a secret.
func TestNoSecretAnywhere(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	e := start(t, cfg)
	if _, err := e.Info(deadline(t)); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(admin))
	for _, f := range []string{
		fmt.Sprintf("/proc/%d/cmdline", e.Identity().PID),
		filepath.Join(cfg.Dir, "engine.conf"),
		filepath.Join(cfg.Dir, "engine.log"),
	} {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(admin)) {
			t.Errorf("%s holds the secret", f)
		}
		if want := strings.HasSuffix(f, ".conf"); bytes.Contains(b, []byte(hex.EncodeToString(sum[:]))) != want {
			t.Errorf("%s: holds the hash: got %v, want %v", f, !want, want)
		}
	}
}

// The control plane's environment may hold the master key; the engine does not get it.
func TestEnvironmentIsNotInherited(t *testing.T) {
	t.Setenv("SEALANE_MASTER_KEY", admin)
	t.Setenv("TZ", "Europe/Vienna")
	cfg := config(t)
	env := engine.Binary{Path: fake(t, filepath.Dir(cfg.Dir), "env", "env"), Version: engine.Version{Major: 7}}
	_, err := engine.Start(deadline(t), env, cfg)
	var died *engine.StartError
	if !errors.As(err, &died) || !strings.Contains(died.Log, "TZ=Europe/Vienna") || strings.Contains(died.Log, "SEALANE") {
		t.Errorf("got %v, want the time zone and nothing of Sealane's", err)
	}
}

func TestDataSurviveStop(t *testing.T) { enginetest.Each(t, dataSurviveStop) }

func dataSurviveStop(t *testing.T, b engine.Binary) {
	t.Parallel()
	cfg := config(t)
	e := startOf(t, b, cfg)
	connect(t, cfg.Dir).want("OK", "SET", "k", "v")
	stop(t, e, true)
	if err := e.Stop(deadline(t), true); err != nil {
		t.Errorf("second stop: got %v, want nil", err)
	}
	exists(t, filepath.Join(cfg.Dir, "dump.rdb"), true)
	e = startOf(t, b, cfg)
	connect(t, cfg.Dir).want("v", "GET", "k")
	exists(t, filepath.Join(cfg.Dir, "dump.rdb"), false)
	exists(t, filepath.Join(cfg.Dir, "dump.loaded.rdb"), true)
	stop(t, e, false)
	startOf(t, b, cfg)
	connect(t, cfg.Dir).want("", "GET", "k")
}

// After a crash the data of the last clean stop comes back only where persistence is on.
func TestDumpAfterCrash(t *testing.T) { enginetest.Each(t, dumpAfterCrash) }

func dumpAfterCrash(t *testing.T, b engine.Binary) {
	t.Parallel()
	for keep, want := range map[bool]string{false: "", true: "v"} {
		t.Run(fmt.Sprint("keep=", keep), func(t *testing.T) {
			t.Parallel()
			cfg := config(t)
			cfg.KeepDump = keep
			e := startOf(t, b, cfg)
			connect(t, cfg.Dir).want("OK", "SET", "k", "v")
			stop(t, e, true)
			e = startOf(t, b, cfg)
			if err := e.Kill(); err != nil {
				t.Fatal(err)
			}
			waitDone(t, e)
			if got, want := e.Exit(), "signal: killed"; got != want {
				t.Errorf("exit: got %q, want %q", got, want)
			}
			startOf(t, b, cfg)
			connect(t, cfg.Dir).want(want, "GET", "k")
		})
	}
}

// The control plane died between the end of loading and the rename: Adopt finishes it.
func TestAdoptRetiresDump(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	e := start(t, cfg)
	e.Release()
	dump := filepath.Join(cfg.Dir, "dump.rdb")
	if err := os.WriteFile(dump, []byte("as if just loaded"), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := engine.Adopt(deadline(t), cfg.Dir, admin)
	if err != nil {
		t.Fatal(err)
	}
	killAtEnd(t, cfg.Dir, e)
	exists(t, dump, false)
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	if _, err := engine.Adopt(deadline(t), cfg.Dir, admin); !errors.Is(err, process.ErrNotRunning) {
		t.Errorf("adopt nothing: got %v, want ErrNotRunning", err)
	}
	first := start(t, cfg)
	c := connect(t, cfg.Dir)
	c.want("OK", "SET", "k", "v")
	conf, err := os.ReadFile(filepath.Join(cfg.Dir, "engine.conf"))
	if err != nil {
		t.Fatal(err)
	}

	other := cfg
	other.AdminPassword = "another"
	if _, err := engine.Start(deadline(t), binary(t), other); !errors.Is(err, process.ErrLocked) {
		t.Errorf("second start: got %v, want ErrLocked", err)
	}
	if now, err := os.ReadFile(filepath.Join(cfg.Dir, "engine.conf")); err != nil || !bytes.Equal(now, conf) {
		t.Errorf("the second start changed the configuration of the first: %v", err)
	}

	first.Release()
	var reply resp.ReplyError
	if _, err := engine.Adopt(deadline(t), cfg.Dir, "wrong"); !errors.As(err, &reply) || reply.Code() != "WRONGPASS" {
		t.Errorf("wrong password: got %v, want WRONGPASS", err)
	}
	e, err := engine.Adopt(deadline(t), cfg.Dir, admin)
	if err != nil {
		t.Fatal(err)
	}
	killAtEnd(t, cfg.Dir, e)
	if e.Identity() != first.Identity() {
		t.Errorf("identity: got %+v, want %+v", e.Identity(), first.Identity())
	}
	c.want("v", "GET", "k") // the old connection noticed nothing
	stop(t, e, true)
}

// An engine that is busy with a script or cannot save refuses PING, but runs.
func TestAdoptBusy(t *testing.T) { enginetest.Each(t, adoptBusy) }

func adoptBusy(t *testing.T, b engine.Binary) {
	t.Parallel()
	cfg := config(t)
	cfg.Directives = map[string]string{"lua-time-limit": "1"}
	first := startOf(t, b, cfg)
	first.Release()
	loop := connect(t, cfg.Dir)
	if _, err := loop.conn.Write(resp.AppendCommand(nil, "EVAL", "while true do end", "0")); err != nil {
		t.Fatal(err)
	}
	e, err := engine.Adopt(deadline(t), cfg.Dir, admin)
	if err != nil {
		t.Fatal(err)
	}
	killAtEnd(t, cfg.Dir, e)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := e.Stop(ctx, true); err == nil {
		t.Error("a save during a script: got no error")
	}
	stop(t, e, false)
}

// The lock is held and nobody listens: Adopt and Start wait for as long as ctx allows, and for no longer.
func TestWaitForLock(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	if err := os.Mkdir(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	holder, err := process.Start(process.Config{
		Path: fake(t, cfg.Dir, "hang", ""),
		Lock: filepath.Join(cfg.Dir, "engine.lock"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Release()
	defer holder.Signal(syscall.SIGKILL)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := engine.Adopt(ctx, cfg.Dir, admin); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("adopt: got %v, want the end of the context", err)
	}
	if _, err := engine.Start(ctx, binary(t), cfg); !errors.Is(err, process.ErrLocked) {
		t.Errorf("start: got %v, want ErrLocked", err)
	}

	var wg sync.WaitGroup
	wg.Go(func() {
		e, err := engine.Start(deadline(t), binary(t), cfg)
		if err != nil {
			t.Error(err)
			return
		}
		killAtEnd(t, cfg.Dir, e)
	})
	if err := holder.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// The engine ends at once: its own words are in the error.
func TestStartShowsLog(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	if err := os.Mkdir(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(cfg.Dir, "engine.log")
	if err := os.WriteFile(log, []byte("words of an earlier start\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Directives = map[string]string{"maxmemory": "plenty"}
	_, err := engine.Start(deadline(t), binary(t), cfg)
	var died *engine.StartError
	if !errors.As(err, &died) {
		t.Fatalf("got %v, want a *StartError", err)
	}
	if died.Exit != "exit status 1" || !strings.Contains(died.Log, "memory value") || strings.Contains(died.Log, "earlier") {
		t.Errorf("got %+v", died)
	}
	cfg.Directives = nil
	start(t, cfg) // and nothing of the failed one is in the way
}

// Who gives up waiting leaves no engine behind.
func TestStartCanceled(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	hang := engine.Binary{Path: fake(t, filepath.Dir(cfg.Dir), "hang", ""), Version: engine.Version{Major: 7}}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := engine.Start(ctx, hang, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the context", err)
	}
	if locked, err := process.Locked(filepath.Join(cfg.Dir, "engine.lock")); err != nil || locked {
		t.Errorf("locked: got %v, %v; want false", locked, err)
	}
}

// The engine cannot write its dump (here a folder is in the way, as with a full disk): it must stay.
func TestRefusedStopLeavesItRunning(t *testing.T) { enginetest.Each(t, refusedStopLeavesItRunning) }

func refusedStopLeavesItRunning(t *testing.T, b engine.Binary) {
	t.Parallel()
	cfg := config(t)
	e := startOf(t, b, cfg)
	c := connect(t, cfg.Dir)
	c.want("OK", "SET", "k", "v")
	dump := filepath.Join(cfg.Dir, "dump.rdb")
	if err := os.MkdirAll(filepath.Join(dump, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := e.Stop(deadline(t), true)
	var reply resp.ReplyError
	if !errors.As(err, &reply) || !strings.Contains(err.Error(), "engine.log") {
		t.Errorf("got %v, want a ReplyError and where the log is", err)
	}
	c.want("v", "GET", "k")
	if err := os.RemoveAll(dump); err != nil {
		t.Fatal(err)
	}
	stop(t, e, true)
}

func TestConcurrentStops(t *testing.T) {
	t.Parallel()
	e := start(t, config(t))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := e.Stop(deadline(t), true); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// An engine that does not react is told as what it is, and is sent nothing that it would do when it goes on.
func TestFrozen(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	e := start(t, cfg)
	if err := syscall.Kill(e.Identity().PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var silent *engine.SilentError
	for name, err := range map[string]error{
		"info": func() error { _, err := e.Info(deadline(t)); return err }(), "stop": e.Stop(deadline(t), true), "harden": e.Harden(deadline(t)),
		"adopt": func() error { _, err := engine.Adopt(deadline(t), cfg.Dir, admin); return err }(),
	} {
		if !errors.As(err, &silent) || !silent.Stopped || !strings.Contains(err.Error(), fmt.Sprintf("kill -CONT %d", e.Identity().PID)) {
			t.Errorf("%s: got %v, want that it is stopped, and how it is continued", name, err)
		}
	}
	if err := syscall.Kill(e.Identity().PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Info(deadline(t)); err != nil {
		t.Errorf("info of one that was continued: %v", err)
	}
}

func TestInfo(t *testing.T) { enginetest.Each(t, infoOf) }

func infoOf(t *testing.T, b engine.Binary) {
	t.Parallel()
	e := startOf(t, b, config(t))
	info, err := e.Info(deadline(t), "server", "memory")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info["process_id"], fmt.Sprint(e.Identity().PID); got != want || info["used_memory"] == "" {
		t.Errorf("process_id: got %q, want %q; used_memory: %q", got, want, info["used_memory"])
	}
	if info["tcp_port"] != "0" {
		t.Errorf("tcp_port: got %q, want 0", info["tcp_port"])
	}
	if _, ok := info["connected_clients"]; ok {
		t.Error("got a section that was not asked for")
	}
	if all, err := e.Info(deadline(t)); err != nil || all["connected_clients"] == "" {
		t.Errorf("default sections: got %v, %v", all, err)
	}
}

func TestLogRotation(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	log := filepath.Join(cfg.Dir, "engine.log")
	if err := os.Mkdir(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(log, engine.MaxLog+1); err != nil {
		t.Fatal(err)
	}
	start(t, cfg)
	if info, err := os.Stat(log); err != nil || info.Size() == 0 || info.Size() > 1<<20 {
		t.Errorf("log: got %v, %v", info, err)
	}
	if info, err := os.Stat(log + ".1"); err != nil || info.Size() != engine.MaxLog+1 {
		t.Errorf("old log: got %v, %v", info, err)
	}
}

// A host that shuts down signals every process.
func TestSIGTERMSavesData(t *testing.T) { enginetest.Each(t, sigtermSavesData) }

func sigtermSavesData(t *testing.T, b engine.Binary) {
	t.Parallel()
	if b.Version.Compare(engine.Version{Major: 7}) < 0 {
		t.Skip("engines before 7.0 can't be told to")
	}
	cfg := config(t)
	e := startOf(t, b, cfg)
	connect(t, cfg.Dir).want("OK", "SET", "k", "v")
	p, err := process.Adopt(engine.Socket(cfg.Dir))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitDone(t, e)
	startOf(t, b, cfg)
	connect(t, cfg.Dir).want("v", "GET", "k")
}

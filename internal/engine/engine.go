// Package engine runs one redis-server or valkey-server process: finds the program, configures it, starts it, finds
// it again after a restart of the control plane, asks it for INFO and stops it.
//
// Guaranteed:
//   - The engine listens on a Unix socket of mode 0600 in a folder of mode 0700 and nowhere else, and no client can
//     make it listen elsewhere: the commands that could are taken from the default user.
//   - At most one engine lives in a folder; see package process.
//   - Passwords are on disk and in arguments as SHA-256 hashes only, and the engine does not get the environment of its
//     parent, which may hold keys.
//   - A client can't take the engine down with a damaged payload, load code or read files, as far as the engine's version has
//     directives against that; see Harden.
//   - Stop with save either saves and ends the engine, or leaves it running.
//   - A replica connects with TLS only, and has a primary's data whole or keeps its own (Config.Replication).
//
// Not guaranteed:
//   - The control plane's user is a client like others: while maxclients is reached, or a client has called CLIENT PAUSE,
//     Info and Stop wait or fail. Whoever sets maxclients leaves room for it.
//   - engine.log is rotated at a start only.
//   - A replica without data that is being sent them answers nothing while its primary sends nothing, for 10 seconds at most.
//   - A replica verifies that its primary's certificate is of the given authorities, and no name in it: engines can't.
//   - With KeepDump false the old dump is loaded once more, if the control plane dies between the end of loading and the
//     rename, and the engine dies before the next Adopt.
package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/process"
	"github.com/sealane/sealane/internal/resp"
	"golang.org/x/sys/unix"
)

const (
	socketName = "engine.sock"
	lockName   = "engine.lock"
	confName   = "engine.conf"
	logName    = "engine.log"
	dumpName   = "dump.rdb"
	loadedName = "dump.loaded.rdb"

	pollInterval = 10 * time.Millisecond
	// maxSilences is how many PINGs may go unanswered, each for commandTimeout, before an engine counts as silent.
	maxSilences = 2
	// maxLog is the size from which a start moves the log away.
	maxLog = 10 << 20
)

// Engine is one running engine process. Its methods may be called at the same time.
type Engine struct {
	dir        string
	password   string
	proc       *process.Process
	stopping   chan struct{} // holds one token: one Stop at a time
	isHardened atomic.Bool   // Harden is done

	configMu   sync.Mutex
	configured map[string]string // directives as they were last given to the engine; others are not known

	replicationMu sync.Mutex
	replication   *ReplicationConfig // as it was last given to the engine; nil: not known

	observer observer
}

// StartError says that the engine ended before it was ready.
type StartError struct {
	Exit string // as process.Process.Exit says it
	Log  string // the last lines that it wrote
	// signed says that there is a dump with the signature of one, of this engine's version or another.
	signed bool
}

func (e *StartError) Error() string {
	if e.Log == "" {
		return "engine ended at start (" + e.Exit + ") without a word in its log"
	}
	return "engine ended at start (" + e.Exit + "); its log ends with:\n" + e.Log
}

// BadConfig says that the engine refused its configuration, so that starting it again will not help. Debian's redis-server,
// for example, refuses activedefrag.
func (e *StartError) BadConfig() bool { return strings.Contains(e.Log, "FATAL CONFIG FILE ERROR") }

// Socket is the path of the socket of the engine whose folder is dir.
func Socket(dir string) string { return filepath.Join(dir, socketName) }

// Lock is the file that the engine of a folder holds locked while it lives.
func Lock(dir string) string { return filepath.Join(dir, lockName) }

// Start starts an engine and returns when it has loaded its data and answers. If ctx ends before, or anything else
// fails, no engine is left behind. A *StartError has the log of an engine that ended by itself.
//
// The error is process.ErrLocked where an engine listens in that folder already; nothing of it was touched. Start waits while
// the lock is held and nobody listens, which is so when an engine was killed during a background save and its child still
// writes.
func Start(ctx context.Context, bin Binary, cfg Config) (*Engine, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	cfg.Dir = dir
	e, err := start(ctx, bin, cfg)
	if err != nil {
		return nil, fmt.Errorf("start engine %s: %w", dir, err)
	}
	return e, nil
}

func start(ctx context.Context, bin Binary, cfg Config) (*Engine, error) {
	conf, err := render(bin, cfg)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	// The folder may be older than this program, and it is what hides the socket between bind and chmod.
	if err := os.Chmod(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	log, logged := filepath.Join(cfg.Dir, logName), int64(0)
	proc, err := startProcess(ctx, process.Config{
		Path: bin.Path,
		Args: []string{filepath.Join(cfg.Dir, confName)},
		Dir:  cfg.Dir,
		Env:  environment(),
		Log:  log,
		Lock: filepath.Join(cfg.Dir, lockName),

		NetworkNamespace: cfg.NetworkNamespace,
		Prepare: func() (err error) {
			if logged, err = rotate(log); err != nil {
				return err
			}
			removeUnfinished(cfg.Dir)
			return writeConfiguration(cfg, conf)
		},
	})
	if err != nil {
		return nil, err
	}
	e := newEngine(cfg.Dir, cfg.AdminPassword, proc)
	if err = e.ready(ctx); err == nil {
		err = e.retireDump()
	}
	if err == nil {
		e.configured, e.replication = maps.Clone(cfg.Directives), cfg.Replication.clone()
		if cfg.KeepDump {
			_ = keepPrevious(cfg.Dir) // this one has just shown that it can be loaded; as in BeginSnapshot, it may fail
		}
		return e, nil
	}
	if errors.Is(err, process.ErrNotRunning) {
		err = &StartError{Exit: proc.Exit(), Log: withoutKeys(tail(log, logged)), signed: isSigned(filepath.Join(cfg.Dir, dumpName))}
	}
	// Nothing was written since the dump, so a kill loses nothing.
	if killErr := e.Kill(); killErr != nil {
		err = errors.Join(err, killErr)
	} else {
		<-proc.Done()
	}
	proc.Release()
	return nil, err
}

// writeConfiguration writes the configuration, and the files that it names.
func writeConfiguration(cfg Config, conf []byte) error {
	if cfg.Replication != nil {
		if err := cfg.Replication.write(cfg.Dir); err != nil {
			return err
		}
	}
	return writeUnlessSame(filepath.Join(cfg.Dir, confName), conf)
}

// writeUnlessSame spares the write where nothing changes, so that an engine can be started again on a full disk.
func writeUnlessSame(path string, conf []byte) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, conf) {
		return nil
	}
	return durable.WriteFile(path, conf, 0o600)
}

// startProcess waits for the lock as long as nobody listens on the socket.
func startProcess(ctx context.Context, cfg process.Config) (*process.Process, error) {
	for {
		proc, err := process.Start(cfg)
		if !errors.Is(err, process.ErrLocked) || listening(Socket(cfg.Dir)) {
			return proc, err
		}
		if waitErr := wait(ctx, nil); waitErr != nil {
			return nil, errors.Join(err, waitErr)
		}
	}
}

// Adopt finds the engine that runs in dir, whoever started it, and returns when it has accepted adminPassword. Adopt waits for
// an engine that is about to listen or to end. The error is process.ErrNotRunning where there is none, and a *SilentError where
// there is one that does not answer.
func Adopt(ctx context.Context, dir, adminPassword string) (*Engine, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("adopt engine: %w", err)
	}
	e, err := adopt(ctx, dir, adminPassword)
	if err != nil {
		return nil, fmt.Errorf("adopt engine %s: %w", dir, err)
	}
	return e, nil
}

func adopt(ctx context.Context, dir, adminPassword string) (*Engine, error) {
	for {
		proc, err := process.Adopt(Socket(dir))
		switch {
		case err == nil:
			e := newEngine(dir, adminPassword, proc)
			if err = e.ready(ctx); err == nil {
				err = e.retireDump()
			}
			if err != nil {
				proc.Release()
				return nil, err
			}
			return e, nil
		case errors.Is(err, unix.EAGAIN): // its accept queue is full: it lives and is busy
		case errors.Is(err, process.ErrNotRunning):
			if locked, lockErr := process.Locked(filepath.Join(dir, lockName)); lockErr != nil || !locked {
				return nil, errors.Join(err, lockErr)
			}
		default:
			return nil, err
		}
		if err := wait(ctx, nil); err != nil {
			return nil, err
		}
	}
}

func newEngine(dir, password string, proc *process.Process) *Engine {
	return &Engine{dir: dir, password: password, proc: proc, stopping: make(chan struct{}, 1)}
}

// ready waits until the engine answers. Its error is process.ErrNotRunning when the process ends instead, and a *SilentError
// when it says nothing at all. An engine that loads its data is not silent: it answers LOADING.
func (e *Engine) ready(ctx context.Context) error {
	for silences := 0; ; {
		final, err := e.ping(ctx)
		if final {
			return err
		}
		var silent *SilentError
		if errors.As(err, &silent) {
			if silences++; silent.Stopped || silences == maxSilences {
				return err
			}
		}
		if waitErr := wait(ctx, e.Done()); waitErr != nil {
			return fmt.Errorf("wait until it answers (last: %v): %w", err, waitErr)
		}
	}
}

// ping asks once. final says that asking again is of no use, because the engine has answered, or will never accept this
// password.
func (e *Engine) ping(ctx context.Context) (final bool, err error) {
	_, err = e.call(ctx, []string{"PING"})
	var reply resp.ReplyError
	if err == nil || !errors.As(err, &reply) {
		return err == nil, err
	}
	switch reply.Code() {
	case "BUSY", "MISCONF":
		// A script that runs for long, or a failed background save: PING is refused, but the data is loaded.
		return true, nil
	case "WRONGPASS", "NOAUTH", "NOPERM":
		return true, err
	}
	return false, err // LOADING, or the limit of clients
}

// retireDump renames a dump that was loaded, if the configuration asks for it. It reads the configuration from the file so
// that Adopt can finish what a control plane that was killed could not.
func (e *Engine) retireDump() error {
	keep, err := keepsDump(filepath.Join(e.dir, confName))
	if err != nil || keep {
		return err
	}
	if err := os.Remove(filepath.Join(e.dir, previousName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err = os.Rename(filepath.Join(e.dir, dumpName), filepath.Join(e.dir, loadedName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(e.dir)
}

// Stop shuts the engine down, saving its data or not, and returns when the process has ended.
//
// The engine refuses where its disk is full, and while a script runs, which KillScript may end. The error is then a
// resp.ReplyError with its words (code BUSY for the script), and the engine goes on as before. If ctx ends first, the engine may
// still end. Stop of an engine that has ended does nothing.
func (e *Engine) Stop(ctx context.Context, save bool) error {
	if err := e.stop(ctx, save); err != nil {
		return fmt.Errorf("stop engine %s: %w", e.dir, err)
	}
	return nil
}

func (e *Engine) stop(ctx context.Context, save bool) error {
	select {
	case e.stopping <- struct{}{}:
		defer func() { <-e.stopping }()
	case <-e.Done():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-e.Done():
		return nil
	default:
	}
	if e.proc.Stopped() {
		return e.silent(0) // once it is continued it would obey the command, which nobody may want any more
	}
	how := "NOSAVE"
	if save {
		how = "SAVE"
	}
	// There is no deadline but the caller's, because a save takes as long as it takes.
	_, err := e.exchange(ctx, []string{"SHUTDOWN", how})
	var reply resp.ReplyError
	if errors.As(err, &reply) {
		return fmt.Errorf("%w (%s)", err, filepath.Join(e.dir, logName))
	}
	// The connection was closed, as it is at a shutdown, or nobody listens any more.
	select {
	case <-e.Done():
		return nil
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), err)
	}
}

// Kill sends SIGKILL and does not wait for the end, which Done shows. Data that were not saved are lost.
func (e *Engine) Kill() error {
	if err := e.proc.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill engine %s: %w", e.dir, err)
	}
	return nil
}

// Release stops watching the engine and leaves it running, for the next control plane to adopt.
func (e *Engine) Release() {
	e.observer.close()
	e.proc.Release()
}

// Done is closed when the engine's process has ended, and never after Release.
func (e *Engine) Done() <-chan struct{} { return e.proc.Done() }

// Exit says how the process ended; see process.Process.Exit.
func (e *Engine) Exit() string { return e.proc.Exit() }

// BoundMemory bounds the memory of the engine and its children; see process.Process.
func (e *Engine) BoundMemory(name string, limit int64) process.MemoryBound {
	return e.proc.BoundMemory(name, limit)
}

// MemoryBound is the bound that the engine has.
func (e *Engine) MemoryBound() process.MemoryBound { return e.proc.MemoryBound() }

// OutOfMemory says whether the last engine of a folder has ended because it was refused memory.
func OutOfMemory(dir string) bool {
	return strings.Contains(strings.ToLower(tail(filepath.Join(dir, logName), 0)), "out of memory allocating")
}

// Dir is the engine's folder.
func (e *Engine) Dir() string { return e.dir }

// Identity tells the process from all others.
func (e *Engine) Identity() process.Identity { return e.proc.Identity() }

// wait lets one poll interval pass. Its error is process.ErrNotRunning when done is closed first.
func wait(ctx context.Context, done <-chan struct{}) error {
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	select {
	case <-done:
		return process.ErrNotRunning
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// environment is the part of this process's environment that the engine gets. The rest may hold the master key or tokens.
func environment() []string {
	env := []string{}
	for _, name := range []string{"PATH", "TZ", "LANG", "LC_ALL", "LC_COLLATE", "LC_CTYPE", "LD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Config says what to start.
type Config struct {
	Path string   // the program; not searched in PATH
	Args []string // without the program's name
	Dir  string   // working folder; "" is the parent's
	Env  []string // nil is the parent's environment
	Log  string   // file that stdout and stderr are appended to, made with 0600; "" discards them
	Lock string   // lock file, made with 0600 and never to be removed while a process may live; "" takes no lock
	// Prepare is called with the lock held, before the log is opened and the process starts. So it may change files that no
	// other such process may find changed. Start returns its error. nil does nothing.
	Prepare func() error
	// NetworkNamespace is the file of the network namespace that the process runs in, such as /run/netns/NAME; "" is the parent's. Any
	// other needs the right to enter it (CAP_SYS_ADMIN).
	NetworkNamespace string
}

// Start starts the process with /dev/null as stdin and in a session of its own, so that no signal reaches it that is meant for the
// parent or its terminal. The error is ErrLocked where another process holds the lock; nothing was prepared or started then.
func Start(cfg Config) (*Process, error) {
	p, err := startLocked(cfg)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cfg.Path, err)
	}
	return p, nil
}

func startLocked(cfg Config) (*Process, error) {
	if cfg.Lock == "" {
		return start(cfg, nil)
	}
	lock, err := takeLock(cfg.Lock)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // from here on the child's copy keeps the lock
	p, err := start(cfg, []*os.File{lock})
	if err != nil {
		// Closing alone is not enough: another goroutine may just have forked, and until that child's exec it
		// has a copy of the descriptor.
		unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK})
	}
	return p, err
}

func start(cfg Config, inherited []*os.File) (*Process, error) {
	if cfg.Prepare != nil {
		if err := cfg.Prepare(); err != nil {
			return nil, err
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	out := null
	if cfg.Log != "" {
		out, err = os.OpenFile(cfg.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		defer out.Close()
	}
	pidfd := -1
	var child *os.Process
	err = inNetworkNamespace(cfg.NetworkNamespace, func() (err error) {
		child, err = os.StartProcess(cfg.Path, append([]string{cfg.Path}, cfg.Args...), &os.ProcAttr{
			Dir:   cfg.Dir,
			Env:   cfg.Env,
			Files: append([]*os.File{null, out, out}, inherited...),
			Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return watchChild(child, pidfd)
}

// watchChild takes over both handles. Only the watcher reaps the child, so the child keeps its pid until then.
func watchChild(child *os.Process, pidfd int) (*Process, error) {
	pid := child.Pid
	err := error(nil)
	if pidfd < 0 {
		err = errors.New("the kernel has no pidfd: Linux 5.4 or newer is needed")
	}
	var p *Process
	if err == nil {
		var since uint64
		if since, err = startTime(pid); err == nil {
			p, err = watch(pidfd, Identity{PID: pid, StartTime: since})
		} else {
			unix.Close(pidfd)
		}
	}
	if err != nil {
		// A child that nobody can watch must not stay behind.
		child.Kill()
		child.Wait()
		return nil, err
	}
	child.Release()
	return p, nil
}

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = ErrLocked
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Locked says whether a process that was started with this lock file, or a child of it, still lives. It only asks and
// so never gets in the way of a Start.
func Locked(lock string) (bool, error) {
	f, err := os.Open(lock)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("query lock: %w", err)
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return false, fmt.Errorf("query lock %s: %w", strconv.Quote(lock), err)
	}
	return l.Type != unix.F_UNLCK, nil
}

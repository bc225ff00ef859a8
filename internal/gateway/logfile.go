package gateway

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

const logLimit = 10 << 20

// OpenLog opens path for appending. At 10 MiB the file is renamed to path.1, replacing the one before, and a new one
// begins: so the log of a process that runs for years takes 20 MiB. Both are 0600. A write goes to one file as a whole;
// writes may come from several goroutines.
func OpenLog(path string) (io.WriteCloser, error) {
	l, err := openLog(path, logLimit)
	if err != nil {
		return nil, err
	}
	return l, nil
}

func openLog(path string, limit int64) (*logFile, error) {
	l := &logFile{path: path, limit: limit}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

type logFile struct {
	path  string
	limit int64

	mu   sync.Mutex // guards the rest
	f    *os.File   // nil when closed, or when a rotation went wrong half-way
	size int64
	done bool
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		err = f.Chmod(0o600)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("open log: %w", err)
	}
	l.f, l.size = f, info.Size()
	return nil
}

// Write appends p, which should be whole lines. Where the file cannot be rotated p is lost rather than the bound.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return 0, fmt.Errorf("write log %s: %w", l.path, os.ErrClosed)
	}
	if l.f != nil && l.size > 0 && l.size+int64(len(p)) > l.limit {
		if err := os.Rename(l.path, l.path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("rotate log: %w", err)
		}
		l.f.Close()
		l.f = nil
	}
	if l.f == nil {
		if err := l.open(); err != nil {
			return 0, err
		}
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("write log: %w", err)
	}
	return n, nil
}

// Close ends the log. A Write after it is an error.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return fmt.Errorf("close log %s: %w", l.path, os.ErrClosed)
	}
	l.done = true
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}

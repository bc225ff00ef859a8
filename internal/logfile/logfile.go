// Package logfile gives a process that runs for years a log file of bounded size.
//
// Guaranteed: the file and its predecessor take 20 MiB at most (more only if one write alone is longer than 10), and are readable by their owner only (0600). A write goes to one
// file as a whole. Writes may come from several goroutines, but from one process only.
//
// Not guaranteed: a line may be lost. That happens in a crash of the machine, because nothing is synced, and while the file
// cannot be renamed, because the bound comes first.
package logfile

import (
	"errors"
	"fmt"
	"os"
	"sync"
)

// maxSize is how long a file gets before the next one begins.
const maxSize = 10 << 20

// File is an open log file.
type File struct {
	path  string
	limit int64

	mu     sync.Mutex // guards the rest
	f      *os.File   // nil after a rotation that could not open the new file
	size   int64
	closed bool
}

// Open opens path for appending, and makes the file if there is none. When the next write would make it longer than 10 MiB it is renamed
// to path.1, replacing the one of before, and a new file begins.
func Open(path string) (*File, error) { return open(path, maxSize) }

func open(path string, limit int64) (*File, error) {
	l := &File{path: path, limit: limit}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// open is called with mu held, or before others know of l.
func (l *File) open() error {
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

// Write appends p, which should be whole lines. When the file is full and cannot be renamed, p is not written and the error says why.
func (l *File) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
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

// Close closes the file. A Write after it is an error (os.ErrClosed), and so is another Close.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("close log %s: %w", l.path, os.ErrClosed)
	}
	l.closed = true
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}

package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"
)

// disk is what a Log writes to. Tests put faults into it. After an error of a method the change may have been made.
type disk interface {
	WriteAt(b []byte, at int64) (int, error)
	Truncate(size int64) error
	Sync() error // of what WriteAt and Truncate did
	// WriteHead replaces audit.head and is durable on return, as is the name of the log beside it; a crash leaves the
	// old content or the new.
	WriteHead(b []byte) error
	// Rotate gives the file its older name, and begins another one; it is durable on return.
	Rotate() error
	Close() error
}

// Log is a log that is open for appending. Its methods may be called concurrently.
type Log struct {
	// mu guards what follows.
	mu     sync.Mutex
	disk   disk
	files  files
	last   Head // the file's last whole entry
	size   int64
	dirty  bool // there may be bytes behind size
	head   Head // what the head's file holds; last may be one ahead
	noHead bool // the head's file is not there yet
	signed map[Hash]struct{}
}

// Open checks the whole log in the folder dir, creates it, readable by its owner only, where there is none, and tells
// log of a torn line that it cut off. A log that was changed is a *Damage.
func Open(dir string, log *slog.Logger) (*Log, error) {
	return open(certificates(dir), log, func(d disk) disk { return d })
}

func open(f files, log *slog.Logger, wrap func(disk) disk) (*Log, error) {
	l := &Log{files: f, signed: make(map[Hash]struct{})}
	found, err := f.verify(l.index)
	isNew := errors.Is(err, ErrNone)
	if err != nil && !isNew {
		return nil, err
	}
	l.last, l.size, l.head = found.Head, found.size, found.kept
	d, err := f.open()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", f.title, err)
	}
	l.disk = wrap(d)
	if err := l.restore(found, isNew); err != nil {
		l.disk.Close()
		return nil, fmt.Errorf("open %s: %w", f.title, err)
	}
	if found.Torn > 0 {
		log.Warn(f.title+": cut off an entry that a crash had torn; nobody was told that it was there",
			"file", f.log, "bytes", found.Torn, "entries", l.last.Seq)
	}
	return l, nil
}

// restore makes the files what they would be without the crash. A new log gets a head before it has an entry, because entries without
// a head are a log whose head was taken away.
func (l *Log) restore(found Summary, isNew bool) error {
	l.noHead = isNew
	if found.Torn > 0 {
		if err := l.cut(); err != nil {
			return err
		}
	}
	if found.Torn > 0 || l.head != l.last {
		// What a process wrote that was killed may be in memory only.
		if err := l.disk.Sync(); err != nil {
			return err
		}
	}
	err := l.catchUp()
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return nil // Enter catches up first, so no entry is lost; and a server may start on a full disk as long as it needs no entry
	}
	return err
}

func (l *Log) index(e Entry) {
	if e.signs() {
		l.signed[e.Certificate.SHA256Fingerprint] = struct{}{}
	}
}

// Close closes the files.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.disk.Close()
}

// Head returns the number and the hash of the last entry.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Append adds an entry, or nothing where it reports a signature that is in the log. When it returns nil the entry is
// durable. After an error it may be there or not, and calling it again is safe: for a certificate, because it is entered
// once; another action may then be there twice.
func (l *Log) Append(e Entry) error {
	_, err := l.Enter(e)
	return err
}

// Enter is Append, and returns the entry's number; 0 for a signature that is in the log already.
func (l *Log) Enter(e Entry) (uint64, error) {
	switch {
	case e.Action == "" || e.Time.IsZero():
		return 0, fmt.Errorf("append to %s: action %q at %v: want both", l.files.title, e.Action, e.Time)
	case e.Action == Sign && e.Certificate == nil:
		return 0, fmt.Errorf("append to %s: a signature without its certificate", l.files.title)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.signs() {
		if _, there := l.signed[e.Certificate.SHA256Fingerprint]; there {
			// Its head may be missing.
			return 0, l.failed(l.catchUp())
		}
	}
	// Catching up comes first, so that at most one entry stands behind the head. It is for an entry whose head could not be written
	// the last time.
	for _, step := range []func() error{l.catchUp, l.rotate, func() error { return l.write(e) }, l.catchUp} {
		if err := step(); err != nil {
			return 0, l.failed(err)
		}
	}
	return l.last.Seq, nil
}

func (l *Log) failed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("append to %s: %w", l.files.title, err)
}

// rotate begins another file where the log has a limit and the file has reached it. The entries go on: the next one names the
// last one of the file before.
func (l *Log) rotate() error {
	if l.files.limit == 0 || l.size < l.files.limit {
		return nil
	}
	if l.dirty {
		if err := l.cut(); err != nil {
			return err
		}
	}
	if err := l.disk.Rotate(); err != nil {
		return err
	}
	l.size = 0
	return nil
}

// write adds an entry to the file, or leaves the file as it was.
func (l *Log) write(e Entry) error {
	if l.dirty {
		if err := l.cut(); err != nil {
			return err
		}
	}
	e.Time = e.Time.UTC().Truncate(time.Second)
	e.Seq, e.Prev = l.last.Seq+1, l.last.Hash
	line, err := e.encode()
	if err != nil {
		return err
	}
	l.dirty = true
	if _, err = l.disk.WriteAt(line, l.size); err == nil {
		err = l.disk.Sync()
	}
	if err != nil {
		l.cut() // where this fails too, the next write tries again
		return err
	}
	l.last, l.size, l.dirty = e.head(), l.size+int64(len(line)), false
	l.index(e)
	return nil
}

// cut removes what stands behind the last whole entry.
func (l *Log) cut() error {
	err := l.disk.Truncate(l.size)
	l.dirty = err != nil
	return err
}

// catchUp makes the head's file name the last entry.
func (l *Log) catchUp() error {
	if l.head == l.last && !l.noHead {
		return nil
	}
	return l.writeHead()
}

func (l *Log) writeHead() error {
	b, err := json.Marshal(l.last)
	if err != nil {
		return err
	}
	if err := l.disk.WriteHead(append(b, '\n')); err != nil {
		return err
	}
	l.head, l.noHead = l.last, false
	return nil
}

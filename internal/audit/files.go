package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealane/sealane/internal/durable"
)

// files are where a log is.
type files struct {
	title string // the log's name, for people
	log   string // path of the newest file
	head  string // path of the file that names the last entry
	// limit is how large a file gets before it becomes the older one, log + ".1", in place of the one of before; 0: there is only
	// one file, and no limit.
	limit int64
}

// certificates are the files of the log of certificates.
func certificates(dir string) files {
	return files{title: "audit log", log: filepath.Join(dir, "audit.log"), head: filepath.Join(dir, "audit.head")}
}

// LogPath is the log in a state folder.
func LogPath(dir string) string { return certificates(dir).log }

// HeadPath is the file that holds the log's head.
func HeadPath(dir string) string { return certificates(dir).head }

func (f files) older() string           { return f.log + ".1" }
func (f files) base(path string) string { return filepath.Base(path) }

// openBoth opens the older file and the newest for reading; nil for one that is not there.
func (f files) openBoth() (older, newest *os.File, err error) {
	for tries := 0; ; tries++ {
		if newest, err = openIfThere(f.log); err != nil {
			return nil, nil, err
		}
		if f.limit == 0 {
			return nil, newest, nil
		}
		if older, err = openIfThere(f.older()); err != nil {
			newest.Close()
			return nil, nil, err
		}
		// They belong together if the newest is the newest still: then the older was the one before it.
		if f.isNewest(newest) || tries > 100 {
			return older, newest, nil
		}
		older.Close()
		newest.Close()
	}
}

func openIfThere(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// isNewest says whether a file, nil for none, is the one that has the newest file's name now.
func (f files) isNewest(file *os.File) bool {
	now, err := openIfThere(f.log)
	if err != nil {
		return true // the file that is there is what can be told
	}
	defer now.Close()
	if now == nil || file == nil {
		return now == nil && file == nil
	}
	return sameFile(now, file)
}

func sameFile(a, b *os.File) bool {
	one, err := a.Stat()
	other, otherErr := b.Stat()
	return err == nil && otherErr == nil && os.SameFile(one, other)
}

// readHead returns fs.ErrNotExist where there is none.
func (f files) readHead() (Head, error) {
	var h Head
	b, err := os.ReadFile(f.head)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("read %s: %w", f.title, err)
		}
		return h, err
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return h, &Damage{0, fmt.Sprintf("%s does not say which entry is the last: %v", f.base(f.head), err), f.title}
	}
	return h, nil
}

// realDisk is the disk of a real log.
type realDisk struct {
	*os.File
	files files
}

// open opens the newest file for writing, and makes it where there is none.
func (f files) open() (*realDisk, error) {
	file, err := os.OpenFile(f.log, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &realDisk{file, f}, nil
}

// WriteHead implements disk.
func (d *realDisk) WriteHead(b []byte) error { return durable.WriteFile(d.files.head, b, 0o600) }

// Rotate implements disk. A crash between the two steps leaves the log without its newest file, which is then as good as empty. After an
// error it may be called again, whatever was done: only the file that is full gets the older name.
func (d *realDisk) Rotate() error {
	newest, err := openIfThere(d.files.log)
	if err != nil {
		return err
	}
	defer newest.Close()
	full, err := d.Stat()
	if err != nil {
		return err
	}
	if newest != nil && sameFile(newest, d.File) && full.Size() > 0 {
		if err := os.Rename(d.files.log, d.files.older()); err != nil {
			return err
		}
	}
	next, err := d.files.open()
	if err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(d.files.log)); err != nil {
		next.Close()
		return err
	}
	d.File.Close()
	d.File = next.File
	return nil
}

package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// pendingPrefix begins the names of pending files. So whoever finds one after a crash knows what it is.
const pendingPrefix = ".sealane-pending."

// PendingFile is the new content of a large file while it is written, piece by piece. Under its name there is the old content, or no file,
// until Commit. Abort leaves no trace. After a crash a file with the name of IsPending stays, which RemoveAbandoned removes.
//
// It belongs to one goroutine.
type PendingFile struct {
	root *os.Root
	f    *os.File // locked (flock) while it is pending, so that RemoveAbandoned can tell
	temp string
	name string
	perm os.FileMode
}

// IsPending is whether a file of this name is a pending one.
func IsPending(name string) bool { return strings.HasPrefix(filepath.Base(name), pendingPrefix) }

// NewPendingFile begins a file that will have a name and permissions. The folder of the name is there already.
func NewPendingFile(root *os.Root, name string, perm os.FileMode) (*PendingFile, error) {
	for {
		temp := filepath.Join(filepath.Dir(name), pendingPrefix+rand.Text())
		f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		p := &PendingFile{root, f, temp, name, perm}
		// Between the two lines above and below, RemoveAbandoned may have found the file without its lock, and removed it.
		if held, err := lock(f); err != nil {
			p.Abort()
			return nil, fmt.Errorf("lock %s: %w", temp, err)
		} else if _, err := root.Lstat(temp); held && err == nil {
			return p, nil
		}
		p.Abort()
	}
}

// lock is whether this process now has the file's lock. A file system without locks counts as one where nobody else takes them.
func lock(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil, withoutLocks(err):
		return true, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return false, nil
	}
	return false, err
}

func withoutLocks(err error) bool {
	return errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)
}

func (p *PendingFile) Write(b []byte) (int, error) { return p.f.Write(b) }

// Reserve takes room for a size on the disk, so that a disk that is too full is found before it is filled. File systems that can't do
// that are no error.
func (p *PendingFile) Reserve(size int64) error {
	if size <= 0 {
		return nil
	}
	err := unix.Fallocate(int(p.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return &fs.PathError{Op: "allocate", Path: p.name, Err: err}
	}
	return nil
}

// Commit makes the content that of the file, durably. After an error before that nothing is left of it, and the old content stays.
func (p *PendingFile) Commit() error {
	err := p.f.Chmod(p.perm)
	if err == nil {
		err = p.f.Sync()
	}
	if err == nil {
		err = p.root.Rename(p.temp, p.name)
	}
	if err != nil {
		p.Abort()
		return err
	}
	if err := p.f.Close(); err != nil {
		return err
	}
	return syncRootDir(p.root, filepath.Dir(p.name))
}

// Abort gives it up.
func (p *PendingFile) Abort() {
	p.f.Close()
	_ = p.root.Remove(p.temp) // nothing can be done about it: RemoveAbandoned tries again
}

// MkdirAll makes a folder and those above it within the root, durably.
func MkdirAll(root *os.Root, dir string, perm os.FileMode) error {
	if dir == "." {
		return nil
	}
	if info, err := root.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := MkdirAll(root, parent, perm); err != nil {
		return err
	}
	if err := root.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if info, err := root.Stat(dir); err != nil {
		return err
	} else if !info.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	}
	return syncRootDir(root, parent)
}

// RemoveAbandoned removes the pending files in a folder that no process writes any more.
func RemoveAbandoned(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	var errs []error
	for _, name := range names {
		if IsPending(name) {
			errs = append(errs, removeAbandoned(root, filepath.Join(dir, name)))
		}
	}
	return errors.Join(append(errs, err)...)
}

func removeAbandoned(root *os.Root, name string) error {
	f, err := root.OpenFile(name, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) || withoutLocks(err) {
		return nil // somebody writes it, or nobody can tell
	} else if err != nil {
		return err
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncRootDir(root *os.Root, dir string) error {
	return syncOpened(root.Open(dir))
}

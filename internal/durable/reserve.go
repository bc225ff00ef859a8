package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Reserve is a file that holds room on the disk for another one, which must be written although the disk is full. The room is used as often
// as that is, except on file systems that write nothing in place (btrfs, ZFS): there it is gone with the first time. Its methods may be
// called at the same time.
type Reserve struct {
	path string
	size int64

	mu sync.Mutex // held while the file is made or used
}

// NewReserve returns a Reserve in a file of this path and size. There is no room before Fill has made it. What is to be written with it
// must be in the same folder, and may have as many bytes as the size.
func NewReserve(path string, size int64) *Reserve { return &Reserve{path: path, size: size} }

// Fill makes the room where there is none, or less. It does not take the last of the disk, which others need more.
func (r *Reserve) Fill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if info, err := os.Lstat(r.path); err == nil && info.Mode().IsRegular() && info.Size() == r.size {
		return nil
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(r.path), &disk); err == nil && int64(disk.Bavail)*disk.Bsize < 3*r.size {
		return fmt.Errorf("keep %d bytes on the disk, of which %d blocks of %d bytes are free: %w", r.size, disk.Bavail, disk.Bsize, unix.ENOSPC)
	}
	// A file that holds nothing but zeros takes up no room on some file systems.
	filler := make([]byte, r.size)
	_, _ = rand.Read(filler)
	if err := WriteFile(r.path, filler, 0o600); err != nil {
		return fmt.Errorf("keep room on the disk: %w", err)
	}
	return nil
}

// WriteFile is WriteFile that uses the room up when there is no other. used says whether it has.
func (r *Reserve) WriteFile(path string, data []byte, perm os.FileMode) (used bool, err error) {
	if err = WriteFile(path, data, perm); !IsFull(err) {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// The room is not given back to be taken again, because whoever has filled the disk may be faster: the file of the reserve becomes
	// the new one, and the old one the reserve.
	reserveErr := r.become(path, data, perm)
	if IsFull(reserveErr) { // nothing is written in place, or there is not enough room
		os.Remove(r.path)
		reserveErr = WriteFile(path, data, perm)
	}
	if reserveErr == nil {
		return true, nil
	}
	if errors.Is(reserveErr, fs.ErrNotExist) {
		return false, err
	}
	return false, fmt.Errorf("%w; with the room that was kept for it: %w", err, reserveErr)
}

// become makes the file of the reserve hold data, and lets it change places with the one at path.
func (r *Reserve) become(path string, data []byte, perm os.FileMode) (err error) {
	f, err := os.OpenFile(r.path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if _, err = f.WriteAt(data, 0); err != nil {
		return err
	}
	if err = f.Truncate(int64(len(data))); err != nil {
		return err
	}
	if err = f.Chmod(perm); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = unix.Renameat2(unix.AT_FDCWD, r.path, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE); err != nil {
		// There is no old one, or the file system can't do it.
		if err = os.Rename(r.path, path); err != nil {
			return err
		}
	}
	return SyncDir(filepath.Dir(path))
}

// IsFull says whether an error is that the disk is full, or a quota used up.
func IsFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// Package durable writes files that survive a crash. After WriteFile has returned, a power cut leaves the new content. Before, it
// leaves the old content or the new, never a mixture and never an empty file. PendingFile does the same for what is too large for memory.
//
// Nothing is guaranteed about several files at once. Whoever needs that keeps one record in the store.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces the content of path: it writes a temporary file beside it, syncs that, renames it, and syncs the folder.
// Whatever the umask, the file has the permissions perm under its name. On an error before the rename the old file is untouched and
// the temporary one is gone.
func WriteFile(path string, data []byte, perm os.FileMode) (err error) {
	dir := filepath.Dir(path)
	// CreateTemp makes the file 0600, so a secret is never readable by others, not even for a moment.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
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
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// CreateFile is WriteFile for a file that must not exist yet. Of two callers at the same time one gets an error that is fs.ErrExist, and
// the file is what the other wrote.
func CreateFile(path string, data []byte, perm os.FileMode) error {
	dir := filepath.Dir(path)
	staged, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new.*")
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	staged.Close()
	defer os.Remove(staged.Name())
	if err := WriteFile(staged.Name(), data, perm); err != nil {
		return err
	}
	// link(2) fails where rename(2) would replace.
	if err := os.Link(staged.Name(), path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("create %s: %w", path, fs.ErrExist)
		}
		return fmt.Errorf("create %s: %w", path, err)
	}
	return SyncDir(dir)
}

// SyncDir makes the names in a folder durable. A file that was made, linked or renamed there before survives a crash under its name.
func SyncDir(dir string) error {
	return syncOpened(os.Open(dir))
}

// syncOpened makes durable what is in a folder that was to be opened, and closes it.
func syncOpened(d *os.File, err error) error {
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}

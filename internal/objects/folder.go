package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/sealane/sealane/internal/durable"
)

// Objects have the mode of what else holds an instance's data.
const (
	fileMode   fs.FileMode = 0o600
	folderMode fs.FileMode = 0o700
)

// folder is a bucket whose objects are files.
type folder struct {
	path  string
	sub   string // the folder in path that is the bucket; "" if path is
	makes bool   // path is made where it isn't there
}

// root opens the bucket. Everything below it goes by way of the root, which no name and no symbolic link leads out of.
func (f *folder) root(toWrite bool) (*os.Root, error) {
	if f.makes && toWrite {
		if err := os.Mkdir(f.path, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	root, err := os.OpenRoot(f.path)
	if errors.Is(err, fs.ErrNotExist) && !f.makes {
		return nil, newError(NotFound, "", "the bucket's folder is not there", "make or mount the folder that the configuration names under buckets").because(err)
	}
	if err != nil || f.sub == "" {
		return root, err
	}
	defer root.Close()
	if toWrite {
		if err := durable.MkdirAll(root, f.sub, folderMode); err != nil {
			return nil, err
		}
	}
	return root.OpenRoot(f.sub)
}

func (f *folder) open(ctx context.Context, object string, offset int64, version string) (content, error) {
	c, err := f.openFile(object, offset, version)
	return c, fileError(err, "read")
}

func (f *folder) openFile(object string, offset int64, version string) (content, error) {
	root, err := f.root(false)
	if err != nil {
		return content{}, err
	}
	defer root.Close()
	// Without O_NONBLOCK a FIFO would keep this open waiting for its writer.
	file, err := root.OpenFile(object, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return content{}, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = newError(InvalidURI, "", "it is no file but "+kindOf(info.Mode()), "name a file")
	}
	if err == nil && version != "" && version != versionOf(info) {
		err = errChanged()
	}
	if err == nil {
		_, err = file.Seek(offset, io.SeekStart)
	}
	if err != nil {
		file.Close()
		return content{}, err
	}
	return content{&unchanged{file, versionOf(info)}, info.Size(), info.ModTime(), versionOf(info)}, nil
}

func kindOf(m fs.FileMode) string {
	if m.IsDir() {
		return "a folder"
	}
	return "a device, socket or pipe"
}

func versionOf(info fs.FileInfo) string {
	return fmt.Sprintf("%d-%d", info.Size(), info.ModTime().UnixNano())
}

// unchanged is a file that must not change while it is read. One that is replaced by a rename stays what it was.
type unchanged struct {
	*os.File
	version string
}

func (u *unchanged) Read(p []byte) (int, error) {
	n, err := u.File.Read(p)
	if errors.Is(err, io.EOF) {
		if info, statErr := u.Stat(); statErr != nil || versionOf(info) != u.version {
			return n, errChanged()
		}
		return n, err
	}
	return n, fileError(err, "read")
}

func errChanged() *Error {
	return newError(Changed, "", "it was changed while it was read", "try again when nobody writes it any more")
}

func (f *folder) prepare(ctx context.Context, object string) error {
	p, root, err := f.begin(object, 0)
	if err != nil {
		return fileError(err, "written")
	}
	defer root.Close()
	p.Abort()
	return nil
}

// begin begins a file, in a folder that is free of what killed exports have left.
func (f *folder) begin(object string, size int64) (*durable.PendingFile, *os.Root, error) {
	root, err := f.root(true)
	if err != nil {
		return nil, nil, err
	}
	p, err := beginIn(root, object, size)
	if err != nil {
		root.Close()
	}
	return p, root, err
}

func beginIn(root *os.Root, object string, size int64) (*durable.PendingFile, error) {
	dir := path.Dir(object)
	if err := durable.MkdirAll(root, dir, folderMode); err != nil {
		return nil, err
	}
	if info, err := root.Lstat(object); err == nil && info.IsDir() {
		return nil, &fs.PathError{Op: "create", Path: object, Err: syscall.EISDIR}
	}
	_ = durable.RemoveAbandoned(root, dir) // what is left is in nobody's way, and Sweep tells
	p, err := durable.NewPendingFile(root, object, fileMode)
	if err != nil {
		return nil, err
	}
	if err := p.Reserve(size); err != nil {
		p.Abort()
		return nil, err
	}
	return p, nil
}

func (f *folder) put(ctx context.Context, object string, r io.Reader, size int64) error {
	p, root, err := f.begin(object, size)
	if err != nil {
		return fileError(err, "written")
	}
	defer root.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{p}, struct{ io.Reader }{r}, make([]byte, 1<<20)); err != nil {
		p.Abort()
		return fileError(err, "written")
	}
	return fileError(p.Commit(), "written")
}

// sweepFolder removes the abandoned files below a folder. It follows no symbolic links.
func sweepFolder(ctx context.Context, folder string) error {
	root, err := os.OpenRoot(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	found := make(map[string]bool)
	walkErr := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil // a folder that can't be read; exports could not have written there either
		}
		if durable.IsPending(name) {
			found[path.Dir(name)] = true
		}
		return nil
	})
	errs := []error{walkErr}
	for dir := range found {
		if err := durable.RemoveAbandoned(root, dir); err != nil {
			errs = append(errs, fmt.Errorf("sweep %s: %w", filepath.Join(folder, dir), err))
		}
	}
	return errors.Join(errs...)
}

package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/sealane/sealane/internal/durable"
)

func openRoot(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func pend(t *testing.T, root *os.Root, name, content string) *durable.PendingFile {
	t.Helper()
	p, err := durable.NewPendingFile(root, name, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPendingFileReplacesAtCommitOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, path := openRoot(t, dir), filepath.Join(dir, "dump.rdb")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := pend(t, root, "dump.rdb", "new")
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("before the commit there is %q", got)
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "new" {
		t.Errorf("after the commit there is %q", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info, err)
	}
	wantOnly(t, path)
	pend(t, root, "dump.rdb", "third").Abort()
	wantOnly(t, path)
}

func TestPendingFileThatCannotBeNamedLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "taken", "child"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := pend(t, openRoot(t, dir), "taken", "x").Commit(); err == nil {
		t.Error("a file took a folder's place")
	}
	wantOnly(t, filepath.Join(dir, "taken"))
}

// What a crash left is removed; what somebody writes is not, nor what merely looks alike.
func TestRemoveAbandoned(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := openRoot(t, dir)
	inUse := pend(t, root, "dump.rdb", "being written")
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for _, name := range []string{filepath.Join(dir, ".sealane-pending.ABANDONED"), elsewhere} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(elsewhere, filepath.Join(dir, ".sealane-pending.LINK")); err != nil {
		t.Fatal(err)
	}
	_ = durable.RemoveAbandoned(root, ".") // the link is an error
	if _, err := os.Stat(filepath.Join(dir, ".sealane-pending.ABANDONED")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the abandoned file is still there: %v", err)
	}
	if _, err := os.Stat(elsewhere); err != nil {
		t.Error(err)
	}
	if err := inUse.Commit(); err != nil {
		t.Errorf("what was being written: %v", err)
	}
}

func TestNobodySweepsAFileThatIsJustBegun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := openRoot(t, dir)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = durable.RemoveAbandoned(root, ".")
			}
		}
	})
	for range 300 {
		p, err := durable.NewPendingFile(root, "dump.rdb", 0o600)
		if err != nil {
			t.Error(err)
			break
		}
		if err := p.Commit(); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	wg.Wait()
}

func TestReserveFindsAFullDiskFirst(t *testing.T) {
	t.Parallel()
	p := pend(t, openRoot(t, t.TempDir()), "dump.rdb", "x")
	defer p.Abort()
	if err := p.Reserve(1 << 20); err != nil {
		t.Error(err)
	}
	if err := p.Reserve(1 << 60); err != nil && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EFBIG) {
		t.Error(err)
	}
}

func TestMkdirAllStaysInTheRoot(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	root := openRoot(t, dir)
	if err := durable.MkdirAll(root, "a/b/c", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.MkdirAll(root, "a/b/c", 0o700); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"out/x", "file/x", "file"} {
		if err := durable.MkdirAll(root, name, 0o700); err == nil {
			t.Errorf("%s was made", name)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside: %v, %v", entries, err)
	}
}

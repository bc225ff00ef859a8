package durable_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/durable"
)

// fullDisk is a small file system, and what fills it.
func fullDisk(t *testing.T) (dir string, fill, free func()) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		t.Skipf("it takes root and the right to mount to show what happens on a full disk, so it is not shown here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	filler := filepath.Join(dir, "filler")
	fill = func() {
		f, err := os.OpenFile(filler, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for size := 64 << 10; size > 0; size /= 2 {
			for err = nil; err == nil; {
				_, err = f.Write(make([]byte, size))
			}
		}
		if !durable.IsFull(err) {
			t.Fatal(err)
		}
	}
	return dir, fill, func() { os.Remove(filler) }
}

func TestAReserveLetsAFileBeReplacedOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir, fill, free := fullDisk(t)
	path := filepath.Join(dir, "snapshot.json")
	content := func(n int) []byte { return bytes.Repeat([]byte{byte('a' + n)}, 20_000+n) }
	r := durable.NewReserve(filepath.Join(dir, "reserve"), 128<<10)
	if used, err := r.WriteFile(path, content(0), 0o600); used || err != nil {
		t.Fatalf("with room: %v, %v", used, err)
	}
	fill()
	if _, err := r.WriteFile(path, content(1), 0o600); !durable.IsFull(err) {
		t.Errorf("without a reserve: %v", err)
	}
	if err := r.Fill(); !durable.IsFull(err) {
		t.Errorf("a reserve on a full disk: %v", err)
	}
	free()
	if err := r.Fill(); err != nil {
		t.Fatal(err)
	}
	// Whatever is freed is taken at once by whoever has filled the disk.
	for n := 1; n < 10; n++ {
		fill()
		if used, err := r.WriteFile(path, content(n), 0o640); !used || err != nil {
			t.Fatalf("time %d: %v, %v", n, used, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content(n)) {
			t.Fatalf("time %d: there are %d bytes, %v", n, len(got), err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
			t.Fatalf("time %d: %v, %v", n, info, err)
		}
		if err := r.Fill(); !durable.IsFull(err) && n > 1 {
			t.Errorf("time %d: the reserve is filled, %v", n, err)
		}
	}
	free()
	if err := r.Fill(); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if info, statErr := os.Stat(filepath.Join(dir, "reserve")); statErr != nil || info.Size() != 128<<10 || err != nil || len(entries) != 2 {
		t.Errorf("in the end there is %v, %v", fmt.Sprint(entries), err)
	}
	if used, err := r.WriteFile(path, content(0), 0o600); used || err != nil {
		t.Errorf("with room again: %v, %v", used, err)
	}
}

func TestAReserveIsNotUsedForOtherErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := durable.NewReserve(filepath.Join(dir, "reserve"), 1024)
	if err := r.Fill(); err != nil {
		t.Fatal(err)
	}
	if used, err := r.WriteFile(filepath.Join(dir, "no", "such", "folder"), nil, 0o600); used || err == nil {
		t.Errorf("%v, %v", used, err)
	}
	wantOnly(t, filepath.Join(dir, "reserve"))
}

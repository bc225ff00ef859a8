package objects_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sealane/sealane/internal/objects"
)

// endlessIn is a folder of buckets into which this program exports without an end: it is what gets killed.
const endlessIn = "SEALANE_TEST_ENDLESS_EXPORT"

func TestMain(m *testing.M) {
	if folder := os.Getenv(endlessIn); folder != "" {
		exportEndlessly(folder)
	}
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "12") // these tests wait more than they compute
	}
	os.Exit(m.Run())
}

func exportEndlessly(folder string) {
	s, err := objects.New(objects.Config{StateDir: filepath.Dir(folder), DefaultFolder: folder})
	if err == nil {
		written := 0
		err = s.Put(context.Background(), request("gs://bucket/a/cache.rdb"), readerFunc(func(p []byte) (int, error) {
			if written += len(p); written == 3<<20 {
				fmt.Println("in the middle")
			}
			if written >= 3<<20 {
				select {} // until it is killed
			}
			return len(p), nil
		}), 1<<30)
	}
	fmt.Println(err)
	os.Exit(1)
}

// kill -9 in the middle of an export: the old object is whole, and what is left goes with the next sweep.
func TestAKilledPutLeavesWhatWasThere(t *testing.T) {
	t.Parallel()
	s, folder := newStore(t)
	if err := put(s, "gs://bucket/a/cache.rdb", "old"); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), endlessIn+"="+folder)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "in the middle\n" {
		t.Errorf("it says %q, %v", line, err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	pending := func() (n int) {
		for _, name := range files(t, folder) {
			if strings.Contains(name, "/.sealane-pending.") {
				n++
			}
		}
		return n
	}
	if n := pending(); n != 1 {
		t.Errorf("while it is written: %d pending files; want 1", n)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	if n := pending(); n != 1 {
		t.Errorf("after the kill: %d pending files; want 1", n)
	}
	if got, err := get(s, "gs://bucket/a/cache.rdb"); got != "old" || err != nil {
		t.Errorf("%d bytes, %v; want the old object", len(got), err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if got := files(t, folder); !slices.Equal(got, []string{"bucket/a/cache.rdb"}) {
		t.Errorf("after the sweep: %v", got)
	}
}

// An export to a full disk fails before it fills it, and leaves the old object.
func TestAPutToAFullDiskLeavesWhatWasThere(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=0700,size=4m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("it takes root and the right to mount to show a full disk: %v, %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v, %s", err, out)
		}
	})
	s := storeOf(t, objects.Config{Buckets: map[string]objects.Bucket{"bucket": {Folder: dir}}})
	if err := put(s, "gs://bucket/cache.rdb", "old"); err != nil {
		t.Fatal(err)
	}
	reads := 0
	err := s.Put(t.Context(), request("gs://bucket/cache.rdb"), readerFunc(func(p []byte) (int, error) {
		reads++
		return len(p), nil
	}), 8<<20)
	wantKind(t, err, objects.DiskFull, "the disk of the bucket's folder is full")
	if !errors.Is(err, syscall.ENOSPC) || reads > 0 {
		t.Errorf("%v after %d reads; want ENOSPC before the first", err, reads)
	}
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 64<<10))
	}
	f.Close()
	wantKind(t, put(s, "gs://bucket/cache.rdb", strings.Repeat("new", 100_000)), objects.DiskFull, "is full")
	if got, err := get(s, "gs://bucket/cache.rdb"); got != "old" || err != nil {
		t.Errorf("%d bytes, %v; want the old object", len(got), err)
	}
	if got := files(t, dir); !slices.Equal(got, []string{"cache.rdb", "filler"}) {
		t.Errorf("left: %v", got)
	}

	if out, err := exec.Command("mount", "-o", "remount,ro", dir).CombinedOutput(); err != nil {
		t.Fatalf("remount: %v, %s", err, out)
	}
	wantKind(t, put(s, "gs://bucket/cache.rdb", "x"), objects.PermissionDenied, "read-only file system")
	wantKind(t, s.PrepareExport(t.Context(), request("gs://bucket/cache.rdb")), objects.PermissionDenied, "read-only file system")
}

package gateway_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A failover is a snapshot with another engine. The disk may be full then: that may be why there is one.
func TestTheEngineCanBeChangedWhileTheDiskIsFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := unix.Mount("tmpfs", w.dir, "tmpfs", 0, "size=2m,mode=0700"); err != nil {
		t.Skipf("it takes root and the right to mount to show what happens on a full disk, so it is not shown here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(w.dir, unix.MNT_DETACH) })
	engines := tempDir(t)
	w.run()
	reserved := func() bool {
		info, err := os.Stat(filepath.Join(w.dir, "snapshot.reserve"))
		return err == nil && info.Size() == 256<<10 && info.Mode().Perm() == 0o600
	}
	eventually(t, "there is a reserve", reserved)
	change := func(generation uint64) {
		w.engine = filepath.Join(engines, "e"+string(rune('a'+generation)))
		fakeEngine(t, w.engine, echo)
		w.apply(w.snapshot(generation))
		roundTrip(t, w.dial(), "hello")
	}
	change(1)
	filler, err := os.Create(filepath.Join(w.dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	fill := func() {
		for size := 1 << 16; size > 0; size /= 2 {
			for err = nil; err == nil; {
				_, err = filler.Write(make([]byte, size))
			}
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	for generation := range uint64(5) {
		fill()
		change(2 + generation)
	}
	if !strings.Contains(w.log.String(), "the disk is full, a snapshot was written with the room that was kept for it") {
		t.Error("the log does not say so")
	}
	fill()
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	w.run() // from what is on disk
	eventually(t, "served again", func() bool { return w.status().Generation == 6 })
	roundTrip(t, w.dial(), "hello")
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	os.Remove(filler.Name())
	filler.Close()
	w.run()
	eventually(t, "there is a reserve again", reserved)
}

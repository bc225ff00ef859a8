package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/audit"
)

// called is an entry for a call.
func called(n int) audit.Entry {
	return audit.Entry{Time: start.Add(time.Duration(n) * time.Second), Action: audit.CallMade, Instance: "projects/p/locations/l/instances/first", Call: &audit.Call{
		Token: "3f9a1c0b7d2e", Principal: "a test", Method: "google.cloud.redis.v1.CloudRedis/DeleteInstance",
		Resource: "projects/p/locations/l/instances/first", Peer: fmt.Sprint("127.0.0.1:", n),
	}}
}

// small is how large a file of the log of calls gets in these tests: a few entries.
const small = 2000

// plain changes nothing.
func plain(d audit.Disk) audit.Disk { return d }

func openSmall(t testing.TB, dir string, wrap func(audit.Disk) audit.Disk) *audit.Log {
	t.Helper()
	l, err := audit.OpenCallsOn(dir, small, slog.New(slog.DiscardHandler), wrap)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// verifyCalls wants a whole log whose last entry is the nth, and returns the first.
func verifyCalls(t testing.TB, dir string, n uint64) (first uint64) {
	t.Helper()
	next := uint64(0)
	s, err := audit.VerifyCalls(dir, func(e audit.Entry) {
		if next == 0 {
			first, next = e.Seq, e.Seq
		}
		if e.Seq != next || e.Call == nil || e.Call.Peer != fmt.Sprint("127.0.0.1:", e.Seq) {
			t.Errorf("entry %d: %+v, want number %d", e.Seq, e.Call, next)
		}
		next++
	})
	if err != nil || s.Torn > 0 || s.Head.Seq != n || s.Entries != n-first+1 {
		t.Errorf("verify: %+v, %v; want %d as the last entry", s, err, n)
	}
	return first
}

// The log has two files at most. What is left of it is checked as a whole, over the border of the files and over restarts.
func TestTheLogOfCallsIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openSmall(t, dir, plain)
	for n := 1; n <= 60; n++ {
		if seq, err := l.Enter(called(n)); err != nil || seq != uint64(n) {
			t.Fatalf("entry %d: %d, %v", n, seq, err)
		}
		if first := verifyCalls(t, dir, uint64(n)); n < 4 && first != 1 {
			t.Errorf("with %d entries the log begins with number %d", n, first)
		}
		if n%7 == 0 {
			l.Close()
			l = openSmall(t, dir, plain)
		}
	}
	if first := verifyCalls(t, dir, 60); first < 30 {
		t.Errorf("it still holds entry %d", first)
	}
	for _, path := range []string{audit.CallsPath(dir), audit.CallsPath(dir) + ".1"} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 || info.Size() > small+1000 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
		t.Errorf("files %v, %v; want calls.log, calls.log.1 and calls.head", entries, err)
	}
}

// twoFiles makes a log of calls that has just begun its second file.
func twoFiles(t testing.TB) string {
	t.Helper()
	dir, n := t.TempDir(), 1
	l := openSmall(t, dir, plain)
	for ; ; n++ {
		if _, err := l.Enter(called(n)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(audit.CallsPath(dir) + ".1"); err == nil {
			break
		}
	}
	n++
	if _, err := l.Enter(called(n)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	return dir
}

func TestDamageOfEitherFileIsFound(t *testing.T) {
	t.Parallel()
	older := func(dir string) string { return audit.CallsPath(dir) + ".1" }
	for name, c := range map[string]struct {
		do   func(t *testing.T, dir string)
		says string
	}{
		"an entry of the older file altered": {func(t *testing.T, dir string) {
			write(t, older(dir), []byte(strings.Replace(string(read(t, older(dir))), "a test", "b test", 1)))
		}, "entry 1 was altered: what line 1 of calls.log.1 says"},
		"the older file gone":          {func(t *testing.T, dir string) { remove(t, older(dir)) }, "entry 1 is missing or not in its place: line 1 of calls.log is entry"},
		"the newest file gone":         {func(t *testing.T, dir string) { remove(t, audit.CallsPath(dir)) }, "the end of calls.log was cut off"},
		"the head gone":                {func(t *testing.T, dir string) { remove(t, audit.CallsHeadPath(dir)) }, "calls.head is missing"},
		"all but the older file gone":  {func(t *testing.T, dir string) { remove(t, audit.CallsPath(dir)); remove(t, audit.CallsHeadPath(dir)) }, "calls.head is missing"},
		"the end of the older one cut": {func(t *testing.T, dir string) { cutLine(t, older(dir)) }, "is missing or not in its place: line 1 of calls.log"},
		"the older one torn":           {func(t *testing.T, dir string) { b := read(t, older(dir)); write(t, older(dir), b[:len(b)-10]) }, "is torn or overwritten"},
		"one file with both names": {func(t *testing.T, dir string) {
			remove(t, audit.CallsPath(dir))
			if err := os.Link(older(dir), audit.CallsPath(dir)); err != nil {
				t.Error(err)
			}
		}, "entry"},
		"the older one torn and the newest gone": {func(t *testing.T, dir string) {
			remove(t, audit.CallsPath(dir))
			b := read(t, older(dir))
			write(t, older(dir), append(b, b[:50]...))
			e, err := audit.Parse(append(lastLine(b), '\n'))
			if err != nil {
				t.Error(err)
			}
			write(t, audit.CallsHeadPath(dir), fmt.Appendf(nil, `{"seq":%d,"hash":%q}`, e.Seq, e.Hash))
		}, "of calls.log.1 is no entry"},
		"the end of the newest one cut": {func(t *testing.T, dir string) { cutLine(t, audit.CallsPath(dir)) }, "the end of calls.log was cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := twoFiles(t)
			c.do(t, dir)
			_, err := audit.VerifyCalls(dir, func(audit.Entry) {})
			var damage *audit.Damage
			if !errors.As(err, &damage) || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "log of calls: ") || damage.Log != audit.CallsTitle {
				t.Errorf("verify: %v, want %q", err, c.says)
			}
			if _, err := audit.OpenCalls(dir, slog.New(slog.DiscardHandler)); !errors.As(err, &damage) {
				t.Errorf("open: %v, want the damage", err)
			}
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Error(err)
	}
}

func lastLine(b []byte) []byte {
	b = bytes.TrimSuffix(b, []byte("\n"))
	return b[bytes.LastIndexByte(b, '\n')+1:]
}

// cutLine takes the last line off a file.
func cutLine(t *testing.T, path string) {
	t.Helper()
	text := strings.TrimSuffix(string(read(t, path)), "\n")
	write(t, path, []byte(text[:strings.LastIndexByte(text, '\n')+1]))
}

// A crash between the two steps of the change to another file, or a torn entry at the beginning of the new one, is mended at the next
// start.
func TestACrashWhileAnotherFileIsBegun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openSmall(t, dir, plain)
	n := 0
	for size := int64(0); size < small; {
		n++
		if _, err := l.Enter(called(n)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(audit.CallsPath(dir))
		if err != nil {
			t.Fatal(err)
		}
		size = info.Size()
	}
	l.Close()
	if err := os.Rename(audit.CallsPath(dir), audit.CallsPath(dir)+".1"); err != nil { // and then the power went
		t.Fatal(err)
	}
	verifyCalls(t, dir, uint64(n))
	l = openSmall(t, dir, plain)
	l.Close()
	write(t, audit.CallsPath(dir), []byte(`{"seq":`))
	if s, err := audit.VerifyCalls(dir, func(audit.Entry) {}); err != nil || s.Torn != 7 {
		t.Errorf("verify: %+v, %v", s, err)
	}
	l = openSmall(t, dir, plain)
	if _, err := l.Enter(called(n + 1)); err != nil {
		t.Fatal(err)
	}
	if first := verifyCalls(t, dir, uint64(n+1)); first != 1 {
		t.Errorf("the log begins with entry %d", first)
	}
}

// stuck is a disk on which another file can't be begun, for a while.
type stuck struct {
	audit.Disk
	mu   sync.Mutex
	how  string
	left int
}

func (d *stuck) Rotate() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left == 0 {
		return d.Disk.Rotate()
	}
	d.left--
	if d.how == "done but failed" {
		if err := d.Disk.Rotate(); err != nil {
			return err
		}
	}
	return fmt.Errorf("rotate: %w", syscall.ENOSPC)
}

// When another file can't be begun, entries are refused and none is lost; it goes on by itself once there is space.
func TestAnotherFileCannotBeBegun(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"lost", "done but failed"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			d := &stuck{how: how, left: 2}
			l := openSmall(t, dir, func(real audit.Disk) audit.Disk {
				d.Disk = real
				return d
			})
			refused := 0
			for n := 1; n <= 30; {
				_, err := l.Enter(called(n))
				switch {
				case err == nil:
					n++
				case errors.Is(err, syscall.ENOSPC) && strings.HasPrefix(err.Error(), "append to log of calls: "):
					refused++
				default:
					t.Fatal(err)
				}
				verifyCalls(t, dir, uint64(n-1))
			}
			if refused != 2 {
				t.Errorf("%d entries were refused, want 2", refused)
			}
		})
	}
}

// The second step fails: the full file has its older name, and an empty one may be there. It must not push the full one out.
func TestTheFullFileIsNotReplacedByTheEmptyOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openSmall(t, dir, plain)
	n := 0
	for range 3 {
		n++
		if _, err := l.Enter(called(n)); err != nil {
			t.Fatal(err)
		}
	}
	for {
		info, err := os.Stat(audit.CallsPath(dir))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() >= small {
			break
		}
		n++
		if _, err := l.Enter(called(n)); err != nil {
			t.Fatal(err)
		}
	}
	// What a Rotate leaves that failed after it had made the new file.
	if err := os.Rename(audit.CallsPath(dir), audit.CallsPath(dir)+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, audit.CallsPath(dir), nil)
	n++
	if _, err := l.Enter(called(n)); err != nil {
		t.Fatal(err)
	}
	if first := verifyCalls(t, dir, uint64(n)); first != 1 {
		t.Errorf("the log begins with entry %d: the full file is lost", first)
	}
}

func TestVerifyTheLogOfCallsWhileItGrows(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openSmall(t, dir, plain)
	if _, err := l.Enter(called(1)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		defer close(done)
		for n := 2; n < 150; n++ {
			if _, err := l.Enter(called(n)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	times := 0
	for running := true; running; times++ {
		select {
		case <-done:
			running = false
		default:
		}
		if _, err := audit.VerifyCalls(dir, func(audit.Entry) {}); err != nil {
			t.Errorf("verify: %v", err)
		}
	}
	writing.Wait()
	t.Logf("verified %d times", times)
}

// A new log begins on a full disk, so that the server starts; its first entry waits for the head.
func TestANewLogOfCallsOpensOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir, full := t.TempDir(), true
	l := openSmall(t, dir, func(d audit.Disk) audit.Disk { return fullDisk{d, &full} })
	if _, err := l.Enter(called(1)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("append: %v, want ENOSPC", err)
	}
	if _, err := audit.VerifyCalls(dir, func(audit.Entry) {}); !errors.Is(err, audit.ErrNone) {
		t.Errorf("verify: %v, want that there is none", err)
	}
	full = false
	if _, err := l.Enter(called(1)); err != nil {
		t.Fatal(err)
	}
	verifyCalls(t, dir, 1)
}

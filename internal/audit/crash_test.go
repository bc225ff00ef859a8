package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sealane/sealane/internal/audit"
)

// fault is how a durable step goes wrong.
type fault string

const (
	lost          fault = "lost"
	half          fault = "half done, then failed"
	doneButFailed fault = "done but failed"
	killedBefore  fault = "killed before"
	killedHalf    fault = "power lost in the middle"
	killedAfter   fault = "killed after"
	powerLost     fault = "power lost after" // with it goes what was not synced
)

var faults = []fault{lost, half, doneButFailed, killedBefore, killedHalf, killedAfter, powerLost}

var (
	errBroken = fmt.Errorf("injected: %w", syscall.ENOSPC)
	errDead   = errors.New("this process is dead")
)

// machine is a computer with one log; its disk keeps what was written apart from what was synced.
type machine struct {
	t       *testing.T
	dir     string
	steps   int
	faultAt int // 0: never
	fault   fault
	broken  bool // every step is lost from the fault on
	dead    bool
	hit     bool
	log     *audit.Log
	said    bytes.Buffer // the server's log
	acked   []audit.Entry
}

// powerDisk is the disk of a process. The real files hold what was synced.
type powerDisk struct {
	audit.Disk
	m       *machine
	pending []func(part int) error // changes that were not synced; part 2 of 2 is all of it
}

// Close is the end of the process, not of the kernel.
func (d *powerDisk) Close() error {
	d.flush(2)
	return d.Disk.Close()
}

// flush makes pending changes real, the last one perhaps in part.
func (d *powerDisk) flush(part int) {
	for i, change := range d.pending {
		p := 2
		if i == len(d.pending)-1 {
			p = part
		}
		if err := change(p); err != nil {
			d.m.t.Error(err)
		}
	}
	d.pending = nil
}

// step does one change, or what the fault makes of it.
func (d *powerDisk) step(change func(part int)) error {
	m := d.m
	if m.dead {
		return errDead
	}
	m.steps++
	if m.hit && m.broken {
		return errBroken
	}
	if m.steps != m.faultAt {
		change(2)
		return nil
	}
	m.hit = true
	switch m.fault {
	case half, killedHalf:
		change(1)
	case doneButFailed, killedAfter, powerLost:
		change(2)
	}
	switch m.fault {
	case killedBefore, killedAfter: // the kernel writes what the process has written
		d.flush(2)
	case killedHalf:
		d.flush(1)
	case powerLost:
		d.pending = nil
	default:
		return errBroken
	}
	m.dead = true
	return errDead
}

func (d *powerDisk) WriteAt(b []byte, at int64) (int, error) {
	b = bytes.Clone(b)
	return len(b), d.step(func(part int) {
		b := b[:len(b)*part/2]
		d.pending = append(d.pending, func(part int) error {
			_, err := d.Disk.WriteAt(b[:len(b)*part/2], at)
			return err
		})
	})
}

func (d *powerDisk) Truncate(size int64) error {
	return d.step(func(part int) {
		if part == 2 {
			d.pending = append(d.pending, func(part int) error {
				if part < 2 {
					return nil
				}
				return d.Disk.Truncate(size)
			})
		}
	})
}

func (d *powerDisk) Sync() error { return d.step(func(part int) { d.flush(part) }) }

func (d *powerDisk) WriteHead(b []byte) error {
	return d.step(func(part int) {
		if part == 2 { // a rename is done or not
			if err := d.Disk.WriteHead(b); err != nil {
				d.m.t.Error(err)
			}
		}
	})
}

// boot starts a process, again where a fault keeps it from starting.
func (m *machine) boot() {
	m.t.Helper()
	var err error
	for range 3 {
		m.dead = false
		m.log, err = audit.OpenOn(m.dir, slog.New(slog.NewTextHandler(&m.said, nil)), func(d audit.Disk) audit.Disk {
			return &powerDisk{Disk: d, m: m}
		})
		if err == nil {
			return
		}
		if !errors.Is(err, errDead) && !errors.Is(err, errBroken) {
			break
		}
		m.broken = false
	}
	m.t.Fatalf("the log does not open: %v", err)
}

// append appends as a caller does that has to: again after an error, and again after a restart.
func (m *machine) append(e audit.Entry) {
	m.t.Helper()
	for range 3 {
		err := m.log.Append(e)
		if err == nil {
			m.acked = append(m.acked, e)
			return
		}
		if m.dead {
			m.log.Close()
			m.boot()
			continue
		}
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "append to audit log: ") {
			m.t.Errorf("append: %v; want what failed, and why", err)
		}
		m.broken = false // somebody made space
	}
	m.t.Fatal("the entry can't be appended")
}

// check wants the log to hold every entry that was acknowledged, once, and none that was never appended.
func (m *machine) check() {
	m.t.Helper()
	var got []string
	s, err := audit.Verify(m.dir, func(e audit.Entry) { got = append(got, e.Certificate.Serial) })
	if err != nil || s.Torn > 0 {
		m.t.Errorf("verify: %+v, %v", s, err)
	}
	var want []string
	for _, e := range m.acked {
		want = append(want, e.Certificate.Serial)
	}
	if !slices.Equal(got, want) {
		m.t.Errorf("the log holds certificates %v; want %v, in this order", got, want)
	}
}

// Whatever step goes wrong in whatever way, who appends again has the entry once, and nothing acknowledged is lost.
func TestEveryStepMaySafelyFail(t *testing.T) {
	t.Parallel()
	scenarios := []struct {
		name  string
		begin func(*testing.T, string)
	}{
		{"new", func(*testing.T, string) {}},
		{"with entries", func(t *testing.T, dir string) { copyLog(t, made(t, 2), dir) }},
		{"torn", func(t *testing.T, dir string) {
			copyLog(t, made(t, 2), dir)
			whole := read(t, audit.LogPath(dir))
			write(t, audit.LogPath(dir), append(whole, whole[:100]...))
		}},
		{"whole behind the head", func(t *testing.T, dir string) {
			copyLog(t, made(t, 2), dir)
			head := read(t, audit.HeadPath(made(t, 1)))
			write(t, audit.HeadPath(dir), head)
		}},
	}
	for _, s := range scenarios {
		for _, f := range faults {
			for _, broken := range []bool{false, true} {
				if broken && f != half && f != doneButFailed {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/stays broken %t", s.name, f, broken), func(t *testing.T) {
					t.Parallel()
					for at := 1; ; at++ {
						m := &machine{t: t, dir: t.TempDir(), faultAt: at, fault: f, broken: broken}
						s.begin(t, m.dir)
						if s.name != "new" {
							m.acked = []audit.Entry{signed(1), signed(2)}
						}
						m.boot()
						for n := 3; n < 6; n++ {
							m.append(signed(n))
						}
						m.append(signed(3)) // once more, and it stays one
						m.acked = m.acked[:len(m.acked)-1]
						m.log.Close()
						m.check()
						m.faultAt = 0
						m.boot()
						m.log.Close()
						m.check()
						if !m.hit {
							if at < 8 {
								t.Errorf("only %d steps", at-1)
							}
							break
						}
						if t.Failed() {
							t.Fatalf("at step %d", at)
						}
					}
				})
			}
		}
	}
}

func copyLog(t *testing.T, from, to string) {
	t.Helper()
	write(t, audit.LogPath(to), read(t, audit.LogPath(from)))
	write(t, audit.HeadPath(to), read(t, audit.HeadPath(from)))
}

// A crash may leave any part of the line that was being written; the file system may even have lost the first part of it.
func TestTornLineIsCutOffAtTheNextStart(t *testing.T) {
	t.Parallel()
	third := read(t, audit.LogPath(made(t, 3)))
	dir := made(t, 2)
	whole := read(t, audit.LogPath(dir))
	line := third[len(whole):]
	var torn [][]byte
	for n := 1; n < len(line); n += 7 {
		torn = append(torn, line[:n], append(make([]byte, n), line[n:]...))
	}
	torn = append(torn, line[:len(line)-1], make([]byte, 300), []byte("\n"))
	for _, tail := range torn {
		write(t, audit.LogPath(dir), append(bytes.Clone(whole), tail...))
		s, err := audit.Verify(dir, func(audit.Entry) {})
		if err != nil || s.Head.Seq != 2 || s.Torn != int64(len(tail)) {
			t.Fatalf("%q: verify: %+v, %v; want 2 entries and %d torn bytes", tail, s, err, len(tail))
		}
		var said bytes.Buffer
		l, err := audit.Open(dir, slog.New(slog.NewTextHandler(&said, nil)))
		if err != nil {
			t.Fatalf("%q: %v", tail, err)
		}
		l.Close()
		if !strings.Contains(said.String(), "cut off") || !strings.Contains(said.String(), fmt.Sprintf("bytes=%d", len(tail))) {
			t.Errorf("%q: the start says %q; want how much was cut off", tail, said.String())
		}
		if got := read(t, audit.LogPath(dir)); !bytes.Equal(got, whole) {
			t.Fatalf("%q was not cut off: %q", tail, got[len(whole):])
		}
	}
}

// One that was written whole and not acknowledged is kept: the certificate was signed.
func TestWholeEntryBehindTheHeadIsKept(t *testing.T) {
	t.Parallel()
	dir := made(t, 3)
	write(t, audit.HeadPath(dir), read(t, audit.HeadPath(made(t, 2))))
	if got := verified(t, dir); len(got) != 3 {
		t.Errorf("%d entries; want 3", len(got))
	}
	l := open(t, dir)
	if err := os.Remove(audit.LogPath(dir)); err != nil {
		t.Fatal(err)
	}
	// From the start on it is acknowledged.
	if _, err := audit.Verify(dir, func(audit.Entry) {}); err == nil || !strings.Contains(err.Error(), "the last should be entry 3") {
		t.Errorf("after the start: %v; want that audit.head names entry 3", err)
	}
	l.Close()
}

// The real thing: a disk that is full until somebody makes space. Where tests may not mount one, the faults must do.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		t.Skipf("it takes root to mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l := open(t, dir)
	appendAll(t, l, signed(1))
	filler := dir + "/filler"
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	// The page that the log ends in takes some entries more; a head finds no room.
	n := 2
	for range 20 {
		err := l.Append(signed(n))
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir) {
			t.Fatalf("append on a full disk: %v; want that it is full, and which file", err)
		}
	}
	if s, err := audit.Verify(dir, func(audit.Entry) {}); err != nil || s.Head.Seq > 2 || s.Torn > 0 {
		t.Errorf("verify on a full disk: %+v, %v; want one entry, or a second that is not acknowledged", s, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	appendAll(t, l, signed(n), signed(n+1))
	if got := verified(t, dir); len(got) != 3 {
		t.Errorf("%d entries; want 3", len(got))
	}
}

// calls is a disk that notes what it is told, and fails where it is told to.
type calls struct {
	audit.Disk
	made  []string
	fails map[string]bool // a write that fails has written half
}

func (c *calls) call(name string, do func() error) error {
	c.made = append(c.made, name)
	if c.fails[name] {
		return errBroken
	}
	return do()
}

func (c *calls) WriteAt(b []byte, at int64) (n int, err error) {
	err = c.call("write", func() error {
		n, err = c.Disk.WriteAt(b, at)
		return err
	})
	if c.fails["write"] {
		n, _ = c.Disk.WriteAt(b[:len(b)/2], at)
	}
	return n, err
}

func (c *calls) Truncate(size int64) error {
	return c.call("truncate", func() error { return c.Disk.Truncate(size) })
}
func (c *calls) Sync() error { return c.call("sync", c.Disk.Sync) }
func (c *calls) WriteHead(b []byte) error {
	return c.call("head", func() error { return c.Disk.WriteHead(b) })
}

func openCalls(t *testing.T, dir string) (*audit.Log, *calls) {
	t.Helper()
	c := &calls{fails: make(map[string]bool)}
	l, err := audit.OpenOn(dir, slog.New(slog.DiscardHandler), func(d audit.Disk) audit.Disk {
		c.Disk = d
		return c
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, c
}

// What a process that was killed has written may be in the kernel's memory only: the head must not go first.
func TestOrderOfDurableSteps(t *testing.T) {
	t.Parallel()
	want := func(c *calls, steps ...string) {
		t.Helper()
		if !slices.Equal(c.made, steps) {
			t.Errorf("steps %v; want %v", c.made, steps)
		}
		c.made = nil
	}
	dir := t.TempDir()
	l, c := openCalls(t, dir)
	want(c, "head")
	appendAll(t, l, signed(1))
	want(c, "write", "sync", "head")
	l.Close()
	l, c = openCalls(t, dir)
	want(c)
	l.Close()
	write(t, audit.HeadPath(dir), fmt.Appendf(nil, `{"seq":0,"hash":"%064x"}`, 0))
	l, c = openCalls(t, dir)
	want(c, "sync", "head")
	l.Close()
	write(t, audit.LogPath(dir), append(read(t, audit.LogPath(dir)), '{'))
	_, c = openCalls(t, dir)
	want(c, "truncate", "sync")
}

func TestFailedWriteIsCutBackAtOnceOrLater(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"write", "sync"} {
		dir := made(t, 2)
		before := read(t, audit.LogPath(dir))
		l, c := openCalls(t, dir)
		c.fails[step] = true
		if err := l.Append(signed(3)); !errors.Is(err, errBroken) {
			t.Errorf("%s fails: %v", step, err)
		}
		if got := read(t, audit.LogPath(dir)); !bytes.Equal(got, before) {
			t.Errorf("%s failed, and %q is left behind", step, got[len(before):])
		}
		// Where even that fails it is left behind, and nothing is put over it.
		c.fails["truncate"] = true
		for range 2 {
			if err := l.Append(signed(3)); !errors.Is(err, errBroken) {
				t.Errorf("%s and truncate fail: %v", step, err)
			}
		}
		if left := len(read(t, audit.LogPath(dir))) - len(before); left == 0 {
			t.Errorf("%s and truncate fail: nothing is left behind, so this shows nothing", step)
		}
		c.fails = nil
		appendAll(t, l, audit.Entry{Time: start, Action: audit.Rotate}) // which is shorter than what is left
		if s, err := audit.Verify(dir, func(audit.Entry) {}); err != nil || s.Torn > 0 {
			t.Errorf("%s: after the next entry: %+v, %v", step, s, err)
		}
		appendAll(t, l, signed(3))
		if got := verified(t, dir); len(got) != 4 {
			t.Errorf("%s: %d entries; want 4", step, len(got))
		}
	}
}

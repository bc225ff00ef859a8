package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/audit"
)

// reencode makes line n, counted from 1, an entry that change altered and that has a hash of its own.
func reencode(t *testing.T, lines [][]byte, n int, change func(*audit.Entry)) {
	t.Helper()
	e, err := audit.Parse(lines[n-1])
	if err != nil {
		t.Fatal(err)
	}
	change(&e)
	if lines[n-1], err = e.Encode(); err != nil {
		t.Fatal(err)
	}
}

// rechain makes all lines from n on, counted from 1, follow from the one before, as who rewrites a log does.
func rechain(t *testing.T, lines [][]byte, n int) {
	t.Helper()
	for ; n <= len(lines); n++ {
		var prev audit.Entry
		if n > 1 {
			var err error
			if prev, err = audit.Parse(lines[n-2]); err != nil {
				t.Fatal(err)
			}
		}
		reencode(t, lines, n, func(e *audit.Entry) { e.Seq, e.Prev = uint64(n), prev.Hash })
	}
}

// later is what a log of six entries holds once it has three more.
func later(t *testing.T, lines [][]byte) [][]byte {
	t.Helper()
	for n := range 3 {
		e := signed(100 + n)
		line, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	rechain(t, lines, 7)
	return lines
}

type lines = [][]byte

// damages are what may be done to a log with six entries, and what is said of it.
var damages = []struct {
	name   string
	change func(*testing.T, lines) lines
	seq    uint64
	want   string
}{
	{"a letter altered", func(_ *testing.T, l lines) lines {
		l[2] = bytes.Replace(l[2], []byte("localhost"), []byte("lockhosts"), 1)
		return l
	}, 3, "entry 3 was altered"},
	{"the last altered", func(_ *testing.T, l lines) lines {
		l[5] = bytes.Replace(l[5], []byte("localhost"), []byte("lockhosts"), 1)
		return l
	}, 6, "entry 6 was altered"},
	{"altered with a new hash", func(t *testing.T, l lines) lines {
		reencode(t, l, 3, func(e *audit.Entry) { e.Reason = "another" })
		return l
	}, 3, "entry 3 or entry 4 was replaced"},
	{"the last altered with a new hash", func(t *testing.T, l lines) lines {
		reencode(t, l, 6, func(e *audit.Entry) { e.Reason = "another" })
		return l
	}, 6, "entry 6 or one before it was replaced: audit.head has another hash"},
	{"the first altered with a new hash", func(t *testing.T, l lines) lines {
		reencode(t, l, 1, func(e *audit.Entry) { e.Prev = audit.Hash{1} })
		return l
	}, 1, "entry 1 is not the first"},
	{"all rewritten", func(t *testing.T, l lines) lines {
		reencode(t, l, 2, func(e *audit.Entry) { e.Reason = "another" })
		rechain(t, l, 3)
		return l
	}, 6, "entry 6 or one before it was replaced"},
	{"all rewritten, and more after it", func(t *testing.T, l lines) lines {
		l = later(t, l)
		reencode(t, l, 2, func(e *audit.Entry) { e.Reason = "another" })
		rechain(t, l, 3)
		return l
	}, 6, "entry 6 or one before it was replaced"},
	{"one removed", func(_ *testing.T, l lines) lines { return slices.Delete(l, 3, 4) }, 4, "entry 4 is missing or not in its place: line 4 of audit.log is entry 5"},
	{"the first removed", func(_ *testing.T, l lines) lines { return l[1:] }, 1, "entry 1 is missing or not in its place: line 1 of audit.log is entry 2"},
	{"removed, the rest renumbered", func(t *testing.T, l lines) lines {
		l = slices.Delete(l, 3, 4)
		rechain(t, l, 4)
		return l
	}, 6, "the end of audit.log was cut off: entry 6 is missing"},
	{"two swapped", func(_ *testing.T, l lines) lines {
		l[1], l[2] = l[2], l[1]
		return l
	}, 2, "entry 2 is missing or not in its place: line 2 of audit.log is entry 3"},
	{"one twice", func(_ *testing.T, l lines) lines { return slices.Insert(l, 3, l[2]) }, 4, "line 4 of audit.log is entry 3"},
	{"one inserted that fits", func(t *testing.T, l lines) lines {
		l = slices.Insert(l, 3, bytes.Clone(l[2]))
		reencode(t, l, 4, func(e *audit.Entry) {
			before, _ := audit.Parse(l[2])
			e.Seq, e.Prev = 4, before.Hash
		})
		return l
	}, 5, "entry 5 is missing or not in its place: line 5 of audit.log is entry 4"},
	{"an empty line", func(_ *testing.T, l lines) lines { return slices.Insert(l, 2, []byte("\n")) }, 3, "entry 3 is torn or overwritten"},
	{"a torn line within", func(_ *testing.T, l lines) lines {
		l[2] = l[2][:40]
		return l
	}, 3, "entry 3 is torn or overwritten"},
	{"a torn line within that keeps its end", func(_ *testing.T, l lines) lines {
		l[2] = l[2][40:]
		return l
	}, 3, "entry 3 is torn or overwritten"},
	{"the last torn", func(_ *testing.T, l lines) lines {
		l[5] = l[5][:len(l[5])-1]
		return l
	}, 6, "entry 6 is torn or overwritten"},
	{"zeros", func(_ *testing.T, l lines) lines {
		clear(l[4])
		return l
	}, 5, "entry 5 is torn or overwritten"},
	{"a line without an end", func(_ *testing.T, l lines) lines {
		return append(l[:3], bytes.Repeat([]byte("x"), 5<<20))
	}, 4, "entry 4 is torn or overwritten"},
	{"a line without an end behind the head", func(_ *testing.T, l lines) lines {
		return append(l, bytes.Repeat([]byte("x"), 5<<20))
	}, 7, "entry 7 is torn or overwritten"},
	{"two torn lines behind the head", func(_ *testing.T, l lines) lines {
		return append(l, []byte("{\"seq\":7\n"), []byte("{\"seq\""))
	}, 7, "entry 7 is torn or overwritten"},
	{"the end cut off", func(_ *testing.T, l lines) lines { return l[:4] }, 5, "the end of audit.log was cut off: entry 5 is missing; the last should be entry 6"},
	{"all cut off", func(*testing.T, lines) lines { return nil }, 1, "the end of audit.log was cut off: entry 1 is missing"},
	{"more than one added at the end", later, 7, "entry 7 and all after it were added by somebody else"},
	{"one added at the end that does not fit", func(t *testing.T, l lines) lines {
		l = append(l, l[0])
		return l
	}, 7, "line 7 of audit.log is entry 1"},
}

func TestDamageIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	for _, tt := range damages {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := made(t, 6)
			changed := bytes.Join(tt.change(t, bytes.SplitAfter(read(t, audit.LogPath(dir)), []byte("\n"))[:6]), nil)
			write(t, audit.LogPath(dir), changed)
			wantDamage(t, dir, tt.seq, tt.want)
			if !bytes.Equal(read(t, audit.LogPath(dir)), changed) {
				t.Error("the log was changed, though it is evidence")
			}
		})
	}
}

// wantDamage wants Verify to find it after all entries before it, and Open to refuse the log for it.
func wantDamage(t *testing.T, dir string, seq uint64, text string) {
	t.Helper()
	var whole uint64
	var damage *audit.Damage
	_, err := audit.Verify(dir, func(audit.Entry) { whole++ })
	if !errors.As(err, &damage) || damage.Seq != seq || !strings.Contains(err.Error(), text) {
		t.Errorf("verify: %v; want entry %d, %q", err, seq, text)
	}
	if seq > 0 && whole+1 < seq {
		t.Errorf("%d entries were shown before the damage; want those before entry %d", whole, seq)
	}
	if _, openErr := audit.Open(dir, slog.New(slog.DiscardHandler)); openErr == nil || openErr.Error() != err.Error() {
		t.Errorf("open: %v; want %v", openErr, err)
	}
}

func TestDamagedHeadIsFound(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, head string
		seq        uint64
		want       string
	}{
		{"gone", "", 0, "audit.head is missing"},
		{"no JSON", "x", 0, "audit.head does not say which entry is the last"},
		{"half a hash", `{"seq":3,"hash":"00"}`, 0, "audit.head does not say"},
		{"another hash", fmt.Sprintf(`{"seq":3,"hash":"%064x"}`, 1), 3, "entry 3 or one before it was replaced"},
		{"too far", fmt.Sprintf(`{"seq":4,"hash":"%064x"}`, 1), 4, "the end of audit.log was cut off: entry 4 is missing"},
		{"of long ago", fmt.Sprintf(`{"seq":0,"hash":"%064x"}`, 0), 1, "entry 1 and all after it were added by somebody else"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := made(t, 3)
			if tt.head == "" {
				if err := os.Remove(audit.HeadPath(dir)); err != nil {
					t.Fatal(err)
				}
			} else {
				write(t, audit.HeadPath(dir), []byte(tt.head))
			}
			wantDamage(t, dir, tt.seq, tt.want)
		})
	}
	t.Run("the log gone", func(t *testing.T) {
		t.Parallel()
		dir := made(t, 3)
		if err := os.Remove(audit.LogPath(dir)); err != nil {
			t.Fatal(err)
		}
		wantDamage(t, dir, 1, "the end of audit.log was cut off: entry 1 is missing; the last should be entry 3")
		if _, err := os.Stat(audit.LogPath(dir)); err == nil {
			t.Error("a new log was made in its place")
		}
	})
}

// The other side of the table: no bit of the file can change without being noticed.
func TestNoByteMayChange(t *testing.T) {
	t.Parallel()
	dir := made(t, 3)
	whole := read(t, audit.LogPath(dir))
	for at := range whole {
		changed := bytes.Clone(whole)
		changed[at] ^= 1
		write(t, audit.LogPath(dir), changed)
		var damage *audit.Damage
		if _, err := audit.Verify(dir, func(audit.Entry) {}); !errors.As(err, &damage) {
			t.Fatalf("byte %d of %q changed: %v", at, whole, err)
		}
	}
}

// A later version may say more in an entry; an older one, after a downgrade, must not take that for damage.
func TestFieldsOfLaterVersionsAreNoDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	body := fmt.Sprintf(`{"seq":1,"time":"2040-01-01T00:00:00Z","action":"later","colour":"blue","prev":"%064x"`, 0)
	hash := audit.Hash(sha256.Sum256([]byte(body)))
	write(t, audit.LogPath(dir), []byte(body+`,"hash":"`+hash.String()+"\"}\n"))
	head, err := json.Marshal(audit.Head{Seq: 1, Hash: hash})
	if err != nil {
		t.Fatal(err)
	}
	write(t, audit.HeadPath(dir), head)
	appendAll(t, open(t, dir), signed(1))
	if got := verified(t, dir); len(got) != 2 || got[0].Action != "later" {
		t.Errorf("got %+v", got)
	}
}

// A log of many years is verified in the memory of a short one, and opened in that of its fingerprints.
func TestLongLogNeedsLittleMemory(t *testing.T) {
	const entries = 20_000 // 13 MB; the race detector is slow
	dir := t.TempDir()
	var prev audit.Entry
	var lines bytes.Buffer
	for n := range entries {
		e := signed(n)
		e.Seq, e.Prev = uint64(n+1), prev.Hash
		line, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		lines.Write(line)
		prev = e
	}
	write(t, audit.LogPath(dir), lines.Bytes())
	head, err := json.Marshal(audit.Head{Seq: prev.Seq, Hash: prev.Hash})
	if err != nil {
		t.Fatal(err)
	}
	write(t, audit.HeadPath(dir), head)
	lines.Reset()
	size := lines.Cap()
	lines = bytes.Buffer{}

	var peak, n uint64
	before := inUse()
	s, err := audit.Verify(dir, func(audit.Entry) {
		if n++; n%(entries/10) == 0 {
			now := inUse()
			peak = max(peak, now-min(before, now))
		}
	})
	if err != nil || s.Head.Seq != entries {
		t.Fatalf("verify: %+v, %v", s, err)
	}
	if peak > 2<<20 {
		t.Errorf("verifying a log of %d MiB took %d KiB of memory; want at most 2 MiB", size>>20, peak>>10)
	}
	before = inUse()
	l := open(t, dir)
	if took := inUse() - before; took > 100*entries {
		t.Errorf("an open log of %d entries takes %d KiB of memory; want at most 100 bytes for each", entries, took>>10)
	}
	appendAll(t, l, signed(5), signed(entries))
	if got := l.Head().Seq; got != entries+1 {
		t.Errorf("%d entries; want %d", got, entries+1)
	}
}

// inUse is the memory of the live heap.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

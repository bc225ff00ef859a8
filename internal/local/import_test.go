package local_test

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/instance"
)

// dump is the node's data as an RDB file.
func (m *machine) dump() []byte {
	m.t.Helper()
	var file bytes.Buffer
	err := m.DumpEngine(m.t.Context(), m.node, func(_ context.Context, dump io.Reader) error {
		_, err := io.Copy(&file, dump)
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return file.Bytes()
}

func source(file io.Reader, size int) instance.DataSource {
	return func(context.Context) (io.ReadCloser, int64, error) { return io.NopCloser(file), int64(size), nil }
}

// After an import there are the data of the file and nothing else, also when the engine crashes at once, where snapshots are kept.
func TestAnImportReplacesAllData(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]bool{"without snapshots": false, "with snapshots": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _ := pair(t)
			m := newMachine(t, []engine.Binary{b}, versionOf(b))
			m.node.KeepDump = keep
			m.ensure()
			c := m.client()
			c.fill(2000)
			file := m.dump()
			c.do("FLUSHALL")
			c.do("SET", "besides", "x")
			next := m.next(versionOf(b))
			if _, err := m.ReplaceEngine(t.Context(), m.node, next, source(bytes.NewReader(file), len(file)), func(string) {}); err != nil {
				t.Fatal(err)
			}
			m.node = next
			m.ensure()
			c.checkFilled(2000)
			if got := c.do("CONFIG", "GET", "maxmemory").Elems[1].Str; got != m.node.Directives["maxmemory"] {
				t.Errorf("maxmemory is %s", got)
			}
			syscall.Kill(pidOf(engine.Socket(filepath.Join(m.dir, m.node.ID, "1"))), syscall.SIGKILL)
			m.ensure()
			want := "0"
			if keep {
				want = "2005"
			}
			if got := strconv.FormatInt(m.client().do("DBSIZE").Int, 10); got != want {
				t.Errorf("after a crash there are %s keys; want %s", got, want)
			}
			m.checkOneEngine()
		})
	}
}

func TestDataThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	b, _ := pair(t)
	large := newMachine(t, []engine.Binary{b}, versionOf(b))
	large.node.Directives["maxmemory"] = strconv.Itoa(256 << 20)
	large.ensure()
	value := strings.Repeat("v", 1<<20)
	for n := range 80 {
		large.client().do("SET", "key:"+strconv.Itoa(n), value)
	}
	file := large.dump()

	m := newMachine(t, []engine.Binary{b}, versionOf(b))
	c := m.client()
	c.fill(100)
	_, err := m.ReplaceEngine(t.Context(), m.node, m.next(versionOf(b)), source(bytes.NewReader(file), len(file)), func(string) {})
	checkMessage(t, m.dir, err, "the data of the file take", "and the instance has room for", "(67108864 bytes)", "make it larger by 1 GB at least")
	m.ensure()
	c.checkFilled(100)
	m.checkOneEngine()
}

// A file that breaks off while it is read, or that the engine can't load, changes nothing.
func TestAFileThatCanNotBeLoadedChangesNothing(t *testing.T) {
	t.Parallel()
	b, _ := pair(t)
	m := newMachine(t, []engine.Binary{b}, versionOf(b))
	c := m.client()
	c.fill(100)
	file := m.dump()
	broken := &instance.Error{Code: instance.Unavailable, Message: "the endpoint is gone"}
	for name, data := range map[string]struct {
		source instance.DataSource
		says   string
	}{
		"breaks off":     {source(io.MultiReader(bytes.NewReader(file[:100]), failing{broken}), len(file)), "the endpoint is gone"},
		"is cut":         {source(bytes.NewReader(file[:len(file)/2]), 0), "can't load the file"},
		"is newer":       {source(bytes.NewReader(append([]byte("REDIS0099"), file[9:]...)), 0), "newer format"},
		"can't be read":  {func(context.Context) (io.ReadCloser, int64, error) { return nil, 0, broken }, "the endpoint is gone"},
		"is too large":   {source(bytes.NewReader(file), 1<<60), "the server's disk has"},
		"has a bad type": {source(bytes.NewReader([]byte("REDIS0009\x63what is this")), 0), "can't load the file"},
		"is a module's":  {source(bytes.NewReader([]byte("REDIS0009\xf7what is this")), 0), "data of a module"},
	} {
		_, err := m.ReplaceEngine(t.Context(), m.node, m.next(versionOf(b)), data.source, func(string) {})
		t.Run(name, func(t *testing.T) { checkMessage(t, m.dir, err, data.says) })
		m.ensure()
		c.checkFilled(100)
		m.checkOneEngine()
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

package rdb_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc64"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/rdb"
)

// running is a real engine whose snapshots are dir/dump.rdb.
type running struct {
	dir  string
	conn net.Conn
}

// load starts an engine with a snapshot, nil for none. Of one that refuses to start with it, it returns the log.
func load(t *testing.T, b engine.Binary, snapshot []byte, flags ...string) (*running, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if snapshot != nil {
		if err := os.WriteFile(filepath.Join(dir, "dump.rdb"), snapshot, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	socket, log := filepath.Join(dir, "s"), filepath.Join(dir, "log")
	c := exec.Command(b.Path, append([]string{"--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir, "--logfile", log}, flags...)...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = c.Wait()
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-exited
	})
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(2 * time.Millisecond) {
		select {
		case <-exited:
			text, _ := os.ReadFile(log)
			return nil, string(text)
		default:
		}
		if conn, err := net.Dial("unix", socket); err == nil {
			r := &running{dir, conn}
			if strings.HasPrefix(r.call("PING"), "+PONG") {
				t.Cleanup(func() { conn.Close() })
				return r, ""
			}
			conn.Close()
		}
	}
	t.Fatalf("%s says nothing", b.Path)
	return nil, ""
}

// call sends an inline command and returns what comes for it first.
func (r *running) call(command string) string {
	_ = r.conn.SetDeadline(time.Now().Add(30 * time.Second))
	reply := make([]byte, 4096)
	if _, err := io.WriteString(r.conn, command+"\r\n"); err != nil {
		return err.Error()
	}
	n, err := r.conn.Read(reply)
	if err != nil {
		return err.Error()
	}
	return string(reply[:n])
}

// snapshotOf is a snapshot with a few keys of each type.
func snapshotOf(t *testing.T, b engine.Binary, flags ...string) []byte {
	t.Helper()
	r, log := load(t, b, nil, flags...)
	if r == nil {
		t.Fatalf("%s does not start: %s", b.Path, log)
	}
	for _, c := range []string{"SET s " + strings.Repeat("long", 200), "HSET h f v", "RPUSH l 1 2 3", "SADD set a b", "ZADD z 1 a", "XADD x * f v", "SET e 1 EX 100000", "SAVE"} {
		if got := r.call(c); strings.HasPrefix(got, "-") {
			t.Fatalf("%s: %s", c, got)
		}
	}
	snapshot, err := os.ReadFile(filepath.Join(r.dir, "dump.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

func TestSnapshotsOfRealEnginesAreRight(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		for _, flags := range [][]string{nil, {"--rdbchecksum", "no"}, {"--rdbcompression", "no"}} {
			snapshot := snapshotOf(t, b, flags...)
			before := time.Now()
			r, err := rdb.Check(bytes.NewReader(snapshot))
			if err != nil {
				t.Fatalf("%v: %v", flags, err)
			}
			wantWriter := map[engine.Kind]string{engine.Redis: "Redis ", engine.Valkey: "Valkey "}[b.Kind] + b.Version.String()
			h := r.Header
			if h.Writer != wantWriter || h.UsedMemory < 100_000 || h.AOF || before.Sub(h.Created).Abs() > time.Minute || r.Size() != int64(len(snapshot)) {
				t.Errorf("%v: %+v, %d bytes; want one by %s of just now", flags, h, r.Size(), wantWriter)
			}
			if want := len(flags) == 0 || flags[0] != "--rdbchecksum"; r.Checksummed() != want {
				t.Errorf("%v: checksummed %t", flags, r.Checksummed())
			}
		}
	})
}

// What CheckLoadable says of a file and an engine is what the engine does with it: each engine's files on each engine, and every version of
// the format around the limits.
func TestEnginesLoadWhatTheTableSays(t *testing.T) {
	t.Parallel()
	engines := enginetest.All(t)
	files := make(map[string][]byte)
	for _, b := range engines {
		files[enginetest.Name(b)] = snapshotOf(t, b)
		f, _ := rdb.FormatsOf(string(b.Kind), b.Version.Major, b.Version.Minor)
		for _, v := range []int{1, 4, 5, f.Redis, f.Redis + 1, 79} {
			files[fmt.Sprintf("REDIS%04d", v)] = withoutKeys(fmt.Sprintf("REDIS%04d", v), v)
		}
		for _, v := range []int{f.ValkeyMin - 1, f.ValkeyMin, f.ValkeyMax, f.ValkeyMax + 1} {
			if v > 0 {
				files[fmt.Sprintf("VALKEY%03d", v)] = withoutKeys(fmt.Sprintf("VALKEY%03d", v), v)
			}
		}
	}
	for _, b := range engines {
		t.Run(enginetest.Name(b), func(t *testing.T) {
			t.Parallel()
			for name, file := range files {
				r, err := rdb.Check(bytes.NewReader(file))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				said := r.Header.CheckLoadable(string(b.Kind), b.Version.Major, b.Version.Minor)
				loaded, log := load(t, b, file)
				if (loaded != nil) != (said == nil) {
					t.Errorf("%s: loads it: %t; the table says: %v; the engine: %s", name, loaded != nil, said, log)
				}
			}
		})
	}
}

// withoutKeys is the shortest file of a version.
func withoutKeys(magic string, version int) []byte {
	file := append([]byte(magic), 0xff)
	if version < 5 {
		return file
	}
	return binary.LittleEndian.AppendUint64(file, ^crc64.Update(^uint64(0), crc64.MakeTable(0x95ac9329ac4bc9b5), file))
}

package engine_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
)

// persistent is a configuration with persistence.
func persistent(t *testing.T) engine.Config {
	cfg := config(t)
	cfg.KeepDump = true
	return cfg
}

// snapshots waits until no snapshot is in progress.
func snapshots(t *testing.T, e *engine.Engine) engine.Snapshots {
	t.Helper()
	for {
		s, err := e.Snapshots(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		if !s.InProgress {
			return s
		}
		time.Sleep(5 * time.Millisecond) // the next question
	}
}

func snapshot(t *testing.T, e *engine.Engine) engine.Snapshots {
	t.Helper()
	if err := e.BeginSnapshot(deadline(t)); err != nil {
		t.Fatal(err)
	}
	return snapshots(t, e)
}

func TestSnapshotIsBackAfterACrash(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		cfg := persistent(t)
		e := startOf(t, b, cfg)
		if s := snapshots(t, e); !s.Finished.IsZero() || s.Size != 0 || s.Failure != "" {
			t.Errorf("before the first one: %+v", s)
		}
		c := connect(t, cfg.Dir)
		c.want("OK", "SET", "k", "first")
		before := time.Now().Add(-time.Second) // files have the time of the kernel's last tick
		if s := snapshot(t, e); s.Finished.Before(before) || s.Size < 50 || s.Failure != "" {
			t.Errorf("after the first one: %+v", s)
		}
		c.want("OK", "SET", "k", "lost")
		e.Kill()
		waitDone(t, e)
		// As if the child had been killed too.
		left := filepath.Join(cfg.Dir, "temp-12345.rdb")
		if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		startOf(t, b, cfg)
		connect(t, cfg.Dir).want("first", "GET", "k")
		exists(t, left, false)
	})
}

// A snapshot that fails leaves the last good one, and clients may write on; why it failed is known.
func TestFailedSnapshotLeavesTheLastGoodOne(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		cfg := persistent(t)
		cfg.Directives = map[string]string{"stop-writes-on-bgsave-error": "no", "save": "3600 1", "rdb-key-save-delay": "10000000"}
		e := startOf(t, b, cfg)
		good := snapshot(t, e) // of nothing, so that it doesn't wait
		c := connect(t, cfg.Dir)
		c.want("OK", "SET", "k", "v")
		if err := e.BeginSnapshot(deadline(t)); err != nil {
			t.Fatal(err)
		}
		if s, err := e.Snapshots(deadline(t)); err != nil || !s.InProgress || s.Age > 10*time.Second || !s.Finished.Equal(good.Finished) {
			t.Errorf("in progress: %+v, %v", s, err)
		}
		if err := e.BeginSnapshot(deadline(t)); err == nil || !strings.Contains(err.Error(), "Background save already in progress") {
			t.Errorf("a second one at the same time: %v", err)
		}
		killChild(t, e.Identity().PID)
		s := snapshots(t, e)
		if s.Failure != "Background saving terminated by signal 9" || !s.Finished.Equal(good.Finished) || s.Size != good.Size {
			t.Errorf("after its process was killed: %+v; want the failure and the snapshot before, %+v", s, good)
		}
		c.want("OK", "SET", "k", "w")
		c.want("PONG", "PING")
	})
}

func killChild(t *testing.T, parent int) {
	t.Helper()
	for _, child := range childrenOf(t, parent) {
		if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}

// A dump that is damaged on disk is seen as such, and the one before takes its place; one of a newer version is not damaged.
func TestDamagedDumpGivesWayToTheOneBefore(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		cfg := persistent(t)
		cfg.Directives = map[string]string{"rdbcompression": "no"}
		e := startOf(t, b, cfg)
		c := connect(t, cfg.Dir)
		c.want("OK", "SET", "secret-key", "first "+strings.Repeat("x", 5000))
		snapshot(t, e)
		c.want("OK", "SET", "secret-key", "second "+strings.Repeat("x", 5000))
		last := snapshot(t, e)
		e.Kill()
		waitDone(t, e)
		dump := filepath.Join(cfg.Dir, "dump.rdb")
		good, err := os.ReadFile(dump)
		if err != nil || int64(len(good)) != last.Size {
			t.Fatalf("%d bytes, %v; want %d", len(good), err, last.Size)
		}
		for how, damaged := range map[string][]byte{
			"no signature": append([]byte("XXXX"), good[4:]...),
			"cut":          good[:len(good)-100],
			"empty":        {},
			"changed":      []byte(strings.Replace(string(good), "second", "SECOND", 1)),
		} {
			overwrite(t, dump, damaged)
			_, err = engine.Start(deadline(t), b, cfg)
			var refused *engine.StartError
			if !errors.As(err, &refused) || refused.DamagedDump() == "" || strings.Contains(refused.DamagedDump(), cfg.Dir) {
				t.Errorf("%s: %v; want that the dump is damaged", how, err)
			} else if strings.Contains(err.Error(), "secret-key") {
				t.Errorf("%s: the error names a key: %v", how, err)
			}
		}
		for _, newer := range []string{"REDIS9999", "REDIS0078", "VALKEY999"} {
			overwrite(t, dump, append([]byte(newer), good[9:]...))
			_, err = engine.Start(deadline(t), b, cfg)
			var refused *engine.StartError
			if !errors.As(err, &refused) || refused.DamagedDump() != "" {
				t.Errorf("a dump of a newer version: %v; want that it is refused and not damaged", err)
			}
		}

		overwrite(t, dump, good[:100])
		if made, err := engine.UsePreviousDump(cfg.Dir); err != nil || time.Since(made) > time.Minute {
			t.Errorf("the one before is of %v, %v", made, err)
		}
		if kept, err := os.ReadFile(filepath.Join(cfg.Dir, "dump.damaged.rdb")); err != nil || len(kept) != 100 {
			t.Errorf("the damaged one: %d bytes, %v; want that it is kept", len(kept), err)
		}
		startOf(t, b, cfg)
		if got := connect(t, cfg.Dir).do("GETRANGE", "secret-key", "0", "4").Str; got != "first" {
			t.Errorf("got %q; want the data of the snapshot before", got)
		}
		if _, err := engine.UsePreviousDump(cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("once more: %v; want that there is none before that", err)
		}
	})
}

// overwrite makes a new file, as an engine does: what has another name stays what it is.
func overwrite(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

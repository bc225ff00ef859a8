package engine_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
)

// A running engine takes new directives, whoever started it, and says by name which one it refuses.
func TestDirectivesOfARunningEngine(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		cfg := config(t)
		cfg.Directives = map[string]string{"maxmemory": "1073741824", "maxmemory-policy": "volatile-lru", "databases": "4"}
		e := startOf(t, b, cfg)
		adopted, err := engine.Adopt(t.Context(), cfg.Dir, cfg.AdminPassword)
		if err != nil {
			t.Fatal(err)
		}
		defer adopted.Release()
		for n, by := range []*engine.Engine{e, adopted, e} {
			for _, policy := range []string{"allkeys-lru", "noeviction"} {
				want := map[string]string{"maxmemory": "2147483648", "maxmemory-policy": policy, "databases": "8", "notify-keyspace-events": ""}
				if n == 2 && policy == "allkeys-lru" {
					continue // the other one has changed it since: what was set by somebody else is not noticed
				}
				if err := by.Configure(t.Context(), want); err != nil {
					t.Fatal(err)
				}
				info, err := e.Info(t.Context(), "memory")
				if err != nil {
					t.Fatal(err)
				}
				if info["maxmemory"] != "2147483648" || info["maxmemory_policy"] != policy {
					t.Errorf("the engine has maxmemory %s and %s; want 2147483648 and %s", info["maxmemory"], info["maxmemory_policy"], policy)
				}
			}
		}
		err = e.Configure(t.Context(), map[string]string{"maxmemory": "3221225472", "maxmemory-policy": "no-such-policy"})
		var refused *engine.ConfigError
		if !errors.As(err, &refused) || refused.Name != "maxmemory-policy" || refused.Value != "no-such-policy" || refused.Reply == "" {
			t.Errorf("a value that there isn't: %v", err)
		}
	})
}

// While persistence is switched on and off, a dump is kept only where it is to be loaded after a crash.
func TestDumpIsKeptAsPersistenceSays(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	e := start(t, cfg)
	dump := filepath.Join(cfg.Dir, "dump.rdb")
	adopt := func() {
		t.Helper()
		again, err := engine.Adopt(t.Context(), cfg.Dir, cfg.AdminPassword)
		if err != nil {
			t.Fatal(err)
		}
		again.Release()
	}
	for range 2 {
		if err := e.KeepDump(true); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dump, []byte("data"), 0o600); err != nil {
			t.Fatal(err)
		}
		adopt()
		if _, err := os.Stat(dump); err != nil {
			t.Errorf("with persistence on: %v", err)
		}
		if err := e.KeepDump(false); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dump); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("persistence was switched off, and the dump is still there: %v", err)
		}
		if err := os.WriteFile(dump, []byte("of a clean stop"), 0o600); err != nil {
			t.Fatal(err)
		}
		adopt()
		if _, err := os.Stat(dump); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("with persistence off, after an adoption, the dump is still there: %v", err)
		}
	}
}

// Whether an engine was built with active defragmentation is known before one is started with it.
func TestActiveDefragmentationIsFoundOut(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		cfg := config(t)
		cfg.Directives = map[string]string{"activedefrag": "yes"}
		e, err := engine.Start(t.Context(), b, cfg)
		if err == nil {
			e.Kill()
			<-e.Done()
		}
		if started := err == nil; started != b.ActiveDefrag {
			t.Errorf("it is said to accept activedefrag: %t; its start with it: %v", b.ActiveDefrag, err)
		}
	})
}

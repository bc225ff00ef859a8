package engine_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sealane/sealane/internal/engine"
)

// eachEngine runs a test on the engine in PATH and on those that scripts/engines.sh has unpacked.
func eachEngine(t *testing.T, test func(*testing.T, engine.Binary)) {
	t.Helper()
	folder := os.Getenv("SEALANE_ENGINES")
	if cache, err := os.UserCacheDir(); folder == "" && err == nil {
		folder = filepath.Join(cache, "sealane", "engines")
	}
	all := []engine.Binary{binary(t)}
	newer, err := filepath.Glob(filepath.Join(folder, "*", "*-server", "*-server"))
	if err != nil {
		t.Fatal(err)
	}
	if len(newer) == 0 {
		t.Log("no newer engine is unpacked: this shows the one in PATH only")
	} else if newer, err := engine.Find(t.Context(), newer); err != nil {
		t.Fatal(err)
	} else {
		all = append(all, newer...)
	}
	for _, b := range all {
		t.Run(string(b.Kind)+"-"+b.Version.String(), func(t *testing.T) { test(t, b) })
	}
}

func startOn(t *testing.T, b engine.Binary, cfg engine.Config) *engine.Engine {
	t.Helper()
	e, err := engine.Start(deadline(t), b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	killAtEnd(t, cfg.Dir, e)
	return e
}

func TestTheEngineIsHardened(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		cfg := config(t)
		e := startOn(t, b, cfg)
		c := connect(t, cfg.Dir)
		show := func(name string) string {
			reply := c.do("CONFIG", "GET", name)
			if len(reply.Elems) == 0 {
				return "(not known)"
			}
			return reply.Elems[1].Str
		}
		// From Valkey 9.1.2 on there is nothing to be set: payloads are checked in any case.
		always := b.Kind == engine.Valkey && b.Version.Compare(engine.Version{Major: 9, Minor: 1}) >= 0
		if !always && b.Version.Compare(engine.Version{Major: 6, Minor: 2}) >= 0 {
			if got := show("sanitize-dump-payload"); got != "yes" {
				t.Errorf("sanitize-dump-payload before the first client: got %q, want yes", got)
			}
		}
		if err := e.Harden(deadline(t)); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"sanitize-dump-payload": "yes", "acl-pubsub-default": "resetchannels", "hide-user-data-from-log": "yes",
			"enable-debug-command": "no", "enable-module-command": "no", "enable-protected-configs": "no",
			"oom-score-adj": "yes", "oom-score-adj-values": "0 200 800", "protected-mode": "yes", "port": "0", "tls-port": "0",
			"stop-writes-on-bgsave-error": "yes", "lua-enable-deprecated-api": "no", "lua-enable-insecure-api": "no", "import-mode": "no",
		} {
			got := show(name)
			if got == "(not known)" {
				t.Logf("%s does not know %s", b.Version, name)
			} else if got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
	})
}

// An engine that an older Sealane has started is hardened without a restart.
func TestAnAdoptedEngineIsHardened(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	start(t, cfg)
	adopted, err := engine.Adopt(deadline(t), cfg.Dir, admin)
	if err != nil {
		t.Fatal(err)
	}
	defer adopted.Release()
	if _, err := engine.Call(adopted, deadline(t), []string{"CONFIG", "SET", "sanitize-dump-payload", "no"}); err != nil {
		t.Fatal(err)
	}
	if err := adopted.Harden(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if got := connect(t, cfg.Dir).do("CONFIG", "GET", "sanitize-dump-payload"); got.Elems[1].Str != "yes" {
		t.Errorf("sanitize-dump-payload: got %q, want yes", got.Elems[1].Str)
	}
}

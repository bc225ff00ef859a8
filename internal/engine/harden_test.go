package engine_test

import (
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
)

func TestTheEngineIsHardened(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		cfg := config(t)
		e := startOf(t, b, cfg)
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

package engine_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/resp"
)

// busy starts something that runs for ever and returns when the engine says so.
func busy(t *testing.T, e *engine.Engine, dir string, cmd ...string) {
	t.Helper()
	if _, err := connect(t, dir).conn.Write(resp.AppendCommand(nil, cmd...)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := e.Info(deadline(t))
		if engine.IsBusy(err) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the engine is not busy: %v", err)
		}
	}
}

func TestScriptsThatRunForEver(t *testing.T) {
	t.Parallel()
	const forever = "while true do redis.call('PING') end"
	for name, tt := range map[string]struct {
		cmd        []string
		unkillable bool
	}{
		"that reads":                  {[]string{"EVAL", forever, "0"}, false},
		"that has written":            {[]string{"EVAL", "redis.call('SET','k','v') " + forever, "0"}, true},
		"a function":                  {[]string{"FCALL", "f", "0"}, false},
		"a function that has written": {[]string{"FCALL", "w", "0"}, true},
	} {
		t.Run(name, func(t *testing.T) { // one at a time: each takes a core
			enginetest.Each(t, func(t *testing.T, b engine.Binary) {
				cfg := config(t)
				cfg.Directives = map[string]string{"lua-time-limit": "50"}
				e := startOf(t, b, cfg)
				if tt.cmd[0] == "FCALL" {
					lib := "#!lua name=l\nredis.register_function('f', function() " + forever + " end)\n" +
						"redis.register_function('w', function() redis.call('SET','k','v') " + forever + " end)"
					if reply := connect(t, cfg.Dir).do("FUNCTION", "LOAD", lib); reply.IsError() {
						t.Fatal(reply.Str)
					}
				}
				busy(t, e, cfg.Dir, tt.cmd...)
				if err := e.Stop(deadline(t), true); !engine.IsBusy(err) {
					t.Errorf("stop: got %v, want that it is busy", err)
				}
				err := e.KillScript(deadline(t))
				if tt.unkillable {
					if !errors.Is(err, engine.ErrUnkillable) || !strings.Contains(err.Error(), "UNKILLABLE") {
						t.Errorf("kill script: got %v, want ErrUnkillable", err)
					}
					return
				}
				if err != nil {
					t.Fatalf("kill script: %v", err)
				}
				stop(t, e, true)
			})
		})
	}
}

package routing

import (
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
)

func TestWhatIsRefusedWithoutMemory(t *testing.T) {
	t.Parallel()
	for request, want := range map[string]Refusal{
		"set a b":                        RefuseRequest,
		"incr a":                         RefuseRequest,
		"blmove a b left left 0":         RefuseRequest,
		"sort a":                         RefuseRequest, // as the engine does: it may be one with STORE
		"xgroup create s g $ mkstream":   RefuseRequest,
		"xgroup createconsumer s g c":    RefuseRequest,
		"function load x":                RefuseRequest,
		"function restore x":             RefuseRequest,
		"vadd k fp32 v e":                RefuseRequest,
		"vadd k fp32 v e cas":            RefuseRequest,
		"restore-asking a 0 x":           RefuseRequest,
		"get a":                          NotRefused,
		"sort_ro a":                      NotRefused,
		"xgroup destroy s g":             NotRefused,
		"xreadgroup group g c streams s": NotRefused,
		"function list":                  NotRefused,
		"function delete l":              NotRefused,
		"del a":                          NotRefused,
		"unlink a":                       NotRefused,
		"flushall":                       NotRefused,
		"expire a 1":                     NotRefused,
		"lpop a":                         NotRefused,
		"blpop a 0":                      NotRefused,
		"getdel a":                       NotRefused,
		"config get maxmemory":           NotRefused,
		"publish c m":                    NotRefused,
		"subscribe c":                    NotRefused,
		"multi":                          NotRefused,
		"auth p":                         NotRefused,
		"script load x":                  NotRefused,
		"eval_ro x 0":                    NotRefused,
		"nosuchcommand":                  NotRefused, // the engine says what is wrong with it
		"eval x 0":                       RefuseWrites,
		"evalsha x 0":                    RefuseWrites,
		"fcall x 0":                      RefuseWrites,
	} {
		var st State
		c := named(t, request)
		if got := RefusalOf(&st, c, fields(request)[0]); got != want {
			t.Errorf("%s: %d; want %d", request, got, want)
		}
		// What is queued takes memory too, whatever it is.
		st.Queuing = true
		if got := RefusalOf(&st, c, fields(request)[0]); got != RefuseRequest {
			t.Errorf("%s between MULTI and EXEC: %d; want that it is refused", request, got)
		}
	}
}

func TestTransactionThatWasQueuedWhileThereWasMemory(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		queued string
		want   Refusal
	}{{"get", NotRefused}, {"set", RefuseExec}, {"del", NotRefused}, {"set get", RefuseExec}, {"eval", RefuseExec}, {"eval_ro", NotRefused}} {
		var st State
		for range 2 { // what one transaction held does not matter to the next
			st.SendingDedicated(Named("multi"), false)
			st.Queuing = true
			for _, name := range strings.Fields(c.queued) {
				st.SendingDedicated(Named(name), false)
			}
			if got := RefusalOf(&st, execCommand, nil); got != c.want {
				t.Errorf("EXEC of %s: %d; want %d", c.queued, got, c.want)
			}
			st.SendingDedicated(execCommand, false)
			st.Queuing = false
			st.SendingDedicated(Named("multi"), false)
			st.Queuing = true
			if got := RefusalOf(&st, execCommand, nil); got != NotRefused {
				t.Errorf("EXEC of nothing after %s: %d; want that it is sent", c.queued, got)
			}
			for _, name := range []string{"discard", "reset", "quit"} {
				if got := RefusalOf(&st, Named(name), nil); got != NotRefused {
					t.Errorf("%s after %s: %d; want that it is sent", name, c.queued, got)
				}
			}
			st.Queuing = false
		}
	}
}

// What is refused is the engines' own rule, and not a list that has grown old.
func TestWhatIsRefusedIsWhatTheEnginesFlag(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		known, flagged := commandsOf(t, b), 0
		asked := ParseCommandInfo(known)
		var check func(d commandInfo)
		check = func(d commandInfo) {
			for _, sub := range d.subcommands {
				if s, ok := parseOneCommand(sub); ok {
					check(s)
				}
			}
			if len(d.subcommands) > 0 {
				return
			}
			args := fields(strings.ReplaceAll(d.name, "|", " "))
			var second []byte
			if len(args) > 1 {
				second = args[1]
			}
			var st State
			want, writes := d.flagged("denyoom"), d.flagged("write")
			if want {
				flagged++
			}
			// On the transparent path nobody asks the engine for its commands.
			for _, engine := range []EngineCommands{nil, asked} {
				c := Find(args[0], second, engine).With(args)
				if got := RefusalOf(&st, c, args[0]) == RefuseRequest; got != want {
					t.Errorf("%s (asked the engine: %t): refused %t; want %t", d.name, engine != nil, got, want)
				}
				if got := ReadOnlyRefusalOf(&st, c, args[0]) == RefuseRequest; got != writes {
					t.Errorf("%s (asked the engine: %t): refused where clients may only read: %t; want %t", d.name, engine != nil, got, writes)
				}
			}
		}
		for _, v := range known {
			if d, ok := parseOneCommand(v); ok {
				check(d)
			}
		}
		if flagged < 50 {
			t.Errorf("only %d commands are flagged", flagged)
		}
	})
}

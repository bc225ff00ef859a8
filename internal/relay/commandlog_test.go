package relay_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/resp"
)

// Each entry of the engine's logs names the client that asked: also for what a script, a function or a transaction did, and
// for requests and replies that are logged for their length.
func TestSlowLogAndCommandLogNameTheClient(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
			t.Run(path, func(t *testing.T) {
				t.Parallel()
				logsNameTheClient(t, newEngineOf(t, b, multiplexed))
			})
		}
	})
}

func logsNameTheClient(t *testing.T, e *realEngine) {
	admin := e.client()
	admin.want("CLIENT SETNAME admin", "OK")
	// What takes more than 10 ms, and may be in a script.
	admin.want("MSET x "+strings.Repeat("a", 4000)+" y "+strings.Repeat("b", 4000), "OK")
	admin.want("SLOWLOG RESET", "OK")
	client := func(name string) *talker {
		k := e.client()
		k.want("CLIENT SETNAME "+name, "OK")
		return k
	}
	check := func(who *talker, command string, log string) {
		t.Helper()
		admin.logHas(log, command, who)
	}
	transaction := client("transaction")
	transaction.want("MULTI", "OK")
	transaction.want("DEBUG SLEEP 0.03", "QUEUED")
	transaction.want("EXEC", "[OK]")
	check(transaction, "debug", "SLOWLOG GET 100")
	script := client("script")
	_ = script.send("EVAL", "local n = redis.call('lcs',KEYS[1],KEYS[2],'len') for i = 1, 1e7 do end return n", "2", "x", "y")
	script.next()
	check(script, "eval", "SLOWLOG GET 100")
	// Redis doesn't say for whom a script does something, and Valkey 8.1 doesn't measure it.
	if e.binary.Kind == engine.Valkey && e.binary.Version.Major > 8 {
		check(script, "lcs", "SLOWLOG GET 100")
	}
	// A command of that name by itself is the likelier one.
	admin.want("SLOWLOG RESET", "OK")
	plain := client("plain")
	plain.want("LCS x y LEN", "0")
	check(plain, "lcs", "SLOWLOG GET 100")
	if strings.HasPrefix(admin.do("COMMANDLOG LEN slow"), "ERR unknown command") {
		return
	}
	check(plain, "lcs", "COMMANDLOG GET 100 slow")
	large, reader := client("large"), client("reader")
	_ = large.send("SET", "big", strings.Repeat("x", 3<<20))
	large.next()
	check(large, "set", "COMMANDLOG GET 100 large-request")
	_ = reader.send("GET", "big")
	reader.next()
	check(reader, "get", "COMMANDLOG GET -1 LARGE-REPLY")
	before := e.loops.Counts().Shared
	if admin.do("COMMANDLOG RESET large-reply"); e.base.Multiplexed && e.loops.Counts().Shared == before {
		t.Error("COMMANDLOG is not shared")
	}
	admin.want("COMMANDLOG GET 1 large-reply", "[]")
}

// logHas says whose entry for a command there has to be in one of the engine's logs.
func (k *talker) logHas(log, command string, who *talker) {
	k.t.Helper()
	_ = k.send(strings.Fields(log)...)
	v, err := k.read()
	if err != nil || v.Kind != resp.Array {
		k.t.Fatalf("%s: %+v, %v", log, v, err)
	}
	for _, entry := range v.Elems {
		if strings.EqualFold(entry.Elems[3].Elems[0].Str, command) {
			got, want := entry.Elems[4].Str+" "+entry.Elems[5].Str, who.c.LocalAddr().String()+" "+who.do("CLIENT GETNAME")
			if got != want {
				k.t.Errorf("%s has for %s: %q; want %q", log, command, got, want)
			}
			return
		}
	}
	k.t.Errorf("%s has no %s", log, command)
}

// A monitor sees requests as clients have made them, with their addresses, and none that nobody has made.
func TestMonitorSeesRequestsAsTheyWereMade(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
			t.Run(path, func(t *testing.T) {
				t.Parallel()
				e := newEngineOf(t, b, multiplexed)
				monitor, k := e.client(), e.client()
				id := monitor.id()
				monitor.want("MONITOR", "OK")
				// The engines leave CLIENT LIST and KILL out.
				requests := []string{
					"GET k", "CLIENT TRACKING on REDIRECT " + id, "GET a|", "CLIENT GETREDIR", "CLIENT TRACKING off", "CLIENT ID",
					"AUTH default secret", "GET b", "HELLO 3 AUTH default secret SETNAME x", "GET c",
				}
				for _, r := range requests {
					k.do(r)
					k.do("CLIENT LIST ID 5 6")
					k.do("CLIENT KILL ID 999 888")
				}
				// Ours are not seen: those that prove that replies match requests are sent ten times a second at most.
				for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); {
					requests = append(requests, "PING")
					k.do("PING")
				}
				for _, r := range requests {
					quoted := `"` + strings.ReplaceAll(r, " ", `" "`) + `"`
					quoted = strings.ReplaceAll(quoted, `"default" "secret"`, `"(redacted)" "(redacted)"`)
					want := "[0 " + k.c.LocalAddr().String() + "] " + quoted
					if got := monitor.next(); !strings.HasSuffix(got, want) {
						t.Errorf("the monitor read %q; want %q", got, want)
					}
				}
			})
		}
	})
}

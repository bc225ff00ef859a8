package relay_test

import (
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/resp"
)

const (
	oom       = "OOM command not allowed under OOM prevention."
	execAbort = "EXECABORT Transaction discarded because of: " + oom
)

// Without memory clients read on, and free what they have; nothing that they ask is written, on no path and with no engine.
func TestWithoutMemoryNothingIsWritten(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
			for _, proto := range []string{"2", "3"} {
				t.Run(path+"-resp"+proto, func(t *testing.T) {
					t.Parallel()
					e := newEngineOf(t, b, multiplexed)
					k := e.client()
					k.do("HELLO " + proto)
					withoutMemory(t, e, k)
				})
			}
		}
	})
}

func withoutMemory(t *testing.T, e *realEngine, k *talker) {
	k.want("SET k v", "OK")
	k.want("SET gone v", "OK")
	k.want("RPUSH list a b", "2")
	begun := e.client()
	begun.want("MULTI", "OK")
	begun.want("SET k changed", "QUEUED")
	reading := e.client()
	reading.want("MULTI", "OK")
	reading.want("GET k", "QUEUED")
	e.loops.SetOutOfMemory(true)

	for _, c := range [][2]string{
		{"SET k changed", oom}, {"set k changed", oom}, {"INCR n", oom}, {"LPUSH list c", oom}, {"XGROUP CREATE s g $ MKSTREAM", oom},
		{"BLMOVE list other LEFT LEFT 0", oom}, {"SET k " + strings.Repeat("x", 100_000), oom}, {"SET", oom},
		{"GET k", "v"}, {"LRANGE list 0 -1", "[a b]"}, {"DEL gone", "1"}, {"LPOP list", "a"}, {"EXPIRE k 1000", "1"}, {"PUBLISH c m", "0"},
		{"CONFIG GET maxmemory", "[maxmemory 0]"}, {"NOSUCH a", "ERR unknown command*"}, {"PING", "PONG"},
		{"DEL k2 " + strings.Repeat("x", 100_000), "0"},
	} {
		k.want(c[0], c[1])
	}
	for _, c := range []struct{ script, answer string }{
		{"return redis.call('get', KEYS[1])", "v"},
		{"return 1", "1"},
		{"return redis.call('set', KEYS[1], 'changed')", oom},
		{"return redis.call('nosuch')", "ERR *"},
		{"return redis.call('get', KEYS[1]) --" + strings.Repeat("x", 100_000), "v"},
	} {
		_ = k.send("EVAL", c.script, "1", "k")
		if got := k.next(); got != c.answer && !(strings.HasSuffix(c.answer, "*") && strings.HasPrefix(got, c.answer[:4])) {
			t.Errorf("EVAL %.60s: got %q; want %q", c.script, got, c.answer)
		}
	}
	_, _ = k.c.Write([]byte("SET k inline\r\nEVAL return(2) 0\r\nGET k\r\n"))
	if got := []string{k.next(), k.next(), k.next()}; got[0] != oom || got[1] != "2" || got[2] != "v" {
		t.Errorf("inline: got %q", got)
	}
	pipe := resp.AppendCommand(nil, "GET", "k")
	pipe = resp.AppendCommand(resp.AppendCommand(pipe, "SET", "k", "changed"), "STRLEN", "k")
	pipe = resp.AppendCommand(append(pipe, pipe...), "MULTI")
	pipe = resp.AppendCommand(resp.AppendCommand(resp.AppendCommand(pipe, "GET", "k"), "EXEC"), "GET", "k")
	_, _ = k.c.Write(pipe)
	for i, want := range []string{"v", oom, "1", "v", oom, "1", "OK", oom, "EXECABORT Transaction discarded because of previous errors.", "v"} {
		if got := k.next(); got != want {
			t.Errorf("reply %d of a pipeline: got %q; want %q", i, got, want)
		}
	}
	begun.want("GET k", oom)
	begun.want("EXEC", execAbort)
	begun.want("EXEC", "ERR EXEC without MULTI")
	begun.want("GET k", "v")
	reading.want("EXEC", "[v]")
	reading.want("MULTI", "OK")
	reading.want("SET k changed", oom)
	reading.want("DISCARD", "OK")
	if n := e.loops.Counts().Refused; n < 15 {
		t.Errorf("%d were refused; want 15 and more", n)
	}
	functionsWithoutMemory(e, k)

	e.loops.SetOutOfMemory(false)
	k.want("GET k", "v")
	k.want("SET k "+strings.Repeat("x", 100_000), "OK")
	k.want("STRLEN k", "100000")
	_ = k.send("EVAL", "return redis.call('set', KEYS[1], 'changed')", "1", "k")
	if got := k.next(); got != "OK" {
		t.Errorf("a script that writes, with memory again: %q", got)
	}
	begun.want("MULTI", "OK")
	begun.want("SET k 1", "QUEUED")
	begun.want("EXEC", "[OK]")
}

func functionsWithoutMemory(e *realEngine, k *talker) {
	const library = "#!lua name=lib\nredis.register_function{function_name='reads', callback=function(keys) return redis.call('get', keys[1]) end, flags={'no-writes'}}\n" +
		"redis.register_function('writes', function(keys) return redis.call('set', keys[1], 'changed') end)"
	e.loops.SetOutOfMemory(false)
	_ = k.send("FUNCTION", "LOAD", library)
	k.next()
	e.loops.SetOutOfMemory(true)
	k.want("FCALL reads 1 k", "v")
	k.want("FCALL writes 1 k", oom)
	_ = k.send("FUNCTION", "LOAD", "REPLACE", library)
	if got := k.next(); got != oom {
		k.t.Errorf("FUNCTION LOAD: %q; want %q", got, oom)
	}
	k.want("GET k", "v")
}

// Who has not logged in learns that, and not how the memory is.
func TestWithoutMemoryALoginIsAskedForFirst(t *testing.T) {
	t.Parallel()
	for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
		t.Run(path, func(t *testing.T) {
			e := newRealEngine(t, multiplexed)
			k := e.client()
			k.want("CONFIG SET requirepass pw", "OK")
			e.base.Auth++
			e.use(multiplexed)
			e.loops.SetOutOfMemory(true)
			for range 3 {
				k := e.client()
				k.want("SET k v", "NOAUTH Authentication required.")
				k.want("AUTH pw", "OK")
				k.want("SET k v", oom)
			}
			first := e.client()
			_, _ = first.c.Write([]byte("AUTH pw\r\nSET k v\r\nGET k\r\n"))
			if got := []string{first.next(), first.next(), first.next()}; got[0] != "OK" || got[1] != oom || got[2] != "nil" {
				t.Errorf("AUTH, SET and GET in one write: %q", got)
			}
		})
	}
}

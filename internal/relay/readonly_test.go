package relay_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/enginetest"
)

// A client that may only read is told what a replica tells it, although the engine behind is a primary; nothing is written.
func TestReadOnlyAnswersAsAReplicaDoes(t *testing.T) {
	for i, b := range enginetest.All(t) {
		for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
			for _, proto := range []string{"2", "3"} {
				if i > 0 && multiplexed != (proto == "3") {
					continue
				}
				t.Run(fmt.Sprintf("%s %s RESP%s", enginetest.Name(b), path, proto), func(t *testing.T) {
					t.Parallel()
					f := newFleet(t, multiplexed, b, b)
					for _, request := range []string{"SET k v", "RPUSH list a b", "SADD gone x", "XADD s 1-1 f v"} {
						f.serves.admin.do(request)
					}
					library := "#!lua name=lib\nredis.register_function{function_name='reads', callback=function(keys) return redis.call('get', keys[1]) end, flags={'no-writes'}}\n" +
						"redis.register_function('writes', function(keys) return redis.call('set', keys[1], 'changed') end)"
					must(f.serves.admin.send("FUNCTION", "LOAD", library))
					f.serves.admin.next()
					open := f.hello(proto)
					open.want("MULTI", "OK")
					open.want("SET k changed", "QUEUED")
					f.other.caughtUp(f.serves)
					f.backend.ReadOnly = true
					f.use(f.serves)
					k, replica := f.hello(proto), f.other.admin
					if proto == "3" {
						replica.want("HELLO 3", "[*")
					}
					asReplica(t, k, replica)
					open.want("EXEC", "EXECABORT Transaction discarded because of: READONLY You can't write against a read only replica.")
					open.want("EXEC", "ERR EXEC without MULTI")
					f.serves.admin.want("GET k", "v")
					f.serves.admin.want("LRANGE list 0 -1", "[a b]")
					f.backend.ReadOnly = false
					f.use(f.serves)
					k.want("SET k changed", "OK")
				})
			}
		}
	}
}

func asReplica(t *testing.T, k, replica *talker) {
	t.Helper()
	long := strings.Repeat("x", 100_000)
	for _, request := range [][]string{
		{"SET", "k", "changed"}, {"set", "k", "changed"}, {"DEL", "k"}, {"EXPIRE", "k", "10"}, {"LPOP", "list"}, {"BLPOP", "list", "0"}, {"FLUSHALL"},
		{"GETDEL", "k"}, {"GETEX", "k", "PERSIST"}, {"SORT", "list", "ALPHA"}, {"PFADD", "p", "x"}, {"XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", "s", ">"},
		{"XGROUP", "CREATE", "s", "g", "$"}, {"XGROUP", "DESTROY", "s", "g"}, {"SET", "k", long}, {"RESTORE-ASKING", "k", "0", "x"},
		{"FUNCTION", "DELETE", "lib"}, {"FUNCTION", "FLUSH"}, {"FUNCTION", "LIST", "LIBRARYNAME", "none"}, {"PFDEBUG", "GETREG", "p"},
		{"GET", "k"}, {"LRANGE", "list", "0", "-1"}, {"SORT_RO", "list", "ALPHA"}, {"XREAD", "STREAMS", "s", "0"}, {"PUBLISH", "c", "m"}, {"SPUBLISH", "c", "m"},
		{"GET", long}, {"SCRIPT", "EXISTS", "x"}, {"ECHO", "x"}, {"NOSUCH", "x"}, {"XGROUP", "NOSUCH", "s"},
		{"EVAL", "return redis.call('get', KEYS[1])", "1", "k"}, {"EVAL", "return 1", "0"}, {"EVAL", "#!lua flags=no-writes\nreturn redis.call('get', KEYS[1])", "1", "k"},
		{"EVAL", "#!lua\nreturn 1", "0"}, {"EVALSHA", "0000000000000000000000000000000000000000", "0"}, {"FCALL", "reads", "1", "k"}, {"FCALL", "writes", "1", "k"},
		{"FCALL_RO", "reads", "1", "k"},
		{"MULTI"}, {"GET", "k"}, {"EVAL", "return redis.call('get', KEYS[1])", "1", "k"}, {"EXEC"},
		{"MULTI"}, {"GET", "k"}, {"SET", "k", "changed"}, {"GET", "k"}, {"EXEC"},
		{"MULTI"}, {"FCALL", "reads", "1", "k"}, {"DISCARD"}, {"WATCH", "k"}, {"UNWATCH"},
	} {
		must(k.send(request...), replica.send(request...))
		if got, want := k.next(), replica.next(); got != want {
			t.Errorf("%.60q: got %.200q; a replica says %.200q", request, got, want)
		}
	}
	// A replica adds which script it was.
	const refused = "READONLY You can't write against a read only replica."
	const writes = "return redis.call('set', KEYS[1], 'changed')"
	must(k.send("EVAL", writes, "1", "k"))
	if got := k.next(); got != refused {
		t.Errorf("a script that writes: %q", got)
	}
	must(k.send("MULTI"), k.send("EVAL", writes, "1", "k"), k.send("GET", "k"), k.send("EXEC"))
	if got := []string{k.next(), k.next(), k.next(), k.next()}; got[3] != "["+refused+" v]" {
		t.Errorf("a script that writes, in a transaction: %q", got)
	}
	must(k.send("GET", "k"), k.send("INCR", "n"), k.send("STRLEN", "k"))
	if got := []string{k.next(), k.next(), k.next()}; got[0] != "v" || got[1] != refused || got[2] != "1" {
		t.Errorf("in a pipeline: %q", got)
	}
}

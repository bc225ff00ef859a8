package relay_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/enginetest"
)

const outcomeUnknown = "TRYAGAIN a failover took place: whether this request was carried out is not known"

// ways are how an engine is lost.
var ways = map[string]func(*replicated){
	"killed": func(e *replicated) { e.kill() },
	"hung":   func(e *replicated) { _ = e.cmd.Process.Signal(syscall.SIGSTOP) },
}

// eachFailover runs a test for each path, protocol and way; for engines beyond the first with one protocol for each path.
func eachFailover(t *testing.T, test func(t *testing.T, f *fleet, proto string, lose func())) {
	for i, b := range enginetest.All(t) {
		for _, multiplexed := range []bool{false, true} {
			for _, proto := range []string{"2", "3"} {
				for way, lose := range ways {
					if i > 0 && (multiplexed != (proto == "3") || (way == "hung") != (i%2 == 1)) {
						continue
					}
					t.Run(fmt.Sprintf("%s %s, multiplexed %t, RESP%s", enginetest.Name(b), way, multiplexed, proto), func(t *testing.T) {
						t.Parallel()
						f := newFleet(t, multiplexed, b, b)
						f.backend.Standby, f.backend.ConnectTimeout = true, patience
						f.use(f.serves)
						test(t, f, proto, func() {
							t.Helper()
							f.other.caughtUp(f.serves)
							lose(f.serves)
						})
					})
				}
			}
		}
	}
}

// promote makes the other engine the one that serves, as the control plane does.
func (f *fleet) promote() {
	f.t.Helper()
	f.other.admin.want("REPLICAOF NO ONE", "OK")
	f.serves, f.other = f.other, f.serves
	f.use(f.serves)
}

// state is something that a client is in the middle of.
type state = struct {
	name   string
	before func(f *fleet, k *talker, proto string) (after func())
}

// failoverStates are those of movingStates that a failover treats in another way.
var failoverStates = []state{
	{"an open MULTI", func(f *fleet, k *talker, _ string) func() {
		id := k.id()
		k.want("MULTI", "OK")
		k.want("INCR carried", "QUEUED")
		k.want("CLIENT ID", "QUEUED")
		return func() {
			k.want("INCR carried", "QUEUED")
			k.want("EXEC", "[1 "+id+" 2]")
			k.want("MULTI", "OK")
			k.want("INCR carried", "QUEUED")
			k.want("EXEC", "[3]")
		}
	}},
	{"an open MULTI that has failed already", func(f *fleet, k *talker, _ string) func() {
		k.want("MULTI", "OK")
		k.want("INCR failed", "QUEUED")
		k.want("INCR", "ERR wrong number*")
		return func() {
			k.want("INCR failed", "QUEUED")
			k.want("EXEC", "EXECABORT*")
			k.want("EXISTS failed", "0")
		}
	}},
	{"WATCH, and an open MULTI", func(f *fleet, k *talker, _ string) func() {
		k.want("WATCH w", "OK")
		k.want("MULTI", "OK")
		k.want("INCR watched", "QUEUED")
		return func() {
			k.want("INCR watched", "QUEUED")
			k.want("EXEC", "nil")
			k.want("EXISTS watched", "0")
			k.want("MULTI", "OK")
			k.want("INCR watched", "QUEUED")
			k.want("EXEC", "[1]")
		}
	}},
	{"BLPOP", func(f *fleet, k *talker, _ string) func() {
		must(k.send("BLPOP", "queue", "0"))
		return func() {
			if got := k.next(); got != outcomeUnknown {
				k.t.Errorf("BLPOP: %s", got)
			}
			f.client().want("LPUSH queue a", "1")
			k.want("BLPOP queue 0", "[queue a]")
		}
	}},
	{"BLPOP with requests behind it", func(f *fleet, k *talker, _ string) func() {
		must(k.send("BLPOP", "queue2", "0"), k.send("ECHO", "read"), k.send("SELECT", "2"), k.send("ECHO", "last"))
		return func() {
			for _, want := range []string{outcomeUnknown, "read", "OK", "last"} {
				if got := k.next(); got != want {
					k.t.Errorf("got %s, want %s", got, want)
				}
			}
		}
	}},
	{"XREAD BLOCK and XREADGROUP BLOCK", func(f *fleet, k *talker, proto string) func() {
		k.want("XGROUP CREATE log g $ MKSTREAM", "OK")
		must(k.send("XREAD", "BLOCK", "0", "STREAMS", "log", "$"))
		g := f.hello(proto)
		must(g.send("XREADGROUP", "GROUP", "g", "c", "BLOCK", "20000", "STREAMS", "log", ">"))
		return func() {
			if got := g.next(); got != outcomeUnknown {
				k.t.Errorf("XREADGROUP: %s", got)
			}
			until(k.t, "XREAD is asked again", func() bool { return strings.Contains(f.serves.admin.do("CLIENT LIST"), "cmd=xread ") })
			f.client().want("XADD log 1-1 f v", "1-1")
			if got := k.next(); !strings.Contains(got, "[1-1 [f v]]") {
				k.t.Errorf("XREAD: %s", got)
			}
		}
	}},
	{"a BLPOP that ends in time", nil},
	{"CLIENT REPLY SKIP and BLPOP", func(f *fleet, k *talker, _ string) func() {
		must(k.send("CLIENT", "REPLY", "SKIP"), k.send("BLPOP", "skipped-queue", "0"), k.send("ECHO", "behind-it"))
		return func() {
			if got := k.next(); got != "behind-it" {
				k.t.Errorf("got %s", got)
			}
		}
	}},
	{"a BLPOP that was answered, and others' requests since", nil},
}

func statesOfFailover() []state {
	all := append([]state(nil), failoverStates...)
	for _, m := range movingStates {
		known := false
		for _, s := range failoverStates {
			known = known || s.name == m.name
		}
		if !known {
			all = append(all, m)
		}
	}
	return all
}

// Whatever a client has set or begun on its connection is there after a failover, and its connection too.
func TestStateOfClientsOutlivesTheirEngine(t *testing.T) {
	eachFailover(t, func(t *testing.T, f *fleet, proto string, lose func()) {
		f.serves.admin.want("ACL SETUSER ann on >pw ~* &* +@all", "OK")
		f.other.admin.want("ACL SETUSER ann on >pw ~* &* +@all", "OK")
		var after []func()
		for _, state := range statesOfFailover() {
			if state.before == nil {
				continue
			}
			k := f.hello(proto)
			check := state.before(f, k, proto)
			after = append(after, func() {
				k.t = named{f.t, state.name}
				check()
			})
		}
		f.quietEngine()
		lose()
		f.promote()
		for _, check := range after {
			check()
		}
	})
}

// quietEngine returns when the engine has read what clients have sent.
func (f *fleet) quietEngine() {
	f.t.Helper()
	if err := f.loops.Hold(f.t.Context(), time.Second, time.Second); err != nil {
		f.t.Log(err)
	}
	f.loops.Release()
}

package relay_test

import (
	"strconv"
	"testing"

	"github.com/sealane/sealane/internal/relay"
)

// A client that is to go is closed between two requests: what it was asked before is answered, and no transaction is cut in two.
func TestRetiredClientsEndBetweenTwoRequests(t *testing.T) {
	for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			e := newRealEngine(t, multiplexed)
			other, idle, blocked, queuing, subscribed := e.client(), e.client(), e.client(), e.client(), e.client()
			other.want("SET k v", "OK")
			idle.want("PING", "PONG")
			_ = blocked.send("BLPOP", "q", "0")
			queuing.want("MULTI", "OK")
			queuing.want("INCR n", "QUEUED")
			subscribed.want("SUBSCRIBE c", "[subscribe c 1]")
			for _, k := range []*talker{idle, blocked, queuing, subscribed} {
				k.session.Retire()
			}
			for name, k := range map[string]*talker{"idle": idle, "subscribed": subscribed} {
				if got := k.next(); got != "closed" {
					t.Errorf("the %s one read %q", name, got)
				}
			}
			queuing.want("INCR n", "QUEUED")
			queuing.want("EXEC", "[1 2]")
			other.want("RPUSH q v", "1")
			if got := blocked.next(); got != "[q v]" {
				t.Errorf("the blocked one read %q", got)
			}
			for name, k := range map[string]*talker{"blocked": blocked, "queuing": queuing, "idle": idle} {
				if got := k.next(); got != "closed" {
					t.Errorf("the %s one read %q after all", name, got)
				}
				k.c.Close()
				if got := k.session.Result().Ended; got != relay.Retired {
					t.Errorf("the %s one ended as %s", name, got)
				}
			}
			other.want("GET k", "v")
		})
	}
}

// One that is busy all the time is retired too. Each request of which it has seen no reply was not executed.
func TestRetiredClientUnderLoadLosesNothing(t *testing.T) {
	for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			e := newRealEngine(t, multiplexed)
			other := e.client()
			for range 20 {
				k := e.client()
				other.want("SET n 0", "OK")
				for done := 0; ; done++ {
					if done == 10 {
						k.session.Retire()
					}
					if got := k.do("INCR n"); got == "closed" {
						other.want("GET n", strconv.Itoa(done))
						break
					} else if got != strconv.Itoa(done+1) {
						t.Fatalf("request %d is answered by %q", done+1, got)
					}
				}
			}
		})
	}
}

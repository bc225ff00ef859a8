package relay_test

import (
	"net"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/resp"
)

// An engine gives a connection that has not logged in no more than its static buffer for replies, and closes it beyond that;
// the buffer of one that was idle is 1 kB. Clients that stay below it, as each of these, must not pay for others.
func TestClientsThatHaveNotLoggedInKeepTheirConnection(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
			t.Run(path, func(t *testing.T) {
				t.Parallel()
				notLoggedIn(t, newEngineOf(t, b, multiplexed))
			})
		}
	})
}

func notLoggedIn(t *testing.T, e *realEngine) {
	c, err := net.Dial("unix", e.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	admin := newTalker(t, c)
	admin.want("CONFIG SET requirepass pw", "OK")
	admin.want("DEBUG REPLYBUFFER PEAK-RESET-TIME 10", "OK")

	const requests = 25 // 850 bytes of replies
	var clients []*talker
	for range 12 {
		k := e.client()
		k.want("GET k", "NOAUTH*")
		clients = append(clients, k)
	}
	var pipe []byte
	for range requests {
		pipe = resp.AppendCommand(pipe, "GET", "k")
	}
	for round := range 3 {
		waitForSmallBuffers(t, admin)
		_ = admin.send("DEBUG", "SLEEP", "0.1") // so that the engine finds the requests of all of them at once
		for _, k := range clients {
			_, _ = k.c.Write(pipe)
		}
		for n, k := range clients {
			for i := range requests {
				if got := k.next(); got != "NOAUTH Authentication required." {
					t.Fatalf("round %d, client %d, request %d: got %q", round, n, i, got)
				}
			}
		}
		if got := admin.next(); got != "OK" {
			t.Fatalf("DEBUG SLEEP: got %q", got)
		}
	}
	for _, k := range clients {
		k.want("AUTH pw", "OK")
		k.want("GET k", "nil")
	}
}

var replyBuffer = regexp.MustCompile(` rbs=(\d+) .*cmd=get`)

// waitForSmallBuffers waits until the engine has made the reply buffers of those that asked for something small.
func waitForSmallBuffers(t *testing.T, admin *talker) {
	t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		all := replyBuffer.FindAllStringSubmatch(admin.do("CLIENT LIST"), -1)
		large := 0
		for _, m := range all {
			if size, _ := strconv.Atoi(m[1]); size > 1024 {
				large++
			}
		}
		if len(all) > 0 && large == 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d of %d connections still have a large reply buffer", large, len(all))
		}
	}
}

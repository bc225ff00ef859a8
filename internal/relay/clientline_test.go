package relay_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
)

// lineStories are what a client does before others look at it.
const lineStories = `PING
CLIENT SETNAME x|CLIENT SETINFO LIB-NAME jedis|CLIENT SETINFO LIB-VER 1.2|SELECT 2|SET k v
CLIENT SETINFO LIB-NAME jedis|CLIENT SETINFO LIB-VER 1.2|CLIENT SETNAME x|SELECT 2|RESET
CLIENT SETINFO LIB-NAME jedis|MULTI|RESET
MULTI|SET k v|GET k
MULTI|SET k v|GET k|EXEC
WATCH a b
SUBSCRIBE a b
HELLO 3
CLIENT TRACKING on|HELLO 3|CLIENT TRACKING on
CLIENT NO-EVICT on
CLIENT NO-EVICT on|RESET
CLIENT NO-TOUCH on
CLIENT CAPA redirect
CLIENT CAPA redirect|RESET
CLIENT IMPORT-SOURCE on
AUTH app any
EVAL return(1) 0
GET|GET a b c
MONITOR`

// otherwise are fields that depend on how memory is managed, or on the connection and the time.
var otherwise = []string{
	"id", "addr", "laddr", "fd", "age", "idle", "qbuf", "qbuf-free", "argv-mem", "rbs", "rbp", "tot-mem", "multi-mem", "read-events",
	"avg-pipeline-len-sum", "avg-pipeline-len-cnt",
}

// What CLIENT LIST and CLIENT INFO say of a client is what an engine says of one that comes straight to it, in all other
// fields that it has.
func TestFieldsOfClientList(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		bare, transparent, multiplexed := newBareEngine(t, b), newEngineOf(t, b, false), newEngineOf(t, b, true)
		for story := range strings.Lines(lineStories) {
			story = strings.TrimSpace(story)
			want := fieldsAfter(story, bare.client)
			for path, e := range map[string]*realEngine{"transparent": transparent, "multiplexed": multiplexed} {
				if got := fieldsAfter(story, e.client); !slices.Equal(got, want) {
					t.Errorf("%s, %s\n got %s\nwant %s", path, story, got, want)
				}
			}
		}
	})
}

// fieldsAfter returns a client's fields, as it sees them, or another one where it can't ask.
func fieldsAfter(story string, connect func() *talker) []string {
	k, other := connect(), connect()
	defer k.c.Close()
	defer other.c.Close()
	id := k.id()
	// Somebody else leaves a lot on a connection that may be shared.
	other.do("ACL SETUSER app on nopass ~* &* +@all")
	other.do("CLIENT SETNAME other")
	other.do("SET big " + strings.Repeat("x", 50_000))
	other.do("GET big")
	for step := range strings.SplitSeq(story, "|") {
		k.do(step)
	}
	asks := k
	if strings.Contains(story, "SUBSCRIBE") || strings.Contains(story, "MONITOR") || strings.Contains(story, "MULTI") {
		asks = other
	}
	line := ""
	for l := range strings.Lines(asks.do("CLIENT LIST")) {
		if strings.HasPrefix(l, "id="+id+" ") {
			// Valkey goes on to say multi=0 after a transaction.
			line = strings.Replace(strings.TrimSpace(l), " multi=0 ", " multi=-1 ", 1)
		}
	}
	fields := strings.Split(line, " ")
	for i, f := range fields {
		if out, ok := strings.CutPrefix(f, "tot-net-out="); ok {
			n, _ := strconv.Atoi(out)
			fields[i] = fmt.Sprint("tot-net-out=", n-len(id)) // it was told its id
		}
	}
	return slices.DeleteFunc(fields, func(field string) bool {
		name, _, _ := strings.Cut(field, "=")
		// The engines count no command that they refuse, and what MULTI queues only when it is done.
		uncounted := name == "tot-cmds" && (story == "MULTI|SET k v|GET k" || strings.Contains(story, "GET a b c"))
		return slices.Contains(otherwise, name) || uncounted
	})
}

// CLIENT REPLY ON changes nothing, so its client is still who it was.
func TestClientReplyOnIsNoReasonToStopLooking(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
			t.Run(path, func(t *testing.T) {
				t.Parallel()
				e := newEngineOf(t, b, multiplexed)
				k := e.client()
				id := k.id()
				k.want("CLIENT REPLY ON", "OK")
				k.want("CLIENT REPLY maybe", "ERR*")
				k.want("CLIENT ID", id)
				k.do("GET k") // a client's first read is never shared
				before := e.loops.Counts().Shared
				if k.want("GET k", "nil"); multiplexed && e.loops.Counts().Shared != before+1 {
					t.Error("it shares no more")
				}
				// The next reply is left out, and so is its end.
				k.do("CLIENT SETINFO LIB-NAME jedis")
				_, _ = k.c.Write([]byte("CLIENT REPLY SKIP\r\nECHO skipped\r\nECHO seen\r\n"))
				if got := k.next(); got != "seen" {
					t.Errorf("after SKIP: %q", got)
				}
			})
		}
	})
}

package relay_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
)

// What CLIENT LIST and CLIENT INFO say of a client is what an engine says of one that comes straight to it: in all fields
// that it has, but for ids, times and what depends on how memory is managed.
func TestFieldsOfClientList(t *testing.T) {
	volatile := []string{"id", "addr", "laddr", "fd", "age", "idle", "qbuf", "qbuf-free", "argv-mem", "rbs", "rbp", "tot-mem", "multi-mem",
		"read-events", "avg-pipeline-len-sum", "avg-pipeline-len-cnt"}
	for _, story := range []string{
		"PING", "CLIENT SETNAME x|CLIENT SETINFO LIB-NAME jedis|CLIENT SETINFO LIB-VER 1.2|SELECT 2|SET k v",
		"CLIENT SETINFO LIB-NAME jedis|CLIENT SETINFO LIB-VER 1.2|CLIENT SETNAME x|SELECT 2|RESET",
		"CLIENT SETINFO LIB-NAME jedis|MULTI|RESET", "MULTI|SET k v|GET k", "MULTI|SET k v|GET k|EXEC", "WATCH a b", "SUBSCRIBE a b", "HELLO 3",
		"CLIENT TRACKING on|HELLO 3|CLIENT TRACKING on", "CLIENT NO-EVICT on", "CLIENT NO-EVICT on|RESET", "CLIENT NO-TOUCH on", "CLIENT CAPA redirect",
		"CLIENT CAPA redirect|RESET", "CLIENT IMPORT-SOURCE on", "AUTH app any", "EVAL return(1) 0", "GET|GET a b c", "MONITOR",
	} {
		enginetest.Each(t, func(t *testing.T, b engine.Binary) {
			for _, multiplexed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s multiplexed %t", story, multiplexed), func(t *testing.T) {
					t.Parallel()
					look := func(connect func() *talker) []string {
						a, other := connect(), connect()
						a.do("ACL SETUSER app on nopass ~* &* +@all")
						// Somebody else leaves a lot on a connection that may be shared.
						other.do("CLIENT SETNAME other")
						other.do("SET big " + strings.Repeat("x", 50_000))
						other.do("GET big")
						for step := range strings.SplitSeq(story, "|") {
							a.do(step)
						}
						asks := other
						if !strings.Contains(story, "SUBSCRIBE") && !strings.Contains(story, "MONITOR") && !strings.Contains(story, "MULTI") {
							asks = a
						}
						line := ""
						for l := range strings.Lines(asks.do("CLIENT LIST")) {
							if !strings.Contains(l, " name=other ") {
								line = strings.TrimSpace(l)
							}
						}
						// Valkey goes on to say multi=0 after a transaction.
						line = strings.Replace(line, " multi=0 ", " multi=-1 ", 1)
						return slices.DeleteFunc(strings.Split(line, " "), func(field string) bool {
							name, _, _ := strings.Cut(field, "=")
							// The engines count no command that they refuse, and what MULTI queues only when it is done.
							uncounted := name == "tot-cmds" && (strings.HasSuffix(story, "MULTI|SET k v|GET k") || strings.Contains(story, "GET a b c"))
							return slices.Contains(volatile, name) || uncounted
						})
					}
					want, got := look(newBareEngine(t, b).client), look(newEngineOf(t, b, multiplexed).client)
					if !slices.Equal(got, want) {
						t.Errorf("\n got %s\nwant %s", got, want)
					}
				})
			}
		})
	}
}

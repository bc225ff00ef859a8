package relay_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/relay"
)

// INFO counts clients where the engine counts its connections: those that there are, and (Redis 8.8) those that have said
// something in the last half second.
func TestInfoCountsClients(t *testing.T) {
	t.Parallel()
	f := newFake(t, 1)
	e := &realEngine{t: t, loops: loops(t)}
	t.Cleanup(f.stop)
	e.loops.SetBackend(&relay.Backend{Engine: "a", Connect: f.connect, ConnectTimeout: patience, Multiplexed: true, MaxClients: 500})
	var all []*talker
	for range 5 {
		k := e.client()
		k.do("PING x")
		all = append(all, k)
	}
	e.client() // has said nothing yet
	info := all[0].do("INFO clients")
	for _, want := range []string{"connected_clients:6\r\n", "maxclients:500\r\n"} {
		if !strings.Contains(info, want) {
			t.Errorf("INFO: %q; want %q", info, want)
		}
	}
	for until := time.Now().Add(patience); !strings.Contains(all[0].do("INFO clients"), "active_clients:1\r\n"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("those that are silent are active for ever")
		}
	}
	for _, k := range all {
		k.do("PING x")
	}
	if info := all[0].do("INFO clients"); !strings.Contains(info, "active_clients:5\r\n") {
		t.Errorf("INFO: %q", info)
	}
}

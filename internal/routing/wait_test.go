package routing

import (
	"strings"
	"testing"
)

func TestFenceRefusal(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ request, reply, want string }{
		{"SPUBLISH", ":0\r\n", ""},
		{"SPUBLISH", "-ERR unknown command 'SPUBLISH', with args beginning with: \r\n", ""}, // WAIT counts there
		{"SPUBLISH", "-NOPERM No permissions to access a channel\r\n", "NOPERM No permissions to access a channel"},
		{"SPUBLISH", "-MOVED 1 127.0.0.1:7000\r\n", "MOVED 1 127.0.0.1:7000"},
		{"WAIT", "-NOPERM this user has no permissions\r\n", ""}, // so is the client's own WAIT
		{"SWAPDB", "+OK\r\n", ""},
		{"SWAPDB", "-NOREPLICAS Not enough good replicas to write.\r\n", "NOREPLICAS Not enough good replicas to write."},
		{"HELLO", "*14\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n", ""},
		{"HELLO", "*14\r\n$4\r\nmode\r\n$7\r\ncluster\r\n", "the server is a node of a cluster"},
		{"HELLO", "-ERR unknown command 'HELLO'\r\n", ""}, // older than Redis 6.0
	} {
		if got := string(FenceRefusal([]string{tc.request}, []byte(tc.reply))); got != tc.want {
			t.Errorf("%s answered %q: %q; want %q", tc.request, tc.reply, got, tc.want)
		}
	}
}

func TestWhatAReplyToWaitConfirms(t *testing.T) {
	t.Parallel()
	for request, replies := range map[string]map[string]bool{
		"wait 1 0":      {":0\r\n": false, ":1\r\n": true, ":2\r\n": true, "-ERR x\r\n": false, "+QUEUED\r\n": false},
		"wait 0 0":      {":0\r\n": false, ":1\r\n": true},
		"wait x 0":      {":1\r\n": false},
		"wait 1":        {":1\r\n": false},
		"waitaof 1 0 0": {"*2\r\n:1\r\n:0\r\n": false, "*2\r\n:1\r\n:1\r\n": true},
		"waitaof 1 1 0": {"*2\r\n:1\r\n:1\r\n": true, "*2\r\n:1\r\n:0\r\n": false, "*2\r\n:0\r\n:1\r\n": false, "*2\r\n": false, "*0\r\n": false},
	} {
		for reply, want := range replies {
			if got := WaitConfirms(strings.Fields(request), []byte(reply)); got != want {
				t.Errorf("%s answered %q confirms: %t; want %t", request, reply, got, want)
			}
		}
	}
}

// Who was told that WAIT can't count shares no connection any more.
func TestRouteOfAClientWithAConnectionOfItsOwn(t *testing.T) {
	t.Parallel()
	get, multiplexed := named(t, "get a"), Env{Multiplexed: true}
	st := State{Writes: Writes{OwnConnection: true}}
	if got, want := Route(&st, Request{Command: get}, multiplexed), (Decision{Acquire, PinWait}); got != want {
		t.Errorf("without a connection: %v; want %v", got, want)
	}
	multiplexed.Dedicated = ready
	if got := Release(&st, multiplexed, false, false); got != Keep {
		t.Errorf("with one, when it is clean: %v; want to keep it", got)
	}
}

func TestWritesThatAreLost(t *testing.T) {
	t.Parallel()
	var w Writes
	w.Sending(named(t, "get a"), false)
	if w.EngineLost(); w.Lost {
		t.Error("a client that only reads has lost something")
	}
	w.Sending(named(t, "set a b"), true)
	made := w.Made()
	w.Sending(named(t, "wait 1 0"), true)
	w.Sending(named(t, "set a c"), true)
	w.Confirmed(made)
	if w.EngineLost(); !w.Lost {
		t.Error("what was written while WAIT was on its way counts as confirmed")
	}
	w.Lost = false
	w.Confirmed(w.Made())
	if w.EngineLost(); w.Lost {
		t.Error("what WAIT has confirmed counts as lost")
	}
}

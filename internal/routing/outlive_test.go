package routing

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/resp"
)

// What becomes of requests in flight. A word is a command; in front of it "!" says that the engine has not read it, and "?" that it is
// not kept. The answer has an "a" for each that is asked again, and an "e" for each that is answered with an error; "closed" is a client
// that can't go on.
func TestWhatBecomesOfRequestsInFlight(t *testing.T) {
	t.Parallel()
	multi := State{Multi: true, Queuing: true}
	watching := State{Watching: true}
	both := State{Multi: true, Queuing: true, Watching: true}
	sentExec := State{Multi: true}
	for _, c := range []struct {
		state State
		sent  string
		want  string
		after string
	}{
		{State{}, "", "", ""},
		{State{}, "get", "a", ""},
		{State{}, "incr", "e", ""},
		{State{}, "incr get incr select get", "eaeaa", ""},
		{State{}, "incr !incr", "ea", ""},
		{State{}, "!?incr", "e", ""},
		{State{}, "?get ?get", "ee", ""},
		{State{}, "blpop get", "ea", ""},
		{State{}, "wait", "e", ""},
		{State{}, "!blpop", "a", ""},
		{State{}, "eval", "e", ""},
		{State{}, "eval_ro", "a", ""},
		{State{}, "publish", "e", ""},
		{State{}, "auth hello select client|setname client|setinfo client|tracking subscribe psubscribe", "aaaaaaaa", ""},
		{State{}, "client|kill client|pause client|unblock config", "eeee", ""},
		{State{}, "?select get", "closed", ""},
		{State{}, "?watch", "closed", ""},
		{State{}, "?multi", "closed", ""},
		{State{}, "watch", "a", ""},
		{watching, "", "", "watch lost"},
		{watching, "get", "a", "watch lost"},
		{watching, "multi", "a", "watch lost"},
		{watching, "multi set exec", "eee", ""},
		{watching, "multi set exec watch", "eeea", ""},
		{watching, "unwatch", "a", "watch lost"}, // until it is asked again
		{State{}, "multi", "a", ""},
		{State{}, "multi incr eval", "aaa", ""},
		{State{}, "multi incr exec", "eee", ""},
		{State{}, "?multi incr exec", "eee", ""},
		{State{}, "multi incr !exec", "aaa", ""},
		{State{}, "multi incr ?exec", "eee", ""},
		{State{}, "multi incr discard incr", "aaae", ""},
		{State{}, "get multi incr exec get", "aeeea", ""},
		{State{}, "multi incr exec multi incr", "eeeaa", ""},
		{State{}, "multi ?incr", "ae", ""}, // which the engine refuses to queue when it is asked again
		{State{}, "exec", "e", ""},
		{multi, "", "", "open, 0 members"},
		{multi, "incr get", "aa", "open, 2 members"},
		{multi, "incr ?incr", "ae", "open, 2 members, aborted"},
		{multi, "incr discard", "aa", "open, 1 members"},
		{multi, "incr reset incr", "aae", "open, 1 members"},
		{both, "incr", "a", "open, 1 members, watch lost"},
		{sentExec, "exec", "e", ""},
		{sentExec, "incr exec get", "eea", ""},
		{sentExec, "incr !exec", "aa", "open, 1 members"},
		{sentExec, "discard multi incr exec", "aeee", "open, 0 members"},
		{sentExec, "get", "a", "open, 1 members, aborted"}, // EXEC with an argument is none
		{State{Multi: true, Queuing: true, PassingRest: true}, "incr ?set", "ae", "open, 2 members, aborted"},
		{State{PassingRest: true}, "get ?set", "ae", ""},
		{State{Passthrough: true}, "get", "closed", ""},
		{State{Unfollowed: true}, "get", "closed", ""},
		{State{RepliesOff: true}, "incr get", "ea", ""},
	} {
		var sent []Unanswered
		for _, word := range strings.Fields(c.sent) {
			name := strings.TrimLeft(word, "!?")
			sent = append(sent, Unanswered{Command: Named(name), Kept: !strings.Contains(word, "?"), Unread: strings.Contains(word, "!")})
			c.state.Sent(1)
		}
		before, st := c.state, c.state
		plan, ok := Outlive(&st, sent)
		if !ok {
			if c.want != "closed" || st != before {
				t.Errorf("%q: closed, %+v; want %s and nothing changed", c.sent, st, c.want)
			}
			continue
		}
		got := ""
		for _, again := range plan.Again {
			got += map[bool]string{true: "a", false: "e"}[again]
		}
		if after := stateAfter(&st, plan); got != c.want || after != c.after || st.InFlight() != 0 || st.PassingRest {
			t.Errorf("%q: %q, %q, %d in flight; want %q, %q", c.sent, got, after, st.InFlight(), c.want, c.after)
		}
	}
}

func stateAfter(st *State, plan Outlived) string {
	var all []string
	if st.Multi && st.Queuing {
		all = append(all, "open", fmt.Sprint(plan.Members, " members"))
	}
	if st.WatchLost {
		all = append(all, "watch lost")
	}
	if st.Aborted {
		all = append(all, "aborted")
	}
	return strings.Join(all, ", ")
}

// No command that may change data is asked again by itself, on any engine's word.
func TestNothingThatWritesIsRepeatable(t *testing.T) {
	t.Parallel()
	for name, c := range table {
		if (c.RetrySafe || c.repeatable) && (c.MayWrite() || c.DenyOOM) {
			t.Errorf("%s writes, and is asked again", name)
		}
	}
}

func TestFlightKeepsTheRequestsThatAreNotAnswered(t *testing.T) {
	t.Parallel()
	var f Flight
	request := func(i int) []byte {
		return resp.AppendCommand(nil, "GET", fmt.Sprint("k", i), strings.Repeat("x", 100))
	}
	inFlight := 0
	for i := range 20_000 { // there is always something in flight
		f.Add(request(i), inFlight)
		if inFlight++; inFlight > 50 {
			inFlight -= 30
		}
		for k, raw := range f.Last(inFlight) {
			if want := request(i - inFlight + 1 + k); !slices.Equal(raw, want) {
				t.Fatalf("after request %d, with %d in flight, number %d is %q; want %q", i, inFlight, k, raw, want)
			}
		}
	}
	if cap(f.bytes) > 2*maxFlightBytes || cap(f.ends) > 4*maxFlight {
		t.Errorf("it takes %d bytes and %d numbers", cap(f.bytes), cap(f.ends))
	}
	long := make([]byte, maxFlightBytes+1)
	f.Add(long, 0)
	f.Add(request(1), 1)
	if last := f.Last(3); last[0] != nil || last[1] != nil || !slices.Equal(last[2], request(1)) {
		t.Errorf("behind a long request: %.50q", last)
	}
	for i := range maxFlight + 1 {
		f.Add(request(i), i)
	}
	if last := f.Last(maxFlight + 1); slices.ContainsFunc(last, func(raw []byte) bool { return raw != nil }) {
		t.Error("one of too many requests is kept")
	}
	f.Add(request(7), 0)
	if last := f.Last(1); !slices.Equal(last[0], request(7)) {
		t.Errorf("afterwards: %.50q", last)
	}
}

func TestIsOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		raw, name string
		want      bool
	}{
		{"*2\r\n$3\r\nGeT\r\n$1\r\nk\r\n", "get", true}, {"get k\r\n", "get", true}, {"*2\r\n$3\r\nset\r\n$1\r\nk\r\n", "get", false},
		{"client SETNAME x\r\n", "client|setname", true}, {"xread block 0 streams a $\r\n", "xread|block", true}, {"xread streams a $\r\n", "xread|block", false},
		{"\r\n", "get", false},
	} {
		if got := IsOf([]byte(c.raw), Named(c.name)); got != c.want {
			t.Errorf("%q is of %s: %t; want %t", c.raw, c.name, got, c.want)
		}
	}
	if module := (&Command{Name: "mod.get"}); !IsOf([]byte("mod.get k\r\n"), module) || IsOf([]byte("get k\r\n"), module) {
		t.Error("a module's command")
	}
}

package routing

import (
	"slices"
	"strings"
	"testing"
)

func TestWhoMovesToAnotherEngine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		state   State
		leaving Leaving
		want    Outcome
		after   State // what it is to be afterwards; only with Moved
	}{
		{"nothing left behind", State{}, Leaving{}, Moved, State{}},
		{"waits for a reply", State{inFlight: 1}, Leaving{}, Lost, State{}},
		{"waits in BLPOP", State{inFlight: 3}, Leaving{Waits: true}, Moved, State{inFlight: 3}},
		{"half a reply", State{inFlight: 1}, Leaving{Waits: true, MidReply: true}, Lost, State{}},
		{"half a message", State{Subscriber: Subscriber{Channels: 1}}, Leaving{MidReply: true}, Lost, State{}},
		{"half a request", State{PassingRest: true}, Leaving{}, Lost, State{}},
		{"bytes that are not looked at", State{Passthrough: true}, Leaving{}, Lost, State{}},
		{"unknown state", State{Dirt: DirtyForGood, Unfollowed: true}, Leaving{}, Lost, State{}},
		{"known state", State{Dirt: DirtyForGood}, Leaving{}, Moved, State{Dirt: DirtyForGood}},
		{"has said all", State{}, Leaving{Closing: true}, Finished, State{}},
		{"has said all and waits", State{inFlight: 1}, Leaving{Waits: true, Closing: true}, Lost, State{}},
		{"WATCH", State{Watching: true}, Leaving{}, Moved, State{Watching: true, WatchLost: true}},
		{"MULTI", State{Multi: true, Queuing: true}, Leaving{}, Moved, State{Multi: true, Queuing: true, Aborted: true}},
		{"WATCH and MULTI", State{Watching: true, Multi: true, Queuing: true}, Leaving{}, Moved,
			State{Watching: true, Multi: true, Queuing: true, Aborted: true}},
		{"WATCH lost before, then MULTI", State{Watching: true, WatchLost: true, Multi: true, Queuing: true}, Leaving{}, Moved,
			State{Watching: true, Multi: true, Queuing: true, Aborted: true}},
		{"subscriptions", State{Subscriber: Subscriber{Patterns: 2}}, Leaving{}, Moved, State{Subscriber: Subscriber{Patterns: 2}}},
	} {
		st := c.state
		if got := ChangeEngine(&st, c.leaving); got != c.want || got == Moved && st != c.after {
			t.Errorf("%s: got %v and %+v; want %v and %+v", c.name, got, st, c.want, c.after)
		}
	}
}

// What a client has left on a connection that is gone must not be forgotten on one that it shares.
func TestStateWithoutAConnectionIsNotShared(t *testing.T) {
	t.Parallel()
	get, reset := Named("get"), Named("reset")
	for name, c := range map[string]struct {
		st   State
		want Action
	}{
		"clean": {State{}, SendShared}, "MULTI": {State{Multi: true, Queuing: true, Aborted: true}, Acquire}, "WATCH": {State{Watching: true}, Acquire},
		"NO-EVICT": {State{Dirt: DirtyForGood}, Acquire}, "SUBSCRIBE": {State{Subscriber: Subscriber{Channels: 1}}, Acquire},
	} {
		if d := Route(&c.st, Request{Command: get}, Env{Multiplexed: true}); d.Action != c.want {
			t.Errorf("%s: GET: got %+v; want %v", name, d, c.want)
		}
		if d := Route(&c.st, Request{Command: reset}, Env{Multiplexed: true}); (d.Action == AnswerLocally) != (name == "clean") {
			t.Errorf("%s: RESET: got %+v", name, d)
		}
	}
}

func TestEndOfATransactionEndsWhatItHasLost(t *testing.T) {
	t.Parallel()
	st := State{Multi: true, Watching: true, WatchLost: true, Aborted: true, Unfollowed: true, Dirt: DirtyUntilReset}
	if st.EndTransaction(); st.WatchLost || st.Aborted || st.Watching || !st.Unfollowed {
		t.Errorf("%+v", st)
	}
	if st.HasReset(); st.Unfollowed {
		t.Errorf("after RESET: %+v", st)
	}
	st.LoseTrack(DirtyForGood)
	if st.HasReset(); !st.Unfollowed {
		t.Errorf("RESET does not undo what is for good: %+v", st)
	}
}

func TestUnfollowedIsOnlyWhatMayBeTheConnectionsOwn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		command      *Command
		ofConnection bool
		reply        string
		want         bool
	}{
		{Unknown, false, "+OK\r\n", false}, // a module's command works on data
		{Unknown, true, "+OK\r\n", true},
		{Unknown, true, "-ERR unknown subcommand\r\n", false},
		{Unparsed, false, "+OK\r\n", true}, // it may have been anything
		{Named("quit"), false, "+OK\r\n", true},
		{Named("client|no-evict"), false, "+OK\r\n", false},
		{Named("client|tracking"), false, "+OK\r\n", false},
	} {
		var st State
		st.SendingDedicated(c.command, false)
		if c.command == Unknown {
			st.UnknownReplied([]byte(c.reply), c.ofConnection)
		}
		if st.Unfollowed != c.want {
			t.Errorf("%s, %q: %+v", c.command.Name, c.reply, st)
		}
	}
}

func TestBlockingCommandsAreAskedAgainForTheRestOfTheirTime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ request, want string }{
		{"BLPOP a b 10", "BLPOP a b 7.500"},
		{"brpop a 2.75", "brpop a 0.250"},
		{"BLPOP a 0", "BLPOP a 0"},
		{"BLPOP a 0.0", "BLPOP a 0.0"},
		{"BLPOP a 2", "BLPOP a 0.001"}, // it is over, and 0 would mean for ever
		{"BLPOP a x", "BLPOP a x"},
		{"BRPOPLPUSH a b 5", "BRPOPLPUSH a b 2.500"},
		{"BLMOVE a b LEFT LEFT 5", "BLMOVE a b LEFT LEFT 2.500"},
		{"BZPOPMIN a 5", "BZPOPMIN a 2.500"},
		{"BZPOPMAX a 5", "BZPOPMAX a 2.500"},
		{"BLMPOP 5 1 a LEFT", "BLMPOP 2.500 1 a LEFT"},
		{"BZMPOP 5 1 a MIN", "BZMPOP 2.500 1 a MIN"},
		{"WAIT 1 5000", "WAIT 1 2500"},
		{"WAIT 1 1000", "WAIT 1 1"},
		{"WAIT 1 0", "WAIT 1 0"},
		{"WAITAOF 1 0 5000", "WAITAOF 1 0 2500"},
		{"XREAD BLOCK 5000 STREAMS a $", "XREAD BLOCK 2500 STREAMS a $"},
		{"XREAD COUNT 2 block 5000 STREAMS block $", "XREAD COUNT 2 block 2500 STREAMS block $"},
		{"XREADGROUP GROUP block block COUNT 1 BLOCK 5000 STREAMS a >", "XREADGROUP GROUP block block COUNT 1 BLOCK 2500 STREAMS a >"},
		{"XREAD STREAMS block 5000", "XREAD STREAMS block 5000"},
		{"XREAD BLOCK", "XREAD BLOCK"},
		{"GET 5", "GET 5"},
		{"VSIM a 5", "VSIM a 5"},
	} {
		words := strings.Fields(c.request)
		name := strings.ToLower(words[0])
		command := Named(name)
		if strings.HasPrefix(name, "xread") {
			command = Named(name + "|block")
		}
		before := slices.Clone(words)
		if got := strings.Join(command.AfterWaiting(words, 2_500_000_000), " "); got != c.want || !slices.Equal(before, words) {
			t.Errorf("%s: got %s; want %s", c.request, got, c.want)
		}
		if waits := c.request != "GET 5" && c.request != "VSIM a 5"; command.Waits() != waits || waits && command.Plain(false) {
			t.Errorf("%s: waits %t, plain %t", c.request, command.Waits(), command.Plain(false))
		}
	}
}

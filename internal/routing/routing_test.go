package routing

import (
	"strings"
	"testing"
)

// named is the command of a request such as "client list" or "xread block 0 streams a 0".
func named(t *testing.T, request string) *Command {
	t.Helper()
	args := fields(request)
	var second []byte
	if len(args) > 1 {
		second = args[1]
	}
	return Find(args[0], second, nil).With(args)
}

var ready = Conn{Exists: true, Ready: true, Idle: true, Current: true}

func TestRouteOfEachKindOfCommand(t *testing.T) {
	t.Parallel()
	multiplexed := Env{Multiplexed: true}
	for request, want := range map[string]Decision{
		"get a":                      {Action: SendShared},
		"client list":                {Action: SendShared},
		"xread streams a 0":          {Action: SendShared},
		"xread block 0 streams a 0":  {Acquire, PinBlocking},
		"vadd k fp32 v e":            {Action: SendShared},
		"vadd k fp32 v e cas":        {Acquire, PinBlocking},
		"blpop a 0":                  {Acquire, PinBlocking},
		"multi":                      {Acquire, PinTransaction},
		"watch a":                    {Acquire, PinWatch},
		"eval x 0":                   {Acquire, PinScript},
		"subscribe c":                {Acquire, PinPubSub},
		"monitor":                    {Acquire, PinMonitor},
		"client tracking on":         {Acquire, PinTracking},
		"client reply off":           {Acquire, PinState},
		"client reply on":            {Action: SendShared},
		"auth p":                     {Acquire, PinIdentity},
		"hello 3":                    {Acquire, PinIdentity},
		"select 1":                   {Acquire, PinIdentity},
		"reset":                      {Action: AnswerLocally},
		"quit":                       {Action: AnswerLocally},
		"client no-evict on":         {Acquire, PinState},
		"client whatever comes next": {Acquire, PinUnknown},
		"nosuchcommand":              {Acquire, PinUnknown},
		"function kill":              {Action: SendShared},
		"script debug yes":           {Acquire, PinState},
		"sync":                       {Acquire, PinState},
		"flushall":                   {Action: SendShared},
		"publish c m":                {Action: SendShared},
		"client trackinginfo":        {Action: SendShared},
		"cluster slots":              {Acquire, PinBlocking},
	} {
		var st State
		if got := Route(&st, Request{Command: named(t, request)}, multiplexed); got != want {
			t.Errorf("%s: %v; want %v", request, got, want)
		}
		// The transparent path is a dedicated connection for everything.
		if got, want := Route(&st, Request{Command: named(t, request)}, Env{}), (Decision{Acquire, PinPath}); got != want {
			t.Errorf("%s, transparent: %v; want %v", request, got, want)
		}
		if got := Route(&st, Request{Command: named(t, request)}, Env{Multiplexed: true, Dedicated: ready}); got.Action != SendDedicated {
			t.Errorf("%s, with a dedicated connection: %v; want to go over it", request, got)
		}
	}
}

func TestRouteByWhatThereIs(t *testing.T) {
	t.Parallel()
	get, auth := named(t, "get a"), named(t, "auth p")
	inFlight := func(st State) State {
		st.Sent(1)
		return st
	}
	afterAuth := State{}
	afterAuth.SendingDedicated(auth, false)
	draining, dialling, busy := ready, ready, ready
	draining.Draining, dialling.Ready, busy.Idle = true, false, false
	for name, c := range map[string]struct {
		st   State
		r    Request
		env  Env
		want Decision
	}{
		"a long request is not shared":                        {State{}, Request{Command: get, TooLong: true}, Env{Multiplexed: true}, Decision{Acquire, PinLarge}},
		"a head is not shared":                                {State{}, Request{Command: get, HeadOnly: true}, Env{Multiplexed: true}, Decision{Acquire, PinLarge}},
		"a slow reader shares nothing":                        {State{}, Request{Command: get}, Env{Multiplexed: true, SlowReader: true}, Decision{Acquire, PinReplies}},
		"a reply of unknown size":                             {State{}, Request{Command: get}, Env{Multiplexed: true, ReplySizeUnknown: true}, Decision{Acquire, PinReplies}},
		"after a long reply":                                  {State{DedicatedLeft: 1}, Request{Command: get}, Env{Multiplexed: true}, Decision{Acquire, PinReplies}},
		"while CLIENT PAUSE is in force":                      {State{}, Request{Command: get}, Env{Multiplexed: true, Paused: true}, Decision{Acquire, PinPause}},
		"a change of path waits for replies":                  {inFlight(State{}), Request{Command: named(t, "multi")}, Env{Multiplexed: true}, Decision{Action: Block}},
		"RESET waits for replies":                             {inFlight(State{}), Request{Command: named(t, "reset")}, Env{Multiplexed: true}, Decision{Action: Block}},
		"RESET of a slow reader takes the way of its replies": {State{}, Request{Command: named(t, "reset")}, Env{Multiplexed: true, SlowReader: true}, Decision{Acquire, PinState}},
		"nothing is sent for an empty line":                   {State{}, Request{Command: Empty}, Env{}, Decision{Action: Ignore}},
		"a connection that is not there yet":                  {State{}, Request{Command: get}, Env{Dedicated: dialling}, Decision{Action: Block}},
		"AUTH waits for what is before it":                    {State{}, Request{Command: auth}, Env{Dedicated: busy}, Decision{Action: Block}},
		"nothing follows AUTH":                                {inFlight(afterAuth), Request{Command: get}, Env{Dedicated: ready}, Decision{Action: Block}},
		"AUTH is answered":                                    {afterAuth, Request{Command: get}, Env{Dedicated: ready}, Decision{Action: SendDedicated}},
		"a draining connection is finished":                   {inFlight(State{}), Request{Command: get}, Env{Dedicated: draining}, Decision{Action: Block}},
		"a draining one that can't be left":                   {inFlight(State{Multi: true}), Request{Command: get}, Env{Dedicated: draining}, Decision{Action: SendDedicated}},
		"RESET on a draining one comes first":                 {inFlight(State{Multi: true, Resetting: true}), Request{Command: get}, Env{Dedicated: draining}, Decision{Action: Block}},
		"passthrough looks at nothing":                        {State{Passthrough: true}, Request{Command: auth}, Env{Dedicated: busy}, Decision{Action: Pass}},
	} {
		if got := Route(&c.st, c.r, c.env); got != c.want {
			t.Errorf("%s: %v; want %v", name, got, c.want)
		}
	}
}

func TestConnectionIsGivenBackOnlyIfNothingIsLeftOnIt(t *testing.T) {
	t.Parallel()
	env := Env{Multiplexed: true, Dedicated: ready}
	for name, change := range map[string]func(*State, *Env){
		"a request in flight":       func(st *State, _ *Env) { st.Sent(1) },
		"MULTI":                     func(st *State, _ *Env) { st.Multi = true },
		"MULTI under way":           func(st *State, _ *Env) { st.Queuing = true },
		"WATCH":                     func(st *State, _ *Env) { st.Watching = true },
		"something for RESET":       func(st *State, _ *Env) { st.Soil(DirtyUntilReset) },
		"something for good":        func(st *State, _ *Env) { st.Soil(DirtyForGood) },
		"an unknown command":        func(st *State, _ *Env) { st.SendingDedicated(Unknown, false) },
		"QUIT":                      func(st *State, _ *Env) { st.SendingDedicated(Named("quit"), false) },
		"CLIENT NO-EVICT":           func(st *State, _ *Env) { st.SendingDedicated(Named("client|no-evict"), false) },
		"a subscription":            func(st *State, _ *Env) { st.Subscriber.Confirmed([]byte("subscribe"), 1) },
		"a pattern":                 func(st *State, _ *Env) { st.Subscriber.Confirmed([]byte("psubscribe"), 1) },
		"a shard channel":           func(st *State, _ *Env) { st.Subscriber.Confirmed([]byte("ssubscribe"), 1) },
		"a confirmation to come":    func(st *State, _ *Env) { st.Subscriber.PendingConfirmations = 1 },
		"MONITOR":                   func(st *State, _ *Env) { st.Subscriber.Monitor = true },
		"passthrough":               func(st *State, _ *Env) { st.EnterPassthrough() },
		"a large request":           func(st *State, _ *Env) { st.PassingRest = true },
		"long replies":              func(st *State, _ *Env) { st.DedicatedLeft = 1 },
		"the client's end":          func(_ *State, env *Env) { env.Dedicated.Closing = true },
		"the engine's end":          func(_ *State, env *Env) { env.Dedicated.Ended = true },
		"unsent bytes":              func(_ *State, env *Env) { env.Dedicated.Unsent = true },
		"another engine":            func(_ *State, env *Env) { env.Dedicated.Current = false },
		"a connection in its setup": func(_ *State, env *Env) { env.Dedicated.Ready = false },
		"the transparent path":      func(_ *State, env *Env) { env.Multiplexed = false },
	} {
		var st State
		changed := env
		change(&st, &changed)
		if got := Release(&st, changed, false, false); got != Keep {
			t.Errorf("%s: %d; want the connection to be kept", name, got)
		}
	}
	var st State
	if got := Release(&st, env, false, false); got != Return {
		t.Errorf("clean: %d; want it to be given back", got)
	}
	if got := Release(&st, env, true, false); got != Keep {
		t.Errorf("a request waits for it: %d; want it to be kept", got)
	}
	if got := Release(&st, env, false, true); got != Keep {
		t.Errorf("the client reads slowly: %d; want it to be kept", got)
	}
	env.Dedicated.Draining, env.Multiplexed = true, false
	if got := Release(&st, env, true, true); got != Leave {
		t.Errorf("draining: %d; want it to be left", got)
	}
}

func TestResetCleansWhatItCan(t *testing.T) {
	t.Parallel()
	st := State{Multi: true, Watching: true, Dirt: DirtyUntilReset, Subscriber: Subscriber{Monitor: true, Channels: 2, PendingConfirmations: 1}}
	if st.HasReset(); st != (State{Subscriber: Subscriber{PendingConfirmations: 1}}) {
		t.Errorf("RESET leaves %+v", st)
	}
	st = State{Dirt: DirtyForGood}
	if st.HasReset(); st.Dirt != DirtyForGood {
		t.Error("RESET undoes what only the end of the connection does")
	}
	st = State{Dirt: DirtyForGood, Resetting: true}
	if st.HasReset(); st != (State{}) {
		t.Errorf("the connection is left, and %+v with it", st)
	}
}

func TestUnknownCommandThatIsRefusedLeavesNothing(t *testing.T) {
	t.Parallel()
	for reply, clean := range map[string]bool{
		"-ERR unknown command 'x'\r\n": true, "-NOPERM no\r\n": true, "-NOAUTH no\r\n": true,
		"+OK\r\n": false, "-ERR syntax error\r\n": false, "": false,
	} {
		var st State
		st.SendingDedicated(Unknown, false)
		if st.UnknownReplied([]byte(reply), false); st.Clean(ready) != clean {
			t.Errorf("%q: clean %t; want %t", reply, !clean, clean)
		}
	}
}

func TestSubscriptionsAreCountedAsTheEngineCounts(t *testing.T) {
	t.Parallel()
	var f Subscriber
	for _, c := range []struct {
		word string
		n    int
	}{{"subscribe", 1}, {"psubscribe", 2}, {"ssubscribe", 1}, {"subscribe", 3}, {"unsubscribe", 2}, {"sunsubscribe", 0}, {"punsubscribe", 1}} {
		f.Confirmed([]byte(c.word), c.n)
	}
	if want := (Subscriber{Channels: 1}); f != want {
		t.Errorf("%+v; want %+v", f, want)
	}
	if f.Confirmed([]byte("unsubscribe"), 0); f.On() {
		t.Errorf("%+v is subscribed", f)
	}
}

func TestRepliesAreOfTheirCommandsKinds(t *testing.T) {
	t.Parallel()
	for request, allowed := range map[string]string{"incr a": ":-!|", "get a": "$_-!|", "set a b": "+$_-:*", "hgetall a": "*~%_-!|", "mset a b": "+-!|"} {
		for first := range 256 {
			want := strings.IndexByte(allowed, byte(first)) >= 0
			if request == "set a b" {
				want = true // with GET it is a value
			}
			if got := named(t, request).Replies.Allows(byte(first)); got != want {
				t.Errorf("%s: a reply that begins with %q is allowed: %t; want %t", request, byte(first), got, want)
			}
		}
	}
}

func TestIdentityAfterARequest(t *testing.T) {
	t.Parallel()
	before := Identity{User: "u", DB: 3, Proto: 3, Name: "n", LibName: "l"}
	change := func(f func(*Identity)) Identity {
		id := before
		f(&id)
		return id
	}
	for request, want := range map[string]Identity{
		"auth p":                     change(func(id *Identity) { id.User = "default" }),
		"auth v p":                   change(func(id *Identity) { id.User = "v" }),
		"select 5":                   change(func(id *Identity) { id.DB = 5 }),
		"hello":                      before,
		"hello 2":                    change(func(id *Identity) { id.Proto = 2 }),
		"hello 3 auth v p setname m": change(func(id *Identity) { id.User, id.Name = "v", "m" }),
	} {
		args := fields(request)
		if got, known := named(t, request).IdentityAfter(before, args); !known || got != want {
			t.Errorf("%s: %+v, %t; want %+v", request, got, known, want)
		}
	}
	for _, request := range []string{"auth", "auth a b c", "select", "select x", "select 01", "select -1", "hello 4", "hello 3 setname", "hello 3 auth a", "hello 2 what"} {
		if _, known := named(t, request).IdentityAfter(before, fields(request)); known {
			t.Errorf("%s: what it comes to is known; want it not to be", request)
		}
	}
	if got, want := before.AfterReset(), (Identity{Proto: 2, LibName: "l"}); got != want {
		t.Errorf("after RESET: %+v; want %+v", got, want)
	}
}

func fields(request string) (args [][]byte) {
	for _, w := range strings.Fields(request) {
		args = append(args, []byte(w))
	}
	return args
}

// What is read only may be asked twice; everything that is in a list of the table is a command of the table.
func TestTableIsConsistent(t *testing.T) {
	t.Parallel()
	for name, c := range table {
		if c.Name != name && c != ReplyOn {
			t.Errorf("%s is called %s", name, c.Name)
		}
		if c.RetrySafe && c.Affinity != Shareable {
			t.Errorf("%s may be asked twice but not be shared", name)
		}
		if c.Affinity != Shareable && c.Pin == "" {
			t.Errorf("%s needs a dedicated connection, and no reason is given", name)
		}
		if c.Affinity == Shareable && c.Pin != "" {
			t.Errorf("%s may be shared, and there is a reason why not: %s", name, c.Pin)
		}
		if (c.IdentityAfter != nil) != (c.Affinity == ChangesIdentity) {
			t.Errorf("%s: affinity %d, and identity after it: %t", name, c.Affinity, c.IdentityAfter != nil)
		}
	}
}

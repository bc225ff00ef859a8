package routing

import "bytes"

// Dirt is what a client has left on its dedicated connection that the end of its transactions and subscriptions does not undo.
type Dirt uint8

const (
	NotDirty        Dirt = iota
	DirtyUntilReset      // RESET, or the end of the connection, undoes it
	DirtyForGood         // only the end of the connection undoes it, or it is unknown what was left
)

// State is what decides about a client's next request: what it has asked so far, and what that has left behind. The zero value
// is a client that has asked nothing. It belongs to one goroutine.
type State struct {
	Multi    bool // between MULTI and EXEC, as far as the engine has said
	Queuing  bool // the same, as far as the client has said
	Watching bool // keys are watched
	// QueuedDenyOOM says that a command with DenyOOM was sent since MULTI, or a script that may write.
	QueuedDenyOOM bool
	// QueuedWrite says that a command with Writes was sent since MULTI, or a script that may write.
	QueuedWrite bool

	// WatchLost says that the engine on which keys were watched is gone: the next EXEC fails as if one of them had changed.
	WatchLost bool
	// Aborted says that the transaction was begun on an engine that is gone: the new one is to be told to fail it at EXEC.
	Aborted bool

	Dirt           Dirt
	Unfollowed     bool // it is not known what the client has left on its connection
	UnknownEffects int  // requests in flight whose effect on the connection is unknown
	Resetting      bool // the connection is left after the RESET in flight, because only a new one is logged in again

	Passthrough bool // bytes go both ways over the dedicated connection and are not looked at
	PassingRest bool // the rest of a large request goes where its head went

	Subscriber Subscriber
	Writes     Writes

	RepliesOff bool // the client wants no replies (CLIENT REPLY OFF)
	SkipReply  bool // nor one to its next request (CLIENT REPLY SKIP)

	// DedicatedLeft is for how many more requests the client stays on a dedicated connection, because its replies are long.
	DedicatedLeft int

	inFlight    int  // requests without a reply
	unpipelined bool // nothing may follow the request in flight before it is answered
}

// InFlight is how many requests have no reply yet.
func (st *State) InFlight() int { return st.inFlight }

// Unpipelined says that nothing may follow the request in flight.
func (st *State) Unpipelined() bool { return st.unpipelined }

// Sent notes n requests that are on their way.
func (st *State) Sent(n int) { st.inFlight += n }

// Answered notes n replies.
func (st *State) Answered(n int) { st.inFlight -= n }

// NothingInFlight is called when the requests in flight are taken back, or when their connection has ended.
func (st *State) NothingInFlight() { st.inFlight = 0 }

// Clean says whether the client has left nothing on its dedicated connection, so that it could do without one.
func (st *State) Clean(conn Conn) bool { return st.inFlight == 0 && st.WillBeClean(conn) }

// WillBeClean says whether the client will be clean once the requests in flight are answered.
func (st *State) WillBeClean(conn Conn) bool {
	return !st.Multi && !st.Queuing && !st.Watching && st.Dirt == NotDirty && st.UnknownEffects == 0 && !st.Passthrough && !st.PassingRest &&
		!st.Subscriber.On() && !st.Muted() && !conn.Closing
}

// blockedByDrain says that the next request is to go over another connection, once what is in flight on the draining one is
// answered.
func (st *State) blockedByDrain(conn Conn) bool {
	return conn.Exists && conn.Draining && conn.Ready && st.inFlight > 0 && (st.Resetting || st.WillBeClean(conn))
}

// Soil notes that something is left behind.
func (st *State) Soil(d Dirt) { st.Dirt = max(st.Dirt, d) }

// LoseTrack notes that something is left behind of which it is not known what it is.
func (st *State) LoseTrack(d Dirt) {
	st.Soil(d)
	st.Unfollowed = true
}

// SendingDedicated notes what a request over the dedicated connection may leave behind. With unpipelined the request must be answered
// before the next one is sent, whatever the command is.
func (st *State) SendingDedicated(c *Command, unpipelined bool) {
	st.QueuedDenyOOM = st.Queuing && (st.QueuedDenyOOM || c.DenyOOM || c.ReadOnlyForm != "")
	st.QueuedWrite = st.Queuing && (st.QueuedWrite || c.MayWrite())
	switch {
	case c == Unknown:
		st.UnknownEffects++ // its reply tells whether there is anything
	case c == Unparsed:
		st.LoseTrack(DirtyForGood)
	case c.ResetBeforeReuse: // for the connection to remember
	case c.Affinity == DirtiesForGood:
		st.Soil(DirtyForGood)
	case c.Affinity == DirtiesUntilReset:
		st.Soil(DirtyUntilReset)
	case c.Affinity == Quits:
		st.LoseTrack(DirtyUntilReset) // the engine closes it
	}
	st.unpipelined = c.Unpipelined || unpipelined
}

// Muted says that the client wants no reply to its next request.
func (st *State) Muted() bool { return st.RepliesOff || st.SkipReply }

// Pinned says that the client has left something on its dedicated connection, or on one before it, that the next one is to have.
func (st *State) Pinned() bool { return !st.WillBeClean(Conn{}) }

// SendingShared ends the time in which nothing may follow: an unpipelined request is answered before Route lets another go.
func (st *State) SendingShared() { st.unpipelined = false }

// UnknownReplied ends the wait for the reply to an unknown command. One that the engine doesn't know either, or doesn't allow,
// leaves nothing behind: client libraries try what newer engines have. ofConnection says that the command is one that works on the
// connection itself, so that it is not known what the client has left there.
func (st *State) UnknownReplied(reply []byte, ofConnection bool) {
	st.UnknownEffects--
	for _, refusal := range []string{"-ERR unknown ", "-NOPERM", "-NOAUTH"} {
		if bytes.HasPrefix(reply, []byte(refusal)) {
			return
		}
	}
	st.Soil(DirtyForGood)
	st.Unfollowed = st.Unfollowed || ofConnection
}

// EnterPassthrough is called when requests and replies can't be told apart any more.
func (st *State) EnterPassthrough() {
	st.Passthrough, st.PassingRest = true, false
	st.LoseTrack(DirtyForGood)
}

// EndTransaction is called when EXEC, DISCARD or RESET has worked.
func (st *State) EndTransaction() { st.Multi, st.Aborted = false, false; st.Unwatch() }

// Unwatch is called when no key is watched any more.
func (st *State) Unwatch() { st.Watching, st.WatchLost = false, false }

// HasReset is called when RESET has worked.
func (st *State) HasReset() {
	st.EndTransaction()
	if st.Dirt != DirtyForGood || st.Resetting { // a connection that is left is left with all that is on it
		st.Dirt, st.Unfollowed = NotDirty, false
	}
	st.Resetting, st.RepliesOff = false, false
	st.Subscriber = Subscriber{PendingConfirmations: st.Subscriber.PendingConfirmations}
}

// Subscriber is what a client is sent without asking each time.
type Subscriber struct {
	Monitor                    bool
	Channels, Patterns, Shards int
	PendingConfirmations       int // requests to subscribe, or to end that, whose confirmations are to come
}

// On says that pushes may come between replies.
func (f *Subscriber) On() bool { return f.Monitor || f.PendingConfirmations > 0 || f.Subscribed() }

// Subscribed says that there is a subscription.
func (f *Subscriber) Subscribed() bool { return f.Channels+f.Patterns+f.Shards > 0 }

// Confirmed notes a confirmation, whose first word and number these are. The engine counts channels and patterns together, and
// shard channels by themselves.
func (f *Subscriber) Confirmed(word []byte, n int) {
	switch {
	case bytes.HasPrefix(word, []byte("p")):
		f.Patterns = n - f.Channels
	case bytes.HasPrefix(word, []byte("ss")), bytes.HasPrefix(word, []byte("sun")):
		f.Shards = n
	default:
		f.Channels = n - f.Patterns
	}
}

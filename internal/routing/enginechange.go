package routing

// Leaving is what there is on a client's dedicated connection when the client has to leave the engine.
type Leaving struct {
	Waits    bool // what is in flight is a command that waits, and requests behind it: it has not been executed, and will not be
	MidReply bool // the client has been told the beginning of a reply or message
	Closing  bool // the client has said all, and the engine knows
}

// Outcome is what becomes of a client whose engine is replaced.
type Outcome uint8

const (
	// Lost: a request may have been executed, or it is not known what the client has left on its connection.
	Lost Outcome = iota
	// Moved: the client goes on with the new engine.
	Moved
	// Finished: the client has said all and been told all.
	Finished
)

// ChangeEngine decides whether a client can go on with another engine, and notes what becomes of its transaction: keys that were
// watched count as changed, and a transaction that was open is aborted at EXEC.
func ChangeEngine(st *State, l Leaving) Outcome {
	switch {
	case st.inFlight > 0 && !l.Waits, l.MidReply, st.Passthrough, st.PassingRest, st.Unfollowed:
		return Lost
	case l.Closing && st.inFlight > 0:
		return Lost
	case l.Closing:
		return Finished
	}
	if st.Queuing || st.Multi {
		st.Aborted, st.WatchLost = true, false
	} else if st.Watching {
		st.WatchLost = true
	}
	st.unpipelined = false
	return Moved
}

// HasPushes says that the engine may send the client something that it does not ask for each time, so that it needs a connection at
// once. tracks says that it is sent invalidations.
func (st *State) HasPushes(tracks bool) bool { return tracks || st.Subscriber.On() }

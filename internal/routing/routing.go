// Package routing decides over which engine connection a client's next request goes, and why. It is pure: it looks at the
// command, at what the client has asked so far and at what connections there are, and changes nothing but the State that it is
// given. Package relay acts on what it says.
//
// A request may go over a connection that clients share only if it is known to leave nothing behind there, to be answered by
// exactly one reply, and never to wait for anything. table.go has the commands of which that is known; what it doesn't have is
// asked of the engine (commandinfo.go).
//
// Guaranteed: no decision depends on anything but the arguments. Nothing here is safe for concurrent use on one State; the
// tables are never changed and may be read from anywhere.
package routing

// Action is what is to be done with a request.
type Action uint8

const (
	// Block: the request waits for replies, or for its connection. Route is asked again when something has changed.
	Block Action = iota
	// Ignore: there is nothing to be sent.
	Ignore
	// AnswerLocally: the engine is not needed for RESET or QUIT of a client that has nothing there.
	AnswerLocally
	// SendShared: over the connection that clients of the same user, database and protocol share.
	SendShared
	// Acquire: a dedicated connection is needed first; then Route is asked again. Decision.Pin has the reason.
	Acquire
	// SendDedicated: over the client's dedicated connection.
	SendDedicated
	// Pass: the bytes go over the dedicated connection and are not looked at.
	Pass
)

// Decision is what Route says.
type Decision struct {
	Action Action
	Pin    Pin // why a dedicated connection is needed; only with Acquire
}

// Request is what a client asks next.
type Request struct {
	Command *Command
	// TooLong says that others would have to wait too long for its end, on a connection that they share.
	TooLong bool
	// HeadOnly says that only the beginning is there; the rest follows as it comes.
	HeadOnly bool
}

// Env is what there is around the client.
type Env struct {
	Multiplexed bool // clients may share connections
	Paused      bool // CLIENT PAUSE may be in force, which holds single connections up
	SlowReader  bool // the client asks more than it reads
	// ReplySizeUnknown says that the reply may turn out to be long. It is only looked at where the request could share a
	// connection otherwise.
	ReplySizeUnknown bool
	Dedicated        Conn
}

// Conn is a client's dedicated connection. The zero value says that it has none.
type Conn struct {
	Exists   bool
	Ready    bool // set up for the client's user, database and protocol
	Idle     bool // nothing is in flight or unsent on it, the relay's own requests included
	Draining bool // it is to be left as soon as nothing is lost by that
	Ended    bool // closed, or the engine has said its last
	Closing  bool // the client's end has been passed on
	Current  bool // it leads to the engine that new connections lead to
	Unsent   bool // bytes wait for room
}

// Route decides about the client's next request.
func Route(st *State, r Request, env Env) Decision {
	c, conn := r.Command, env.Dedicated
	switch {
	case st.Passthrough:
		return Decision{Action: Pass}
	case st.unpipelined && st.inFlight > 0, st.blockedByDrain(conn):
		return Decision{Action: Block}
	case conn.Exists && (!conn.Ready || c.Unpipelined && !(conn.Idle && st.inFlight == 0)):
		return Decision{Action: Block}
	case conn.Exists:
		return Decision{Action: SendDedicated}
	case env.Multiplexed && st.inFlight == 0 && (c.Affinity == Resets || c.Affinity == Quits) && !env.SlowReader && !st.Pinned():
		return Decision{Action: AnswerLocally}
	case env.Multiplexed && MayShare(st, r, env) && !env.ReplySizeUnknown:
		return Decision{Action: SendShared}
	case st.inFlight > 0: // replies come in the order of the requests, which is that of one connection
		return Decision{Action: Block}
	case c == Empty:
		return Decision{Action: Ignore}
	}
	return Decision{Acquire, pin(st, r, env)}
}

// MayShare says whether the request could go over a shared connection, whatever connection the client has now.
func MayShare(st *State, r Request, env Env) bool {
	return r.Command.Affinity == Shareable && !r.HeadOnly && !r.TooLong && st.DedicatedLeft == 0 && !env.SlowReader && !env.Paused && !st.Pinned() &&
		!st.Writes.OwnConnection
}

// pin is why a request needs a dedicated connection.
func pin(st *State, r Request, env Env) Pin {
	c := r.Command
	switch {
	case !env.Multiplexed:
		return PinPath
	case c.Affinity == Shareable && env.Paused:
		return PinPause
	case c.Affinity == Shareable && st.Writes.OwnConnection:
		return PinWait
	case c.Affinity == Shareable && c.Pin == "" && !r.HeadOnly && !r.TooLong:
		return PinReplies
	case c.Pin == "":
		return PinLarge
	}
	return c.Pin
}

// Fate is what becomes of a dedicated connection.
type Fate uint8

const (
	// Keep: the client goes on with it.
	Keep Fate = iota
	// Return: the client can do without, and the next one that needs a connection may have it.
	Return
	// Leave: it is draining and the client has left nothing on it, so it is closed.
	Leave
)

// Release decides whether a client gives up its dedicated connection. blocked says that a request waits to be sent, for which
// the connection may have been acquired; unread that the client has not taken what it was told, so that it would need a
// dedicated connection again at once.
func Release(st *State, env Env, blocked, unread bool) Fate {
	conn := env.Dedicated
	switch {
	case !conn.Exists || !conn.Ready || !st.Clean(conn):
		return Keep
	case conn.Draining && !conn.Ended:
		return Leave
	case conn.Draining, conn.Ended, blocked, unread, conn.Unsent, st.DedicatedLeft > 0, st.Writes.OwnConnection, !env.Multiplexed, !conn.Current:
		return Keep
	}
	return Return
}

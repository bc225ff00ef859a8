// Package failover decides which node of an instance is its primary, and carries a change of the primary out.
//
// It knows nodes by their numbers, and what is observed of their engines. It starts no process and keeps nothing: Watch and the
// functions below are pure, and Planned and Unplanned act through Nodes.
//
// One thing says which engine takes writes: the snapshot of the endpoint's gateway, which Nodes.Serve replaces. It is on disk before it
// is served, so it is the point of no return. Before it, every failure leaves the present primary in place. After it, only what follows
// from it is behind: the record, and whom the other engines replicate from.
package failover

import (
	"fmt"
	"time"
)

// Condition is what an engine is doing.
type Condition string

const (
	Answering Condition = "answering"
	Busy      Condition = "busy" // a command or a script takes long, or it gets no core to run on
	// Waiting is an engine that goes on and has not answered, because a client has paused it (CLIENT PAUSE), for example.
	Waiting     Condition = "waiting"
	Stopped     Condition = "stopped" // by a signal (SIGSTOP), or by a debugger
	Hung        Condition = "hung"    // it does nothing, and waits for a disk, or for ever
	Unreachable Condition = "unreachable"
	Ended       Condition = "ended"
)

// Observation is what was seen of a node's engine at one moment.
type Observation struct {
	At        time.Time
	Condition Condition

	// What follows is known where it answers.

	Primary bool   // it takes writes; otherwise it is a replica
	Loading bool   // its data are not all in memory
	Syncing bool   // it is receiving a whole copy of the primary's data
	Linked  bool   // as a replica: it is told of each change
	ID      string // which history its data are of (master_replid)
	Offset  int64  // how far in that history
	ID2     string // the history before it was promoted
}

// Answers says whether the engine has answered.
func (o Observation) Answers() bool { return o.Condition == Answering }

// Running says whether there is a process, as far as is known.
func (o Observation) Running() bool { return o.Condition != Ended }

// follows says whether the engine's data are of a history, to some point of it: it may be promoted then.
func (o Observation) follows(history string) bool {
	return history != "" && (o.ID == history || o.ID2 == history && o.Primary)
}

// A primary has failed when its process has ended, or when it was seen so many times in a row not to work. One that is in a long command,
// or gets no core to run on, has not failed: it would be just as slow elsewhere. But for patience only. One that a client has
// paused does what it was told.
const (
	stoppedTimes     = 3
	hungTimes        = 2
	unreachableTimes = 3
	patience         = 30 * time.Second
	// slowTime is for how long a replica that only is slow is read. It is longer than the time after which a gateway asks a script again
	// elsewhere (relay.maxScriptTime), so that one which does not end keeps one replica busy, and not each of them in turn.
	slowTime = 1500 * time.Millisecond
)

// Watch is what a row of observations shows of one engine. The zero value has seen nothing.
type Watch struct {
	Last     Observation
	Answered Observation // the last one at which it answered

	times int       // in a row that the condition was the same
	since time.Time // it has been in that condition
}

// Saw adds an observation.
func (w *Watch) Saw(o Observation) {
	if o.Condition != w.Last.Condition {
		w.times, w.since = 0, o.At
	}
	w.times++
	w.Last = o
	if o.Answers() {
		w.Answered = o
	}
}

// Lately is how the engine was last seen. Where it does not answer because it is slow, that is how it was when it last answered.
func (w *Watch) Lately() Observation {
	if c := w.Last.Condition; (c == Busy || c == Waiting) && w.Last.At.Sub(w.Answered.At) < slowTime {
		return w.Answered
	}
	return w.Last
}

// Fault says why an engine has failed; "": it has not, as far as is known.
func (w *Watch) Fault() string {
	switch c := w.Last.Condition; {
	case c == Ended, c == Stopped && w.times >= stoppedTimes, c == Hung && w.times >= hungTimes,
		c == Unreachable && w.times >= unreachableTimes, c == Busy && w.Last.At.Sub(w.since) >= patience:
		return c.Fault()
	}
	return ""
}

// faults say of each condition in which an engine has failed what is wrong.
var faults = map[Condition]string{
	Ended:       "its process ended",
	Stopped:     "its process is stopped (SIGSTOP, or a debugger)",
	Hung:        "its process hangs",
	Unreachable: "its socket can't be reached",
	Busy:        fmt.Sprintf("it has been busy with one request for %v", patience),
}

// Fault says what is wrong with an engine in this condition, once it has failed.
func (c Condition) Fault() string { return faults[c] }

// ConditionOf is the condition of an engine that has this fault; "": it is none that Watch.Fault returns.
func ConditionOf(fault string) Condition {
	for c, f := range faults {
		if f == fault {
			return c
		}
	}
	return ""
}

// lagLimit is how far behind a replica may be, in time, to count as in sync.
const lagLimit = 2 * time.Second

// Lag follows how far a replica is behind its primary in time. The zero value has seen nothing.
type Lag struct {
	marks   []mark // of the primary, oldest first: those that the replica has not reached, and the last one that it has
	reached bool   // the replica has reached one of them
}

// Known says whether the replica has reached anything that the primary was seen to have. Before that, it may be further behind than has
// been looked at.
func (l *Lag) Known() bool { return l.reached }

type mark struct {
	at     time.Time
	offset int64
}

// Saw adds an observation of both, and returns for how long the replica has lacked what the primary had. That of a replica which does
// not answer is the last one at which it did: it falls behind as time goes on.
func (l *Lag) Saw(primary, replica Observation) time.Duration {
	if primary.Answers() {
		l.marks = append(l.marks, mark{primary.At, primary.Offset})
	}
	for len(l.marks) > 1 && l.marks[0].offset <= replica.Offset {
		l.marks, l.reached = l.marks[1:], true
	}
	if len(l.marks) == 0 {
		return 0
	}
	if l.marks[0].offset <= replica.Offset {
		l.reached = true
		return 0
	}
	const most = 1024
	if len(l.marks) > most {
		l.marks = append(l.marks[:1], l.marks[len(l.marks)-most+1:]...)
	}
	now := replica.At
	if primary.At.After(now) {
		now = primary.At
	}
	return now.Sub(l.marks[0].at)
}

// InSync says whether a replica has the primary's data, but for what is on its way, and is told of each change.
func InSync(history string, replica Observation, lag time.Duration) bool {
	return replica.Linked && upToDate(history, replica, lag)
}

func upToDate(history string, replica Observation, lag time.Duration) bool {
	return replica.Answers() && !replica.Primary && !replica.Loading && !replica.Syncing && replica.follows(history) && lag < lagLimit
}

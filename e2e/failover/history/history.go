// Package history checks recorded histories of a replicated Redis through failovers. It is pure: it does no I/O and reads no clock.
//
// A history is what clients saw: when they sent each operation, when they had its reply, and what the reply was. From that alone
// Check says which acknowledged writes are lost, and whether something happened that asynchronous replication does not allow:
//
//   - a reply that belongs to another client or to another key,
//   - a write that was applied twice, in another order, or although it was refused,
//   - a loss without a failover, or a loss of something else than the last writes before it,
//   - a write that a replica had confirmed (WAIT) and that is lost,
//   - two primaries that acknowledged writes at the same time,
//   - a write that came back after clients had seen that it is lost.
//
// What Check cannot know it does not report: an operation without a reply may have happened, at any later time, or not at all.
package history

import (
	"fmt"
	"time"
)

// Kind is what an operation does.
type Kind string

const (
	Append Kind = "append" // RPUSH of Value to a list that only this client writes
	List   Kind = "list"   // LRANGE of a whole list: Read is all of it
	Set    Kind = "set"    // SET of a key that only this client writes
	Get    Kind = "get"    // GET of a key: Read has one element, or none if there was no value
	Swap   Kind = "swap"   // GETSET of a key that many clients write: Read is the value before, as with Get
)

// Outcome says what a client knows of an operation.
type Outcome string

const (
	Done    Outcome = "done"    // it was acknowledged
	Refused Outcome = "refused" // it was answered with an error that says that it was not executed, or never sent
	Unknown Outcome = "unknown" // the connection ended, the time was over, or the error leaves it open
)

// Op is one operation of a client. A client has at most one at a time. Values are unique in a history.
type Op struct {
	Client  int
	Kind    Kind
	Key     string
	Value   string        // what was written
	Start   time.Duration // when it was sent, since the history's begin
	End     time.Duration // when the reply came, or when the client gave up
	Outcome Outcome
	// Replicated says that a WAIT behind the write, on the same connection, counted a replica.
	Replicated bool
	Read       []string // the reply, where Outcome is Done
}

func (o *Op) writes() bool { return o.Kind == Append || o.Kind == Set || o.Kind == Swap }

func (o *Op) String() string {
	replicated := ""
	if o.Replicated {
		replicated = ", replicated"
	}
	return fmt.Sprintf("client %d %s %s %s (%s%s, %v to %v)", o.Client, o.Kind, o.Key, o.Value, o.Outcome, replicated, o.Start, o.End)
}

// Failover is a change of the primary. Before Start the old primary served undisturbed. By End the new one was known to take writes;
// the old one may not acknowledge anything that is sent later.
type Failover struct {
	Start, End time.Duration
	Lossless   bool // it is promised to lose nothing
}

// History is a run of all clients.
type History struct {
	Ops       []Op // in any order
	Failovers []Failover
	// MaxLag is how long before a failover's start a write may have been acknowledged and still be lost with it.
	MaxLag time.Duration
	// FailoversUnknown says that primaries came and went at times that nobody recorded. A loss is then not assigned to a failover,
	// and the rules that need its time are not checked.
	FailoversUnknown bool
}

// Rule is what a violation breaks.
type Rule string

const (
	Foreign         Rule = "a reply for another client or key"
	Twice           Rule = "a write that was applied twice"
	Disorder        Rule = "writes in another order than they were acknowledged"
	RefusedIsThere  Rule = "a write that was refused and is there"
	FromFuture      Rule = "a value that was read before it was written"
	LostAtPeace     Rule = "an acknowledged write that is lost without a failover"
	LostEarly       Rule = "an acknowledged write that is lost although it was acknowledged long before the failover"
	LostWithout     Rule = "an acknowledged write that is lost with a failover that loses nothing"
	LostReplicated  Rule = "a write that a replica had confirmed and that is lost"
	NotASuffix      Rule = "a lost write, although a later one to the same primary is there"
	TwoPrimaries    Rule = "two primaries acknowledged writes at the same time"
	BackFromTheDead Rule = "a write that came back after it was seen to be lost"
	NotLinearizable Rule = "replicated writes of one key that no order explains"
)

// Violation is one finding.
type Violation struct {
	Rule Rule
	Key  string
	Text string // the operations that show it
}

func (v Violation) String() string { return fmt.Sprintf("%s: %s: %s", v.Rule, v.Key, v.Text) }

// Loss is an acknowledged write that is lost.
type Loss struct {
	Op       *Op
	Failover int // its index in the history, or -1 if it is not known
}

// Result is what Check found.
type Result struct {
	Violations   []Violation
	Losses       []Loss
	Acknowledged int // writes
	Replicated   int // writes that a replica had confirmed
	Unknown      int // writes without an answer that says what happened
	Refused      int // writes
	Reads        int // reads of all kinds that were answered
}

// ByRule counts the violations.
func (r *Result) ByRule() map[Rule]int {
	n := make(map[Rule]int)
	for _, v := range r.Violations {
		n[v.Rule]++
	}
	return n
}

package routing

import "strings"

// When an engine ends, or hangs and is replaced, its clients stay. What they have left on their connections is brought along, and each
// request without a reply is either asked again or answered with an error: a request that may have been executed is never asked again,
// unless it changes nothing but the connection, which is a new one.

// repeatable are commands that may be asked again on another connection, beside those that are RetrySafe: they change nothing but
// the connection, or read. What is only queued between MULTI and EXEC may be, too.
const repeatable = `
auth hello select reset multi discard watch unwatch
subscribe psubscribe ssubscribe unsubscribe punsubscribe sunsubscribe monitor
client|id client|getname client|setname client|setinfo client|info client|list client|getredir client|trackinginfo client|tracking
client|caching client|import-source client|no-evict client|no-touch client|capa client|help readonly readwrite asking
info command role lastsave object pubsub xinfo eval_ro evalsha_ro fcall_ro xread xread|block vsim vcard vdim vemb vgetattr vinfo vismember
vlinks vrandmember vrange`

// bearing are those without which what comes behind them would mean something else.
const bearing = "auth hello select multi watch"

// addRepeatable enters what may be asked again.
func addRepeatable(m map[string]*Command) {
	for _, name := range strings.Fields(repeatable) {
		m[name].repeatable = true
	}
	for _, name := range strings.Fields(bearing) {
		m[name].bearing = true
	}
	for _, c := range []*Command{ReplyOn, ReplyOff, ReplySkip} {
		c.repeatable, c.bearing = true, true
	}
}

// Unanswered is a request that an engine was sent and has not answered.
type Unanswered struct {
	Command *Command
	Kept    bool // the request is here, so that it can be asked again
	Unread  bool // the engine has not read all of it, so that it was not executed
}

// Outlived is what becomes of the requests of a client whose engine has ended.
type Outlived struct {
	// Again says of each request whether it is asked again. The others are answered with an error.
	Again []bool
	// Members is how many of the requests, from the first on, were to be queued by the transaction that was open before them.
	Members int
}

// MayOutlive says whether a client can go on with another engine, as far as its state tells.
func (st *State) MayOutlive() bool { return !st.Passthrough && !st.Unfollowed }

// Outlive decides what becomes of the requests of a client whose engine has ended, in the order in which they were sent, and makes the
// state that of a client that has sent none of them. A transaction that the engine had begun is open afterwards, unless its EXEC was
// sent: then it is over, and all that is not answered of it is answered with the error. Keys that were watched count as changed. It
// returns false, and changes nothing, if the client can't go on.
func Outlive(st *State, all []Unanswered) (Outlived, bool) {
	if !st.MayOutlive() {
		return Outlived{}, false
	}
	w := walk{all: all, out: Outlived{Again: make([]bool, len(all))}, open: st.Multi, carried: st.Multi, began: answered}
	for i := range all {
		w.next(i)
	}
	if w.open && w.began == answered && !st.Queuing {
		w.failed = true // it is open because the engine has not taken its EXEC for one
	}
	if w.endTransaction(); w.broken {
		return Outlived{}, false
	}
	if w.ended {
		st.Unwatch()
	}
	if st.Watching {
		st.WatchLost = true
	}
	st.Multi, st.Queuing = w.carried, w.carried
	st.Aborted = w.carried && (st.Aborted || w.failed)
	st.UnknownEffects, st.Subscriber.PendingConfirmations, st.unpipelined, st.inFlight, st.PassingRest = 0, 0, false, 0, false
	return w.out, true
}

// walk goes through the requests that are not answered.
type walk struct {
	all     []Unanswered
	out     Outlived
	open    bool // there is a transaction, at this point
	began   int  // where its MULTI is
	passed  bool // it is not, or no longer, the one that was open before all of them
	carried bool // that one is to be open again
	failed  bool // it can't be open as it was
	ended   bool // an EXEC may have been executed
	broken  bool // what comes behind a request that is not asked again would mean something else
}

// answered is the place of a MULTI that the engine has answered.
const answered = -1

func (w *walk) next(i int) {
	r := w.all[i]
	c := r.Command
	switch {
	case w.open && c == execCommand && !(r.Kept && r.Unread):
		for j := max(0, w.began); j < i; j++ {
			w.out.Again[j] = false
		}
		w.carried = w.carried && w.passed
		w.ended, w.open, w.passed = true, false, true
	case w.open && (c == execCommand || c == discardCommand || c.Affinity == Resets):
		w.out.Again[i] = r.Kept
		w.endTransaction()
	case w.open: // it was queued, at most
		if w.out.Again[i] = r.Kept; !w.passed {
			w.out.Members++
			w.failed = w.failed || !r.Kept
		}
	default:
		w.out.Again[i] = r.Kept && (c.RetrySafe || c.repeatable || r.Unread)
		if c == multiCommand {
			w.open, w.began, w.passed = true, i, true
		} else if c.bearing && !w.out.Again[i] {
			w.broken = true
		}
	}
}

// endTransaction ends a transaction of which nothing was executed, so that its MULTI has to be asked again.
func (w *walk) endTransaction() {
	if w.open && w.began != answered && !w.out.Again[w.began] {
		w.broken = true
	}
	w.open, w.passed = false, true
}

var multiCommand = Named("multi")

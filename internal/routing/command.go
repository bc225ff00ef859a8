package routing

// Command is what has to be known of a command to send it where it does no harm. Commands are never changed; two requests are of the
// same command if the pointers are equal.
type Command struct {
	Name     string // as CLIENT LIST shows it
	Affinity Affinity
	Pin      Pin // why it needs a dedicated connection; empty for those that don't
	// ResetBeforeReuse says that its connection is to be cleaned by RESET before another client has it.
	ResetBeforeReuse bool
	// Handled says that its request or its reply is not just passed on: it shows clients, or changes who the client is.
	Handled bool
	// IdentityAfter says who a client would be after it, and whether that is all that it can do. Nil: it doesn't change that.
	IdentityAfter func(id Identity, args [][]byte) (after Identity, known bool)
	// Unpipelined says that the engine's answer, or whether there is one, depends on what else is on the connection. The request
	// is sent once everything before it is answered, and nothing follows it until it is answered itself.
	Unpipelined bool
	// AnyDB says that it does the same in every database.
	AnyDB bool
	// RetrySafe says that to ask it twice does no harm.
	RetrySafe bool
	// ReplySizeVaries says that its replies are as long as what is stored.
	ReplySizeVaries bool
	// Replies are the kinds that its replies may be of, errors apart. Zero: any.
	Replies Kinds
	// DenyOOM says that an engine without memory refuses it, as the flag denyoom does.
	DenyOOM bool
	// Writes says that a replica refuses it, as the flag write does.
	Writes bool
	// ReadOnlyForm is the command that does the same and may not write: "EVAL_RO". Empty: there is none.
	ReadOnlyForm string

	variant    func(args [][]byte) *Command // with some arguments it is another command
	repeatable bool                         // it may be asked again on another connection
	bearing    bool                         // what comes behind it would mean something else without it
	timeout    *timeout                     // of a command that can wait; nil: it can't
}

// Plain says that its requests may be sent behind one another without a closer look at each.
func (c *Command) Plain(shared bool) bool {
	return !c.Handled && !c.Unpipelined && !c.AnyDB && !c.ResetBeforeReuse && c.variant == nil && c.timeout == nil &&
		(c.Affinity == Shareable || c.Affinity == Dedicated && !shared)
}

// RunsScript says that it runs a script or function, which may take as long as it wants.
func (c *Command) RunsScript() bool { return c.Pin == PinScript }

// HasVariants says that its arguments have to be looked at: with some it is another command.
func (c *Command) HasVariants() bool { return c.variant != nil }

// With is the command that it is with these arguments, the first of which are its name.
func (c *Command) With(args [][]byte) *Command {
	if c.variant == nil {
		return c
	}
	return c.variant(args)
}

// Affinity is what kind of connection a command needs.
type Affinity uint8

const (
	Shareable         Affinity = iota // leaves nothing behind on its connection
	Dedicated                         // needs a dedicated one until what it has begun is over
	ChangesIdentity                   // changes for whom a connection may be: AUTH, HELLO, SELECT
	Resets                            // RESET
	Quits                             // QUIT
	DirtiesUntilReset                 // leaves what only RESET, or the end of the connection, undoes
	DirtiesForGood                    // leaves what only the end of the connection undoes, or what is not known
	PassesThrough                     // what follows it is not requests and replies
)

// Pin says why a client has a dedicated connection. The set is closed, so it may label a metric.
type Pin string

const (
	PinPath        Pin = "path" // the instance is not multiplexed
	PinTransaction Pin = "transaction"
	PinWatch       Pin = "watch"
	PinBlocking    Pin = "blocking"
	PinScript      Pin = "script"
	PinPubSub      Pin = "pubsub"
	PinMonitor     Pin = "monitor"
	PinTracking    Pin = "tracking"
	PinIdentity    Pin = "identity" // AUTH, HELLO, SELECT to where no connection is yet; who has not logged in
	PinState       Pin = "state"    // CLIENT REPLY, NO-EVICT, SCRIPT DEBUG and the like
	PinLarge       Pin = "large"    // a request too long to keep others waiting
	PinReplies     Pin = "replies"  // replies too long to keep others waiting, or that the client does not read
	PinPause       Pin = "pause"    // CLIENT PAUSE is in force
	PinWait        Pin = "wait"     // WAIT could not count what was written over a shared connection
	PinUnknown     Pin = "unknown"  // a command that this version does not know
	PinProtocol    Pin = "protocol" // what the engine is to call an error
)

// Pins are all of them.
var Pins = []Pin{PinPath, PinTransaction, PinWatch, PinBlocking, PinScript, PinPubSub, PinMonitor, PinTracking, PinIdentity,
	PinState, PinLarge, PinReplies, PinPause, PinWait, PinUnknown, PinProtocol}

package instance

import (
	"context"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/ledger"
)

// Runtime runs nodes. Calls for different nodes may be concurrent; those for one node are made one at a time.
// Every call is idempotent and may be retried after any error.
type Runtime interface {
	// Versions are the engine versions that can be run, the default first. It never changes.
	Versions() []string

	// Ensure makes the node run as specified: it adopts what runs already, starts what doesn't, applies the
	// gateway's snapshot, and returns nil once a connection from outside has shown that it serves it.
	// progress is told what is being waited for. An error that is ErrFatal will not go away by itself; one that is a
	// *BusyError says that all of it is so but what the engine itself would have to do.
	Ensure(ctx context.Context, node Node, progress func(string)) error

	// Stop ends the node's gateway and then its engine, which saves its data first. An engine that can't save, or doesn't
	// answer, stays up and Stop returns why, unless it is told to use force. A node that doesn't run is no error. It ends
	// within minutes.
	Stop(ctx context.Context, node Node, how StopOptions) error

	// Remove ends the node's processes and deletes its files.
	Remove(ctx context.Context, nodeID string) error

	// Exits tells of processes that ended without being told to. The channel is never closed.
	Exits() <-chan Exit
}

// StopOptions are how a node's engine is stopped.
type StopOptions struct {
	// Force ends an engine that doesn't stop otherwise: what it has not on disk is lost.
	Force bool
	// Progress is told what is waited for. nil: nobody is.
	Progress func(string)
}

func (o StopOptions) report(what string) {
	if o.Progress != nil {
		o.Progress(what)
	}
}

// EngineStopper is what a Runtime may have beside: to end a node's engine alone, so that Ensure starts another one.
type EngineStopper interface {
	// StopEngine is Stop without the gateway.
	StopEngine(ctx context.Context, node Node, how StopOptions) error
}

// BusyError says that a script or function runs in a node's engine for longer than its time limit, so that nobody is answered.
type BusyError struct {
	Since      time.Time
	Unkillable bool // the engine was asked to end it, and refused because it has written
}

func (e *BusyError) Error() string {
	return "a script or function has been running in the engine since " + e.Since.UTC().Format(time.RFC3339) + ", and no client is answered until it ends"
}

// Node is what a Runtime must know to run one node.
type Node struct {
	ID       string
	Instance Name // for messages
	Version  string

	Directives     map[string]string // of the engine's configuration
	PasswordHashes []string          // SHA-256 of the default user's passwords, hexadecimal; none for no password
	AdminPassword  string
	KeepDump       bool // persistence is on

	// MemoryLimit is at how many bytes the system is to end the engine, all of it and its children counted; 0: never.
	MemoryLimit int64

	Gateway gateway.Snapshot // Engine and Generation are the Runtime's to fill in
	Host    string
	Bundle  []byte // PEM: what a client trusts; nil without encryption
}

// Exit is the unexpected end of one of a node's processes.
type Exit struct {
	NodeID  string
	Process string // "engine" or "gateway"
	Reason  string
}

// Ledgerer is what a Runtime may have beside: what clients have shown to a node's gateway of the CAs that they trust.
type Ledgerer interface {
	// Ledger returns what the gateway has gathered since it started.
	Ledger(ctx context.Context, nodeID string) (ledger.Ledger, error)
}

// GatewayStatuser is what a Runtime may have beside: the state of a node's gateway, for metrics.
type GatewayStatuser interface {
	GatewayStatus(ctx context.Context, nodeID string) (gateway.Status, error)
}

package instance

import (
	"context"

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
	// progress is told what is being waited for. An error that is ErrFatal will not go away by itself.
	Ensure(ctx context.Context, node Node, progress func(string)) error

	// Stop ends the node's gateway and then its engine, which saves its data first. When the engine can't
	// save it stays up and Stop returns why. A node that doesn't run is no error.
	Stop(ctx context.Context, node Node) error

	// Remove ends the node's processes and deletes its files.
	Remove(ctx context.Context, nodeID string) error

	// Exits tells of processes that ended without being told to. The channel is never closed.
	Exits() <-chan Exit
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

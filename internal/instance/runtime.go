package instance

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"time"

	"github.com/sealane/sealane/internal/failover"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/plaintext"
)

// Runtime runs nodes. Calls for different nodes may be concurrent; those for one node are made one at a time.
// Every call is idempotent and may be retried after any error.
type Runtime interface {
	// Engines are the engines that can be run, the default first. It never changes.
	Engines() []EngineBuild

	// Ensure makes the node run as specified. It adopts the processes that run already, starts those that don't, applies the
	// gateway's snapshot, and returns nil once a connection from outside has shown that the gateway serves that snapshot.
	// progress is called with what is being waited for. An error that is ErrFatal will not go away by itself. A *BusyError says that
	// everything is done, except for what the engine would have to do itself.
	Ensure(ctx context.Context, node Node, progress func(string)) error

	// Stop ends the node's gateway and then its engine, which saves its data first. An engine that can't save its data, or doesn't
	// answer, stays up, and Stop returns why; with force it is killed. That a node doesn't run is no error. Stop returns within
	// minutes.
	Stop(ctx context.Context, node Node, how StopOptions) error

	// Remove ends the node's processes and deletes its files.
	Remove(ctx context.Context, nodeID string) error

	// Exits reports processes that ended although nobody had asked for it. The channel is never closed.
	Exits() <-chan Exit
}

// EngineBuild is an engine that is installed.
type EngineBuild struct {
	Version      string // as the API names it: REDIS_7_0
	Patch        string // as the engine names itself: 7.0.15
	ActiveDefrag bool   // whether it was built so that it accepts activedefrag
	TLS          bool   // whether it was built with TLS, which replication between nodes needs
}

// EngineInfoReader is an optional part of a Runtime: it asks a node's engine for INFO.
type EngineInfoReader interface {
	// EngineInfo returns the fields of INFO's sections with these names. The error is ErrNoEngine where no engine runs.
	EngineInfo(ctx context.Context, nodeID string, sections ...string) (map[string]string, error)
}

// ErrNoEngine says that a node has no engine that could be asked.
var ErrNoEngine = errors.New("the engine does not run")

// StopOptions are how a node's engine is stopped.
type StopOptions struct {
	// Force kills an engine that doesn't stop otherwise. What it has not saved is lost.
	Force bool
	// Progress, if any, is called with what is being waited for.
	Progress func(string)
}

// Report calls Progress, if there is one.
func (o StopOptions) Report(what string) {
	if o.Progress != nil {
		o.Progress(what)
	}
}

// EngineStopper is an optional part of a Runtime: it ends a node's engine alone, so that Ensure starts another one.
type EngineStopper interface {
	// StopEngine is Stop without the gateway.
	StopEngine(ctx context.Context, node Node, how StopOptions) error
}

// Slots is how many places besides the first a node has for its engines.
const Slots = 2

// DataSource opens the RDB file whose data an engine is to have. size is how many bytes it has; 0: not known. The errors of what it
// returns are for users. Its io.EOF says that the file is whole.
type DataSource func(ctx context.Context) (file io.ReadCloser, size int64, err error)

// EngineReplacer is an optional part of a Runtime: it replaces a node's engine by another one, while clients stay connected. Its errors
// are an *Error where a user may read them.
type EngineReplacer interface {
	// ReplaceEngine starts the engine that to describes beside the one of from, which Ensure has brought up, gives it the data, and
	// moves the clients there. They are held for a moment; held is how long. The data are those of the present engine, or of a file.
	// After an error the clients are on the present engine, with all its data, and nothing of the new one is left. After nil they
	// are on the new one, and the next Ensure, for to, removes the other.
	ReplaceEngine(ctx context.Context, from, to Node, data DataSource, progress func(string)) (held time.Duration, err error)

	// ServedSlot is the slot of the engine that the node's clients are on, whether its processes run or not.
	ServedSlot(nodeID string) (int, error)
}

// EngineDumper is an optional part of a Runtime: it gives out an engine's data as an RDB file.
type EngineDumper interface {
	// DumpEngine calls write with the file, which is made while it is read. Its io.EOF says that it is whole. The errors are those of
	// write, and an *Error where a user may read them.
	DumpEngine(ctx context.Context, node Node, write func(context.Context, io.Reader) error) error
}

// BusyError says that a script or function has been running in a node's engine for longer than its time limit, so that the engine
// answers no client.
type BusyError struct {
	Since      time.Time
	Unkillable bool // the engine was asked to end the script, and refused because the script has written
}

func (e *BusyError) Error() string {
	return "a script or function has been running in the engine since " + e.Since.UTC().Format(time.RFC3339) + ", and no client is answered until it ends"
}

// Replicator is an optional part of a Runtime: it runs instances that have several nodes. Ensure, which is for a node with engine and
// gateway, is not called for theirs.
type Replicator interface {
	// EnsureEngine is Ensure for a node's engine alone. It follows the primary, or takes writes, as the node's Replication says.
	EnsureEngine(ctx context.Context, node Node, progress func(string)) error
	// EnsureGateway is Ensure for a node's gateway alone.
	EnsureGateway(ctx context.Context, node Node, progress func(string)) error
	// ApplyGateway gives a node's gateway its snapshot, and proves nothing. After an error the gateway is known not to serve it, now or
	// later.
	ApplyGateway(ctx context.Context, node Node) error
	// MoveClients makes the clients of a node's gateway, which has served before, go on with another engine. Nothing else of its snapshot
	// changes. After an error it is not known which engine they are on.
	MoveClients(ctx context.Context, node Node, to EngineRef) error
	// StopGateway ends a node's gateway, after it has drained its clients.
	StopGateway(ctx context.Context, nodeID string) error
	// OfferGateway is ApplyGateway where the gateway need not take the snapshot: one that doesn't answer before ctx ends is left alone.
	OfferGateway(ctx context.Context, node Node) error
	// ServedEngine is the engine that the clients of a node's gateway are on, whether the processes run or not; see EngineReplacer.
	ServedEngine(nodeID string) (EngineRef, error)

	// ObserveEngine looks at a node's engine, and returns within a fraction of a second whatever that does.
	ObserveEngine(ctx context.Context, node Node) failover.Observation
	// KillEngine ends a node's engine at once. ForgetData removes its data from the disk.
	KillEngine(ctx context.Context, node Node) error
	ForgetData(ctx context.Context, node Node) error
	// RestoreDump gives a primary that does not run the newest snapshot of all nodes, unless it has one of its own that was made since a time.
	// It returns whose that is, "" where the primary's own is to be loaded.
	RestoreDump(ctx context.Context, primary Node, others []Node, since time.Time) (from string, err error)
	// EngineBuild is which engine a node runs. The error is ErrNoEngine where it runs none.
	EngineBuild(ctx context.Context, node Node) (EngineBuild, error)
	// RemoveOtherEngines removes what is left of engines that were replaced. The endpoint's gateway serves none of them.
	RemoveOtherEngines(ctx context.Context, node Node) error
	// PromoteEngine makes a node's engine take writes, and FollowEngine makes it a replica of the engine at an address.
	PromoteEngine(ctx context.Context, node Node) error
	FollowEngine(ctx context.Context, node Node, primary netip.AddrPort) error
	// RefuseWrites makes a node's engine refuse all writes, or take them again.
	RefuseWrites(ctx context.Context, node Node, refuse bool) error
	// HoldClients keeps the requests of the clients of a node's gateway back. Its error is failover.ErrBusy where one was under way for
	// too long. ReleaseClients lets them go on.
	HoldClients(ctx context.Context, nodeID string, limit time.Duration) error
	ReleaseClients(ctx context.Context, nodeID string) error
}

// EngineRef is an engine of a node.
type EngineRef struct {
	NodeID string
	Slot   int
}

// NodeReplication is what a node needs as one of several.
type NodeReplication struct {
	Address netip.AddrPort // where its gateway lets replicas in while its engine is the primary
	Primary netip.AddrPort // where its engine replicates from; the zero value: it is the primary
	// Certificate and PrivateKey are for both ends of replication, and Authorities are the CAs by which each verifies the other, in PEM.
	Certificate, PrivateKey, Authorities []byte
	Identity                             string // the URI that a certificate must be for
	Password                             string // of the engines' user for replication
	Backlog                              int64  // bytes of changes that are kept for replicas whose link was broken
}

// Node is what a Runtime must know to run one node.
type Node struct {
	ID       string
	Instance Name // for messages
	Version  string
	Patch    string // of the version, as EngineBuild.Patch: to be preferred where it is installed; "": the newest
	Slot     int    // where among the places for a node's engines this one is

	Directives     map[string]string // of the engine's configuration
	PasswordHashes []string          // SHA-256 of the default user's passwords, hexadecimal; none for no password
	AdminPassword  string
	KeepDump       bool // persistence is on

	// MemoryLimit is at how many bytes, its child processes included, the system is to end the engine; 0: never.
	MemoryLimit int64
	// NetworkNamespace is the file of the network namespace that the node's processes are started in; "": the server's own.
	NetworkNamespace string

	// Replication is for a node that is one of several; nil: it is the only one.
	Replication *NodeReplication
	// Serves is the engine that the gateway's clients are on; nil: the node's own.
	Serves *EngineRef

	// Front is the node whose gateway leads clients to the engine; nil: this one.
	Front *Node

	// Gateway is what the gateway is given; the Runtime fills in Engine, Replication and Generation. Without Listeners it serves no clients. With a Backend in it the node has no engine.
	Gateway gateway.Snapshot
	Host    string
	Bundle  []byte // PEM: what a client trusts; nil without encryption
}

// Exit is the unexpected end of one of a node's processes.
type Exit struct {
	NodeID  string
	Process string // "engine" or "gateway"
	Reason  string
}

// Ledgerer is an optional part of a Runtime: it says what clients have shown to a node's gateway of the CAs that they trust.
type Ledgerer interface {
	// Ledger returns what the gateway has gathered since it started.
	Ledger(ctx context.Context, nodeID string) (ledger.Ledger, error)
}

// PlaintextReader is an optional part of a Runtime: it says which clients of a node have no TLS.
type PlaintextReader interface {
	// PlaintextClients returns what the gateway has gathered since it started.
	PlaintextClients(ctx context.Context, nodeID string) (plaintext.Account, error)
}

// GatewayStatuser is an optional part of a Runtime: it says how a node's gateway is, for metrics and the data plane.
type GatewayStatuser interface {
	GatewayStatus(ctx context.Context, nodeID string) (gateway.Status, error)
}

package gateway

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/sealane/sealane/internal/plaintext"
	"github.com/sealane/sealane/internal/process"
	"github.com/sealane/sealane/internal/replicationlink"
	"github.com/sealane/sealane/internal/routing"
	"github.com/sealane/sealane/internal/systemmemory"
)

// Status is what a gateway says about itself. Counters count from Started.
type Status struct {
	// Generation and Digest are those of the snapshot that serves; 0 and "" when none does.
	Generation uint64    `json:"generation"`
	Digest     string    `json:"digest"`
	Started    time.Time `json:"started"`
	Listening  []string  `json:"listening"` // sorted
	// Engine is the path of the engine's socket in the snapshot that serves.
	Engine string `json:"engine,omitempty"`
	// Hold says that clients' requests are kept from the engine. Nil: they are not.
	Hold *HoldStatus `json:"hold,omitempty"`
	// Moved counts the clients that went on when the engine was replaced by another one, MovedLost those that were disconnected by it.
	Moved     uint64 `json:"moved,omitempty"`
	MovedLost uint64 `json:"moved_lost,omitempty"`
	// Problem is why the gateway does not serve what it should. "": it does.
	Problem string `json:"problem"`
	// Warning is what an operator should know although the gateway serves what it should. "": nothing.
	Warning     string `json:"warning,omitempty"`
	Connections int64  `json:"connections"` // open now, silent ones too
	Accepted    uint64 `json:"accepted"`
	// Clients is how many clients are served, Limit how many can be. LimitedBy says what makes Limit less than Snapshot.MaxClients.
	Clients   int64  `json:"clients"`
	Limit     int64  `json:"limit"`
	LimitedBy string `json:"limited_by,omitempty"`
	// Unserved are the open connections that are not served yet.
	Unserved Unserved `json:"unserved"`
	// Rejected counts the connections that there was no room for, RejectedBy the same by reason. limit: the maximum of clients is
	// reached, which the client was told. crowded: too many connections were not served yet. silent: it had sent nothing, and was
	// closed for a newer one. The others had sent a ClientHello or a part of it. shed: it waited for its turn, and was closed for a newer
	// one. late: it had no turn in time. stalled: the client took long over the rest.
	Rejected   uint64            `json:"rejected"`
	RejectedBy map[string]uint64 `json:"rejected_by"`
	// Handshakes counts TLS handshakes by result: tls1.2, tls1.3, failed, timeout.
	Handshakes map[string]uint64 `json:"handshakes"`
	// Completed counts the successful ones in detail. Kinds that never occurred are left out.
	Completed []Completed `json:"completed"`
	// Failures counts the failed ones and the timeouts, by class (see handshakefailure.go).
	Failures  map[string]uint64 `json:"failures"`
	Admission Admission         `json:"admission"`
	// Diagnosed counts the clients that spoke the wrong protocol and were told so, by what they spoke: plaintext_resp, inline, http,
	// sslv2, garbage, tls_on_plaintext.
	Diagnosed map[string]uint64 `json:"diagnosed"`
	// Ledger is about the evidence of clients' trust. Nil: the gateway is of a version that does not gather any.
	Ledger *LedgerStatus `json:"ledger,omitempty"`
	// Memory is about the instance's memory. Nil: the gateway is of a version that does not look at it.
	Memory *systemmemory.Usage `json:"memory,omitempty"`
	// RefusedOOM counts the commands that were refused because the memory was used up.
	RefusedOOM uint64 `json:"refused_oom,omitempty"`
	// Plaintext counts the clients without TLS. Nil: the gateway is of a version that does not.
	Plaintext *plaintext.Counts `json:"plaintext,omitempty"`
	// Replication is who replicates from an engine of this node. Nil: nobody can.
	Replication *replicationlink.Status `json:"replication,omitempty"`
	// Resident is the resident memory of the process in bytes, PerConnection that divided by Connections.
	Resident      uint64 `json:"resident"`
	PerConnection uint64 `json:"per_connection"`
	// EngineUnreachable counts the clients that were told that the engine does not answer.
	EngineUnreachable uint64 `json:"engine_unreachable"`
	// BytesIn counts the bytes from clients to the engine, BytesOut those to clients, both without TLS.
	BytesIn  uint64 `json:"bytes_in"`
	BytesOut uint64 `json:"bytes_out"`
	// Commands counts the requests of clients, by the engine connection that carried them: shared, or own (dedicated to one client).
	Commands map[string]uint64 `json:"commands"`
	// Pins counts how often a client got an engine connection of its own, by reason. The reason path is that the instance is not
	// multiplexed.
	Pins map[routing.Pin]uint64 `json:"pins"`
	// TimedOut counts the clients that were closed because they were idle for too long, and the connections on which nothing ever came.
	TimedOut uint64 `json:"timed_out"`
}

// HoldStatus is a hold that is on. It ends by itself at Until.
type HoldStatus struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
}

// memory is Memory, or zero.
func (s Status) memory() systemmemory.Usage {
	if s.Memory == nil {
		return systemmemory.Usage{}
	}
	return *s.Memory
}

// Completed counts handshakes of one kind.
type Completed struct {
	Version string `json:"version"` // 1.2 or 1.3
	// Group is the key exchange, as in Snapshot.Groups; for a resumed session of TLS 1.2, that of its first handshake. none: not known.
	Group   string `json:"group"`
	Resumed bool   `json:"resumed"`
	Count   uint64 `json:"count"`
}

// Admission is how many clients wait for their handshakes.
type Admission struct {
	Admitted uint64 `json:"admitted"` // handshakes that have begun, since Status.Started
	Begun    int64  `json:"begun"`    // handshakes under way now
	Waiting  int64  `json:"waiting"`  // clients that wait for theirs to begin, now
	GaveUp   uint64 `json:"gave_up"`  // clients that hung up while they waited, since Status.Started
}

func (g *gateway) status() Status {
	relayed := g.loops.Counts()
	st := Status{
		Commands:          map[string]uint64{"shared": relayed.Shared, "own": relayed.Dedicated},
		Pins:              relayed.Pins,
		Moved:             relayed.Moved,
		MovedLost:         relayed.MovedLost,
		TimedOut:          relayed.TimedOut + g.count.timedOut.Load(),
		Started:           g.started,
		Accepted:          g.count.accepted.Load(),
		EngineUnreachable: g.count.unreachable.Load(),
		BytesIn:           relayed.In,
		BytesOut:          relayed.Out,
		Clients:           g.limit.served.Load(),
		Admission:         g.acceptor.admission(),
		Ledger:            g.trust.status(),
		Resident:          uint64(process.Resident()),
	}
	memory := g.memory.Usage()
	st.Memory, st.RefusedOOM = &memory, relayed.Refused
	plain := g.plaintext.Counts()
	st.Plaintext = &plain
	var versions [2]uint64
	var failed uint64
	st.Completed, versions = g.count.handshakes()
	st.Failures, failed = g.count.failures.load()
	late := st.Failures[failTimeout.class]
	st.Handshakes = map[string]uint64{"tls1.2": versions[0], "tls1.3": versions[1], "failed": failed - late, "timeout": late}
	st.Diagnosed, _ = g.count.diagnosed.load()
	st.RejectedBy, st.Rejected = g.limit.rejected.load()
	if v := g.snapshots.active.Load(); v != nil {
		st.Generation, st.Digest, st.Engine = v.snapshot.Generation, v.digest, v.snapshot.Engine
		st.Limit, st.LimitedBy = g.limit.limit(v.snapshot)
		st.Unserved = g.arrivals.unserved(g.limit.unserved(v.snapshot))
		if v.snapshot.Replication != nil {
			replicas := g.replication.Status()
			st.Replication = &replicas
		}
		st.Warning = cmp.Or(memory.Warning(), g.arrivals.warning(time.Now()))
		if g.lifetime.accepting.Err() == nil {
			st.Listening = slices.Collect(maps.Keys(v.modes))
		}
	}
	if h := g.loops.HoldState(); !h.Since.IsZero() {
		st.Hold = &HoldStatus{h.Since, h.Until}
	}
	slices.Sort(st.Listening)
	if problem := g.snapshots.problem.Load(); problem != nil {
		st.Problem = *problem
	}
	if st.Connections = int64(g.connections.len()); st.Connections > 0 {
		st.PerConnection = st.Resident / uint64(st.Connections)
	}
	return st
}

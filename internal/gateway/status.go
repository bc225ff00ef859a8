package gateway

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/routing"
)

// Status is what a gateway says about itself. Counters count from Started.
type Status struct {
	// Generation and Digest are those of the snapshot that serves; 0 and "" when none does.
	Generation uint64    `json:"generation"`
	Digest     string    `json:"digest"`
	Started    time.Time `json:"started"`
	Listening  []string  `json:"listening"` // sorted
	// Problem is why it does not serve what it should; "" when all is well.
	Problem string `json:"problem"`
	// Warning is what an operator should know although it serves as it should; "": nothing.
	Warning     string `json:"warning,omitempty"`
	Connections int64  `json:"connections"` // open now, silent ones too
	Accepted    uint64 `json:"accepted"`
	// Clients are those that are served, Limit how many can be; LimitedBy says why it is less than the snapshot's.
	Clients   int64  `json:"clients"`
	Limit     int64  `json:"limit"`
	LimitedBy string `json:"limited_by,omitempty"`
	// Unserved are those of the connections that are no clients yet.
	Unserved Unserved `json:"unserved"`
	// Rejected are those that there was no room for, RejectedBy them by reason: limit (max clients, told so), crowded (too
	// many on their way in), silent (closed for a newer one, had sent nothing), and of those that had begun their handshake shed
	// (it waited for its turn, and was closed for a newer one), late (no turn in time), stalled (the client took long over the rest).
	Rejected   uint64            `json:"rejected"`
	RejectedBy map[string]uint64 `json:"rejected_by"`
	// Handshakes by result: tls1.2, tls1.3, failed, timeout.
	Handshakes map[string]uint64 `json:"handshakes"`
	// Completed are the successful ones in detail; those that never happened are left out.
	Completed []Completed `json:"completed"`
	// Failures are the failed ones, timeouts too, by class.
	Failures  map[string]uint64 `json:"failures"`
	Admission Admission         `json:"admission"`
	// Diagnosed are the clients turned away, by what they spoke: plaintext_resp, inline, http, sslv2, garbage,
	// tls_on_plaintext.
	Diagnosed map[string]uint64 `json:"diagnosed"`
	// Ledger is nil of gateways that don't know of anchors.
	Ledger *LedgerStatus `json:"ledger,omitempty"`
	// Resident is the memory of the process in bytes, PerConnection its part for each.
	Resident      uint64 `json:"resident"`
	PerConnection uint64 `json:"per_connection"`
	// EngineUnreachable are the clients turned away because the engine did not answer.
	EngineUnreachable uint64 `json:"engine_unreachable"`
	// BytesIn are those from clients to the engine, BytesOut the others; plaintext, without TLS's own.
	BytesIn  uint64 `json:"bytes_in"`
	BytesOut uint64 `json:"bytes_out"`
	// Commands are the requests of clients by the engine connection that carried them: shared, own.
	Commands map[string]uint64 `json:"commands"`
	// Pins are how often a client got an engine connection of its own, by reason; path is that the instance is not
	// multiplexed.
	Pins map[routing.Pin]uint64 `json:"pins"`
	// TimedOut are the clients closed because they were idle for too long, and connections on which nothing ever came.
	TimedOut uint64 `json:"timed_out"`
}

// Completed counts handshakes of one kind.
type Completed struct {
	Version string `json:"version"` // 1.2 or 1.3
	Group   string `json:"group"`   // as in Snapshot.Groups; of a session of TLS 1.2 that was resumed, the first one's; none: not known
	Resumed bool   `json:"resumed"`
	Count   uint64 `json:"count"`
}

// Admission is how clients wait for their handshakes.
type Admission struct {
	Admitted uint64 `json:"admitted"` // have begun theirs
	Begun    int64  `json:"begun"`    // are in theirs now
	Waiting  int64  `json:"waiting"`  // wait for it to begin now
	GaveUp   uint64 `json:"gave_up"`  // hung up while they waited
}

// resident is the memory of this process, 0 if it is not known.
func resident() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(fields[1], 10, 64)
	return pages * uint64(os.Getpagesize())
}

func (g *gateway) status() Status {
	relayed := g.loops.Counts()
	st := Status{
		Commands:          map[string]uint64{"shared": relayed.Shared, "own": relayed.Own},
		Pins:              relayed.Pins,
		TimedOut:          relayed.TimedOut + g.count.timedOut.Load(),
		Started:           g.started,
		Accepted:          g.count.accepted.Load(),
		EngineUnreachable: g.count.unreachable.Load(),
		BytesIn:           relayed.In,
		BytesOut:          relayed.Out,
		Clients:           g.limit.served.Load(),
		Admission:         g.door.admission(),
		Ledger:            g.trust.status(),
		Resident:          resident(),
	}
	var versions [2]uint64
	var failed uint64
	st.Completed, versions = g.count.handshakes()
	st.Failures, failed = g.count.failures.load()
	late := st.Failures[failTimeout.class]
	st.Handshakes = map[string]uint64{"tls1.2": versions[0], "tls1.3": versions[1], "failed": failed - late, "timeout": late}
	st.Diagnosed, _ = g.count.diagnosed.load()
	st.RejectedBy, st.Rejected = g.limit.rejected.load()
	if v := g.snapshots.active.Load(); v != nil {
		st.Generation, st.Digest = v.snapshot.Generation, v.digest
		st.Limit, st.LimitedBy = g.limit.limit(v.snapshot)
		st.Unserved, st.Warning = g.arrivals.unserved(g.limit.unserved(v.snapshot)), g.arrivals.warning(time.Now())
		if g.lifetime.accepting.Err() == nil {
			st.Listening = slices.Collect(maps.Keys(v.modes))
		}
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

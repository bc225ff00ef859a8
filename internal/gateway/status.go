package gateway

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// Status is what a gateway says about itself. Counters count from Started.
type Status struct {
	// Generation and Digest are those of the snapshot that serves; 0 and "" when none does.
	Generation uint64    `json:"generation"`
	Digest     string    `json:"digest"`
	Started    time.Time `json:"started"`
	Listening  []string  `json:"listening"` // sorted
	// Problem is why it does not serve what it should; "" when all is well.
	Problem     string `json:"problem"`
	Connections int64  `json:"connections"` // open now, silent ones too
	Accepted    uint64 `json:"accepted"`
	// Clients are those that are served, Limit how many can be; LimitedBy says why it is less than the snapshot's.
	Clients   int64  `json:"clients"`
	Limit     int64  `json:"limit"`
	LimitedBy string `json:"limited_by,omitempty"`
	// Rejected are those that there was no room for.
	Rejected uint64 `json:"rejected"`
	// Handshakes by result: tls1.2, tls1.3, failed, timeout.
	Handshakes map[string]uint64 `json:"handshakes"`
	// Diagnosed are the clients turned away, by what they spoke: plaintext_resp, inline, http, garbage, tls_on_plaintext.
	Diagnosed map[string]uint64 `json:"diagnosed"`
	// EngineUnreachable are the clients turned away because the engine did not answer.
	EngineUnreachable uint64 `json:"engine_unreachable"`
	// BytesIn are those from clients to the engine, BytesOut the others; plaintext, without TLS's own.
	BytesIn  uint64 `json:"bytes_in"`
	BytesOut uint64 `json:"bytes_out"`
}

type counters struct {
	accepted, unreachable         atomic.Uint64
	tls12, tls13, failed, timeout atomic.Uint64
	resp, inline, http, garbage   atomic.Uint64
	tlsOnPlaintext                atomic.Uint64
	bytesIn, bytesOut             atomic.Uint64
}

func (c *counters) diagnosed(k kind) *atomic.Uint64 {
	switch k {
	case plaintextRESP:
		return &c.resp
	case inline:
		return &c.inline
	case http1:
		return &c.http
	case tlsOnPlaintext:
		return &c.tlsOnPlaintext
	default:
		return &c.garbage
	}
}

func (g *gateway) status() Status {
	st := Status{
		Started:  g.started,
		Accepted: g.count.accepted.Load(),
		Handshakes: map[string]uint64{
			"tls1.2": g.count.tls12.Load(), "tls1.3": g.count.tls13.Load(),
			"failed": g.count.failed.Load(), "timeout": g.count.timeout.Load(),
		},
		Diagnosed:         make(map[string]uint64),
		EngineUnreachable: g.count.unreachable.Load(),
		BytesIn:           g.count.bytesIn.Load(),
		BytesOut:          g.count.bytesOut.Load(),
		Clients:           g.limit.served.Load(),
		Rejected:          g.limit.rejected.Load(),
	}
	for _, k := range kinds {
		st.Diagnosed[string(k)] = g.count.diagnosed(k).Load()
	}
	if v := g.active.Load(); v != nil {
		st.Generation, st.Digest = v.snapshot.Generation, v.digest
		st.Limit, st.LimitedBy = g.limit.limit(v.snapshot)
		if g.accepting.Err() == nil {
			st.Listening = slices.Collect(maps.Keys(v.modes))
		}
	}
	slices.Sort(st.Listening)
	g.mu.Lock()
	defer g.mu.Unlock()
	st.Connections, st.Problem = int64(len(g.conns)), g.problem
	return st
}

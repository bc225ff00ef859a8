package gateway

import (
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	memoryPace = 10 * time.Second
	// The process gives memory back when it holds more than it needs by memorySlack bytes, and by one part in memorySlackPart of what it
	// holds.
	memorySlack     = 8 << 20
	memorySlackPart = 5
)

// releaseMemory returns memory to the system after a burst of requests or handshakes. Without it an idle process would never collect its
// garbage, and while connections stay open for days the process would hold what their handshakes took.
func (g *gateway) releaseMemory() {
	tick := time.NewTicker(memoryPace)
	defer tick.Stop()
	sample := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},                // at the end of the last collection
		{Name: "/memory/classes/heap/objects:bytes"}, // now, with the garbage
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	// After the last release: what was still held, and what the loops had freed by then.
	var collected, freed uint64
	for {
		select {
		case <-tick.C:
		case <-g.lifetime.accepting.Done():
			return
		}
		live, held := readHeap(sample)
		slack := held - min(live, held)
		unaccounted := g.loops.Freed() - freed // live still counts it, because there was no collection since
		if unaccounted < memorySlack && (slack < memorySlack || slack < held/memorySlackPart || held == collected) {
			continue
		}
		freed += unaccounted
		debug.FreeOSMemory()
		// What is left now is fragmentation: trying again would not help.
		_, collected = readHeap(sample)
	}
}

func readHeap(sample []metrics.Sample) (live, held uint64) {
	metrics.Read(sample)
	for _, s := range sample[1:] {
		held += s.Value.Uint64()
	}
	return sample[0].Value.Uint64(), held
}

// memoryLimits is how much memory the engine and this process may use together, and where the engine listens.
func (g *gateway) memoryLimits() (total int64, engine string) {
	v := g.snapshots.active.Load()
	if v == nil {
		return 0, ""
	}
	return v.snapshot.SystemMemory, v.snapshot.Engine
}

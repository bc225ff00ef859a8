package gateway

import (
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	memoryPace = 10 * time.Second
	// memorySlack is what the process may hold beyond what it needs before it gives memory back, in bytes and as a part
	// of the whole.
	memorySlack     = 8 << 20
	memorySlackPart = 5
)

// giveBack returns memory to the system after a burst or a wave of handshakes: an idle process would never collect
// its garbage otherwise, and connections that stay open for days would hold what their handshakes took.
func (g *gateway) giveBack() {
	tick := time.NewTicker(memoryPace)
	defer tick.Stop()
	sample := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},                // at the end of the last collection
		{Name: "/memory/classes/heap/objects:bytes"}, // now, with the garbage
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	var collected, freed uint64 // what was held, and freed, when this was last done
	for {
		select {
		case <-tick.C:
		case <-g.lifetime.accepting.Done():
			return
		}
		live, held := readHeap(sample)
		slack := held - min(live, held)
		unaccounted := g.loops.Freed() - freed // live still has it: no collection has come since
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

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
	var collected uint64 // live, when this was last done
	for {
		select {
		case <-tick.C:
		case <-g.accepting.Done():
			return
		}
		metrics.Read(sample)
		live, held := sample[0].Value.Uint64(), sample[1].Value.Uint64()+sample[2].Value.Uint64()+sample[3].Value.Uint64()
		slack := held - min(live, held)
		if slack > memorySlack && slack > held/memorySlackPart && held != collected {
			debug.FreeOSMemory()
			metrics.Read(sample)
			// What is left now is fragmentation: trying again would not help.
			collected = sample[1].Value.Uint64() + sample[2].Value.Uint64() + sample[3].Value.Uint64()
		}
	}
}

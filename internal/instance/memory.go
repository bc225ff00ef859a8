package instance

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

const (
	gib = 1 << 30
	// baseMemory is room for the program itself, its threads and scripts, and for tables that maxmemory doesn't count.
	baseMemory = gib / 2
	// systemBase is what small instances have beside a quarter of their size: for the gateway, and some thousand connections with TLS.
	systemBase = gib / 4
	// minClientMemory is the least room for clients' buffers. One request may have 512 MiB, and its reply as well; and there has
	// to be room for a few dozen clients that read large values slowly.
	minClientMemory = 3 * gib
)

// maxAsked keeps the sum from overflowing. Whoever asks for more has no bound in practice.
const maxAsked = 1 << 50

// maxMemory is the engine's maxmemory, in bytes.
func (s Spec) maxMemory() int64 {
	n, _ := strconv.ParseInt(s.directives()["maxmemory"], 10, 64) // it is a number of our own
	return n
}

// clientMemory is room for the buffers of clients. When they need more, the engine disconnects the clients with the largest buffers
// (maxmemory-clients), which engines before 7.0 can't.
func clientMemory(maxMemory int64) int64 { return max(minClientMemory, maxMemory/4) }

// memoryLimit is at how much memory the system ends the engine. It bounds what maxmemory doesn't: scripts, buffers, bugs. It is twice
// maxmemory, because the process that writes a snapshot copies what changes meanwhile, at worst all of it, and because memory is
// fragmented; and to that comes what clients and the program need.
func (s Spec) memoryLimit() int64 {
	maxMemory := s.maxMemory()
	text, percent := strings.CutSuffix(s.RedisConfigs["maxmemory-clients"], "%")
	asked, _ := strconv.ParseInt(text, 10, 64) // 0, which is no limit, has the same room as none asked for
	if percent {
		asked = maxMemory / 100 * asked
	}
	limit := 2*maxMemory + max(clientMemory(maxMemory), min(asked, maxAsked)) + baseMemory
	// maxmemory may be much less than the size. Writes are to be refused before the engine is ended, whatever one request takes.
	return max(limit, s.systemMemory()+gib)
}

// systemMemory is what the engine, its snapshots and the gateway may use together, before requests that need memory are refused. It
// follows from the size that was asked for, as in the managed service, so a lower maxmemory-gb leaves more of it for the rest.
func (s Spec) systemMemory() int64 {
	size := int64(s.MemorySizeGB) * gib
	return size + size/4 + systemBase
}

// EngineMemory is the bound that the system keeps of a node's engine.
type EngineMemory struct {
	Limit   int64  // in bytes, of all that it has; 0: none
	By      string // what keeps it: "cgroup v2", "cgroup v1" or "RLIMIT_DATA"
	Problem string // why there is none, or a weaker one than a cgroup's; "" where there is nothing to say
}

// EngineMemoryReader is an optional part of a Runtime: it says what bounds a node's engine.
type EngineMemoryReader interface {
	EngineMemory(ctx context.Context, nodeID string) (EngineMemory, error)
}

// SizeText writes a number of bytes for people.
func SizeText(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/gib) }

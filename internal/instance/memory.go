package instance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/process"
)

const (
	gib = 1 << 30
	// baseMemory is room for the program itself, its threads and scripts, and for tables that maxmemory doesn't count.
	baseMemory = gib / 2
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
	return 2*maxMemory + max(clientMemory(maxMemory), min(asked, maxAsked)) + baseMemory
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

// groupFile holds the folder of a node's cgroup, so that whichever server sees the engine's end can remove it.
const groupFile = "engine.cgroup"

// boundMemory bounds the engine's memory, once.
func (l *Local) boundMemory(n *localNode, node Node) {
	n.boundMu.Lock()
	defer n.boundMu.Unlock()
	if n.bounded || node.MemoryLimit == 0 {
		return
	}
	n.bounded = true
	n.bound = n.engine.BoundMemory(node.ID, node.MemoryLimit)
	file := filepath.Join(l.nodeDir(node.ID), groupFile)
	if have, err := os.ReadFile(file); n.bound.Group != "" && (err != nil || string(have) != n.bound.Group) {
		// Where the disk is full and this server ends before the engine does, an empty group stays behind.
		_ = durable.WriteFile(file, []byte(n.bound.Group), 0o600)
	}
}

// EngineMemory implements EngineMemoryReader.
func (l *Local) EngineMemory(_ context.Context, nodeID string) (EngineMemory, error) {
	n := l.node(nodeID)
	n.boundMu.Lock()
	defer n.boundMu.Unlock()
	if !n.bounded {
		return EngineMemory{Problem: "the engine does not run yet"}, nil
	}
	return EngineMemory{Limit: n.bound.Limit, By: n.bound.By, Problem: n.bound.Problem}, nil
}

// outOfMemory says why an engine has ended, if it was for want of memory.
func outOfMemory(dir string, b process.MemoryBound) string {
	switch {
	case b.OutOfMemory():
		return fmt.Sprintf("killed by the system (OOM): it needed more memory than its bound of %s, which is kept by %s", sizeText(b.Limit), b.By)
	case b.By == "RLIMIT_DATA" && engine.OutOfMemory(dir):
		return fmt.Sprintf("out of memory: it needed more than its bound of %s, which is kept by %s", sizeText(b.Limit), b.By)
	}
	return ""
}

func sizeText(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/gib) }

// removeGroup removes the group that boundMemory has made, once the engine has ended. While a process that writes a snapshot is
// still alive it can't be removed; then the next call does it.
func (l *Local) removeGroup(nodeID string) {
	file := filepath.Join(l.nodeDir(nodeID), groupFile)
	if dir, err := os.ReadFile(file); err == nil && process.RemoveGroup(string(dir)) == nil {
		os.Remove(file)
	}
}

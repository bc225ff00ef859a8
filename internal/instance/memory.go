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
	// baseMemory is room for the program, its threads, scripts and tables that count for nobody.
	baseMemory = gib / 2
	// minClientMemory is the least room for clients' buffers. One request may have 512 MiB, and its reply too; and a few dozen
	// clients that read large values slowly are to get them.
	minClientMemory = 3 * gib
)

// maxAsked keeps the sum from overflowing: who asks for more has no bound to speak of.
const maxAsked = 1 << 50

// maxMemory is the engine's maxmemory, in bytes.
func (s Spec) maxMemory() int64 {
	n, _ := strconv.ParseInt(s.directives()["maxmemory"], 10, 64) // it is a number of our own
	return n
}

// clientMemory is room for the buffers of clients. An engine that can is told to disconnect those with the largest beyond it
// (maxmemory-clients); those of before 7.0 can't.
func clientMemory(maxMemory int64) int64 { return max(minClientMemory, maxMemory/4) }

// memoryLimit is at how much memory the system ends the engine: twice maxmemory, because a snapshot's process copies what changes
// meanwhile, at worst all of it, and because memory is fragmented; and what clients and the program need. It is there for what
// maxmemory doesn't bound: scripts, buffers, bugs.
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

// EngineMemoryReader is what a Runtime may have beside: to tell what bounds a node's engine.
type EngineMemoryReader interface {
	EngineMemory(ctx context.Context, nodeID string) (EngineMemory, error)
}

// groupFile holds the folder of a node's cgroup, so that it is removed whoever comes to do it.
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
		// On a full disk the group stays behind, empty, if this server does not live to see the engine's end.
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

// removeGroup removes what boundMemory has made, once the engine has ended. What can't be removed, because a snapshot's process
// still lives, is removed at the next occasion.
func (l *Local) removeGroup(nodeID string) {
	file := filepath.Join(l.nodeDir(nodeID), groupFile)
	if dir, err := os.ReadFile(file); err == nil && process.RemoveGroup(string(dir)) == nil {
		os.Remove(file)
	}
}

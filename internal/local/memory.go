package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/process"
)

// groupFile holds the folder of a node's cgroup, so that whichever server sees the engine's end can remove it.
const groupFile = "engine.cgroup"

// raiseMemoryBound is boundMemory where the bound grows.
func (l *Runtime) raiseMemoryBound(n *node, node instance.Node) {
	n.boundMu.Lock()
	grows := node.MemoryLimit > n.bounded
	n.boundMu.Unlock()
	if grows {
		l.boundMemory(n, node)
	}
}

// boundMemory bounds the engine's memory, where it is not bounded just so already.
func (l *Runtime) boundMemory(n *node, node instance.Node) {
	n.boundMu.Lock()
	defer n.boundMu.Unlock()
	if n.bounded == node.MemoryLimit || node.MemoryLimit == 0 {
		return
	}
	n.bounded = node.MemoryLimit
	n.bound = boundEngine(n.engine.Load(), groupName(node.ID, node.Slot), node.MemoryLimit)
}

// boundEngine bounds an engine's memory, and notes its group in its folder.
func boundEngine(e *engine.Engine, group string, limit int64) process.MemoryBound {
	bound := e.BoundMemory(group, limit)
	file := filepath.Join(e.Dir(), groupFile)
	if have, err := os.ReadFile(file); bound.Group != "" && (err != nil || string(have) != bound.Group) {
		// Where the disk is full and this server ends before the engine does, an empty group stays behind.
		_ = durable.WriteFile(file, []byte(bound.Group), 0o600)
	}
	return bound
}

// instance.EngineMemory implements EngineMemoryReader.
func (l *Runtime) EngineMemory(_ context.Context, nodeID string) (instance.EngineMemory, error) {
	n := l.node(nodeID)
	n.boundMu.Lock()
	defer n.boundMu.Unlock()
	if n.bounded == 0 {
		return instance.EngineMemory{Problem: "the engine does not run yet"}, nil
	}
	return instance.EngineMemory{Limit: n.bound.Limit, By: n.bound.By, Problem: n.bound.Problem}, nil
}

// outOfMemory says why an engine has ended, if it was for want of memory.
func outOfMemory(dir string, b process.MemoryBound) string {
	switch {
	case b.OutOfMemory():
		return fmt.Sprintf("killed by the system (OOM): it needed more memory than its bound of %s, which is kept by %s", instance.SizeText(b.Limit), b.By)
	case b.By == "RLIMIT_DATA" && engine.OutOfMemory(dir):
		return fmt.Sprintf("out of memory: it needed more than its bound of %s, which is kept by %s", instance.SizeText(b.Limit), b.By)
	}
	return ""
}

// removeGroup removes the group that boundEngine has made for the engine of a folder, once the engine has ended. While a process that writes a snapshot is
// still alive it can't be removed; then the next call does it.
func removeGroup(engineDir string) {
	file := filepath.Join(engineDir, groupFile)
	if dir, err := os.ReadFile(file); err == nil && process.RemoveGroup(string(dir)) == nil {
		os.Remove(file)
	}
}

package local

import (
	"time"

	"github.com/sealane/sealane/internal/process"
)

// SetStartLimit changes for how long a new engine without data may take to start.
func (l *Runtime) SetStartLimit(d time.Duration) { l.startLimit = d }

// MemoryBound is what is kept of the bound of a node's engine.
func (l *Runtime) MemoryBound(nodeID string) process.MemoryBound {
	n := l.node(nodeID)
	n.boundMu.Lock()
	defer n.boundMu.Unlock()
	return n.bound
}

package instance

import "context"

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

// EngineMemory shows what bounds an instance's engine.
func (m *Manager) EngineMemory(ctx context.Context, name Name) (EngineMemory, error) {
	i, err := m.Get(name)
	if err != nil {
		return EngineMemory{}, err
	}
	reader, ok := m.Runtime.(EngineMemoryReader)
	if !ok {
		return EngineMemory{Problem: "it is not known"}, nil
	}
	return reader.EngineMemory(ctx, i.nodeID(0))
}

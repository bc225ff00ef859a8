package process

var ParseStartTime = parseStartTime

// MemoryGroup is memoryGroup.
func MemoryGroup(mountinfo, cgroup []byte) (dir string, v2 bool, err error) {
	g, err := memoryGroup(mountinfo, cgroup)
	return g.dir, g.v2, err
}

// BoundWithoutGroup is BoundMemory for a user who may make no cgroup.
func BoundWithoutGroup(p *Process, limit int64) MemoryBound {
	return p.boundByRlimit(limit, errNoController)
}

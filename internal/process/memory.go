package process

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// MemoryBound is how much memory the system lets a process have.
type MemoryBound struct {
	Limit int64  // in bytes; 0: there is no bound
	By    string // "cgroup v2", "cgroup v1", "RLIMIT_DATA"; "" without a bound
	// Problem says why there is no bound, or why the bound doesn't count the process's children; "" where there is no problem.
	Problem string
	// Group is the cgroup's folder, for RemoveGroup; "" without one.
	Group string

	kills int64 // how many processes of the group had been killed when this one came into it
}

// BoundMemory bounds the memory of a process. A cgroup of that name bounds the process and its children together. Where this process
// may not make a cgroup, RLIMIT_DATA bounds each of them by itself, which needs no privilege. Memory that the process already has
// stays. A process that already has this bound is left as it is.
//
// Beyond a cgroup's limit the kernel kills the process or a child of it; see OutOfMemory. Beyond RLIMIT_DATA it refuses memory, and
// most programs then end by themselves.
func (p *Process) BoundMemory(name string, limit int64) MemoryBound {
	if b := p.MemoryBound(); b.Limit == limit {
		return b
	}
	b, err := p.boundByGroup(name, limit)
	if err == nil {
		return b
	}
	return p.boundByRlimit(limit, err)
}

func (p *Process) boundByRlimit(limit int64, noGroup error) MemoryBound {
	problem := "no cgroup: " + strings.ReplaceAll(noGroup.Error(), "\n", "; ")
	// Only the soft limit is set: without a privilege the hard one could never be raised again.
	var lim unix.Rlimit
	if err := unix.Prlimit(p.id.PID, unix.RLIMIT_DATA, nil, &lim); err != nil {
		return MemoryBound{Problem: fmt.Sprintf("%s; no RLIMIT_DATA: %v", problem, err)}
	}
	lim.Cur = min(uint64(limit), lim.Max)
	if err := unix.Prlimit(p.id.PID, unix.RLIMIT_DATA, &lim, nil); err != nil {
		return MemoryBound{Problem: fmt.Sprintf("%s; no RLIMIT_DATA: %v", problem, err)}
	}
	return MemoryBound{Limit: int64(lim.Cur), By: "RLIMIT_DATA", Problem: problem}
}

func (p *Process) boundByGroup(name string, limit int64) (MemoryBound, error) {
	g, err := makeGroup(name)
	if err != nil {
		return MemoryBound{}, err
	}
	kills := g.oomKills()
	if err = g.setLimit(limit); err == nil {
		err = g.write("cgroup.procs", int64(p.id.PID))
	}
	if err != nil {
		return MemoryBound{}, errors.Join(err, g.remove())
	}
	return MemoryBound{Limit: limit, By: g.name(), Group: g.dir, kills: kills}, nil
}

// MemoryBound returns the bound that the process has, whether BoundMemory of this process or of one before it has set it.
func (p *Process) MemoryBound() MemoryBound {
	if g, err := groupOf(p.id.PID); err == nil && strings.HasPrefix(filepath.Base(g.dir), groupPrefix) {
		if limit := g.limit(); limit > 0 {
			return MemoryBound{Limit: limit, By: g.name(), Group: g.dir, kills: g.oomKills()}
		}
	}
	var lim unix.Rlimit
	if err := unix.Prlimit(p.id.PID, unix.RLIMIT_DATA, nil, &lim); err == nil && lim.Cur < 1<<62 {
		return MemoryBound{Limit: int64(lim.Cur), By: "RLIMIT_DATA"}
	}
	return MemoryBound{}
}

// OutOfMemory says whether the kernel has killed the process, or a child of it, for want of memory. It is to be called after the
// process has ended and before RemoveGroup.
func (b MemoryBound) OutOfMemory() bool {
	return b.Group != "" && group{b.Group, b.By == "cgroup v2"}.oomKills() > b.kills
}

// RemoveGroup removes the cgroup in a folder, once the last of its processes has ended. It is no error where the cgroup is gone, or
// dir is "".
func RemoveGroup(dir string) error {
	if dir == "" || !strings.HasPrefix(filepath.Base(dir), groupPrefix) {
		return nil
	}
	return group{dir: dir}.remove()
}

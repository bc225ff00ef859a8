// Package systemmemory accounts for the memory of an instance as managed services do: the engine with its buffers, what a snapshot under
// way adds to it, and the process in front of it with the connections that it has. It says when an operator is to be warned, and when
// requests that need memory are to be refused.
//
// Guaranteed: looking takes less than a twentieth of one core, whatever the engine's size. What is used changes between two looks, so
// more may be used than there is, by what clients write in a tenth of a second.
//
// Not counted: the kernel's buffers of sockets, and files.
package systemmemory

import (
	"fmt"
	"time"
)

const (
	// calmPace is how often memory is looked at, and closePace where it may be used up soon.
	calmPace  = time.Second
	closePace = 100 * time.Millisecond
	// busyPart bounds what looking costs: it is done again after so many times what it took.
	busyPart = 20

	// In percent of all memory: at 80 an operator is warned, and at 100 requests are refused. Both end a little lower, so that memory
	// which moves about such a mark is no news each time.
	highMark, highEnd = 80, 75
	fullMark, fullEnd = 100, 98
)

// Usage is what of an instance's memory is used, in bytes.
type Usage struct {
	Total    int64 `json:"total"`    // 0: any, and none of this is looked at
	Engine   int64 `json:"engine"`   // the engine with its buffers
	Snapshot int64 `json:"snapshot"` // what its child processes add: a snapshot that is being written, above all
	Gateway  int64 `json:"gateway"`  // this process
	// Full says that requests are to be refused now, High that they will soon be.
	Full bool `json:"full"`
	High bool `json:"high"`
	// FullTime is for how long it has been Full since the process started.
	FullTime time.Duration `json:"full_time"`
	// Problem is why the engine's part is not known. "": it is.
	Problem string `json:"problem,omitempty"`
}

// Used is the sum of the parts.
func (u Usage) Used() int64 { return u.Engine + u.Snapshot + u.Gateway }

// Ratio is the part of the memory that is used; 0 where it is not looked at.
func (u Usage) Ratio() float64 {
	if u.Total == 0 {
		return 0
	}
	return float64(u.Used()) / float64(u.Total)
}

// Warning says what an operator should know; "": nothing.
func (u Usage) Warning() string {
	switch {
	case u.Total == 0:
		return ""
	case u.Full:
		return fmt.Sprintf("the system memory is used up (%s), and commands that need memory are answered with -OOM: "+
			"delete keys, lower maxmemory-gb, close connections, or give the instance more memory", u)
	case u.High:
		return fmt.Sprintf("the system memory is nearly used up (%s); at 100 %% commands that need memory are answered with -OOM: "+
			"lower maxmemory-gb, close connections, or give the instance more memory", u)
	case u.Problem != "":
		return "not all of the system memory is accounted for: " + u.Problem
	}
	return ""
}

func (u Usage) String() string {
	const mib = 1 << 20
	return fmt.Sprintf("%.0f %% of %d MiB: engine %d, snapshot %d, gateway and connections %d",
		100*u.Ratio(), u.Total/mib, u.Engine/mib, u.Snapshot/mib, u.Gateway/mib)
}

// followed is what comes after before, which was seen elapsed ago: u has the sizes alone.
func (u Usage) followed(before Usage, elapsed time.Duration) Usage {
	u.FullTime = before.FullTime
	if before.Full {
		u.FullTime += elapsed
	}
	isOver := func(was bool, mark, end int64) bool {
		if was {
			mark = end
		}
		return u.Total > 0 && u.Used() >= u.Total/100*mark
	}
	u.Full, u.High = isOver(before.Full, fullMark, fullEnd), isOver(before.High, highMark, highEnd)
	return u
}

// pace is when to look again. took is what looking took, grown by how much more is used than a moment ago, which elapsed tells.
func (u Usage) pace(took time.Duration, grown int64, elapsed time.Duration) time.Duration {
	pace := calmPace
	if u.Total > 0 {
		left := float64(u.Total - u.Used())
		perSecond := float64(grown) / max(elapsed, time.Millisecond).Seconds()
		if u.High || perSecond*(3*calmPace).Seconds() >= left {
			pace = closePace
		}
	}
	return max(pace, busyPart*took)
}

// level is 0, or 1 where the memory is High, or 2 where it is Full.
func (u Usage) level() int {
	switch {
	case u.Full:
		return 2
	case u.High:
		return 1
	}
	return 0
}

package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// Status is what the kernel says of a process at one moment. Two of them tell what it has done between them.
type Status struct {
	// State is the letter of /proc/PID/stat: R runs, S sleeps, D waits for a disk, T and t are stopped (by a signal, by a debugger). 'Z':
	// the process has ended.
	State byte
	// CPU is how long the main thread has run, and Ready how long it was able to and waited for a processor. Runs is how often it was
	// given one: a thread that sleeps and never wakes up shows here. They are 0 where the kernel keeps no such accounts.
	CPU, Ready time.Duration
	Runs       uint64
}

// Stopped says whether the process was stopped, by SIGSTOP or a debugger. It does nothing until it is continued.
func (s Status) Stopped() bool { return s.State == 'T' || s.State == 't' }

// Ended says whether the process has ended, be it reaped or not.
func (s Status) Ended() bool { return s.State == 'Z' }

// Status asks the kernel. It costs two short files of /proc.
func (p *Process) Status() Status {
	b, err := os.ReadFile(statPath(p.id.PID))
	if err != nil {
		return Status{State: 'Z'}
	}
	fields, err := statFields(string(b))
	if err != nil || fields[0] == "X" || fields[19] != strconv.FormatUint(p.id.StartTime, 10) {
		return Status{State: 'Z'} // another process has its pid
	}
	s := Status{State: fields[0][0]}
	if b, err = os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", p.id.PID)); err != nil {
		return s
	}
	var n [3]uint64
	for i, field := range strings.Fields(string(b)) {
		if i < len(n) {
			n[i], _ = strconv.ParseUint(field, 10, 64) // the kernel writes numbers only
		}
	}
	s.CPU, s.Ready, s.Runs = time.Duration(n[0]), time.Duration(n[1]), n[2]
	return s
}

// exiting is PF_EXITING in the kernel's flags of a task.
const exiting = 1 << 2

// Ending says whether a process has begun to end, or has ended. From then on it closes its files, one after the other, which can take
// long where others want the processor.
func Ending(pid int) bool {
	b, err := os.ReadFile(statPath(pid))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	fields, err := statFields(string(b))
	if err != nil {
		return false
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	return fields[0] == "Z" || fields[0] == "X" || err == nil && flags&exiting != 0
}

package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Memory is what a process and its children take, in bytes. What files are behind is not counted: the kernel can drop it.
type Memory struct {
	// Own is what the process has itself, swapped out or not.
	Own int64
	// Children is what its children take beside that. A child that fork has made shares all memory with its parent at first, and
	// each page that either of them writes to from then on is there twice.
	Children int64
	// ChildCount is how many children there are.
	ChildCount int
}

// Memory reads what the process and its children take now. The error is ErrNotRunning after its end. For each child the kernel walks
// through its page tables, which takes some 20 ms for each GiB that it has; else it is a matter of microseconds.
func (p *Process) Memory() (Memory, error) {
	m, err := readMemory(p.id.PID)
	select {
	case <-p.done: // it may have been another process's
		return Memory{}, ErrNotRunning
	default:
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return Memory{}, ErrNotRunning
	}
	return m, err
}

// Resident is the resident memory of this process in bytes; 0: not known.
func Resident() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(string(fields[1]), 10, 64)
	return pages * int64(os.Getpagesize())
}

func readMemory(pid int) (m Memory, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, err
	}
	m.Own = kilobytes(status, "RssAnon:", "VmSwap:")
	// Without CONFIG_PROC_CHILDREN there is no such file, and children are not counted.
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return m, nil
	}
	for child := range bytes.FieldsSeq(children) {
		m.ChildCount++
		// A child may have ended by now.
		if rollup, err := os.ReadFile("/proc/" + string(child) + "/smaps_rollup"); err == nil {
			m.Children += kilobytes(rollup, "Private_Dirty:", "Private_Clean:")
		}
	}
	return m, nil
}

// kilobytes adds up the lines of a file of /proc that begin with these words, as in "RssAnon:   1234 kB", and returns bytes.
func kilobytes(file []byte, names ...string) (sum int64) {
	for line := range bytes.Lines(file) {
		for _, name := range names {
			if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
				n, _ := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 10, 64)
				sum += n << 10
			}
		}
	}
	return sum
}

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// cpuTime is the CPU time, user and system, that the processes have used since they started.
func cpuTime(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		used, err := processClock(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// processClock reads the CPU clock of a process. It counts nanoseconds and includes threads that have ended. /proc/PID/stat
// counts in steps of 10 ms, and the schedstat files have only the threads that still run.
func processClock(pid int) (time.Duration, error) {
	const scheduled = 2                 // CPUCLOCK_SCHED, for a whole process
	clock := int32(^pid)<<3 | scheduled // the value that clock_getcpuclockid(3) returns
	var used syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&used)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("read the CPU clock of process %d (has it ended?): %w", pid, errno)
	}
	return time.Duration(used.Nano()), nil
}

// tick is the unit of the times in /proc/PID/stat: USER_HZ, which is 100 on every platform that Go runs on.
const tick = 10 * time.Millisecond

// parseStat returns the CPU time from the text of /proc/PID/stat; the tests compare it with the clock. The second field is the
// program's name in parentheses, which may itself have spaces and parentheses.
func parseStat(stat string) (user, system time.Duration, err error) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, fmt.Errorf("no program name in %q", stat)
	}
	fields := strings.Fields(stat[end+1:]) // from the third on
	if len(fields) < 13 {
		return 0, 0, fmt.Errorf("%d fields after the program name in %q, want 13 or more", len(fields), stat)
	}
	u, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("user time: %w", err)
	}
	s, err := strconv.ParseInt(fields[12], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("system time: %w", err)
	}
	return time.Duration(u) * tick, time.Duration(s) * tick, nil
}

// kernelPart returns user and system time separately, in steps of 10 ms.
func kernelPart(pids []int) (user, system time.Duration, err error) {
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, 0, fmt.Errorf("a server has ended: %w", err)
		}
		u, s, err := parseStat(string(stat))
		if err != nil {
			return 0, 0, fmt.Errorf("stat of process %d: %w", pid, err)
		}
		user, system = user+u, system+s
	}
	return user, system, nil
}

// residentKiB sums up the resident memory of the processes.
func residentKiB(pids []int) (float64, error) {
	var pages int64
	for _, pid := range pids {
		statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return 0, fmt.Errorf("a server has ended: %w", err)
		}
		resident, err := parseStatm(string(statm))
		if err != nil {
			return 0, fmt.Errorf("statm of process %d: %w", pid, err)
		}
		pages += resident
	}
	return float64(pages) * float64(os.Getpagesize()) / 1024, nil
}

// parseStatm returns the resident pages from the text of /proc/PID/statm.
func parseStatm(statm string) (int64, error) {
	var size, resident int64
	if _, err := fmt.Sscan(statm, &size, &resident); err != nil {
		return 0, err
	}
	return resident, nil
}

// peakKiB returns the largest resident memory of a process since resetPeak.
func peakKiB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("a server has ended: %w", err)
	}
	return parsePeak(string(status))
}

// parsePeak finds the peak in the text of /proc/PID/status.
func parsePeak(status string) (float64, error) {
	for line := range strings.Lines(status) {
		rest, ok := strings.CutPrefix(line, "VmHWM:")
		if !ok {
			continue
		}
		var kib float64
		if _, err := fmt.Sscanf(rest, "%f kB", &kib); err != nil {
			return 0, fmt.Errorf("VmHWM %q: %w", rest, err)
		}
		return kib, nil
	}
	return 0, errors.New("there is no VmHWM in the status of the process")
}

// resetPeak sets the peak of a process's resident memory to its current size.
func resetPeak(pid int) error {
	const peak = "5" // proc(5), clear_refs
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte(peak), 0)
}

// alive says whether all processes run. One that only waits to be reaped does not.
func alive(pids []int) bool {
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return false
		}
	}
	return true
}

// children returns the processes that the process has started.
func children(pid int) []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var pids []int
	for _, field := range strings.Fields(string(text)) {
		child, _ := strconv.Atoi(field)
		pids = append(pids, child)
	}
	return pids
}

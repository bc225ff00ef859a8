package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the times in /proc/PID/stat: USER_HZ, which is 100 on every platform that Go runs on.
const tick = 10 * time.Millisecond

// parseStat returns the CPU time, user and system, from the text of /proc/PID/stat. The second field is the program's
// name in parentheses and may hold spaces and parentheses itself.
func parseStat(stat string) (time.Duration, error) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, fmt.Errorf("no program name in %q", stat)
	}
	fields := strings.Fields(stat[end+1:]) // from the third on
	if len(fields) < 13 {
		return 0, fmt.Errorf("%d fields after the program name in %q, want 13 or more", len(fields), stat)
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("user time: %w", err)
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("system time: %w", err)
	}
	return time.Duration(user+system) * tick, nil
}

// cpuTime sums up what the processes have used since they started.
func cpuTime(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("a server has ended: %w", err)
		}
		used, err := parseStat(string(stat))
		if err != nil {
			return 0, fmt.Errorf("stat of process %d: %w", pid, err)
		}
		sum += used
	}
	return sum, nil
}

// residentKiB sums up the resident memory of the processes.
func residentKiB(pids []int) (float64, error) {
	var pages int64
	for _, pid := range pids {
		statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return 0, fmt.Errorf("a server has ended: %w", err)
		}
		var size, resident int64
		if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
			return 0, fmt.Errorf("statm of process %d: %w", pid, err)
		}
		pages += resident
	}
	return float64(pages) * float64(os.Getpagesize()) / 1024, nil
}

// commandLines returns the arguments of every process that has text among them.
func commandLines(text string) map[int][]string {
	found := map[int][]string{}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(line, []byte(text)) {
			continue // it has ended meanwhile
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		found[pid] = strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
	}
	return found
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

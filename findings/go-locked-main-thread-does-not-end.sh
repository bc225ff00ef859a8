#!/bin/sh
# In Go, a goroutine that ends while it is locked to its thread does not end the thread where that is the process's main one.
#
# Version: Go 1.26.8 on Linux (the go command that is installed; the version is checked).
# Behaviour: runtime.LockOSThread says "If the calling goroutine exits without unlocking the thread, the thread will be terminated". That is
# the usual way to be rid of a thread that was changed for good, with setns, unshare or setpriority. Any goroutine may be on the main thread.
# There the thread stays, asleep and changed, for as long as the process lives. It is the thread that /proc/PID shows: /proc/PID/ns/net,
# /proc/PID/net and /proc/PID/stat tell of a state that no goroutine is in.
# For whoever enters a network namespace to start a process there: go back before the goroutine ends, instead of relying on its end.
#
# Output seen:
#   a thread of its own is there after its goroutine has ended: false
#   the main thread is there after its goroutine has ended: true
#   the process's priority, by /proc/self/stat: 19, and of the thread that asks: 0
set -eu
case "$(go version)" in *" go1.26."*) ;; *) echo "another version: $(go version)" && exit 2 ;; esac
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >go.mod <<'M'
module finding

go 1.26
M
cat >main.go <<'G'
package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// locked runs a goroutine that changes its thread and ends while it is locked to it, and returns the thread.
func locked() int {
	tid := make(chan int)
	go func() {
		runtime.LockOSThread()
		syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19)
		tid <- syscall.Gettid()
	}()
	return <-tid
}

func there(tid int) bool {
	for range 100 {
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid)); err != nil {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

func nice(path string) string {
	stat, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[16]
}

func main() {
	main, other := os.Getpid(), 0
	for seen := false; !seen || other == 0; {
		if tid := locked(); tid == main {
			seen = true
		} else {
			other = tid
		}
	}
	otherThere, mainThere := there(other), there(main)
	runtime.LockOSThread()
	process, own := nice("/proc/self/stat"), nice("/proc/thread-self/stat")
	fmt.Println("a thread of its own is there after its goroutine has ended:", otherThere)
	fmt.Println("the main thread is there after its goroutine has ended:", mainThere)
	fmt.Printf("the process's priority, by /proc/self/stat: %s, and of the thread that asks: %s\n", process, own)
	if otherThere || !mainThere || process != "19" || own == "19" {
		fmt.Println("it has changed")
		os.Exit(1)
	}
}
G
GOFLAGS= timeout 120 go run .

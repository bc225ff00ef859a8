package process

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNetworkNamespace calls start on a thread that is in a network namespace; a process that is started there is in it, too. "" is the
// namespace of the caller.
func inNetworkNamespace(path string, start func() error) error {
	if path == "" {
		return start()
	}
	namespace, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer namespace.Close()
	done := make(chan error)
	go func() { done <- onThreadOf(namespace, start) }()
	return <-done
}

// onThreadOf moves its goroutine's thread to a network namespace and back. Where it can't come back, the goroutine stays locked to the thread,
// which ends with it. That alone would not do: the main thread can't end, and what /proc shows of a process is its main thread's namespace.
func onThreadOf(namespace *os.File, start func() error) error {
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("network namespace: %w", err)
	}
	defer own.Close()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", namespace.Name(), err)
	}
	err = start()
	if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

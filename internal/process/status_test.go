package process_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/sealane/sealane/internal/process"
)

func TestEnding(t *testing.T) {
	t.Parallel()
	c := exec.Command("sleep", "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	pid := c.Process.Pid
	if process.Ending(pid) || process.Ending(os.Getpid()) {
		t.Error("a process that runs is said to be ending")
	}
	c.Process.Kill()
	for !process.Ending(pid) { // it is not reaped, so its pid is nobody else's
	}
	c.Wait()
	if !process.Ending(pid) {
		t.Error("a process that has ended is not said to be ending")
	}
}

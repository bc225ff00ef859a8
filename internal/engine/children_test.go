package engine_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// childrenOf are the child processes of one, of which there must be one at least.
func childrenOf(t *testing.T, pid int) (children []int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Skipf("NOT SHOWN HERE: this kernel doesn't tell the children of a process: %v", err)
	}
	for field := range strings.FieldsSeq(string(text)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, child)
	}
	if len(children) == 0 {
		t.Fatal("there are no children")
	}
	return children
}

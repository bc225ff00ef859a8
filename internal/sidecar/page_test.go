package sidecar_test

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/sealane/sealane/internal/sidecar"
)

// The page lists every code that may be said, and no other.
func TestThePageHasEveryFault(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/sidecar.md")
	if err != nil {
		t.Fatal(err)
	}
	_, faults, _ := bytes.Cut(raw, []byte("\n## What it says, and what to do\n"))
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllSubmatch(faults, -1) {
		listed = append(listed, string(m[1]))
	}
	want := slices.Clone(sidecar.Codes)
	slices.Sort(want)
	slices.Sort(listed)
	if !slices.Equal(listed, want) {
		t.Errorf("docs/sidecar.md lists %q; want %q", listed, want)
	}
}

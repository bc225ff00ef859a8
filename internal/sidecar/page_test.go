package sidecar_test

import (
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
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllSubmatch(raw, -1) {
		listed = append(listed, string(m[1]))
	}
	want := slices.Clone(sidecar.Codes)
	slices.Sort(want)
	slices.Sort(listed)
	if !slices.Equal(listed, want) {
		t.Errorf("docs/sidecar.md lists %q; want %q", listed, want)
	}
}

package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
)

// The socket of another instance's engine would lead past its gateway, its AUTH and the permissions of its project.
func TestBackendIsNoSocketOfSealanesOwn(t *testing.T) {
	t.Parallel()
	base, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	nodes := filepath.Join(base, "nodes")
	if err := os.MkdirAll(filepath.Join(nodes, "a-0"), 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"folder": filepath.Join(nodes, "a-0"), "file": filepath.Join(nodes, "a-0", "s")} {
		if err := os.Symlink(to, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(nodes, "a-0", "s"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := New(nodes, []string{"/nonexistent"}, nil)
	for _, path := range []string{"nodes/a-0/s", "nodes/a-0/1/s", "nodes/../nodes/a-0/s", "folder/s", "file"} {
		s := backend.Server{Address: "unix:" + filepath.Join(base, path)}
		_, err := l.ProbeBackend(t.Context(), s)
		ensured := l.Ensure(t.Context(), instance.Node{ID: "b-0", Gateway: gateway.Snapshot{Backend: &s}}, func(string) {})
		for what, err := range map[string]error{"probe": err, "ensure": ensured} {
			if !errors.Is(err, instance.ErrFatal) || !strings.Contains(err.Error(), "belongs to one of Sealane's own instances") {
				t.Errorf("%s: %s: %v", path, what, err)
			}
		}
	}
	if _, err := l.ProbeBackend(t.Context(), backend.Server{Address: "unix:" + filepath.Join(base, "nodes-of-another")}); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("%v", err)
	}
}

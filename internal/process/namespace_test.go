package process_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/sealane/sealane/internal/process"
)

// A process runs in the network namespace that it is told to, and its parent stays in its own.
func TestProcessInANetworkNamespace(t *testing.T) {
	t.Parallel()
	own := networkNamespace(t, "self")
	dir := t.TempDir()
	// A process in a new namespace keeps it open for as long as the test runs.
	holder, err := os.StartProcess("/bin/sleep", []string{"sleep", "60"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}})
	if errors.Is(err, os.ErrPermission) {
		t.Skip("NOT TESTED: only root can make a network namespace")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		holder.Kill()
		holder.Wait()
	}()
	other := filepath.Join("/proc", strconv.Itoa(holder.Pid), "ns/net")
	out := filepath.Join(dir, "out")
	p, err := process.Start(process.Config{Path: "/bin/readlink", Args: []string{"/proc/self/ns/net"}, Log: out, NetworkNamespace: other})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	got, err := os.ReadFile(out)
	if want := networkNamespace(t, strconv.Itoa(holder.Pid)); err != nil || strings.TrimSpace(string(got)) != want || want == own {
		t.Errorf("it runs in %q, %v; want %s, which is not the parent's %s", got, err, want, own)
	}
	if now := networkNamespace(t, "self"); now != own {
		t.Errorf("the parent is in %s now, and was in %s", now, own)
	}
}

func TestNetworkNamespaceThatIsNone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + "-missing"} {
		if _, err := process.Start(process.Config{Path: "/bin/true", NetworkNamespace: path}); err == nil || !strings.Contains(err.Error(), "network namespace") || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want an error that names it", path, err)
		}
	}
}

func networkNamespace(t *testing.T, pid string) string {
	t.Helper()
	link, err := os.Readlink(filepath.Join("/proc", pid, "ns/net"))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

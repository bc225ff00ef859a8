package local_test

import (
	"context"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/process"
)

// Who asks about an instance whose gateway is stopped is told so at once, and does not wait for it.
func TestStoppedGatewayIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	s := newStandard(t, nil)
	node := s.get().UID + "-0"
	p, err := process.Adopt(gateway.Socket(filepath.Join(s.dir, "nodes", node)))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer p.Signal(syscall.SIGCONT)
	for !p.Stopped() {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	plane, err := s.manager.DataPlanes.Get(ctx, s.name)
	if err != nil || !strings.Contains(plane.Problem, "the gateway") {
		t.Errorf("the problem is %q, %v", plane.Problem, err)
	}
	if _, err := s.runtime.Ledger(ctx, node); err == nil || !strings.Contains(err.Error(), "kill -CONT") {
		t.Errorf("its ledger: %v", err)
	}
	if _, err := s.runtime.PlaintextClients(ctx, node); err == nil || !strings.Contains(err.Error(), "kill -CONT") {
		t.Errorf("its clients without TLS: %v", err)
	}
	if ctx.Err() != nil {
		t.Error("it took three seconds")
	}
}

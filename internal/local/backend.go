package local

import (
	"context"
	"errors"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/instance"
)

// ProbeBackend implements instance.BackendProber.
func (l *Runtime) ProbeBackend(ctx context.Context, s backend.Server) (backend.Facts, error) {
	d, err := backend.NewDialer(s)
	if err != nil {
		return backend.Facts{}, err
	}
	facts, err := d.Probe(ctx)
	if f, ok := errors.AsType[*backend.Fault](err); ok && f.Lasting() {
		err = lastingFault{f}
	}
	return facts, err
}

// lastingFault is a fault that trying again won't mend.
type lastingFault struct{ *backend.Fault }

func (f lastingFault) Unwrap() error        { return f.Fault }
func (f lastingFault) Is(target error) bool { return target == instance.ErrFatal }

// BackendFacts implements instance.BackendProber.
func (l *Runtime) BackendFacts(nodeID string) (backend.Facts, bool) {
	if facts := l.node(nodeID).facts.Load(); facts != nil {
		return *facts, true
	}
	return backend.Facts{}, false
}

// checkBackend returns why the node's backend can't serve clients; nil: it can, or there is an engine.
func (l *Runtime) checkBackend(ctx context.Context, n *node, s *backend.Server) error {
	if s == nil {
		return nil
	}
	facts, err := l.ProbeBackend(ctx, *s)
	if err == nil {
		n.facts.Store(&facts)
	}
	return err
}

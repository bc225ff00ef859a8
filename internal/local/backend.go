package local

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/instance"
)

// ProbeBackend implements instance.BackendProber.
func (l *Runtime) ProbeBackend(ctx context.Context, s backend.Server) (backend.Facts, error) {
	if err := l.checkForeign(&s); err != nil {
		return backend.Facts{}, err
	}
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

// checkForeign refuses a backend that is one of Sealane's own sockets: whoever may make instances in one project would reach the data of
// others by it, past their gateways.
func (l *Runtime) checkForeign(s *backend.Server) error {
	path, isUnix := strings.CutPrefix(s.Address, "unix:")
	if !isUnix {
		return nil
	}
	own, err := filepath.EvalSymlinks(l.dir)
	if err != nil {
		own = l.dir
	}
	if folder, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(folder, filepath.Base(path))
	}
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	if rel, err := filepath.Rel(own, path); err == nil && !strings.HasPrefix(rel, "..") {
		return lastingFault{&backend.Fault{
			Kind: diagnosis.Unreachable, Sentence: "the backend's socket belongs to one of Sealane's own instances",
			Fix: "give the socket of a Redis that Sealane did not start; for an instance, give its address and port",
		}}
	}
	return nil
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

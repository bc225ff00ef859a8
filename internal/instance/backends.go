package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/backend"
)

// An instance may have a backend in place of an engine: a Redis that Sealane did not start. Its gateway, certificates and AUTH are as
// any instance's. What only the owner of the Redis can do is refused by name.

// BackendProber is an optional part of a Runtime: it asks Redis servers that Sealane did not start.
type BackendProber interface {
	// ProbeBackend tries a backend as a node would use it. An error may be a *backend.Fault.
	ProbeBackend(ctx context.Context, s backend.Server) (backend.Facts, error)
	// BackendFacts are what a node's backend said of itself when it was last asked; false: it was not, since this server runs.
	BackendFacts(nodeID string) (backend.Facts, bool)
}

// Backends are the backends of those instances that have one.
type Backends struct {
	records *records
	reader  *reader
	workers *workers
	runtime Runtime
	secrets secrets
	log     *slog.Logger
}

// BackendStatus is a backend, without its password, and what is observed of it.
type BackendStatus struct {
	Server      backend.Server
	HasPassword bool
	Facts       backend.Facts
	Warnings    []string
	Problem     string // why clients are not served, in words for the user; "": they are
}

// Get shows an instance's backend.
func (b *Backends) Get(name Name) (BackendStatus, error) {
	i, err := b.reader.get(name)
	if err != nil {
		return BackendStatus{}, err
	}
	if i.Spec.Backend == nil {
		return BackendStatus{}, i.noBackend()
	}
	s := BackendStatus{Server: *i.Spec.Backend, HasPassword: i.SealedBackend != nil, Problem: i.StatusMessage}
	if prober, ok := b.runtime.(BackendProber); ok {
		s.Facts, _ = prober.BackendFacts(i.nodeID(0))
		s.Warnings = s.Facts.Warnings(i.Spec.maxClients())
	}
	return s, nil
}

func (i *Instance) noBackend() error {
	return &Error{Code: NotFound, Message: fmt.Sprintf("the instance '%s' has no backend: its engine is Sealane's own", i.Name)}
}

// Change changes how an instance's backend is reached. Clients stay connected, and go on with the backend as it is then. One that can't
// serve is refused and nothing is changed, but with force it is recorded all the same. Change returns nil once clients are served by it, or
// with force once that was tried. When it takes too long it returns Unavailable, and the server goes on trying.
func (b *Backends) Change(ctx context.Context, name Name, change func(*backend.Server) error, force bool) error {
	i, err := b.reader.get(name)
	if err != nil {
		return err
	}
	next, err := b.changed(i, change)
	if err == nil && !force {
		err = b.probe(ctx, next)
	}
	if err != nil {
		return err
	}
	var saved *Instance
	err = b.records.mutate(name, func(i *Instance) error {
		if err := i.requireNoOperation(); err != nil {
			return err
		}
		next, err := b.changed(*i, change)
		if err != nil {
			return err
		}
		b.secrets.setBackend(i, next)
		saved = i
		return nil
	})
	if err != nil {
		return err
	}
	b.log.Info("backend changed", "instance", name, "backend", saved.Spec.Backend)
	if force {
		b.workers.waitTried(ctx, saved)
		return nil
	}
	return b.workers.waitApplied(ctx, saved)
}

// waitTried returns when a step that began after the record was saved is over.
func (ws *workers) waitTried(ctx context.Context, i *Instance) {
	timeout := time.NewTimer(applyTimeout)
	defer timeout.Stop()
	looks := 0 // now, after the step that may be under way, and after the next one
	ws.await(ctx, i.Name, timeout.C, func(w *worker) bool {
		looks++
		return w.applied >= i.version || looks > 2
	})
}

// unchanged stands for a password that a change says nothing of.
const unchanged = "\x00"

// changed is the backend, with its password, as a change makes it. The password that is kept goes to the server that it was given for
// and to no other: who changes the address has to know it.
func (b *Backends) changed(i Instance, change func(*backend.Server) error) (backend.Server, error) {
	if i.Spec.Backend == nil {
		return backend.Server{}, i.noBackend()
	}
	s, err := b.secrets.backend(i)
	if err != nil {
		return backend.Server{}, err
	}
	before := s
	s.Password = unchanged
	if err := change(&s); err != nil {
		return backend.Server{}, err
	}
	if s.Password == unchanged {
		s.Password = before.Password
		if s.Password != "" && (s.Address != before.Address || s.TLS != before.TLS || s.CA != before.CA || s.ServerName != before.ServerName) {
			return backend.Server{}, invalid("backend.password", "is kept for %s as it is reached now, and not sent elsewhere: give it again, together with the change", before.Address)
		}
	}
	if vs := checkBackend(s); vs != nil {
		return backend.Server{}, NewViolations(InvalidArgument, vs)
	}
	return s, nil
}

func (b *Backends) probe(ctx context.Context, s backend.Server) error {
	prober, ok := b.runtime.(BackendProber)
	if !ok {
		return nil
	}
	_, err := prober.ProbeBackend(ctx, s)
	if f, ok := errors.AsType[*backend.Fault](err); ok {
		return precondition("%s; nothing was changed, force changes it all the same", f.Error()).because(BackendNotServing)
	}
	return err
}

// setBackend keeps a backend, and seals its password.
func (s secrets) setBackend(i *Instance, b backend.Server) {
	i.SealedBackend = nil
	if b.Password != "" {
		i.SealedBackend = s.key.Seal([]byte(b.Password), i.backendPurpose())
	}
	b.Password = ""
	i.Spec.Backend = &b
}

// backend is an instance's backend with its password.
func (s secrets) backend(i Instance) (backend.Server, error) {
	b := *i.Spec.Backend
	if i.SealedBackend == nil {
		return b, nil
	}
	password, err := s.key.Open(i.SealedBackend, i.backendPurpose())
	if err != nil {
		return b, fmt.Errorf("backend password of %s: %w", i.Name, err)
	}
	b.Password = string(password)
	return b, nil
}

func (i Instance) backendPurpose() string { return "backend password of " + i.UID }

// toBackend makes a node one without an engine: its gateway serves clients of the backend, and checks their passwords itself.
func (r *reconciler) toBackend(n *Node, i Instance) error {
	s, err := r.secrets.backend(i)
	if err != nil {
		return err
	}
	n.Gateway.Backend, n.Gateway.Passwords, n.Gateway.SystemMemory = &s, n.PasswordHashes, 0
	n.Version, n.Directives, n.AdminPassword, n.PasswordHashes, n.KeepDump, n.MemoryLimit = "", nil, "", nil, false, 0
	return nil
}

// backendPatience is how long an update waits for a backend that is away: it may be restarting.
const backendPatience = 10 * time.Second

// mayComeBack says that a step failed because of a backend that has not been away for long.
func (r *reconciler) mayComeBack(w *worker, err error) bool {
	_, ofBackend := errors.AsType[*backend.Fault](err)
	return ofBackend && (w.firstTried.IsZero() || r.now().Sub(w.firstTried) < backendPatience)
}

// checkBackend returns what is wrong with a backend, by the names that its fields have in the API.
func checkBackend(s backend.Server) (vs []Violation) {
	for _, p := range s.Check() {
		vs = append(vs, Violation{"backend." + p.Field, p.Text})
	}
	return vs
}

// checkWithBackend returns what can't be done for an instance with a backend.
func (s Spec) checkWithBackend() (vs []Violation) {
	refuse := func(field, instead string) {
		vs = append(vs, Violation{field, fmt.Sprintf("the instance has a backend (%s), whose engine is not Sealane's: %s", s.Backend.Address, instead)})
	}
	if s.RedisVersion != "" {
		refuse("redis_version", "leave it out, because the version is the backend's own")
	}
	for _, name := range slices.Sorted(maps.Keys(s.RedisConfigs)) {
		if !redisConfigs[name].gateway {
			refuse(fmt.Sprintf("redis_configs[%q]", name), "set it there (CONFIG SET, redis.conf, or the provider's console); of these settings only timeout is Sealane's")
		}
	}
	if s.MaintenanceVersion != "" {
		refuse("maintenance_version", "leave it out, because the version is the backend's own")
	}
	if s.SnapshotPeriod > 0 || !s.SnapshotStart.IsZero() {
		refuse("persistence_config", "set it there (save, appendonly)")
	}
	if s.Maintenance != nil {
		refuse("maintenance_policy", "there is no maintenance that a window could be for")
	}
	return vs
}

// requireEngine returns an error for what only an engine of Sealane's can do. field is the request's, or "" for a call as a whole.
func (i Instance) requireEngine(field, what, instead string) error {
	if i.Spec.Backend == nil {
		return nil
	}
	if field != "" {
		field += ": "
	}
	return precondition("%s'%s' has a backend (%s), whose engine is not Sealane's %s: %s", field, i.Name, i.Spec.Backend.Address, what, instead).because(ExternalBackend)
}

// requireEngine is Instance.requireEngine for a call that names the instance.
func (m *Manager) requireEngine(name Name, field, what, instead string) error {
	i, err := m.reader.get(name)
	if err != nil {
		return err
	}
	return i.requireEngine(field, what, instead)
}

// backendVersion is how the API names the version of a backend; "": it doesn't tell.
func backendVersion(f backend.Facts) string {
	parts := strings.SplitN(f.Version, ".", 3)
	switch {
	case len(parts) < 2:
		return ""
	case f.Valkey:
		return "VALKEY_" + parts[0] + "_" + parts[1]
	case parts[0] == "6":
		return "REDIS_6_X"
	}
	return "REDIS_" + parts[0] + "_" + parts[1]
}

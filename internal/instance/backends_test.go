package instance_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/instance"
)

const backendPassword = "password-of-the-backend"

func backendSpec() instance.Spec {
	s := plainSpec()
	s.Backend = &backend.Server{Address: "10.0.0.5:6379", Plaintext: true, User: "app", Password: backendPassword}
	return s
}

func (m *machine) madeWithBackend() instance.Instance {
	m.t.Helper()
	if _, err := m.server.Create(first, backendSpec(), "v1"); err != nil {
		m.t.Fatal(err)
	}
	return m.waitReady(first)
}

func (m *machine) moveBackend(address, password string) error {
	return m.server.Backends.Change(m.t.Context(), first, func(s *backend.Server) error {
		s.Address, s.Password = address, password
		return nil
	}, false)
}

// An instance with a backend has the gateway of any instance, and no engine.
func TestInstanceWithABackend(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		i := m.madeWithBackend()
		n := m.node(first)
		g := n.Gateway
		if g.Backend == nil || g.Backend.Login()[1] != backendPassword || len(g.Passwords) != 1 || g.MaxClients != 65000 || g.SystemMemory != 0 || len(g.Certificate) == 0 {
			t.Errorf("gateway: %v, %v, %d passwords, %d clients", g, g.Backend, len(g.Passwords), g.MaxClients)
		}
		if n.Version+n.AdminPassword != "" || len(n.Directives)+len(n.PasswordHashes) != 0 || n.MemoryLimit != 0 {
			t.Errorf("engine: %+v", n.Node)
		}
		if i.Spec.RedisVersion != "REDIS_7_2" || i.Spec.Backend.Password != "" || i.MaintenanceVersion != "" {
			t.Errorf("shown: %+v, %v", i.Spec, i.Spec.Backend)
		}
		s, err := m.server.Backends.Get(first)
		if err != nil || !s.HasPassword || s.Server.Password != "" || s.Server.User != "app" || s.Facts.Version != "7.2.4" {
			t.Errorf("%+v, %v", s, err)
		}
		// The hash of an AUTH string's rotation reaches the gateway.
		if _, err := m.server.AuthStrings.Rotate(t.Context(), first, time.Hour); err != nil || len(m.node(first).Gateway.Passwords) != 2 {
			t.Errorf("%v, %d passwords", err, len(m.node(first).Gateway.Passwords))
		}
		if _, err := m.server.Update(t.Context(), first, func(s *instance.Spec) { s.MemorySizeGB = 7 }, "v1"); err != nil {
			t.Error(err)
		}
		m.waitReady(first)
		if _, err := m.server.Delete(first, "v1"); err != nil {
			t.Error(err)
		}
		m.waitGone(first)
		if all := m.stored(); len(all) != 1 || all[0].SealedBackend != nil {
			t.Errorf("the password outlives the instance: %+v", all)
		}
	})
}

// What only an engine of Sealane's can do is refused, each by the name that the API gives it, and with the way out.
func TestWhatABackendCannotDoIsRefusedByName(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.madeWithBackend()
		refused := func(what string, err error, words ...string) {
			t.Helper()
			e, ok := errors.AsType[*instance.Error](err)
			if !ok || e.Code != instance.FailedPrecondition || e.Reason != instance.ExternalBackend {
				t.Errorf("%s: %v", what, err)
				return
			}
			for _, w := range append(words, "has a backend (10.0.0.5:6379), whose engine is not Sealane's") {
				if !strings.Contains(e.Message, w) {
					t.Errorf("%s: %q does not say %q", what, e.Message, w)
				}
			}
		}
		settings := map[string]func(*instance.Spec){
			"redis_configs[\"maxmemory-policy\"]": func(s *instance.Spec) {
				s.RedisConfigs = map[string]string{"maxmemory-policy": "noeviction", "timeout": "60"}
			},
			"persistence_config":  func(s *instance.Spec) { s.SnapshotPeriod = time.Hour },
			"maintenance_policy":  func(s *instance.Spec) { s.Maintenance = &instance.MaintenancePolicy{} },
			"maintenance_version": func(s *instance.Spec) { s.MaintenanceVersion = "7.2.5" },
			"redis_version":       func(s *instance.Spec) { s.RedisVersion = "REDIS_7_0" },
		}
		for _, field := range slices.Sorted(maps.Keys(settings)) {
			spec := backendSpec()
			settings[field](&spec)
			_, err := m.server.Create(named("second"), spec, "v1")
			refused("create with "+field, err, field+": ")
			_, err = m.server.Update(t.Context(), first, settings[field], "v1")
			refused("update of "+field, err, field+": ")
		}
		_, err := m.server.Upgrade(t.Context(), first, "REDIS_7_2", "v1")
		refused("upgrade", err, "redis_version: ", "--backend")
		_, err = m.server.Import(t.Context(), first, "gs://b/o", "v1")
		refused("import", err, "input_config: ")
		_, err = m.server.Export(t.Context(), first, "gs://b/o", "v1")
		refused("export", err, "output_config: ", "BGSAVE")
		_, err = m.server.RescheduleMaintenance(t.Context(), first, instance.Immediately, time.Time{}, "v1")
		refused("reschedule", err)
		refused("restart", m.server.Engines.Restart(t.Context(), first, true), "restart it where it runs")
		if i := m.get(first); i.State != instance.Ready || verbs(i) != "create" {
			t.Errorf("%s, %s", i.State, verbs(i))
		}
	})
}

// A change is tried before it is recorded; force records it all the same.
func TestBackendThatCannotServeIsNotChangedTo(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.madeWithBackend()
		fault := &backend.Fault{Kind: diagnosis.PortClosed, Sentence: "nothing listens there", Fix: "start it"}
		m.set(func() { m.probe = func(backend.Server) error { return fault } })
		err := m.moveBackend("10.0.0.6:6379", "other")
		if e, ok := errors.AsType[*instance.Error](err); !ok || e.Reason != instance.BackendNotServing || !strings.Contains(e.Message, "nothing listens there; start it; nothing was changed") {
			t.Errorf("%v", err)
		}
		if b := m.get(first).Spec.Backend; b.Address != "10.0.0.5:6379" {
			t.Errorf("%v", b)
		}
		m.set(func() { m.onEnsure = func(context.Context, instance.Node) error { return fault } })
		err = m.server.Backends.Change(t.Context(), first, func(s *backend.Server) error { s.Address, s.Password = "10.0.0.7:6379", "other"; return nil }, true)
		if i := m.get(first); err != nil || i.Spec.Backend.Address != "10.0.0.7:6379" || i.State != instance.Repairing || i.StatusMessage != fault.Error() {
			t.Errorf("%v, %v, %s, %q", err, i.Spec.Backend, i.State, i.StatusMessage)
		}
		m.set(func() { m.onEnsure, m.probe = nil, nil })
		m.waitReady(first)
		// The password that is kept is not sent anywhere else.
		for field, change := range map[string]func(*backend.Server){
			"address": func(s *backend.Server) { s.Address = "10.0.0.8:6379" },
			"tls":     func(s *backend.Server) { s.TLS, s.Plaintext = true, false },
		} {
			err := m.server.Backends.Change(t.Context(), first, func(s *backend.Server) error { change(s); return nil }, true)
			wantError(t, "another "+field, err, instance.InvalidArgument, "backend.password", "10.0.0.7:6379", "give it again")
		}
		for what, err := range map[string]error{
			"plaintext": m.server.Backends.Change(t.Context(), first, func(s *backend.Server) error { s.Plaintext = false; return nil }, true),
			"engine":    changeOfNone(t, m),
		} {
			if code := instance.CodeOf(err); code != instance.InvalidArgument && code != instance.NotFound {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// An update goes on when a backend is back after a moment. When it stays away the update fails, and the instance is as it was before.
func TestUpdateWhileTheBackendIsAway(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.madeWithBackend()
		fault := fmt.Errorf("%w: %w", instance.ErrFatal, &backend.Fault{Kind: diagnosis.PortClosed, Sentence: "nothing listens there", Fix: "start it"})
		away := func(d time.Duration) {
			back := time.Now().Add(d)
			m.set(func() {
				m.onEnsure = func(context.Context, instance.Node) error {
					if time.Now().Before(back) {
						return fault
					}
					return nil
				}
			})
		}
		rename := func(to string) instance.Operation {
			op, err := m.server.Update(t.Context(), first, func(s *instance.Spec) { s.DisplayName = to }, "v1")
			if err != nil {
				t.Fatal(err)
			}
			return op
		}
		away(5 * time.Second)
		op := rename("after a restart")
		if i := m.waitReady(first); i.Spec.DisplayName != "after a restart" || m.operation(op).Failure != nil {
			t.Errorf("%q, %+v", i.Spec.DisplayName, m.operation(op).Failure)
		}
		away(time.Hour)
		op = rename("in vain")
		m.wait("the update fails", func() bool { return m.operation(op).Failure != nil })
		if i := m.get(first); i.Spec.DisplayName != "after a restart" || !strings.Contains(m.operation(op).Failure.Message, "nothing listens there; start it; the instance is as it was before") {
			t.Errorf("%q, %+v", i.Spec.DisplayName, m.operation(op).Failure)
		}
		m.set(func() { m.onEnsure = nil })
		m.waitReady(first)
	})
}

// changeOfNone changes the backend of an instance that has an engine.
func changeOfNone(t *testing.T, m *machine) error {
	t.Helper()
	m.made(named("own"))
	return m.server.Backends.Change(t.Context(), named("own"), func(*backend.Server) error { return nil }, false)
}

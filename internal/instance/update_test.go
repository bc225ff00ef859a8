package instance_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/instance"
)

// refusePolicy makes engines refuse an eviction policy, as one that doesn't know it would.
func refusePolicy(policy string) func(context.Context, instance.Node) error {
	return func(_ context.Context, n instance.Node) error {
		if n.Directives["maxmemory-policy"] == policy {
			return fmt.Errorf("%w: the engine refuses maxmemory-policy %q", instance.ErrFatal, policy)
		}
		return nil
	}
}

// update asks for an update and waits for its end.
func (m *machine) update(name instance.Name, change instance.Change) instance.Operation {
	m.t.Helper()
	op, err := m.server.Update(m.t.Context(), name, change, "v1")
	if err != nil {
		m.t.Fatal(err)
	}
	m.wait("the end of the update", func() bool { return m.operation(op).Done })
	return m.operation(op)
}

// What an update changes reaches the running node: no process is restarted.
func TestUpdateReachesTheRunningNode(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		spec := plainSpec()
		spec.RedisVersion, spec.TransitEncryption = "REDIS_6_X", true
		spec.RedisConfigs = map[string]string{"notify-keyspace-events": "KEA"}
		if _, err := m.server.Create(first, spec, "v1"); err != nil {
			t.Fatal(err)
		}
		m.waitReady(first)
		if n := m.node(first); n.Gateway.MaxClients != 1000 || n.Directives["maxmemory"] != "1073741824" || n.Directives["notify-keyspace-events"] != "KEA" {
			t.Fatalf("at first: %d clients, %v", n.Gateway.MaxClients, n.Directives)
		}
		for _, c := range []struct {
			size    int32
			configs map[string]string
			clients int
			want    map[string]string
		}{
			{5, nil, 2500, map[string]string{"maxmemory": "5368709120", "notify-keyspace-events": "", "maxmemory-policy": "volatile-lru"}},
			{11, map[string]string{"maxmemory-gb": "8", "maxmemory-policy": "noeviction"}, 15000, map[string]string{"maxmemory": "8589934592", "maxmemory-policy": "noeviction"}},
			{36, map[string]string{"timeout": "60"}, 30000, map[string]string{"maxmemory": "38654705664", "maxmemory-policy": "volatile-lru"}},
			{101, nil, 65000, nil},
			{1, nil, 1000, map[string]string{"maxmemory": "1073741824"}},
		} {
			if op := m.update(first, func(s *instance.Spec) { s.MemorySizeGB, s.RedisConfigs = c.size, c.configs }); op.Failure != nil || op.Before != nil {
				t.Fatalf("%d GB: %+v", c.size, op)
			}
			n := m.node(first)
			for name, value := range c.want {
				if n.Directives[name] != value {
					t.Errorf("%d GB: %s is %q; want %q", c.size, name, n.Directives[name], value)
				}
			}
			if n.Gateway.MaxClients != c.clients || n.starts != 1 {
				t.Errorf("%d GB: %d clients, started %d times; want %d, once", c.size, n.Gateway.MaxClients, n.starts, c.clients)
			}
		}
	})
}

// What can't be done is refused at once, by name, and nothing of the rest is done.
func TestUpdateRefusesAtOnceWhatCannotBe(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		spec := plainSpec()
		spec.MemorySizeGB, spec.RedisConfigs = 10, map[string]string{"databases": "32"}
		if _, err := m.server.Create(first, spec, "v1"); err != nil {
			t.Fatal(err)
		}
		m.waitReady(first)
		before := m.get(first)
		m.set(func() {
			m.info = func() (map[string]string, error) {
				return map[string]string{"used_memory": fmt.Sprint(5<<30 + 1<<29)}, nil
			}
		})
		for name, c := range map[string]struct {
			change instance.Change
			code   instance.Code
			says   []string
		}{
			"too small":         {func(s *instance.Spec) { s.MemorySizeGB = 5 }, instance.FailedPrecondition, []string{"memory_size_gb: 5", "5.5 GiB", "5.0 GiB", "ask for 6"}},
			"maxmemory too":     {func(s *instance.Spec) { s.MemorySizeGB, s.RedisConfigs["maxmemory-gb"] = 6, "3" }, instance.FailedPrecondition, []string{"5.5 GiB", "3.0 GiB"}},
			"zero":              {func(s *instance.Spec) { s.MemorySizeGB = 0 }, instance.InvalidArgument, []string{"memory_size_gb: 0: want 1 to 300"}},
			"another databases": {func(s *instance.Spec) { s.RedisConfigs["databases"] = "16" }, instance.InvalidArgument, []string{`redis_configs["databases"]`, "32"}},
			"without databases": {func(s *instance.Spec) { s.RedisConfigs = nil }, instance.InvalidArgument, []string{"databases"}},
			"maxmemory-gb":      {func(s *instance.Spec) { s.RedisConfigs["maxmemory-gb"] = "11" }, instance.InvalidArgument, []string{"maxmemory-gb", "11"}},
			"two windows": {func(s *instance.Spec) {
				s.Maintenance = &instance.MaintenancePolicy{Windows: make([]instance.MaintenanceWindow, 2)}
			}, instance.InvalidArgument, []string{"maintenance_policy.weekly_maintenance_window", "one at most"}},
		} {
			_, err := m.server.Update(t.Context(), first, func(s *instance.Spec) {
				s.RedisConfigs, s.DisplayName = maps.Clone(s.RedisConfigs), "changed"
				c.change(s)
			}, "v1")
			wantError(t, name, err, c.code, c.says...)
		}
		m.set(func() { m.info = func() (map[string]string, error) { return nil, instance.ErrNoEngine } })
		_, err := m.server.Update(t.Context(), first, func(s *instance.Spec) { s.MemorySizeGB = 9 }, "v1")
		wantError(t, "no engine to ask", err, instance.FailedPrecondition, "can't be asked")
		if after := m.get(first); after.Spec.DisplayName != before.Spec.DisplayName || after.Spec.MemorySizeGB != 10 || len(after.Operations) != 1 {
			t.Errorf("afterwards: %+v", after.Spec)
		}
		m.set(func() { m.info = nil })
		if op := m.update(first, func(s *instance.Spec) { s.MemorySizeGB = 6 }); op.Failure != nil {
			t.Errorf("a size that fits: %+v", op.Failure)
		}
	})
}

// An update that the engine refuses leaves the instance as it was: its settings, its password and its node.
func TestUpdateThatTheEngineRefusesIsUndone(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		spec := plainSpec()
		spec.AuthEnabled = true
		if _, err := m.server.Create(first, spec, "v1"); err != nil {
			t.Fatal(err)
		}
		m.waitReady(first)
		auth, err := m.server.AuthStrings.Get(first)
		if err != nil {
			t.Fatal(err)
		}
		m.set(func() { m.onEnsure = refusePolicy("allkeys-lfu") })
		op := m.update(first, func(s *instance.Spec) {
			s.MemorySizeGB, s.AuthEnabled, s.RedisConfigs = 7, false, map[string]string{"maxmemory-policy": "allkeys-lfu"}
		})
		if f := op.Failure; f == nil || f.Code != instance.FailedPrecondition || !strings.Contains(f.Message, `maxmemory-policy "allkeys-lfu"`) || !strings.Contains(f.Message, "as it was before") {
			t.Fatalf("the operation: %+v", f)
		}
		time.Sleep(time.Second)
		i := m.waitReady(first)
		again, err := m.server.AuthStrings.Get(first)
		if err != nil || again != auth || !i.Spec.AuthEnabled || i.Spec.MemorySizeGB != spec.MemorySizeGB || len(i.Spec.RedisConfigs) != 0 {
			t.Errorf("afterwards: %+v; the password is the same: %t, %v", i.Spec, again == auth, err)
		}
		if n := m.node(first); len(n.PasswordHashes) != 1 || n.Directives["maxmemory-policy"] != "volatile-lru" {
			t.Errorf("its node has %d passwords and %v", len(n.PasswordHashes), n.Directives)
		}
		if op := m.update(first, func(s *instance.Spec) { s.MemorySizeGB = 7 }); op.Failure != nil {
			t.Errorf("another update: %+v", op.Failure)
		}
	})
}

package instance_test

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
)

// otherPath is a data path that is not the default.
var otherPath = map[gateway.DataPath]gateway.DataPath{
	gateway.Transparent: gateway.Multiplexed, gateway.Multiplexed: gateway.Transparent,
}[instance.DefaultDataPath]

// pathOf is the path that a snapshot stands for.
func pathOf(s gateway.Snapshot) gateway.DataPath { return cmp.Or(s.DataPath, gateway.Transparent) }

func TestDataPathChangesLive(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		plain, serving, applied := m.node(first).Gateway.Digest(), instance.DefaultDataPath, 1
		for _, set := range []gateway.DataPath{
			instance.DefaultDataPath, // chosen now, and as it was
			gateway.Multiplexed, gateway.Multiplexed, gateway.Transparent, gateway.Multiplexed, gateway.Transparent,
			"", // whatever the default is
		} {
			want := cmp.Or(set, instance.DefaultDataPath)
			if want != serving {
				serving, applied = want, applied+1
			}
			before := time.Now()
			if err := m.server.SetDataPath(t.Context(), first, set); err != nil {
				t.Fatalf("set %q: %v", set, err)
			}
			// Once it returns, it is served; and it doesn't wait for the next look.
			n, i := m.node(first), m.get(first)
			if n.applied != applied || i.Spec.DataPath != set || time.Since(before) > time.Second {
				t.Errorf("set %q: snapshot %d serves, %q is recorded, after %v; want snapshot %d", set, n.applied, i.Spec.DataPath, time.Since(before), applied)
			}
			// Nothing is said of the transparent path: gateways may be older than the choice.
			if got := pathOf(n.Gateway); got != want || n.Gateway.DataPath == gateway.Transparent {
				t.Errorf("set %q: the snapshot says %q", set, n.Gateway.DataPath)
			}
			if i.State != instance.Ready || verbs(i) != "create" || n.starts != 1 {
				t.Errorf("set %q: %s, operations %s, started %d times", set, i.State, verbs(i), n.starts)
			}
			if p, err := m.server.DataPlanes.Get(t.Context(), first); err != nil || p.Path != want {
				t.Errorf("set %q: shown as %q, %v", set, p.Path, err)
			}
		}
		if got := m.node(first).Gateway.Digest(); got != plain {
			t.Error("who never chose a path and who chose the default have different snapshots")
		}
		if m.logged("path=multiplexed") == 0 {
			t.Errorf("log: %s", m.log.String())
		}
	})
}

func TestDataPathSurvivesARestart(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		if err := m.server.SetDataPath(t.Context(), first, otherPath); err != nil {
			t.Fatal(err)
		}
		m.kill()
		m.boot()
		m.server.Settled(t.Context())
		if p, err := m.server.DataPlanes.Get(t.Context(), first); err != nil || p.Path != otherPath {
			t.Errorf("after a restart: %q, %v", p.Path, err)
		}
		if n := m.node(first); n.applied != 2 || pathOf(n.Gateway) != otherPath {
			t.Errorf("after a restart the gateway serves %q, snapshot %d", n.Gateway.DataPath, n.applied)
		}
		// The server learns anew what its nodes serve.
		if err := m.server.SetDataPath(t.Context(), first, otherPath); err != nil || m.node(first).applied != 2 {
			t.Errorf("set again: %v", err)
		}
		// An update of the Memorystore API knows nothing of it and leaves it alone.
		if _, err := m.server.Update(t.Context(), first, func(s *instance.Spec) { s.DisplayName = "x" }, "v1"); err != nil {
			t.Fatal(err)
		}
		if i := m.waitReady(first); i.Spec.DataPath != otherPath {
			t.Errorf("after an update: %q", i.Spec.DataPath)
		}
	})
}

func TestDataPathIsRefused(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		set := func() error { return m.server.SetDataPath(t.Context(), first, gateway.Multiplexed) }
		wantError(t, "of nothing", set(), instance.NotFound, "Resource '"+first.String()+"' was not found")
		_, err := m.server.DataPlanes.Get(t.Context(), first)
		wantError(t, "show nothing", err, instance.NotFound)

		m.onEnsure = hang
		op := m.create(first)
		wantError(t, "while it is created", set(), instance.FailedPrecondition, "CREATING", op.ID)
		m.set(func() { m.onEnsure = nil })
		m.kill() // the hook of a step under way stays
		m.boot()
		m.waitReady(first)

		if _, err := m.server.Delete(first, "v1"); err != nil {
			t.Fatal(err)
		}
		if err := set(); instance.CodeOf(err) != instance.FailedPrecondition && instance.CodeOf(err) != instance.NotFound {
			t.Errorf("while it is deleted: %v", err)
		}
		m.waitGone(first)
		wantError(t, "of what is deleted", set(), instance.NotFound)
	})
}

// A change that can't be served is kept, told, and can be taken back: another path may be the way out of a trouble.
func TestDataPathThatIsNotServed(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		m.set(func() {
			m.onEnsure = func(_ context.Context, n instance.Node) error {
				if pathOf(n.Gateway) == otherPath {
					return errors.New("gateway: invalid snapshot")
				}
				return nil
			}
		})
		before := time.Now()
		err := m.server.SetDataPath(t.Context(), first, otherPath)
		wantError(t, "set", err, instance.Unavailable, first.String(), "recorded", "gateway: invalid snapshot")
		if took := time.Since(before); took != instance.ServeTimeout {
			t.Errorf("it gave up after %v", took)
		}
		p, err := m.server.DataPlanes.Get(t.Context(), first)
		if err != nil || p.Path != otherPath || p.Problem != "gateway: invalid snapshot" {
			t.Errorf("meanwhile: %+v, %v", p, err)
		}
		// Neither does a caller wait who has gone.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantError(t, "set again", m.server.SetDataPath(ctx, first, otherPath), instance.Unavailable)
		if took := time.Since(before); took != instance.ServeTimeout+time.Second {
			t.Errorf("it gave up after %v", took)
		}
		if err := m.server.SetDataPath(t.Context(), first, instance.DefaultDataPath); err != nil {
			t.Errorf("take it back: %v", err)
		}
		if i := m.get(first); i.State != instance.Ready || m.node(first).applied != 1 {
			t.Errorf("afterwards: %s, snapshot %d", i.State, m.node(first).applied)
		}
		m.set(func() { m.onEnsure = nil })
	})
}

func TestWaitingForADataPathEnds(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		m.made(named("second"))
		m.set(func() { m.onEnsure = func(context.Context, instance.Node) error { return errors.New("not yet") } })
		set := func(n instance.Name) <-chan error {
			outcome := make(chan error, 1)
			go func() { outcome <- m.server.SetDataPath(t.Context(), n, otherPath) }()
			synctest.Wait()
			return outcome
		}
		deleted, stopped := set(first), set(named("second"))
		before := time.Now()
		if _, err := m.server.Delete(first, "v1"); err != nil {
			t.Fatal(err)
		}
		wantError(t, "with the instance", <-deleted, instance.NotFound, first.String())
		m.server.Close()
		wantError(t, "with the server", <-stopped, instance.Unavailable, "recorded", "stopping")
		if took := time.Since(before); took > time.Second {
			t.Errorf("it took %v", took)
		}
		m.set(func() { m.onEnsure = nil })
		m.boot()
		m.wait("second is as it was told", func() bool { return pathOf(m.node(named("second")).Gateway) == otherPath })
	})
}

func TestDataPlaneShowsTheGateway(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.onEnsure = hang
		m.create(first)
		if p, err := m.server.DataPlanes.Get(t.Context(), first); err != nil || !reflect.DeepEqual(p, instance.DataPlane{Path: instance.DefaultDataPath}) {
			t.Errorf("while it is created: %+v, %v", p, err)
		}
		m.set(func() { m.onEnsure = nil })
		m.kill()
		m.boot()
		m.waitReady(first)
		for name, c := range map[string]struct {
			status gateway.Status
			err    error
			want   instance.DataPlane
		}{
			"all is well": {
				gateway.Status{Clients: 2, Limit: 500, LimitedBy: "open files", Connections: 3, Accepted: 5, Rejected: 1}, nil,
				instance.DataPlane{Clients: 2, Limit: 500, LimitedBy: "open files", Connections: 3, Accepted: 5, Rejected: 1},
			},
			"the gateway's own trouble":     {gateway.Status{Problem: "open listener"}, nil, instance.DataPlane{Problem: "open listener"}},
			"a gateway's warning":           {gateway.Status{Warning: "too many"}, nil, instance.DataPlane{Problem: "too many"}},
			"a gateway that doesn't answer": {gateway.Status{}, errors.New("dial /some/path"), instance.DataPlane{Problem: "the gateway does not answer"}},
		} {
			m.set(func() { m.status = func() (gateway.Status, error) { return c.status, c.err } })
			c.want.Path = instance.DefaultDataPath
			if got, err := m.server.DataPlanes.Get(t.Context(), first); err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
			}
		}
	})
}

// The gateway closes idle clients, on either data path; the engine is told nothing.
func TestTimeoutIsTheGateways(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		for id, c := range map[string]struct {
			timeout string
			want    time.Duration
		}{"never": {"0", 0}, "soon": {"7", 7 * time.Second}, "late": {"2147483647", (1<<31 - 1) * time.Second}} {
			spec := plainSpec()
			spec.RedisConfigs = map[string]string{"timeout": c.timeout}
			if _, err := m.server.Create(named(id), spec, "v1"); err != nil {
				t.Fatal(err)
			}
			i, n := m.waitReady(named(id)), m.node(named(id))
			if _, told := n.Directives["timeout"]; told || n.Gateway.IdleTimeout != c.want || i.Spec.RedisConfigs["timeout"] != c.timeout {
				t.Errorf("timeout %s: %v, shown as %v; the engine is told: %t", c.timeout, n.Gateway.IdleTimeout, i.Spec.RedisConfigs, told)
			}
		}
	})
}

// A policy reaches the gateway with the next snapshot, stays with the record, and is checked against the instance's own key.
func TestTLSPolicyChangesLive(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.create(first)
		m.waitReady(first)
		set := func(p gateway.TLSPolicy) error {
			return m.server.DataPlanes.Change(t.Context(), first, func(s *instance.DataPlaneSettings) { s.TLS = p })
		}
		strict := gateway.TLSPolicy{MinTLSVersion: "1.3", Groups: []string{"X25519MLKEM768"}}
		if err := set(strict); err != nil {
			t.Fatal(err)
		}
		if got := m.node(first).Gateway.TLSPolicy; !reflect.DeepEqual(got, strict) {
			t.Errorf("the gateway serves %+v; want %+v", got, strict)
		}
		wantError(t, "all that is wrong", set(gateway.TLSPolicy{MinTLSVersion: "1.0", Groups: []string{"X448"}}), instance.InvalidArgument,
			"data_plane.min_tls_version", "data_plane.groups[0]")
		wantError(t, "for another key", set(gateway.TLSPolicy{TLS12Ciphers: []string{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}}),
			instance.InvalidArgument, "data_plane.tls12_ciphers", "ECDSA")
		// A change of the path leaves it.
		if err := m.server.SetDataPath(t.Context(), first, otherPath); err != nil {
			t.Fatal(err)
		}
		m.kill()
		m.boot()
		m.waitReady(first)
		p, err := m.server.DataPlanes.Get(t.Context(), first)
		if got := m.node(first).Gateway.TLSPolicy; err != nil || !reflect.DeepEqual(got, strict) || !reflect.DeepEqual(p.TLS, strict) {
			t.Errorf("after a restart the gateway serves %+v, shown is %+v, %v", got, p.TLS, err)
		}
	})
}

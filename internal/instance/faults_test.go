package instance_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/plaintext"
)

// scenario is a user who wants something and asks for it until it is there.
type scenario struct {
	name    string
	prepare func(*machine)
	ask     func(*machine) error // only while it has not been asked for
	there   func(*machine) bool
	verbs   string // the operations that have been done afterwards
	commit  int    // the step that records the wish; 0: the first
}

var first = named("first")

func scenarios() []scenario {
	exists := func(m *machine) bool {
		_, err := m.server.Get(first)
		return instance.CodeOf(err) != instance.NotFound
	}
	ready := func(m *machine) bool {
		i, err := m.server.Get(first)
		return err == nil && i.State == instance.Ready
	}
	make := func(m *machine) { m.made(first) }
	later := func(m *machine) {
		m.made(first)
		time.Sleep(time.Minute)
	}
	remake := func(m *machine) {
		m.made(first)
		if _, err := m.server.Delete(first, "v1"); err != nil {
			m.t.Fatal(err)
		}
		m.waitGone(first)
	}
	create := func(m *machine) error {
		if exists(m) {
			return nil
		}
		_, err := m.server.Create(first, plainSpec(), "v1")
		return err
	}
	return []scenario{
		{"create", func(*machine) {}, create, ready, "create", 0},
		{"create again", remake, create, ready, "create delete create", 0},
		{
			"update", make,
			func(m *machine) error {
				if i, err := m.server.Get(first); err != nil || i.Spec.DisplayName == "after" {
					return err
				}
				_, err := m.server.Update(context.Background(), first, func(s *instance.Spec) { s.DisplayName = "after" }, "v1")
				return err
			},
			func(m *machine) bool { return ready(m) && m.get(first).Spec.DisplayName == "after" },
			"create update", 0,
		},
		{
			"update that the engine refuses",
			func(m *machine) {
				m.made(first)
				m.onEnsure = refusePolicy("allkeys-lru")
			},
			func(m *machine) error {
				if i, err := m.server.Get(first); err != nil || len(i.Operations) > 1 {
					return err
				}
				_, err := m.server.Update(context.Background(), first, func(s *instance.Spec) {
					s.MemorySizeGB, s.RedisConfigs = 5, map[string]string{"maxmemory-policy": "allkeys-lru"}
				}, "v1")
				return err
			},
			func(m *machine) bool {
				return ready(m) && m.get(first).Spec.MemorySizeGB == 1 && len(m.get(first).Operations) == 2
			},
			"create update(failed precondition)", 0,
		},
		{
			"upgrade", make,
			func(m *machine) error {
				if i, err := m.server.Get(first); err != nil || len(i.Operations) > 1 {
					return err
				}
				_, err := m.server.Upgrade(context.Background(), first, "VALKEY_8_0", "v1")
				return err
			},
			func(m *machine) bool {
				i, err := m.server.Get(first)
				return err == nil && ready(m) && i.Spec.RedisVersion == "VALKEY_8_0" && i.EngineSlot == 1
			},
			"create upgrade", 0,
		},
		{
			"delete", make,
			func(m *machine) error {
				if i, err := m.server.Get(first); err != nil || i.State == instance.Deleting {
					return err
				}
				_, err := m.server.Delete(first, "v1")
				return err
			},
			func(m *machine) bool { return !exists(m) },
			"create delete", 0,
		},
		{
			"cancel",
			func(m *machine) {
				m.onEnsure = hang
				m.create(first)
				time.Sleep(time.Second)
			},
			func(m *machine) error {
				ops, err := m.server.Operations.List("p1", "local")
				if err != nil || ops[0].CancelRequested {
					return err
				}
				return m.server.Operations.Cancel("p1", "local", ops[0].ID)
			},
			func(m *machine) bool { return !exists(m) },
			"create(cancelled)", 0,
		},
		{
			"data path", make,
			func(m *machine) error { return m.server.SetDataPath(m.t.Context(), first, otherPath) },
			func(m *machine) bool { return ready(m) && pathOf(m.node(first).Gateway) == otherPath },
			"create", 0,
		},
		{
			"rotate the leaf", later,
			func(m *machine) error {
				if leafRotated(m) {
					return nil
				}
				return m.server.Certificates.RenewLeaf(m.t.Context(), first)
			},
			func(m *machine) bool { return ready(m) && leafRotated(m) && m.node(first).applied == 2 },
			"create", 3,
		},
		{
			"rotate the CA", later,
			func(m *machine) error {
				if len(m.stored()[0].Certificates.CAs) > 1 {
					return nil
				}
				return m.server.Certificates.RotateCA(m.t.Context(), first, nil)
			},
			func(m *machine) bool {
				i, err := m.server.Get(first)
				return err == nil && ready(m) && len(i.ServerCAs) == 2 && bytes.Equal(m.node(first).Bundle, i.Certificates.At(m.now()).Bundle())
			},
			"create", 5,
		},
		{
			"give the CA up", later,
			func(m *machine) error {
				if !m.stored()[0].Certificates.CAs[0].Compromised.IsZero() {
					return nil
				}
				return m.compromise(1)
			},
			func(m *machine) bool {
				i, err := m.server.Get(first)
				return err == nil && ready(m) && i.Certificates.Leaf.Issuer == 2 && m.node(first).applied == 2
			},
			"create", 4,
		},
		{
			"create with a backend", func(*machine) {},
			func(m *machine) error {
				if exists(m) {
					return nil
				}
				_, err := m.server.Create(first, backendSpec(), "v1")
				return err
			},
			func(m *machine) bool {
				return ready(m) && m.node(first).Gateway.Backend.Password == backendPassword && m.node(first).AdminPassword == ""
			},
			"create", 0,
		},
		{
			"change of a backend", func(m *machine) { m.madeWithBackend() },
			func(m *machine) error { return m.moveBackend("10.0.0.6:6379", "another-password") },
			func(m *machine) bool {
				if !ready(m) {
					return false
				}
				b := m.node(first).Gateway.Backend
				return b.Address == "10.0.0.6:6379" && b.Password == "another-password" && b.User == "app"
			},
			"create", 0,
		},
		modeScenario("prefer", instance.ModePreferred, "6378+ 6379-", 3, prefer),
		modeScenario("enforce", instance.ModeEnforced, "6378+ 6379+", 1, enforce, prefer),
		modeScenario("roll back", instance.ModePreferred, "6378+ 6379-", 1, func(m *machine) error { return m.server.Encryption.Rollback(m.t.Context(), first) }, prefer, enforce),
		modeScenario("disable", instance.ModeDisabled, "6379-", 1, func(m *machine) error { return m.server.Encryption.Disable(m.t.Context(), first, false) }, prefer),
		{
			"renew",
			func(m *machine) {
				m.made(first)
				m.jump(180 * 24 * time.Hour)
			},
			func(*machine) error { return nil },
			func(m *machine) bool {
				i, err := m.server.Get(first)
				return err == nil && m.now().Sub(i.Certificates.Leaf.Created) < time.Hour && m.node(first).applied == 2
			},
			"create", 0,
		},
	}
}

func prefer(m *machine) error { return m.server.Encryption.Prefer(m.t.Context(), first, false) }

func enforce(m *machine) error {
	_, err := m.server.Encryption.Enforce(m.t.Context(), first, 0, true)
	return err
}

// modeScenario is one step of an instance that was created without TLS, after others.
func modeScenario(name string, want instance.EncryptionMode, listens string, commit int, ask func(*machine) error, before ...func(*machine) error) scenario {
	return scenario{
		name, func(m *machine) {
			m.status = func() (gateway.Status, error) { return gateway.Status{Plaintext: &plaintext.Counts{}}, nil }
			m.madePlain()
			for _, step := range before {
				if err := step(m); err != nil {
					m.t.Fatal(err)
				}
			}
		},
		ask,
		func(m *machine) bool {
			i, err := m.server.Get(first)
			if err != nil || i.State != instance.Ready || i.EncryptionMode() != want {
				return false
			}
			return m.listens() == listens
		},
		"create", commit,
	}
}

// leafRotated says whether an operator's new leaf is committed. Time passes before one asks.
func leafRotated(m *machine) bool {
	i := m.stored()[0]
	return i.Certificates.Leaf.Created.After(i.Certificates.CAs[0].Created)
}

func hang(ctx context.Context, _ instance.Node) error {
	<-ctx.Done()
	return ctx.Err()
}

// Whatever step of whatever operation goes wrong in whatever way, the user gets what they asked for, once.
func TestEveryStepOfEveryOperationMaySafelyFail(t *testing.T) {
	t.Parallel()
	for _, s := range scenarios() {
		for _, f := range faults {
			t.Run(s.name+"/"+string(f), func(t *testing.T) {
				t.Parallel()
				for at, hit := 1, true; hit; at++ {
					t.Run(fmt.Sprintf("step %d", at), func(t *testing.T) {
						hit = false // also when the run ends early
						synctest.Test(t, func(t *testing.T) { hit = s.run(t, at, f) })
					})
					if at == 1 && !hit {
						t.Fatal("no step was taken")
					}
				}
			})
		}
	}
}

// run plays the scenario with a fault at a step; false: there was no such step.
func (s scenario) run(t *testing.T, at int, f fault) bool {
	m := newMachine(t)
	s.prepare(m)
	hit := m.arm(at, f)
	for end := time.Now().Add(patience); !s.there(m); time.Sleep(time.Second) {
		if time.Now().After(end) {
			t.Fatalf("did not converge; log:\n%s", m.log.String())
		}
		err := s.ask(m)
		synctest.Wait()
		if m.server.dead.Load() {
			m.server.Close()
			m.boot()
		} else if err != nil && f != doneButBlind && (at > max(s.commit, 1) || f == doneButFailed && at == max(s.commit, 1)) {
			t.Errorf("the user is told: %v", err)
		}
	}
	was := hit()
	m.arm(0, "")
	time.Sleep(3 * time.Minute) // nothing more may happen
	m.mu.Lock()
	steps := m.steps
	m.mu.Unlock()
	if steps != 0 {
		t.Errorf("%d more steps after the goal was reached", steps)
	}
	all := m.stored()
	if len(all) != 1 || verbs(all[0]) != s.verbs {
		t.Errorf("%d records, operations of the first %q; want %q", len(all), verbs(all[0]), s.verbs)
	}
	for id, n := range m.nodes {
		if n.starts != 1 {
			t.Errorf("node %s was started %d times", id, n.starts)
		}
	}
	return was
}

// A second server over the same state finds what the first left, whatever it was doing with many instances.
func TestKilledServerLosesNothingOfManyInstances(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		var names []instance.Name
		for n := range 8 {
			names = append(names, named(fmt.Sprintf("i%d", n)))
		}
		for at, n := range names {
			m.create(n)
			if at%3 == 0 {
				m.kill()
				m.boot()
			}
		}
		for _, n := range names {
			m.waitReady(n)
		}
		before, err := m.server.List("p1", "-")
		if err != nil {
			t.Fatal(err)
		}
		m.kill()
		m.boot()
		m.server.Settled(t.Context())
		after, err := m.server.List("p1", "-")
		if err != nil || len(after) != len(names) {
			t.Fatalf("%d instances after the restart, %v; want %d", len(after), err, len(names))
		}
		slices.SortFunc(before, byName)
		for at := range after {
			if after[at].UID != before[at].UID || after[at].Address() != before[at].Address() || after[at].State != instance.Ready {
				t.Errorf("%s: %s at %s, was %s at %s", after[at].Name, after[at].UID, after[at].Address(), before[at].UID, before[at].Address())
			}
			if n := m.node(after[at].Name); n.starts != 1 || n.stops != 0 {
				t.Errorf("%s: its node was started %d times and stopped %d times", after[at].Name, n.starts, n.stops)
			}
		}
	})
}

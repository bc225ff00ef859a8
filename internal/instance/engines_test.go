package instance_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/instance"
)

func TestRestartEndsTheEngineAndStartsItAgain(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		if err := m.server.Engines.Restart(t.Context(), first, false); err != nil {
			t.Fatal(err)
		}
		if n := m.node(first); !n.running || n.starts != 2 {
			t.Errorf("running %v after %d starts, want true after 2", n.running, n.starts)
		}
		if i := m.get(first); i.State != instance.Ready {
			t.Errorf("state %s, want READY", i.State)
		}
		wantError(t, "restart of none", m.server.Engines.Restart(t.Context(), named("none"), false), instance.NotFound)
	})
}

// What a worker waits for is just the engine that is to be restarted.
func TestRestartDoesNotWaitForTheStepUnderWay(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		stuck := true
		m.set(func() {
			m.onEnsure = func(ctx context.Context, _ instance.Node) error {
				if !stuck {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}
			m.onRestart = func(context.Context, instance.StopOptions) error { stuck = false; return nil }
		})
		time.Sleep(time.Minute)
		began := time.Now()
		if err := m.server.Engines.Restart(t.Context(), first, true); err != nil || time.Since(began) > time.Second {
			t.Errorf("%v, after %v", err, time.Since(began))
		}
	})
}

func TestRestartThatIsRefusedNamesThePrice(t *testing.T) {
	for period, price := range map[time.Duration]string{
		0:         "all its data are lost, because its persistence is off",
		time.Hour: "what was written since its last snapshot is lost",
	} {
		t.Run("snapshots every "+period.String(), func(t *testing.T) {
			story(t, func(t *testing.T, m *machine) {
				spec := plainSpec()
				spec.SnapshotPeriod = period
				if _, err := m.server.Create(first, spec, "v1"); err != nil {
					t.Fatal(err)
				}
				m.waitReady(first)
				m.set(func() {
					m.onRestart = func(_ context.Context, how instance.StopOptions) error {
						if how.Force {
							return nil
						}
						return errors.New("it is UNKILLABLE")
					}
				})
				err := m.server.Engines.Restart(t.Context(), first, false)
				wantError(t, "restart", err, instance.FailedPrecondition, "it is UNKILLABLE", "force ends it, and "+price)
				if e, ok := errors.AsType[*instance.Error](err); !ok || e.Reason != instance.EngineStaysUp || !strings.HasPrefix(e.Metadata["price"], price) {
					t.Errorf("restart: got the error %+v, want the reason %s and the price %q", e, instance.EngineStaysUp, price)
				}
				if n := m.node(first); !n.running || n.starts != 1 {
					t.Errorf("running %v after %d starts, want true after 1", n.running, n.starts)
				}
				if err := m.server.Engines.Restart(t.Context(), first, true); err != nil || m.node(first).starts != 2 {
					t.Errorf("restart with force: %v, %d starts", err, m.node(first).starts)
				}
			})
		})
	}
}

func TestRestartThatTakesLongGoesOn(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		release := make(chan struct{})
		m.set(func() {
			m.onRestart = func(_ context.Context, how instance.StopOptions) error {
				how.Progress("its engine is saving its data")
				<-release
				return nil
			}
		})
		began := time.Now()
		err := m.server.Engines.Restart(t.Context(), first, false)
		wantError(t, "restart", err, instance.Unavailable, "goes on: the engine is being restarted: its engine is saving its data")
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("the caller waited for %v", took)
		}
		if i := m.get(first); i.State != instance.Repairing || !strings.Contains(i.StatusMessage, "its engine is saving its data") {
			t.Errorf("meanwhile: %s, %q", i.State, i.StatusMessage)
		}
		wantError(t, "a second one", m.server.Engines.Restart(t.Context(), first, false), instance.FailedPrecondition, "is being restarted already")
		close(release)
		m.waitReady(first)
		if n := m.node(first); n.starts != 2 {
			t.Errorf("%d starts, want 2", n.starts)
		}
	})
}

// A script in the engine is no reason to say so every second in the log, or to leave the user to guess.
func TestABusyEngineIsNamed(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		busy := &instance.BusyError{Since: m.now()}
		m.set(func() {
			m.onEnsure = func(context.Context, instance.Node) error {
				if busy == nil {
					return nil
				}
				return busy
			}
		})
		time.Sleep(time.Minute)
		i := m.get(first)
		for _, want := range []string{"a script or function has been running in the engine for 60 s", "SCRIPT KILL", "`program kill first` ends the engine, and all its data are lost"} {
			if i.State != instance.Repairing || !strings.Contains(i.StatusMessage, want) {
				t.Errorf("got %s, %q, want %q in it", i.State, i.StatusMessage, want)
			}
		}
		if n := m.logged("is not as it should be"); n != 1 {
			t.Errorf("logged %d times, want once", n)
		}
		m.set(func() { busy = nil })
		time.Sleep(2 * time.Second)
		if i := m.get(first); i.State != instance.Ready || i.StatusMessage != "" {
			t.Errorf("after its end: %s, %q", i.State, i.StatusMessage)
		}
	})
}

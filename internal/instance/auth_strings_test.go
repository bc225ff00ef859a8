package instance_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/instance"
)

// A password that was replaced is accepted until its time is over, whatever the server does meanwhile.
func TestOldPasswordIsAcceptedForItsGrace(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		was, err := m.server.AuthStrings.Get(first)
		if err != nil {
			t.Fatal(err)
		}
		for _, on := range []bool{false, true} {
			if _, err := m.server.Update(t.Context(), first, func(s *instance.Spec) { s.AuthEnabled = on }, "v1"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if !on {
				wantError(t, "AUTH is off", second(m.server.AuthStrings.Rotate(t.Context(), first, time.Hour)), instance.FailedPrecondition, "enable it first")
			}
		}
		one, err := m.server.AuthStrings.Get(first)
		if n := m.node(first); err != nil || len(one) != 36 || one == was || len(n.PasswordHashes) != 1 || n.Gateway.Auth != 2 {
			t.Fatalf("%d hashes, auth %d, %v", len(n.PasswordHashes), n.Gateway.Auth, err)
		}
		old := m.node(first).PasswordHashes[0]
		wantError(t, "too long", second(m.server.AuthStrings.Rotate(t.Context(), first, 721*time.Hour)), instance.InvalidArgument, "grace", "721h")
		until, err := m.server.AuthStrings.Rotate(t.Context(), first, time.Hour)
		if err != nil || until.Sub(m.now()).Round(time.Minute) != time.Hour {
			t.Fatalf("until %v, %v", until, err)
		}
		two, _ := m.server.AuthStrings.Get(first)
		n := m.node(first)
		if two == one || len(n.PasswordHashes) != 2 || n.PasswordHashes[1] != old || n.Gateway.Auth != 3 {
			t.Errorf("hashes %v, auth %d", n.PasswordHashes, n.Gateway.Auth)
		}
		// Another one within the grace ends no promise.
		if _, err := m.server.AuthStrings.Rotate(t.Context(), first, 2*time.Hour); err != nil || len(m.node(first).PasswordHashes) != 3 {
			t.Fatalf("%d hashes, %v", len(m.node(first).PasswordHashes), err)
		}
		m.kill()
		m.boot()
		time.Sleep(59 * time.Minute)
		if n := m.node(first); len(n.PasswordHashes) != 3 {
			t.Errorf("%d hashes within the grace", len(n.PasswordHashes))
		}
		time.Sleep(time.Minute + 2*time.Second)
		if n := m.node(first); len(n.PasswordHashes) != 2 || slices.Contains(n.PasswordHashes, old) {
			t.Errorf("hashes %v after the first grace", n.PasswordHashes)
		}
		time.Sleep(time.Hour)
		if n := m.node(first); len(n.PasswordHashes) != 1 {
			t.Errorf("hashes %v after both", n.PasswordHashes)
		}
	})
}

func second[V any](_ V, err error) error { return err }

// A change that can't be made is recorded, and made as soon as it can be.
func TestPasswordThatCannotBeSetYetIsSetLater(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		var broken atomic.Bool
		broken.Store(true)
		m.mu.Lock()
		m.onEnsure = func(context.Context, instance.Node) error {
			if broken.Load() {
				return errors.New("the engine does not answer")
			}
			return nil
		}
		m.mu.Unlock()
		op, err := m.server.Update(t.Context(), first, func(s *instance.Spec) { s.AuthEnabled = false }, "v1")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if got, _ := m.server.Operations.Get(first.Project, first.Location, op.ID); got.Done {
			t.Error("the operation is done although the engine was not told")
		}
		broken.Store(false)
		time.Sleep(time.Minute)
		if got, err := m.server.Operations.Get(first.Project, first.Location, op.ID); err != nil || !got.Done || len(m.node(first).PasswordHashes) != 0 {
			t.Errorf("%+v, %v, %d hashes", got, err, len(m.node(first).PasswordHashes))
		}
	})
}

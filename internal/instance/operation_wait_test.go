package instance_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealane/sealane/internal/instance"
)

// A wait ends with the operation, and not a poll later.
func TestWaitEndsWithTheOperation(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		const takes = 137 * time.Millisecond
		m.onEnsure = func(context.Context, instance.Node) error { time.Sleep(takes); return nil }
		op := m.create(first)
		began := time.Now()
		of, err := m.server.Operations.Wait(t.Context(), first.Project, first.Location, op.ID, time.Minute)
		if err != nil || !of.Done || of.Instance.State != instance.Ready || time.Since(began) != takes {
			t.Errorf("create: %+v, %v after %v; want that it is done after %v", of.Operation, err, time.Since(began), takes)
		}
		if op, err = m.server.Delete(first, "v1"); err != nil {
			t.Fatal(err)
		}
		if of, err = m.server.Operations.Wait(t.Context(), first.Project, first.Location, op.ID, time.Minute); err != nil || !of.Done || of.Verb != instance.Delete {
			t.Errorf("delete: %+v, %v; want that it is done", of.Operation, err)
		}
	})
}

// An operation that fails, and is tried again, takes several steps.
func TestWaitGoesOnOverFailedSteps(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		left := 3
		m.onEnsure = func(context.Context, instance.Node) error {
			if left--; left > 0 {
				return errors.New("not yet")
			}
			return nil
		}
		op := m.create(first)
		of, err := m.server.Operations.Wait(t.Context(), first.Project, first.Location, op.ID, time.Minute)
		if err != nil || !of.Done || left > 0 {
			t.Errorf("got %+v, %v with %d steps left; want that it is done", of.Operation, err, left)
		}
	})
}

// Whoever waits is let go by the time, by the end of the call and by the end of the server, whichever comes first. The operation is
// returned as it is.
func TestWaitLetsGo(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		release := make(chan struct{})
		m.onEnsure = func(ctx context.Context, _ instance.Node) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		op := m.create(first)
		wait := func(ctx context.Context) time.Duration {
			began := time.Now()
			of, err := m.server.Operations.Wait(ctx, first.Project, first.Location, op.ID, 2*time.Second)
			if err != nil || of.Done || of.ID != op.ID {
				t.Errorf("got %+v, %v; want the operation, under way", of.Operation, err)
			}
			return time.Since(began)
		}
		if took := wait(t.Context()); took != 2*time.Second {
			t.Errorf("a wait of 2 s took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if took := wait(ctx); took != time.Second {
			t.Errorf("after its call had ended in 1 s, the wait took %v", took)
		}
		var waited time.Duration
		over := make(chan struct{})
		go func() { defer close(over); waited = wait(t.Context()) }()
		synctest.Wait()
		m.server.Close()
		if <-over; waited != 0 {
			t.Errorf("after the server had ended at once, the wait took %v", waited)
		}
		close(release)
		m.boot()
		m.waitReady(first)
	})
}

// Callers that wait are bounded; one more is answered at once.
func TestWaitsAreBounded(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		release := make(chan struct{})
		m.onEnsure = func(context.Context, instance.Node) error { <-release; return nil }
		op := m.create(first)
		done := make(chan bool, instance.MaxWaits)
		wait := func() bool {
			of, err := m.server.Operations.Wait(t.Context(), first.Project, first.Location, op.ID, time.Hour)
			return err == nil && of.Done
		}
		for range instance.MaxWaits {
			go func() { done <- wait() }()
		}
		synctest.Wait()
		began := time.Now()
		if wait() || time.Since(began) != 0 {
			t.Errorf("one more than %d waited for %v", instance.MaxWaits, time.Since(began))
		}
		close(release)
		for range instance.MaxWaits {
			if !<-done {
				t.Error("a wait ended before the operation")
			}
		}
		m.waitReady(first)
	})
}

// Deleting an operation's record ends a wait for another one with NOT_FOUND, and never hangs.
func TestWaitOfNothing(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		_, err := m.server.Operations.Wait(t.Context(), first.Project, first.Location, "operation-0", time.Hour)
		wantError(t, "wait for an operation that is not there", err, instance.NotFound, "operation-0")
	})
}

package instance_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealane/sealane/internal/instance"
)

func TestTheNextWindow(t *testing.T) {
	t.Parallel()
	at := func(text string) time.Time {
		when, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	sunday := instance.MaintenanceWindow{Day: time.Sunday, Hour: 3}
	for after, want := range map[string]string{
		"2026-11-27T12:00:00Z":      "2026-11-29T03:00:00Z", // a Friday
		"2026-11-29T02:59:59Z":      "2026-11-29T03:00:00Z",
		"2026-11-29T03:00:00Z":      "2026-12-06T03:00:00Z", // it has begun
		"2026-11-29T05:30:00+05:00": "2026-11-29T03:00:00Z",
		"2026-12-28T12:00:00Z":      "2027-01-03T03:00:00Z",
	} {
		if got := sunday.Next(at(after)); !got.Equal(at(want)) {
			t.Errorf("after %s: %v; want %s", after, got, want)
		}
	}
}

// withNewerPatch is a machine with an instance whose engine is older than the newest one that is installed.
func withNewerPatch(m *machine, update instance.Change) {
	m.t.Helper()
	m.builds = []instance.EngineBuild{{Version: defaultVersion, Patch: "7.0.9", ActiveDefrag: true}}
	m.kill()
	m.boot()
	m.made(first)
	m.builds = append(m.builds, instance.EngineBuild{Version: defaultVersion, Patch: "7.0.15", ActiveDefrag: true})
	m.kill()
	m.boot()
	m.server.Settled(m.t.Context())
	if update != nil {
		m.update(first, update)
	}
}

func inWindow(day time.Weekday, hour int) instance.Change {
	return func(s *instance.Spec) {
		s.Maintenance = &instance.MaintenancePolicy{Windows: []instance.MaintenanceWindow{{Day: day, Hour: hour}}}
	}
}

// ended waits for the end of an operation, and returns how it failed.
func (m *machine) ended(op instance.Operation) *instance.Failure {
	m.t.Helper()
	m.wait("the end of the operation", func() bool { return m.operation(op).Done })
	return m.operation(op).Failure
}

func TestMaintenanceWaitsForItsWindow(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		start := time.Now().UTC()
		day := start.AddDate(0, 0, 2)
		withNewerPatch(m, inWindow(day.Weekday(), 3))
		window := time.Date(day.Year(), day.Month(), day.Day(), 3, 0, 0, 0, time.UTC)
		m.wait("it is scheduled", func() bool { return m.get(first).Schedule != nil })
		i := m.get(first)
		if !i.Schedule.Start.Equal(window) || !i.Schedule.End.Equal(window.Add(time.Hour)) || i.MaintenanceVersion != "7.0.9" {
			t.Errorf("the schedule is %+v for %s; want %v", i.Schedule, i.MaintenanceVersion, window)
		}
		m.jump(time.Until(window) - 2*time.Minute)
		time.Sleep(time.Minute)
		if got := m.get(first); got.MaintenanceVersion != "7.0.9" || got.State != instance.Ready {
			t.Errorf("before the window: %s in %s", got.MaintenanceVersion, got.State)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		i = m.get(first)
		last := i.Operations[len(i.Operations)-1]
		if i.MaintenanceVersion != "7.0.15" || i.Schedule != nil || i.State != instance.Ready || last.Verb != instance.Maintain || last.Failure != nil {
			t.Errorf("in the window: %s in %s, schedule %v, last operation %+v", i.MaintenanceVersion, i.State, i.Schedule, last)
		}
	})
}

func TestWithoutAWindowMaintenanceIsForWhoAsks(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		withNewerPatch(m, nil)
		m.jump(30 * 24 * time.Hour)
		time.Sleep(time.Minute)
		i := m.get(first)
		if i.MaintenanceVersion != "7.0.9" || i.Schedule != nil || len(i.AvailableMaintenanceVersions) != 1 || i.AvailableMaintenanceVersions[0] != "7.0.15" {
			t.Errorf("after 30 days: %s, available %v, schedule %v", i.MaintenanceVersion, i.AvailableMaintenanceVersions, i.Schedule)
		}
		m.update(first, func(s *instance.Spec) { s.MaintenanceVersion = "current_default" })
		if got := m.get(first); got.MaintenanceVersion != "7.0.15" || len(got.AvailableMaintenanceVersions) != 0 {
			t.Errorf("after the update: %s, available %v", got.MaintenanceVersion, got.AvailableMaintenanceVersions)
		}
	})
}

func TestMaintenanceIsRescheduled(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		start := time.Now().UTC()
		withNewerPatch(m, inWindow(start.AddDate(0, 0, 2).Weekday(), 3))
		m.wait("it is scheduled", func() bool { return m.get(first).Schedule != nil })
		was := *m.get(first).Schedule
		ask := func(how instance.RescheduleType, at time.Time) (instance.Operation, error) {
			return m.server.RescheduleMaintenance(t.Context(), first, how, at, "v1")
		}
		for name, c := range map[string]struct {
			how  instance.RescheduleType
			at   time.Time
			says string
		}{
			"the past":           {instance.SpecificTime, start.Add(-time.Hour), "schedule_time: "},
			"after the deadline": {instance.SpecificTime, was.Deadline.Add(time.Second), "is after the deadline"},
			"nonsense":           {"SOMEHOW", time.Time{}, "reschedule_type: "},
		} {
			if _, err := ask(c.how, c.at); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: got %v; want %q", name, err, c.says)
			}
		}
		op, err := ask(instance.NextAvailableWindow, time.Time{})
		if err != nil || !op.Done {
			t.Fatalf("%+v, %v", op, err)
		}
		if got := m.get(first).Schedule; got == nil || !got.Start.Equal(was.Start.AddDate(0, 0, 7)) || !got.Deadline.Equal(was.Deadline) {
			t.Errorf("the next window is %+v; the first was %+v", got, was)
		}
		soon := start.Add(24 * time.Hour)
		if _, err := ask(instance.SpecificTime, soon); err != nil {
			t.Fatal(err)
		}
		m.jump(time.Until(soon))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := m.get(first).MaintenanceVersion; got != "7.0.15" {
			t.Errorf("after the time that was asked for: %s", got)
		}
		if _, err := ask(instance.Immediately, time.Time{}); err == nil || !strings.Contains(err.Error(), "nothing to reschedule") {
			t.Errorf("when nothing waits: %v", err)
		}
	})
}

// Whatever becomes of the engine's replacement, the operation ends and record and node agree.
func TestAReplacementThatFailsLeavesTheInstance(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.builds = instance.Builds(defaultVersion, "REDIS_8_0")
		m.kill()
		m.boot()
		m.made(first)
		m.onReplace = func(context.Context) error {
			return &instance.Error{Code: instance.FailedPrecondition, Message: "it did not start", Err: errors.New("/secret/path")}
		}
		op, err := m.server.Upgrade(t.Context(), first, "REDIS_8_0", "v1")
		if err != nil {
			t.Fatal(err)
		}
		if got := m.get(first); got.State != instance.Updating || got.Spec.RedisVersion != defaultVersion {
			t.Errorf("while it lasts: %s, %s", got.State, got.Spec.RedisVersion)
		}
		failure := m.ended(op)
		if failure == nil || !strings.Contains(failure.Message, "upgrade first: it did not start; the instance is as it was before") || strings.Contains(failure.Message, "/secret") {
			t.Errorf("failure: %+v", failure)
		}
		m.onReplace = func(context.Context) error { return errors.New("/secret/path") }
		if op, err = m.server.Upgrade(t.Context(), first, "REDIS_8_0", "v1"); err != nil {
			t.Fatal(err)
		}
		if failure := m.ended(op); failure == nil || strings.Contains(failure.Message, "/secret") {
			t.Errorf("failure: %+v", failure)
		}
		if got := m.get(first); got.State != instance.Ready || got.Spec.RedisVersion != defaultVersion || got.EngineSlot != 0 {
			t.Errorf("afterwards: %s, %s in %d", got.State, got.Spec.RedisVersion, got.EngineSlot)
		}
		m.onReplace = nil
		if op, err = m.server.Upgrade(t.Context(), first, "REDIS_8_0", "v1"); err != nil {
			t.Fatal(err)
		}
		if failure := m.ended(op); failure != nil {
			t.Errorf("failure: %+v", failure)
		}
		if got := m.get(first); got.Spec.RedisVersion != "REDIS_8_0" || got.EngineSlot != 1 {
			t.Errorf("afterwards: %s in %d", got.Spec.RedisVersion, got.EngineSlot)
		}
	})
}

func TestAnUpgradeIsCancelled(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.builds = instance.Builds(defaultVersion, "REDIS_8_0")
		m.kill()
		m.boot()
		m.made(first)
		m.onReplace = func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		op, err := m.server.Upgrade(t.Context(), first, "REDIS_8_0", "v1")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := m.server.Operations.Cancel(first.Project, first.Location, op.ID); err != nil {
			t.Fatal(err)
		}
		if failure := m.ended(op); failure == nil || failure.Code != instance.Cancelled {
			t.Errorf("failure: %+v", failure)
		}
		if got := m.get(first); got.State != instance.Ready || got.Spec.RedisVersion != defaultVersion {
			t.Errorf("afterwards: %s, %s", got.State, got.Spec.RedisVersion)
		}
	})
}

// The limit of connections is that of the new version from the moment in which the clients are there.
func TestAnUpgradeChangesTheLimitOfConnections(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		spec := plainSpec()
		spec.RedisVersion = "REDIS_6_X"
		if _, err := m.server.Create(first, spec, "v1"); err != nil {
			t.Fatal(err)
		}
		m.waitReady(first)
		if got := m.node(first).Gateway.MaxClients; got != 1000 {
			t.Errorf("before: %d", got)
		}
		op, err := m.server.Upgrade(t.Context(), first, defaultVersion, "v1")
		if err != nil {
			t.Fatal(err)
		}
		if failure := m.ended(op); failure != nil {
			t.Fatal(failure)
		}
		if n := m.node(first); n.Gateway.MaxClients != 65000 || n.Directives["maxclients"] != "65032" || n.Directives["maxmemory-clients"] == "" {
			t.Errorf("after: %d clients, %v", n.Gateway.MaxClients, n.Directives)
		}
	})
}

package instance

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// MaintenancePolicy says when maintenance may take place that clients could notice.
type MaintenancePolicy struct {
	Created     time.Time
	Updated     time.Time
	Description string
	Windows     []MaintenanceWindow // at most one; none: only when somebody asks for it
}

// MaintenanceWindow is an hour in each week, in UTC.
type MaintenanceWindow struct {
	Day          time.Weekday
	Hour, Minute int
}

// MaintenanceSchedule is when maintenance is going to take place.
type MaintenanceSchedule struct {
	Start, End time.Time
	Deadline   time.Time // it can't be put off longer
}

// maxDescription is how many characters a maintenance policy's description may have, as in the managed service.
const maxDescription = 512

func (p *MaintenancePolicy) check() (vs []Violation) {
	if p == nil {
		return nil
	}
	if n := utf8.RuneCountInString(p.Description); n > maxDescription {
		vs = append(vs, Violation{"maintenance_policy.description", fmt.Sprintf("%d characters: want %d at most", n, maxDescription)})
	}
	if len(p.Windows) > 1 {
		vs = append(vs, Violation{"maintenance_policy.weekly_maintenance_window", fmt.Sprintf("%d windows: want one at most", len(p.Windows))})
	}
	for n, w := range p.Windows {
		field := fmt.Sprintf("maintenance_policy.weekly_maintenance_window[%d]", n)
		if w.Day < time.Sunday || w.Day > time.Saturday {
			vs = append(vs, Violation{field + ".day", fmt.Sprintf("%d: want a day of the week", w.Day)})
		}
		if w.Hour < 0 || w.Hour > 23 || w.Minute < 0 || w.Minute > 59 {
			vs = append(vs, Violation{field + ".start_time", fmt.Sprintf("%02d:%02d: want 00:00 to 23:59 UTC", w.Hour, w.Minute)})
		}
	}
	return vs
}

// currentDefault is the maintenance version that stands for the newest one.
const currentDefault = "current_default"

// checkMaintenanceVersion refuses a maintenance version that a new instance can't have: it gets the newest of its version. What an update
// may ask for is in maintenanceTarget.
func (s Spec) checkMaintenanceVersion(build EngineBuild) error {
	const field = "maintenance_version"
	if v := s.MaintenanceVersion; v != "" && v != currentDefault && v != build.Patch {
		return &Error{Code: FailedPrecondition, Violations: []Violation{{field, "not installed"}},
			Message: fmt.Sprintf("%s: %q is not installed on this server, which has %s of %s: ask for that or for %s, or install another one and restart sealane serve",
				field, v, build.Patch, build.Version, currentDefault)}
	}
	return nil
}

// RescheduleType is how maintenance that waits is put at another time.
type RescheduleType string

const (
	Immediately         RescheduleType = "IMMEDIATE"
	NextAvailableWindow RescheduleType = "NEXT_AVAILABLE_WINDOW"
	SpecificTime        RescheduleType = "SPECIFIC_TIME"
)

const (
	// windowLength is how long a maintenance window is, and postponable for how long maintenance can be put off: as in the managed service.
	windowLength = time.Hour
	postponable  = 14 * 24 * time.Hour
)

// next is when the window begins next, after a time.
func (w MaintenanceWindow) next(after time.Time) time.Time {
	after = after.UTC()
	start := time.Date(after.Year(), after.Month(), after.Day(), w.Hour, w.Minute, 0, 0, time.UTC)
	start = start.AddDate(0, 0, (int(w.Day)-int(start.Weekday())+7)%7)
	if !start.After(after) {
		start = start.AddDate(0, 0, 7)
	}
	return start
}

// window is the policy's window; ok is false where there is none, and nothing is done by itself.
func (p *MaintenancePolicy) window() (w MaintenanceWindow, ok bool) {
	if p == nil || len(p.Windows) == 0 {
		return w, false
	}
	return p.Windows[0], true
}

// hasWindow says whether that is the policy's window; the zero one, where there is none.
func (p *MaintenancePolicy) hasWindow(w MaintenanceWindow) bool {
	have, _ := p.window()
	return have == w
}

// waiting is the patch of the engine that maintenance would bring; "": the newest one of its version runs already, or it isn't known yet
// which one does.
func waiting(builds []EngineBuild, version, running string) string {
	newest := buildOf(builds, version).Patch
	if running == "" || !installed(builds, version, newest) || !newerPatch(newest, running) {
		return ""
	}
	return newest
}

// maintenanceVersions are the patches that an instance could be moved to, the oldest first.
func maintenanceVersions(builds []EngineBuild, version, running string) (patches []string) {
	for _, b := range builds {
		if b.Version == version && running != "" && newerPatch(b.Patch, running) && !slices.Contains(patches, b.Patch) {
			patches = append(patches, b.Patch)
		}
	}
	slices.SortFunc(patches, func(a, b string) int { return slices.Compare(patchNumbers(a), patchNumbers(b)) })
	return patches
}

// maintenanceTarget is the engine that a maintenance version asks for; nil: it runs already.
func (i *Instance) maintenanceTarget(asked string, builds []EngineBuild, running string) (*EngineTarget, error) {
	if err := i.requireEngine("maintenance_version", "to maintain", "leave it out, because the version is the backend's own"); err != nil {
		return nil, err
	}
	running = cmp.Or(running, i.EnginePatch)
	available := maintenanceVersions(builds, i.Spec.RedisVersion, running)
	switch {
	case asked == running, asked == currentDefault && len(available) == 0:
		return nil, nil
	case asked == currentDefault:
		asked = available[len(available)-1]
	case !slices.Contains(available, asked):
		const field = "maintenance_version"
		have := append([]string{running}, available...)
		return nil, &Error{Code: FailedPrecondition, Violations: []Violation{{field, "not installed, or older"}}, Message: fmt.Sprintf(
			"%s: %q is not installed on this server, which has %s of %s, or it is older: ask for one of those or for %s, or install another one and restart sealane serve",
			field, asked, strings.Join(have, ", "), i.Spec.RedisVersion, currentDefault)}
	}
	return i.target(i.Spec.RedisVersion, asked), nil
}

// maintain schedules maintenance that waits, and begins it when its time has come. No operation is under way. Without a window nothing is
// done by itself.
func (r *reconciler) maintain(w *worker, i Instance) error {
	now := r.now().UTC()
	patch := waiting(r.runtime.Engines(), i.Spec.RedisVersion, r.workers.running(i.Name))
	window, hasWindow := i.Spec.Maintenance.window()
	var want *MaintenanceSchedule
	switch s := i.Schedule; {
	case patch == "":
	case s != nil && !now.Before(s.Start) && now.Before(s.End):
		return r.beginMaintenance(i.Name, patch)
	case s != nil && now.Before(s.Start):
		return nil
	case hasWindow: // it waits since now, or no server ran at the time
		start := window.next(now)
		want = &MaintenanceSchedule{Start: start, End: start.Add(windowLength), Deadline: start.Add(postponable)}
	}
	if want == nil && i.Schedule == nil {
		return nil
	}
	i.Schedule = want
	if err := r.records.save(&i); err != nil {
		return err
	}
	if want != nil {
		r.log.Info("maintenance is scheduled", "instance", i.Name, "start", want.Start, "from", r.workers.running(i.Name), "to", patch)
	}
	return nil
}

// beginMaintenance begins to replace the engine by a newer one of its version.
func (r *reconciler) beginMaintenance(name Name, patch string) error {
	return r.records.mutate(name, func(i *Instance) error {
		if err := i.requireNoOperation(); err != nil {
			return nil // it is seen again after that operation
		}
		op := i.begin(Maintain, nil, "v1", r.now().UTC())
		op.Target = i.target(i.Spec.RedisVersion, patch)
		*i.pending() = op
		i.State = Maintained
		return nil
	})
}

// RescheduleMaintenance puts the maintenance that waits at another time, which is at for SpecificTime.
func (m *Manager) RescheduleMaintenance(ctx context.Context, name Name, how RescheduleType, at time.Time, apiVersion string) (Operation, error) {
	if err := m.requireEngine(name, "", "to maintain", "there is no maintenance to reschedule"); err != nil {
		return Operation{}, err
	}
	now, at := m.now().UTC(), at.UTC()
	var done Operation
	op, err := m.begin(name, apiVersion, func(i *Instance) (Operation, error) {
		patch := waiting(m.runtime.Engines(), i.Spec.RedisVersion, m.workers.running(name))
		if patch == "" {
			return Operation{}, precondition("no maintenance of '%s' waits, so there is nothing to reschedule: its engine is the newest of %s on this server", i.Name, i.Spec.RedisVersion)
		}
		if how == Immediately {
			i.State = Maintained
			return Operation{Verb: Reschedule, Target: i.target(i.Spec.RedisVersion, patch)}, nil
		}
		schedule, err := i.reschedule(how, at, now)
		if err != nil {
			return Operation{}, err
		}
		i.Schedule = schedule
		return Operation{Verb: Reschedule}, nil
	})
	if err != nil || op.Target != nil {
		return op, err
	}
	err = m.records.mutate(name, func(i *Instance) error {
		if pending := i.pending(); pending != nil && pending.ID == op.ID {
			i.finish(nil, m.now().UTC())
		}
		for _, o := range i.Operations {
			if o.ID == op.ID {
				done = o
			}
		}
		return nil
	})
	return done, err
}

// reschedule is when maintenance takes place that was asked to be at another time.
func (i *Instance) reschedule(how RescheduleType, at, now time.Time) (*MaintenanceSchedule, error) {
	deadline := now.Add(postponable)
	if i.Schedule != nil {
		deadline = i.Schedule.Deadline
	}
	switch how {
	case NextAvailableWindow:
		window, ok := i.Spec.Maintenance.window()
		if !ok {
			return nil, precondition("reschedule_type: NEXT_AVAILABLE_WINDOW: '%s' has no maintenance window; set one, or ask for IMMEDIATE or SPECIFIC_TIME", i.Name)
		}
		at = now
		if i.Schedule != nil {
			at = i.Schedule.Start
		}
		at = window.next(at)
	case SpecificTime:
		if at.Before(now) {
			return nil, invalid("schedule_time", "%s: is in the past", at.Format(time.RFC3339))
		}
	default:
		return nil, invalid("reschedule_type", "%q: want IMMEDIATE, NEXT_AVAILABLE_WINDOW or SPECIFIC_TIME", how)
	}
	if at.After(deadline) {
		return nil, invalid("schedule_time", "%s: is after the deadline, %s: it can't be put off longer", at.Format(time.RFC3339), deadline.Format(time.RFC3339))
	}
	return &MaintenanceSchedule{Start: at, End: at.Add(windowLength), Deadline: deadline}, nil
}

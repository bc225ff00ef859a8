package instance

import (
	"context"
	"fmt"
	"time"
	"unicode/utf8"
)

// MaintenancePolicy says when maintenance may take place that clients could notice.
type MaintenancePolicy struct {
	Created     time.Time
	Updated     time.Time
	Description string
	Windows     []MaintenanceWindow // at most one; none: at any time
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

// currentDefault is the maintenance version that stands for the one that an instance would get anyway.
const currentDefault = "current_default"

// checkMaintenanceVersion refuses a maintenance version that the server doesn't have. It has one of each version of the engine: the
// build that is installed.
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

// RescheduleMaintenance puts the maintenance that waits at another time, which is at for SpecificTime.
func (m *Manager) RescheduleMaintenance(ctx context.Context, name Name, how RescheduleType, at time.Time, apiVersion string) (Operation, error) {
	i, err := m.reader.get(name)
	if err != nil {
		return Operation{}, err
	}
	return Operation{}, precondition("no maintenance of '%s' is scheduled, so there is nothing to reschedule", i.Name)
}

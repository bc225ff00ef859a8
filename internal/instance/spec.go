package instance

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxMemorySizeGB is the largest instance.
const MaxMemorySizeGB = 300

var (
	labelKeyPattern   = regexp.MustCompile(`^[\p{Ll}\p{Lo}][\p{Ll}\p{Lo}\p{N}_-]{0,62}$`)
	labelValuePattern = regexp.MustCompile(`^[\p{Ll}\p{Lo}\p{N}_-]{0,63}$`)
)

// complete checks everything about the spec of a new instance, and fills the defaults in.
func (s Spec) complete(name Name, builds []EngineBuild) (Spec, error) {
	if s.Backend != nil {
		return s.completeWithBackend(name)
	}
	var vs []Violation
	version, versionErr := chooseVersion(s.RedisVersion, builds)
	if e, ok := versionErr.(*Error); ok && e.Code == InvalidArgument {
		vs = append(vs, e.Violations...)
	}
	vs = append(vs, s.checkMutable()...)
	vs = append(vs, s.completeZones(name)...)
	if versionErr == nil {
		s.RedisVersion = version
		build := buildOf(builds, version)
		vs = append(vs, s.checkRedisConfigs(build)...)
		vs = append(vs, s.completeTier(build)...)
	}
	vs = append(vs, s.completeNetwork(name)...)
	if len(vs) > 0 {
		return s, NewViolations(InvalidArgument, vs)
	}
	if versionErr != nil {
		return s, versionErr
	}
	return s, s.checkMaintenanceVersion(buildOf(builds, version))
}

// stamp fills in the times of a spec that an update has made of another one, or a create of none.
func (s *Spec) stamp(before Spec, now time.Time) {
	if s.SnapshotPeriod > 0 && s.SnapshotStart.IsZero() {
		s.SnapshotStart = now // the default that the API documents: the time of the request
	}
	if s.Maintenance == nil {
		return
	}
	m := *s.Maintenance
	m.Created, m.Updated = now, now
	if old := before.Maintenance; old != nil {
		m.Created = old.Created
		if old.Description == m.Description && slices.Equal(old.Windows, m.Windows) {
			m.Updated = old.Updated
		}
	}
	s.Maintenance = &m
}

// completeWithBackend is complete for an instance with a backend.
func (s Spec) completeWithBackend(name Name) (Spec, error) {
	vs := append(checkBackend(*s.Backend), s.checkMutable()...)
	if s.Tier == StandardHA {
		vs = append(vs, Violation{"tier", "STANDARD_HA: a backend is a Redis that runs already, with the replicas that it may have: want BASIC"})
	} else {
		vs = append(vs, s.completeTier(EngineBuild{})...)
	}
	vs = append(vs, s.completeZones(name)...)
	vs = append(vs, s.completeNetwork(name)...)
	if len(vs) > 0 {
		return s, NewViolations(InvalidArgument, vs)
	}
	return s, s.checkConfigsOfBackend()
}

// checkConfigsOfBackend returns what can't be done for an instance with a backend, or is wrong.
func (s Spec) checkConfigsOfBackend() error {
	if vs := s.checkWithBackend(); len(vs) > 0 {
		e := NewViolations(FailedPrecondition, vs)
		e.Reason = ExternalBackend
		return e
	}
	if vs := s.checkRedisConfigs(EngineBuild{Version: "REDIS_7_0"}); len(vs) > 0 { // what is left is the gateway's
		return NewViolations(InvalidArgument, vs)
	}
	return nil
}

// checkUpdate checks the spec that an update has made of another one.
func (s Spec) checkUpdate(before Spec, builds []EngineBuild) error {
	vs := s.checkMutable()
	if s.Backend != nil {
		if len(vs) > 0 {
			return NewViolations(InvalidArgument, vs)
		}
		return s.checkConfigsOfBackend()
	}
	build := buildOf(builds, s.RedisVersion)
	vs = append(vs, s.checkRedisConfigs(build)...)
	if was, is := before.databases(), s.databases(); was != is {
		vs = append(vs, Violation{`redis_configs["databases"]`, fmt.Sprintf("updating databases not supported: it is %s, and was chosen when the instance was created", was)})
	}
	if len(vs) > 0 {
		return NewViolations(InvalidArgument, vs)
	}
	return s.checkMaintenanceVersion(build)
}

// checkMutable checks the fields that an update may change too.
func (s Spec) checkMutable() []Violation {
	var vs []Violation
	if s.MemorySizeGB < 1 || s.MemorySizeGB > MaxMemorySizeGB {
		vs = append(vs, Violation{"memory_size_gb", fmt.Sprintf("%d: want 1 to %d", s.MemorySizeGB, MaxMemorySizeGB)})
	}
	vs = append(vs, s.Maintenance.check()...)
	if n := utf8.RuneCountInString(s.DisplayName); n > 80 || !utf8.ValidString(s.DisplayName) {
		vs = append(vs, Violation{"display_name", fmt.Sprintf("%d characters: want 80 at most", n)})
	}
	if len(s.Labels) > 64 {
		vs = append(vs, Violation{"labels", fmt.Sprintf("%d labels: want 64 at most", len(s.Labels))})
		return vs
	}
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		if !labelKeyPattern.MatchString(k) {
			vs = append(vs, Violation{"labels", fmt.Sprintf("key %q: want 1 to 63 lower-case letters, digits, _ and -, a letter first", k)})
		}
		if v := s.Labels[k]; !labelValuePattern.MatchString(v) {
			vs = append(vs, Violation{fmt.Sprintf("labels[%q]", k), fmt.Sprintf("value %q: want at most 63 lower-case letters, digits, _ and -", v)})
		}
	}
	return vs
}

func isZoneOf(zone, location string) bool {
	return strings.HasPrefix(zone, location+"-") && locationPattern.MatchString(zone)
}

// Zones are the zones of a location.
func Zones(location string) []string {
	return []string{location + "-a", location + "-b", location + "-c"}
}

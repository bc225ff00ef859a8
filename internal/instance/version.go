package instance

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// version is the part of an engine's version that decides how it behaves.
type version struct{ major, minor int }

func (v version) before(o version) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

var versionPattern = regexp.MustCompile(`^(?:REDIS|VALKEY)_([0-9]{1,3})_([0-9]{1,3}|X)$`)

// managedVersions are the versions that the managed service knows. The engines on this machine may be others.
var managedVersions = []string{"REDIS_3_2", "REDIS_4_0", "REDIS_5_0", "REDIS_6_X", "REDIS_7_0", "REDIS_7_2"}

// parseVersion reads REDIS_7_0 and the like; the X of REDIS_6_X is taken as 0. An unknown form is 0.0.
func parseVersion(s string) version {
	m := versionPattern.FindStringSubmatch(s)
	if m == nil {
		return version{}
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return version{major, minor}
}

// installedVersions are the versions of the engines that are installed, the default first.
func installedVersions(builds []EngineBuild) (versions []string) {
	for _, b := range builds {
		if !slices.Contains(versions, b.Version) {
			versions = append(versions, b.Version)
		}
	}
	return versions
}

// buildOf is the engine that runs a version, the newest where there are several. Where none is installed, it is one that can do
// everything.
func buildOf(builds []EngineBuild, version string) EngineBuild {
	best := EngineBuild{Version: version, ActiveDefrag: true, TLS: true}
	for _, b := range builds {
		if b.Version == version && newerPatch(b.Patch, best.Patch) {
			best = b
		}
	}
	return best
}

// newerPatch compares how engines name themselves: 7.0.9 and 7.0.15.
func newerPatch(a, b string) bool {
	return slices.Compare(patchNumbers(a), patchNumbers(b)) > 0
}

func patchNumbers(s string) (numbers []int) {
	for part := range strings.SplitSeq(s, ".") {
		n, _ := strconv.Atoi(part)
		numbers = append(numbers, n)
	}
	return numbers
}

// isValkey says whose version it is.
func isValkey(version string) bool { return strings.HasPrefix(version, "VALKEY_") }

// CheckUpgrade returns an error where an engine of a version can't take over from one of another: only a newer engine is sure to read what
// the present one has written. Redis and Valkey have parted after Redis 7.2, and each reads what the other has written until then. So
// Valkey takes over from Redis up to 7.2, and Redis from 7.4 on from Valkey up to 8; e2e/upgrade_test.go tries each pair of engines that
// is there.
func CheckUpgrade(from, to string) error {
	const field = "redis_version"
	old, next := parseVersion(from), parseVersion(to)
	switch {
	case from == to:
		return precondition("%s: the instance has %s already; want a newer version", field, to)
	case isValkey(from) == isValkey(to):
		if next.before(old) {
			return precondition("%s: %s is older than %s, which the instance has: an upgrade can't be undone; want a newer version", field, to, from)
		}
	case isValkey(to):
		if (version{7, 2}).before(old) {
			return precondition("%s: %s can't read the data of %s: the formats have parted after Redis 7.2; want a newer version of Redis", field, to, from)
		}
	case next.before(version{7, 4}):
		return precondition("%s: %s can't read the data of %s; want a newer version of Valkey, or Redis 8.0 or newer", field, to, from)
	case !old.before(version{9, 0}):
		return precondition("%s: %s can't read all data of %s: the formats have parted after Redis 7.2; want a newer version of Valkey", field, to, from)
	}
	return nil
}

// chooseVersion returns the version to run for what was asked ("" is any).
func chooseVersion(asked string, builds []EngineBuild) (string, error) {
	const field = "redis_version"
	installed := installedVersions(builds)
	switch {
	case len(installed) == 0:
		return "", precondition("%s: no engine is installed on this server; install redis-server or valkey-server and restart sealane serve", field).
			because(EngineNotInstalled)
	case asked == "":
		return installed[0], nil
	case slices.Contains(installed, asked):
		return asked, nil
	case versionPattern.MatchString(asked) && parseVersion(asked) != (version{}) && slices.Contains(managedVersions, asked):
		return "", &Error{Code: FailedPrecondition, Reason: EngineNotInstalled,
			Message: fmt.Sprintf("%s: %s is not installed on this server, which has %s; ask for one of these, or install it and list its path under engines in the configuration",
				field, asked, strings.Join(installed, ", ")),
			Violations: []Violation{{field, "not installed"}}}
	default:
		return "", invalid(field, "%q is unknown; this server has %s", asked, strings.Join(installed, ", "))
	}
}

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

// buildOf is the engine that runs a version. Where none is installed, it is one that can do everything.
func buildOf(builds []EngineBuild, version string) EngineBuild {
	if at := slices.IndexFunc(builds, func(b EngineBuild) bool { return b.Version == version }); at >= 0 {
		return builds[at]
	}
	return EngineBuild{Version: version, ActiveDefrag: true}
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

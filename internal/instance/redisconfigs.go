package instance

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/snapshot"
)

// redisConfig is one parameter that users may set: the table of "Supported Redis configurations".
type redisConfig struct {
	since version
	check func(value string, sizeGB int32) error
	// directive turns the parameter into a line of the engine's configuration; nil: name and value as they are.
	directive func(value string) (name, val string)
	gateway   bool // the gateway does it, and the engine is not told
	// byDefault is what the engine is told where the user doesn't say: a parameter that is taken away goes back to it. It is the managed
	// service's default, which isn't always the engine's. "": directives decides.
	byDefault string
}

var redisConfigs = map[string]redisConfig{
	"activedefrag":             {since: version{4, 0}, check: oneOf("yes", "no"), byDefault: "no"},
	"databases":                {since: version{3, 2}, check: integer(1, 100)},
	"lazyfree-lazy-eviction":   {since: version{7, 0}, check: oneOf("yes", "no"), byDefault: "no"},
	"lazyfree-lazy-expire":     {since: version{7, 0}, check: oneOf("yes", "no"), byDefault: "no"},
	"lazyfree-lazy-user-del":   {since: version{7, 0}, check: oneOf("yes", "no"), byDefault: "no"},
	"lazyfree-lazy-user-flush": {since: version{7, 0}, check: oneOf("yes", "no"), byDefault: "no"},
	"lfu-decay-time":           {since: version{4, 0}, check: integer(0, math.MaxInt32), byDefault: "1"},
	"lfu-log-factor":           {since: version{4, 0}, check: integer(0, math.MaxInt32), byDefault: "10"},
	"maxmemory-clients":        {since: version{7, 0}, check: bytesOrPercent},
	"maxmemory-gb":             {since: version{4, 0}, check: checkMaxmemoryGB, directive: maxmemoryDirective},
	"maxmemory-policy":         {since: version{3, 2}, check: oneOf("noeviction", "allkeys-lfu", "allkeys-lru", "allkeys-random", "volatile-lfu", "volatile-lru", "volatile-random", "volatile-ttl")},
	"notify-keyspace-events":   {since: version{3, 2}, check: keyspaceEvents, byDefault: `""`},
	"stream-node-max-bytes":    {since: version{5, 0}, check: integer(0, math.MaxInt32), byDefault: "4096"},
	"stream-node-max-entries":  {since: version{5, 0}, check: integer(0, math.MaxInt32), byDefault: "100"},
	// Clients of the multiplexed path share engine connections, so only the gateway knows which client is idle, and an engine with a
	// timeout would close connections that other clients are about to use. It is the same on the transparent path, because the
	// path may be changed while clients are connected.
	"timeout": {since: version{3, 2}, check: integer(0, math.MaxInt32), gateway: true},
}

// checkRedisConfigs returns what is wrong with the parameters, for an engine, sorted by name.
func (s Spec) checkRedisConfigs(build EngineBuild) []Violation {
	var vs []Violation
	have := parseVersion(build.Version)
	for _, name := range slices.Sorted(maps.Keys(s.RedisConfigs)) {
		value := s.RedisConfigs[name]
		field := fmt.Sprintf("redis_configs[%q]", name)
		c, ok := redisConfigs[name]
		switch {
		case !ok:
			vs = append(vs, Violation{field, "unknown parameter; known are " + strings.Join(slices.Sorted(maps.Keys(redisConfigs)), ", ")})
		case have.before(c.since):
			vs = append(vs, Violation{field, fmt.Sprintf("needs Redis %d.%d or newer; redis_version is %s", c.since.major, c.since.minor, build.Version)})
		case name == "activedefrag" && value == "yes" && !build.ActiveDefrag:
			vs = append(vs, Violation{field, fmt.Sprintf("%q: the engine of %s on this server (%s) was built without active defragmentation, as those of Debian are; want no, or list another engine under engines in the configuration", value, build.Version, build.Patch)})
		default:
			if err := c.check(value, max(s.MemorySizeGB, 1)); err != nil {
				vs = append(vs, Violation{field, err.Error()})
			}
		}
	}
	return vs
}

// directives are the lines of the engine's configuration that a spec asks for.
func (s Spec) directives() map[string]string {
	d := map[string]string{
		"maxmemory":        strconv.FormatInt(int64(s.MemorySizeGB)<<30, 10),
		"maxmemory-policy": "volatile-lru", // the managed service's default, not the engine's
		"save":             "",
		// A snapshot that fails is the server's problem, which it shows, and not that of clients.
		"stop-writes-on-bgsave-error": "no",
		// The gateway enforces the limit of clients. The server's own connections to the engine come on top of it.
		"maxclients": strconv.Itoa(s.maxClients() + 32),
	}
	have := parseVersion(s.RedisVersion)
	for name, c := range redisConfigs {
		if c.byDefault != "" && !have.before(c.since) {
			d[name] = strings.Trim(c.byDefault, `"`)
		}
	}
	if s.SnapshotPeriod > 0 {
		fallback := snapshot.Schedule{Period: s.SnapshotPeriod}.Fallback()
		d["save"] = fmt.Sprintf("%d 1", int64(fallback.Seconds()))
	}
	for name, value := range s.RedisConfigs {
		if redisConfigs[name].gateway {
			continue
		}
		if to := redisConfigs[name].directive; to != nil {
			name, value = to(value)
		}
		d[name] = value
	}
	const clients = "maxmemory-clients"
	if _, chosen := d[clients]; !chosen && !parseVersion(s.RedisVersion).before(redisConfigs[clients].since) {
		// It is better that the largest client is disconnected than that the engine is ended at its bound.
		maxMemory, _ := strconv.ParseInt(d["maxmemory"], 10, 64)
		d[clients] = strconv.FormatInt(clientMemory(maxMemory), 10)
	}
	return d
}

// databases is the number of databases.
func (s Spec) databases() string { return cmp.Or(s.RedisConfigs["databases"], "16") }

// idleTimeout is how long a client may send nothing before it is closed; 0: for ever.
func (s Spec) idleTimeout() time.Duration {
	seconds, _ := strconv.ParseInt(s.RedisConfigs["timeout"], 10, 32) // was checked, or is not there
	return time.Duration(seconds) * time.Second
}

// maxClients is the limit of connections: with encryption and before Redis 7.0 it depends on the size.
func (s Spec) maxClients() int {
	switch {
	case s.Backend != nil: // its own maxclients is what counts
		return 65000
	case !s.TransitEncryption || !parseVersion(s.RedisVersion).before(version{7, 0}) || s.MemorySizeGB > 100:
		return 65000
	case s.MemorySizeGB > 35:
		return 30000
	case s.MemorySizeGB > 10:
		return 15000
	case s.MemorySizeGB > 4:
		return 2500
	default:
		return 1000
	}
}

func oneOf(values ...string) func(string, int32) error {
	return func(value string, _ int32) error {
		if slices.Contains(values, value) {
			return nil
		}
		return fmt.Errorf("%q: want one of %s", value, strings.Join(values, ", "))
	}
}

func integer(low, high int64) func(string, int32) error {
	return func(value string, _ int32) error {
		// This is what engines accept: "+5", "-0" and "007" keep them from starting.
		if n, err := strconv.ParseInt(value, 10, 64); err != nil || strconv.FormatInt(n, 10) != value || n < low || n > high {
			return fmt.Errorf("%q: want a whole number from %d to %d", value, low, high)
		}
		return nil
	}
}

// decimal is the form of maxmemory-gb. ParseFloat alone would also accept "Inf", "1e3" and "0x1p4".
var decimal = regexp.MustCompile(`^[0-9]{1,3}(\.[0-9]{1,3})?$`)

func checkMaxmemoryGB(value string, sizeGB int32) error {
	gb, err := strconv.ParseFloat(value, 64)
	low := float64(sizeGB) / 5 // not times 0.2, which is 0.6000000000000001 for 3
	if err != nil || !decimal.MatchString(value) || gb < low || gb > float64(sizeGB) {
		return fmt.Errorf("%q: want GB, from a fifth of memory_size_gb to all of it: %g to %d", value, low, sizeGB)
	}
	return nil
}

func maxmemoryDirective(value string) (string, string) {
	gb, _ := strconv.ParseFloat(value, 64) // was checked
	return "maxmemory", strconv.FormatInt(int64(gb*(1<<30)), 10)
}

var percent = regexp.MustCompile(`^([1-9][0-9]?|100)%$`)

func bytesOrPercent(value string, _ int32) error {
	if percent.MatchString(value) || integer(0, math.MaxInt64)(value, 0) == nil {
		return nil
	}
	return fmt.Errorf("%q: want a number of bytes, or 1%% to 100%% of maxmemory; 0 is no limit", value)
}

func keyspaceEvents(value string, _ int32) error {
	const flags = "KEg$lshzxentmdA"
	for _, c := range value {
		if !strings.ContainsRune(flags, c) {
			return fmt.Errorf("%q: want letters of %s", value, flags)
		}
	}
	return nil
}

package gateway

import (
	"crypto/tls"
	"slices"
	"sync/atomic"
)

// counters count what happens to connections until a loop has them, from the start of the process. Any goroutine may count.
type counters struct {
	accepted    atomic.Uint64
	unreachable atomic.Uint64 // told that the engine does not answer
	timedOut    atomic.Uint64 // closed before their first byte
	diagnosed   tally         // turned away, by what they spoke
	failures    tally         // failed handshakes, by class
	// completed handshakes, by three indexes: 0 for TLS 1.2 and 1 for 1.3; the index in knownGroups, or one more; 1 for a resumed session.
	completed [2][5][2]atomic.Uint64
}

func newCounters() counters {
	return counters{diagnosed: newTally(kinds), failures: newTally(failureClasses)}
}

// tally has a counter for each name of a set that does not change.
type tally map[string]*atomic.Uint64

func newTally[S ~string](names []S) tally {
	t := make(tally)
	for _, name := range names {
		t[string(name)] = new(atomic.Uint64)
	}
	return t
}

// Add counts one. The name must be of the set.
func (t tally) Add(name string) { t[name].Add(1) }

// load returns all counters, and their sum.
func (t tally) load() (values map[string]uint64, sum uint64) {
	values = make(map[string]uint64)
	for name, n := range t {
		values[name] = n.Load()
		sum += values[name]
	}
	return values, sum
}

func (c *counters) handshakeDone(s tls.ConnectionState) {
	var version, resumed int
	if s.Version == tls.VersionTLS13 {
		version = 1
	}
	if s.DidResume {
		resumed = 1
	}
	group := slices.IndexFunc(knownGroups, func(g named[tls.CurveID]) bool { return g.value == s.CurveID })
	if group < 0 {
		group = len(knownGroups)
	}
	c.completed[version][group][resumed].Add(1)
}

// handshakes returns the completed ones, and how many had each version.
func (c *counters) handshakes() (all []Completed, versions [2]uint64) {
	for version := range c.completed {
		for group := range c.completed[version] {
			for resumed := range c.completed[version][group] {
				n := c.completed[version][group][resumed].Load()
				if n == 0 {
					continue
				}
				versions[version] += n
				name := "none"
				if group < len(knownGroups) {
					name = knownGroups[group].name
				}
				all = append(all, Completed{[]string{"1.2", "1.3"}[version], name, resumed == 1, n})
			}
		}
	}
	return all, versions
}

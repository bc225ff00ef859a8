package failover

import (
	"maps"
	"slices"
	"time"
)

// Readable says whether a replica may be read: it has the primary's data, but for what is on its way. Its link may be down while the
// primary does not answer, because then there is nothing newer to read.
func Readable(history string, primary, replica Observation, lag time.Duration) bool {
	return upToDate(history, replica, lag) && (replica.Linked || !primary.Answers())
}

// ReadPlan says whose engine the gateway of each node serves at the read endpoint. gateways are the nodes whose gateways listen there,
// readable those whose engines may be read. A gateway serves its own node's engine where that is one. The others, in the order of their
// numbers, get the engine that the fewest serve. Where no engine may be read, all get the primary's.
func ReadPlan(gateways, readable []int, primary int) map[int]int {
	plan := make(map[int]int)
	served := make(map[int]int) // how many gateways serve an engine
	for _, k := range readable {
		served[k] = 0
		if slices.Contains(gateways, k) {
			plan[k], served[k] = k, 1
		}
	}
	engines := slices.Sorted(maps.Keys(served))
	for _, g := range slices.Sorted(slices.Values(gateways)) {
		if _, ok := plan[g]; ok {
			continue
		}
		if len(engines) == 0 {
			plan[g] = primary
			continue
		}
		plan[g] = slices.MinFunc(engines, func(a, b int) int { return served[a] - served[b] })
		served[plan[g]]++
	}
	return plan
}

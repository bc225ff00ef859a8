package failover

import (
	"errors"
	"fmt"
	"strings"
)

// MaxDifference is the difference of offsets from which on a failover that is to lose little data is refused, in bytes; as in the
// managed service.
const MaxDifference = 30 << 20

// ErrNoReplica says that no replica has the primary's data: a failover would lose all of them.
var ErrNoReplica = errors.New("no replica has the primary's data")

// ErrUndecided says that an engine which may have the primary's data does not answer. To go on without it could lose what it has.
var ErrUndecided = errors.New("a replica that may have the data does not answer")

// Candidate returns the node that takes over from a primary which has failed: the one that is furthest in its history. nodes are the
// other nodes, by their numbers.
func Candidate(history string, nodes map[int]Observation) (int, error) {
	best, found := 0, false
	var silent []string
	for k, o := range nodes {
		switch {
		case o.Running() && !o.Answers():
			silent = append(silent, fmt.Sprintf("node-%d", k))
		case !o.Answers() || o.Loading || o.Syncing || !o.follows(history):
		case !found || o.Offset > nodes[best].Offset || o.Offset == nodes[best].Offset && k < best:
			best, found = k, true
		}
	}
	switch {
	case found:
		return best, nil
	case len(silent) > 0:
		return 0, fmt.Errorf("%w: %s", ErrUndecided, strings.Join(silent, ", "))
	}
	return 0, ErrNoReplica
}

// candidateOf is Candidate for the newest history that a node has of which something is known. histories are the newest first.
func candidateOf(histories []string, nodes map[int]Observation) (int, error) {
	for _, h := range histories {
		if k, err := Candidate(h, nodes); !errors.Is(err, ErrNoReplica) {
			return k, err
		}
	}
	return 0, ErrNoReplica
}

// PlannedCandidate returns the node that takes over from a primary that is well: of the replicas that are linked to it, the one that is
// furthest. difference is how many bytes of changes the one that is furthest behind lacks, which is what the managed service looks at.
func PlannedCandidate(history string, primary Observation, nodes map[int]Observation) (to int, difference int64, err error) {
	linked := make(map[int]Observation)
	for k, o := range nodes {
		if o.Linked && !o.Primary {
			linked[k] = o
			difference = max(difference, primary.Offset-o.Offset)
		}
	}
	to, err = Candidate(history, linked)
	return to, difference, err
}

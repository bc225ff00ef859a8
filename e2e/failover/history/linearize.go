package history

import (
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// linearizeTime bounds the search for one key. A key for which it ends without an answer is no violation.
const linearizeTime = 5 * time.Second

// checkLinearizable is a second opinion on swaps, by a checker that knows nothing of trees: the swaps of a key that a replica had
// confirmed must have an order that explains their replies and respects their times. Replication is in order, so with such a swap all
// that it saw was confirmed as well. Any other swap may have happened or not.
func (c *checker) checkLinearizable(key string, ops []*Op) {
	var all []porcupine.Operation
	observed := make(map[*Op]bool)
	for _, o := range ops {
		if o.Kind == Swap && o.Replicated && o.Outcome == Done {
			observed[c.before(o)] = true
			all = append(all, porcupine.Operation{ClientId: o.Client, Input: o, Output: c.before(o), Call: int64(o.Start), Return: int64(o.End)})
		}
	}
	for _, o := range ops {
		// What nobody saw explains nothing.
		if o.Kind == Swap && !o.Replicated && observed[o] {
			all = append(all, porcupine.Operation{ClientId: len(c.h.Ops) + len(all), Input: o, Output: nil, Call: int64(o.Start), Return: math.MaxInt64})
		}
	}
	if porcupine.CheckOperationsTimeout(swapModel, all, linearizeTime) == porcupine.Illegal {
		c.violate(NotLinearizable, key, "%d swaps", len(all))
	}
}

// swapModel has the last write as its state.
var swapModel = porcupine.Model{
	Init: func() any { return (*Op)(nil) },
	Step: func(state, input, output any) (bool, any) {
		before, known := output.(*Op)
		return !known || before == state.(*Op), input
	},
}

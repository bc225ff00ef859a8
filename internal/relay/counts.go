package relay

import (
	"slices"
	"sync/atomic"

	"github.com/sealane/sealane/internal/routing"
)

// counts are what a loop has done.
type counts struct {
	in, out, shared, dedicated, timedOut, refused atomic.Uint64
	pins                                          [16]atomic.Uint64
}

func (c *counts) command(shared bool, n uint64) {
	if shared {
		c.shared.Add(n)
	} else {
		c.dedicated.Add(n)
	}
}

func (c *counts) pin(p routing.Pin) { c.pins[slices.Index(routing.Pins, p)].Add(1) }

// Counts are what the loops have done since they began.
type Counts struct {
	// In and Out are the bytes delivered to the engine and to clients, without TLS's own.
	In, Out uint64
	// Shared and Dedicated are the requests by the kind of connection that carried them.
	Shared, Dedicated uint64
	// TimedOut are the clients that Backend.IdleTimeout closed.
	TimedOut uint64
	// Moved are the clients that went on when the engine was replaced, MovedLost those that were closed by it.
	Moved, MovedLost uint64
	// Refused are the requests for which there was no memory (SetOutOfMemory).
	Refused uint64
	// Pins are how often a client got a dedicated connection, by reason.
	Pins map[routing.Pin]uint64
}

// Counts says what the loops have done.
func (ls *Loops) Counts() Counts {
	c := Counts{Pins: make(map[routing.Pin]uint64, len(routing.Pins))}
	c.Moved, c.MovedLost = ls.moves.moved.Load(), ls.moves.lost.Load()
	for _, l := range ls.all {
		c.In += l.counts.in.Load()
		c.Out += l.counts.out.Load()
		c.Shared += l.counts.shared.Load()
		c.Dedicated += l.counts.dedicated.Load()
		c.TimedOut += l.counts.timedOut.Load()
		c.Refused += l.counts.refused.Load()
		for i, p := range routing.Pins {
			c.Pins[p] += l.counts.pins[i].Load()
		}
	}
	return c
}

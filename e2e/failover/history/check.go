package history

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// checker has what the rules share.
type checker struct {
	h       History
	result  Result
	byKey   map[string][]*Op // in the order of Start
	writers map[string]*Op   // by the value written
	lost    map[*Op]*loss
	// seen has acknowledged writes that a read after their reply found, with the start of the last such read.
	seen map[*Op]time.Duration
}

// loss is when an acknowledged write must have been lost: between two reads, or between its reply and a read.
type loss struct {
	after, before time.Duration
	failover      int
}

// Check checks a history.
func Check(h History) Result {
	c := &checker{h: h, byKey: make(map[string][]*Op), writers: make(map[string]*Op), lost: make(map[*Op]*loss), seen: make(map[*Op]time.Duration)}
	c.index()
	for key, ops := range c.byKey {
		ops = c.checkReplies(key, ops)
		switch {
		case slices.ContainsFunc(ops, func(o *Op) bool { return o.Kind == Swap }):
			c.checkSwaps(key, ops)
		case slices.ContainsFunc(ops, func(o *Op) bool { return o.Kind == Append || o.Kind == List }):
			c.checkList(key, ops)
		default:
			c.checkRegister(key, ops)
		}
	}
	c.assignLosses()
	c.checkPrimaries()
	slices.SortFunc(c.result.Violations, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Text, b.Text))
	})
	slices.SortFunc(c.result.Losses, func(a, b Loss) int { return cmp.Compare(a.Op.Start, b.Op.Start) })
	return c.result
}

func (c *checker) index() {
	for i := range c.h.Ops {
		o := &c.h.Ops[i]
		c.byKey[o.Key] = append(c.byKey[o.Key], o)
		if !o.writes() {
			if o.Outcome == Done {
				c.result.Reads++
			}
			continue
		}
		if other, ok := c.writers[o.Value]; ok {
			// The rules rest on it. This is a fault of the load, not of what is tested.
			panic(fmt.Sprintf("history: the value %q is written twice: %v and %v", o.Value, other, o))
		}
		c.writers[o.Value] = o
		switch o.Outcome {
		case Done:
			c.result.Acknowledged++
			if o.Replicated {
				c.result.Replicated++
			}
		case Refused:
			c.result.Refused++
		default:
			c.result.Unknown++
		}
	}
	for _, ops := range c.byKey {
		slices.SortFunc(ops, func(a, b *Op) int { return cmp.Compare(a.Start, b.Start) })
	}
}

func (c *checker) violate(rule Rule, key, format string, args ...any) {
	c.result.Violations = append(c.result.Violations, Violation{rule, key, fmt.Sprintf(format, args...)})
}

// checkReplies checks each value that was read by itself. It returns the operations without the reads that the other rules can't use.
func (c *checker) checkReplies(key string, ops []*Op) []*Op {
	return slices.DeleteFunc(slices.Clone(ops), func(o *Op) bool {
		if o.Outcome != Done {
			return false
		}
		bad := false
		for _, v := range o.Read {
			w := c.writers[v]
			switch {
			case w == nil || w.Key != key:
				c.violate(Foreign, key, "%v returned %q, which nobody wrote to this key", o, v)
			case w.Outcome == Refused:
				c.violate(RefusedIsThere, key, "%v returned %q of %v", o, v, w)
			case w.Start >= o.End || w == o:
				c.violate(FromFuture, key, "%v returned %q of %v", o, v, w)
			default:
				continue
			}
			bad = true
		}
		return bad
	})
}

// reads are the acknowledged operations that return a value, in the order of Start.
func reads(ops []*Op) []*Op {
	return slices.DeleteFunc(slices.Clone(ops), func(o *Op) bool { return o.Outcome != Done || o.Kind == Append || o.Kind == Set })
}

// noteLost notes that the acknowledged write w was lost by the time at which read r had its reply. lastSeen is the last read that found
// it, or nil.
func (c *checker) noteLost(w, lastSeen, r *Op) {
	if c.lost[w] != nil {
		return
	}
	after := w.Start
	if lastSeen != nil {
		after = max(after, lastSeen.Start)
	}
	c.lost[w] = &loss{after: after, before: r.End, failover: -1}
}

// assignLosses finds the failover of each loss.
func (c *checker) assignLosses() {
	for w, l := range c.lost {
		if w.Replicated {
			c.violate(LostReplicated, w.Key, "%v is not there at %v", w, l.before)
		}
		if !c.h.FailoversUnknown {
			l.failover = slices.IndexFunc(c.h.Failovers, func(f Failover) bool { return f.End >= l.after && f.Start <= l.before })
			switch {
			case l.failover < 0:
				c.violate(LostAtPeace, w.Key, "%v was there at %v and is not there at %v", w, l.after, l.before)
			case c.h.Failovers[l.failover].Lossless:
				c.violate(LostWithout, w.Key, "%v is not there at %v", w, l.before)
			case w.End < c.h.Failovers[l.failover].Start-c.h.MaxLag:
				c.violate(LostEarly, w.Key, "%v is not there at %v; the failover began at %v", w, l.before, c.h.Failovers[l.failover].Start)
			}
		}
		c.result.Losses = append(c.result.Losses, Loss{w, l.failover})
	}
}

// checkPrimaries looks at the losses of each failover over all keys. A primary's writes are replicated in the order in which it executed
// them, so what a failover loses is the end of that order. A write that is there although it was sent after a lost one had been
// acknowledged was therefore executed by the new primary. It may not come before the failover, and a lost write that was sent after
// its reply was acknowledged by the old primary while the new one acknowledged writes as well.
func (c *checker) checkPrimaries() {
	for i, f := range c.h.Failovers {
		var lost []*Op
		for w, l := range c.lost {
			if l.failover == i {
				lost = append(lost, w)
			}
		}
		if len(lost) == 0 {
			continue
		}
		first := slices.MinFunc(lost, func(a, b *Op) int { return cmp.Compare(a.End, b.End) })
		var kept *Op // the first one of the new primary
		for w, at := range c.seen {
			if at > f.End && c.lost[w] == nil && w.Start > first.End && (kept == nil || w.End < kept.End) {
				kept = w
			}
		}
		if kept == nil {
			continue
		}
		if kept.End < f.Start {
			c.violate(NotASuffix, first.Key, "%v is lost with the failover at %v, and %v is there", first, f.Start, kept)
			continue
		}
		for _, w := range lost {
			if w.Start > kept.End {
				c.violate(TwoPrimaries, w.Key, "%v is lost; before it, the new primary acknowledged %v", w, kept)
			}
		}
	}
}

package history

import (
	"cmp"
	"slices"
	"time"
)

// chain is the history of a key that many clients swap. Each acknowledged swap names the value before it, so swaps are a tree: a
// path if nothing is lost, and a fork where a primary did not know what another one had acknowledged.
type chain struct {
	c        *checker
	key      string
	children map[*Op][]*Op // acknowledged swaps, by the write before them; nil is the key without a value
	kept     map[*Op]bool  // what was read last, and all that is known to have led to it
}

func (c *checker) checkSwaps(key string, ops []*Op) {
	t := &chain{c: c, key: key, children: make(map[*Op][]*Op), kept: make(map[*Op]bool)}
	var gets []*Op
	for _, o := range reads(ops) {
		if o.Kind == Swap {
			t.children[c.before(o)] = append(t.children[c.before(o)], o)
		} else {
			gets = append(gets, o)
		}
	}
	complete := false
	if len(gets) > 0 {
		complete = t.keep(gets[len(gets)-1])
	}
	for _, siblings := range t.children {
		if len(siblings) > 1 {
			t.checkFork(siblings)
		}
	}
	for _, r := range gets {
		// What replaced the value before the read was sent is not there.
		for _, s := range t.children[c.before(r)] {
			if s.End < r.Start {
				t.walk(s, func(o *Op) { c.noteLost(o, nil, r) })
			}
		}
	}
	if complete {
		last := gets[len(gets)-1]
		for _, o := range ops {
			if o.Kind == Swap && o.Outcome == Done && o.End < last.Start && !t.kept[o] {
				c.noteLost(o, nil, last)
			}
		}
	}
	c.checkSwapReads(t, ops)
	c.checkLinearizable(key, ops)
}

// keep walks back from the last read. It returns whether all that led there is known: a swap without a reply hides what was before it.
func (t *chain) keep(last *Op) (complete bool) {
	for w := t.c.before(last); w != nil && !t.kept[w]; w = t.c.before(w) {
		t.kept[w] = true
		if w.Outcome != Done {
			return false
		}
		t.c.seen[w] = last.Start
	}
	return true
}

// before is the write whose value a swap or a read returned; nil if there was none.
func (c *checker) before(o *Op) *Op {
	if o.Outcome != Done || len(o.Read) == 0 {
		return nil
	}
	return c.writers[o.Read[0]]
}

// checkFork looks at swaps that replaced the same value. At most one of them, and what came after it, is kept. The others are lost, and
// were executed by a primary that did not know the kept ones, which in turn were executed by one that did not know them.
func (t *chain) checkFork(siblings []*Op) {
	known := slices.IndexFunc(siblings, func(o *Op) bool { return t.kept[o] })
	keep := known
	if keep < 0 {
		// The new primary's branch goes on for longer.
		keep = slices.Index(siblings, slices.MaxFunc(siblings, func(a, b *Op) int { return cmp.Compare(t.lastStart(a), t.lastStart(b)) }))
	}
	kept := siblings[keep]
	for i, s := range siblings {
		if i == keep {
			continue
		}
		// Where it is not known which branch is kept, one of the two may have come entirely before the other's first acknowledgement.
		if t.lastStart(s) > t.firstEnd(kept) && (known >= 0 || t.lastStart(kept) > t.firstEnd(s)) {
			t.c.violate(TwoPrimaries, t.key, "%v and %v replaced the same value; the first one or what came after it is lost, and was sent at %v, after the other primary had acknowledged at %v",
				s, kept, t.lastStart(s), t.firstEnd(kept))
		}
		t.walk(s, func(o *Op) { t.c.noteLost(o, nil, kept) })
	}
}

// lastStart is when the last swap of a branch was sent, firstEnd when the first one was acknowledged.
func (t *chain) lastStart(o *Op) (last time.Duration) {
	t.walk(o, func(o *Op) { last = max(last, o.Start) })
	return last
}

func (t *chain) firstEnd(o *Op) time.Duration {
	first := o.End
	t.walk(o, func(o *Op) { first = min(first, o.End) })
	return first
}

// walk calls f with an acknowledged swap and all that come after it.
func (t *chain) walk(o *Op, f func(*Op)) {
	todo, done := []*Op{o}, make(map[*Op]bool)
	for len(todo) > 0 {
		o := todo[0]
		todo = todo[1:]
		if done[o] {
			continue // a circle: a value was read before it was written, which has been reported
		}
		done[o] = true
		f(o)
		todo = append(todo, t.children[o]...)
	}
}

// checkSwapReads looks for what was lost and is read later.
func (c *checker) checkSwapReads(t *chain, ops []*Op) {
	for _, r := range reads(ops) {
		w := c.before(r)
		if w == nil || c.lost[w] == nil || c.lost[r] != nil {
			continue // a swap that is lost as well was executed by the primary that had w
		}
		if l := c.lost[w]; l.before < r.Start {
			c.violate(BackFromTheDead, t.key, "%v was lost at %v and is there again: %v", w, l.before, r)
		}
	}
}

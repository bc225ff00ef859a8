package history

import "slices"

// checkList checks the history of a list that one client appends to.
func (c *checker) checkList(key string, ops []*Op) {
	var appends []*Op
	for _, o := range ops {
		if o.Kind == Append && o.Outcome == Done {
			appends = append(appends, o)
		}
	}
	lastSeen := make(map[*Op]*Op) // by the write: the last read that found it
	for _, r := range reads(ops) {
		present := make(map[*Op]bool, len(r.Read))
		for _, v := range r.Read {
			w := c.writers[v]
			if present[w] {
				c.violate(Twice, key, "%v returned %q twice", r, v)
			}
			present[w] = true
		}
		c.checkOrder(key, r)
		for _, w := range appends {
			if w.End >= r.Start {
				continue
			}
			switch l := c.lost[w]; {
			case !present[w]:
				c.noteLost(w, lastSeen[w], r)
			case l != nil && l.before < r.Start:
				c.violate(BackFromTheDead, key, "%v was not there at %v and is there again: %v", w, l.before, r)
			default:
				c.seen[w] = r.Start
				lastSeen[w] = r
			}
		}
	}
}

// checkOrder checks that writes are in the order in which they were acknowledged. Those without an answer may be anywhere.
func (c *checker) checkOrder(key string, r *Op) {
	var before *Op
	for _, v := range r.Read {
		w := c.writers[v]
		if w.Outcome != Done {
			continue
		}
		if before != nil && w.End < before.Start {
			c.violate(Disorder, key, "%v has %v behind %v", r, w, before)
			return
		}
		before = w
	}
}

// checkRegister checks the history of a key that one client sets.
func (c *checker) checkRegister(key string, ops []*Op) {
	var sets []*Op
	for _, o := range ops {
		if o.Kind == Set && o.Outcome == Done {
			sets = append(sets, o)
		}
	}
	var lastSeen *Op
	for _, r := range reads(ops) {
		var w *Op
		if len(r.Read) > 0 {
			w = c.writers[r.Read[0]]
		}
		if l := c.lost[w]; w != nil && l != nil && l.before < r.Start {
			c.violate(BackFromTheDead, key, "%v was not there at %v and is there again: %v", w, l.before, r)
			continue
		}
		if w != nil && w.Outcome != Done {
			continue // it may have been executed after any of the others
		}
		if w != nil && w.End < r.Start {
			c.seen[w] = r.Start
		}
		for _, s := range sets {
			// What is older than the value has been overwritten.
			if s.End < r.Start && (w == nil || s.Start > w.End) {
				c.noteLost(s, lastSeen.ifRead(s), r)
			}
		}
		lastSeen = r
	}
}

// ifRead is the read r if it returned what w wrote.
func (r *Op) ifRead(w *Op) *Op {
	if r != nil && slices.Contains(r.Read, w.Value) {
		return r
	}
	return nil
}

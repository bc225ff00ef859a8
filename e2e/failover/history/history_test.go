package history

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// ops makes a history from lines of the form
//
//	START-END CLIENT KIND KEY VALUE [unknown|refused|replicated] [= READ …]
//
// with milliseconds, and "-" as the value of a read.
func ops(t *testing.T, text string) []Op {
	t.Helper()
	var all []Op
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		left, right, read := strings.Cut(line, "=")
		f := strings.Fields(left)
		var start, end int
		o := Op{Kind: Kind(f[2]), Key: f[3], Value: f[4], Outcome: Done}
		if _, err := fmt.Sscanf(f[0]+" "+f[1], "%d-%d %d", &start, &end, &o.Client); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		o.Start, o.End = time.Duration(start)*time.Millisecond, time.Duration(end)*time.Millisecond
		if o.Value == "-" {
			o.Value = ""
		}
		for _, word := range f[5:] {
			if word == "replicated" {
				o.Replicated = true
			} else {
				o.Outcome = Outcome(word)
			}
		}
		if read {
			o.Read = strings.Fields(right)
		}
		all = append(all, o)
	}
	return all
}

// at is a failover in milliseconds.
func at(start, end int) Failover {
	return Failover{Start: time.Duration(start) * time.Millisecond, End: time.Duration(end) * time.Millisecond}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		failovers []Failover
		ops       string
		rules     []Rule
		lost      int
	}{
		{name: "nothing is lost", ops: `
			0-1 1 append l a
			2-3 1 append l b replicated
			4-5 1 list l - = a b
			0-1 1 set s c
			2-3 1 get s - = c
			0-1 1 swap x d
			1-2 2 swap x e = d
			3-4 3 swap x f replicated = e
			5-6 3 get x - = f`},
		{name: "a suffix is lost with a failover", failovers: []Failover{at(10, 20)}, lost: 5, ops: `
			0-1 1 append l a
			2-3 1 append l b
			4-5 1 append l c
			21-22 1 append l d
			30-31 1 list l - = a d
			0-1 2 set s e
			4-5 2 set s f
			30-31 2 get s - = e
			0-1 3 swap x g
			4-5 3 swap x h = g
			6-7 4 swap x i = h
			22-23 3 swap x j = g
			30-31 3 get x - = j`},
		{name: "what has no answer may be there", ops: `
			0-1 1 append l a unknown
			2-3 1 append l b
			4-5 1 list l - = a b
			0-1 1 set s c unknown
			2-3 1 set s d
			4-5 1 get s - = c
			0-1 1 swap x e unknown
			2-3 1 swap x f = e`},
		{name: "what has no answer may be missing, and come later", ops: `
			0-1 1 append l a unknown
			2-3 1 append l b
			4-5 1 list l - = b
			6-7 1 list l - = b a
			0-1 1 set s c unknown
			2-3 1 get s -
			0-1 1 swap x e unknown
			2-3 1 swap x f`},
		{name: "a reply for another client", rules: []Rule{Foreign, Foreign, Foreign}, ops: `
			0-1 1 append l1 a
			0-1 2 append l2 b
			2-3 1 list l1 - = b
			0-1 3 set s c
			2-3 3 get s - = a
			0-1 4 swap x d = zzz`},
		{name: "a write applied twice", rules: []Rule{Twice}, ops: `
			0-1 1 append l a
			2-3 1 list l - = a a`},
		{name: "writes in another order", rules: []Rule{Disorder}, ops: `
			0-1 1 append l a
			2-3 1 append l b
			4-5 1 list l - = b a`},
		{name: "a refused write is there", rules: []Rule{RefusedIsThere, RefusedIsThere, RefusedIsThere}, ops: `
			0-1 1 append l a refused
			4-5 1 list l - = a
			0-1 1 set s b refused
			4-5 1 get s - = b
			0-1 1 swap x c refused
			4-5 1 swap x d = c`},
		{name: "a value from the future", rules: []Rule{FromFuture}, ops: `
			0-1 1 get s - = a
			2-3 1 set s a`},
		{name: "a loss at peace in a list", rules: []Rule{LostAtPeace}, lost: 1, ops: `
			0-1 1 append l a
			2-3 1 append l b
			4-5 1 list l - = a`},
		{name: "a loss at peace in a register", rules: []Rule{LostAtPeace}, lost: 1, ops: `
			0-1 1 set s a
			2-3 1 set s b
			4-5 1 get s - = a`},
		{name: "a loss at peace of a key", rules: []Rule{LostAtPeace}, lost: 1, ops: `
			0-1 1 set s a
			4-5 1 get s -`},
		{name: "a loss at peace in swaps", rules: []Rule{LostAtPeace, LostAtPeace}, lost: 2, ops: `
			0-1 1 swap x a
			2-3 2 swap x b = a
			4-5 2 swap x c = b
			6-7 1 swap x d = a
			8-9 1 get x - = d`},
		{name: "the last swap is lost at peace", rules: []Rule{LostAtPeace}, lost: 1, ops: `
			0-1 1 swap x a
			2-3 2 swap x b = a
			8-9 1 get x - = a`},
		{name: "a loss by a failover that was over", failovers: []Failover{at(10, 20)}, rules: []Rule{LostAtPeace}, lost: 1, ops: `
			30-31 1 append l a
			40-41 1 list l -`},
		{name: "a loss of what had been read after the failover", failovers: []Failover{at(10, 20)}, rules: []Rule{LostAtPeace}, lost: 1, ops: `
			0-1 1 append l a
			30-31 1 list l - = a
			40-41 1 list l -`},
		{name: "a loss of what was acknowledged long before", failovers: []Failover{at(3000, 3100)}, rules: []Rule{LostEarly}, lost: 1, ops: `
			0-1 1 append l a
			3200-3201 1 list l -`},
		{name: "a loss with a failover that loses nothing", failovers: []Failover{{Start: 10 * time.Millisecond, End: 20 * time.Millisecond, Lossless: true}}, rules: []Rule{LostWithout}, lost: 1, ops: `
			8-9 1 append l a
			30-31 1 list l -`},
		{name: "a confirmed write is lost", failovers: []Failover{at(10, 20)}, rules: []Rule{LostReplicated, LostReplicated, LostReplicated}, lost: 3, ops: `
			0-9 1 append l a replicated
			30-31 1 list l -
			0-9 1 set s b replicated
			30-31 1 get s -
			0-9 2 swap x c replicated
			21-22 2 swap x d
			30-31 2 get x - = d`},
		{name: "a hole in one list", failovers: []Failover{at(10, 20)}, rules: []Rule{NotASuffix}, lost: 1, ops: `
			0-1 1 append l a
			2-3 1 append l b
			30-31 1 list l - = b`},
		{name: "a hole over two keys", failovers: []Failover{at(10, 20)}, rules: []Rule{NotASuffix}, lost: 1, ops: `
			0-1 1 append l1 a
			2-3 2 append l2 b
			30-31 1 list l1 -
			30-31 2 list l2 - = b`},
		{name: "two primaries, by lists", failovers: []Failover{at(10, 20)}, rules: []Rule{TwoPrimaries}, lost: 2, ops: `
			8-9 1 append l1 a
			12-13 2 append l2 b
			15-16 1 append l1 c
			30-31 1 list l1 -
			30-31 2 list l2 - = b`},
		{name: "two primaries, by swaps", failovers: []Failover{at(10, 20)}, rules: []Rule{TwoPrimaries, TwoPrimaries}, lost: 2, ops: `
			8-9 1 swap x a
			10-11 2 swap x b
			12-13 1 swap x c = a
			14-15 2 swap x d = b
			30-31 3 get x - = d`},
		{name: "a swap of another primary, without a read that says which is kept", failovers: []Failover{at(10, 20)}, lost: 1, ops: `
			9-10 1 swap x a
			15-16 2 swap x b`},
		{name: "two primaries, without a read that says which is kept", failovers: []Failover{at(10, 20)}, rules: []Rule{TwoPrimaries}, lost: 2, ops: `
			9-10 1 swap x a
			9-10 2 swap x b
			11-12 1 swap x c = a
			13-14 2 swap x d = b`},
		{name: "a list's write comes back from the dead", failovers: []Failover{at(10, 20)}, rules: []Rule{BackFromTheDead}, lost: 1, ops: `
			8-9 1 append l a
			21-22 1 list l -
			30-31 1 list l - = a`},
		{name: "a register's write comes back from the dead", failovers: []Failover{at(10, 20)}, rules: []Rule{BackFromTheDead}, lost: 1, ops: `
			6-7 1 set s a
			8-9 1 set s b
			21-22 1 get s - = a
			30-31 1 get s - = b`},
		{name: "a swap comes back from the dead", failovers: []Failover{at(10, 20)}, rules: []Rule{BackFromTheDead}, lost: 1, ops: `
			8-9 1 swap x a
			21-22 1 swap x b
			30-31 1 get x - = a
			40-41 1 get x - = b`},
		{name: "confirmed swaps that no order explains", rules: []Rule{NotLinearizable}, ops: `
			0-1 1 swap x a replicated
			5-6 2 swap x u unknown
			10-11 3 swap x b replicated = u
			12-13 1 swap x c replicated = a`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := Check(History{Ops: ops(t, c.ops), Failovers: c.failovers, MaxLag: time.Second})
			var rules []Rule
			for _, v := range got.Violations {
				rules = append(rules, v.Rule)
			}
			slices.Sort(c.rules)
			if !slices.Equal(rules, c.rules) {
				t.Errorf("got %q\nwant %q", got.Violations, c.rules)
			}
			if len(got.Losses) != c.lost {
				t.Errorf("got the losses %v, want %d", got.Losses, c.lost)
			}
		})
	}
}

package gateway_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sealane/sealane/internal/gateway"
)

func TestNewestOfTheQueueComesFirst(t *testing.T) {
	t.Parallel()
	l := gateway.NewQueueForTest()
	for _, name := range []string{"first", "second", "third", "fourth"} {
		l.Push(name, "10.0.0.1", false)
	}
	if got := l.Oldest(); got != "first" {
		t.Errorf("the oldest is %q; want the first", got)
	}
	l.Remove("first")
	for _, want := range []string{"fourth", "third", "second"} {
		if got := l.Next(); got != want {
			t.Errorf("next is %q; want the %s", got, want)
		}
	}
	if l.Next() != "" || l.Oldest() != "" || l.Len() != 0 || l.Left() != 0 {
		t.Error("an empty queue has somebody")
	}
}

func TestWhoResumesComesBeforeTheNewestOfItsSource(t *testing.T) {
	t.Parallel()
	l := gateway.NewQueueForTest()
	l.Push("resumes", "10.0.0.1", true)
	l.Push("new", "10.0.0.1", false)
	l.Push("other", "10.0.0.2", false)
	// A ticket may be made up: it helps against one's own, not against others.
	for _, want := range []string{"resumes", "other", "new"} {
		if got := l.Next(); got != want {
			t.Errorf("next is %q; want %q", got, want)
		}
	}
}

func TestSourcesTakeTurns(t *testing.T) {
	t.Parallel()
	l := gateway.NewQueueForTest()
	l.Push("quiet", "10.0.0.2", false)
	for i := range 100 {
		l.Push(fmt.Sprint("flood ", i), "10.0.0.1", i%2 == 0)
	}
	// One with an IPv6 network is one source, whatever address it takes.
	for i := range 50 {
		l.Push(fmt.Sprint("six ", i), fmt.Sprintf("2001:db8::%x", i+1), false)
	}
	turns := map[string]bool{l.Next(): true, l.Next(): true, l.Next(): true}
	if !turns["quiet"] || !turns["flood 98"] || !turns["six 49"] {
		t.Errorf("first turns %v; want one for each source", turns)
	}
	if l.Next() == "" || l.Len() != 147 {
		t.Errorf("%d wait; want 147", l.Len())
	}
}

// Whatever happens to it, nobody is lost or comes twice, and nothing is left.
func TestQueueLosesNobody(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	l := gateway.NewQueueForTest()
	in := make(map[string]bool)
	gone := func(name string) {
		if !in[name] {
			t.Fatalf("%q comes and is not in the queue", name)
		}
		delete(in, name)
	}
	for i := range 20000 {
		switch n := rnd.IntN(10); {
		case n < 6 && i < 15000:
			name := fmt.Sprint(i)
			l.Push(name, fmt.Sprintf("10.0.0.%d", 1+rnd.IntN(20)), rnd.IntN(2) == 0)
			in[name] = true
		case len(in) == 0:
		case n < 8:
			gone(l.Next())
		default:
			name := l.Oldest()
			l.Remove(name)
			gone(name)
		}
		if l.Len() != len(in) {
			t.Fatalf("%d wait; want %d", l.Len(), len(in))
		}
	}
	for len(in) > 0 {
		gone(l.Next())
	}
	if l.Left() != 0 {
		t.Errorf("%d sources left", l.Left())
	}
}

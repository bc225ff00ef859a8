package gateway_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealane/sealane/internal/gateway"
)

var epoch = time.Unix(1e9, 0)

func TestNewestOfTheLineComesFirst(t *testing.T) {
	t.Parallel()
	l := gateway.NewLineForTest()
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
		t.Error("an empty line has somebody")
	}
}

func TestWhoResumesComesBeforeTheNewestOfItsSource(t *testing.T) {
	t.Parallel()
	l := gateway.NewLineForTest()
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
	l := gateway.NewLineForTest()
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
func TestLineLosesNobody(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	l := gateway.NewLineForTest()
	in := make(map[string]bool)
	gone := func(name string) {
		if !in[name] {
			t.Fatalf("%q comes and is not in the line", name)
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

func TestHandshakesThatWaitForTheirClientHoldNoPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var wanted atomic.Int32
		places := gateway.NewPlacesForTest(1, func() { wanted.Add(1) })
		first, _ := places.Begin(time.Now())
		if h, _ := places.Begin(time.Now()); h != nil {
			t.Fatal("two compute at one place")
		}
		answered := make(chan struct{})
		done := make(chan struct{})
		go func() { defer close(done); first.Wait(func() { <-answered }); first.End() }()
		synctest.Wait()
		if wanted.Load() != 1 {
			t.Fatal("a handshake that waits for its client holds its place")
		}
		second, _ := places.Begin(time.Now())
		if second == nil {
			t.Fatal("no place although the only other one waits")
		}
		// The one under way has priority over those that have not begun.
		close(answered)
		synctest.Wait()
		second.End()
		synctest.Wait()
		<-done
		if third, _ := places.Begin(time.Now()); third == nil {
			t.Error("no place at the end")
		}
	})
}

func TestStalledHandshakeMakesRoomWhenItIsNeeded(t *testing.T) {
	t.Parallel()
	places := gateway.NewPlacesForTest(gateway.MaxBegun+1, func() {})
	for range gateway.MaxBegun {
		if h, _ := places.Begin(epoch); h == nil {
			t.Fatal("too few may begin")
		}
	}
	if h, stuck := places.Begin(epoch.Add(time.Second)); h != nil || stuck {
		t.Errorf("one more after a second: %v, stuck %v; want neither", h, stuck)
	}
	if h, stuck := places.Begin(epoch.Add(6 * time.Second)); h != nil || !stuck {
		t.Errorf("one more after six: %v, stuck %v; want the oldest to make room", h, stuck)
	}
	if h, _ := places.Begin(epoch.Add(6 * time.Second)); h == nil {
		t.Error("it made no room")
	}
}

// Hundreds that begin a handshake and go silent, or give up while they wait, keep nobody out and leave nothing behind.
func TestHandshakeStormKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	w := serving(t)
	hello := clientHello(t, w.trust())
	var storm []interface{ Close() error }
	for i := range 300 {
		c := dialTCP(t, w.addr)
		send(t, c, string(hello))
		if i%2 == 0 {
			c.Close()
			continue
		}
		storm = append(storm, c)
	}
	c := w.dial()
	roundTrip(t, c, "hello")
	if n := w.status().Connections; n < 100 {
		t.Errorf("%d connections; want those of the storm still there", n)
	}
	for _, s := range storm {
		s.Close()
	}
	eventually(t, "nothing of the storm is left", func() bool { return w.status().Connections == 1 })
	roundTrip(t, c, "still here")
}

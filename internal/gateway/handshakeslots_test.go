package gateway_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealane/sealane/internal/gateway"
)

var epoch = time.Unix(1e9, 0)

func TestHandshakesThatWaitForTheirClientHoldNoSlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var freed atomic.Int32
		slots := gateway.NewSlotsForTest(1, func() { freed.Add(1) })
		first, _ := slots.Begin(time.Now())
		if h, _ := slots.Begin(time.Now()); h != nil {
			t.Fatal("two compute with one slot")
		}
		answered := make(chan struct{})
		done := make(chan struct{})
		go func() { defer close(done); first.Wait(func() { <-answered }); first.End() }()
		synctest.Wait()
		if freed.Load() != 1 {
			t.Fatal("a handshake that waits for its client holds its slot")
		}
		second, _ := slots.Begin(time.Now())
		if second == nil {
			t.Fatal("no slot although the only other one waits")
		}
		// The one under way has priority over those that have not begun.
		close(answered)
		synctest.Wait()
		second.End()
		synctest.Wait()
		<-done
		if third, _ := slots.Begin(time.Now()); third == nil {
			t.Error("no slot at the end")
		}
	})
}

func TestStalledHandshakeMakesRoomWhenItIsNeeded(t *testing.T) {
	t.Parallel()
	slots := gateway.NewSlotsForTest(gateway.MaxUnderWay+1, func() {})
	for range gateway.MaxUnderWay {
		if h, _ := slots.Begin(epoch); h == nil {
			t.Fatal("too few may begin")
		}
	}
	if h, stalled := slots.Begin(epoch.Add(time.Second)); h != nil || stalled {
		t.Errorf("one more after a second: %v, stalled %v; want neither", h, stalled)
	}
	if h, stalled := slots.Begin(epoch.Add(6 * time.Second)); h != nil || !stalled {
		t.Errorf("one more after six: %v, stalled %v; want the oldest to make room", h, stalled)
	}
	if h, _ := slots.Begin(epoch.Add(6 * time.Second)); h == nil {
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

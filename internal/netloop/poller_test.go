package netloop

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestWaitEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	for _, within := range []time.Duration{40 * time.Millisecond, time.Millisecond, 20 * time.Millisecond} {
		began := time.Now()
		if events := wait(t, p, within); len(events) != 0 || p.Woken() {
			t.Errorf("%v: %d events, and nothing has happened", within, len(events))
		}
		// A deadline of the wait before may still be far enough, so half of the time is the least.
		if took := time.Since(began); took < within/2 || took > patience {
			t.Errorf("%v: the wait took %v", within, took)
		}
	}
}

func TestDeadlineIsMovedOnlyWhenItIsNear(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	now := time.Now()
	set := func(within time.Duration) time.Time {
		t.Helper()
		if err := p.setDeadline(now, within); err != nil {
			t.Fatal(err)
		}
		return p.deadline
	}
	first := set(time.Hour)
	if first.IsZero() {
		t.Fatal("no deadline was set")
	}
	now = first.Add(-40 * time.Minute)
	if got := set(time.Hour); !got.Equal(first) {
		t.Error("a deadline that is two thirds of the time away was moved")
	}
	now = first.Add(-20 * time.Minute)
	if got := set(time.Hour); got.Equal(first) {
		t.Error("a deadline that is a third of the time away was left alone")
	}
	now = time.Now()
	if got := set(time.Minute); got.Sub(now) > 2*time.Minute {
		t.Errorf("a deadline later than what is asked for was left alone: it is %v away", got.Sub(now))
	}
	if got := set(0); !got.IsZero() {
		t.Error("a wait without a deadline has one")
	}
}

// A deadline that has passed must not make each later wait return at once.
func TestWaitWithoutDeadlineAfterOneWith(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	wait(t, p, time.Millisecond)
	returned := make(chan struct{})
	go func() { defer close(returned); _, _ = p.Wait(time.Now(), 0) }()
	select {
	case <-returned:
		t.Fatal("a wait without a deadline ended by itself")
	case <-time.After(50 * time.Millisecond):
	}
	p.Wake()
	<-returned
}

func TestWakeEndsAWait(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	t.Run("that is under way", func(t *testing.T) {
		time.AfterFunc(10*time.Millisecond, p.Wake)
		if events := wait(t, p, 0); len(events) != 0 {
			t.Errorf("the wake-up is shown as %v", events)
		}
		if !p.Woken() || p.Woken() {
			t.Error("Woken must say so once")
		}
	})
	t.Run("that comes later", func(t *testing.T) {
		for range 3 {
			p.Wake()
		}
		wait(t, p, 0)
		if !p.Woken() {
			t.Error("it doesn't say that it was woken")
		}
		if events, err := p.Poll(); len(events) != 0 || err != nil || p.Woken() {
			t.Errorf("three wake-ups are to be noticed once: %v, %v", events, err)
		}
	})
	t.Run("together with an event", func(t *testing.T) {
		far, fd := tcpPair(t)
		s := attach(t, p, Conn{FD: fd})
		if _, err := far.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		p.Wake()
		for found := false; !found; {
			for _, ev := range wait(t, p, time.Second) {
				found = found || int(ev.Fd) == s.FD()
			}
		}
		if !p.Woken() {
			t.Error("it doesn't say that it was woken")
		}
	})
}

// Whoever wakes has made visible what is to be done; the loop looks at that after Woken. If a wake-up could be lost, the loop would
// wait for ever with something to be done.
func TestNoWakeUpIsLost(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	const wakers, each = 4, 20000
	var posted atomic.Int64
	var all sync.WaitGroup
	for range wakers {
		all.Go(func() {
			for range each {
				posted.Add(1)
				p.Wake()
			}
		})
	}
	for end := time.Now().Add(patience); posted.Load() < wakers*each || p.woken.Load(); {
		seen := posted.Load()
		wait(t, p, time.Second)
		if !p.Woken() && posted.Load() > seen {
			t.Fatal("a second has passed in which something was posted, and no wake-up came")
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d after %v", posted.Load(), wakers*each, patience)
		}
	}
	all.Wait()
}

func TestConnectionHasOneEventForWhatComes(t *testing.T) {
	t.Parallel()
	p := newPoller(t)
	far, fd := tcpPair(t)
	s := attach(t, p, Conn{FD: fd})
	if _, err := far.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	events := wait(t, p, patience)
	if len(events) != 1 || int(events[0].Fd) != s.FD() || events[0].Events&unix.EPOLLIN == 0 || HungUp(events[0].Events) {
		t.Fatalf("got %v; want input at descriptor %d", events, s.FD())
	}
	if again := wait(t, p, 10*time.Millisecond); len(again) != 0 {
		t.Errorf("what was not read has a second event: %v", again)
	}
	far.CloseWrite()
	if events = wait(t, p, patience); len(events) != 1 || !HungUp(events[0].Events) {
		t.Errorf("the end of the peer's direction: got %v; want one event that tells of it", events)
	}
	if err := p.Remove(s.FD()); err != nil {
		t.Fatal(err)
	}
	far.Close()
	if events = wait(t, p, 10*time.Millisecond); len(events) != 0 {
		t.Errorf("one that is not watched any more has an event: %v", events)
	}
}

// Not parallel: it counts the allocations of the whole process.
func TestEventsDoNotAllocate(t *testing.T) {
	p := newPoller(t)
	far, fd := tcpPair(t)
	s := attach(t, p, Conn{FD: fd})
	raw, err := far.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	message, b := []byte("ping"), make([]byte, 64)
	var write error
	send := func(fd uintptr) { _, write = WriteFD(int(fd), message) }
	round := func() {
		if err := raw.Control(send); err != nil || write != nil {
			t.Fatal(err, write)
		}
		for _, ev := range wait(t, p, time.Second) {
			s.Note(ev.Events)
		}
		if n, err := s.Read(b); err != nil || n != len(message) {
			t.Fatal(n, err)
		}
		if _, err := s.Read(b); err != ErrAgain {
			t.Fatal(err)
		}
		_, _ = s.Write(message)
		_, _ = s.Write(message)
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := s.Send(message); err != nil {
			t.Fatal(err)
		}
		p.Wake()
		wait(t, p, time.Second)
		p.Woken()
	}
	go func() {
		for b := make([]byte, 4096); ; {
			if _, err := far.Read(b); err != nil {
				return
			}
		}
	}()
	round()
	if underRace {
		t.Skip("sync.Pool drops some of what it is given under the race detector")
	}
	if n := testing.AllocsPerRun(500, round); n > 0 {
		t.Errorf("%v allocations for an event, a read, two writes, a flush and a wake-up; want none", n)
	}
}

package relay_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/relay"
)

// eachPath runs a test for both paths, between two engines of the first version.
func eachPath(t *testing.T, test func(t *testing.T, f *fleet)) {
	all := enginetest.All(t)
	for name, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newFleet(t, multiplexed, all[0], all[0]))
		})
	}
}

func (f *fleet) hold(limit, wait time.Duration) error {
	return f.loops.Hold(context.Background(), limit, wait)
}

// silent fails the test if a client is told something now.
func (k *talker) silent() {
	k.t.Helper()
	_ = k.c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if b, err := k.r.Peek(1); err == nil {
		k.t.Errorf("got %q, want nothing for now", b)
	}
	_ = k.c.SetReadDeadline(time.Now().Add(patience))
}

// The control plane may die after it has asked for a hold.
func TestHoldEndsByItself(t *testing.T) {
	eachPath(t, func(t *testing.T, f *fleet) {
		k, fresh := f.client(), f.client()
		k.want("SET k 1", "OK")
		began := time.Now()
		if err := f.hold(500*time.Millisecond, time.Second); err != nil {
			t.Fatal(err)
		}
		must(k.send("INCR", "k"), fresh.send("PING"))
		k.silent()
		fresh.silent()
		if h := f.loops.HoldState(); h.Since.Before(began) || h.Until.Sub(h.Since) != 500*time.Millisecond {
			t.Errorf("%+v", h)
		}
		if got := k.next() + fresh.next(); got != "2PONG" {
			t.Errorf("got %s", got)
		}
		if took := time.Since(began); took < 500*time.Millisecond {
			t.Errorf("the hold took %v", took)
		}
		if h := f.loops.HoldState(); !h.Since.IsZero() {
			t.Errorf("%+v", h)
		}
	})
}

func TestHoldIsReleasedAndMadeLonger(t *testing.T) {
	eachPath(t, func(t *testing.T, f *fleet) {
		k := f.client()
		k.want("SET k 1", "OK")
		for _, limit := range []time.Duration{200 * time.Millisecond, time.Minute} {
			if err := f.hold(limit, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		must(k.send("INCR", "k"))
		_ = k.c.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
		if got := k.next(); got != "nothing in time" {
			t.Errorf("got %s although the hold was made longer", got)
		}
		_ = k.c.SetReadDeadline(time.Now().Add(patience))
		f.loops.Release()
		if got := k.next(); got != "2" {
			t.Errorf("got %s", got)
		}
		f.loops.Release() // there is none any more
	})
}

func TestHoldWaitsForWhatIsInFlight(t *testing.T) {
	const slow = `local t = redis.call('TIME'); local till = t[1] * 1000 + t[2] / 1000 + 1500
		repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > till; return redis.call('INCR', 'slow')`
	eachPath(t, func(t *testing.T, f *fleet) {
		k := f.client()
		k.want("CLIENT SETNAME slow", "OK")
		k.want("CONFIG SET lua-time-limit 10000", "OK")
		before := f.loops.Counts().Dedicated
		must(k.send("EVAL", slow, "0"))
		until(t, "the script runs", func() bool { return f.loops.Counts().Dedicated > before })
		err := f.hold(time.Minute, 100*time.Millisecond)
		busy := (*relay.BusyError)(nil)
		if !errors.As(err, &busy) || len(busy.All) != 1 || busy.All[0].Name != "slow" || !strings.Contains(err.Error(), "eval of 127.0.0.1:") {
			t.Fatalf("got %v", err)
		}
		if err := f.hold(time.Minute, 20*time.Second); err != nil {
			t.Error(err)
		}
		if got := k.next(); got != "1" {
			t.Errorf("got %s", got)
		}
		f.loops.Release()
	})
}

func TestOpenTransactionFinishesDuringAHold(t *testing.T) {
	eachPath(t, func(t *testing.T, f *fleet) {
		f.loops.LetTransactionsFinishForTest()
		k, other := f.client(), f.client()
		other.want("PING", "PONG")
		k.want("MULTI", "OK")
		held := make(chan error, 1)
		go func() { held <- f.hold(time.Minute, patience) }()
		until(t, "the hold is on", func() bool { return !f.loops.HoldState().Since.IsZero() })
		must(other.send("INCR", "behind"))
		k.want("INCR in-transaction", "QUEUED")
		must(k.send("EXEC"), k.send("GET", "behind")) // what comes behind EXEC waits
		if got := k.next(); got != "[1]" {
			t.Errorf("EXEC: %s", got)
		}
		if err := <-held; err != nil {
			t.Error(err)
		}
		k.silent()
		other.silent()
		f.loops.Release()
		if got := other.next(); got != "1" {
			t.Errorf("got %s", got)
		}
		k.next()
	})
}

// The end of a large request that has begun is let through; it would never come otherwise.
func TestLargeRequestFinishesDuringAHold(t *testing.T) {
	eachPath(t, func(t *testing.T, f *fleet) {
		k := f.client()
		value := strings.Repeat("v", 300_000)
		_, err := k.c.Write([]byte("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$300000\r\n" + value[:200_000]))
		must(err)
		until(t, "its head is on its way", func() bool { return f.loops.Counts().Dedicated > 0 })
		if err := f.hold(time.Minute, 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "in the middle of a request") {
			t.Errorf("got %v", err)
		}
		_, err = k.c.Write([]byte(value[200_000:] + "\r\n"))
		must(err)
		if err := f.hold(time.Minute, patience); err != nil {
			t.Error(err)
		}
		if got := k.next(); got != "OK" {
			t.Errorf("got %s", got)
		}
		f.loops.Release()
	})
}

func TestHoldEndsWithItsCaller(t *testing.T) {
	eachPath(t, func(t *testing.T, f *fleet) {
		k := f.client()
		k.want("MULTI", "OK")
		must(f.serves.cmd.Process.Signal(syscall.SIGSTOP))
		must(k.send("PING"))
		until(t, "a request is in flight", func() bool { return f.loops.Counts().Dedicated == 2 })
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if err := f.loops.Hold(ctx, time.Minute, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		must(f.serves.cmd.Process.Signal(syscall.SIGCONT))
		if got := k.next(); got != "QUEUED" {
			t.Errorf("got %s", got)
		}
	})
}

// The old engine has died: those that asked it something are closed as ever, the others go on with the new one.
func TestEngineIsReplacedAfterItsDeath(t *testing.T) {
	eachPath(t, func(t *testing.T, f *fleet) {
		idle, waits, listens := f.client(), f.client(), f.client()
		idle.want("SELECT 2", "OK")
		idle.want("SET k v", "OK")
		listens.want("SUBSCRIBE c", "[subscribe c 1]")
		must(waits.send("BLPOP", "queue", "0"))
		until(t, "BLPOP waits", func() bool { return f.serves.info("clients", "blocked_clients") == "1" })
		f.other.caughtUp(f.serves)
		f.serves.kill()
		for _, k := range []*talker{waits, listens} {
			if got := k.next(); got != "closed" {
				t.Errorf("got %s", got)
			}
		}
		must(idle.send("GET", "k")) // it is here before the new engine is
		f.other.admin.want("REPLICAOF NO ONE", "OK")
		f.use(f.other)
		if got := idle.next(); got != "v" {
			t.Errorf("got %s", got)
		}
		idle.want("GET k", "v")
	})
}

// The old engine is cut off: it hears, and says nothing. A write may have been done, so that nobody may repeat it.
func TestEngineIsReplacedThatIsCutOff(t *testing.T) {
	eachPath(t, func(t *testing.T, f *fleet) {
		idle, writes, reads, waits, listens := f.client(), f.client(), f.client(), f.client(), f.client()
		for _, k := range []*talker{idle, writes, reads} {
			k.want("SET k v", "OK")
			k.want("GET k", "v")
			k.want("GET k", "v")
		}
		listens.want("SUBSCRIBE c", "[subscribe c 1]")
		must(waits.send("BLPOP", "queue", "0"))
		until(t, "BLPOP waits", func() bool { return f.serves.info("clients", "blocked_clients") == "1" })
		f.other.caughtUp(f.serves)
		must(f.serves.cmd.Process.Signal(syscall.SIGSTOP))
		sent := f.loops.Counts()
		must(writes.send("INCR", "n"))
		until(t, "the write is in flight", func() bool {
			c := f.loops.Counts()
			return c.Shared+c.Dedicated == sent.Shared+sent.Dedicated+1
		})
		must(reads.send("EXISTS", "k"))
		until(t, "the read is in flight", func() bool {
			c := f.loops.Counts()
			return c.Shared+c.Dedicated == sent.Shared+sent.Dedicated+2
		})
		f.other.admin.want("REPLICAOF NO ONE", "OK")
		f.use(f.other)
		for name, k := range map[string]*talker{"a write": writes, "BLPOP": waits} {
			if got := k.next(); got != "closed" {
				t.Errorf("%s: got %s", name, got)
			}
		}
		// A read that shared a connection is asked again.
		if got := reads.next(); f.backend.Multiplexed && got != "1" || !f.backend.Multiplexed && got != "closed" {
			t.Errorf("a read: got %s", got)
		}
		idle.want("GET k", "v")
		until(t, "the subscription is there", func() bool { return f.client().do("PUBLISH c x") == "1" })
		if got := listens.next(); got != "[message c x]" {
			t.Errorf("a subscriber: got %s", got)
		}
		idle.want("EXISTS n", "0")
	})
}

// Which of the bytes behind a SUBSCRIBE in a transaction are wanted replies is not known; nobody may wait for one that is thrown away.
func TestSubscriptionInATransactionWithoutReplies(t *testing.T) {
	eachPath(t, func(t *testing.T, f *fleet) {
		k := f.client()
		must(k.send("CLIENT", "REPLY", "OFF"), k.send("MULTI"), k.send("SUBSCRIBE", "c"), k.send("EXEC"), k.send("CLIENT", "REPLY", "ON"))
		if got := k.next(); got != "closed" {
			t.Errorf("got %s", got)
		}
	})
}

// A client that the engine itself closes, such as one that takes too much memory, is to notice.
func TestClientThatTheEngineClosesIsClosed(t *testing.T) {
	eachPath(t, func(t *testing.T, f *fleet) {
		k := f.client()
		k.want("MULTI", "OK")
		k.want("EXEC", "[]")
		if !f.backend.Multiplexed {
			f.serves.admin.do("CLIENT KILL TYPE normal")
			if got := k.next(); got != "closed" {
				t.Errorf("got %s", got)
			}
		}
	})
}

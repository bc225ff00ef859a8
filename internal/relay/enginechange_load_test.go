package relay_test

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/resp"
)

// worker is a client that never stops asking. It notices each reply that is not the one that it must be.
type worker struct {
	k       *talker
	n       int64        // what it has counted to
	longest atomic.Int64 // in nanoseconds, since it was last asked for
	steps   atomic.Int64
}

// ask sends some requests at once and checks the answers.
func (w *worker) ask(want []string, requests ...[]string) error {
	var all []byte
	for _, r := range requests {
		all = resp.AppendCommand(all, r...)
	}
	began := time.Now()
	if _, err := w.k.c.Write(all); err != nil {
		return err
	}
	for i := range want {
		v, err := w.k.read()
		if err != nil {
			return fmt.Errorf("%v: %w", requests, err)
		}
		if got := flat(v); got != want[i] {
			return fmt.Errorf("%v: answer %d is %q, want %q", requests, i, got, want[i])
		}
	}
	if took := time.Since(began).Nanoseconds(); took > w.longest.Load() {
		w.longest.Store(took)
	}
	w.steps.Add(1)
	return nil
}

func (w *worker) next() string {
	w.n++
	return strconv.FormatInt(w.n, 10)
}

// kinds are what workers do, each with keys of its own.
var workerKinds = []struct {
	name string
	step func(w *worker, key string) error
}{
	{"one by one", func(w *worker, key string) error { return w.ask([]string{w.next()}, []string{"INCR", key}) }},
	{"a pipeline", func(w *worker, key string) error {
		incr := []string{"INCR", key}
		a, b := w.next(), w.next()
		return w.ask([]string{a, b, b}, incr, incr, []string{"GET", key})
	}},
	{"transactions", func(w *worker, key string) error {
		if err := w.ask([]string{"OK"}, []string{"MULTI"}); err != nil {
			return err
		}
		n := w.next()
		return w.ask([]string{"QUEUED", "[" + n + "]"}, []string{"INCR", key}, []string{"EXEC"})
	}},
	{"scripts", func(w *worker, key string) error {
		return w.ask([]string{w.next()}, []string{"EVAL", "return redis.call('incr', KEYS[1])", "1", key})
	}},
	{"queues", func(w *worker, key string) error {
		n := w.next()
		return w.ask([]string{"1", "[" + key + " " + n + "]"}, []string{"LPUSH", key, n}, []string{"BRPOP", key, "0"})
	}},
	{"reads", func(w *worker, key string) error {
		return w.ask([]string{"nil", "0"}, []string{"GET", "none:" + key}, []string{"STRLEN", "none:" + key})
	}},
}

// Nobody notices that the engine is replaced, under load and often: no connection ends, no request fails, and each INCR is done once.
func TestTwoHundredClientsUnderLoadMoveToAndFro(t *testing.T) {
	for _, multiplexed := range []bool{false, true} {
		t.Run(fmt.Sprintf("multiplexed %t", multiplexed), func(t *testing.T) { moveUnderLoad(t, multiplexed, 200, 20) })
	}
}

func moveUnderLoad(t *testing.T, multiplexed bool, clients, changes int) {
	all := enginetest.All(t)
	f := newFleet(t, multiplexed, all[0], all[0])
	workers := make([]*worker, clients)
	stop, failed := make(chan struct{}), make(chan error, clients)
	var running sync.WaitGroup
	for i := range workers {
		proto := strconv.Itoa(2 + i%2)
		w := &worker{k: f.hello(proto)}
		_ = w.k.c.SetDeadline(time.Now().Add(4 * patience)) // of all changes together
		workers[i] = w
		kind := workerKinds[i%len(workerKinds)]
		running.Go(func() {
			for key := fmt.Sprint("load:", i); ; {
				select {
				case <-stop:
					return
				default:
				}
				if err := kind.step(w, key); err != nil {
					failed <- fmt.Errorf("client %d (%s, RESP%s): %w", i, kind.name, proto, err)
					return
				}
			}
		})
	}
	f.loops.LetTransactionsFinishForTest()
	var settle, promote, beyond, waited []time.Duration
	for range changes {
		for _, w := range workers {
			w.longest.Store(0)
		}
		f.change()
		until(t, "the hold has ended", func() bool { return f.loops.HoldState().Since.IsZero() })
		ended, promotion := time.Now(), f.ready.Sub(f.quiet)
		settle, promote = append(settle, f.quiet.Sub(f.began)), append(promote, promotion)
		beyond = append(beyond, f.quiet.Sub(f.began)+ended.Sub(f.ready))
		before := make([]int64, len(workers))
		for i, w := range workers {
			before[i] = w.steps.Load()
		}
		for i, w := range workers {
			until(t, "each client is served again", func() bool { return w.steps.Load() > before[i] || len(failed) > 0 })
			if len(failed) > 0 {
				t.Fatal(<-failed)
			}
			waited = append(waited, time.Duration(w.longest.Load())-promotion)
		}
		f.other.follow(f.serves)
	}
	close(stop)
	running.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	total := int64(0)
	for i, w := range workers {
		total += w.n
		if got, want := f.serves.admin.do(fmt.Sprint("GET load:", i)), strconv.FormatInt(w.n, 10); i%len(workerKinds) < 4 && got != want && len(failed) == 0 {
			t.Errorf("client %d: the engine has counted to %s, the client to %s", i, got, want)
		}
	}
	if c := f.loops.Counts(); c.MovedLost != 0 || c.Moved != uint64(clients*changes) {
		t.Errorf("%d clients were moved and %d lost, want %d and none", c.Moved, c.MovedLost, clients*changes)
	}
	for _, d := range [][]time.Duration{settle, promote, beyond, waited} {
		slices.Sort(d)
	}
	last := len(beyond) - 1
	t.Logf("%d requests; until nothing is in flight: median %v, longest %v; promotion: median %v, longest %v; the pause beyond the promotion: median %v, "+
		"longest %v; what clients waited beyond the promotion, with the load that they make: median %v, p99 %v",
		total, settle[last/2], settle[last], promote[last/2], promote[last], beyond[last/2], beyond[last], waited[len(waited)/2], waited[len(waited)*99/100])
}

package failover

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/e2e/failover/history"
)

// Load says what clients do.
type Load struct {
	Clients   int           // in all, divided among the libraries
	Libraries []string      // of Libraries
	Pace      time.Duration // between a reply and the next request of a client, on average
	NodeDir   string        // the folder of InstallNode, if a library for Node.js is among them
	Wait      string        // "half": every other client sends WAIT 1 behind each write; "all"; "none"
}

const (
	sharedKeys  = 20   // keys that all clients swap, in each round
	waitTimeout = 1000 // of WAIT, in milliseconds
	// restingPace is by how much a resting client's pause is longer. Such a client has no request in flight during most failovers. It
	// must stay below replyTimeout: node-redis applies its one to idle connections as well.
	restingPace = 15
)

// load is running clients, and what they saw. Its clock starts with it.
type load struct {
	config  Load
	start   time.Time
	watch   *connections
	workers []*worker
	stop    context.CancelFunc
	running sync.WaitGroup
	round   atomic.Int64 // keys are of a round, so that a run can take long
	lastAck atomic.Int64 // the end of the last acknowledged write, as a time.Duration

	mu     sync.Mutex // guards the rest
	closed []Closed
}

// worker is one client. All but the atomic fields of its owner are its goroutine's until the load has stopped.
type worker struct {
	load    *load
	id      int
	library string
	wait    bool
	resting bool
	client  Client
	owner   *owner
	random  *rand.Rand
	serial  int
	ops     []history.Op
	errors  []failedOp
}

type failedOp struct {
	at   time.Duration
	text string
}

// startLoad connects the clients and starts them.
func startLoad(ctx context.Context, config Load, e Endpoint) (*load, error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{config: config, start: time.Now(), stop: cancel}
	watch, err := watchConnections(l.noteClosed)
	if err != nil {
		cancel()
		return nil, err
	}
	l.watch = watch
	for n, library := range config.Libraries {
		var owners []*owner
		for i := n; i < config.Clients; i += len(config.Libraries) {
			owners = append(owners, &owner{client: i, endpoint: e, watch: watch})
		}
		clients, err := connect(library, config.NodeDir, e, owners)
		for i, c := range clients {
			id := owners[i].client
			l.workers = append(l.workers, &worker{
				load: l, id: id, library: library, client: c, owner: owners[i], random: rand.New(rand.NewPCG(1, uint64(id))),
				resting: i%10 == 2,
				wait:    config.Wait == "all" || config.Wait == "half" && i%2 == 1,
			})
		}
		if err != nil {
			l.close()
			return nil, err
		}
	}
	for _, w := range l.workers {
		l.running.Go(func() { w.run(ctx) })
	}
	return l, nil
}

func (l *load) now() time.Duration { return time.Since(l.start) }

func (l *load) noteClosed(c Closed) {
	c.At = l.now()
	l.mu.Lock()
	l.closed = append(l.closed, c)
	l.mu.Unlock()
}

// close stops the clients. Their histories can be read then.
func (l *load) close() {
	l.stop()
	l.running.Wait()
	l.watch.ignore()
	for _, w := range l.workers {
		w.client.Close()
	}
}

func (w *worker) run(ctx context.Context) {
	round := w.load.round.Load()
	for {
		pause := time.Duration((0.5 + w.random.Float64()) * float64(w.load.config.Pace))
		if w.resting {
			pause *= restingPace
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if now := w.load.round.Load(); now != round {
			// What was written is read when the round is over, and again a round later, when another primary may have taken over.
			w.readBack(ctx, round)
			if round > 0 {
				w.readBack(ctx, round-1)
			}
			round = now
		}
		w.do(ctx, w.next(round))
	}
}

func listKey(round int64, client int) string   { return fmt.Sprint("list:", round, ":", client) }
func setKey(round int64, client int) string    { return fmt.Sprint("set:", round, ":", client) }
func sharedKey(round int64, number int) string { return fmt.Sprint("shared:", round, ":", number) }

// next chooses an operation.
func (w *worker) next(round int64) history.Op {
	w.serial++
	value := fmt.Sprint(w.id, ".", w.serial)
	switch n := w.random.IntN(100); {
	case n < 45:
		return history.Op{Kind: history.Append, Key: listKey(round, w.id), Value: value}
	case n < 70:
		return history.Op{Kind: history.Swap, Key: sharedKey(round, w.random.IntN(sharedKeys)), Value: value}
	case n < 85:
		return history.Op{Kind: history.Set, Key: setKey(round, w.id), Value: value}
	default:
		return history.Op{Kind: history.Get, Key: setKey(round, w.id)}
	}
}

// readBack reads the client's keys of a round.
func (w *worker) readBack(ctx context.Context, round int64) {
	w.do(ctx, history.Op{Kind: history.List, Key: listKey(round, w.id)})
	w.do(ctx, history.Op{Kind: history.Get, Key: setKey(round, w.id)})
	if w.id < sharedKeys {
		w.do(ctx, history.Op{Kind: history.Get, Key: sharedKey(round, w.id)})
	}
}

// commands are what an operation sends.
func commands(o history.Op, wait bool) [][]string {
	var c []string
	switch o.Kind {
	case history.Append:
		c = []string{"RPUSH", o.Key, o.Value}
	case history.List:
		return [][]string{{"LRANGE", o.Key, "0", "-1"}}
	case history.Set:
		c = []string{"SET", o.Key, o.Value}
	case history.Swap:
		c = []string{"GETSET", o.Key, o.Value}
	default:
		return [][]string{{"GET", o.Key}}
	}
	if wait {
		return [][]string{c, {"WAIT", "1", fmt.Sprint(waitTimeout)}}
	}
	return [][]string{c}
}

// do performs an operation and records it.
func (w *worker) do(ctx context.Context, o history.Op) history.Outcome {
	o.Client = w.id
	w.owner.busy.Store(true)
	o.Start = w.load.now()
	replies := w.client.Do(context.WithoutCancel(ctx), commands(o, w.wait))
	o.End = w.load.now()
	w.owner.busy.Store(false)
	err := record(&o, replies)
	if err != nil {
		w.errors = append(w.errors, failedOp{o.End, w.library + ": " + string(o.Kind) + ": " + errorText(err)})
	}
	if o.Outcome == history.Done && o.Value != "" {
		for last := w.load.lastAck.Load(); int64(o.End) > last && !w.load.lastAck.CompareAndSwap(last, int64(o.End)); {
			last = w.load.lastAck.Load()
		}
	}
	w.ops = append(w.ops, o)
	return o.Outcome
}

// record puts the replies into an operation. It returns the error that is among them.
func record(o *history.Op, replies []Reply) error {
	first := replies[0]
	o.Outcome = outcome(first.Err)
	if len(replies) > 1 && o.Outcome == history.Done {
		n, _ := replies[1].Value.(int64)
		o.Replicated = replies[1].Err == nil && n >= 1
	}
	if o.Outcome != history.Done {
		return first.Err
	}
	switch v := first.Value.(type) {
	case nil:
	case string:
		if o.Kind != history.Set {
			o.Read = []string{v}
		} else if v != "OK" {
			o.Read = []string{"the reply to SET was " + v}
		}
	case []string:
		o.Read = v
	case int64:
		if o.Kind != history.Append {
			o.Read = []string{fmt.Sprint("the reply was the number ", v)}
		}
	}
	if len(replies) > 1 {
		return replies[1].Err
	}
	return nil
}

// history merges what all clients saw.
func (l *load) history() []history.Op {
	var all []history.Op
	for _, w := range l.workers {
		all = append(all, w.ops...)
	}
	return all
}

// readAll reads all keys with a new client after the load has stopped, and adds that to the history of its first client.
func (l *load) readAll(ctx context.Context, e Endpoint) error {
	watch, err := watchConnections(func(Closed) {})
	if err != nil {
		return err
	}
	defer watch.ignore()
	owner := &owner{endpoint: e, watch: watch}
	client, err := newGoRedis(e, owner)
	if err != nil {
		return err
	}
	defer client.Close()
	reader := &worker{load: l, id: l.config.Clients, library: "the reader", client: client, owner: owner}
	var keys []history.Op
	for round := range l.round.Load() + 1 {
		for _, w := range l.workers {
			keys = append(keys, history.Op{Kind: history.List, Key: listKey(round, w.id)}, history.Op{Kind: history.Get, Key: setKey(round, w.id)})
		}
		for n := range sharedKeys {
			keys = append(keys, history.Op{Kind: history.Get, Key: sharedKey(round, n)})
		}
	}
	for _, o := range keys {
		for try := 0; reader.do(ctx, o) != history.Done; try++ {
			if try == 50 {
				return fmt.Errorf("read %s at the end: %s", o.Key, reader.errors[len(reader.errors)-1].text)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	l.workers[0].ops = append(l.workers[0].ops, reader.ops...)
	return nil
}

package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/sealane/sealane/e2e/failover/history"
)

// maxLag is how long before a failover an acknowledged write may be lost with it. On one machine a replica is behind by milliseconds.
const maxLag = time.Second

// Config is a run of failovers.
type Config struct {
	Target Target
	Load   Load
	Kinds  []Kind // one failover after the other; nil element by element
	// Warm is how long the load runs before each failover, After how long between the promotion and Heal, and Settle between Heal and the
	// next one.
	Warm, After, Settle time.Duration
	Limit               time.Duration // for Promoted and Heal
	Log                 io.Writer
}

// Failover is what one failover did.
type Failover struct {
	Kind     Kind
	Start    time.Duration // when Fail was called
	Promoted time.Duration // until another node was the primary, since Start
	// Outage is how long no write of any client was acknowledged.
	Outage time.Duration
	// Clients are the same for each client without WAIT that does not rest, in ascending order. A client pauses between its requests, so this is
	// never 0.
	// Libraries has the worst client of each library.
	Clients   []time.Duration
	Libraries map[string]time.Duration
	// ClosedClean are connections that the server closed while their client had no request in flight, ClosedBusy those with one.
	// ClosedByLibrary are those that the library gave up, of which ClosedByLibraryClean had no request in flight.
	ClosedClean, ClosedBusy, ClosedByLibrary, ClosedByLibraryClean int
	Closed                                                         []Closed       // each of them
	Errors                                                         map[string]int // by their text
	Lost                                                           map[string]int // acknowledged writes, by the library
	LostReplicated                                                 int            // those that a replica had confirmed
}

// Result is what a run of failovers did.
type Result struct {
	Target    string
	Started   time.Time
	Clients   int
	Failovers []Failover
	History   history.Result
	Duration  time.Duration
}

// Run starts the load, makes the failovers, and checks what the clients saw. After a failover that does not end in time it makes no
// other one, and returns the result of all before it and an error.
func Run(ctx context.Context, c Config) (*Result, error) {
	r := &Result{Target: c.Target.Name(), Started: time.Now(), Clients: c.Load.Clients}
	l, err := startLoad(ctx, c.Load, c.Target.Endpoint())
	if err != nil {
		return nil, err
	}
	var windows []history.Failover
	for i, kind := range c.Kinds {
		l.round.Store(int64(i))
		var window history.Failover
		window, err = c.failover(ctx, l, kind)
		if err != nil {
			err = fmt.Errorf("failover %d (%s): %w", i+1, kind, err)
			break
		}
		windows = append(windows, window)
		fmt.Fprintf(c.Log, "%s: failover %d of %d, %s: another primary after %.3f s\n", r.Target, i+1, len(c.Kinds), kind, (window.End - window.Start).Seconds())
	}
	l.round.Add(1)
	err = errors.Join(err, sleep(ctx, c.Warm))
	l.close()
	r.Duration = l.now()
	err = errors.Join(err, l.readAll(ctx, c.Target.Endpoint()))
	r.History = history.Check(history.History{Ops: l.history(), Failovers: windows, MaxLag: maxLag})
	r.measure(l, windows)
	for i := range r.Failovers {
		r.Failovers[i].Kind = c.Kinds[i]
	}
	return r, err
}

// failover makes one failover under load.
func (c *Config) failover(ctx context.Context, l *load, kind Kind) (window history.Failover, err error) {
	if err := sleep(ctx, c.Warm); err != nil {
		return window, err
	}
	limited, cancel := context.WithTimeout(ctx, c.Limit)
	defer cancel()
	window.Start, window.Lossless = l.now(), c.Target.Lossless(kind)
	if err := c.Target.Fail(limited, kind); err != nil {
		return window, err
	}
	if err := c.Target.Promoted(limited); err != nil {
		return window, err
	}
	window.End = l.now()
	if err := poll(limited, "a write is acknowledged", time.Millisecond, func() error {
		if time.Duration(l.lastAck.Load()) < window.End {
			return fmt.Errorf("none since %v, it is %v", time.Duration(l.lastAck.Load()), l.now())
		}
		return nil
	}); err != nil {
		return window, err
	}
	if err := sleep(ctx, c.After); err != nil {
		return window, err
	}
	if err := c.Target.Heal(limited); err != nil {
		return window, err
	}
	return window, sleep(ctx, c.Settle)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// measure fills in what each failover did. A failover's time is from its start to the next one's.
func (r *Result) measure(l *load, windows []history.Failover) {
	library := make(map[int]string)
	for _, w := range l.workers {
		library[w.id] = w.library
	}
	for i, w := range windows {
		end := r.Duration
		if i+1 < len(windows) {
			end = windows[i+1].Start
		}
		f := Failover{Start: w.Start, Promoted: w.End - w.Start, Libraries: make(map[string]time.Duration), Errors: make(map[string]int), Lost: make(map[string]int)}
		var all []time.Duration
		for _, worker := range l.workers {
			own := acknowledged(worker.ops)
			gap := longestGap(own, w.Start, end)
			if !worker.resting && (!worker.wait || l.config.Wait == "all") { // WAIT takes its time while there is no replica
				f.Clients = append(f.Clients, gap)
				f.Libraries[worker.library] = max(f.Libraries[worker.library], gap)
			}
			all = append(all, own...)
			for _, e := range worker.errors {
				if e.at >= w.Start && e.at < end {
					f.Errors[e.text]++
				}
			}
		}
		slices.Sort(all)
		slices.Sort(f.Clients)
		f.Outage = longestGap(all, w.Start, end)
		f.countClosed(l.closed, end)
		for _, loss := range r.History.Losses {
			// What was lost counts for the failover that it was sent during, or shortly before.
			if sent := loss.Op.Start + maxLag; sent < w.Start || sent >= end && i+1 < len(windows) {
				continue
			}
			f.Lost[library[loss.Op.Client]]++
			if loss.Op.Replicated {
				f.LostReplicated++
			}
		}
		r.Failovers = append(r.Failovers, f)
	}
}

func (f *Failover) countClosed(closed []Closed, end time.Duration) {
	for _, c := range closed {
		if c.At < f.Start || c.At >= end {
			continue
		}
		f.Closed = append(f.Closed, c)
		switch {
		case c.ByServer && c.Clean:
			f.ClosedClean++
		case c.ByServer:
			f.ClosedBusy++
		default:
			f.ClosedByLibrary++
			if c.Clean {
				f.ClosedByLibraryClean++
			}
		}
	}
}

// acknowledged are the times of a client's acknowledged writes, in ascending order.
func acknowledged(ops []history.Op) []time.Duration {
	var times []time.Duration
	for _, o := range ops {
		if o.Outcome == history.Done && o.Value != "" {
			times = append(times, o.End)
		}
	}
	slices.Sort(times)
	return times
}

// longestGap is the longest time without an acknowledgement that ends between start and end. Where there is none until the end, the gap
// lasts until then.
func longestGap(times []time.Duration, start, end time.Duration) time.Duration {
	i, _ := slices.BinarySearch(times, start)
	before := time.Duration(0)
	if i > 0 {
		before = times[i-1]
	}
	gap := time.Duration(0)
	for _, t := range times[i:] {
		t = min(t, end)
		gap = max(gap, t-before)
		if before = t; t == end {
			return gap
		}
	}
	return max(gap, end-before)
}

// percentile is of ascending values.
func percentile[T cmp.Ordered](values []T, p int) (v T) {
	if len(values) == 0 {
		return v
	}
	return values[min(len(values)-1, len(values)*p/100)]
}

// Faults says what a run must not have shown: writes that stop for longer than a second at the median or three at the worst, a client
// without a request in flight that saw its connection closed, a lost write that a replica had confirmed, and what else the checker
// found.
func (r *Result) Faults() (faults []string) {
	var outages []time.Duration
	clean := 0
	for _, f := range r.Failovers {
		outages = append(outages, f.Outage)
		clean += f.ClosedClean
	}
	slices.Sort(outages)
	if m := percentile(outages, 50); m > time.Second {
		faults = append(faults, fmt.Sprintf("no write was acknowledged for %v at the median, want at most 1s", m))
	}
	if m := percentile(outages, 100); m > 3*time.Second {
		faults = append(faults, fmt.Sprintf("no write was acknowledged for %v at the worst, want at most 3s", m))
	}
	if clean > 0 {
		faults = append(faults, fmt.Sprintf("%d connections without a request in flight were closed, want none", clean))
	}
	for _, v := range r.History.Violations {
		faults = append(faults, v.String())
	}
	return faults
}

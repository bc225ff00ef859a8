package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// figure names something that is measured.
type figure string

const (
	cpuPerOp   figure = "cpu_us_per_op" // of proxy and engine, user and system
	kernel     figure = "kernel_part"   // the share of that CPU that is spent in the kernel
	opRate     figure = "ops_per_second"
	p50        figure = "p50_ms"
	p99        figure = "p99_ms"
	idleKiB    figure = "kib_per_idle_connection" // resident memory of the proxy
	burstKiB   figure = "kib_after_burst"
	allKiB     figure = "kib_with_engine"
	idleCount  figure = "idle_connections"
	quietP50   figure = "quiet_p50_ms"
	quietP99   figure = "quiet_p99_ms"
	quietP999  figure = "quiet_p999_ms"
	loadedP50  figure = "loaded_p50_ms" // while connections idle, or handshakes arrive
	loadedP99  figure = "loaded_p99_ms"
	loadedP999 figure = "loaded_p999_ms"
	p99Ratio   figure = "p99_ratio"
	sendLate   figure = "sending_late_p99_ms" // how late the generator itself was while the target was loaded
	lost       figure = "unanswered_part"
	capacity   figure = "handshakes_per_second"
	offered    figure = "offered_of_capacity"
	goodput    figure = "goodput_of_capacity"
	wholeDone  figure = "done_by_whole_clients_of_capacity"

	othersWorst figure = "others_worst_ms" // beside a neighbour
	lateWorst   figure = "sending_late_worst_ms"

	firstMs    figure = "first_reply_ms"
	firstP90Ms figure = "first_reply_p90_ms"

	peakMiB     figure = "mib_above" // at the peak
	serverMiB   figure = "gateway_mib_above"
	complete    figure = "complete_part"
	tookSeconds figure = "neighbour_seconds"
)

// figures are all figures, in the order in which a reader wants them.
var figures = []struct {
	figure
	title string
	brief string // its name in the line of progress; empty: it is not shown there
	less  bool   // less is better
}{
	{cpuPerOp, "server-side CPU per operation, µs", "CPU µs", true},
	{kernel, "part of that CPU spent in the kernel", "", true},
	{opRate, "operations per second", "per second", false},
	{p50, "p50, ms (closed loop)", "", true},
	{p99, "p99, ms (closed loop, connecting included)", "", true},
	{idleKiB, "resident KiB of the proxy per idle connection", "KiB idle", true},
	{burstKiB, "the same after a burst of 64 KiB values", "after burst", true},
	{allKiB, "resident KiB per idle connection, engine included", "", true},
	{p99Ratio, "p99 when loaded, of the quiet one", "p99 ×", true},
	{quietP50, "p50 when quiet, ms", "", true},
	{loadedP50, "p50 when loaded, ms", "", true},
	{quietP99, "p99 when quiet, ms", "quiet", true},
	{loadedP99, "p99 when loaded, ms", "loaded", true},
	{quietP999, "p99.9 when quiet, ms", "", true},
	{loadedP999, "p99.9 when loaded, ms", "", true},
	{sendLate, "p99 of the generator's own lateness when loaded, ms", "", true},
	{lost, "part of the live operations without an answer", "lost", true},
	{capacity, "handshakes per second when nothing else happens (the capacity)", "capacity", false},
	{offered, "handshakes that arrive, of the capacity", "offered ×", false},
	{goodput, "handshakes done meanwhile, of the capacity", "goodput ×", false},
	{wholeDone, "of them by clients that complete and PING (a fifth of the arrivals)", "", false},
	{idleCount, "idle connections", "", false},
	{firstMs, "from connecting to the first reply, median, ms", "first reply ms", true},
	{firstP90Ms, "from connecting to the first reply, p90, ms", "", true},
	{othersWorst, "worst latency of other clients beside a bad neighbour, ms", "others' worst ms", true},
	{peakMiB, "resident MiB at the peak above the size without the neighbour (plaintext, native: of the engine)", "MiB above", true},
	{serverMiB, "the same of the gateway behind a sidecar", "gateway's MiB above", true},
	{complete, "part of the neighbour's connections that got all their bytes", "complete", false},
	{tookSeconds, "seconds until the neighbour had all its bytes, or was given up", "seconds", true},
	{lateWorst, "the generator's own worst lateness meanwhile, ms", "generator late", true},
}

// sample has the figures of one run.
type sample map[figure]float64

// skipped is the error of a load that a target does not support. It is no fault of the run.
type skipped struct{ why string }

func (s *skipped) Error() string { return s.why }

// incomplete is the error of a load that failed in part but has measured its figures. The sample counts.
type incomplete struct{ why string }

func (i *incomplete) Error() string { return i.why }

// load is one row of the table.
type load struct {
	name   string
	title  string
	rounds int // at most this many rounds; 0: as many as asked for
	guess  func(options) time.Duration
	run    func(context.Context, *bench, *target) (sample, error)
	group  string   // a name for several rows
	on     []string // the targets that it is for; nil: all targets except those that are only for other loads
}

func loadName(l load) string { return l.name }

// suits says whether a target is measured under the load.
func (l load) suits(target string) bool {
	if l.on == nil {
		return target != sidecarMultiplexed && target != sidecarNative
	}
	return slices.Contains(l.on, target)
}

// bench has what all runs share.
type bench struct {
	options
	lab *lab
	// Per load and target: what an earlier run has shown about how many operations a run needs.
	pace map[string]pace
}

func loads() []load {
	calls := func(name, title string, c commands) load {
		return load{name: name, title: title, guess: c.guess, run: c.run}
	}
	shake := func(name, title string, h shakes) load {
		return load{name: name, title: title, guess: guessVisits, run: h.run}
	}
	return append([]load{
		calls("get-50", "GET 64 B, 50 clients", commands{"get", 64, 50, 1}),
		calls("get-500", "GET 64 B, 500 clients", commands{"get", 64, 500, 1}),
		calls("get-2000", "GET 64 B, 2,000 clients", commands{"get", 64, 2000, 1}),
		calls("pipeline", "GET 64 B, 50 clients, pipeline 16", commands{"get", 64, 50, 16}),
		calls("set-1k", "SET 1 KiB, 50 clients", commands{"set", 1024, 50, 1}),
		calls("get-16k", "GET 16 KiB, 50 clients", commands{"get", 16384, 50, 1}),
		calls("set-16k-nagle", "SET 16 KiB, 50 clients with Nagle on", commands{"set", 16384, 50, 1}),
		shake("handshake", "full handshake + PING, X25519", shakes{group: x25519}),
		shake("handshake-mlkem", "full handshake + PING, X25519MLKEM768", shakes{group: x25519MLKEM768}),
		shake("handshake-resumed", "resumed handshake + PING, X25519", shakes{group: x25519, resume: true}),
		{name: "visits", title: "connect, PING and leave, without TLS", guess: guessVisits, run: visits},
		{name: "live-idle", title: "live traffic while many connections idle", guess: guessIdle, run: liveIdle},
		{name: "storm", title: "live traffic while 10 × the handshake capacity arrives", guess: guessStorm, run: liveStorm},
		// One or two rounds are enough: this takes long, and resident memory hardly differs from run to run.
		{name: "memory", title: "memory of idle connections", rounds: 2, guess: guessMemory, run: memory},
	}, slices.Concat(firstReplyLoads(), neighbourLoads())...)
}

func guessVisits(o options) time.Duration { return o.runFor + time.Second }

func (b *bench) worker(ctx context.Context, nice int) (*worker, error) { return startWorker(ctx, nice) }

// pause lets targets finish the work that the last run left behind.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

const (
	x25519         = 29
	x25519MLKEM768 = 4588
)

// shakes is a load of connections that each make a handshake and send one PING, a few at a time.
type shakes struct {
	group  uint16
	resume bool
}

const shakeClients = 8

func (h shakes) run(ctx context.Context, b *bench, t *target) (sample, error) {
	if t.caFile == "" {
		return nil, &skipped{"no TLS"}
	}
	w, err := b.worker(ctx, b.nice)
	if err != nil {
		return nil, err
	}
	defer w.close()
	r := request{Do: "visits", Addr: t.addr, CAFile: t.caFile, Clients: shakeClients, Group: h.group, Resume: h.resume}
	s, resumed, err := measureVisits(w, r, b.runFor, t)
	if err == nil && h.resume && resumed < 0.9 {
		return nil, &skipped{"doesn't resume"}
	}
	return s, err
}

// measureVisits lets a worker connect again and again. It returns the share of the sessions that were resumed.
func measureVisits(w *worker, r request, d time.Duration, t *target) (s sample, resumed float64, err error) {
	// The first connections may be refused, and do not count.
	r.For = 100 * time.Millisecond
	if _, err := w.call(r); err != nil {
		return nil, 0, err
	}
	before, err := readUsage(t)
	if err != nil {
		return nil, 0, err
	}
	r.For = d
	done, err := w.call(r)
	if err != nil {
		return nil, 0, err
	}
	after, err := readUsage(t)
	if err != nil {
		return nil, 0, err
	}
	s = after.since(before, done.Done)
	s[opRate] = float64(done.Done) / done.Elapsed.Seconds()
	return s, float64(done.Resumed) / float64(max(1, done.Done)), nil
}

// usage is the CPU that the processes of a target had used at a time.
type usage struct {
	at           time.Time
	cpu          time.Duration
	user, system time.Duration // coarse
}

func readUsage(t *target) (u usage, err error) {
	if u.cpu, err = cpuTime(t.pids()); err != nil {
		return u, err
	}
	u.at = time.Now()
	u.user, u.system, err = kernelPart(t.pids())
	return u, err
}

// since is the CPU that some operations have cost.
func (u usage) since(before usage, ops int) sample {
	s := sample{cpuPerOp: float64((u.cpu - before.cpu).Nanoseconds()) / 1000 / float64(max(1, ops))}
	user, system := u.user-before.user, u.system-before.system
	if user+system > 0 {
		s[kernel] = float64(system) / float64(user+system)
	}
	return s
}

const (
	liveClients = 50
	liveBytes   = 64
)

// liveTime is how long latencies are measured. It is long because a p99 needs more operations than a mean.
func liveTime(o options) time.Duration { return 2*o.runFor + warmUp }

// probe is live traffic. Its priority is not lowered: it takes little CPU, and time that it waits for CPU would count as latency
// of the target.
type probe struct {
	w       *worker
	request request
}

func (b *bench) newProbe(ctx context.Context, t *target, clients int) (*probe, error) {
	w, err := b.worker(ctx, 0)
	if err != nil {
		return nil, err
	}
	r := request{Addr: t.addr, CAFile: t.caFile, Clients: clients, Bytes: liveBytes, Rate: b.liveRate, For: liveTime(b.options)}
	r.Do = "connect"
	if _, err := w.call(r); err != nil {
		w.close()
		return nil, err
	}
	r.Do = "live"
	return &probe{w, r}, nil
}

func (p *probe) quiet(s sample) error {
	r, err := p.w.call(p.request)
	if err != nil {
		return err
	}
	s[quietP50], s[quietP99], s[quietP999] = r.Latency.ms(.5), r.Latency.ms(.99), r.Latency.ms(.999)
	if r.Failed > 0 {
		return fmt.Errorf("%d of %d live operations failed while nothing else happened: %s", r.Failed, r.Sent, r.WhyFailed)
	}
	return nil
}

func (p *probe) loaded(s sample) error {
	r, err := p.w.call(p.request)
	if err != nil {
		return err
	}
	s[loadedP50], s[loadedP99], s[loadedP999] = r.Latency.ms(.5), r.Latency.ms(.99), r.Latency.ms(.999)
	s[sendLate], s[lost] = r.SendingLate.ms(.99), float64(r.Failed)/float64(max(1, r.Sent))
	if s[quietP99] > 0 {
		s[p99Ratio] = s[loadedP99] / s[quietP99]
	}
	return nil
}

// hold opens connections that then stay idle, in as many workers as the limit of open files requires.
func (b *bench) hold(ctx context.Context, t *target, n int) (workers []*worker, err error) {
	per := b.lab.files - 2*spareFiles
	for n > 0 {
		w, err := b.worker(ctx, b.nice)
		if err != nil {
			return workers, err
		}
		workers = append(workers, w)
		_, err = w.call(request{Do: "connect", Addr: t.addr, CAFile: t.caFile, Clients: min(n, per)})
		if err != nil {
			return workers, err
		}
		n -= per
	}
	return workers, nil
}

func release(workers []*worker) {
	for _, w := range workers {
		w.close()
	}
}

// connectingTime is a guess.
func connectingTime(n int) time.Duration { return time.Duration(n) * time.Millisecond * 3 / 2 }

func guessIdle(o options) time.Duration {
	return 2*liveTime(o) + connectingTime(o.idle) + 4*time.Second
}

// liveIdle shows whether idle connections slow down busy ones.
func liveIdle(ctx context.Context, b *bench, t *target) (sample, error) {
	if t.beside {
		return nil, &skipped{"not asked of it"}
	}
	p, err := b.newProbe(ctx, t, liveClients)
	if err != nil {
		return nil, err
	}
	defer p.w.close()
	s := sample{idleCount: float64(b.idle)}
	if err := p.quiet(s); err != nil {
		return s, err
	}
	held, err := b.hold(ctx, t, b.idle)
	defer release(held)
	if err != nil {
		return s, err
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return s, err
	}
	return s, p.loaded(s)
}

const (
	stormFactor  = 10
	stormTimeout = time.Second
)

func guessStorm(o options) time.Duration { return 2*liveTime(o) + o.runFor + 5*time.Second }

// liveStorm shows how far more handshakes than the target can do affect connected clients, and how many of them are done.
func liveStorm(ctx context.Context, b *bench, t *target) (sample, error) {
	if t.caFile == "" {
		return nil, &skipped{"no TLS"}
	}
	full, err := shakes{group: x25519}.run(ctx, b, t)
	if err != nil {
		return nil, err
	}
	s := sample{capacity: full[opRate]}
	p, err := b.newProbe(ctx, t, liveClients)
	if err != nil {
		return s, err
	}
	defer p.w.close()
	if err := p.quiet(s); err != nil {
		return s, err
	}
	w, err := b.worker(ctx, 0)
	if err != nil {
		return s, err
	}
	defer w.close()
	storm := request{Do: "storm", Addr: t.addr, CAFile: t.caFile, Rate: stormFactor * s[capacity], Whole: 2 * s[capacity],
		Nice: b.nice, Timeout: stormTimeout,
		For: liveTime(b.options) + time.Second}
	type outcome struct {
		response
		err error
	}
	over := make(chan outcome, 1)
	go func() {
		r, err := w.call(storm)
		over <- outcome{r, err}
	}()
	err = pause(ctx, 500*time.Millisecond) // until the storm has its full effect
	if err == nil {
		err = p.loaded(s)
	}
	r := <-over
	if err != nil || r.err != nil {
		return s, firstError(err, r.err)
	}
	seconds := storm.For.Seconds()
	s[offered] = float64(r.Sent) / seconds / s[capacity]
	s[wholeDone] = float64(r.Done) / seconds / s[capacity]
	s[goodput] = float64(r.Done+r.Answered) / seconds / s[capacity]
	return s, pause(ctx, stormTimeout)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

const burstBytes = 64 << 10

func guessMemory(o options) time.Duration {
	return 3*connectingTime(o.idle) + 4*time.Second + 2*(o.settle+4*time.Second)
}

// memory measures the resident memory of idle connections. It restarts the target, because memory that an earlier load left
// behind would hide theirs.
func memory(ctx context.Context, b *bench, t *target) (sample, error) {
	if t.caFile == "" && !t.beside {
		return nil, &skipped{"no TLS"}
	}
	t, err := b.lab.start(ctx, t.name)
	if err != nil {
		return nil, err
	}
	defer t.stop()
	// The first connections pay for what is allocated only once.
	first, err := b.hold(ctx, t, 20)
	defer release(first)
	if err != nil {
		return nil, err
	}
	proxyBefore, allBefore, err := settledKiB(ctx, t, 2*time.Second)
	if err != nil {
		return nil, err
	}
	held, err := b.hold(ctx, t, b.idle)
	defer release(held)
	if err != nil {
		return nil, err
	}
	proxyIdle, allIdle, err := settledKiB(ctx, t, b.settle)
	if err != nil {
		return nil, err
	}
	n := float64(b.idle)
	s := sample{idleCount: n, idleKiB: (proxyIdle - proxyBefore) / n, allKiB: (allIdle - allBefore) / n}
	for _, w := range held {
		if _, err := w.call(request{Do: "burst", Bytes: burstBytes}); err != nil {
			return s, err
		}
	}
	proxyAfter, _, err := settledKiB(ctx, t, b.settle)
	if err == nil {
		s[burstKiB] = (proxyAfter - proxyBefore) / n
	}
	return s, err
}

// settledKiB returns the resident memory once it has not changed for the given time, and after somewhat more than twice that time
// at the latest. Only a difference of more than one part in 500 is a change, because counters of the kernel and of the
// programs move all the time.
func settledKiB(ctx context.Context, t *target, still time.Duration) (proxy, all float64, err error) {
	last, since, start := -1.0, time.Now(), time.Now()
	for time.Since(since) < still && time.Since(start) < 2*still+2*time.Second {
		if all, err = residentKiB(t.pids()); err != nil {
			return 0, 0, err
		}
		if all < last*0.998 || all > last*1.002 {
			last, since = all, time.Now()
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return 0, 0, err
		}
	}
	proxy, err = residentKiB(t.proxy)
	return proxy, all, err
}

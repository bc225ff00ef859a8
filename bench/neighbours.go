package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// neighbour is a client that asks for much and reads late, while the latency of other clients is measured.
type neighbour struct {
	kind    string
	clients int
	bytes   int // length of a reply
	replies int
}

// neighboursGroup is the name for all of these rows.
const neighboursGroup = "neighbours"

const (
	othersClients = 20
	othersRate    = othersClients * 200 // per second: each sends a request every 5 ms
	// othersFirst is how long the others are alone before the neighbour begins.
	othersFirst = 500 * time.Millisecond
	// readLimit is how long a late reader may take for the rest of its bytes.
	readLimit = 20 * time.Second
)

func neighbourLoads() []load {
	row := func(name, title string, n neighbour) load {
		return load{name: name, title: title, guess: n.guess, run: n.run, group: neighboursGroup, on: neighbourTargets}
	}
	return []load{
		row("unread", "beside 1,000 pipelined GETs of 1 MiB that nobody reads", neighbour{unreadNeighbour, 1, 1 << 20, 1000}),
		row("slow-readers", "beside 20 slow readers of 100 MiB", neighbour{slowNeighbour, 20, 100 << 20, 1}),
		row("pipeline-10m", "beside GET and SET of 10 MiB in one write", neighbour{largeNeighbour, 1, 10 << 20, 1}),
		row("pipeline-60k", "beside 60,000 GETs of 1 KiB sent before the first reply is read", neighbour{pipelineNeighbour, 1, 1 << 10, 60_000}),
		row("pipeline-800k", "beside 800,000 GETs of 64 B sent before the first reply is read", neighbour{pipelineNeighbour, 1, 64, 800_000}),
	}
}

var neighbourTargets = []string{plaintext, native, haproxy, transparent, multiplexed, sidecarMultiplexed, sidecarNative}

// pipelined says that the neighbour reads as soon as it has written everything.
func (n neighbour) pipelined() bool { return n.kind == largeNeighbour || n.kind == pipelineNeighbour }

// othersTime is how long the latency of the others is measured.
func (n neighbour) othersTime(o options) time.Duration {
	if n.pipelined() {
		return max(2*time.Second, o.runFor)
	}
	return max(3*time.Second, 3*o.runFor)
}

// limit is how long the neighbour may take in addition to the time in which it reads little. A pipeline that nothing holds up is
// done within two seconds.
func (n neighbour) limit(o options) time.Duration {
	if n.pipelined() {
		return max(5*time.Second, 5*o.runFor) - n.late(o)
	}
	return readLimit
}

// late is how long the neighbour reads little or nothing.
func (n neighbour) late(o options) time.Duration { return n.othersTime(o) - othersFirst }

func (n neighbour) guess(o options) time.Duration { return n.othersTime(o) + 3*time.Second }

// run restarts the target, because memory that an earlier load left behind would hide the neighbour's.
func (n neighbour) run(ctx context.Context, b *bench, t *target) (sample, error) {
	t, err := b.lab.start(ctx, t.name)
	if err != nil {
		return nil, err
	}
	defer t.stop()
	bad, err := b.worker(ctx, b.nice)
	if err != nil {
		return nil, err
	}
	defer bad.close()
	others, err := b.newOthers(ctx, t, n.othersTime(b.options))
	if err != nil {
		return nil, err
	}
	defer others.w.close()
	r := request{Addr: t.addr, CAFile: t.caFile, Kind: n.kind, Clients: n.clients, Bytes: n.bytes, Replies: n.replies,
		For: n.late(b.options), Timeout: n.limit(b.options)}
	for _, step := range []request{{Do: "connect"}, {Do: "neighbour", Prepare: true}} {
		r.Do, r.Prepare = step.Do, step.Prepare
		if _, err := bad.call(r); err != nil {
			return nil, err
		}
	}
	r.Prepare = false
	return n.beside(ctx, t, others, bad, r)
}

func (b *bench) newOthers(ctx context.Context, t *target, d time.Duration) (*probe, error) {
	o := *b
	o.liveRate = othersRate
	p, err := o.newProbe(ctx, t, othersClients)
	if err == nil {
		p.request.For = d
	}
	return p, err
}

// beside starts the neighbour while the others are busy.
func (n neighbour) beside(ctx context.Context, t *target, others *probe, bad *worker, r request) (sample, error) {
	before, err := resetPeaks(t)
	if err != nil {
		return nil, err
	}
	type outcome struct {
		response
		err error
	}
	over := make(chan outcome, 1)
	go func() {
		answer, err := others.w.call(others.request)
		over <- outcome{answer, err}
	}()
	err = pause(ctx, othersFirst)
	var done response
	if err == nil {
		done, err = bad.call(r)
	}
	seen := <-over
	if err := firstError(ctx.Err(), err, seen.err); err != nil {
		return nil, err
	}
	s := sample{
		complete: float64(done.Done) / float64(max(1, done.Sent)), tookSeconds: done.Elapsed.Seconds(),
		othersWorst: seen.Latency.ms(1), loadedP50: seen.Latency.ms(.5), loadedP99: seen.Latency.ms(.99),
		lateWorst: seen.SendingLate.ms(1), lost: float64(seen.Failed) / float64(max(1, seen.Sent)),
	}
	if err := before.above(t, s); err != nil {
		return nil, err
	}
	if done.Failed > 0 {
		return s, &incomplete{fmt.Sprintf("%d of the neighbour's %d connections failed after %.1f s: %s", done.Failed, done.Sent,
			done.Elapsed.Seconds(), done.WhyFailed)}
	}
	return s, nil
}

// peaks are the peaks of resident memory before the neighbour came.
type peaks struct{ proxy, server float64 }

func resetPeaks(t *target) (p peaks, err error) {
	for _, pid := range slices.Concat(t.proxy, t.server) {
		if err := resetPeak(pid); err != nil {
			return p, fmt.Errorf("reset the peak of resident memory: %w", err)
		}
	}
	if p.proxy, err = residentKiB(t.proxy); err != nil {
		return p, err
	}
	p.server, err = residentKiB(t.server)
	return p, err
}

// above records by how much the new peak exceeds that.
func (p peaks) above(t *target, s sample) error {
	rise := func(pids []int, before float64) (float64, error) {
		sum := 0.0
		for _, pid := range pids {
			kib, err := peakKiB(pid)
			if err != nil {
				return 0, err
			}
			sum += kib
		}
		return max(0, sum-before) / 1024, nil
	}
	var err error
	if s[peakMiB], err = rise(t.proxy, p.proxy); err != nil || len(t.server) == 0 {
		return err
	}
	s[serverMiB], err = rise(t.server, p.server)
	return err
}

// neighbourRules compare each target with a bare Redis that has the same neighbour.
func neighbourRules() []rule {
	var all []rule
	for _, path := range []string{multiplexed, transparent, sidecarMultiplexed, sidecarNative} {
		for _, l := range neighbourLoads() {
			at := func(target string, f figure) measured { return measured{l.name, target, f} }
			all = append(all,
				rule{path: path, what: l.title + ": others' worst ms, 1.2 × plaintext's or 50", got: at(path, othersWorst),
					of: at(plaintext, othersWorst), limit: 1.2, atMost: true, orElse: 50},
				rule{path: path, what: l.title + ": MiB above", got: at(path, peakMiB), limit: 64, atMost: true},
				rule{path: path, what: l.title + ": complete", got: at(path, complete), limit: 1})
			if path == sidecarMultiplexed {
				all = append(all, rule{path: path, what: l.title + ": MiB above, the gateway", got: at(path, serverMiB), limit: 64, atMost: true})
			}
		}
	}
	return all
}

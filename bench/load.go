package main

import (
	"context"
	"crypto/tls"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sample is what one run showed. A field that the load doesn't measure is zero.
type sample struct {
	CPU    float64 `json:"cpu_us_per_op,omitempty"` // of proxy and engine, user and system
	Rate   float64 `json:"ops_per_second,omitempty"`
	P50    float64 `json:"p50_ms,omitempty"`
	P99    float64 `json:"p99_ms,omitempty"`
	KiB    float64 `json:"kib_per_connection,omitempty"`             // resident memory of the proxy
	KiBAll float64 `json:"kib_per_connection_with_engine,omitempty"` // of proxy and engine
}

// skipped is the error of a load that a target can't take.
type skipped struct{ why string }

func (s *skipped) Error() string { return s.why }

// load is one row of the table.
type load struct {
	name  string
	title string
	run   func(context.Context, *bench, *target) (sample, error)
}

func loadName(l load) string { return l.name }

// bench is what the runs of one load share.
type bench struct {
	lab    *lab
	runFor time.Duration
	idle   int
	ops    int // per run; 0: not known yet
}

const titleMemory = "KiB per idle connection"

func loads() []load {
	commands := func(name, title string, c commands) load { return load{name, title, c.run} }
	return []load{
		commands("get-50", "GET 64 B, 50 clients", commandsOf("get", 64, 50, 1)),
		commands("get-500", "GET 64 B, 500 clients", commandsOf("get", 64, 500, 1)),
		commands("get-2000", "GET 64 B, 2,000 clients", commandsOf("get", 64, 2000, 1)),
		commands("pipeline", "GET 64 B, 50 clients, pipeline 16", commandsOf("get", 64, 50, 16)),
		commands("set-1k", "SET 1 KiB, 50 clients", commandsOf("set", 1024, 50, 1)),
		commands("get-16k", "GET 16 KiB, 50 clients", commandsOf("get", 16384, 50, 1)),
		{"handshake", "full handshake + PING, X25519", handshakes{group: tls.X25519}.run},
		{"handshake-mlkem", "full handshake + PING, X25519MLKEM768", handshakes{group: tls.X25519MLKEM768}.run},
		{"handshake-resumed", "resumed handshake + PING, X25519", handshakes{group: tls.X25519, resume: true}.run},
		{"memory", titleMemory, memory},
	}
}

// commands is a load by redis-benchmark.
type commands struct {
	op       string
	size     int
	clients  int
	pipeline int
}

func commandsOf(op string, size, clients, pipeline int) commands {
	return commands{op, size, clients, pipeline}
}

// runResult is one call of redis-benchmark.
type runResult struct {
	ops      int
	cpu      time.Duration
	rate     float64
	p50, p99 float64
}

// run measures two runs, a long one and one in which each client sends once: what connecting costs is in both, so that
// the difference is the cost of the commands alone.
func (c commands) run(ctx context.Context, b *bench, t *target) (sample, error) {
	// A GET must find a value of the right size.
	preload := commands{"set", c.size, 1, 1}
	if _, err := preload.call(ctx, t, 1); err != nil {
		return sample{}, err
	}
	if b.ops == 0 {
		try, err := c.call(ctx, t, 20*c.clients*c.pipeline)
		if err != nil {
			return sample{}, err
		}
		b.ops = max(int(try.rate*b.runFor.Seconds()), c.clients*c.pipeline)
	}
	connecting, err := c.call(ctx, t, c.clients*c.pipeline)
	if err != nil {
		return sample{}, err
	}
	long, err := c.call(ctx, t, connecting.ops+b.ops)
	if err != nil {
		return sample{}, err
	}
	return difference(connecting, long), nil
}

// difference is what the operations cost that the long run did more. The percentiles are the long run's.
func difference(connecting, long runResult) sample {
	ops := float64(long.ops - connecting.ops)
	seconds := float64(long.ops)/long.rate - float64(connecting.ops)/connecting.rate
	return sample{
		CPU:  float64((long.cpu - connecting.cpu).Microseconds()) / ops,
		Rate: ops / seconds,
		P50:  long.p50,
		P99:  long.p99,
	}
}

// callLimit ends a redis-benchmark that does not end by itself.
const callLimit = 20 * time.Second

// call runs redis-benchmark once.
func (c commands) call(ctx context.Context, t *target, n int) (runResult, error) {
	host, port, err := net.SplitHostPort(t.addr)
	if err != nil {
		return runResult{}, err
	}
	args := []string{"-h", host, "-p", port, "--csv", "-t", c.op, "-d", strconv.Itoa(c.size),
		"-c", strconv.Itoa(c.clients), "-P", strconv.Itoa(c.pipeline), "-n", strconv.Itoa(n)}
	if t.caFile != "" {
		args = append(args, "--tls", "--cacert", t.caFile)
	}
	before, err := cpuTime(t.pids())
	if err != nil {
		return runResult{}, err
	}
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	out, err := output(exec.CommandContext(limited, "redis-benchmark", args...))
	if ctx.Err() == nil && limited.Err() != nil {
		return runResult{}, &skipped{"hung"}
	}
	if err != nil {
		return runResult{}, err
	}
	time.Sleep(50 * time.Millisecond) // the servers close the connections
	after, err := cpuTime(t.pids())
	if err != nil {
		return runResult{}, err
	}
	r, err := parseCSV(string(out))
	r.ops, r.cpu = n, after-before
	return r, err
}

// parseCSV reads what redis-benchmark --csv prints: a line of names, then one of values.
func parseCSV(text string) (runResult, error) {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return runResult{}, fmt.Errorf("read redis-benchmark's table: %w", err)
	}
	if len(rows) != 2 {
		return runResult{}, fmt.Errorf("redis-benchmark printed %d lines, want 2 (version 7 or newer is needed): %q", len(rows), text)
	}
	var r runResult
	wanted := map[string]*float64{"rps": &r.rate, "p50_latency_ms": &r.p50, "p99_latency_ms": &r.p99}
	for i, name := range rows[0] {
		into, ok := wanted[name]
		if !ok {
			continue
		}
		if *into, err = strconv.ParseFloat(rows[1][i], 64); err != nil {
			return r, fmt.Errorf("redis-benchmark's %s: %w", name, err)
		}
		delete(wanted, name)
	}
	if len(wanted) > 0 || r.rate <= 0 {
		return r, fmt.Errorf("redis-benchmark's table has no rps, p50 or p99: %q", text)
	}
	return r, nil
}

// handshakes is a load by connections that each ask one PING.
type handshakes struct {
	group  tls.CurveID
	resume bool
}

// handshakeWorkers connect at the same time.
const handshakeWorkers = 8

func (h handshakes) run(ctx context.Context, b *bench, t *target) (sample, error) {
	if t.caFile == "" {
		return sample{}, &skipped{"no TLS"}
	}
	// The first connections also show whether the target can do it at all.
	configs := make([]*tls.Config, handshakeWorkers)
	for i := range configs {
		configs[i] = &tls.Config{RootCAs: t.roots, CurvePreferences: []tls.CurveID{h.group}, MinVersion: tls.VersionTLS13}
		if h.resume {
			configs[i].ClientSessionCache = tls.NewLRUClientSessionCache(0)
		}
		if _, err := connectOnce(ctx, t.addr, configs[i]); err != nil {
			// What crypto/tls returns for an alert from the other side.
			if remote := (*net.OpError)(nil); errors.As(err, &remote) && remote.Op == "remote error" {
				return sample{}, &skipped{"not offered"}
			}
			return sample{}, err
		}
	}
	before, err := cpuTime(t.pids())
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	done, resumed, err := h.flood(ctx, t.addr, configs, start.Add(b.runFor))
	if err != nil {
		return sample{}, err
	}
	elapsed := time.Since(start)
	if h.resume && resumed < done*9/10 {
		return sample{}, &skipped{"doesn't resume"}
	}
	after, err := cpuTime(t.pids())
	return sample{
		CPU:  float64((after - before).Microseconds()) / float64(done),
		Rate: float64(done) / elapsed.Seconds(),
	}, err
}

// flood connects again and again until the time is over.
func (h handshakes) flood(ctx context.Context, addr string, configs []*tls.Config, until time.Time) (done, resumed int, err error) {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards the results
	for _, config := range configs {
		wg.Go(func() {
			for time.Now().Before(until) {
				again, failed := connectOnce(ctx, addr, config)
				mu.Lock()
				done++
				if again {
					resumed++
				}
				err = errors.Join(err, failed)
				mu.Unlock()
				if failed != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return done, resumed, err
}

// connectOnce connects, asks a PING and hangs up.
func connectOnce(ctx context.Context, addr string, config *tls.Config) (resumed bool, err error) {
	conn, err := connect(ctx, addr, config)
	if err != nil {
		return false, err
	}
	resumed = conn.ConnectionState().DidResume
	return resumed, conn.Close()
}

// connect connects and asks a PING, so that the target has nothing left to do for the connection.
func connect(ctx context.Context, addr string, config *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	raw, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := raw.(*tls.Conn)
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	reply := make([]byte, len("+PONG\r\n"))
	if _, err = io.WriteString(conn, "PING\r\n"); err == nil {
		_, err = io.ReadFull(conn, reply)
	}
	if err == nil && string(reply) != "+PONG\r\n" {
		err = fmt.Errorf("asked PING, the answer was %q", reply)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// memory measures what idle connections keep resident. It starts the target anew each time: memory that an earlier
// load has left behind would hide theirs.
func memory(ctx context.Context, b *bench, t *target) (sample, error) {
	if t.caFile == "" {
		return sample{}, &skipped{"no TLS"}
	}
	t, err := b.lab.start(ctx, t.name)
	if err != nil {
		return sample{}, err
	}
	defer t.stop()
	config := &tls.Config{RootCAs: t.roots}
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	open := func(n int) error {
		for range n {
			conn, err := connect(ctx, t.addr, config)
			if err != nil {
				return err
			}
			conns = append(conns, conn)
		}
		return nil
	}
	// The first ones pay for what is there once.
	if err := open(20); err != nil {
		return sample{}, err
	}
	proxyBefore, allBefore, err := settledKiB(ctx, t)
	if err != nil {
		return sample{}, err
	}
	if err := open(b.idle); err != nil {
		return sample{}, err
	}
	proxyAfter, allAfter, err := settledKiB(ctx, t)
	n := float64(b.idle)
	return sample{KiB: (proxyAfter - proxyBefore) / n, KiBAll: (allAfter - allBefore) / n}, err
}

// settledKiB returns the resident memory once it has not changed for a second, at the latest after ten.
func settledKiB(ctx context.Context, t *target) (proxy, all float64, err error) {
	last, since, start := -1.0, time.Now(), time.Now()
	for time.Since(since) < time.Second && time.Since(start) < 10*time.Second {
		if all, err = residentKiB(t.pids()); err != nil {
			return 0, 0, err
		}
		if all != last {
			last, since = all, time.Now()
		}
		select {
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	proxy, err = residentKiB(t.proxy)
	return proxy, all, err
}

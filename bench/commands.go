package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// commands is a load by redis-benchmark.
type commands struct {
	op       string
	size     int
	clients  int
	pipeline int
}

// pace is what is known about a load on a target before it is measured.
type pace struct {
	connecting time.Duration // until every client has sent its first request
	rate       float64       // operations per second after that
}

const (
	// callLimit is after how long a redis-benchmark that does not end by itself is killed.
	callLimit = 30 * time.Second
	// readingPace is how often CPU and operations of a run are read.
	readingPace = 100 * time.Millisecond
	// suite is offered to all targets, because Go and OpenSSL would choose different ones by default.
	suite = "TLS_AES_128_GCM_SHA256"
)

func (c commands) guess(o options) time.Duration {
	return o.runFor*5/4 + time.Duration(c.clients)*4*time.Millisecond + time.Second
}

// run measures in the middle of a run, while all clients are connected and none has finished.
func (c commands) run(ctx context.Context, b *bench, t *target) (sample, error) {
	control, err := newControl(ctx, t)
	if err != nil {
		return nil, err
	}
	defer control.conn.Close()
	// A GET must find a value of the right size.
	if _, err := (commands{"set", c.size, 1, 1}).call(ctx, b, t, 1); err != nil {
		return nil, err
	}
	key := fmt.Sprint(c, t.name)
	p, known := b.pace[key]
	if !known {
		if p, err = c.try(ctx, b, t); err != nil {
			return nil, err
		}
	}
	for attempt := 0; ; attempt++ {
		s, err := c.measure(ctx, b, control, p)
		if short := (*tooShort)(nil); errors.As(err, &short) && attempt < 2 {
			p.rate *= 3 // it was faster than expected
			continue
		}
		if err == nil {
			p.rate = s[opRate]
			b.pace[key] = p
		}
		return s, err
	}
}

// try finds out how long connecting takes and which rate to expect.
func (c commands) try(ctx context.Context, b *bench, t *target) (pace, error) {
	start := time.Now()
	if _, err := c.call(ctx, b, t, c.clients*c.pipeline); err != nil {
		return pace{}, err
	}
	p := pace{connecting: time.Since(start)}
	table, err := c.call(ctx, b, t, 20*c.clients*c.pipeline)
	p.rate = table.rate
	return p, err
}

type tooShort struct{ lasted, wanted time.Duration }

func (e *tooShort) Error() string {
	return fmt.Sprintf("only %v of %v could be measured before the load ended", e.lasted.Round(time.Millisecond), e.wanted)
}

// measure starts redis-benchmark and compares two readings: one after twice the time that connecting takes, and one after the
// wanted length of a run.
func (c commands) measure(ctx context.Context, b *bench, control *control, p pace) (sample, error) {
	skip := 2*p.connecting + 100*time.Millisecond
	n := max(int(p.rate*(skip+b.runFor*5/4).Seconds()), c.clients*c.pipeline)
	limited, cancel := context.WithTimeout(ctx, 3*(skip+b.runFor)+callLimit)
	defer cancel()
	cmd, out, err := c.start(limited, b, control.t, n)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	first, last, err := control.observe(limited, window{c.op, start.Add(skip), b.runFor, ended})
	if err != nil {
		cancel()
		<-ended
		return nil, err
	}
	err = <-ended
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	ops := last.ops - first.ops
	if limited.Err() != nil && ops == 0 {
		return nil, &skipped{"hung"}
	}
	if lasted := last.at.Sub(first.at); lasted < b.runFor*3/5 || ops <= 0 {
		return nil, &tooShort{lasted, b.runFor}
	}
	s := last.usage.since(first.usage, ops)
	s[opRate] = float64(ops) / last.at.Sub(first.at).Seconds()
	if table, bad := parseCSV(out.String()); err == nil && bad == nil {
		s[p50], s[p99] = table.p50, table.p99
	}
	return s, nil
}

// reading is the CPU and the operations so far, at one time.
type reading struct {
	usage
	ops int
}

// window says when the readings of a run are taken.
type window struct {
	op    string // the command that is counted
	from  time.Time
	d     time.Duration
	ended chan error // receives the outcome of the load; observe puts back what it takes
}

// observe takes readings until the run has lasted long enough or the load has ended. In the second case the last reading before
// the end counts.
func (c *control) observe(ctx context.Context, w window) (first, last reading, err error) {
	if err := pause(ctx, time.Until(w.from)); err != nil {
		return first, last, err
	}
	first, err = c.read(w.op)
	for last = first; err == nil && last.at.Sub(first.at) < w.d; {
		if err := pause(ctx, min(readingPace, w.d-last.at.Sub(first.at)+time.Millisecond)); err != nil {
			return first, last, nil // it hangs; the readings until then show that
		}
		next, failed := c.read(w.op)
		err = failed
		select {
		case over := <-w.ended:
			w.ended <- over
			return first, last, err
		default:
			last = next
		}
	}
	return first, last, err
}

func (c commands) start(ctx context.Context, b *bench, t *target, n int) (*exec.Cmd, *strings.Builder, error) {
	host, port, err := net.SplitHostPort(t.addr)
	if err != nil {
		return nil, nil, err
	}
	args := []string{"-h", host, "-p", port, "--csv", "-t", c.op, "-d", strconv.Itoa(c.size),
		"-c", strconv.Itoa(c.clients), "-P", strconv.Itoa(c.pipeline), "-n", strconv.Itoa(n)}
	if t.caFile != "" {
		args = append(args, "--tls", "--cacert", t.caFile, "--tls-ciphersuites", suite)
	}
	cmd := exec.CommandContext(ctx, b.lab.load, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGKILL) }
	var out, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &stderr
	return cmd, &out, startNice(cmd, b.nice)
}

// call runs redis-benchmark from start to end.
func (c commands) call(ctx context.Context, b *bench, t *target, n int) (summary, error) {
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	cmd, out, err := c.start(limited, b, t, n)
	if err != nil {
		return summary{}, err
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return summary{}, ctx.Err()
	case limited.Err() != nil:
		return summary{}, &skipped{"hung"}
	case err != nil:
		return summary{}, fmt.Errorf("redis-benchmark: %w: %s", err, cmd.Stderr)
	}
	return parseCSV(out.String())
}

// summary is what redis-benchmark prints at the end.
type summary struct{ rate, p50, p99 float64 }

// parseCSV reads what redis-benchmark --csv prints: a line of names, then one of values.
func parseCSV(text string) (summary, error) {
	var t summary
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return t, fmt.Errorf("read redis-benchmark's table: %w", err)
	}
	if len(rows) != 2 {
		return t, fmt.Errorf("redis-benchmark printed %d lines, want 2 (version 7 or newer is needed): %q", len(rows), text)
	}
	wanted := map[string]*float64{"rps": &t.rate, "p50_latency_ms": &t.p50, "p99_latency_ms": &t.p99}
	for i, name := range rows[0] {
		into, ok := wanted[name]
		if !ok {
			continue
		}
		if *into, err = strconv.ParseFloat(rows[1][i], 64); err != nil {
			return t, fmt.Errorf("redis-benchmark's %s: %w", name, err)
		}
		delete(wanted, name)
	}
	if len(wanted) > 0 || t.rate <= 0 {
		return t, fmt.Errorf("redis-benchmark's table has no rps, p50 or p99: %q", text)
	}
	return t, nil
}

// control is a connection that asks the engine how many commands it has done.
type control struct {
	conn net.Conn
	t    *target
}

func newControl(ctx context.Context, t *target) (*control, error) {
	config, err := clientConfig(request{Addr: t.addr, CAFile: t.caFile})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := dial(ctx, t.addr, config)
	if err != nil {
		return nil, fmt.Errorf("connect to count operations: %w", err)
	}
	return &control{conn, t}, nil
}

func (c *control) read(op string) (reading, error) {
	c.conn.SetDeadline(time.Now().Add(callLimit))
	if _, err := io.WriteString(c.conn, "INFO commandstats\r\n"); err != nil {
		return reading{}, fmt.Errorf("count operations: %w", err)
	}
	text, err := readBulk(c.conn)
	if err != nil {
		return reading{}, fmt.Errorf("count operations: %w", err)
	}
	u, err := readUsage(c.t)
	if err != nil {
		return reading{}, err
	}
	ops, err := parseCalls(text, op)
	return reading{u, ops}, err
}

// readBulk reads one bulk string and not a byte more.
func readBulk(r io.Reader) (string, error) {
	var head []byte
	one := make([]byte, 1)
	for len(head) < 2 || string(head[len(head)-2:]) != "\r\n" {
		if _, err := io.ReadFull(r, one); err != nil {
			return "", err
		}
		if head = append(head, one...); len(head) > 200 {
			break
		}
	}
	length, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(string(head), "$"), "\r\n"))
	if err != nil || head[0] != '$' || length < 0 || length > 1<<20 {
		return "", fmt.Errorf("want a bulk string, got %q", head)
	}
	body := make([]byte, length+2)
	_, err = io.ReadFull(r, body)
	return string(body[:length]), err
}

// parseCalls finds in a reply to INFO commandstats how often a command was called. A command that is not there was called 0 times.
func parseCalls(text, command string) (int, error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "cmdstat_"+command+":calls=")
		if !ok {
			continue
		}
		number, _, _ := strings.Cut(rest, ",")
		n, err := strconv.Atoi(number)
		if err != nil {
			return 0, fmt.Errorf("calls of %s: %w", command, err)
		}
		return n, nil
	}
	return 0, nil
}

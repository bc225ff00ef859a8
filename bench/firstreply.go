package main

import (
	"context"
	"crypto/tls"
	"embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// firstReplyGroup is the name for all of these rows.
const firstReplyGroup = "first-reply"

// firstReplyCount is how many connections each client makes, one after the other.
const firstReplyCount = 200

// firstReply is a client that leaves Nagle's algorithm on. It may therefore wait for the acknowledgement of its last handshake
// message before it sends its first request.
type firstReply struct {
	program string // runs the script; empty: the client is Go, in a worker
	script  string
}

//go:embed clients
var clientScripts embed.FS

func firstReplyLoads() []load {
	row := func(name, title string, f firstReply) load {
		return load{name: name, title: "connect and first reply, " + title, guess: func(options) time.Duration { return time.Second },
			run: f.run, group: firstReplyGroup}
	}
	return []load{
		row("first-go", "Go with Nagle on", firstReply{}),
		row("first-python", "Python's ssl", firstReply{"python3", "first.py"}),
		row("first-php", "PHP's streams", firstReply{"php", "first.php"}),
		row("first-predis", "Predis", firstReply{"php", "first_predis.php"}),
	}
}

func (f firstReply) run(ctx context.Context, b *bench, t *target) (sample, error) {
	if t.caFile == "" {
		return nil, &skipped{"no TLS"}
	}
	var ms []float64
	var err error
	if f.program == "" {
		ms, err = f.byWorker(ctx, b, t)
	} else {
		ms, err = f.byScript(ctx, b, t)
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(ms)
	return sample{firstMs: median(ms), firstP90Ms: ms[len(ms)*9/10]}, nil
}

func (f firstReply) byWorker(ctx context.Context, b *bench, t *target) ([]float64, error) {
	w, err := b.worker(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer w.close()
	r, err := w.call(request{Do: "first-reply", Addr: t.addr, CAFile: t.caFile, Clients: firstReplyCount})
	return r.FirstMs, err
}

// firstReplies is what a worker does for these rows.
func firstReplies(ctx context.Context, r request, config *tls.Config) (all response, err error) {
	for range r.Clients {
		start := time.Now()
		raw, err := dial(ctx, r.Addr, nil)
		if err != nil {
			return all, err
		}
		_ = raw.(*net.TCPConn).SetNoDelay(false)
		err = ping(tls.Client(raw, config), time.Now().Add(connectTimeout))
		all.FirstMs = append(all.FirstMs, float64(time.Since(start))/float64(time.Millisecond))
		raw.Close()
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func (f firstReply) byScript(ctx context.Context, b *bench, t *target) ([]float64, error) {
	program, err := exec.LookPath(f.program)
	if err != nil {
		return nil, &skipped{f.program + " isn't installed"}
	}
	text, err := clientScripts.ReadFile("clients/" + f.script)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.lab.dir, f.script)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(t.addr)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	cmd := exec.CommandContext(limited, program, file, host, port, t.caFile, strconv.Itoa(firstReplyCount))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case err != nil && strings.Contains(stderr.String()+string(out), "Predis/autoload.php"):
		return nil, &skipped{"Predis isn't installed"}
	case err != nil:
		return nil, fmt.Errorf("%s: %w: %s", f.script, err, stderr.String())
	}
	var ms []float64
	for _, field := range strings.Fields(string(out)) {
		v, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return nil, fmt.Errorf("%s printed %q: %w", f.script, field, err)
		}
		ms = append(ms, v)
	}
	if len(ms) != firstReplyCount {
		return nil, fmt.Errorf("%s printed %d times, want %d", f.script, len(ms), firstReplyCount)
	}
	return ms, nil
}

// firstReplyRules allow a tenth more than Redis's own TLS, which is what rounds differ by. A delayed acknowledgement costs several
// times as much.
func firstReplyRules() []rule {
	var all []rule
	for _, path := range []string{multiplexed, transparent} {
		for _, l := range firstReplyLoads() {
			all = append(all, rule{path: path, what: l.title + ": of native", got: measured{l.name, path, firstMs},
				of: measured{l.name, native, firstMs}, limit: 1.1, atMost: true})
		}
	}
	return all
}

package engine_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/process"
	"github.com/sealane/sealane/internal/resp"
)

// observed looks at an engine until it is what it should be, each time with a short deadline, which must be kept.
func observed(t *testing.T, e *engine.Engine, want engine.Condition) engine.Observation {
	t.Helper()
	const limit, late = 100 * time.Millisecond, 2 * time.Second // a machine that does a lot may be late
	var before []engine.Observation
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		began := time.Now()
		o := e.Observe(ctx)
		cancel()
		if took := time.Since(began); took > limit+late {
			t.Fatalf("the observation took %v", took)
		}
		for len(before) > 1 && o.At.Sub(before[1].At) > 400*time.Millisecond {
			before = before[1:]
		}
		got := o.Condition(engine.Observation{})
		if len(before) > 0 {
			got = o.Condition(before[0])
		}
		if got == want {
			return o
		}
		if time.Now().After(end) {
			t.Fatalf("condition: got %s, want %s: %+v", got, want, o)
		}
		before = append(before, o)
	}
}

func TestWhatAnEngineDoesIsSeen(t *testing.T) { enginetest.Each(t, whatAnEngineDoes) }

func whatAnEngineDoes(t *testing.T, b engine.Binary) {
	t.Parallel()
	cfg := config(t)
	cfg.Directives = map[string]string{"lua-time-limit": "700"}
	e := startOf(t, b, cfg)
	if o := observed(t, e, engine.Answering); o.Err != nil || o.Replication.Role != engine.RolePrimary || len(o.Replication.ID) != 40 {
		t.Errorf("an engine at work: %+v", o)
	}
	before := connections(t, e)
	for range 20 {
		observed(t, e, engine.Answering)
	}
	if got := connections(t, e); got != before+1 { // that of the second question itself
		t.Errorf("20 observations: %d connections", got-before-1)
	}
	// Whoever kills the connection doesn't make the engine look dead.
	if _, err := engine.Call(e, deadline(t), []string{"CLIENT", "KILL", "USER", "sealane", "SKIPME", "yes"}); err != nil {
		t.Fatal(err)
	}
	if o := e.Observe(deadline(t)); o.Err != nil {
		t.Errorf("after its connection was killed: %v", o.Err)
	}

	signal(t, e, syscall.SIGSTOP)
	var silent *engine.SilentError
	if o := observed(t, e, engine.Stopped); !errors.As(o.Err, &silent) || !silent.Stopped {
		t.Errorf("stopped: %v", o.Err)
	}
	if began := time.Now(); !e.Observe(deadline(t)).Process.Stopped() || time.Since(began) > 10*time.Second {
		t.Errorf("an engine that is stopped was waited for: %v", time.Since(began))
	}
	signal(t, e, syscall.SIGCONT)
	observed(t, e, engine.Answering)

	// A script: the engine says nothing at first, and then that it is busy.
	c := connect(t, cfg.Dir)
	if _, err := c.conn.Write(resp.AppendCommand(nil, "EVAL", "while true do end", "0")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; {
		o := observed(t, e, engine.Busy)
		if engine.IsBusy(o.Err) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it has not said that it is busy: %v", o.Err)
		}
	}
	if err := e.KillScript(deadline(t)); err != nil {
		t.Fatal(err)
	}
	observed(t, e, engine.Answering)

	connect(t, cfg.Dir).want("OK", "CLIENT", "PAUSE", "600")
	observed(t, e, engine.Waiting)
	observed(t, e, engine.Answering)

	if err := e.Kill(); err != nil {
		t.Fatal(err)
	}
	if o := observed(t, e, engine.Ended); !errors.Is(o.Err, process.ErrNotRunning) {
		t.Errorf("ended: %v", o.Err)
	}
}

func signal(t *testing.T, e *engine.Engine, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(e.Identity().PID, s); err != nil {
		t.Fatal(err)
	}
}

// connections is how many an engine has been made so far.
func connections(t *testing.T, e *engine.Engine) (n int) {
	t.Helper()
	info, err := e.Info(deadline(t), "stats")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range info["total_connections_received"] {
		n = n*10 + int(c-'0')
	}
	return n
}

// What a main thread did between two observations tells what kept it from answering.
// The worker and the monitor look at an engine that has just ended at the same time. (The race detector tells.)
func TestSeveralObserveAnEngineThatHasEnded(t *testing.T) {
	t.Parallel()
	e := startOf(t, enginetest.All(t)[0], config(t))
	observed(t, e, engine.Answering)
	if err := e.Kill(); err != nil {
		t.Fatal(err)
	}
	<-e.Done()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { e.Observe(deadline(t)) })
	}
	all.Wait()
}

func TestConditionOfASilentEngine(t *testing.T) {
	t.Parallel()
	now := time.Now()
	silent := func(after time.Duration, s process.Status) engine.Observation {
		return engine.Observation{At: now.Add(after), Process: s, Err: context.DeadlineExceeded}
	}
	first := silent(0, process.Status{State: 'S', CPU: time.Second, Ready: time.Second, Runs: 10})
	for name, tt := range map[string]struct {
		before, now engine.Observation
		want        engine.Condition
	}{
		"the first time":          {engine.Observation{}, first, engine.Busy},
		"too near":                {first, silent(100*time.Millisecond, first.Process), engine.Busy},
		"works":                   {first, silent(time.Second, process.Status{State: 'R', CPU: 1900 * time.Millisecond, Ready: time.Second, Runs: 11}), engine.Busy},
		"is given no processor":   {first, silent(time.Second, process.Status{State: 'R', CPU: 1100 * time.Millisecond, Ready: 1800 * time.Millisecond, Runs: 11}), engine.Busy},
		"wakes up":                {first, silent(time.Second, process.Status{State: 'S', CPU: time.Second, Ready: time.Second, Runs: 20}), engine.Waiting},
		"does nothing":            {first, silent(time.Second, first.Process), engine.Hung},
		"waits for a disk":        {first, silent(time.Second, process.Status{State: 'D', CPU: time.Second, Ready: time.Second, Runs: 10}), engine.Hung},
		"was stopped":             {first, silent(time.Second, process.Status{State: 'T'}), engine.Stopped},
		"has ended":               {first, silent(time.Second, process.Status{State: 'Z'}), engine.Ended},
		"has no free connections": {first, engine.Observation{At: now, Err: resp.ReplyError("ERR max number of clients reached"), Process: first.Process}, engine.Waiting},
		"loads and is sent nothing": {first, engine.Observation{At: now.Add(time.Second), Err: context.DeadlineExceeded, Process: first.Process,
			Replication: engine.Replication{Role: engine.RoleReplica, Syncing: true}}, engine.Waiting},
	} {
		if got := tt.now.Condition(tt.before); got != tt.want {
			t.Errorf("%s: got %s, want %s", name, got, tt.want)
		}
	}
}

// Nothing that a client may do ends or redirects replication, or opens a port, and the replicas' user may do nothing else.
func TestReplicationIsOutOfReach(t *testing.T) { t.Parallel(); eachWithTLS(t, replicationIsOutOfReach) }

func replicationIsOutOfReach(t *testing.T, b engine.Binary) {
	g := newGroup(t, b)
	m := g.add(netip.AddrPort{})
	c := connect(t, m.cfg.Dir)
	for _, cmd := range []string{
		"CONFIG SET tls-port 16399", "CONFIG SET port 16399", "CONFIG SET tls-replication no", "CONFIG SET tls-cert-file /x", "CONFIG SET tls-ca-cert-file /x",
		"CONFIG SET masterauth x", "REPLICAOF NO ONE", "REPLICAOF 127.0.0.1 1", "SLAVEOF 127.0.0.1 1", "FAILOVER", "FAILOVER ABORT", "PSYNC ? -1", "SYNC",
		"REPLCONF ACK 0", "ACL SETUSER replication nopass",
	} {
		if got := c.do(strings.Fields(cmd)...); !got.IsError() || !strings.HasPrefix(got.Str, "NOPERM") && !strings.Contains(got.Str, "not allowed") {
			t.Errorf("%s: got %+v, want NOPERM", cmd, got)
		}
	}
	c.want("OK", "AUTH", "replication", replicationSecret)
	c.want("PONG", "PING")
	c.want("OK", "REPLCONF", "capa", "psync2")
	for _, cmd := range []string{"GET k", "SET k v", "INFO", "CONFIG GET *", "KEYS *", "CLIENT LIST", "REPLICAOF NO ONE", "ACL WHOAMI", "DEBUG SLEEP 1", "MONITOR",
		"SUBSCRIBE c", "EVAL return(1) 0", "SHUTDOWN", "FLUSHALL", "WAIT 0 0", "FAILOVER"} {
		if got := c.do(strings.Fields(cmd)...); !got.IsError() || !strings.HasPrefix(got.Str, "NOPERM") && !strings.Contains(got.Str, "not allowed") {
			t.Errorf("%s of the replicas' user: got %+v, want NOPERM", cmd, got)
		}
	}
}

// BenchmarkObserve says what an observation costs, also the engine.
func BenchmarkObserve(b *testing.B) {
	for _, bin := range enginetest.All(b) {
		b.Run(enginetest.Name(bin), func(b *testing.B) {
			dir, err := os.MkdirTemp("", "sl")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			e, err := engine.Start(b.Context(), bin, engine.Config{Dir: dir, AdminPassword: admin})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { e.Kill(); <-e.Done(); e.Release() }()
			before := e.Observe(b.Context())
			var use, used syscall.Rusage
			syscall.Getrusage(syscall.RUSAGE_SELF, &use)
			for b.Loop() {
				if o := e.Observe(b.Context()); o.Err != nil {
					b.Fatal(o.Err)
				}
			}
			syscall.Getrusage(syscall.RUSAGE_SELF, &used)
			cpu := used.Utime.Nano() + used.Stime.Nano() - use.Utime.Nano() - use.Stime.Nano()
			b.ReportMetric(float64(e.Observe(b.Context()).Process.CPU-before.Process.CPU)/float64(b.N), "engine-ns/op")
			b.ReportMetric(float64(cpu)/float64(b.N), "server-ns/op")
		})
	}
}

package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/sealane/sealane/e2e/failover/history"
)

// Chaos is a run in which processes of Sealane are killed at random.
type Chaos struct {
	Target   *Sealane
	Load     Load
	Duration time.Duration
	Pause    time.Duration // between two kills, on average
	Seed     uint64
	Limit    time.Duration // for the instance to be READY with a replica in sync at the end
	Log      io.Writer
}

// ChaosResult is what was killed and what became of it.
type ChaosResult struct {
	Killed      map[string]int // by what it was
	Duration    time.Duration
	LongestGap  time.Duration // without an acknowledged write of any client
	ReadyAfter  time.Duration // after the last kill
	Primaries   int           // engines that are primaries, at the end
	State       string        // of the instance, at the end
	History     history.Result
	ClosedClean int // connections that the other side closed while no request was in flight; a gateway that is killed closes its own
}

// RunChaos kills until the time is over. `sealane serve` is started again at once, as a service manager does. Some kills hit it in the
// middle of a failover that it has just begun, by itself or because somebody asked for it. An engine is killed only while a replica is
// in sync: without persistence, two engines that die before the first one has its data again lose it, whatever a WAIT has said.
func RunChaos(ctx context.Context, c Chaos) (*ChaosResult, error) {
	r := &ChaosResult{Killed: make(map[string]int)}
	l, err := startLoad(ctx, c.Load, c.Target.Endpoint())
	if err != nil {
		return nil, err
	}
	err = c.kill(ctx, l, r)
	last := l.now()
	if err == nil {
		err = c.settle(ctx, r)
	}
	r.ReadyAfter = l.now() - last
	l.round.Add(1)
	err = errors.Join(err, sleep(ctx, 2*time.Second)) // the clients read what they wrote
	l.close()
	r.Duration = l.now()
	err = errors.Join(err, l.readAll(ctx, c.Target.Endpoint()))
	ops := l.history()
	r.LongestGap = longestGap(acknowledged(ops), 0, r.Duration)
	r.History = history.Check(history.History{Ops: ops, FailoversUnknown: true})
	for _, e := range l.closed {
		if e.Clean && e.ByServer {
			r.ClosedClean++
		}
	}
	return r, err
}

// kill kills something, and again, until the time is over.
func (c *Chaos) kill(ctx context.Context, l *load, r *ChaosResult) error {
	random := rand.New(rand.NewPCG(c.Seed, 1))
	soon := func() time.Duration { return time.Duration(random.Int64N(int64(400 * time.Millisecond))) }
	for l.now() < c.Duration {
		if err := sleep(ctx, time.Duration((0.2+1.6*random.Float64())*float64(c.Pause))); err != nil {
			return err
		}
		l.round.Store(int64(l.now() / (10 * time.Second)))
		var what string
		var err error
		switch action := random.IntN(5); {
		case action == 0:
			what, err = "serve", c.killServe(ctx)
		case action == 1:
			what, err = "gateway", c.killGateway(random)
		case c.Target.replicaInSync() != nil:
			continue
		case action == 2:
			what, err = c.killEngine(random)
		case action == 3:
			if what, err = c.killEngine(random); err == nil {
				err = errors.Join(sleep(ctx, soon()), c.killServe(ctx))
			}
			what += ", then serve"
		default:
			command := exec.Command(c.Target.program, "--state", c.Target.state(), "instances", "failover", instanceName)
			if err = command.Start(); err == nil {
				err = errors.Join(sleep(ctx, soon()), c.killServe(ctx))
				command.Wait() // it may have failed, or not
			}
			what = "serve, after instances failover"
		}
		if err != nil {
			return fmt.Errorf("kill %s: %w", what, err)
		}
		r.Killed[what]++
		fmt.Fprintf(c.Log, "%8v killed: %s\n", l.now().Round(time.Millisecond), what)
	}
	return nil
}

func (c *Chaos) killServe(ctx context.Context) error {
	c.Target.serve.kill()
	return c.Target.Serve(ctx)
}

func (c *Chaos) killGateway(random *rand.Rand) error {
	pids := c.Target.Processes("gateway")
	if len(pids) == 0 {
		return nil // it is being started
	}
	return killPID(pids[random.IntN(len(pids))])
}

// killEngine says whether the engine was the primary.
func (c *Chaos) killEngine(random *rand.Rand) (what string, err error) {
	primary, err := c.Target.Primary()
	pids := c.Target.Processes("engine")
	if err != nil || len(pids) == 0 {
		return "engine", err
	}
	pid := pids[random.IntN(len(pids))]
	what = "replica"
	if strings.HasSuffix(commandLine(pid), "unixsocket:"+primary) {
		what = "primary"
	}
	return what, killPID(pid)
}

// killPID kills a process that may have ended meanwhile.
func killPID(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// settle waits until all is well, and counts the primaries.
func (c *Chaos) settle(ctx context.Context, r *ChaosResult) error {
	ctx, cancel := context.WithTimeout(ctx, c.Limit)
	defer cancel()
	if err := c.Target.inSync(ctx); err != nil {
		return err
	}
	if err := poll(ctx, "the instance is READY", 100*time.Millisecond, func() error {
		d, err := c.Target.Describe(ctx)
		r.State = d.State
		if err == nil && d.State != "READY" {
			err = fmt.Errorf("it is %s: %s", d.State, d.StatusMessage)
		}
		return err
	}); err != nil {
		return err
	}
	for _, pid := range c.Target.Processes("engine") {
		_, socket, _ := strings.Cut(commandLine(pid), "unixsocket:")
		if info, err := replicationInfo(socket); err != nil {
			return fmt.Errorf("engine %s: %w", socket, err)
		} else if strings.Contains(info, "role:master") {
			r.Primaries++
		}
	}
	return nil
}

// replicationInfo asks an engine over its own socket, past the gateway.
func replicationInfo(socket string) (string, error) {
	c, err := redis.Dial("unix", socket, redis.DialConnectTimeout(time.Second), redis.DialReadTimeout(time.Second))
	if err != nil {
		return "", err
	}
	defer c.Close()
	return redis.String(c.Do("INFO", "replication"))
}

// Faults says what a run must not have shown.
func (r *ChaosResult) Faults() (faults []string) {
	if r.State != "READY" {
		faults = append(faults, fmt.Sprintf("the instance is %q, want READY", r.State))
	}
	if r.Primaries != 1 {
		faults = append(faults, fmt.Sprintf("%d primaries, want 1", r.Primaries))
	}
	for _, v := range r.History.Violations {
		faults = append(faults, v.String())
	}
	return faults
}

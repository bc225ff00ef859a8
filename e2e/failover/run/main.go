// Command run makes failovers of Sealane, or of Redis with Sentinel, under load from clients of five libraries, and reports what they
// noticed. See docs/failover.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sealane/sealane/e2e/failover"
)

var (
	targets  = flag.String("targets", "sealane-transparent,sealane-multiplexed,sentinel", "what fails over")
	kinds    = flag.String("kinds", "", "how, of: "+kindNames()+" (default: all that a target knows)")
	number   = flag.Int("failovers", 10, "failovers of each target, divided among the kinds")
	clients  = flag.Int("clients", 200, "clients, divided among the libraries")
	pace     = flag.Duration("pace", 100*time.Millisecond, "the pause between two requests of a client")
	wait     = flag.String("wait", "half", "which clients send WAIT 1 behind each write: half, all or none")
	sealane  = flag.String("sealane", "../bin/sealane", "the program")
	redis    = flag.String("redis", "redis-server", "the program, for Sentinel")
	out      = flag.String("json", "", "a file for all figures")
	limit    = flag.Duration("limit", time.Minute, "how long one failover may take until another node is the primary, and how long until a replica is in sync")
	from     = flag.String("from", "", "files that -json wrote, divided by commas: measure nothing, and print their tables")
	libs     = flag.String("libraries", strings.Join(failover.Libraries, ","), "the clients' libraries")
	create   = flag.String("create", "", "further flags of sealane instances create, such as '--size 5 --read-replicas-mode enabled --replica-count 2'")
	chaos    = flag.Duration("chaos", 0, "kill processes of Sealane at random for this long, and make no other failovers; all clients send WAIT 1")
	seed     = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of -chaos")
	findings = flag.Int("faults", 20, "how many faults of each target to print")
)

// pool is a network of this process. 127.83.0.0/16 belongs to real servers.
func pool() string { return fmt.Sprintf("127.%d.%d.0/24", 84+os.Getpid()/256%160, os.Getpid()%256) }

// names are the kinds as the flag has them.
var names = []struct {
	name string
	kind failover.Kind
}{
	{"kill", failover.Kill}, {"stop", failover.Stop}, {"disk", failover.Disk}, {"socket", failover.Socket}, {"command", failover.Command},
}

func kindNames() string { return "kill, stop, disk, socket, command" }

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "failover: error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if *from != "" {
		return printFrom(strings.Split(*from, ","))
	}
	node, err := os.MkdirTemp("", "slnode")
	if err != nil {
		return err
	}
	defer os.RemoveAll(node)
	if strings.Contains(*libs, "ioredis") || strings.Contains(*libs, "node-redis") {
		if err := failover.InstallNode(ctx, node); err != nil {
			return err
		}
	}
	load := failover.Load{Clients: *clients, Libraries: strings.Split(*libs, ","), Pace: *pace, NodeDir: node, Wait: *wait}
	if *chaos > 0 {
		return runChaos(ctx, load)
	}
	var results []*failover.Result
	var failures []error
	for _, name := range strings.Split(*targets, ",") {
		r, err := measure(ctx, name, load)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", name, err))
		}
		if r != nil {
			results = append(results, r)
			if err := judge(r); err != nil && name != "sentinel" {
				failures = append(failures, err)
			}
		}
		if *out != "" {
			if err := save(*out, results); err != nil {
				return err
			}
		}
	}
	failover.Tables(os.Stdout, results)
	return errors.Join(failures...)
}

// measure starts a target, makes its failovers, and stops it.
func measure(ctx context.Context, name string, load failover.Load) (result *failover.Result, err error) {
	var target failover.Target
	var possible []failover.Kind
	ready, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	switch name {
	case "sentinel":
		possible = []failover.Kind{failover.Kill, failover.Stop, failover.Command}
		target, err = failover.NewSentinel(ready, *redis)
	case "sealane-transparent", "sealane-multiplexed":
		possible = []failover.Kind{failover.Kill, failover.Stop, failover.Disk, failover.Socket, failover.Command}
		target, err = failover.NewSealane(ready, failover.SealaneConfig{Program: *sealane, DataPath: strings.TrimPrefix(name, "sealane-"), DiskSize: "256m", Pool: pool(), Flags: strings.Fields(*create)})
	default:
		return nil, errors.New("want sentinel, sealane-transparent or sealane-multiplexed")
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if possible, err = choose(possible); err != nil {
		return nil, err
	}
	var all []failover.Kind
	for i := range *number {
		all = append(all, possible[i%len(possible)])
	}
	defer keepLogs(target, &err)
	return failover.Run(ctx, failover.Config{
		Target: target, Load: load, Kinds: all, Warm: time.Second, After: 2 * time.Second, Settle: time.Second, Limit: *limit, Log: os.Stderr,
	})
}

// keepLogs keeps the logs of a target that failed.
func keepLogs(target failover.Target, err *error) {
	t, ok := target.(*failover.Sealane)
	if *err == nil || !ok {
		return
	}
	dir, failure := os.MkdirTemp("", "failover-logs")
	if failure == nil {
		failure = t.KeepLogs(dir)
	}
	fmt.Fprintf(os.Stderr, "the logs are in %s (%v)\n", dir, failure)
}

// choose restricts the kinds to those of the flag.
func choose(possible []failover.Kind) ([]failover.Kind, error) {
	if *kinds == "" {
		return possible, nil
	}
	var chosen []failover.Kind
	for _, name := range strings.Split(*kinds, ",") {
		i := slices.IndexFunc(names, func(n struct {
			name string
			kind failover.Kind
		}) bool {
			return n.name == name
		})
		if i < 0 {
			return nil, fmt.Errorf("-kinds %s: want some of %s", name, kindNames())
		}
		if slices.Contains(possible, names[i].kind) {
			chosen = append(chosen, names[i].kind)
		}
	}
	if chosen == nil {
		return nil, fmt.Errorf("-kinds %s: the target knows none of them", *kinds)
	}
	return chosen, nil
}

// judge prints what a run must not have shown.
func judge(r *failover.Result) error {
	faults := r.Faults()
	for _, fault := range faults[:min(*findings, len(faults))] {
		fmt.Fprintf(os.Stderr, "%s: %s\n", r.Target, fault)
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %d faults", r.Target, len(faults))
}

func save(file string, results []*failover.Result) error {
	raw, err := json.Marshal(results)
	if err != nil {
		return err
	}
	return os.WriteFile(file, raw, 0o600)
}

func printFrom(files []string) error {
	var all []*failover.Result
	for _, file := range files {
		var some []*failover.Result
		raw, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(raw, &some)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, some...)
	}
	failover.Tables(os.Stdout, all)
	return nil
}

// runChaos kills processes on both data paths, half of the time each.
func runChaos(ctx context.Context, load failover.Load) error {
	load.Wait = "all"
	var failures []error
	for _, path := range []string{"transparent", "multiplexed"} {
		failures = append(failures, chaosOn(ctx, path, load))
	}
	return errors.Join(failures...)
}

func chaosOn(ctx context.Context, path string, load failover.Load) (err error) {
	ready, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	target, err := failover.NewSealane(ready, failover.SealaneConfig{Program: *sealane, DataPath: path, Pool: pool(), Flags: strings.Fields(*create)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	defer keepLogs(target, &err)
	fmt.Printf("%s: seed %d\n", target.Name(), *seed)
	r, err := failover.RunChaos(ctx, failover.Chaos{
		Target: target, Load: load, Duration: *chaos / 2, Pause: 3 * time.Second, Seed: *seed, Limit: *limit, Log: os.Stderr,
	})
	if r == nil {
		return err
	}
	h := r.History
	fmt.Printf("%s: killed %v in %v; READY after %v with %d primary; %d acknowledged writes, %d of them confirmed by a replica, %d without an answer; %d lost; longest time without an acknowledged write: %v\n",
		target.Name(), r.Killed, r.Duration.Round(time.Second), r.ReadyAfter.Round(time.Millisecond), r.Primaries, h.Acknowledged, h.Replicated, h.Unknown, len(h.Losses), r.LongestGap.Round(time.Millisecond))
	faults := r.Faults()
	for _, fault := range faults[:min(*findings, len(faults))] {
		fmt.Println(fault)
	}
	if len(faults) > 0 {
		err = errors.Join(err, fmt.Errorf("%s: %d faults", target.Name(), len(faults)))
	}
	return err
}

// Command bench measures what encryption costs: the server-side CPU per operation of Sealane, of Redis's own TLS and of
// the TLS proxies that are installed, under the same load in the same run.
//
// It guarantees that everything it starts listens on loopback, is stopped by its pid and leaves no files but the
// report, also after Ctrl-C or an error. It doesn't guarantee that a figure holds elsewhere: load and servers share the
// machine, so only the ratios inside one run carry over.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	// The kernel ends the servers when the thread that started them ends (Pdeathsig), so this must be the main one.
	runtime.LockOSThread()
	// A reader that has gone (make bench | head) must not end us before the servers.
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; everything it started is stopped")
		os.Exit(130)
	default:
		fmt.Fprintf(os.Stderr, "bench: error: %v\n", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	sealane string
	out     string
	rounds  int
	n       int           // operations per run; 0: what the first target does in runFor
	runFor  time.Duration // how long a run should take
	idle    int           // connections for the memory measurement
	only    []string      // loads; empty: all
	targets []string      // empty: all that are installed
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{idle: 2000}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.sealane, "sealane", "../bin/sealane", "the binary to measure")
	fs.StringVar(&o.out, "out", "out", "folder for report.json and report.html")
	fs.IntVar(&o.rounds, "rounds", 3, "runs of each load on each target, interleaved; medians are shown")
	fs.IntVar(&o.n, "n", 0, "operations per run (default: what the first target does in -run)")
	fs.DurationVar(&o.runFor, "run", 2*time.Second, "how long a run should take, on the first target")
	only := fs.String("only", "", "loads to run, separated by commas (default all): "+strings.Join(names(loads(), loadName), ","))
	targets := fs.String("targets", "", "targets to run, likewise: "+strings.Join(names(starters, starterName), ","))
	quick := fs.Bool("quick", false, "one short round: shows that it works, not how fast")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q: see -help", fs.Arg(0))
	}
	if o.rounds < 1 || o.n < 0 {
		return o, errors.New("-rounds must be at least 1 and -n must not be negative")
	}
	if *quick {
		o.rounds, o.runFor, o.idle = 1, 200*time.Millisecond, 200
	}
	var err error
	if o.only, err = choose("-only", *only, names(loads(), loadName)); err != nil {
		return o, err
	}
	if o.targets, err = choose("-targets", *targets, names(starters, starterName)); err != nil {
		return o, err
	}
	o.sealane, err = filepath.Abs(o.sealane)
	return o, err
}

func names[T any](list []T, name func(T) string) []string {
	var out []string
	for _, v := range list {
		out = append(out, name(v))
	}
	return out
}

// choose splits a list of names and checks each; an empty list means all.
func choose(flagName, list string, known []string) ([]string, error) {
	if list == "" {
		return known, nil
	}
	chosen := strings.Split(list, ",")
	for _, name := range chosen {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%s: %q is unknown; choose from %s", flagName, name, strings.Join(known, ","))
		}
	}
	return chosen, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if err := raiseFileLimit(uint64(o.idle) + 500); err != nil {
		return err
	}
	l, err := newLab(o.sealane)
	if err != nil {
		return err
	}
	defer l.close()
	r, err := measure(ctx, o, l, stderr)
	if err != nil {
		return err
	}
	r.summarise()
	r.writeText(stdout)
	if err := r.save(o.out); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\n%s has plots.\n", filepath.Join(o.out, "report.html"))
	return nil
}

// raiseFileLimit raises the limit of open files as far as allowed, for this process and those it starts.
func raiseFileLimit(need uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	// A proxy needs two descriptors per client.
	if limit.Max < 2*need {
		return fmt.Errorf("%d open files are allowed and %d are needed: raise the hard limit (ulimit -Hn)", limit.Max, 2*need)
	}
	// Set, even if it is at the maximum already: else Go gives its children the limit that it was started with.
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files to %d: %w", limit.Max, err)
	}
	return nil
}

// measure runs all loads on all targets: within a load, the targets take turns (A B A B), so that whatever else the
// machine does hits all of them alike.
func measure(ctx context.Context, o options, l *lab, progress io.Writer) (*report, error) {
	r := newReport(o.rounds)
	targets, err := l.startAll(ctx, o.targets, progress)
	if err != nil {
		return nil, err
	}
	for _, t := range targets {
		r.Targets = append(r.Targets, t.name)
	}
	for _, ld := range loads() {
		if !slices.Contains(o.only, ld.name) {
			continue
		}
		fmt.Fprintf(progress, "%s\n", ld.title)
		res := newResult(ld)
		b := &bench{lab: l, runFor: o.runFor, idle: o.idle, ops: o.n}
		for range o.rounds {
			for _, t := range targets {
				if res.Notes[t.name] != "" {
					continue // it would be the same again
				}
				s, err := ld.run(ctx, b, t)
				if note := (*skipped)(nil); errors.As(err, &note) {
					res.Notes[t.name] = note.why
					continue
				}
				if err != nil {
					return nil, fmt.Errorf("%s on %s: %w", ld.name, t.name, err)
				}
				res.Samples[t.name] = append(res.Samples[t.name], s)
			}
		}
		r.Loads = append(r.Loads, res)
	}
	return r, nil
}

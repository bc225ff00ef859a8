// Command bench measures what encryption costs: the server-side CPU per operation of Sealane's two data paths, of
// Redis's own TLS and of the TLS proxies that are installed, under the same load in the same run.
//
// It guarantees that everything it starts listens on loopback, is stopped by its pid, and leaves no files but the report, also
// after Ctrl-C or an error. The report then has what was measured until then. It doesn't guarantee that a figure holds on
// another machine: load and servers share this one, so only the ratios inside one run carry over.
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
	// The kernel ends the servers when the thread that started them ends (Pdeathsig), so that must be the main thread.
	runtime.LockOSThread()
	// If the reader of our output is gone (make bench | head), SIGPIPE must not end us before the servers are stopped.
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	var err error
	if len(os.Args) == 2 && os.Args[1] == workerCommand {
		err = work(ctx, os.Stdin, os.Stdout)
	} else {
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; everything it started is stopped")
		os.Exit(130)
	case err != nil:
		fmt.Fprintf(os.Stderr, "bench: error: %v\n", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	sealane  string
	out      string
	from     string // a report to print again; empty: measure
	markdown bool
	rounds   int
	runFor   time.Duration
	settle   time.Duration
	idle     int
	liveRate float64
	nice     int
	only     []string // loads, or groups of them
	targets  []string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	allLoads, allTargets := names(loads(), loadName), names(starters(), starterName)
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.sealane, "sealane", "../bin/sealane", "the binary to measure")
	fs.StringVar(&o.out, "out", "out", "folder for report.json and report.html")
	fs.StringVar(&o.from, "from", "", "measure nothing; show this report.json again")
	fs.BoolVar(&o.markdown, "markdown", false, "print the tables of docs/performance.md")
	fs.IntVar(&o.rounds, "rounds", 3, "runs of each load on each target, in turns; medians are shown")
	fs.DurationVar(&o.runFor, "run", 2*time.Second, "for how long a run measures; latencies are measured for twice as long")
	fs.DurationVar(&o.settle, "settle", 25*time.Second, "for how long resident memory must not have changed before it is taken")
	fs.IntVar(&o.idle, "idle", 10_000, "idle connections; fewer if the limit of open files demands it")
	fs.Float64Var(&o.liveRate, "rate", 2000, "operations per second of the live traffic")
	fs.IntVar(&o.nice, "nice", 5, "how much lower the load's priority is than the servers' priority")
	only := fs.String("only", "", "loads to run, separated by commas (default all): "+strings.Join(slices.Concat(allLoads, groups()), ","))
	targets := fs.String("targets", "", "targets to run, separated by commas (default all): "+strings.Join(allTargets, ","))
	quick := fs.Bool("quick", false, "one short round, which shows that everything works, not how fast it is")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q: see -help", fs.Arg(0))
	}
	if *quick {
		presetQuick(fs, &o)
	}
	if o.rounds < 1 || o.idle < 1 || o.nice < 0 || o.liveRate <= 0 || o.runFor < 100*time.Millisecond {
		return o, errors.New("-rounds, -idle and -rate must be positive, -nice not negative, and -run at least 100ms")
	}
	var err error
	if o.only, err = choose("-only", *only, allLoads, groups()...); err != nil {
		return o, err
	}
	if o.targets, err = choose("-targets", *targets, allTargets); err != nil {
		return o, err
	}
	o.sealane, err = filepath.Abs(o.sealane)
	return o, err
}

// presetQuick shortens every time that no flag has set.
func presetQuick(fs *flag.FlagSet, o *options) {
	said := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { said[f.Name] = true })
	for name, set := range map[string]func(){
		"rounds": func() { o.rounds = 1 },
		"run":    func() { o.runFor = 500 * time.Millisecond },
		"settle": func() { o.settle = time.Second },
		"idle":   func() { o.idle = 500 },
	} {
		if !said[name] {
			set()
		}
	}
}

func names[T any](list []T, name func(T) string) []string {
	var out []string
	for _, v := range list {
		out = append(out, name(v))
	}
	return out
}

// choose splits a list of names and checks each. An empty list means all names.
func choose(flagName, list string, known []string, more ...string) ([]string, error) {
	if list == "" {
		return known, nil
	}
	known = slices.Concat(known, more)
	chosen := strings.Split(list, ",")
	for _, name := range chosen {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%s: %q is unknown; choose from %s", flagName, name, strings.Join(known, ","))
		}
	}
	return chosen, nil
}

// groups are the names that stand for several loads each.
func groups() []string {
	var all []string
	for _, l := range loads() {
		if l.group != "" && !slices.Contains(all, l.group) {
			all = append(all, l.group)
		}
	}
	return all
}

// chosen says whether a load was asked for.
func (o options) chosen(l load) bool {
	return slices.Contains(o.only, l.name) || slices.Contains(o.only, l.group)
}

// needs says whether a target was asked for, together with a load that it is for.
func (o options) needs(target string) bool {
	return slices.Contains(o.targets, target) &&
		slices.ContainsFunc(loads(), func(l load) bool { return o.chosen(l) && l.suits(target) })
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	var r *report
	if o.from != "" {
		r, err = readReport(o.from)
	} else {
		r, err = measureAll(ctx, o, stderr)
	}
	if r == nil {
		return err
	}
	r.summarise()
	r.writeText(stdout, o.markdown)
	if saved := r.save(o.out); saved != nil {
		return errors.Join(err, saved)
	}
	fmt.Fprintf(stderr, "\n%s has plots.\n", filepath.Join(o.out, "report.html"))
	return err
}

// measureAll returns a report of what was measured, also together with an error. The report is nil if nothing was measured.
func measureAll(ctx context.Context, o options, stderr io.Writer) (*report, error) {
	files, err := raiseFileLimit()
	if err != nil {
		return nil, err
	}
	if most := mostIdle(files); o.idle > most {
		fmt.Fprintf(stderr, "%d open files are allowed: %d idle connections instead of %d\n", files, most, o.idle)
		o.idle = most
	}
	l, err := newLab(o, files)
	if err != nil {
		return nil, err
	}
	defer l.close()
	return measure(ctx, o, l, stderr)
}

// mostIdle is how many clients a gateway serves: each takes two descriptors, and an eighth is kept for connections that are not
// served yet.
func mostIdle(files int) int {
	return max(1, (files-2*spareFiles)*7/16-2*liveClients)
}

// raiseFileLimit raises the limit of open files as far as allowed, for this process and those it starts.
func raiseFileLimit() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	const enough = 65_536 // some programs reserve memory for as many as are allowed
	if limit.Max < 6000 {
		return 0, fmt.Errorf("%d open files are allowed and 6000 are needed: raise the hard limit (ulimit -Hn)", limit.Max)
	}
	// It is set even if it is at the maximum already. Otherwise Go gives its children the limit that it was started with.
	limit.Max = min(limit.Max, enough)
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("raise the limit of open files to %d: %w", limit.Max, err)
	}
	return int(limit.Max), nil
}

// measure runs all loads on all targets. Within a load the targets take turns (A B A B), so that other work on the machine hits
// all of them alike. If a run fails, the report says so and the target is restarted.
func measure(ctx context.Context, o options, l *lab, stderr io.Writer) (*report, error) {
	r := newReport(o, l)
	targets, all := l.startAll(ctx, o, stderr)
	r.Targets = all
	if len(targets) == 0 {
		return nil, errors.New("none of the targets can be measured")
	}
	b := &bench{options: o, lab: l, pace: map[string]pace{}}
	p := newProgress(o, stderr, targets)
	for _, ld := range loads() {
		if !o.chosen(ld) {
			continue
		}
		res := newResult(ld)
		r.Loads = append(r.Loads, res)
		for round := range ld.times(o) {
			for i, t := range targets {
				if !ld.suits(t.name) {
					continue
				}
				if ctx.Err() != nil {
					r.Interrupted = true
					return r, ctx.Err()
				}
				p.begin(ld, t.name, round)
				s, err := b.once(ctx, ld, t, res)
				p.end(ld, s, err)
				if err != nil && ctx.Err() == nil {
					targets[i] = l.again(ctx, t)
				}
			}
		}
	}
	return r, nil
}

func (l load) times(o options) int {
	if l.rounds > 0 {
		return min(l.rounds, o.rounds)
	}
	return o.rounds
}

// once runs a load once and notes the outcome. If it returns an error, the target may be in a bad state.
func (b *bench) once(ctx context.Context, ld load, t *target, res *result) (sample, error) {
	if res.Notes[t.name] != "" {
		return nil, nil // another run would give the same
	}
	if !alive(t.pids()) {
		res.Errors[t.name] = "it isn't running any more"
		return nil, errors.New(res.Errors[t.name])
	}
	s, err := ld.run(ctx, b, t)
	note, part := (*skipped)(nil), (*incomplete)(nil)
	if errors.As(err, &part) {
		res.Errors[t.name] = part.why
		err = nil
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &note):
		res.Notes[t.name] = note.why
	case err != nil:
		res.Errors[t.name] = err.Error()
		return s, err
	default:
		res.Samples[t.name] = append(res.Samples[t.name], s)
	}
	return s, nil
}

// again restarts a target. One that can't be started stays as it is, and its next run fails.
func (l *lab) again(ctx context.Context, t *target) *target {
	t.stop()
	fresh, err := l.start(ctx, t.name)
	if err != nil {
		return t
	}
	return fresh
}

// progress shows what is done and how long the rest will take.
type progress struct {
	options
	w       io.Writer
	targets []string
	took    map[string][]time.Duration // by load
	done    map[string]int
	started time.Time // of the current run
}

func newProgress(o options, w io.Writer, targets []*target) *progress {
	up := names(targets, func(t *target) string { return t.name })
	return &progress{options: o, w: w, targets: up, took: map[string][]time.Duration{}, done: map[string]int{}}
}

func (p *progress) begin(l load, target string, round int) {
	p.started = time.Now()
	fmt.Fprintf(p.w, "%-9s %s, %s, round %d of %d: ", left(p.left()), l.title, target, round+1, l.times(p.options))
}

func left(d time.Duration) string {
	return fmt.Sprintf("-%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// left is how long the rest takes: for each run the time that runs of the same load took, or a guess.
func (p *progress) left() time.Duration {
	var sum time.Duration
	for _, l := range loads() {
		if !p.chosen(l) {
			continue
		}
		each := l.guess(p.options)
		if took := p.took[l.name]; len(took) > 0 {
			each = 0
			for _, d := range took {
				each += d / time.Duration(len(took))
			}
		}
		targets := 0
		for _, name := range p.targets {
			if l.suits(name) {
				targets++
			}
		}
		sum += each * time.Duration(targets*l.times(p.options)-p.done[l.name])
	}
	return sum
}

func (p *progress) end(l load, s sample, err error) {
	if s != nil {
		p.took[l.name] = append(p.took[l.name], time.Since(p.started))
	}
	p.done[l.name]++
	switch {
	case err != nil:
		fmt.Fprintf(p.w, "error: %v\n", err)
	case s == nil:
		fmt.Fprintln(p.w, "left out")
	default:
		var parts []string
		for _, f := range figures {
			if v, ok := s[f.figure]; ok && f.brief != "" {
				parts = append(parts, f.brief+" "+number(v))
			}
		}
		fmt.Fprintln(p.w, strings.Join(parts, ", "))
	}
}

// Package sidecar is the client's side of an encrypted connection: plaintext in at this machine, verified TLS out.
//
// Each link has a listener for clients without TLS, a Source that tells where the server is and what to trust, and the loops
// of relay between them.
//
// Guaranteed:
//   - No byte of a client's, and no password, goes to a server that was not verified, by chain and identity, against the newest
//     usable bundle.
//   - No client is served before the login that is known for it has worked. It never runs as the server's default user instead.
//   - Newer information never costs a client its connection. The client moves when it has nothing under way.
//   - A Source that fails, or tells nonsense, changes nothing but what is shown.
//   - Every problem is logged once when it begins and once when it has ended, and ends by itself once its cause does.
//   - No password is in a log, in a metric, or on disk.
//
// Not guaranteed: that a connection which was verified is cut when its CA leaves the bundle. The connection is left as soon as the new
// bundle has verified the server. Until then, open connections serve on and nothing new is opened.
//
// A link knows its Source and nothing of where that has its knowledge from: a file (Files), or the Memorystore API (FromAPI).
package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealane/sealane/internal/relay"
)

// Link is one way from a listener to a server.
type Link struct {
	// Name is what logs, metrics and /readyz call it.
	Name   string
	Listen Listen
	Source Source
	// Local adds what only this machine knows, such as a password from a file, to what Source or the cache tells. It is asked again
	// every few seconds. Nil: there is nothing to add. An error that is a *diagnosis.Fault says itself what to do.
	Local func(*Server) error
	// Every is how often Source is asked when nothing else is a reason to, give or take a tenth. Zero: 10 minutes.
	Every time.Duration
	// Cache is a file that keeps what Source told last, without passwords. The link starts from it when Source fails. "": none.
	Cache string
	// Warm is how many connections are kept ready for clients that need one of their own.
	Warm int
	// TrustName is what sentences call the bundle, DoctorCommand the command line that says more of a problem.
	TrustName, DoctorCommand string
	// Warnings are said at the start and shown in /readyz for as long as the process runs.
	Warnings []string
}

// Config is all that New needs.
type Config struct {
	Links []Link
	// Log takes what an operator should know. Nil: nothing is logged.
	Log *slog.Logger
	// Now is the wall clock, which certificates are held against. Nil: time.Now.
	Now func() time.Time
	// Resolver finds addresses of names. Nil: this machine's.
	Resolver *net.Resolver
	// Patience is how long a client waits for a server that can't be reached before it is told why. A client with a shorter timeout
	// of its own gives up by itself. Zero: 10 seconds.
	Patience time.Duration
}

// Sidecar is all links of a process.
type Sidecar struct {
	links  []*link
	life   context.Context
	end    func()
	work   sync.WaitGroup
	closed sync.Once
	proven chan struct{} // closed when each link has been well once
	// draining is set once it is to end: Ready says so, so that load balancers send nobody new.
	draining atomic.Bool
}

// New opens all listeners and starts. Clients that come before a server is known to be right wait for it.
func New(cfg Config) (*Sidecar, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	s := &Sidecar{proven: make(chan struct{})}
	s.life, s.end = context.WithCancel(context.Background())
	for _, c := range cfg.Links {
		l, err := newLink(c, cfg)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("link %s: %w", c.Name, err)
		}
		s.links = append(s.links, l)
	}
	for _, l := range s.links {
		s.work.Go(func() { l.keep(s.life) })
		l.ln.stop = l.accept()
	}
	go s.waitProven()
	return s, nil
}

func (s *Sidecar) waitProven() {
	for _, l := range s.links {
		select {
		case <-l.proven:
		case <-s.life.Done():
			return
		}
	}
	close(s.proven)
}

// Proven is closed once every link has served a request of its own.
func (s *Sidecar) Proven() <-chan struct{} { return s.proven }

// Ready says what keeps clients from being served, nil if nothing does.
func (s *Sidecar) Ready() error {
	var wrong []error
	if s.draining.Load() {
		wrong = append(wrong, errors.New("draining: it was told to end, and serves on for those who are still there"))
	}
	for _, l := range s.links {
		if f := l.whyNotServed(); f != nil {
			wrong = append(wrong, fmt.Errorf("%s: %s; %s", l.Name, f.Sentence, f.Fix))
		}
	}
	return errors.Join(wrong...)
}

// Notes are what should be known although clients are served.
func (s *Sidecar) Notes() []string {
	var all []string
	for _, l := range s.links {
		for _, n := range l.notes() {
			all = append(all, l.Name+": "+n)
		}
	}
	return all
}

// Routes says what listens where, and where it leads.
func (s *Sidecar) Routes() string {
	var all []string
	for _, l := range s.links {
		all = append(all, fmt.Sprintf("%s -> %s (%s)", l.ln.name, l.Name, l.leadsTo()))
	}
	return strings.Join(all, ", ")
}

// Addresses are where the links listen, in their order.
func (s *Sidecar) Addresses() []string {
	var all []string
	for _, l := range s.links {
		all = append(all, l.ln.name)
	}
	return all
}

// Metrics are for main to register.
func (s *Sidecar) Metrics() []prometheus.Collector { return []prometheus.Collector{collector{s}} }

// Drain accepts nobody any more and closes each client once it has had all its replies. It returns when none is left, or ctx
// has ended; it says how many were left.
func (s *Sidecar) Drain(ctx context.Context) int {
	s.draining.Store(true)
	for _, l := range s.links {
		l.ln.Close()
	}
	tick := time.NewTicker(drainPace)
	defer tick.Stop()
	for first := true; ; first = false {
		left := 0
		for _, l := range s.links {
			left += l.closeQuiet(first)
		}
		if left == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return left
		case <-tick.C:
		}
	}
}

// Linger serves on, new clients too, until ctx has ended or, sooner, all clients have gone and none has come for quiet.
// Meanwhile Ready says so.
func (s *Sidecar) Linger(ctx context.Context, quiet time.Duration) {
	s.draining.Store(true)
	tick := time.NewTicker(drainPace)
	defer tick.Stop()
	came, last := s.accepted(), time.Now()
	for {
		if n := s.accepted(); n != came || s.clients() > 0 {
			came, last = n, time.Now()
		}
		if time.Since(last) >= quiet {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Sidecar) clients() (n int) {
	for _, l := range s.links {
		n += l.loops.Clients()
	}
	return n
}

func (s *Sidecar) accepted() (n uint64) {
	for _, l := range s.links {
		n += l.counted.accepted.Load()
	}
	return n
}

// drainPace is how long a client must be quiet, its last request answered, to be closed.
const drainPace = 50 * time.Millisecond

// Close ends everything at once. It may be called more than once.
func (s *Sidecar) Close() {
	s.closed.Do(func() {
		s.end()
		for _, l := range s.links {
			l.ln.Close()
		}
		s.work.Wait()
		for _, l := range s.links {
			l.loops.Close()
			l.files.close()
		}
	})
}

func newLink(c Link, cfg Config) (*link, error) {
	if c.Every == 0 {
		c.Every = 10 * time.Minute
	}
	l := &link{
		Link: c, log: cfg.Log.With("link", c.Name), now: cfg.Now, resolver: cfg.Resolver, patience: cfg.Patience,
		wake: make(chan struct{}, 1), dialSlots: make(chan struct{}, maxDials), gate: make(chan struct{}), proven: make(chan struct{}),
		files: newFiles(),
	}
	var err error
	if l.ln, err = c.Listen.open(); err != nil {
		l.files.close()
		return nil, err
	}
	if l.loops, err = relay.NewLoops((runtime.GOMAXPROCS(0) + 1) / 2); err != nil {
		l.ln.Close()
		l.files.close()
		return nil, err
	}
	l.loops.SetBackend(l.backend(nil, 0))
	l.Warnings = append(slices.Clone(c.Warnings), l.ln.notes...)
	for _, w := range l.Warnings {
		l.log.Warn(w)
	}
	return l, nil
}

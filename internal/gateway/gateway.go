// Package gateway is the process that owns an instance's port: it accepts clients, ends their TLS, and relays them to
// the engine behind a Unix socket.
//
// Its whole input is one immutable Snapshot, handed over on an admin socket in its folder. Guaranteed: a snapshot
// takes effect as a whole or not at all, and only when it is on disk; a failed one leaves the old one serving; applying one
// drops no connection, and closes no listener that both have; the gateway restarts from the snapshot on disk alone. A client
// that speaks anything but TLS to a TLS port is told so in its own protocol, and how to connect. The key is in the
// process, in snapshot.json (0600) and on the admin socket (0600), never in a log, an error or the status.
//
// So many clients as the snapshot says are served, as far as the limit of open files allows; one more is told that the
// maximum is reached, over TLS. A bounded number of handshakes computes at a time, the others wait in a line in which
// sources take turns and the newest comes first. It knows nothing of instances, of certificates to come, or of who
// started it.
//
// What handshakes show of clients is gathered by label of the anchors that the snapshot names, within bounds, for the
// controller to collect; it is in memory only. A session is resumed under the certificate that it began with and no other.
//
// Known gap: changing a listener between a wildcard address and a specific one with the same port takes two snapshots,
// because the new one is opened before the old one is closed.
package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/relay"
)

const (
	defaultDrain = 5 * time.Second

	// drainPace is how long a connection must be quiet, its last request answered, to be closed while draining.
	drainPace = 100 * time.Millisecond

	// goawayGrace is how long a client that was asked to go is waited for while draining; then it is closed like others.
	goawayGrace = time.Second

	// Clients that vanish without a FIN are found out after about two minutes; the engine's own keep-alive would end here.
	keepAliveIdle     = time.Minute
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 4
)

// Config is what Run needs besides snapshots.
type Config struct {
	// Dir is the gateway's folder: gateway.sock, gateway.lock and snapshot.json are in it. It must exist, and be its
	// owner's alone. Its path has at most 94 bytes, or the socket's would be too long.
	Dir string
	// Log takes what an operator should know. Nil: nothing is logged.
	Log *slog.Logger
	// Drain is how long connections get to finish at the end of Run. Those that are idle are closed at once. Zero: 5 s.
	Drain time.Duration
}

// ErrRunning says that another gateway runs in the folder.
var ErrRunning = errors.New("another gateway runs in this folder")

// Run is the whole process. It takes the folder, opens the admin socket, serves the last good snapshot if there is one,
// and then what the controller sends, until ctx ends or the controller says stop. It returns when everything that it
// started has ended, nil unless it could not start or lost its admin socket.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Drain == 0 {
		cfg.Drain = defaultDrain
	}
	unlock, err := lockFolder(cfg.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	admin, err := listenAdmin(cfg.Dir)
	if err != nil {
		return err
	}
	g := newGateway(ctx, cfg)
	if err := g.prepare(); err != nil {
		admin.Close()
		return err
	}
	defer g.paths.Close()
	go g.door.run()
	defer g.crew.close()
	defer g.door.close()
	// Before the admin socket answers: what is on disk decides whether a snapshot is stale.
	g.load()
	server := g.adminServer()
	served := make(chan error, 1)
	go func() { served <- server.Serve(admin) }()
	g.background.Go(g.restore)
	g.background.Go(g.giveBack)

	var lost error
	select {
	case <-ctx.Done():
	case <-g.stopping:
	case err := <-served:
		lost = fmt.Errorf("serve admin socket: %w", err)
	}
	g.drain()
	close(g.drained)
	// Whoever asked for the stop gets its answer before the socket goes.
	bounded, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := server.Shutdown(bounded); err != nil {
		server.Close()
	}
	if lost == nil {
		<-served
	}
	cfg.Log.Info("gateway stopped")
	return lost
}

// prepare makes what needs the machine's resources.
func (g *gateway) prepare() (err error) {
	if g.limit, err = newLimiter(); err != nil {
		return err
	}
	if g.door, err = newDoor(g); err != nil {
		return err
	}
	// Half of the cores: the engine has one of them, and the more clients a loop has, the more of their requests leave in one
	// system call.
	if g.paths, err = relay.NewLoops((runtime.GOMAXPROCS(0) + 1) / 2); err != nil {
		g.door.discard()
	}
	return err
}

type gateway struct {
	cfg      Config
	lines    *throttle
	started  time.Time
	active   atomic.Pointer[serving] // nil until the first snapshot serves
	count    counters
	paths    *relay.Loops
	limit    *limiter
	door     *door
	arrivals *arrivals
	crew     *crew
	seen     *ledger.Table
	sampler  *sampler

	accepting     context.Context // ends when draining starts
	stopAccepting context.CancelFunc
	dialing       context.Context // ends when draining ends
	stopDialing   context.CancelFunc

	stopOnce sync.Once
	stopping chan struct{} // closed when the controller says stop
	drained  chan struct{} // closed when no connection is left

	applyMu   sync.Mutex // one apply at a time; guards listeners, lastGood and ending
	listeners map[string]*listener
	lastGood  *serving // what is on disk: active, or what restore is still trying to open
	ending    bool

	mu      sync.Mutex // guards conns and problem
	conns   map[*conn]struct{}
	problem string

	background  sync.WaitGroup // restore and giveBack
	connections sync.WaitGroup // one per connection; Add from the door, with mu held
}

func newGateway(ctx context.Context, cfg Config) *gateway {
	g := &gateway{
		cfg:       cfg,
		lines:     newThrottle(cfg.Log),
		started:   time.Now(),
		stopping:  make(chan struct{}),
		drained:   make(chan struct{}),
		listeners: make(map[string]*listener),
		arrivals:  newArrivals(),
		conns:     make(map[*conn]struct{}),
		seen:      ledger.NewTable(ledger.MaxClients),
		sampler:   newSampler(cfg.Dir, cfg.Log),
	}
	g.accepting, g.stopAccepting = context.WithCancel(ctx)
	g.crew = &crew{work: g.serve}
	g.count.failures = newTally(failureClasses)
	g.count.diagnosed = newTally(kinds)
	g.dialing, g.stopDialing = context.WithCancel(context.WithoutCancel(ctx))
	return g
}

// lockFolder makes sure that there is one gateway per folder. The kernel frees the lock with the process, however it ends, so
// a socket file found afterwards is stale.
func lockFolder(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "gateway.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock folder %s: %w", dir, ErrRunning)
		}
		return nil, fmt.Errorf("lock folder %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

func snapshotFile(dir string) string { return filepath.Join(dir, "snapshot.json") }

// Why an apply was refused, for the controller to branch on.
var (
	ErrInvalid  = errors.New("invalid snapshot")
	ErrStale    = errors.New("stale snapshot")
	ErrStopping = errors.New("gateway is stopping")
)

// apply makes s the snapshot that serves: validate, open what is new, write, publish, close what is gone. Up to the write
// every failure leaves things as they were; after it nothing can fail.
func (g *gateway) apply(s Snapshot) error {
	g.applyMu.Lock()
	defer g.applyMu.Unlock()
	if g.ending {
		return ErrStopping
	}
	next, err := newServing(s, g.lastGood)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if last := g.lastGood; last != nil && s.Generation <= last.snapshot.Generation {
		switch {
		case next.digest != last.digest:
			return fmt.Errorf("%w: generation %d, and %d with other content is here already", ErrStale, s.Generation, last.snapshot.Generation)
		case g.active.Load() == last:
			return nil
		}
		next = last
	}
	opened, err := g.open(next)
	if err != nil {
		return err
	}
	if next != g.lastGood {
		data, err := encodeSnapshot(next.snapshot)
		if err == nil {
			err = durable.WriteFile(snapshotFile(g.cfg.Dir), data, 0o600)
		}
		if err != nil {
			g.shutAll(opened)
			return fmt.Errorf("keep snapshot: %w", err)
		}
	}
	g.publish(next, opened)
	return nil
}

// open opens the listeners of next that are not open yet, all or none.
func (g *gateway) open(next *serving) (map[string]*listener, error) {
	opened := make(map[string]*listener)
	for _, l := range next.snapshot.Listeners {
		if g.listeners[l.Address] != nil {
			continue
		}
		ln, err := g.door.listen(l.Address)
		if err != nil {
			g.shutAll(opened)
			return nil, fmt.Errorf("open listener %s: %w", l.Address, err)
		}
		opened[l.Address] = ln
	}
	return opened, nil
}

// publish is called with applyMu held. The snapshot comes before the listeners: clients are served by it.
func (g *gateway) publish(next *serving, opened map[string]*listener) {
	if next.chains != nil {
		g.seen.Keep(next.chains.labels())
	}
	changed := g.lastGood != nil && !bytes.Equal(g.lastGood.snapshot.Certificate, next.snapshot.Certificate)
	g.lastGood = next
	g.paths.SetBackend(g.backend(next.snapshot))
	g.active.Store(next)
	g.setProblem("")
	for address, ln := range opened {
		g.listeners[address] = ln
		g.door.open(ln)
	}
	for address, ln := range g.listeners {
		if _, ok := next.modes[address]; !ok {
			g.door.shut(ln)
			delete(g.listeners, address)
		}
	}
	if changed {
		g.renewConnections()
	}
	g.cfg.Log.Info("snapshot applied", "snapshot", next.snapshot)
	if _, why := g.limit.limit(next.snapshot); why != "" {
		g.cfg.Log.Warn("not all clients can be served", "reason", why)
	}
}

// renewTime is how long the clients that can be asked to go take turns after a change of certificates.
const renewTime = 5 * time.Second

// renewConnections asks clients to go on with a connection that was made under the new certificate.
func (g *gateway) renewConnections() {
	g.each(func(c *conn) {
		if p := c.pipe.Load(); p != nil {
			time.AfterFunc(rand.N(renewTime), func() { p.Goaway() })
		}
	})
}

func (g *gateway) shutAll(listeners map[string]*listener) {
	for _, ln := range listeners {
		g.door.shut(ln)
	}
}

// load reads the last good snapshot. One that cannot be used is left where it is until the next is written: it may help
// whoever looks for the reason.
func (g *gateway) load() {
	last, err := loadServing(g.cfg.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		g.setProblem(fmt.Sprintf("%v; waiting for a new snapshot", err))
		g.cfg.Log.Error("last good snapshot cannot be used, waiting for a new one", "error", err)
	default:
		g.lastGood = last
	}
}

// restore brings the last good snapshot back. A gateway that was here a moment ago may still hold the address, so it
// tries until it succeeds or the controller has applied something.
func (g *gateway) restore() {
	for wait := 20 * time.Millisecond; !g.restoreOnce(); wait = min(2*wait, 2*time.Second) {
		select {
		case <-time.After(wait):
		case <-g.accepting.Done():
			return
		}
	}
}

// restoreOnce reports whether there is nothing left to restore.
func (g *gateway) restoreOnce() bool {
	g.applyMu.Lock()
	defer g.applyMu.Unlock()
	last := g.lastGood
	if g.ending || last == nil || g.active.Load() != nil {
		return true
	}
	opened, err := g.open(last)
	if err != nil {
		g.setProblem(fmt.Sprintf("%v; trying again", err))
		g.lines.warn("restore", "last good snapshot cannot be served yet, trying again", "error", err)
		return false
	}
	g.publish(last, opened)
	return true
}

func loadServing(dir string) (*serving, error) {
	f, err := os.Open(snapshotFile(dir))
	if err != nil {
		return nil, fmt.Errorf("read last good snapshot: %w", err)
	}
	defer f.Close()
	s, err := decodeSnapshot(io.LimitReader(f, maxSnapshotBytes))
	if err != nil {
		return nil, fmt.Errorf("read last good snapshot %s: %w", f.Name(), err)
	}
	v, err := newServing(s, nil)
	if err != nil {
		return nil, fmt.Errorf("read last good snapshot %s: %w", f.Name(), err)
	}
	return v, nil
}

func (g *gateway) setProblem(text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.problem = text
}

// admit counts a client in, unless too many are on their way in already and none can go for it.
func (g *gateway) admit(c *conn, now time.Time) bool {
	g.count.accepted.Add(1)
	unserved := g.arrivals.len()
	g.mu.Lock()
	crowded := g.limit.crowded(len(g.conns), unserved, g.active.Load().snapshot)
	g.mu.Unlock()
	if crowded && g.door.makeRoom(c, now) {
		crowded = false
	}
	if !crowded {
		g.arrivals.add(c)
		g.mu.Lock()
		g.conns[c] = struct{}{}
		g.connections.Add(1)
		g.mu.Unlock()
	} else {
		g.limit.rejected.Add(noCrowded)
		g.lines.warn("crowded", "client closed at once, too many connections are on their way in", "client", c.remote.String())
	}
	return !crowded
}

func (g *gateway) forget(c *conn) {
	c.Close()
	g.arrivals.remove(c)
	g.mu.Lock()
	delete(g.conns, c)
	g.mu.Unlock()
	g.connections.Done()
}

// each calls f for every connection, without holding the lock: f may wait.
func (g *gateway) each(f func(*conn)) {
	g.mu.Lock()
	all := make([]*conn, 0, len(g.conns))
	for c := range g.conns {
		all = append(all, c)
	}
	g.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}

func (g *gateway) requestStop() { g.stopOnce.Do(func() { close(g.stopping) }) }

// drain ends everything but the admin socket: no new clients, idle ones closed, busy ones given time, the rest cut.
func (g *gateway) drain() {
	g.applyMu.Lock()
	g.ending = true
	g.shutAll(g.listeners)
	clear(g.listeners)
	g.applyMu.Unlock()
	g.setProblem("stopping")
	g.stopAccepting()
	g.background.Wait()

	gone := make(chan struct{})
	go func() { g.connections.Wait(); close(gone) }()
	deadline, tick := time.NewTimer(g.cfg.Drain), time.NewTicker(drainPace)
	defer deadline.Stop()
	defer tick.Stop()
	var farewells sync.WaitGroup
	began := time.Now()
	for done := false; !done; {
		g.each(func(c *conn) {
			// One that can be asked to go has its own idea of when nothing is lost by it, but the port is shut meanwhile.
			if p := c.pipe.Load(); p != nil && p.Goaway() && time.Since(began) < goawayGrace {
				return
			}
			if c.idle() {
				// Its own goroutine: saying goodbye in TLS may have to wait for the client.
				farewells.Go(c.cut)
			}
		})
		select {
		case <-tick.C:
		case <-gone:
			done = true
		case <-deadline.C:
			g.stopDialing()
			g.each((*conn).cut)
			<-gone
			done = true
		}
	}
	farewells.Wait()
	g.stopDialing()
}

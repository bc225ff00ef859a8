// Package gateway is the process that owns an instance's port: it accepts clients, ends their TLS, and relays them to
// the engine behind a Unix socket.
//
// Its whole input is one immutable Snapshot, handed over on an admin socket in its folder. Guaranteed: a snapshot takes effect as a
// whole or not at all, and only when it is on disk. One that fails leaves the one before serving. Applying one closes no listener that
// both have, and drops no connection; but for the clients without TLS of a listener that has TLS from then on, which end between two of
// their requests, or after 5 s. The gateway can start from the snapshot on disk alone. A client that speaks anything but TLS to a
// TLS port is told so in its own protocol, and how to connect. The private keys are in the process, in snapshot.json (0600) and on the
// admin socket (0600), never in a log, an error or the status.
//
// As many clients are served as the snapshot says and the limit of open files allows. One more is told over TLS that the maximum is
// reached. A bounded number of handshakes computes at a time. The others wait in a queue in which sources take turns and the
// newest comes first.
//
// Replicas on other nodes reach an engine through it too (Snapshot.Replication, package replicationlink).
//
// The gateway knows certificates, and labels for the CAs that verify each of them; what a CA is, which certificate comes next and when is
// decided by whoever sends the snapshots. A snapshot may hold further certificates (Snapshot.Next, Snapshot.NextCross), for clients to be
// tested against. What handshakes show of clients' trust is gathered under the labels, within bounds, for the controller to collect. It is
// in memory only. A session is resumed under the certificate that it began with and no other.
//
// Known gap: changing a listener between a wildcard address and a specific one with the same port takes two snapshots,
// because the new one is opened before the old one is closed.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/plaintext"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/replicationlink"
	"github.com/sealane/sealane/internal/systemmemory"
)

// Config is what Run needs besides snapshots.
type Config struct {
	// Dir is the gateway's folder. It must exist, and be accessible to its owner only. Its path has at most 94 bytes, or that of the
	// admin socket would be too long. What the gateway keeps in it is in files.go.
	Dir string
	// Log takes what an operator should know. Nil: nothing is logged.
	Log *slog.Logger
	// Drain is how long connections get to finish at the end of Run. Those that are idle are closed at once. Zero: 5 s.
	Drain time.Duration
}

// ErrRunning says that another gateway runs in the folder.
var ErrRunning = errors.New("another gateway runs in this folder")

// gateway holds the parts of the process together. It has no mutex: each part guards its own fields, and says how. Mutexes are taken in
// this order: that of snapshots, the two of acceptor (accepting, mu), that of arrivals. Nothing is locked while that of connections is held.
type gateway struct {
	cfg        Config
	started    time.Time
	limitedLog *logLimiter
	count      counters

	snapshots   snapshots // what is served, and at which listeners
	replication *replicationlink.Listener
	connections connections // all that are open
	lifetime    *lifetime   // whether the gateway is to end
	trust       *trustEvidence
	plaintext   *plaintext.Tracker // the clients without TLS
	limit       *clientLimit

	// A connection goes through these three, and each owns it in turn: see connowner.go.
	acceptor *acceptor // accepts it, and waits for its first bytes
	workers  *workers  // do its handshake
	loops    *relay.Loops
	arrivals *arrivals // those that the loops don't have yet

	memory *systemmemory.Watcher
}

func newGateway(ctx context.Context, cfg Config) *gateway {
	g := &gateway{
		cfg:         cfg,
		started:     time.Now(),
		limitedLog:  newLogLimiter(cfg.Log),
		count:       newCounters(),
		connections: connections{open: make(map[*conn]struct{})},
		lifetime:    newLifetime(ctx),
		trust:       newTrustEvidence(cfg.Dir, cfg.Log),
		plaintext:   plaintext.NewTracker(time.Now()),
		arrivals:    newArrivals(),
	}
	g.replication = replicationlink.New(cfg.Log, g.limitedLog.warn)
	g.snapshots = snapshots{g: g, reserve: durable.NewReserve(reserveFile(cfg.Dir), reserveSize), listeners: make(map[string]*listener)}
	g.workers = &workers{work: g.serve}
	// It is the gateway that looks at the memory, so that it is done while the controller is down too.
	g.memory = systemmemory.New(cfg.Log, g.memoryLimits, func(full bool) { g.loops.SetOutOfMemory(full) })
	return g
}

// prepare makes what needs the machine's resources.
func (g *gateway) prepare() (err error) {
	if g.limit, err = newClientLimit(); err != nil {
		return err
	}
	if g.acceptor, err = newAcceptor(g); err != nil {
		return err
	}
	// Half of the cores: the engine has one of them, and the more clients a loop has, the more of their requests leave in one
	// system call.
	if g.loops, err = relay.NewLoops((runtime.GOMAXPROCS(0) + 1) / 2); err != nil {
		g.acceptor.discard()
	}
	return err
}

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
	defer g.loops.Close()
	go g.acceptor.run()
	defer g.workers.close()
	defer g.acceptor.close()
	// Before the admin socket answers: what is on disk decides whether a snapshot is stale.
	g.snapshots.load()
	server := g.adminServer()
	served := make(chan error, 1)
	go func() { served <- server.Serve(admin) }()
	g.lifetime.background.Go(g.snapshots.restore)
	g.lifetime.background.Go(g.snapshots.keepReserve)
	g.lifetime.background.Go(g.releaseMemory)
	g.lifetime.background.Go(func() { g.memory.Run(g.lifetime.accepting.Done()) })

	why, lost := g.lifetime.wait(ctx, served)
	g.drain()
	closeAdmin(server)
	if lost == nil {
		<-served
	}
	cfg.Log.Info("gateway stopped", "reason", why)
	return lost
}

// closeAdmin closes the admin socket. Whoever has asked for the stop gets the answer first.
func closeAdmin(server *http.Server) {
	bounded, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := server.Shutdown(bounded); err != nil {
		server.Close()
	}
}

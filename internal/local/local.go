// Package local runs instances on this machine: each node is two processes, an engine and a gateway, and a folder.
//
// Guaranteed: the processes outlive this one and are found again. A node never has two engines or two gateways. Ensure returns nil only
// once a connection from outside has shown that the gateway serves what it was given.
package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/plaintext"
	"github.com/sealane/sealane/internal/process"
)

// Runtime is the instance.Runtime of one machine.
type Runtime struct {
	dir      string
	command  []string
	binaries []engine.Binary
	exits    chan instance.Exit
	closed   chan struct{}
	watchers sync.WaitGroup

	startLimit time.Duration // for an engine without data to start

	// mu guards the map. What is in a node is guarded by the node's own lock.
	mu    sync.Mutex
	nodes map[string]*node
}

// node is what is known of a node's processes. All of it may be empty, because processes are found again by their sockets.
type node struct {
	sync.Mutex
	engine  atomic.Pointer[engine.Engine] // nil: not known; it may be read without the lock
	gateway *process.Process
	// lastGateway is gateway for those who only ask it something, and do not wait for the lock.
	lastGateway atomic.Pointer[process.Process]
	proved      string // digest of the snapshot that was last shown to be served
	busy        *instance.BusyError
	restored    atomic.Pointer[restored]      // nil: the last dump
	facts       atomic.Pointer[backend.Facts] // what the backend last said of itself; nil: nothing, or there is an engine

	// gatewayMu guards gateway and proved where the node is one of several: then its gateway does not wait for its engine.
	gatewayMu sync.Mutex

	stopMu        sync.Mutex              // guards the map
	stopRequested map[string]*atomic.Bool // by process: whether its end was asked for

	thawed atomic.Pointer[engine.Engine] // the engine whose offset moves; nil: it may stand still, see RefuseWrites

	sightMu sync.Mutex // guards sight
	sight   sighting   // what was last seen of the engine

	// boundMu guards what follows, which is read while the node is locked for a long time.
	boundMu sync.Mutex
	bounded int64 // the limit that bound is for; 0: the present engine has none yet
	bound   process.MemoryBound
}

const (
	startTimeout   = time.Hour // an engine that hasn't loaded its data by then is ended and started again
	gatewayTimeout = 10 * time.Second
	proveTimeout   = 10 * time.Second
	stopTimeout    = 5 * time.Minute // for an engine to save its data
	drainTimeout   = 8 * time.Second

	// scriptLimit is for how long a script runs before the engine answers BUSY, by its default of busy-reply-threshold.
	scriptLimit = 5 * time.Second
)

// New returns a Runtime with its nodes' folders in dir. command starts a gateway; --dir and a folder are added.
// binaries are the engines, the default first.
func New(dir string, command []string, binaries []engine.Binary) *Runtime {
	return &Runtime{dir: dir, command: command, binaries: binaries, exits: make(chan instance.Exit), closed: make(chan struct{}), nodes: make(map[string]*node),
		startLimit: emptyStart}
}

// Engines implements Runtime.
func (l *Runtime) Engines() []instance.EngineBuild {
	var builds []instance.EngineBuild
	for _, b := range l.binaries {
		builds = append(builds, instance.EngineBuild{Version: versionName(b), Patch: b.Version.String(), ActiveDefrag: b.ActiveDefrag, TLS: b.TLS})
	}
	return builds
}

// versionName is the API's name of an engine's version.
func versionName(b engine.Binary) string {
	switch {
	case b.Kind == engine.Valkey:
		return fmt.Sprintf("VALKEY_%d_%d", b.Version.Major, b.Version.Minor)
	case b.Version.Major == 6:
		return "REDIS_6_X"
	default:
		return fmt.Sprintf("REDIS_%d_%d", b.Version.Major, b.Version.Minor)
	}
}

// Exits implements Runtime.
func (l *Runtime) Exits() <-chan instance.Exit { return l.exits }

func (l *Runtime) node(id string) *node {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[id]
	if n == nil {
		n = &node{stopRequested: make(map[string]*atomic.Bool)}
		l.nodes[id] = n
	}
	return n
}

func (l *Runtime) nodeDir(id string) string { return filepath.Join(l.dir, id) }

// Ensure implements Runtime.
func (l *Runtime) Ensure(ctx context.Context, node instance.Node, progress func(string)) error {
	n := l.node(node.ID)
	n.Lock()
	defer n.Unlock()
	if err := os.MkdirAll(l.nodeDir(node.ID), 0o700); err != nil {
		return asFatal(fmt.Errorf("make the node's folder: %w", err))
	}
	var busy *instance.BusyError
	if s := node.Gateway.Backend; s != nil {
		if err := l.checkForeign(s); err != nil {
			return err
		}
	} else {
		if err := l.ensureEngine(ctx, n, node, progress); err != nil {
			return asFatal(err)
		}
		var err error
		if busy, err = l.configure(ctx, n, node); err != nil {
			return asFatal(err)
		}
	}
	// Certificates don't wait for a script to end.
	if err := l.ensureGateway(ctx, n, node, progress); err != nil {
		return asFatal(err)
	}
	if err := l.ensureSnapshot(ctx, n, node, progress); err != nil {
		return err
	}
	if err := l.removeOtherEngines(ctx, node); err != nil {
		return asFatal(err)
	}
	if busy != nil {
		return busy
	}
	return nil
}

// configure gives the engine the settings that can change while it runs. An engine that is busy with a script gets them later.
func (l *Runtime) configure(ctx context.Context, n *node, node instance.Node) (*instance.BusyError, error) {
	e := n.engine.Load()
	err := e.Harden(ctx)
	if err == nil {
		err = e.SetPasswords(ctx, node.PasswordHashes)
	}
	if err == nil {
		err = e.KeepDump(node.KeepDump)
	}
	if err == nil {
		l.raiseMemoryBound(n, node) // before there is more data, and it is lowered after there is less
		directives := maps.Clone(node.Directives)
		directives[engine.NeededReplicas] = "0" // a server that was killed while it replaced the engine has left it so that it refuses writes
		err = e.Configure(ctx, directives)
	}
	if err == nil {
		l.boundMemory(n, node)
	}
	if !engine.IsBusy(err) {
		n.busy = nil
		return nil, err
	}
	if n.busy == nil {
		n.busy = &instance.BusyError{Since: time.Now().Add(-scriptLimit)}
	}
	busy := *n.busy
	return &busy, nil
}

// asFatal marks errors that trying again won't mend: those of instance.AsFatal, and an engine that refuses its configuration.
func asFatal(err error) error {
	var refused *engine.StartError
	if errors.As(err, &refused) && refused.BadConfig() {
		return fmt.Errorf("%w: %w", instance.ErrFatal, err)
	}
	var directive *engine.ConfigError
	if errors.As(err, &directive) {
		return fmt.Errorf("%w: %w", instance.ErrFatal, err)
	}
	return instance.AsFatal(err)
}

func (l *Runtime) ensureEngine(ctx context.Context, n *node, node instance.Node, progress func(string)) error {
	dir := l.dirOf(node)
	if e := n.engine.Load(); e != nil && !isClosed(e.Done()) && e.Dir() == dir {
		return nil
	}
	progress("starting the engine and loading its data")
	n.boundMu.Lock()
	n.bounded = 0
	n.boundMu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	e, err := engine.Adopt(ctx, dir, node.AdminPassword)
	if errors.Is(err, process.ErrNotRunning) {
		removeGroup(dir)
		e, err = l.startOrRestore(ctx, n, node)
	}
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	l.takeEngine(n, node, e)
	return nil
}

// takeEngine makes an engine the node's own, whose end is reported.
func (l *Runtime) takeEngine(n *node, node instance.Node, e *engine.Engine) {
	n.engine.Store(e)
	l.boundMemory(n, node)
	bound := n.bound
	l.watch(n, node.ID, "engine", e.Done(), func() string {
		return cmp.Or(outOfMemory(e.Dir(), bound), e.Exit())
	})
}

// startEngine starts an engine in the node's slot. extra are directives for this start alone.
func (l *Runtime) startEngine(ctx context.Context, node instance.Node, extra map[string]string) (*engine.Engine, error) {
	binary, err := l.binary(node.Version, node.Patch)
	if err != nil {
		return nil, err
	}
	cfg := engine.Config{
		Dir: l.dirOf(node), Directives: maps.Clone(node.Directives), PasswordHashes: node.PasswordHashes,
		AdminPassword: node.AdminPassword, KeepDump: node.KeepDump, NetworkNamespace: node.NetworkNamespace,
	}
	maps.Copy(cfg.Directives, extra)
	if node.Replication != nil {
		r := replicationOf(node)
		cfg.Replication, cfg.Primary = &r, node.Replication.Primary
	}
	if cfg.Primary.IsValid() {
		if err := engine.PutDumpAside(cfg.Dir); err != nil {
			return nil, err
		}
	}
	return engine.Start(ctx, binary, cfg)
}

// binary is the engine of a version and a patch of it. Where that patch is not installed any more, it is the newest one.
func (l *Runtime) binary(version, patch string) (newest engine.Binary, err error) {
	for _, b := range l.binaries {
		switch {
		case versionName(b) != version:
		case b.Version.String() == patch:
			return b, nil
		case newest.Path == "" || b.Version.Compare(newest.Version) > 0:
			newest = b
		}
	}
	if newest.Path != "" {
		return newest, nil
	}
	return engine.Binary{}, fmt.Errorf("%w: no engine of version %s is installed any more; install it, or list its path under engines in the configuration", instance.ErrFatal, version)
}

func (l *Runtime) ensureGateway(ctx context.Context, n *node, node instance.Node, progress func(string)) error {
	if n.gateway != nil && !isClosed(n.gateway.Done()) {
		return nil
	}
	progress("starting the gateway")
	ctx, cancel := context.WithTimeout(ctx, gatewayTimeout)
	defer cancel()
	dir := l.nodeDir(node.ID)
	p, err := find(ctx, gateway.Socket(dir), gatewayLock(dir))
	if errors.Is(err, process.ErrNotRunning) {
		p, err = l.startGateway(ctx, dir, node.NetworkNamespace)
	}
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	n.gateway, n.proved = p, ""
	n.lastGateway.Store(p)
	l.watch(n, node.ID, "gateway", p.Done(), p.Exit)
	return nil
}

func gatewayLock(dir string) string { return filepath.Join(dir, "gateway-process.lock") }

// find returns the process that holds the lock, once it listens on its socket. A server that was killed just after it started a
// process could not tell anybody about it, so only the lock shows that there is one. process.ErrNotRunning means that there is none.
func find(ctx context.Context, socket, lock string) (p *process.Process, err error) {
	pollErr := poll(ctx, func() bool {
		if p, err = process.Adopt(socket); !errors.Is(err, process.ErrNotRunning) {
			return true
		}
		locked, lockErr := process.Locked(lock)
		if lockErr != nil {
			err = lockErr
		}
		return !locked
	})
	return p, errors.Join(err, pollErr)
}

// startGateway starts a gateway and waits until its admin socket answers.
func (l *Runtime) startGateway(ctx context.Context, dir, namespace string) (*process.Process, error) {
	p, err := process.Start(process.Config{
		Path: l.command[0], Args: append(l.command[1:len(l.command):len(l.command)], "--dir", dir),
		Dir: dir, Env: os.Environ(), Log: filepath.Join(dir, "gateway.out"), Lock: gatewayLock(dir),
		NetworkNamespace: namespace,
	})
	if err != nil {
		return nil, err
	}
	client := gateway.NewClient(dir)
	err = poll(ctx, func() bool {
		_, err := client.Status(ctx)
		return err == nil || isClosed(p.Done())
	})
	if isClosed(p.Done()) {
		return nil, fmt.Errorf("it ended at once (%s); see %s", p.Exit(), filepath.Join(dir, "gateway.out"))
	}
	return p, err
}

// poll calls ready until it returns true.
func poll(ctx context.Context, ready func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", ctx.Err())
		}
	}
	return nil
}

// checkGateway says that the gateway is stopped, which would not answer.
func (n *node) checkGateway() error {
	p := n.lastGateway.Load()
	if p == nil || !p.Stopped() {
		return nil
	}
	pid := p.Identity().PID
	return fmt.Errorf("the gateway (process %d) is stopped (SIGSTOP, or a debugger) and serves nobody until it is continued: kill -CONT %d", pid, pid)
}

// ensureSnapshot gives the gateway its snapshot, where it has another, and proves that it is served.
func (l *Runtime) ensureSnapshot(ctx context.Context, n *node, node instance.Node, progress func(string)) error {
	if err := n.checkGateway(); err != nil {
		return err
	}
	client := gateway.NewClient(l.nodeDir(node.ID))
	ctx, cancel := context.WithTimeout(ctx, gatewayTimeout+proveTimeout)
	defer cancel()
	status, err := client.Status(ctx)
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	snapshot := l.snapshotFor(node, status)
	digest := snapshot.Digest()
	if status.Digest != digest || status.Problem != "" {
		progress("giving the gateway its certificate and address")
		snapshot.Generation = status.Generation + 1
		if _, err := client.Apply(ctx, snapshot); err != nil {
			return fmt.Errorf("gateway: %w", err)
		}
		n.proved = ""
	}
	if err := l.checkBackend(ctx, n, snapshot.Backend); err != nil || n.proved == digest {
		return err
	}
	progress("proving that it serves")
	if err := prove(ctx, snapshot, node); err != nil {
		return err
	}
	n.proved = digest
	return nil
}

// snapshotFor is what a node's gateway is to serve, without its generation.
func (l *Runtime) snapshotFor(node instance.Node, status gateway.Status) gateway.Snapshot {
	snapshot := node.Gateway
	switch {
	case snapshot.Backend != nil, len(snapshot.Listeners) == 0:
	case node.Serves != nil:
		snapshot.Engine = engine.Socket(l.engineDir(node.Serves.NodeID, node.Serves.Slot))
	default:
		snapshot.Engine = engine.Socket(l.dirOf(node))
	}
	if r := node.Replication; r != nil {
		snapshot.Replication = &gateway.Replication{
			Address: r.Address.String(), Engine: engine.Socket(l.dirOf(node)), Password: r.Password, Certificate: r.Certificate, PrivateKey: r.PrivateKey,
			Authorities: r.Authorities, Identity: r.Identity, Closed: r.Primary.IsValid(),
		}
	}
	return snapshot.Older(status)
}

// watch reports the end of a process that nobody asked to end.
func (l *Runtime) watch(n *node, id, name string, done <-chan struct{}, reason func() string) {
	requested := &atomic.Bool{}
	n.stopMu.Lock()
	n.stopRequested[name] = requested
	n.stopMu.Unlock()
	l.watchers.Go(func() {
		select {
		case <-done:
		case <-l.closed:
			return
		}
		if requested.Load() {
			return
		}
		select {
		case l.exits <- instance.Exit{NodeID: id, Process: name, Reason: reason()}:
		case <-l.closed:
		}
	})
}

// requestStop notes that the end of these processes was asked for, so that watch doesn't report it.
func (n *node) requestStop(processes ...string) {
	n.stopMu.Lock()
	defer n.stopMu.Unlock()
	for _, name := range processes {
		if requested := n.stopRequested[name]; requested != nil {
			requested.Store(true)
		}
	}
}

// Close lets go of all processes and leaves them running. No other call may be under way.
func (l *Runtime) Close() {
	close(l.closed)
	l.watchers.Wait()
	for _, n := range l.nodes {
		if e := n.engine.Load(); e != nil {
			e.Release()
		}
		if n.gateway != nil {
			n.gateway.Release()
		}
	}
}

// Remove implements Runtime.
func (l *Runtime) Remove(ctx context.Context, nodeID string) error {
	n := l.node(nodeID)
	n.Lock()
	defer n.Unlock()
	n.requestStop("engine", "gateway")
	dir := l.nodeDir(nodeID)
	if err := l.KillNode(ctx, nodeID); err != nil {
		return err
	}
	// On a read-only file system it is an error to remove even what doesn't exist.
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	l.mu.Lock()
	delete(l.nodes, nodeID)
	l.mu.Unlock()
	return nil
}

// GatewayStatus implements GatewayStatuser.
func (l *Runtime) GatewayStatus(ctx context.Context, nodeID string) (gateway.Status, error) {
	if err := l.node(nodeID).checkGateway(); err != nil {
		return gateway.Status{}, err
	}
	return gateway.NewClient(l.nodeDir(nodeID)).Status(ctx)
}

// PlaintextClients implements instance.PlaintextReader.
func (l *Runtime) PlaintextClients(ctx context.Context, nodeID string) (plaintext.Account, error) {
	if err := l.node(nodeID).checkGateway(); err != nil {
		return plaintext.Account{}, err
	}
	return gateway.NewClient(l.nodeDir(nodeID)).Plaintext(ctx)
}

// Ledger implements Ledgerer.
func (l *Runtime) Ledger(ctx context.Context, nodeID string) (ledger.Ledger, error) {
	if err := l.node(nodeID).checkGateway(); err != nil {
		return ledger.Ledger{}, err
	}
	return gateway.NewClient(l.nodeDir(nodeID)).Ledger(ctx)
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// EngineInfo implements EngineInfoReader.
func (l *Runtime) EngineInfo(ctx context.Context, nodeID string, sections ...string) (map[string]string, error) {
	e := l.node(nodeID).engine.Load()
	if e == nil || isClosed(e.Done()) {
		return nil, instance.ErrNoEngine
	}
	return e.Info(ctx, sections...)
}

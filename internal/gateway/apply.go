package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/replicationlink"
)

// renewTime is how long the clients that can be asked to go take turns after a change of certificates.
const renewTime = 5 * time.Second

// Why an apply or a hold was refused, for the controller to branch on.
var (
	ErrInvalid  = errors.New("invalid snapshot")
	ErrStale    = errors.New("stale snapshot")
	ErrStopping = errors.New("gateway is stopping")
	// ErrInvalidHold and ErrBusy are about Hold.
	ErrInvalidHold = errors.New("invalid hold")
	// ErrBusy says that something was still in flight when the time for it was over.
	ErrBusy = errors.New("clients are busy")
)

// snapshots is which snapshot serves, which one is on disk, and the listeners that are open.
type snapshots struct {
	g       *gateway
	reserve *durable.Reserve

	// active is what serves; nil until the first one does. It is written with mu held, and read by everybody.
	active atomic.Pointer[serving]
	// problem is why the gateway does not serve what it should; nil: it does.
	problem atomic.Pointer[string]

	mu        sync.Mutex           // held for the whole of an apply: there is one at a time; guards what follows
	listeners map[string]*listener // by address
	lastGood  *serving             // what is on disk: the active one, or one that restore is still trying to open
	closed    bool                 // the gateway is stopping: nothing is applied any more
}

// apply makes s the snapshot that serves: validate, open what is new, write, publish, close what is gone. Up to the write
// every failure leaves things as they were; after it nothing can fail.
func (x *snapshots) apply(s Snapshot) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return ErrStopping
	}
	next, err := newServing(s, x.lastGood)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if last := x.lastGood; last != nil && s.Generation <= last.snapshot.Generation {
		switch {
		case next.digest != last.digest:
			return fmt.Errorf("%w: generation %d, and %d with other content is here already", ErrStale, s.Generation, last.snapshot.Generation)
		case x.active.Load() == last:
			return nil
		}
		next = last
	}
	opened, err := x.open(next)
	if err != nil {
		return err
	}
	if next != x.lastGood {
		if err := x.saveSnapshot(next.snapshot); err != nil {
			x.discard(opened)
			return fmt.Errorf("keep snapshot: %w", err)
		}
	}
	x.publish(next, opened)
	return nil
}

// opened is what was opened for a snapshot.
type opened struct {
	listeners   map[string]*listener // by address
	replication *replicationlink.Prepared
}

// open opens the listeners of next that are not open yet, all or none. It is called with mu held.
func (x *snapshots) open(next *serving) (o opened, err error) {
	o.listeners = make(map[string]*listener)
	if o.replication, err = x.g.replication.Prepare(x.g.lifetime.accepting, next.snapshot.Replication); err != nil {
		return o, err
	}
	for _, l := range next.snapshot.Listeners {
		if x.listeners[l.Address] != nil {
			continue
		}
		ln, err := x.g.acceptor.listen(l.Address, l.Shared)
		if err != nil {
			x.discard(o)
			return o, fmt.Errorf("open listener %s: %w", l.Address, err)
		}
		o.listeners[l.Address] = ln
	}
	return o, nil
}

// discard closes what was opened for a snapshot that is not to be.
func (x *snapshots) discard(o opened) {
	x.shutAll(o.listeners)
	o.replication.Discard()
}

// publish makes next the active snapshot. It is called with mu held. The snapshot comes before its new listeners, because
// their clients are served by it.
func (x *snapshots) publish(next *serving, o opened) {
	g := x.g
	if next.chains != nil {
		g.trust.seen.Keep(next.chains.labels())
	}
	before := x.active.Load()
	renewed := x.lastGood != nil && !bytes.Equal(x.lastGood.snapshot.Certificate, next.snapshot.Certificate)
	x.lastGood = next
	// Before clients: those of an engine that is no primary any more are to find nobody who replicates from it.
	g.replication.Commit(o.replication)
	g.loops.SetBackend(g.backend(next))
	x.active.Store(next)
	x.problem.Store(nil)
	g.memory.Wake()
	for address, ln := range o.listeners {
		x.listeners[address] = ln
		g.acceptor.watchListener(ln)
	}
	for _, l := range next.snapshot.Listeners {
		g.acceptor.share(x.listeners[l.Address], l.Shared)
	}
	for address, ln := range x.listeners {
		if _, ok := next.modes[address]; !ok {
			g.acceptor.leave(ln, before)
			delete(x.listeners, address)
		}
	}
	if renewed {
		g.renewConnections()
	}
	g.closePlaintext()
	g.cfg.Log.Info("snapshot applied", "snapshot", next.snapshot)
	if _, why := g.limit.limit(next.snapshot); why != "" {
		g.cfg.Log.Warn("not all clients can be served", "reason", why)
	}
}

func (x *snapshots) shutAll(listeners map[string]*listener) {
	for _, ln := range listeners {
		x.g.acceptor.closeListener(ln)
	}
}

// load reads the last good snapshot. A file that cannot be used stays until the next snapshot is written over it: it may help
// whoever looks for the reason.
func (x *snapshots) load() {
	x.mu.Lock()
	defer x.mu.Unlock()
	last, err := loadSnapshot(x.g.cfg.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		x.setProblem("%v; waiting for a new snapshot", err)
		x.g.cfg.Log.Error("last good snapshot cannot be used, waiting for a new one", "error", err)
	default:
		x.lastGood = last
	}
}

// restore brings the last good snapshot back. A gateway that was here a moment ago may still hold the address, so it
// tries until it succeeds or the controller has applied something.
func (x *snapshots) restore() {
	for wait := 20 * time.Millisecond; !x.restoreOnce(); wait = min(2*wait, 2*time.Second) {
		select {
		case <-time.After(wait):
		case <-x.g.lifetime.accepting.Done():
			return
		}
	}
}

// restoreOnce reports whether there is nothing left to restore.
func (x *snapshots) restoreOnce() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	last := x.lastGood
	if x.closed || last == nil || x.active.Load() != nil {
		return true
	}
	opened, err := x.open(last)
	if err != nil {
		x.setProblem("%v; trying again", err)
		x.g.limitedLog.warn("restore", "last good snapshot cannot be served yet, trying again", "error", err)
		return false
	}
	x.publish(last, opened)
	return true
}

// close ends the listeners, and refuses every snapshot from now on.
func (x *snapshots) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	x.g.replication.StopAccepting()
	for _, ln := range x.listeners {
		x.g.acceptor.leave(ln, x.active.Load())
	}
	clear(x.listeners)
	x.setProblem("stopping")
}

func (x *snapshots) setProblem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	x.problem.Store(&text)
}

// renewConnections asks clients to go on with a connection that was made under the new certificate.
func (g *gateway) renewConnections() {
	g.connections.each(func(c *conn) {
		if s := c.session.Load(); s != nil {
			time.AfterFunc(rand.N(renewTime), func() { s.Goaway() })
		}
	})
}

package gateway

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultDrain = 5 * time.Second

	// drainPace is how often connections are looked at while draining. One is closed when it was quiet, its last request answered,
	// from one look to the next.
	drainPace = 100 * time.Millisecond

	// goawayGrace is how long a client that was asked to go is waited for while draining. Then it is closed like others.
	goawayGrace = time.Second
)

// lifetime is how far the gateway's end has come: it was asked for, connections are drained, none is left.
type lifetime struct {
	requestStop   func()        // for the controller; may be called again
	stopRequested chan struct{} // closed by requestStop

	accepting     context.Context // ends when draining begins: no client comes in any more
	stopAccepting context.CancelFunc
	cut           atomic.Bool   // every connection was told to close: one that gets a session now is late, and must close it itself
	drained       chan struct{} // closed when no connection is left

	background sync.WaitGroup // goroutines that end with accepting
}

func newLifetime(ctx context.Context) *lifetime {
	l := &lifetime{stopRequested: make(chan struct{}), drained: make(chan struct{})}
	l.requestStop = sync.OnceFunc(func() { close(l.stopRequested) })
	l.accepting, l.stopAccepting = context.WithCancel(ctx)
	return l
}

// wait returns why the gateway is to end. lost is not nil if that is because its admin socket is lost.
func (l *lifetime) wait(ctx context.Context, admin <-chan error) (why string, lost error) {
	select {
	case <-ctx.Done():
		return "signal", nil
	case <-l.stopRequested:
		return "asked to", nil
	case err := <-admin:
		return "admin socket lost", fmt.Errorf("serve admin socket: %w", err)
	}
}

// drain is the one way to end: no new clients, those that are idle closed, those that are busy given time, the rest cut. Only the admin
// socket is left.
func (g *gateway) drain() {
	g.snapshots.close()
	g.loops.Release()
	g.lifetime.stopAccepting()
	g.lifetime.background.Wait()

	gone := make(chan struct{})
	go func() { g.connections.closed.Wait(); close(gone) }()
	deadline, tick := time.NewTimer(g.cfg.Drain), time.NewTicker(drainPace)
	defer deadline.Stop()
	defer tick.Stop()
	var farewells sync.WaitGroup
	began := time.Now()
	for done := false; !done; {
		g.connections.each(func(c *conn) { drainOne(c, began, &farewells) })
		select {
		case <-tick.C:
		case <-gone:
			done = true
		case <-deadline.C:
			g.lifetime.cut.Store(true)
			g.connections.each((*conn).cut)
			<-gone
			done = true
		}
	}
	farewells.Wait()
	g.replication.Close() // after the clients: what they have written is still to reach the replicas
	close(g.lifetime.drained)
}

// drainOne asks a client to go, if it is one that can be asked, and closes its connection if nothing is lost by that.
func drainOne(c *conn, began time.Time, farewells *sync.WaitGroup) {
	// One that can be asked decides for itself when nothing is lost. But it cannot connect anew while the port is shut, so it gets
	// goawayGrace.
	if s := c.session.Load(); s != nil && s.Goaway() && time.Since(began) < goawayGrace {
		return
	}
	if c.idle() {
		// A goroutine of its own: to say goodbye in TLS may have to wait for the client.
		farewells.Go(c.cut)
	}
}

package sidecar

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/relay"
)

// A link has one goroutine, its keeper, which finds out whether the server serves and is the only one to change what is known of it.
//
// A client's connection that fails is only a suspicion. It closes the gate: nobody makes connections now. The keeper tries by itself,
// once more with newer information where that may help, and what comes of it is what counts and is said. The others wait until the
// gate is open again. So a server that comes back is not met by all its clients at once before it is known to be back.
//
// The files by what they do: gate.go (who may connect), probe.go (does the server serve), ca_refresh.go (what is to be trusted),
// backend.go (what relay's loops are told), problems.go (what is said), accept.go (clients).

const (
	// clockPace is how often the clocks are compared, and clockJump how far apart they must be for a machine that was suspended, or whose
	// time was set.
	clockPace = time.Second
	clockJump = 30 * time.Second
)

// link is one Link at work.
type link struct {
	Link
	log        *slog.Logger
	now        func() time.Time
	resolver   *net.Resolver
	patience   time.Duration
	loops      *relay.Loops
	ln         *listener
	wake       chan struct{} // has the keeper take a step now
	dialSlots  chan struct{} // one per connection that is being made
	proven     chan struct{} // closed when the link was well for the first time
	counted    counters
	logLimiter logLimiter
	files      *files

	mu        sync.Mutex    // guards what follows
	trust     *trust        // nil: nothing is known yet
	gate      chan struct{} // closed while connections may be made, so that whoever waits for that can receive
	gateOpen  bool
	suspected bool // a client's connection failed
	refused   bool // the password was, or its absence
	fresh     bool // a client's connection was made
	newCert   bool // the server shows another certificate
	problems  [topics]*problem
	cached    bool // trust is from the cache
	wasWell   bool
}

// keeper is what the keeper's goroutine remembers. Nobody else touches it.
type keeper struct {
	*link
	refreshAt, probeAt time.Time
	localAt            time.Time // when Local is asked again
	told               *Server   // by Source, or the cache; nil: nothing yet
	provenAt           time.Time // when it was last tried whether the server serves
	published          *trust    // what the loops have been told
	generation         uint64    // of the connections that the loops have; those of an older one are left
	moved              bool      // clients have been told to leave what was made before the present trust
	sourceFailures     int
	probeFailures      int
	forcedAt           time.Time     // Source was last asked because of a failure
	forcedPause        time.Duration // until it may be so again
	wall, steady       time.Time     // the clocks, when they were last compared
}

// keep does all that a link does besides carrying bytes.
func (l *link) keep(ctx context.Context) {
	k := &keeper{link: l, wall: l.now(), steady: time.Now()}
	k.refreshAt = k.steady
	for {
		k.step(ctx)
		pause := time.NewTimer(k.pause())
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-l.wake:
			pause.Stop()
		case <-pause.C:
		}
	}
}

// pause is how long there is nothing to do.
func (k *keeper) pause() time.Duration {
	now := time.Now()
	pause := min(clockPace, k.refreshAt.Sub(now))
	if !k.probeAt.IsZero() {
		pause = min(pause, k.probeAt.Sub(now))
	}
	return max(pause, time.Millisecond)
}

// step does what is due, or was asked for.
func (k *keeper) step(ctx context.Context) {
	now := time.Now()
	if k.clockJumped(now) {
		k.refreshAt, k.probeAt, k.moved = now, now, false
	}
	k.mu.Lock()
	suspected, refused, newCert := k.suspected, k.refused, k.newCert
	fresh := k.fresh && now.Sub(k.provenAt) >= probePause
	k.suspected, k.refused = false, false
	if fresh {
		k.fresh = false
	}
	k.mu.Unlock()
	if !now.Before(k.refreshAt) {
		k.refresh(ctx)
	}
	k.lookForDescriptors()
	if k.Local != nil && k.told != nil && !now.Before(k.localAt) {
		k.combine()
	}
	if refused || newCert && time.Since(k.forcedAt) >= newCertPause {
		k.refreshForced(ctx)
		k.mu.Lock()
		k.newCert = false
		k.mu.Unlock()
	}
	if (suspected || fresh) && k.probeFailures == 0 || refused || !k.probeAt.IsZero() && !now.Before(k.probeAt) {
		k.probe(ctx)
	}
}

// clockJumped compares the wall clock with the one that nobody sets, and that stands still while the machine is suspended.
func (k *keeper) clockJumped(now time.Time) bool {
	wall := k.now().Round(0)
	off := wall.Sub(k.wall.Round(0)) - now.Sub(k.steady)
	k.wall, k.steady = wall, now
	if off.Abs() < clockJump {
		return false
	}
	k.log.Info("the clock jumped: what is trusted is fetched anew, and connections are made anew", "by", off.Round(time.Second))
	return true
}

func (l *link) known() *trust {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trust
}

func (l *link) leadsTo() string {
	if t := l.known(); t != nil {
		return t.server.Address
	}
	return "not known yet"
}

// backoff doubles from first to last.
func backoff(failures int, first, last time.Duration) time.Duration {
	return min(first<<min(failures, 20), last)
}

// spread is d give or take a tenth, so that many sidecars that were started at the same time don't ask at the same time for ever.
func spread(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

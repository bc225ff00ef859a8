package sidecar

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
)

const (
	// shortestPause and longestPause are between two attempts to see whether the server is well again. One that is not to be
	// believed is bothered less.
	shortestPause = 50 * time.Millisecond
	longestPause  = 2 * time.Second
	pauseByTrust  = 10 * time.Second

	// sourceTime is how long a Source may take; between two failures of it there are firstSourcePause to lastSourcePause.
	sourceTime       = 15 * time.Second
	firstSourcePause = time.Second
	lastSourcePause  = time.Minute

	// mostDials are made at a time: all clients of a server that was restarted want to be back at once.
	mostDials = 16

	// learnPause is between two times that the Source is asked because the server shows another certificate: several servers
	// may take turns at one address.
	learnPause = 10 * time.Second

	// localPause is between two times that Link.Local is asked.
	localPause = 3 * time.Second

	// clockPace is how often the clocks are compared, and jump how far apart they must be for a machine that was suspended, or whose
	// time was set.
	clockPace = time.Second
	jump      = 30 * time.Second
)

// provePause is between two proofs that are made only because clients' connections are. Tests make it shorter.
var provePause = 3 * time.Second

// link is one Link at work.
//
// What is known of the server is changed by keep's goroutine alone. A connection that fails is only a suspicion: keep then tries
// by itself, once more with newer information where that may help, and what comes of it is what counts and is said. Meanwhile
// nobody else tries: they wait until the passage is open again, and so a server that comes back is not met by all at once before
// it is known to be back.
type link struct {
	Link
	log         *slog.Logger
	now         func() time.Time
	resolver    *net.Resolver
	patience    time.Duration
	paths       *relay.Loops
	ln          *listener
	kick        chan struct{}
	slots       chan struct{} // one per connection that is being made
	proven      chan struct{} // closed when the link was well for the first time
	counted     counters
	misfortunes throttle
	files       *files

	mu        sync.Mutex // guards what follows
	trust     *trust     // nil: nothing is known yet
	epoch     uint64
	passage   chan struct{} // closed while connections may be made
	isOpen    bool
	suspected bool
	refused   bool // the password was, or its absence
	fresh     bool // a client's connection was made
	changed   bool // the server shows another certificate
	troubles  [topics]*trouble
	cached    bool // trust is from the cache
	wasWell   bool
}

// trouble is a problem that lasts.
type trouble struct {
	fault *diagnosis.Fault
	since time.Time
	said  map[string]bool // by code
}

// keeper is what keep's goroutine remembers.
type keeper struct {
	*link
	refreshAt, probeAt time.Time
	localAt            time.Time // when Local is asked again
	told               *Server   // by Source, or the cache; nil: nothing yet
	provenAt           time.Time // when it was last tried whether the server serves
	short              bool      // clients are told that there are no free descriptors
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
		case <-l.kick:
			pause.Stop()
		case <-pause.C:
		}
	}
}

func (k *keeper) pause() time.Duration {
	now := time.Now()
	pause := min(clockPace, k.refreshAt.Sub(now))
	if !k.probeAt.IsZero() {
		pause = min(pause, k.probeAt.Sub(now))
	}
	return max(pause, time.Millisecond)
}

func (k *keeper) step(ctx context.Context) {
	now := time.Now()
	if k.jumped(now) {
		k.refreshAt, k.probeAt, k.moved = now, now, false
	}
	k.mu.Lock()
	suspected, refused, changed := k.suspected, k.refused, k.changed
	fresh := k.fresh && now.Sub(k.provenAt) >= provePause
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
		k.take()
	}
	if refused || changed && time.Since(k.forcedAt) >= learnPause {
		k.refreshForced(ctx)
		k.mu.Lock()
		k.changed = false
		k.mu.Unlock()
	}
	if (suspected || fresh) && k.probeFailures == 0 || refused || !k.probeAt.IsZero() && !now.Before(k.probeAt) {
		k.probe(ctx)
	}
}

// jumped compares the wall clock with the one that nobody sets, and that stands still while the machine is suspended.
func (k *keeper) jumped(now time.Time) bool {
	wall := k.now().Round(0)
	off := wall.Sub(k.wall.Round(0)) - now.Sub(k.steady)
	k.wall, k.steady = wall, now
	if off.Abs() < jump {
		return false
	}
	k.log.Info("the clock jumped: what is trusted is fetched anew, and connections are made anew", "by", off.Round(time.Second))
	return true
}

// refresh asks the Source.
func (k *keeper) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sourceTime)
	defer cancel()
	server, err := k.Source(ctx)
	if err != nil {
		k.sourceFailed(err)
		return
	}
	k.told = &server
	k.counted.refreshed.Add(1)
	k.sourceFailures = 0
	k.refreshAt = time.Now().Add(spread(k.Every))
	k.mu.Lock()
	wasCached := k.cached
	k.cached = false
	k.mu.Unlock()
	before := k.known()
	if !k.take() {
		k.counted.refreshFailed.Add(1)
		k.refreshAt = time.Now().Add(spread(min(k.Every, 10*time.Second)))
		return
	}
	if wasCached || k.known() != before {
		k.store(server)
	}
}

// take makes what Source told last, and what this machine adds to it, what is dialled by. It reports whether that can be used.
func (k *keeper) take() bool {
	server := *k.told
	if k.Local != nil {
		k.localAt = time.Now().Add(localPause)
		if err := k.Local(&server); err != nil {
			k.trouble(asFault(err))
			return false
		}
	}
	if k.sourceFailures == 0 {
		k.heal(ofSource)
	}
	server.PasswordUnknown = server.PasswordUnknown && server.Password == ""
	t, f := newTrust(server, k.link)
	if f != nil {
		k.trouble(f)
		return false
	}
	k.heal(ofBundle)
	k.adopt(t)
	return true
}

// asFault is what is said of a Source, or of Link.Local, that fails.
func asFault(err error) *diagnosis.Fault {
	if f, ok := errors.AsType[*diagnosis.Fault](err); ok {
		return f
	}
	return SourceFault(err.Error(), "it is asked again by itself")
}

func (k *keeper) sourceFailed(err error) {
	k.counted.refreshFailed.Add(1)
	k.trouble(asFault(err))
	k.refreshAt = time.Now().Add(spread(backoff(k.sourceFailures, firstSourcePause, min(lastSourcePause, max(k.Every, firstSourcePause)))))
	k.sourceFailures++
	if k.known() == nil && k.Cache != "" {
		k.load()
	}
}

// adopt goes on with t if it is something new. Clients are moved once the server is known to be right by it.
func (k *keeper) adopt(t *trust) {
	k.mu.Lock()
	last := k.trust
	if last != nil && last.Server == t.Server {
		k.mu.Unlock()
		return
	}
	k.trust = t
	k.mu.Unlock()
	if last != nil && !slices.Equal(last.login(), t.login()) {
		k.bar() // until it is known that this login works
	}
	k.moved, k.probeAt, k.probeFailures = false, time.Now(), 0
	if last != nil {
		k.log.Info("the server's address, CA bundle, password or the client certificate changed: clients move to fresh connections", "address", t.Address, "cas", len(t.cas))
	}
}

// refreshForced asks the Source because of a failure, but not all the time. It reports whether there is something new.
func (k *keeper) refreshForced(ctx context.Context) bool {
	if time.Since(k.forcedAt) < k.forcedPause {
		return false
	}
	before := k.known()
	k.forcedAt = time.Now()
	k.forcedPause = min(max(2*k.forcedPause, firstSourcePause), lastSourcePause)
	k.refresh(ctx)
	return k.known() != before
}

// probe finds out whether the server serves.
func (k *keeper) probe(ctx context.Context) {
	t := k.known()
	if t == nil {
		return
	}
	f := k.try(ctx, t)
	if f != nil && mayBeOutdated(f) && k.refreshForced(ctx) {
		t = k.known()
		f = k.try(ctx, t)
	}
	k.provenAt = time.Now()
	switch {
	case ctx.Err() != nil:
		return
	case f == nil:
		k.heal(ofLimits)
		k.serves(t)
		return
	case topicOf(f) == ofLimits:
		k.serves(t)
		k.trouble(f)
		if f.Code == "misconf" {
			k.probeAt = time.Now().Add(spread(pauseByTrust))
		}
		return
	}
	k.heal(ofLimits)
	switch topicOf(f) {
	case ofConnection:
		k.heal(ofServer)
	case ofServer:
		k.heal(ofConnection)
	}
	k.trouble(f)
	k.serveAgain() // before anybody passes: what clients log in by is told to the loops here, and what they are told
	if topicOf(f) == ofServer && f.Code != "auth" {
		k.open() // the server tells clients itself
	} else {
		k.bar() // who passed without the login having worked would be the server's default user
	}
	longest := longestPause
	if mayBeOutdated(f) {
		longest = pauseByTrust
	}
	k.probeAt = time.Now().Add(spread(backoff(k.probeFailures, shortestPause, longest)))
	k.probeFailures++
}

func (k *keeper) try(ctx context.Context, t *trust) *diagnosis.Fault {
	f := t.prove(ctx)
	if ctx.Err() == nil {
		k.counted.dialled(f)
	}
	return f
}

// serves is called when the server has served a request.
func (k *keeper) serves(t *trust) {
	healed := k.heal(ofConnection)
	healed = k.heal(ofServer) || healed
	k.probeAt, k.probeFailures, k.forcedPause = time.Time{}, 0, 0
	k.mu.Lock()
	first := !k.wasWell
	k.wasWell = true
	k.mu.Unlock()
	if !k.moved {
		k.moved = true
		k.epoch++
		k.serveBy(t)
		k.counted.moved.Add(1)
	} else if healed {
		k.serveAgain()
	}
	k.open()
	if first {
		close(k.proven)
	}
}

// serveBy tells the loops how the server is reached now; nil: they have to wait for it. Whatever is known of the login they are
// told, also before it has worked: a connection that is set up without it is one of the server's default user.
func (l *link) serveBy(t *trust) {
	l.mu.Lock()
	warm := l.wasWell
	l.mu.Unlock()
	b := &relay.Backend{
		Engine: l.Name, Generation: l.epoch, Dial: l.dial, Name: "sealane-sidecar", ConnectTimeout: l.patience, Multiplexed: true,
		UnavailableReply: l.away(), Failed: func(error) { l.suspect(l.known()) },
	}
	if t != nil {
		b.Login = t.login()
		if warm {
			b.MinIdle = l.Warm
		}
		if !t.ClientsLogIn {
			b.Refused = func(string) bool { l.wasRefused(); return true }
		}
	}
	l.paths.SetBackend(b)
}

// away is what a client is told that has waited for the server in vain.
func (l *link) away() string {
	why := "connections to it end before they can be used"
	if f := l.problem(); f != nil {
		why = oneLine(f.Sentence)
	}
	return "-ERR the sidecar can't reach the server: " + why + ": retry with backoff\r\n"
}

// dial is relay's way to the server.
func (l *link) dial(ctx context.Context) (netloop.Conn, error) {
	for {
		t, err := l.wait(ctx)
		if err != nil {
			return netloop.Conn{}, err
		}
		if l.files.areShort(reservedFiles) {
			return netloop.Conn{}, l.areShort(syscall.EMFILE)
		}
		select {
		case l.slots <- struct{}{}:
		case <-ctx.Done():
			return netloop.Conn{}, ctx.Err()
		}
		if !l.mayDial(t) { // no longer: another attempt has failed while this one waited for its turn
			<-l.slots
			continue
		}
		end, f := t.dial(ctx)
		<-l.slots
		switch {
		case f == nil:
			l.counted.dialled(nil)
			l.connected()
			return end, nil
		case ctx.Err() != nil:
			return netloop.Conn{}, f
		}
		l.counted.dialled(f)
		l.suspect(t)
	}
}

// mayDial says whether attempts by t may be made now.
func (l *link) mayDial(t *trust) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.isOpen && l.trust == t
}

// wait returns what to dial by, once that may be done.
func (l *link) wait(ctx context.Context) (*trust, error) {
	for {
		l.mu.Lock()
		t, passage, isOpen := l.trust, l.passage, l.isOpen
		l.mu.Unlock()
		if isOpen {
			return t, nil
		}
		select {
		case <-passage: // what is known now may be newer than what was known before
		case <-ctx.Done():
			if f := l.problem(); f != nil {
				return nil, f
			}
			return nil, ctx.Err()
		}
	}
}

// suspect is called when a connection could not be made by t.
func (l *link) suspect(t *trust) {
	l.mu.Lock()
	same := l.trust == t
	l.suspected = l.suspected || same
	l.mu.Unlock()
	if same {
		l.bar()
		l.rouse()
	}
}

// learn is called when the server shows another certificate than before: then there may be a new CA too.
func (l *link) learn() {
	l.mu.Lock()
	l.changed = true
	l.mu.Unlock()
	l.rouse()
}

// connected is called when a connection was made for a client, as after the server was restarted: then it may be up and refuse all
// the same, because it loads its data, or what it allows has changed.
func (l *link) connected() {
	l.mu.Lock()
	l.fresh = true
	l.mu.Unlock()
	l.rouse()
}

func (l *link) wasRefused() {
	l.mu.Lock()
	l.refused = true
	l.mu.Unlock()
	l.rouse()
}

func (l *link) rouse() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

func (l *link) bar() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isOpen {
		l.isOpen, l.passage = false, make(chan struct{})
	}
}

func (l *link) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.isOpen {
		l.isOpen = true
		close(l.passage)
	}
}

func (l *link) known() *trust {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trust
}

// trouble notes a problem, and says it if that was not done since all was well.
func (l *link) trouble(f *diagnosis.Fault) {
	l.mu.Lock()
	t := l.troubles[topicOf(f)]
	if t == nil {
		t = &trouble{since: time.Now(), said: make(map[string]bool)}
		l.troubles[topicOf(f)] = t
	}
	news := !t.said[f.Code]
	t.fault, t.said[f.Code] = f, true
	l.mu.Unlock()
	if news {
		l.log.Warn("problem", "code", f.Code, "what", f.Sentence, "hint", f.Fix)
	}
}

// serveAgain has clients that give up read the present reason.
func (l *link) serveAgain() {
	l.serveBy(l.known())
}

// heal ends the problem of a topic, and reports whether there was one.
func (l *link) heal(about topic) bool {
	l.mu.Lock()
	t := l.troubles[about]
	l.troubles[about] = nil
	l.mu.Unlock()
	if t != nil {
		l.log.Info("well again", "was", t.fault.Code, "after", time.Since(t.since).Round(time.Millisecond))
	}
	return t != nil
}

// problem is what keeps clients from being served.
func (l *link) problem() *diagnosis.Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, about := range []topic{ofProcess, ofConnection, ofServer} {
		if t := l.troubles[about]; t != nil {
			return t.fault
		}
	}
	if l.wasWell {
		return nil
	}
	for _, t := range l.troubles {
		if t != nil {
			return t.fault
		}
	}
	return &diagnosis.Fault{Sentence: "the server has not been reached yet", Fix: "wait"}
}

// notes are what should be known although clients are served.
func (l *link) notes() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := append([]string(nil), l.Warnings...)
	if l.cached {
		all = append(all, "what is trusted is from "+l.Cache+", and may be old")
	}
	for _, about := range []topic{ofSource, ofBundle} {
		if t := l.troubles[about]; t != nil {
			all = append(all, "goes on with what it has: "+t.fault.Sentence+"; "+t.fault.Fix)
		}
	}
	if n := l.trust.clientCertificateNote(); n != "" {
		all = append(all, n)
	}
	if t := l.troubles[ofLimits]; t != nil {
		all = append(all, "not all is served: "+t.fault.Sentence+"; "+t.fault.Fix)
	}
	return all
}

func (l *link) leadsTo() string {
	if t := l.known(); t != nil {
		return t.Address
	}
	return "not known yet"
}

// backoff doubles from first to last.
func backoff(failures int, first, last time.Duration) time.Duration {
	return min(first<<min(failures, 20), last)
}

// spread is d give or take a tenth, so that many sidecars that were started at the same time don't ask at the same time for ever.
func spread(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// accept lets clients in until stop is called.
func (l *link) accept() (stop func()) {
	var stops []func()
	for _, d := range l.ln.doors {
		stops = append(stops, l.paths.Accept(d.fd, relay.Acceptor{
			Config: func(remote netip.AddrPort) relay.Config {
				l.counted.accepted.Add(1)
				opening := l.opening
				if l.files.wouldBeShort() {
					l.counted.turnedAway.Add(1)
					l.areShort(syscall.EMFILE)
					opening = func([]byte) ([]byte, bool) { return []byte(noRoomAnswer), true }
				}
				return relay.Config{
					Remote: remote, Local: d.local, Path: l.ln.path, Opening: opening,
					Ended: func(r relay.Result) { l.counted.ended(r.Ended) },
				}
			},
			Failed: func(err error) { l.notAccepted(d.fd, err) },
		}))
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// closeQuiet closes clients that have waited for nothing since the last call, and returns how many are left.
func (l *link) closeQuiet(first bool) (left int) {
	l.paths.Each(func(s *relay.Session) {
		left++
		if s.Quiet() && !first {
			s.Close()
		}
	})
	return left
}

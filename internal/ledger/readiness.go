package ledger

import (
	"net/netip"
	"slices"
	"time"
)

// Readiness is what is known of whether a client trusts an anchor.
type Readiness string

const (
	Proven   Readiness = "proven"   // it has shown that it does
	Declared Readiness = "declared" // it has said that it does
	Failed   Readiness = "failed"   // it refused a certificate since, or somebody at its address did
	Unknown  Readiness = "unknown"  // it was seen, and nothing tells
)

// Readinesses are all of them.
var Readinesses = []Readiness{Proven, Declared, Failed, Unknown}

// Status is where one client stands with an anchor.
type Status struct {
	Client
	Readiness Readiness
	At        time.Time // when it showed that; zero of Unknown
	How       Failure   // of Failed
}

// Statuses say where every client seen since then stands with an anchor: those in doubt first, and of them the one seen last
// first.
//
// Who has proven it speaks for all of the same address and name, whatever their library and user: so another program can do it
// that has the same trust store.
//
// A failed handshake tells only the address. It throws doubt on everybody there who has shown nothing since, and is a client
// by itself as long as nobody there is in doubt for it or has shown anything since: whoever it was is among those then.
func (l Ledger) Statuses(anchor string, since time.Time) []Status {
	type spot struct {
		failed Evidence
		shown  time.Time
	}
	spots, vouched := make(map[netip.Addr]spot), make(map[namedSpot]time.Time)
	for _, c := range l.Clients {
		e, s := c.Anchors[anchor], spots[c.Address]
		if e.Failed.After(s.failed.Failed) {
			s.failed = e
		}
		s.shown = later(s.shown, e.Shown())
		spots[c.Address] = s
		vouched[c.spot()] = later(vouched[c.spot()], e.Proven)
	}
	var out []Status
	doubted := make(map[netip.Addr]bool)
	for _, c := range l.Clients {
		if c.Last.Before(since) {
			continue
		}
		e, s := c.Anchors[anchor], spots[c.Address]
		if !c.nobody() {
			e.Proven = vouched[c.spot()]
		}
		status := Status{Client: c, Readiness: Unknown}
		switch {
		case c.nobody() && (e.Failed.IsZero() || s.shown.After(e.Failed)):
			continue
		case s.failed.Failed.After(e.Shown()) && !s.failed.Failed.Before(since):
			status.Readiness, status.At, status.How = Failed, s.failed.Failed, s.failed.How
			doubted[c.Address] = doubted[c.Address] || !c.nobody()
		case !e.Proven.IsZero():
			status.Readiness, status.At = Proven, e.Proven
		case !e.Declared.IsZero():
			status.Readiness, status.At = Declared, e.Declared
		}
		out = append(out, status)
	}
	out = slices.DeleteFunc(out, func(s Status) bool { return s.nobody() && doubted[s.Address] })
	slices.SortStableFunc(out, func(a, b Status) int {
		if x, y := a.Ready(), b.Ready(); x != y {
			if y {
				return -1
			}
			return 1
		}
		return b.Last.Compare(a.Last)
	})
	return out
}

// Ready says whether the client trusts the anchor as far as is known.
func (s Status) Ready() bool { return s.Readiness == Proven || s.Readiness == Declared }

// namedSpot is where a client is, and what its connection is called.
type namedSpot struct {
	address netip.Addr
	name    string
}

func (c Client) spot() namedSpot { return namedSpot{c.Address, c.Name} }

// nobody is an address at which handshakes failed.
func (c Client) nobody() bool { return c.User == "" }

// Doubt is why it is not known that all clients trust an anchor.
type Doubt struct {
	None    bool     // nobody was seen
	Clients []Status // those in doubt
	Evicted bool     // some were not kept
}

// Doubts says why it can't be said that every client seen since then trusts the anchor; ok: it can.
func (l Ledger) Doubts(anchor string, since time.Time) (d Doubt, ok bool) {
	all := l.Statuses(anchor, since)
	d.None, d.Evicted = len(all) == 0, l.LastEvicted.After(since)
	for _, s := range all {
		if !s.Ready() {
			d.Clients = append(d.Clients, s)
		}
	}
	return d, !d.None && !d.Evicted && len(d.Clients) == 0
}

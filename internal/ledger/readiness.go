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
	At        time.Time // when it showed that, of several proofs the first; zero of Unknown
	How       Failure   // of Failed
	Missing   []string  // of Unknown, where it has given some of several proofs: the others
}

// Statuses say where every client seen since then stands: those in doubt first, and of them the one seen last first.
//
// The proofs are labels: of an anchor, and of whatever else must be verified beside it, such as its cross-certificate. A
// client has proven it when it has proven each. It has failed when it failed one of them. Who has declared the anchor needs no
// other proof: it is known to verify by all that a server sends.
//
// Who has proven it speaks for all of the same address and name, whatever their library and user: so another program can do it
// that has the same trust store.
//
// A failed handshake tells only the address. It throws doubt on everybody there who has shown nothing since, and is a client
// by itself as long as nobody there is in doubt for it or has shown anything since: whoever it was is among those then.
func (l Ledger) Statuses(proofs []string, since time.Time) []Status {
	if len(proofs) == 0 {
		proofs = []string{""} // nothing can be proven
	}
	var all []shown
	for n := range proofs {
		all = append(all, l.shown(proofs[n], proofs[0]))
	}
	var out []Status
	doubted := make(map[netip.Addr]bool)
	for _, c := range l.Clients {
		if c.Last.Before(since) {
			continue
		}
		status, ok := l.status(c, proofs, all, since)
		if !ok {
			continue
		}
		doubted[c.Address] = doubted[c.Address] || status.Readiness == Failed && !c.nobody()
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

// shown is what was shown of one proof: at an address, and by whom a name there is vouched for.
type shown struct {
	spots   map[netip.Addr]spot
	vouched map[namedSpot]time.Time
}

type spot struct {
	failed Evidence
	shown  time.Time
}

func (l Ledger) shown(proof, anchor string) shown {
	all := shown{make(map[netip.Addr]spot), make(map[namedSpot]time.Time)}
	for _, c := range l.Clients {
		e, s := c.evidence(proof, anchor), all.spots[c.Address]
		if e.Failed.After(s.failed.Failed) {
			s.failed = e
		}
		s.shown = later(s.shown, e.Shown())
		all.spots[c.Address] = s
		all.vouched[c.spot()] = later(all.vouched[c.spot()], e.Proven)
	}
	return all
}

// evidence is what the client has shown of a proof. What it declares of the anchor counts for all.
func (c Client) evidence(proof, anchor string) Evidence {
	e := c.Anchors[proof]
	e.Declared = later(e.Declared, c.Anchors[anchor].Declared)
	return e
}

// status is where one client stands; ok is false of an address at which nothing failed that still counts.
func (l Ledger) status(c Client, proofs []string, all []shown, since time.Time) (status Status, ok bool) {
	status = Status{Client: c, Readiness: Unknown}
	outstanding, proven, first := false, 0, time.Time{}
	for n, proof := range proofs {
		e, s := c.evidence(proof, proofs[0]), all[n].spots[c.Address]
		if !c.nobody() {
			e.Proven = all[n].vouched[c.spot()]
		}
		outstanding = outstanding || !e.Failed.IsZero() && !s.shown.After(e.Failed)
		switch {
		case s.failed.Failed.After(e.Shown()) && !s.failed.Failed.Before(since):
			if status.Readiness != Failed || s.failed.Failed.After(status.At) {
				status.Readiness, status.At, status.How = Failed, s.failed.Failed, s.failed.How
			}
		case !e.Proven.IsZero():
			proven++
			if first.IsZero() || e.Proven.Before(first) {
				first = e.Proven
			}
		default:
			status.Missing = append(status.Missing, proof)
		}
	}
	declared := c.Anchors[proofs[0]].Declared
	switch {
	case c.nobody() && !outstanding:
		return Status{}, false
	case status.Readiness == Failed:
		status.Missing = nil
	case proven == len(proofs):
		status.Readiness, status.At, status.Missing = Proven, first, nil
	case !declared.IsZero():
		status.Readiness, status.At, status.Missing = Declared, declared, nil
	case proven == 0:
		status.Missing = nil
	}
	return status, true
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

// Doubts says why it can't be said that every client seen since then has given the proofs; ok: it can.
func (l Ledger) Doubts(proofs []string, since time.Time) (d Doubt, ok bool) {
	all := l.Statuses(proofs, since)
	d.None, d.Evicted = len(all) == 0, l.LastEvicted.After(since)
	for _, s := range all {
		if !s.Ready() {
			d.Clients = append(d.Clients, s)
		}
	}
	return d, !d.None && !d.Evicted && len(d.Clients) == 0
}

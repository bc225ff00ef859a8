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

// Readinesses are all values of Readiness.
var Readinesses = []Readiness{Proven, Declared, Failed, Unknown}

// Status is where one client stands with an anchor.
type Status struct {
	Client
	Readiness Readiness
	At        time.Time // when it showed that; of several proofs, the first; zero for Unknown
	How       Failure   // for Failed: how it refused the certificate
	Missing   []string  // for Unknown, where the client has given some of several proofs: the others
}

// Statuses say where every client that was seen since then stands: those in doubt first, and of these the one seen last first.
//
// The proofs are labels: of an anchor, and of whatever else must be verified beside it, such as its cross-certificate. A client
// is proven when it has given each proof, and failed when it failed one of them. A client that has declared the anchor needs to give no
// proof: such clients are known to verify by everything that a server sends.
//
// A client that has given a proof has given it for all clients of the same address and connection name, whatever their library and user.
// So another program that has the same trust store can give it.
//
// A failed handshake tells only the address. It throws doubt on every client there that has shown nothing since. As long as there is no
// such client, and none there has shown anything since, the address itself is listed as a client.
func (l Ledger) Statuses(proofs []string, since time.Time) []Status {
	if len(proofs) == 0 {
		proofs = []string{""} // nothing can be proven
	}
	var all []shown
	for n := range proofs {
		all = append(all, l.shownOf(proofs[n], proofs[0]))
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
		doubted[c.Address] = doubted[c.Address] || status.Readiness == Failed && !c.addressOnly()
		out = append(out, status)
	}
	out = slices.DeleteFunc(out, func(s Status) bool { return s.addressOnly() && doubted[s.Address] })
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

// shown is what all clients have shown of one proof.
type shown struct {
	addresses map[netip.Addr]shownAt
	proven    map[addressAndName]time.Time // when a client of that address and name last gave the proof
}

// shownAt is what the clients of one address have shown of one proof.
type shownAt struct {
	failed Evidence  // the last failure
	shown  time.Time // when one of them last showed that it trusts the anchor
}

func (l Ledger) shownOf(proof, anchor string) shown {
	all := shown{make(map[netip.Addr]shownAt), make(map[addressAndName]time.Time)}
	for _, c := range l.Clients {
		e, s := c.evidence(proof, anchor), all.addresses[c.Address]
		if e.Failed.After(s.failed.Failed) {
			s.failed = e
		}
		s.shown = later(s.shown, e.Shown())
		all.addresses[c.Address] = s
		all.proven[c.addressAndName()] = later(all.proven[c.addressAndName()], e.Proven)
	}
	return all
}

// evidence is what the client has shown of a proof. That it has declared the anchor counts for every proof.
func (c Client) evidence(proof, anchor string) Evidence {
	e := c.Anchors[proof]
	e.Declared = later(e.Declared, c.Anchors[anchor].Declared)
	return e
}

// status is where one client stands; ok is false for an address without a failure that still counts.
func (l Ledger) status(c Client, proofs []string, all []shown, since time.Time) (status Status, ok bool) {
	status = Status{Client: c, Readiness: Unknown}
	outstanding, proven, first := false, 0, time.Time{}
	for n, proof := range proofs {
		e, s := c.evidence(proof, proofs[0]), all[n].addresses[c.Address]
		if !c.addressOnly() {
			e.Proven = all[n].proven[c.addressAndName()]
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
	case c.addressOnly() && !outstanding:
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

// addressAndName is where a client is, and what its connection is called.
type addressAndName struct {
	address netip.Addr
	name    string
}

func (c Client) addressAndName() addressAndName { return addressAndName{c.Address, c.Name} }

// addressOnly is true of an address at which handshakes failed.
func (c Client) addressOnly() bool { return c.User == "" }

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

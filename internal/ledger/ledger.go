// Package ledger is what clients have shown of the trust anchors (CAs) that they hold: who was seen, and which handshakes
// of theirs succeeded where only one anchor could have verified the server's certificate.
//
// An anchor is an opaque label here. A Table gathers within bounds, Merge joins what two observers saw, Doubts says who
// has not shown to be ready. Guaranteed: merging the same again changes nothing, and the order doesn't matter; what was
// not kept is counted, and makes Doubts say so.
//
// A client is known by its source address and what it says of itself. Clients behind one address that say the same (NAT, a
// container host) are one here; a handshake that fails tells no more than the address.
package ledger

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Identity is who a client is, as far as it can be told.
type Identity struct {
	Address netip.Addr
	Name    string `json:",omitempty"` // of the connection, as CLIENT SETNAME or HELLO set it
	Library string `json:",omitempty"` // as CLIENT SETINFO LIB-NAME named it
	User    string `json:",omitempty"` // "" for a client that never completed a handshake
}

// maxText bounds what is kept of each thing that a client says of itself.
const maxText = 64

// Bounded is the identity as it is kept: of each thing that a client says of itself, the beginning.
func (i Identity) Bounded() Identity {
	for _, s := range []*string{&i.Name, &i.Library, &i.User} {
		*s = strings.ToValidUTF8((*s)[:min(len(*s), maxText)], "") // JSON would change it
	}
	i.Address = i.Address.Unmap()
	return i
}

// Failure is how a client refused a certificate.
type Failure string

const (
	UnknownCA          Failure = "unknown_ca"          // alert 48
	BadCertificate     Failure = "bad_certificate"     // alert 42
	CertificateUnknown Failure = "certificate_unknown" // alert 46
	Closed             Failure = "closed"              // it closed without an alert after it was shown the certificate, which is lesser evidence

	// These count only where a client was tested, because elsewhere something else may be the reason.

	UnsupportedCertificate Failure = "unsupported_certificate" // alert 43
	CertificateExpired     Failure = "certificate_expired"     // alert 45
	ClientAlert            Failure = "client_alert"            // another alert
)

// Evidence is what a client has shown of one anchor. A zero time: never.
type Evidence struct {
	Proven   time.Time `json:",omitzero"`  // a full handshake with a certificate that only this anchor verifies
	Declared time.Time `json:",omitzero"`  // it said that it verifies against this anchor, among others
	Failed   time.Time `json:",omitzero"`  // it refused a certificate that this anchor verifies
	How      Failure   `json:",omitempty"` // the last failure
}

// Shown is when the client last showed that it trusts the anchor.
func (e Evidence) Shown() time.Time { return later(e.Proven, e.Declared) }

// Trusted says whether the client has shown that it trusts the anchor, and did not fail afterwards.
func (e Evidence) Trusted() bool { return !e.Shown().IsZero() && !e.Failed.After(e.Shown()) }

// Client is one identity with what it has shown.
type Client struct {
	Identity
	First   time.Time // seen
	Last    time.Time
	Anchors map[string]Evidence `json:",omitempty"` // by label
}

// Ledger is what is known of all clients.
type Ledger struct {
	Clients     []Client
	Evicted     uint64    `json:",omitempty"` // clients that were not kept, for want of room, by this observer
	LastEvicted time.Time `json:",omitzero"`
}

// MaxClients bounds a Table and a Ledger that Merge returns.
const MaxClients = 4096

// Merge joins what two observers saw and keeps the MaxClients that were seen last. It leaves out clients that neither has seen since
// the time given, and anchors that are not to be kept. Evicted is that of b.
func Merge(a, b Ledger, since time.Time, keep func(anchor string) bool) Ledger {
	all := make(map[Identity]Client, len(a.Clients)+len(b.Clients))
	for _, c := range slices.Concat(a.Clients, b.Clients) {
		if c.Last.Before(since) {
			continue
		}
		have, ok := all[c.Identity]
		if !ok {
			have = Client{Identity: c.Identity, First: c.First}
		}
		all[c.Identity] = have.merged(c, keep)
	}
	out := Ledger{Evicted: b.Evicted, LastEvicted: later(a.LastEvicted, b.LastEvicted), Clients: slices.SortedFunc(maps.Values(all), compareClients)}
	if more := len(out.Clients) - MaxClients; more > 0 {
		slices.SortStableFunc(out.Clients, func(x, y Client) int { return y.Last.Compare(x.Last) })
		out.LastEvicted = later(out.LastEvicted, out.Clients[MaxClients].Last)
		out.Clients = out.Clients[:MaxClients]
		slices.SortFunc(out.Clients, compareClients)
	}
	return out
}

func (c Client) merged(o Client, keep func(string) bool) Client {
	if o.First.Before(c.First) {
		c.First = o.First
	}
	c.Last = later(c.Last, o.Last)
	anchors := maps.Clone(c.Anchors)
	for label, e := range o.Anchors {
		if !keep(label) {
			continue
		}
		if anchors == nil {
			anchors = make(map[string]Evidence)
		}
		anchors[label] = anchors[label].merged(e)
	}
	c.Anchors = anchors
	return c
}

func (e Evidence) merged(o Evidence) Evidence {
	e.Proven, e.Declared = later(e.Proven, o.Proven), later(e.Declared, o.Declared)
	if o.Failed.After(e.Failed) || o.Failed.Equal(e.Failed) && o.How > e.How {
		e.Failed, e.How = o.Failed, o.How
	}
	return e
}

func compareClients(a, b Client) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Library, b.Library), cmp.Compare(a.User, b.User))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Outdated says whether what is stored should be replaced by what is known now. That a time has only moved on is no reason until it
// has moved on by while.
func Outdated(stored, now Ledger, while time.Duration) bool {
	if len(stored.Clients) != len(now.Clients) || !stored.LastEvicted.Equal(now.LastEvicted) {
		return true
	}
	moved := func(a, b time.Time) bool { return a.IsZero() != b.IsZero() || b.Sub(a) >= while }
	for n, c := range now.Clients {
		s := stored.Clients[n]
		if s.Identity != c.Identity || !s.First.Equal(c.First) || moved(s.Last, c.Last) || len(s.Anchors) != len(c.Anchors) {
			return true
		}
		for label, e := range c.Anchors {
			old, ok := s.Anchors[label]
			if !ok || !old.Failed.Equal(e.Failed) || old.How != e.How || old.Trusted() != e.Trusted() ||
				moved(old.Proven, e.Proven) || moved(old.Declared, e.Declared) {
				return true
			}
		}
	}
	return false
}

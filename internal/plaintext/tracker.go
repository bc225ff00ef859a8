package plaintext

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/internal/ledger"
)

// Tracker gathers the clients without TLS of one gateway: at most MaxClients, those seen last. It is safe for concurrent use.
type Tracker struct {
	began time.Time
	table *ledger.Table

	open   atomic.Int64
	served atomic.Uint64
	closed atomic.Uint64
}

// Counts are how many connections of clients without TLS there are and were.
type Counts struct {
	Connections int64  `json:"connections"` // served now
	Served      uint64 `json:"served"`      // since the gateway started, Sealane's own probes included
	Closed      uint64 `json:"closed"`      // of these, how many were closed because plaintext was
	Clients     int    `json:"clients"`     // that are kept account of
	Evicted     uint64 `json:"evicted"`     // that are not, because there were too many
}

// NewTracker returns a Tracker that counts from now on.
func NewTracker(now time.Time) *Tracker {
	return &Tracker{began: now.UTC().Truncate(time.Millisecond), table: ledger.NewTable(MaxClients)}
}

// Begin notes that a connection is served. End is its counterpart.
func (t *Tracker) Begin() {
	t.open.Add(1)
	t.served.Add(1)
}

// End notes that a connection has ended whose client was id, and whether that was because plaintext is closed.
func (t *Tracker) End(id ledger.Identity, began, now time.Time, closed bool) {
	t.open.Add(-1)
	if closed {
		t.closed.Add(1)
	}
	t.Seen(id, began, now)
}

// EndProbe is End for a connection of Sealane's own, which is no client's.
func (t *Tracker) EndProbe() { t.open.Add(-1) }

// Seen notes that a client is there, since began at the latest.
func (t *Tracker) Seen(id ledger.Identity, began, now time.Time) {
	t.table.Seen(id, ledger.Handshake{At: began}, now)
}

// Account is all that is known, with the connections that there are now by client.
func (t *Tracker) Account(connections map[ledger.Identity]int) Account {
	a := Account{Since: t.began, Seen: t.table.Ledger()}
	for id, n := range connections {
		a.Connected = append(a.Connected, Connected{id, n})
	}
	slices.SortFunc(a.Connected, func(x, y Connected) int { return cmp.Compare(y.Connections, x.Connections) })
	a.Connected = a.Connected[:min(len(a.Connected), MaxClients)]
	return a
}

// Counts are the numbers for a gateway's status.
func (t *Tracker) Counts() Counts {
	c := Counts{Connections: t.open.Load(), Served: t.served.Load(), Closed: t.closed.Load()}
	c.Clients, c.Evicted = t.table.Count()
	return c
}

// Add counts one more connection of a client in connections, as Account wants it.
func Add(connections map[ledger.Identity]int, id ledger.Identity) {
	connections[id.Bounded()]++
}

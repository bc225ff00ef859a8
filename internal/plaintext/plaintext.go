// Package plaintext says which clients of an instance still connect without TLS, and whether plaintext can be closed without
// cutting one off.
//
// A Tracker gathers them within bounds, in a gateway's memory. Merge joins what two gateways saw, or one gateway before and after a
// restart: merging the same again changes nothing. Judge decides by what is known and by the time.
//
// A client is known by its source address and what it says of itself, as in package ledger. Clients behind one address that say the
// same are one here.
package plaintext

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/sealane/sealane/internal/ledger"
)

// MaxClients bounds how many clients are kept account of.
const MaxClients = ledger.MaxClients

// Account is what is known of the clients without TLS.
type Account struct {
	Since     time.Time     // when counting began; zero: nobody counts
	Seen      ledger.Ledger // those that were there, without any anchors
	Connected []Connected   `json:",omitempty"` // those that are there now; it is observed and not kept
}

// Connected is how many connections a client has now.
type Connected struct {
	ledger.Identity
	Connections int
}

// Client is one client without TLS.
type Client struct {
	ledger.Identity
	First, Last time.Time // seen without TLS
	Connections int       // without TLS, now
	LastTLS     time.Time // when a client of the same identity was last seen with TLS; zero: never
}

// Moved says that the client has no plaintext connection, and has come with TLS since it last had one.
func (c Client) Moved() bool { return c.Connections == 0 && c.LastTLS.After(c.Last) }

// Merge joins what was kept with what a gateway knows now. Clients that neither has seen since the time given are left out.
func Merge(kept, now Account, since time.Time) Account {
	out := Account{Since: kept.Since, Connected: now.Connected}
	if out.Since.IsZero() || !now.Since.IsZero() && now.Since.Before(out.Since) {
		out.Since = now.Since
	}
	out.Seen = ledger.Merge(kept.Seen, now.Seen, since, func(string) bool { return false })
	return out
}

// Join is what two gateways of an instance know now. Both have counted since the later of their times.
func Join(a, b Account) Account {
	out := Account{Since: a.Since, Connected: slices.Concat(a.Connected, b.Connected)}
	if b.Since.After(out.Since) {
		out.Since = b.Since
	}
	out.Seen = ledger.Merge(a.Seen, b.Seen, time.Time{}, func(string) bool { return false })
	return out
}

// Outdated says whether what is kept should be replaced by what is known now. That clients were seen again is no reason until the time
// has moved on by while.
func Outdated(kept, now Account, while time.Duration) bool {
	return !kept.Since.Equal(now.Since) || ledger.Outdated(kept.Seen, now.Seen, while)
}

// Clients are all of them, those that are connected first, and of the others the one seen last first. tls is what is known of the
// clients with TLS.
func (a Account) Clients(tls ledger.Ledger) []Client {
	all := make(map[ledger.Identity]Client, len(a.Seen.Clients))
	for _, c := range a.Seen.Clients {
		all[c.Identity] = Client{Identity: c.Identity, First: c.First, Last: c.Last}
	}
	for _, c := range a.Connected {
		have := all[c.Identity]
		have.Identity, have.Connections = c.Identity, have.Connections+c.Connections
		all[c.Identity] = have
	}
	for _, c := range tls.Clients {
		if have, ok := all[c.Identity]; ok && c.User != "" {
			have.LastTLS = c.Last
			all[c.Identity] = have
		}
	}
	return slices.SortedFunc(maps.Values(all), func(x, y Client) int {
		return cmp.Or(cmp.Compare(y.Connections, x.Connections), y.Last.Compare(x.Last), x.Address.Compare(y.Address),
			cmp.Compare(x.Name, y.Name), cmp.Compare(x.Library, y.Library), cmp.Compare(x.User, y.User))
	})
}

// Silent is the identity of connections that have sent nothing yet, such as those of a pool that opens them early.
func Silent(from netip.Addr) ledger.Identity { return ledger.Identity{Address: from.Unmap()} }

// IsSilent says that the client has sent nothing on any of its connections.
func (c Client) IsSilent() bool { return c.Identity == Silent(c.Address) }

package plaintext

import (
	"fmt"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/ledger"
)

// DefaultUnseenFor is how long no client may have come without TLS before plaintext can be closed. A week has each job in it that runs
// nightly, or at the weekend.
const DefaultUnseenFor = 7 * 24 * time.Hour

// MaxUnseenFor is the longest time that can be asked for: clients that are not seen are kept account of for so long.
const MaxUnseenFor = 90 * 24 * time.Hour

// firstCount is how long after its creation an instance's clients are counted at the latest. One that is counted since then has been
// counted for all its life.
const firstCount = 2 * time.Minute

// maxNamed is how many clients a reason names.
const maxNamed = 10

// Verdict says whether plaintext can be closed.
type Verdict struct {
	Reasons []string // why it can't be closed without cutting a client off, in words for the user; none: it can
	Cut     []Client // who would be cut off, as far as is known
}

// Safe says that nobody is known to be cut off.
func (v Verdict) Safe() bool { return len(v.Reasons) == 0 }

// Judge decides at the time now whether plaintext can be closed: no client may be connected without TLS, or have been in the last
// unseenFor, and clients must have been counted for so long, or ever since the instance was created.
func (a Account) Judge(tls ledger.Ledger, created, now time.Time, unseenFor time.Duration) Verdict {
	var v Verdict
	var connected, seen []Client
	since := now.Add(-unseenFor)
	for _, c := range a.Clients(tls) {
		switch {
		case c.Connections > 0:
			connected = append(connected, c)
		case c.Last.After(since):
			seen = append(seen, c)
		default:
			continue
		}
		v.Cut = append(v.Cut, c)
	}
	if len(connected) > 0 {
		v.Reasons = append(v.Reasons, fmt.Sprintf("%s connected without TLS: %s", countClients(len(connected), "is", "are"), List(connected)))
	}
	if len(seen) > 0 {
		v.Reasons = append(v.Reasons, fmt.Sprintf("%s seen without TLS in the last %s: %s", countClients(len(seen), "was", "were"), Days(unseenFor), List(seen)))
	}
	if a.Seen.LastEvicted.After(since) {
		v.Reasons = append(v.Reasons, fmt.Sprintf("there were more clients without TLS than the %d that are kept account of, the last time on %s",
			MaxClients, a.Seen.LastEvicted.UTC().Format(time.RFC3339)))
	}
	switch {
	case a.Since.IsZero():
		v.Reasons = append(v.Reasons, "clients without TLS are not counted: the gateway does not answer, or is of an older version")
	case a.Since.After(since) && a.Since.After(created.Add(firstCount)):
		v.Reasons = append(v.Reasons, fmt.Sprintf("clients without TLS are counted only since %s: one that comes rarely may not have been seen; that it was not for %s is known on %s",
			a.Since.UTC().Format(time.RFC3339), Days(unseenFor), a.Since.Add(unseenFor).UTC().Format(time.RFC3339)))
	}
	return v
}

func countClients(n int, one, many string) string {
	if n == 1 {
		return "1 client " + one
	}
	return fmt.Sprintf("%d clients %s", n, many)
}

// List names clients, the first few of many.
func List(clients []Client) string {
	var named []string
	for _, c := range clients[:min(len(clients), maxNamed)] {
		named = append(named, c.String())
	}
	text := strings.Join(named, "; ")
	if n := len(clients) - len(named); n > 0 {
		text += fmt.Sprintf("; and %d more", n)
	}
	return text
}

// String says who a client is, and where it stands.
func (c Client) String() string {
	var b strings.Builder
	b.WriteString(c.Address.String())
	for _, f := range []struct{ name, value string }{{"name", c.Name}, {"library", c.Library}, {"user", c.User}} {
		if f.value != "" {
			fmt.Fprintf(&b, " %s=%q", f.name, f.value)
		}
	}
	switch {
	case c.IsSilent() && c.Connections > 0:
		fmt.Fprintf(&b, " (%s, nothing sent yet)", connections(c.Connections))
	case c.Connections > 0:
		fmt.Fprintf(&b, " (%s)", connections(c.Connections))
	case c.Moved():
		fmt.Fprintf(&b, " (last on %s, with TLS since)", c.Last.UTC().Format(time.RFC3339))
	default:
		fmt.Fprintf(&b, " (last on %s)", c.Last.UTC().Format(time.RFC3339))
	}
	return b.String()
}

func connections(n int) string {
	if n == 1 {
		return "1 connection"
	}
	return fmt.Sprintf("%d connections", n)
}

// Days is a time in words: in days where it is whole days.
func Days(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == day:
		return "day"
	case d > 0 && d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	}
	return strings.TrimSuffix(strings.TrimSuffix(d.String(), "0s"), "0m")
}

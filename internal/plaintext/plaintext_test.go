package plaintext_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/plaintext"
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func client(name string) ledger.Identity {
	return ledger.Identity{Address: netip.MustParseAddr("10.0.0.1"), Name: name, Library: "redis-py", User: "default"}
}

func seen(id ledger.Identity, last time.Time) ledger.Client {
	return ledger.Client{Identity: id, First: start, Last: last}
}

func TestWhetherPlaintextCanBeClosed(t *testing.T) {
	t.Parallel()
	now := start.Add(30 * day)
	for name, c := range map[string]struct {
		account   plaintext.Account
		unseenFor time.Duration
		want      string // the reasons, joined; "": it can be closed
		cut       int
	}{
		"nobody was ever there": {plaintext.Account{Since: start}, 7 * day, "", 0},
		"the last was there eight days ago": {plaintext.Account{Since: start, Seen: ledger.Ledger{Clients: []ledger.Client{
			seen(client("a"), now.Add(-8*day))}}}, 7 * day, "", 0},
		"one is connected": {plaintext.Account{Since: start, Connected: []plaintext.Connected{{Identity: client("a"), Connections: 3}}}, 7 * day,
			`1 client is connected without TLS: 10.0.0.1 name="a" library="redis-py" user="default" (3 connections)`, 1},
		"one has sent nothing yet": {plaintext.Account{Since: start, Connected: []plaintext.Connected{{Identity: plaintext.Silent(netip.MustParseAddr("::ffff:10.0.0.9")), Connections: 1}}}, 7 * day,
			`1 client is connected without TLS: 10.0.0.9 (1 connection, nothing sent yet)`, 1},
		"one was there yesterday, and one has come with TLS since": {plaintext.Account{Since: start, Seen: ledger.Ledger{Clients: []ledger.Client{
			seen(client("a"), now.Add(-day)), seen(client("tls"), now.Add(-2*day))}}}, 7 * day,
			`2 clients were seen without TLS in the last 7 days: 10.0.0.1 name="a" library="redis-py" user="default" (last on 2030-01-30T00:00:00Z); ` +
				`10.0.0.1 name="tls" library="redis-py" user="default" (last on 2030-01-29T00:00:00Z, with TLS since)`, 2},
		"one was there yesterday, and an hour is enough": {plaintext.Account{Since: start, Seen: ledger.Ledger{Clients: []ledger.Client{
			seen(client("a"), now.Add(-day))}}}, time.Hour, "", 0},
		"there were too many": {plaintext.Account{Since: start, Seen: ledger.Ledger{LastEvicted: now.Add(-day)}}, 7 * day,
			`there were more clients without TLS than the 4096 that are kept account of, the last time on 2030-01-30T00:00:00Z`, 0},
		"nobody counts": {plaintext.Account{}, 7 * day, "clients without TLS are not counted: the gateway does not answer, or is of an older version", 0},
		"counted for too short a time": {plaintext.Account{Since: now.Add(-day)}, 7 * day, "clients without TLS are counted only since 2030-01-30T00:00:00Z: one that comes rarely may " +
			"not have been seen; that it was not for 7 days is known on 2030-02-06T00:00:00Z", 0},
		"counted for a day, which is enough": {plaintext.Account{Since: now.Add(-day)}, day, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tls := ledger.Ledger{Clients: []ledger.Client{seen(client("tls"), now)}}
			v := c.account.Judge(tls, start, now, c.unseenFor)
			if got := strings.Join(v.Reasons, "\n"); got != c.want || v.Safe() != (c.want == "") || len(v.Cut) != c.cut {
				t.Errorf("got %s\nwant %s\n%d would be cut; want %d", got, c.want, len(v.Cut), c.cut)
			}
		})
	}
}

// An instance that is counted since its creation needs no week of it.
func TestYoungInstanceIsKnownSinceItsCreation(t *testing.T) {
	t.Parallel()
	created := start.Add(-time.Second)
	if v := (plaintext.Account{Since: start}).Judge(ledger.Ledger{}, created, start.Add(time.Minute), 7*day); !v.Safe() {
		t.Errorf("reasons %q", v.Reasons)
	}
}

func TestManyClientsAreNotAllNamed(t *testing.T) {
	t.Parallel()
	a := plaintext.Account{Since: start}
	for n := range 100 {
		a.Connected = append(a.Connected, plaintext.Connected{Identity: client(fmt.Sprint(n)), Connections: 1})
	}
	v := a.Judge(ledger.Ledger{}, start, start, day)
	if got := v.Reasons[0]; len(v.Cut) != 100 || !strings.HasSuffix(got, "; and 90 more") || strings.Count(got, "name=") != 10 {
		t.Errorf("%d clients, %s", len(v.Cut), got)
	}
}

// What is kept survives a gateway that starts anew, and a second one that says the same.
func TestMergeKeepsWhatWasSeen(t *testing.T) {
	t.Parallel()
	one := plaintext.NewTracker(start)
	one.Begin()
	one.Begin()
	one.End(client("a"), start, start.Add(time.Minute), true)
	connections := map[ledger.Identity]int{}
	plaintext.Add(connections, client("b"))
	now := one.Account(connections)
	if c := one.Counts(); c != (plaintext.Counts{Connections: 1, Served: 2, Closed: 1, Clients: 1}) {
		t.Errorf("counts %+v", c)
	}
	kept := plaintext.Merge(plaintext.Account{}, now, start.Add(-day))
	if again := plaintext.Merge(kept, now, start.Add(-day)); !reflect.DeepEqual(again, kept) {
		t.Errorf("merged again: %+v; want %+v", again, kept)
	}
	if plaintext.Outdated(kept, now, time.Hour) || !plaintext.Outdated(plaintext.Account{}, now, time.Hour) {
		t.Error("what is kept is outdated although nothing is new, or the other way round")
	}
	data, err := json.Marshal(kept)
	if err != nil {
		t.Fatal(err)
	}
	var read plaintext.Account
	if err := json.Unmarshal(data, &read); err != nil || !reflect.DeepEqual(read, kept) {
		t.Errorf("read back %+v, %v; want %+v", read, err, kept)
	}
	other := plaintext.NewTracker(start.Add(time.Hour)).Account(nil)
	all := plaintext.Merge(kept, other, start.Add(-day))
	if clients := all.Clients(ledger.Ledger{}); len(clients) != 1 || clients[0].Identity != client("a") || clients[0].Connections != 0 || !all.Since.Equal(start) {
		t.Errorf("after a restart of the gateway: %+v, since %s", clients, all.Since)
	}
	if all := plaintext.Merge(kept, other, start.Add(day)); len(all.Seen.Clients) != 0 {
		t.Errorf("clients of long ago are kept: %+v", all.Seen.Clients)
	}
}

package ledger_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/ledger"
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func at(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }

func client(address, name string) ledger.Identity {
	return ledger.Identity{Address: netip.MustParseAddr(address), Name: name, User: "default"}
}

func shake(minute int, anchors ...string) ledger.Handshake {
	return ledger.Handshake{At: at(minute), Anchors: anchors}
}

func everything(string) bool { return true }

func TestWhoIsInDoubt(t *testing.T) {
	t.Parallel()
	a, b := client("10.0.0.1", "a"), client("10.0.0.1", "b")
	far := client("10.0.0.2", "far")
	for name, c := range map[string]struct {
		happens func(*ledger.Table)
		want    string // name:readiness, those in doubt first
		ok      bool
	}{
		"nobody was seen":             {func(*ledger.Table) {}, "", false},
		"only seen under the old one": {func(t *ledger.Table) { t.Seen(a, shake(1, "old"), at(2)) }, "a:unknown", false},
		"seen under both":             {func(t *ledger.Table) { t.Seen(a, shake(1, "old", "new"), at(2)) }, "a:unknown", false},
		"proven":                      {func(t *ledger.Table) { t.Seen(a, shake(1, "new"), at(2)) }, "a:proven", true},
		"a resumed session": {func(t *ledger.Table) {
			t.Seen(a, ledger.Handshake{At: at(1), Resumed: true, Anchors: []string{"new"}}, at(2))
		}, "a:unknown", false},
		"another program of that name": {func(t *ledger.Table) {
			tool := a
			tool.Library = "redis-cli"
			t.Seen(a, shake(1, "old"), at(2))
			t.Seen(tool, shake(3, "new"), at(4))
		}, "a:proven a:proven", true},
		"declared": {func(t *ledger.Table) {
			t.Seen(a, ledger.Handshake{At: at(1), Anchors: []string{"old"}, Declared: []string{"new"}}, at(2))
		}, "a:declared", true},
		"one of two": {func(t *ledger.Table) { t.Seen(a, shake(1, "new"), at(2)); t.Seen(far, shake(1, "old"), at(2)) }, "far:unknown a:proven", false},
		"failed afterwards": {func(t *ledger.Table) {
			t.Seen(a, shake(1, "new"), at(2))
			t.Failed(a.Address, []string{"new"}, ledger.UnknownCA, at(3))
		}, "a:failed", false},
		"failed before": {func(t *ledger.Table) {
			t.Failed(a.Address, []string{"new"}, ledger.UnknownCA, at(0))
			t.Seen(a, shake(1, "new"), at(2))
		}, "a:proven", true},
		"failed at another address": {func(t *ledger.Table) {
			t.Failed(far.Address, []string{"new"}, ledger.UnknownCA, at(3))
			t.Seen(a, shake(1, "new"), at(2))
		}, ":failed a:proven", false},
		"failed under the old one": {func(t *ledger.Table) {
			t.Failed(far.Address, []string{"old"}, ledger.UnknownCA, at(3))
			t.Seen(a, shake(1, "new"), at(2))
		}, "a:proven", true},
		"closed while it was tested": {func(t *ledger.Table) {
			t.Failed(far.Address, []string{"new"}, ledger.Closed, at(3))
			t.Seen(a, shake(1, "new"), at(2))
		}, ":failed a:proven", false},
		"closed while it was not": {func(t *ledger.Table) {
			t.Failed(far.Address, []string{"old", "new"}, ledger.Closed, at(3))
			t.Seen(a, shake(1, "new"), at(2))
		}, "a:proven", true},
		"another one there has shown it": {func(t *ledger.Table) {
			t.Seen(b, shake(1, "old"), at(2))
			t.Failed(a.Address, []string{"new"}, ledger.UnknownCA, at(3))
			t.Seen(a, shake(4, "new"), at(5))
		}, "b:failed a:proven", false},
		"both there have shown it since": {func(t *ledger.Table) {
			t.Failed(a.Address, []string{"new"}, ledger.UnknownCA, at(3))
			t.Seen(a, shake(4, "new"), at(5))
			t.Seen(b, shake(4, "new"), at(5))
		}, "a:proven b:proven", true},
		"who was last seen long ago":  {func(t *ledger.Table) { t.Seen(a, shake(-90, "old"), at(-80)); t.Seen(b, shake(1, "new"), at(2)) }, "b:proven", true},
		"all were last seen long ago": {func(t *ledger.Table) { t.Seen(a, shake(-90, "new"), at(-80)) }, "", false},
		"a failure of long ago": {func(t *ledger.Table) {
			t.Failed(far.Address, []string{"new"}, ledger.UnknownCA, at(-80))
			t.Seen(a, shake(1, "new"), at(2))
		}, "a:proven", true},
	} {
		table := ledger.NewTable(10)
		c.happens(table)
		l := table.Ledger()
		var got []string
		for _, s := range l.Statuses([]string{"new"}, at(-60)) {
			got = append(got, s.Name+":"+string(s.Readiness))
		}
		_, ok := l.Doubts([]string{"new"}, at(-60))
		if text := strings.Join(got, " "); text != c.want || ok != c.ok {
			t.Errorf("%s: %s, ready: %t; want %s, %t", name, text, ok, c.want, c.ok)
		}
	}
}

// With two proofs a client must give each: what one chain shows says nothing of the other.
func TestBothProofsAreNeeded(t *testing.T) {
	t.Parallel()
	a, b := client("10.0.0.1", "a"), client("10.0.0.1", "b")
	tool := a
	tool.Library = "redis-cli"
	for name, c := range map[string]struct {
		happens func(*ledger.Table)
		want    string // name:readiness, and what is missing
		ok      bool
	}{
		"the CA alone":       {func(t *ledger.Table) { t.Seen(a, shake(1, "new"), at(2)) }, "a:unknown[cross]", false},
		"the cross alone":    {func(t *ledger.Table) { t.Seen(a, shake(1, "cross"), at(2)) }, "a:unknown[new]", false},
		"neither":            {func(t *ledger.Table) { t.Seen(a, shake(1, "old"), at(2)) }, "a:unknown[]", false},
		"both":               {func(t *ledger.Table) { t.Seen(a, shake(1, "new"), at(2)); t.Seen(a, shake(3, "cross"), at(4)) }, "a:proven[]", true},
		"by two programs":    {func(t *ledger.Table) { t.Seen(a, shake(1, "new"), at(2)); t.Seen(tool, shake(3, "cross"), at(4)) }, "a:proven[] a:proven[]", true},
		"each by another":    {func(t *ledger.Table) { t.Seen(a, shake(1, "new"), at(2)); t.Seen(b, shake(3, "cross"), at(4)) }, "b:unknown[new] a:unknown[cross]", false},
		"declared":           {func(t *ledger.Table) { t.Seen(a, ledger.Handshake{At: at(1), Declared: []string{"new"}}, at(2)) }, "a:declared[]", true},
		"declared the cross": {func(t *ledger.Table) { t.Seen(a, ledger.Handshake{At: at(1), Declared: []string{"cross"}}, at(2)) }, "a:unknown[]", false},
		// As Erlang did when the cross-certificate had name constraints: CA-2 alone proves nothing about it.
		"refused the cross, then the CA alone": {func(t *ledger.Table) {
			t.Failed(a.Address, []string{"cross"}, ledger.ClientAlert, at(1))
			t.Seen(a, shake(3, "new"), at(4))
		}, "a:failed[]", false},
		"refused the cross after both": {func(t *ledger.Table) {
			t.Seen(a, shake(1, "new"), at(2))
			t.Seen(a, shake(1, "cross"), at(2))
			t.Failed(a.Address, []string{"cross"}, ledger.ClientAlert, at(3))
			t.Seen(a, shake(4, "new"), at(5))
		}, "a:failed[]", false},
		"refused the cross, and it is mended": {func(t *ledger.Table) {
			t.Failed(a.Address, []string{"cross"}, ledger.ClientAlert, at(1))
			t.Seen(a, shake(3, "new"), at(4))
			t.Seen(a, shake(3, "cross"), at(4))
		}, "a:proven[]", true},
		"somebody refused the cross": {func(t *ledger.Table) {
			t.Failed(netip.MustParseAddr("10.0.0.2"), []string{"cross"}, ledger.Closed, at(1))
			t.Seen(a, shake(3, "new"), at(4))
			t.Seen(a, shake(3, "cross"), at(4))
		}, ":failed[] a:proven[]", false},
	} {
		table := ledger.NewTable(10)
		c.happens(table)
		l, proofs := table.Ledger(), []string{"new", "cross"}
		var got []string
		for _, s := range l.Statuses(proofs, at(-60)) {
			got = append(got, s.Name+":"+string(s.Readiness)+fmt.Sprint(s.Missing))
		}
		_, ok := l.Doubts(proofs, at(-60))
		if text := strings.Join(got, " "); text != c.want || ok != c.ok {
			t.Errorf("%s: %s, ready: %t; want %s, %t", name, text, ok, c.want, c.ok)
		}
	}
	if got := (ledger.Ledger{Clients: []ledger.Client{{Identity: a, Last: at(1)}}}).Statuses(nil, at(0)); len(got) != 1 || got[0].Ready() {
		t.Errorf("of no proof: %v", got)
	}
}

// A table keeps those seen last, and says that it lost some: then nothing can be said of all.
func TestTablesAreBounded(t *testing.T) {
	t.Parallel()
	table := ledger.NewTable(2)
	for n, name := range []string{"a", "b", "a", "c"} {
		table.Seen(client("10.0.0.1", name), shake(n, "new"), at(n))
	}
	l := table.Ledger()
	if len(l.Clients) != 2 || l.Clients[0].Name != "a" || l.Clients[1].Name != "c" || l.Evicted != 1 || !l.LastEvicted.Equal(at(3)) {
		t.Errorf("%+v", l)
	}
	if d, ok := l.Doubts([]string{"new"}, at(-60)); ok || !d.Evicted || len(d.Clients) != 0 {
		t.Errorf("%+v, %t", d, ok)
	}
	if _, ok := l.Doubts([]string{"new"}, at(3)); !ok {
		t.Error("an eviction of before counts")
	}
	long := ledger.Identity{Address: netip.MustParseAddr("::ffff:10.0.0.1"), Name: strings.Repeat("ä", 1000), User: "u"}
	table.Seen(long, shake(1, "new"), at(4))
	for _, c := range table.Ledger().Clients {
		if len(c.Name) > 64 || !c.Address.Is4() {
			t.Errorf("kept: %d bytes of a name, %s", len(c.Name), c.Address)
		}
	}
	table.Keep([]string{"other"})
	if got := table.Ledger().Clients[0].Anchors; len(got) != 0 {
		t.Errorf("kept: %v", got)
	}
	var many ledger.Ledger
	for n := range ledger.MaxClients + 3 {
		many.Clients = append(many.Clients, ledger.Client{Identity: client("10.0.0.1", fmt.Sprint(n)), First: at(n), Last: at(n)})
	}
	if got := ledger.Merge(many, ledger.Ledger{}, time.Time{}, everything); len(got.Clients) != ledger.MaxClients || !got.LastEvicted.Equal(at(2)) {
		t.Errorf("merged: %d, %s", len(got.Clients), got.LastEvicted)
	}
}

// Merging is idempotent, and the order doesn't matter; what nobody saw lately and anchors of no interest go.
func TestMerging(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	table := func() ledger.Ledger {
		table := ledger.NewTable(100)
		for range 50 {
			id := client(fmt.Sprintf("10.0.0.%d", random.IntN(4)), string(rune('a'+random.IntN(3))))
			from := random.IntN(1000)
			if random.IntN(3) == 0 {
				table.Failed(id.Address, []string{"old", "new"}, ledger.UnknownCA, at(from))
				continue
			}
			table.Seen(id, shake(from, []string{"old", "new", "gone"}[random.IntN(3)]), at(from+random.IntN(100)))
		}
		return table.Ledger()
	}
	keep := func(label string) bool { return label != "gone" }
	merge := func(a, b ledger.Ledger) ledger.Ledger { return ledger.Merge(a, b, at(100), keep) }
	for range 100 {
		a, b := table(), table()
		one, other := merge(a, b), merge(b, a)
		if !reflect.DeepEqual(one, other) || !reflect.DeepEqual(one, merge(one, b)) || !reflect.DeepEqual(one, merge(one, one)) {
			t.Fatalf("%v and %v", one, other)
		}
		for _, c := range one.Clients {
			if _, ok := c.Anchors["gone"]; ok || c.Last.Before(at(100)) {
				t.Errorf("kept: %v", c)
			}
		}
		data, err := json.Marshal(one)
		var back ledger.Ledger
		if err != nil || json.Unmarshal(data, &back) != nil || ledger.Outdated(one, back, time.Hour) {
			t.Errorf("as JSON: %s, %v", data, err)
		}
	}
}

// What is stored is written anew for news, and not because time goes on.
func TestOutdated(t *testing.T) {
	t.Parallel()
	a := client("10.0.0.1", "a")
	for name, c := range map[string]struct {
		then func(*ledger.Table)
		want bool
	}{
		"nothing":            {func(*ledger.Table) {}, false},
		"seen again":         {func(t *ledger.Table) { t.Seen(a, shake(1, "new"), at(30)) }, false},
		"proven again":       {func(t *ledger.Table) { t.Seen(a, shake(29, "new"), at(30)) }, false},
		"seen an hour later": {func(t *ledger.Table) { t.Seen(a, shake(1, "new"), at(62)) }, true},
		"somebody else":      {func(t *ledger.Table) { t.Seen(client("10.0.0.1", "b"), shake(1, "new"), at(2)) }, true},
		"a failure":          {func(t *ledger.Table) { t.Failed(a.Address, []string{"new"}, ledger.UnknownCA, at(2)) }, true},
		"another anchor":     {func(t *ledger.Table) { t.Seen(a, shake(1, "old"), at(2)) }, true},
		"declared":           {func(t *ledger.Table) { t.Seen(a, ledger.Handshake{At: at(2), Declared: []string{"new"}}, at(3)) }, true},
	} {
		table := ledger.NewTable(10)
		table.Seen(a, shake(1, "new"), at(2))
		before := table.Ledger()
		c.then(table)
		if got := ledger.Outdated(before, table.Ledger(), time.Hour); got != c.want {
			t.Errorf("%s: %t; want %t", name, got, c.want)
		}
	}
}

package pki_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

// A new name never costs a client that uses an old one anything; it is in the second leaf at once, and in the first
// when no client can be hurt any more.
func TestNewNameOutsideTheConstraints(t *testing.T) {
	t.Parallel()
	at := func(days int) time.Time { return start.Truncate(time.Second).Add(time.Duration(days) * day) }
	w := newWorld(t, pki.State{NameConstraints: true, Names: pki.Names{DNS: []string{"a.example"}, IPs: addressOnly.IPs, URI: addressOnly.URI}}, start)
	first := w.s.At(start).Bundle()
	w.s.Names.DNS = []string{"a.example", "below.a.example"}
	if plan := w.tick(at(10)); len(plan) != 1 || plan[0].Kind != pki.IssueLeaf {
		t.Fatalf("for a name below a permitted one: %v; want a new leaf", plan)
	}

	w.s.Names.DNS = []string{"a.example", "new.example"}
	w.s.Names.IPs = append(slices.Clone(addressOnly.IPs), ip("10.9.9.9"))
	plan := w.tick(at(100))
	if got := fmt.Sprint(kinds(plan)); got != "[create-ca sign-cross issue-leaf issue-next-leaf]" || !strings.Contains(plan[0].Reason, "CA-1 does not permit the instance's new names: new.example, 10.9.9.9") {
		t.Errorf("%s, %s", got, plan[0].Reason)
	}
	w.wantNames(at(100), "a.example 10.1.2.3", "a.example new.example 10.1.2.3 10.9.9.9")
	o, err := w.s.At(at(100)).Overview()
	if err != nil || fmt.Sprint(o.Leaf.Waiting) != "[new.example 10.9.9.9]" || len(o.Warnings) != 1 || !strings.Contains(o.Warnings[0], "activate the next generation and retire CA-1") {
		t.Errorf("waiting %v, warnings %q, %v", o.Leaf.Waiting, o.Warnings, err)
	}

	actions, err := w.s.Activate(at(200))
	if err != nil {
		t.Fatal(err)
	}
	w.do(at(200), actions)
	w.wantNames(at(200), "a.example 10.1.2.3", "a.example new.example 10.1.2.3 10.9.9.9")
	for _, host := range []string{"a.example", "10.1.2.3"} {
		if err := verify(t, first, w.served, host, at(200)); err != nil {
			t.Errorf("who holds only CA-1 fails: %v", err)
		}
	}
	if actions, err = w.s.Retire(at(300)); err != nil {
		t.Fatal(err)
	}
	w.do(at(300), actions)
	w.wantNames(at(300), "a.example new.example 10.1.2.3 10.9.9.9", "")
	if o, err = w.s.At(at(300)).Overview(); err != nil || len(o.Leaf.Waiting)+len(o.Warnings) != 0 {
		t.Errorf("waiting %v, warnings %q, %v", o.Leaf.Waiting, o.Warnings, err)
	}
	w.bundles = map[string]time.Time{}
	w.install(at(300))
	w.check(at(300), 0)
}

// A glitch years ahead, during which a waiting name was served, takes nothing from who doesn't know of it.
func TestGlitchWhileANameWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pki.State{NameConstraints: true, Names: pki.Names{DNS: []string{"a.example"}}}, start)
	now := start.Add(100 * day)
	w.s.Names.DNS = []string{"a.example", "b.example"}
	w.tick(now)
	w.do(now.Add(6000*day), pki.Plan(w.s, now.Add(6000*day)))
	if len(w.s.Leaf.Names.DNS) != 2 {
		t.Errorf("years later the leaf has only %v", w.s.Leaf.Names.DNS)
	}
	w.tick(now)
	w.check(now, w.s.Lifetimes.Grace())
	w.wantNames(now, "a.example", "a.example b.example")
}

// A third generation, for a new name, waits for its turn: while CA-2 is served under CA-1, it can't be CA-3.
func TestThirdGenerationWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pki.State{NameConstraints: true, Names: pki.Names{DNS: []string{"a.example"}}}, start)
	at := func(days int) time.Time { return start.Truncate(time.Second).Add(time.Duration(days) * day) }
	for now := w.next(start); now.Before(at(2740)); now = w.next(now) {
		if now.After(at(1900)) {
			w.s.Names.DNS = []string{"a.example", "b.example"}
		}
		w.tick(now)
		w.check(now, w.s.Lifetimes.Grace())
	}
	coming := w.s.At(at(2740)).Upcoming()
	i := slices.IndexFunc(coming, func(a pki.Action) bool { return a.Kind == pki.ActivateCA })
	if len(w.s.CAs) != 3 || i < 0 || coming[i].Generation != 3 || !coming[i].Due.Equal(at(3620)) {
		t.Errorf("%d generations; to come: %v; want CA-3 to be activated on %s", len(w.s.CAs), coming, at(3620))
	}
	if _, err := w.s.Activate(at(2740)); err == nil || !strings.Contains(err.Error(), "clients that hold only CA-1 still depend on CA-2: retire CA-1 first") {
		t.Errorf("activate: %v", err)
	}
	for now := w.next(at(2740)); now.Before(at(9000)); now = w.next(now) {
		w.tick(now)
		w.check(now, w.s.Lifetimes.Grace())
	}
}

// With a name that does not fit and all the rest of its life by default, the new name comes when CA-1 has gone.
func TestNewNameComesByItself(t *testing.T) {
	t.Parallel()
	now := start.Truncate(time.Second)
	w := newWorld(t, pki.State{NameConstraints: true, Names: pki.Names{DNS: []string{"a.example"}}}, now)
	w.s.Names.DNS = []string{"a.example", "b.example"}
	changed := now.Add(100 * day)
	w.tick(changed)
	for now = changed; len(w.s.Leaf.Names.DNS) == 1; now = w.next(now) {
		w.tick(now)
		w.check(now, w.s.Lifetimes.Grace())
	}
	if got := w.s.Leaf.Created.Sub(changed); got != 1825*day {
		t.Errorf("the new name was in the leaf after %s; want 1825 days", got)
	}
}

// Names beyond a third generation wait until there is room, and say so.
func TestNewNamesWaitForRoom(t *testing.T) {
	t.Parallel()
	now := start.Truncate(time.Second)
	w := newWorld(t, pki.State{NameConstraints: true, Names: pki.Names{DNS: []string{"a.example"}}}, now)
	for _, want := range []int{2, 3, 3} {
		now = now.Add(10 * day)
		w.s.Names.DNS = append(slices.Clone(w.s.Names.DNS), fmt.Sprintf("new%d.example", len(w.s.Names.DNS)))
		w.tick(now)
		if got := len(w.s.CAs); got != want {
			t.Fatalf("%d names: %d generations; want %d", len(w.s.Names.DNS), got, want)
		}
	}
	o, err := w.s.At(now).Overview()
	if want := "new1.example, new2.example, new3.example: not in the server certificate yet, for clients that hold nothing newer than CA-1 and CA-2 and CA-3"; err != nil ||
		len(o.Warnings) != 1 || !strings.HasPrefix(o.Warnings[0], want) {
		t.Errorf("warnings %q, %v; want %q", o.Warnings, err, want)
	}
	for len(w.s.CAs) < 4 {
		now = w.next(now)
		w.tick(now)
		w.check(now, w.s.Lifetimes.Grace())
	}
	if got := now.Sub(start.Truncate(time.Second)); got != 1835*day {
		t.Errorf("the fourth came after %s; want 1835 days, when CA-1 was retired", got)
	}
	w.wantNames(now, "a.example new1.example", strings.Join(w.s.Names.DNS, " "))
}

// An instance all of whose names change is not held up by a CA that is of no use any more; and when that was an error, the
// clients of the old names find all as it was.
func TestAllNamesChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pki.State{NameConstraints: true, Names: pki.Names{DNS: []string{"a.example"}}}, start)
	before := w.s.At(start).Bundle()
	now := start.Add(100 * day)
	for _, tt := range []struct{ name, want string }{
		{"b.example", "[create-ca issue-leaf]"},
		{"a.example", "[issue-leaf]"},
		{"c.example", "[create-ca issue-leaf]"},
		{"d.example", "[create-ca issue-leaf]"},
		{"b.example", "[issue-leaf]"},
		{"a.example", "[issue-leaf]"},
	} {
		now = now.Add(100 * day)
		w.s.Names.DNS = []string{tt.name}
		if got := fmt.Sprint(kinds(w.tick(now))); got != tt.want {
			t.Errorf("%s: done %s; want %s", tt.name, got, tt.want)
		}
		w.wantNames(now, tt.name, "")
		if err := verify(t, w.s.At(now).Bundle(), w.served, tt.name, now); err != nil {
			t.Error(err)
		}
		o, err := w.s.At(now).Overview()
		if err != nil || len(o.Warnings) != 0 {
			t.Errorf("warnings %v, %v", o.Warnings, err)
		}
		for _, ca := range o.CAs {
			if ca.Signs != (ca.State == pki.Signing) || !ca.Signs && ca.State != pki.PassedOver {
				t.Errorf("%s: CA-%d is %s", tt.name, ca.Generation, ca.State)
			}
		}
	}
	if err := verify(t, before, w.served, "a.example", now); err != nil {
		t.Errorf("a client of the beginning: %v", err)
	}
}

// client is one that installed a bundle and uses the names that the server had then.
type client struct {
	bundle    []byte
	installed time.Time
	hosts     []string
}

// Names that come and go for thirty years: a client that uses a name for as long as it is one is not disturbed.
func TestNamesComeAndGo(t *testing.T) {
	t.Parallel()
	for seed, kind := range kindsOfCAs {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(5, uint64(seed)))
			now := start
			w := newWorld(t, pki.State{NameConstraints: kind.constrained(1), Names: pki.Names{DNS: []string{"n0.example"}}}, now)
			var clients []client
			step := func() {
				w.s = w.s.WithNameConstraints(kind.constrained(len(w.s.CAs) + 1))
				w.tick(now)
				clients = slices.DeleteFunc(clients, func(c client) bool { return now.Sub(c.installed) > w.s.Lifetimes.Grace() })
				for i := range clients {
					c := &clients[i]
					c.hosts = slices.DeleteFunc(c.hosts, func(h string) bool { return !slices.Contains(hostsOf(w.s.Names), h) })
					for _, h := range c.hosts {
						if err := verify(t, c.bundle, w.served, h, now); err != nil {
							t.Fatalf("day %.2f: a client of day %.2f fails for %s: %v\n%s", days(now), days(c.installed), h, err, w.history())
						}
					}
				}
				clients = append(clients, client{w.s.At(now).Bundle(), now, hostsOf(w.s.Leaf.Names)})
				w.checkNext(now)
			}
			for now.Before(start.AddDate(30, 0, 0)) {
				until := now.Add(time.Duration(random.Int64N(int64(600 * day))))
				for due := w.next(now); due.Before(until); due = w.next(now) {
					now = due
					step()
				}
				now = until
				w.s.Names = randomNames(random)
				step()
			}
		})
	}
}

func randomNames(random *rand.Rand) pki.Names {
	var n pki.Names
	for i := range 4 {
		if random.IntN(3) > 0 {
			n.DNS = append(n.DNS, fmt.Sprintf("n%d.example", i))
		}
		if random.IntN(3) > 0 {
			n.IPs = append(n.IPs, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
		}
	}
	return n
}

func hostsOf(n pki.Names) []string {
	hosts := slices.Clone(n.DNS)
	for _, ip := range n.IPs {
		hosts = append(hosts, ip.String())
	}
	return hosts
}

// wantNames checks the names of the leaf and of the second leaf, which is served if it is to have any.
func (w *world) wantNames(now time.Time, leaf, next string) {
	w.t.Helper()
	if got := strings.Join(hostsOf(w.s.Leaf.Names), " "); got != leaf {
		w.t.Errorf("the leaf has the names %q; want %q", got, leaf)
	}
	o, err := w.s.At(now).Overview()
	if err != nil {
		w.t.Fatal(err)
	}
	if got := ""; next == "" {
		if o.Next != nil && len(w.s.Next.Names.DNS) > 0 {
			w.t.Errorf("a second leaf is served with %v", o.Next.Names)
		}
	} else if o.Next != nil {
		if got = strings.Join(hostsOf(w.s.Next.Names), " "); got != next {
			w.t.Errorf("the second leaf has the names %q; want %q", got, next)
		}
	} else {
		w.t.Error("no second leaf is served")
	}
}

func kinds(actions []pki.Action) []pki.Kind {
	var out []pki.Kind
	for _, a := range actions {
		out = append(out, a.Kind)
	}
	return out
}

package instance_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
)

// crowd is what a gateway has gathered.
type crowd struct {
	m     *machine
	mu    sync.Mutex
	table *ledger.Table
}

// gathers gives the machine's gateways a ledger.
func (m *machine) gathers() *crowd {
	c := &crowd{m: m, table: ledger.NewTable(ledger.MaxClients)}
	m.set(func() {
		m.ledger = func() (ledger.Ledger, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.table.Ledger(), nil
		}
	})
	return c
}

// restart is a gateway that begins anew.
func (c *crowd) restart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table = ledger.NewTable(ledger.MaxClients)
}

func app(name string) ledger.Identity {
	return ledger.Identity{Address: netip.MustParseAddr("10.0.0.7"), Name: name, Library: "redis-py", User: "default"}
}

// label is that of one of the instance's CAs.
func (m *machine) label(generation int) string {
	m.t.Helper()
	return m.get(first).Certificates.CAs[generation-1].Fingerprint()
}

// connects is a handshake under the certificate that one generation verifies.
func (c *crowd) connects(who ledger.Identity, generation int) {
	label := c.m.label(generation)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.Seen(who, ledger.Handshake{At: c.m.now(), Anchors: []string{label}}, c.m.now())
}

// tested is a handshake under each chain that is to be proven of a generation.
func (c *crowd) tested(who ledger.Identity, generation int) {
	c.m.t.Helper()
	proofs := c.m.get(first).Certificates.At(c.m.now()).Proofs(generation)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, label := range proofs {
		c.table.Seen(who, ledger.Handshake{At: c.m.now(), Anchors: []string{label}}, c.m.now())
	}
}

func (c *crowd) fails(who ledger.Identity, generation int) {
	label := c.m.label(generation)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.Failed(who.Address, []string{label}, ledger.UnknownCA, c.m.now())
}

// The ledger decides whether a CA is activated and retired before its day, and what it knows outlives gateways and servers.
func TestReadyClientsNeedNoForce(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		c := m.gathers()
		time.Sleep(time.Hour)
		if err := m.server.Certificates.RotateCA(t.Context(), first, nil); err != nil {
			t.Fatal(err)
		}
		if n := m.node(first).Gateway.Next; n == nil || n.Name != pki.NextName || len(n.Anchors) != 1 || n.Anchors[0] != m.label(2) || n.Sampling != nil {
			t.Fatalf("the gateway's next chain: %v", n)
		}
		if got := m.node(first).Gateway.Anchors; len(got) != 1 || got[0] != m.label(1) {
			t.Errorf("the gateway's anchors: %v", got)
		}
		activate := func(says ...string) {
			t.Helper()
			wantError(t, "activate", m.server.Certificates.ActivateCA(t.Context(), first, false), instance.FailedPrecondition, append(says, "or force it")...)
		}
		activate("not known that any client trusts CA-2")
		c.connects(app("web"), 1)
		activate(`these clients trust CA-2: 10.0.0.7 name="web" library="redis-py" user="default":`, "--sni ca-next.sealane.invalid")
		// CA-2 alone is half of what will be served: at first it has a cross-certificate beside it.
		c.connects(app("web"), 2)
		activate(`user="default" (not yet as cross.ca-next.sealane.invalid):`, "--sni ca-next.sealane.invalid`, and once with cross.ca-next.sealane.invalid")
		if n := m.node(first).Gateway.NextCross; n == nil || n.Name != pki.NextCrossName || len(n.Anchors) != 1 || n.Anchors[0] == m.label(2) || n.Sampling != nil {
			t.Fatalf("the gateway's next chain with the cross-certificate: %v", n)
		}
		time.Sleep(time.Second)
		c.fails(app(""), 2)
		activate("(unknown_ca on 20")
		time.Sleep(time.Second)
		c.tested(app("web"), 2)
		for n := range 14 {
			c.connects(app(fmt.Sprint("many", n)), 1)
		}
		time.Sleep(2 * time.Minute)
		c.restart()
		m.kill()
		m.boot()
		if got := m.metric(t, "sealane_ca_clients"); got != 15 {
			t.Errorf("the metric counts %v clients", got)
		}
		m.set(func() {
			m.status = func() (gateway.Status, error) {
				return gateway.Status{Ledger: &gateway.LedgerStatus{Evicted: 3, Samples: map[string]uint64{"accepted": 2, "refused": 1}}}, nil
			}
		})
		if e, s := m.metric(t, "sealane_ca_clients_evicted_total"), m.metric(t, "sealane_ca_samples_total"); e != 3 || s != 3 {
			t.Errorf("%v evicted, %v samples", e, s)
		}
		err := m.server.Certificates.ActivateCA(t.Context(), first, false)
		wantError(t, "activate", err, instance.FailedPrecondition, "; 10.0.0.7", ", and 4 more: ")
		if got := strings.Count(err.Error(), "10.0.0.7"); got != 10 {
			t.Errorf("%d clients are named", got)
		}
		for n := range 14 {
			c.tested(app(fmt.Sprint("many", n)), 2)
		}
		if err := m.server.Certificates.ActivateCA(t.Context(), first, false); err != nil || m.states() != "retiring cross-signed" {
			t.Errorf("activate: %v, %s", err, m.states())
		}
		if got := m.node(first).Gateway.Anchors; len(got) != 2 {
			t.Errorf("beside a cross-certificate the anchors are %v", got)
		}
		if err := m.server.Certificates.RetireCA(t.Context(), first, false); err != nil || m.states() != "retired signing" {
			t.Errorf("retire: %v, %s", err, m.states())
		}
		if got := m.auditedSince(2); strings.Contains(got, "force") {
			t.Errorf("audit log: %s", got)
		}
		if n := m.node(first).Gateway; n.Next != nil || n.NextCross != nil {
			t.Errorf("with one CA the next chain is for %v", n.Next.Anchors)
		}
	})
}

// With clients ready for thirty days the next CA signs by itself; any doubt begins the thirty days anew.
func TestActivationComesOnceClientsAreReady(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		c := m.gathers()
		if err := m.server.Certificates.RotateCA(t.Context(), first, nil); err != nil {
			t.Fatal(err)
		}
		c.tested(app("web"), 2)
		ready := func() time.Time { return m.get(first).Certificates.CAs[1].Ready }
		m.wait("it is noted that clients are ready", func() bool { return !ready().IsZero() })
		m.jump(20 * 24 * time.Hour)
		c.connects(app("other"), 1)
		m.wait("it is noted that they aren't any more", func() bool { return ready().IsZero() })
		c.tested(app("other"), 2)
		m.wait("it is noted that they are again", func() bool { return !ready().IsZero() })
		m.jump(29 * 24 * time.Hour)
		time.Sleep(5 * time.Minute)
		if m.states() != "signing published" {
			t.Errorf("after 29 days: %s", m.states())
		}
		for _, name := range []string{"web", "other"} {
			c.connects(app(name), 1)
		}
		m.jump(24 * time.Hour)
		m.wait("CA-2 is activated", func() bool { return m.states() == "retiring cross-signed" })
	})
}

// What is known is written when there is news, once a minute at most, and goes with the instance.
func TestLedgerIsKept(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		c := m.gathers()
		var uid string
		writes := func() (n int) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, r := range m.history {
				if strings.HasPrefix(r.Key, "ledgers/") {
					n, uid = n+1, r.Key
				}
			}
			return n
		}
		kept := func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			_, ok := m.records[uid]
			return ok
		}
		time.Sleep(3 * time.Minute)
		if writes() != 0 {
			t.Error("written although there is nothing")
		}
		for range 30 { // five minutes
			c.connects(app("web"), 1)
			time.Sleep(10 * time.Second)
		}
		if got := writes(); got != 1 {
			t.Errorf("written %d times for a client that stays", got)
		}
		for n := range 30 {
			c.connects(app(fmt.Sprint(n)), 1)
			time.Sleep(10 * time.Second)
		}
		if got := writes(); got < 5 || got > 7 {
			t.Errorf("written %d times in ten minutes", got)
		}
		// A full disk: said once, and made good for.
		m.set(func() { m.putErr = syscall.ENOSPC })
		c.connects(app("late"), 1)
		time.Sleep(5 * time.Minute)
		if m.get(first).State != instance.Ready || m.logged("collect what clients have shown") != 1 {
			t.Errorf("%s; logged %d times", m.get(first).State, m.logged("collect what clients have shown"))
		}
		m.set(func() { m.putErr = nil })
		time.Sleep(2 * time.Minute)
		c.restart()
		got, err := m.server.Clients.List(t.Context(), first)
		if err != nil || len(got.Clients) != 32 || got.Generation != 1 || !got.Clients[0].Ready() {
			t.Errorf("%d clients of CA-%d, %v", len(got.Clients), got.Generation, err)
		}
		// Whoever is gone for 90 days is forgotten, and counts no more after 30.
		m.jump(89 * 24 * time.Hour)
		if got, err := m.server.Clients.List(t.Context(), first); err != nil || len(got.Clients) != 32 {
			t.Errorf("after 89 days: %d, %v", len(got.Clients), err)
		}
		m.jump(2 * 24 * time.Hour)
		if got, err := m.server.Clients.List(t.Context(), first); err != nil || len(got.Clients) != 0 {
			t.Errorf("after 91 days: %d, %v", len(got.Clients), err)
		}
		if !kept() {
			t.Fatal("there is no record")
		}
		if _, err := m.server.Delete(first, "v1"); err != nil {
			t.Fatal(err)
		}
		m.waitGone(first)
		m.wait("the ledger is deleted", func() bool { return !kept() })
		_, err = m.server.Clients.List(t.Context(), first)
		wantError(t, "clients of nothing", err, instance.NotFound)
	})
}

// Giving a CA up names those who are cut off, as far as is known.
func TestCompromiseNamesTheClients(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		c := m.gathers()
		if err := m.server.Certificates.RotateCA(t.Context(), first, nil); err != nil {
			t.Fatal(err)
		}
		c.connects(app("both"), 1)
		c.connects(app("both"), 2)
		c.connects(app("old"), 1)
		names := func(clients []ledger.Client) string {
			var all []string
			for _, c := range clients {
				all = append(all, c.Name)
			}
			return strings.Join(all, " ")
		}
		if got, err := m.server.Certificates.CompromiseCA(t.Context(), first, 1); err != nil || names(got) != "old" {
			t.Errorf("%s, %v", names(got), err)
		}
		if got, err := m.server.Certificates.CompromiseCA(t.Context(), first, 0); err != nil || names(got) != "both old" {
			t.Errorf("all: %s, %v", names(got), err)
		}
	})
}

// Sampling is for one generation, until that signs.
func TestSamplingIsForOneGeneration(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		set := func(percent float64, perHour int) error {
			return m.server.Certificates.SetSampling(t.Context(), first, percent, perHour)
		}
		wantError(t, "without a next CA", set(1, 1), instance.FailedPrecondition, "start the next generation first")
		wantError(t, "percent", set(101, 1), instance.InvalidArgument, "percent: 101: want more than 0 and at most 100")
		wantError(t, "per hour", set(5, 0), instance.InvalidArgument, "per_hour: 0: want 1 to 1000")
		if err := m.server.Certificates.RotateCA(t.Context(), first, nil); err != nil {
			t.Fatal(err)
		}
		sampled := func() string {
			n := m.node(first).Gateway.Next
			c, err := m.server.Certificates.Get(first)
			if err != nil || (c.Sampling != nil) != (n != nil && n.Sampling != nil) {
				t.Errorf("shown: %v, %v", c.Sampling, err)
			}
			if n == nil || n.Sampling == nil {
				return "none"
			}
			return fmt.Sprint(*n.Sampling)
		}
		if err := set(5, 20); err != nil || sampled() != "{5 20}" {
			t.Errorf("%v, %s", err, sampled())
		}
		if err := set(0, 0); err != nil || sampled() != "none" {
			t.Errorf("off: %v, %s", err, sampled())
		}
		if err := set(5, 20); err != nil {
			t.Error(err)
		}
		if err := m.server.Certificates.ActivateCA(t.Context(), first, true); err != nil || sampled() != "none" {
			t.Errorf("once CA-2 signs: %v, %s", err, sampled())
		}
		if err := m.server.Certificates.RetireCA(t.Context(), first, true); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if err := m.server.Certificates.RotateCA(t.Context(), first, nil); err != nil || sampled() != "none" {
			t.Errorf("another generation: %v, %s", err, sampled())
		}
	})
}

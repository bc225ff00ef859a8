package instance_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/pki"
)

// verifies says whether a client that trusts the bundle takes what the node presents.
func verifies(t *testing.T, n node, bundle []byte) bool {
	t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	block, rest := pem.Decode(n.Gateway.Certificate)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	between.AppendCertsFromPEM(rest)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: n.Host, CurrentTime: leaf.NotBefore.Add(2 * time.Minute)})
	return err == nil
}

// states are the CAs', oldest first.
func (m *machine) states() string {
	m.t.Helper()
	c, err := m.server.Certificates.Get(first)
	if err != nil {
		m.t.Fatal(err)
	}
	var states []string
	for _, ca := range c.CAs {
		states = append(states, string(ca.State))
	}
	return strings.Join(states, " ")
}

// A new CA is published, activated and retired by an operator; each answer comes once it is served, each step is in the audit
// log, and early ones need force.
func TestOperatorReplacesTheCA(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		old := m.node(first).Bundle
		step := func(what string, err error, states string, oldVerifies bool) {
			t.Helper()
			n, i := m.node(first), m.get(first)
			if err != nil || m.states() != states || i.State != instance.Ready {
				t.Fatalf("%s: %v; CAs %s, want %s; the instance is %s", what, err, m.states(), states, i.State)
			}
			if !verifies(t, n, n.Bundle) || verifies(t, n, old) != oldVerifies || !bytes.Equal(n.Bundle, i.Certificates.At(m.now()).Bundle()) {
				t.Errorf("%s: with the new bundle %t, with the old %t; want true, %t", what, verifies(t, n, n.Bundle), verifies(t, n, old), oldVerifies)
			}
		}
		time.Sleep(time.Hour)
		step("rotate", m.server.Certificates.RotateCA(t.Context(), first, nil), "signing published", true)
		bundle := m.node(first).Bundle
		if bytes.Count(bundle, []byte("BEGIN")) != 2 || len(m.get(first).ServerCAs) != 2 {
			t.Errorf("the bundle is %s", bundle)
		}
		wantError(t, "rotate again", m.server.Certificates.RotateCA(t.Context(), first, nil), instance.FailedPrecondition, "retire CA-1 first")
		wantError(t, "retire what signs", m.server.Certificates.RetireCA(t.Context(), first, true), instance.FailedPrecondition, "CA-1 still signs")
		wantError(t, "activate early", m.server.Certificates.ActivateCA(t.Context(), first, false), instance.FailedPrecondition,
			"it is not known that any client trusts CA-2: none was seen", "hold only CA-1", "--sni ca-next.sealane.invalid", "force it")
		step("activate, forced", m.server.Certificates.ActivateCA(t.Context(), first, true), "retiring cross-signed", true)
		if c := m.node(first).Gateway.Certificate; bytes.Count(c, []byte("BEGIN")) != 2 {
			t.Errorf("the chain is %s", c)
		}
		wantError(t, "retire early", m.server.Certificates.RetireCA(t.Context(), first, false), instance.FailedPrecondition,
			"not known that any client trusts CA-2", "hold only CA-1 fail", "force it")
		if got, want := m.expiries(t), "ca-1 ca-2 cross-2 leaf next-leaf"; got != want {
			t.Errorf("metrics tell when these expire: %s; want %s", got, want)
		}
		step("retire, forced", m.server.Certificates.RetireCA(t.Context(), first, true), "retired signing", false)
		if n := m.node(first); !verifies(t, n, bundle) || n.starts != 1 {
			t.Errorf("who installed both CAs verifies: %t; the node was started %d times", verifies(t, n, bundle), n.starts)
		}
		want := "rotate/2 sign/ca sign/cross sign/leaf-next force activate/2 sign/leaf force retire/1"
		if got := m.auditedSince(2); got != want {
			t.Errorf("audit log: %s; want %s", got, want)
		}
		if got := m.get(first); verbs(got) != "create" {
			t.Errorf("operations: %s", verbs(got))
		}
	})
}

// expiries are the certificates that the metrics have.
func (m *machine) expiries(t *testing.T) string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	for _, c := range m.server.Metrics() {
		if err := r.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		for _, s := range f.GetMetric() {
			for _, l := range s.GetLabel() {
				if l.GetName() == "certificate" {
					names = append(names, l.GetValue())
				}
			}
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// auditedSince is the audit log in short.
func (m *machine) auditedSince(n int) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, e := range m.audited[n:] {
		s := string(e.Action)
		switch {
		case e.Action == audit.Sign:
			s += "/" + string(e.Certificate.Kind)
		case e.Certificate != nil:
			s += fmt.Sprintf("/%d", e.Certificate.Generation)
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

func TestDueActionsNeedNoForce(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		if err := m.server.Certificates.RotateCA(t.Context(), first, nil); err != nil {
			t.Fatal(err)
		}
		m.jump(1000 * 24 * time.Hour) // the server has not looked yet
		if err := m.server.Certificates.ActivateCA(t.Context(), first, false); err != nil || m.states() != "retiring cross-signed" {
			t.Errorf("activate when it is due: %v, %s", err, m.states())
		}
		if got := m.auditedSince(2); strings.Contains(got, "force") || !strings.Contains(got, "activate/2 sign/leaf") {
			t.Errorf("audit log: %s", got)
		}
	})
}

// Who holds only what was given up is cut off at once; its key is gone.
func TestOperatorGivesACAUp(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		old := m.node(first).Bundle
		time.Sleep(time.Hour)
		wantError(t, "no such CA", m.compromise(7), instance.FailedPrecondition, "generation 7", "CA-1")
		wantError(t, "no number of a CA", m.compromise(-1), instance.InvalidArgument, "generation")
		if err := m.compromise(0); err != nil {
			t.Fatal(err)
		}
		n, i := m.node(first), m.get(first)
		if m.states() != "compromised signing" || verifies(t, n, old) || !verifies(t, n, n.Bundle) || i.Certificates.CAs[0].SealedKey != nil {
			t.Errorf("CAs %s; verifies with the old bundle %t, with the new %t", m.states(), verifies(t, n, old), verifies(t, n, n.Bundle))
		}
		if want := "compromise/1 sign/ca sign/leaf"; m.auditedSince(2) != want {
			t.Errorf("audit log: %s; want %s", m.auditedSince(2), want)
		}
	})
}

func TestOperatorReplacesTheLeaf(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		before := m.made(first)
		time.Sleep(time.Hour)
		if err := m.server.Certificates.RenewLeaf(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		n, after := m.node(first), m.get(first)
		if n.applied != 2 || bytes.Equal(before.Certificates.Leaf.Certificate, after.Certificates.Leaf.Certificate) || !verifies(t, n, before.Certificates.At(m.now()).Bundle()) {
			t.Errorf("applied %d times", n.applied)
		}
		if want := "rotate sign/leaf"; m.auditedSince(2) != want {
			t.Errorf("audit log: %s; want %s", m.auditedSince(2), want)
		}
	})
}

func TestCertificatesCannotBeChanged(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		rotate := func(n instance.Name) error { return m.server.Certificates.RotateCA(t.Context(), n, nil) }
		wantError(t, "of nothing", rotate(first), instance.NotFound)
		_, err := m.server.Certificates.Get(first)
		wantError(t, "show nothing", err, instance.NotFound)
		m.onEnsure = hang
		op := m.create(first)
		wantError(t, "while it is created", rotate(first), instance.FailedPrecondition, op.ID)
		m.set(func() { m.onEnsure = nil })
		m.kill()
		m.boot()
		m.waitReady(first)
		bare := plainSpec()
		bare.TransitEncryption = false
		if _, err := m.server.Create(named("bare"), bare, "v1"); err != nil {
			t.Fatal(err)
		}
		m.waitReady(named("bare"))
		wantError(t, "without encryption", rotate(named("bare")), instance.FailedPrecondition, "has no encryption")
		_, err = m.server.Certificates.Get(named("bare"))
		wantError(t, "show none", err, instance.FailedPrecondition, "has no encryption")
		// All or nothing.
		for _, broken := range []func(error){
			func(err error) { m.set(func() { m.auditErr = err }) },
			func(err error) { m.set(func() { m.storeErr = err }) },
		} {
			before := m.get(first)
			broken(syscall.ENOSPC)
			wantError(t, "on a full disk", rotate(first), instance.ResourceExhausted, "the disk is full")
			broken(nil)
			if got := m.get(first); len(got.Certificates.CAs) != 1 || m.node(first).applied != 1 || len(got.ServerCAs) != len(before.ServerCAs) {
				t.Errorf("there are %d CAs", len(got.Certificates.CAs))
			}
		}
		// Recorded, not served.
		m.set(func() {
			m.onEnsure = func(context.Context, instance.Node) error { return errors.New("gateway: does not answer") }
		})
		wantError(t, "while the gateway is down", m.server.Certificates.RenewLeaf(t.Context(), first), instance.Unavailable, "recorded", "gateway: does not answer")
		if got := m.metric(t, "sealane_certificate_served_is_intended"); got != 0 {
			t.Errorf("served is intended: %v", got)
		}
		m.set(func() { m.onEnsure = nil })
		m.wait("the new one is served", func() bool { return m.node(first).applied == 2 && m.get(first).State == instance.Ready })
		if got := m.metric(t, "sealane_certificate_served_is_intended"); got != 1 {
			t.Errorf("served is intended: %v", got)
		}
	})
}

// reboot starts the next server with other names in its configuration.
func (m *machine) reboot(names ...string) {
	m.kill()
	m.addresses.DNSNames = names
	m.boot()
	m.server.Settled(m.t.Context())
}

// wantNames checks what is served to clients of the first instance, and how often it was given to the gateway.
func (m *machine) wantNames(states, served, waiting string, applied int) {
	m.t.Helper()
	m.waitReady(first)
	got, err := m.server.Certificates.Get(first)
	if err != nil {
		m.t.Fatal(err)
	}
	if now := strings.Join(got.Leaf.Waiting, " "); m.states() != states || now != waiting || m.node(first).applied != applied {
		m.t.Errorf("CAs %s, waiting %s, applied %d; want %s, %s, %d", m.states(), now, m.node(first).applied, states, waiting, applied)
	}
	var names []string
	for _, n := range got.Leaf.Names {
		if strings.HasSuffix(n, ".example") {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	if now := strings.Join(names, " "); now != served {
		m.t.Errorf("served %s, want %s", now, served)
	}
	checkVerifies(m.t, m.node(first), append(names, "localhost", m.get(first).Host)...)
}

// When the names in the configuration change so does the certificate, at once: the CA permits all.
func TestNamesFollowTheConfiguration(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.reboot("{instance}.a.example", "{instance}.b.example")
		m.made(first)
		m.wantNames("signing", "first.a.example first.b.example", "", 1)
		m.reboot("{instance}.b.example", "{instance}.a.example")
		m.wantNames("signing", "first.a.example first.b.example", "", 1)
		m.reboot("{instance}.b.example", "{instance}.c.example")
		m.wantNames("signing", "first.b.example first.c.example", "", 2)
	})
}

// With name constraints they change at once as far as the CA permits them. Otherwise another CA is published at once, and they
// are served when that is the only one.
func TestNamesFollowTheConfigurationWithNameConstraints(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.constraints = true
		m.reboot("{instance}.a.example", "{instance}.b.example")
		m.made(first)
		want := m.wantNames
		want("signing", "first.a.example first.b.example", "", 1)
		m.reboot("{instance}.b.example", "{instance}.a.example")
		want("signing", "first.a.example first.b.example", "", 1)
		m.reboot("{instance}.b.example")
		want("signing", "first.b.example", "", 2)
		m.reboot("{instance}.b.example", "{instance}.c.example")
		want("signing published", "first.b.example", "first.c.example", 3) // another bundle and second leaf
		m.reboot("{instance}.b.example", "{instance}.c.example")
		want("signing published", "first.b.example", "first.c.example", 3)
		if err := errors.Join(m.server.Certificates.ActivateCA(t.Context(), first, true), m.server.Certificates.RetireCA(t.Context(), first, true)); err != nil {
			t.Fatal(err)
		}
		want("retired signing", "first.b.example first.c.example", "", 5)
	})
}

// A rotation may decide about name constraints, for the generations from then on; one that is refused decides nothing.
func TestRotationDecidesAboutNameConstraints(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		on, off := true, false
		wantCAs := func(want string) {
			t.Helper()
			got, err := m.server.Certificates.Get(first)
			if err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, ca := range got.CAs {
				all = append(all, fmt.Sprint(ca.Constrained))
			}
			if now := strings.Join(all, " "); now != want {
				t.Errorf("CAs with name constraints: %s; want %s", now, want)
			}
		}
		next := func() {
			t.Helper()
			if err := errors.Join(m.server.Certificates.ActivateCA(t.Context(), first, true), m.server.Certificates.RetireCA(t.Context(), first, true)); err != nil {
				t.Fatal(err)
			}
		}
		for _, step := range []struct {
			constraints *bool
			want        string
		}{{&on, "false true"}, {nil, "false true true"}, {&off, "false true true false"}, {nil, "false true true false false"}} {
			if err := m.server.Certificates.RotateCA(t.Context(), first, step.constraints); err != nil {
				t.Fatal(err)
			}
			wantCAs(step.want)
			wantError(t, "rotate again", m.server.Certificates.RotateCA(t.Context(), first, &on), instance.FailedPrecondition, "first, or wait until")
			next()
			checkVerifies(t, m.node(first), "localhost")
		}
	})
}

// Names that are none are said, and everything else goes on.
func TestNamesThatAreNone(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		scoped := instance.Name{Project: "example.com:id", Location: "local", ID: "a"}
		host := m.made(scoped).Host
		m.reboot("{instance}.{project}")
		m.jump(180 * 24 * time.Hour)
		m.wait("the certificate is replaced", func() bool { return m.node(scoped).applied == 2 })
		if got := m.get(scoped); got.State != instance.Repairing || !strings.Contains(got.StatusMessage, `"a.example.com:id"`) {
			t.Errorf("%s, %q", got.State, got.StatusMessage)
		}
		checkVerifies(t, m.node(scoped), "localhost", host)
		m.reboot()
		m.waitReady(scoped)
	})
}

// breakKeys makes the keys of an instance's CAs unreadable, and returns what mends them.
func (m *machine) breakKeys(name instance.Name) (mend func()) {
	swap := func(change func(*pki.State)) {
		m.mu.Lock()
		defer m.mu.Unlock()
		r := m.records[name.String()]
		i, err := instance.Decode(r.Key, r.Value, r.Version)
		if err != nil {
			m.t.Fatal(err)
		}
		change(i.Certificates)
		if r.Value, err = json.Marshal(i); err != nil {
			m.t.Fatal(err)
		}
		r.Version++
		m.records[name.String()] = r
	}
	var keys [][]byte
	swap(func(s *pki.State) {
		for n := range s.CAs {
			keys = append(keys, s.CAs[n].SealedKey)
			s.CAs[n].SealedKey = slices.Clone(keys[n])
			s.CAs[n].SealedKey[len(keys[n])-1]++
		}
	})
	return func() {
		swap(func(s *pki.State) {
			for n := range keys {
				s.CAs[n].SealedKey = keys[n]
			}
		})
	}
}

// While nothing can be signed or kept the last good certificate serves on, a node that dies is restarted with it, other changes are
// served, everybody can see why, and it heals by itself.
func TestLastGoodCertificateServesOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		breakIt func(*machine) (mend func())
		says    string
	}{
		"the CA's key is unreadable": {func(m *machine) func() { return m.breakKeys(first) }, "key of CA-1"},
		"the audit log is full": {func(m *machine) func() {
			m.set(func() { m.auditErr = syscall.ENOSPC })
			return func() { m.set(func() { m.auditErr = nil }) }
		}, "the disk is full"},
		"the state can't be written": {func(m *machine) func() {
			m.set(func() { m.putErr = syscall.EROFS })
			return func() { m.set(func() { m.putErr = nil }) }
		}, "not writable"},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T, m *machine) {
				before := m.made(first)
				mend := c.breakIt(m)
				m.jump(180 * 24 * time.Hour)
				m.wait("the trouble shows", func() bool { return m.get(first).StatusMessage != "" })
				m.crash(first, "gateway")
				m.wait("the node is restarted", func() bool { return m.node(first).running })
				time.Sleep(time.Minute)
				now, n := m.get(first), m.node(first)
				if now.State != instance.Repairing || !strings.Contains(now.StatusMessage, c.says) {
					t.Errorf("%s, %q; want %q", now.State, now.StatusMessage, c.says)
				}
				if got, err := m.server.Certificates.Get(first); err != nil || !strings.Contains(got.Problem, c.says) {
					t.Errorf("certificates: %q, %v", got.Problem, err)
				}
				if n.starts != 2 || n.applied != 1 || !bytes.Equal(n.Gateway.Certificate, pki.EncodePEM(before.Certificates.Leaf.Certificate)) {
					t.Errorf("the node was started %d times, with %d certificates", n.starts, n.applied)
				}
				if ok, served := m.metric(t, "sealane_certificate_rotation_ok"), m.metric(t, "sealane_certificate_served_is_intended"); ok != 0 || served != 1 {
					t.Errorf("rotation ok %v, served is intended %v; want 0 and 1", ok, served)
				}
				mend()
				m.waitReady(first)
				if n := m.node(first); n.applied != 2 || m.metric(t, "sealane_certificate_rotation_ok") != 1 {
					t.Errorf("healed: %d certificates", n.applied)
				}
			})
		})
	}
}

// An unreadable key stops an operator too, and nothing is half done.
func TestOperatorIsToldOfAnUnreadableKey(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		m.breakKeys(first)
		wantError(t, "rotate", m.server.Certificates.RotateCA(t.Context(), first, nil), instance.FailedPrecondition, "key of CA-1", "nothing was changed")
		wantError(t, "renew", m.server.Certificates.RenewLeaf(t.Context(), first), instance.FailedPrecondition, "key of CA-1")
		if m.states() != "signing" || len(m.audited) != 2 {
			t.Errorf("CAs %s, %d entries", m.states(), len(m.audited))
		}
		// A data path can be changed all the same.
		if err := m.server.SetDataPath(t.Context(), first, otherPath); err != nil {
			t.Error(err)
		}
		// To give it up is the way out when the key is lost for good.
		if err := m.compromise(1); err != nil || m.states() != "compromised signing" {
			t.Errorf("give it up: %v, %s", err, m.states())
		}
	})
}

// With lifetimes of seconds everything is done in the second that it is due, for three lives of a CA, and told of. Which
// lifetimes an instance has is in its record: a server with others doesn't change them.
func TestScaledLifetimesAreKept(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		told := make(map[pki.Kind]int)
		changed := func(name instance.Name, actions []pki.Action) {
			for _, a := range actions {
				if late := m.now().Sub(a.Due); name != first || !a.Due.IsZero() && late > time.Second {
					t.Errorf("%s of %s was done %s late", a.Kind, name, late)
				}
				told[a.Kind]++
			}
		}
		m.reconfigure(func(c *instance.Config) { c.Lifetimes, c.Changed = pki.ScaledLifetimes(pki.MinScaledCA), changed })
		m.made(first)
		m.reconfigure(func(c *instance.Config) { c.Changed = changed })
		for range 60 {
			time.Sleep(time.Second)
			if n := m.node(first); !bytes.Equal(n.Bundle, m.get(first).Certificates.At(m.now()).Bundle()) || m.get(first).State != instance.Ready {
				t.Errorf("the node doesn't serve what is recorded, or is %s", m.get(first).State)
			}
		}
		if told[pki.CreateCA] < 6 || told[pki.ActivateCA] < 5 || told[pki.EndCross] < 5 || told[pki.RetireCA] < 5 || told[pki.IssueLeaf] < 15 {
			t.Errorf("in a minute %v was told", told)
		}
	})
	if _, err := instance.New(instance.Config{Lifetimes: pki.Lifetimes{CA: time.Second}}); err == nil || !strings.Contains(err.Error(), "lifetimes: publish after") {
		t.Errorf("lifetimes that can't be: %v", err)
	}
}

func (m *machine) compromise(generation int) error {
	_, err := m.server.Certificates.CompromiseCA(m.t.Context(), first, generation)
	return err
}

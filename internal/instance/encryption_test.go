package instance_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/plaintext"
)

// strangers are the clients without TLS of a gateway.
type strangers struct {
	m         *machine
	tracker   *plaintext.Tracker
	connected map[ledger.Identity]int
	tls       int64
	down      bool
}

// counts gives the machine's gateways an account of their clients without TLS.
func (m *machine) counts() *strangers {
	s := &strangers{m: m, tracker: plaintext.NewTracker(m.now()), connected: make(map[ledger.Identity]int)}
	m.set(func() {
		m.plain = func() (plaintext.Account, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if s.down {
				return plaintext.Account{}, errBroken
			}
			for id := range s.connected {
				s.tracker.Seen(id, m.bubbleNow(), m.bubbleNow())
			}
			return s.tracker.Account(s.connected), nil
		}
		m.status = func() (gateway.Status, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			c := plaintext.Counts{Connections: int64(len(s.connected))}
			if s.down {
				return gateway.Status{}, errBroken
			}
			return gateway.Status{Plaintext: &c, Clients: s.tls + c.Connections}, nil
		}
		// What a gateway does when plaintext is closed.
		m.onEnsured = func(_ context.Context, want instance.Node) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, l := range want.Gateway.Listeners {
				if !l.TLS {
					return
				}
			}
			clear(s.connected)
		}
	})
	return s
}

func (s *strangers) set(change func()) { s.m.set(change) }

// listens is how the instance's gateway listens, such as "6378+ 6379-".
func (m *machine) listens() string {
	var all []string
	for _, l := range m.node(first).Gateway.Listeners {
		at := netip.MustParseAddrPort(l.Address)
		mark := map[bool]string{true: "+", false: "-"}[l.TLS]
		all = append(all, fmt.Sprint(at.Port(), mark))
	}
	return strings.Join(all, " ")
}

// shown is what the Memorystore API shows of the mode.
func (m *machine) shown() string {
	i := m.get(first)
	return fmt.Sprintf("%t %d %d CAs", i.Spec.TransitEncryption, i.Port, len(i.ServerCAs))
}

func (m *machine) madePlain() {
	m.t.Helper()
	if _, err := m.server.Create(first, instance.Spec{MemorySizeGB: 1}, "v1"); err != nil {
		m.t.Fatal(err)
	}
	m.waitReady(first)
}

func TestFromPlaintextToTLSAndBack(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		s := m.counts()
		m.madePlain()
		e := m.server.Encryption
		_, err := e.Enforce(t.Context(), first, 0, true)
		wantError(t, "enforce what is DISABLED", err, instance.FailedPrecondition, "make it PREFERRED first")
		wantError(t, "roll DISABLED back", e.Rollback(t.Context(), first), instance.FailedPrecondition, "is DISABLED")
		s.set(func() { s.connected[app("web")] = 2 })
		time.Sleep(10 * time.Minute)

		for range 2 { // the second time changes nothing
			if err := e.Prefer(t.Context(), first, false); err != nil {
				t.Fatal(err)
			}
		}
		if got := m.listens(); got != "6378+ 6379-" {
			t.Errorf("preferred: the gateway listens at %s", got)
		}
		if got := m.shown(); got != "false 6379 1 CAs" {
			t.Errorf("preferred: the API shows %s", got)
		}
		n := m.node(first)
		checkVerifies(t, n, m.get(first).Host)
		if !strings.Contains(n.Gateway.Connect, "--tls") || !strings.Contains(n.Gateway.Connect, "-p 6378") {
			t.Errorf("clients are told %q", n.Gateway.Connect)
		}

		refused := func(unseenFor time.Duration, says ...string) {
			t.Helper()
			_, err := e.Enforce(t.Context(), first, unseenFor, false)
			wantError(t, "enforce", err, instance.FailedPrecondition, append(says, "Move them to TLS at port 6378, or force it")...)
		}
		refused(0, `1 client is connected without TLS: 10.0.0.7 name="web" library="redis-py" user="default" (2 connections)`)
		s.set(func() { clear(s.connected) })
		time.Sleep(time.Minute)
		refused(0, `1 client was seen without TLS in the last 7 days: 10.0.0.7`)
		refused(time.Hour, "in the last 1h")
		if st, err := e.Get(t.Context(), first, 0); err != nil || st.Mode != instance.ModePreferred || st.TLSPort != 6378 || st.PlaintextPort != 6379 || len(st.Clients) != 1 {
			t.Errorf("status %+v, %v", st, err)
		}
		m.jump(8 * day)
		if cut, err := e.Enforce(t.Context(), first, 0, false); err != nil || len(cut) != 0 {
			t.Fatalf("enforce after eight days: %v, %v", cut, err)
		}
		if got := m.listens(); got != "6378+ 6379+" {
			t.Errorf("enforced: the gateway listens at %s", got)
		}
		if got := m.shown(); got != "true 6378 1 CAs" {
			t.Errorf("enforced: the API shows %s", got)
		}
		wantError(t, "open plaintext without saying so", e.Prefer(t.Context(), first, false), instance.FailedPrecondition, "allow_plaintext")
		wantError(t, "disable", e.Disable(t.Context(), first, true), instance.FailedPrecondition, "rollback")

		for range 2 {
			if err := e.Rollback(t.Context(), first); err != nil {
				t.Fatal(err)
			}
		}
		if got := m.listens(); got != "6378+ 6379-" {
			t.Errorf("rolled back: the gateway listens at %s", got)
		}
		if got := m.shown(); got != "false 6379 1 CAs" {
			t.Errorf("rolled back: the API shows %s", got)
		}
		s.set(func() { s.tls = 3 })
		wantError(t, "disable", e.Disable(t.Context(), first, false), instance.FailedPrecondition, "3 clients are connected with it")
		ca := m.get(first).Certificates.CAs[0].Fingerprint()
		for range 2 {
			if err := e.Disable(t.Context(), first, true); err != nil {
				t.Fatal(err)
			}
		}
		if got := m.listens(); got != "6379-" {
			t.Errorf("disabled: the gateway listens at %s", got)
		}
		if n := m.node(first); n.Gateway.Certificate != nil {
			t.Error("disabled: the gateway has a certificate")
		}
		if err := e.Prefer(t.Context(), first, false); err != nil || m.get(first).Certificates.CAs[0].Fingerprint() != ca {
			t.Errorf("preferred again: %v; want the same CA", err)
		}
	})
}

func TestForceNamesWhoIsCutOff(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		s := m.counts()
		m.madePlain()
		s.set(func() { s.connected[app("web")] = 1 })
		if err := m.server.Encryption.Prefer(t.Context(), first, false); err != nil {
			t.Fatal(err)
		}
		for n := range 2 {
			cut, err := m.server.Encryption.Enforce(t.Context(), first, 0, true)
			if want := 1 - n; err != nil || len(cut) != want || want == 1 && cut[0].Name != "web" {
				t.Errorf("%v are cut off, %v; want %d", cut, err, want)
			}
		}
		if m.logged("plaintext closed by force") != 1 {
			t.Error("the log doesn't say once that it was forced")
		}
		// A gateway that closes none, as an older one, is no success.
		if err := m.server.Encryption.Rollback(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		m.set(func() { m.onEnsured = nil; s.connected[app("web")] = 1 })
		_, err := m.server.Encryption.Enforce(t.Context(), first, 0, true)
		wantError(t, "enforce", err, instance.Unavailable, "1 connections without TLS are still open")
		m.set(func() { m.status = func() (gateway.Status, error) { return gateway.Status{Clients: 1}, nil } })
		_, err = m.server.Encryption.Enforce(t.Context(), first, 0, true)
		wantError(t, "enforce", err, instance.Unavailable, "of an older version and closes no connection")
	})
}

func TestPlaintextOfATLSInstanceNeedsAWord(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.counts()
		m.made(first)
		e := m.server.Encryption
		if _, err := e.Enforce(t.Context(), first, 0, false); err != nil {
			t.Errorf("enforce what is: %v", err)
		}
		wantError(t, "roll back", e.Rollback(t.Context(), first), instance.FailedPrecondition, "since it was created")
		wantError(t, "prefer", e.Prefer(t.Context(), first, false), instance.FailedPrecondition, "allow_plaintext")
		if got := m.listens(); got != "6378+" {
			t.Fatalf("the gateway listens at %s", got)
		}
		if err := e.Prefer(t.Context(), first, true); err != nil {
			t.Fatal(err)
		}
		if got := m.listens() + ", " + m.shown(); got != "6378+ 6379-, true 6378 1 CAs" {
			t.Errorf("preferred: %s", got)
		}
		wantError(t, "disable", e.Disable(t.Context(), first, true), instance.FailedPrecondition, "created with TLS")
		if _, err := e.Enforce(t.Context(), first, 0, false); err != nil {
			t.Fatal(err)
		}
		if got := m.listens() + ", " + m.shown(); got != "6378+ 6379+, true 6378 1 CAs" {
			t.Errorf("enforced: %s", got)
		}
	})
}

// What is known of clients outlives gateways and servers, and whoever can't be asked is no reason to believe that nobody is there.
func TestClientsWithoutTLSAreNotForgotten(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		s := m.counts()
		m.madePlain()
		s.set(func() { s.connected[app("nightly")] = 1 })
		time.Sleep(2 * time.Minute)
		s.set(func() { s.tracker, s.connected = plaintext.NewTracker(m.bubbleNow()), make(map[ledger.Identity]int) })
		m.kill()
		m.boot()
		if err := m.server.Encryption.Prefer(t.Context(), first, false); err != nil {
			t.Fatal(err)
		}
		_, err := m.server.Encryption.Enforce(t.Context(), first, 0, false)
		wantError(t, "enforce", err, instance.FailedPrecondition, `seen without TLS in the last 7 days: 10.0.0.7 name="nightly"`)
		m.jump(8 * day)
		s.set(func() { s.down = true })
		_, err = m.server.Encryption.Enforce(t.Context(), first, 0, false)
		wantError(t, "enforce", err, instance.FailedPrecondition, "not counted: the gateway does not answer")
		if m.metric(t, "sealane_plaintext_clients") != 0 {
			t.Error("the metric counts a client of eight days ago")
		}
		_, err = m.server.Encryption.Get(t.Context(), first, -time.Second)
		wantError(t, "get", err, instance.InvalidArgument, "unseen_for", "at most the 90 days")
		m.set(func() { s.down = false })
		if _, err := m.server.Delete(first, "v1"); err != nil {
			t.Fatal(err)
		}
		m.waitGone(first)
		m.mu.Lock()
		defer m.mu.Unlock()
		for key := range m.records {
			if strings.HasPrefix(key, "plaintext/") {
				t.Errorf("%s is left of a deleted instance", key)
			}
		}
	})
}

// With one host for all instances, each port belongs to one of them, whatever its mode.
func TestSecondPortOutOfTheRange(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		host := ownPool(32).Addr()
		m.addresses = instance.Addresses{Host: host, FirstPort: 7000, LastPort: 7001}
		m.kill()
		m.boot()
		m.counts()
		m.madePlain()
		if err := m.server.Encryption.Prefer(t.Context(), first, false); err != nil {
			t.Fatal(err)
		}
		if got := m.listens(); got != "7001+ 7000-" {
			t.Errorf("the gateway listens at %s", got)
		}
		if _, err := m.server.Encryption.Enforce(t.Context(), first, 0, false); err != nil {
			t.Fatal(err)
		}
		_, err := m.server.Create(named("second"), instance.Spec{MemorySizeGB: 1}, "v1")
		wantError(t, "create another", err, instance.ResourceExhausted, "no address is free")
	})
}

func TestSecondPortOfAnotherProgram(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.madePlain()
		other, err := net.Listen("tcp", net.JoinHostPort(m.get(first).Host, "6378"))
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		err = m.server.Encryption.Prefer(t.Context(), first, false)
		wantError(t, "prefer", err, instance.ResourceExhausted, "another program has the port", ":6378")
		if got := m.get(first); got.EncryptionMode() != instance.ModeDisabled || got.Certificates != nil {
			t.Errorf("after a refusal it is %s", got.EncryptionMode())
		}
	})
}

func TestNoSecondPortIsLeft(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.addresses = instance.Addresses{Host: ownPool(32).Addr(), FirstPort: 7000, LastPort: 7000}
		m.kill()
		m.boot()
		m.madePlain()
		err := m.server.Encryption.Prefer(t.Context(), first, false)
		wantError(t, "prefer", err, instance.ResourceExhausted, "no address is free")
		if got := m.get(first); got.EncryptionMode() != instance.ModeDisabled || got.Certificates != nil {
			t.Errorf("after a refusal it is %s", got.EncryptionMode())
		}
	})
}

// A CA is rotated while both are taken, and on an instance whose TLS is closed.
func TestRotationWhilePreferred(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.counts()
		m.madePlain()
		e := m.server.Encryption
		if err := e.Prefer(t.Context(), first, false); err != nil {
			t.Fatal(err)
		}
		before := m.node(first).Gateway.Certificate
		if err := m.server.Certificates.RotateCA(t.Context(), first, nil); err != nil {
			t.Fatal(err)
		}
		if err := m.server.Certificates.ActivateCA(t.Context(), first, true); err != nil {
			t.Fatal(err)
		}
		if n := m.node(first); bytes.Equal(n.Gateway.Certificate, before) || m.listens() != "6378+ 6379-" {
			t.Errorf("after the rotation the certificate is the same, or it listens at %s", m.listens())
		}
		checkVerifies(t, m.node(first), m.get(first).Host)
		if err := e.Disable(t.Context(), first, false); err != nil {
			t.Fatal(err)
		}
		if err := m.server.Certificates.RenewLeaf(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		if n := m.node(first); n.Gateway.Certificate != nil || m.listens() != "6379-" {
			t.Errorf("disabled, it listens at %s", m.listens())
		}
	})
}

// The CA by which the nodes of an instance know each other becomes that of its clients when there is encryption, so that nodes with the
// configurations of before and after accept each other.
func TestFirstCertificatesKeepTheCAOfTheNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		i := m.made(first)
		nodes := pki.State{Names: pki.Names{URI: pki.Identity("p1", "local", "first")}}.WithPeers(true).WithoutServerCertificate(true)
		nodes, _, err := nodes.DoAll(pki.Plan(nodes, m.now()), m.key, m.now())
		if err != nil {
			t.Fatal(err)
		}
		before := &instance.Replication{Certificates: &nodes}
		i.Certificates, i.Replication = nil, before
		if err := m.server.Encryption.FirstCertificates(&i); err != nil {
			t.Fatal(err)
		}
		s := i.Certificates
		if s == nil || s.NoLeaf || !s.Peers || s.Leaf == nil || len(s.Leaf.Names.IPs) == 0 || len(s.CAs) != 1 || s.CAs[0].Fingerprint() != nodes.CAs[0].Fingerprint() {
			t.Errorf("certificates: %+v", s)
		}
		if !bytes.Equal(s.Peer.Certificate, nodes.Peer.Certificate) || i.Replication.Certificates != nil || before.Certificates == nil {
			t.Error("the peer certificate was replaced, or the nodes keep certificates of their own, or the record of before was changed")
		}
	})
}

package instance_test

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/pki"
)

// auditLog is a server's AuditLog.
type auditLog struct {
	m *machine
	s *server
}

func (l auditLog) Append(e audit.Entry) error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.m.auditErr != nil {
		return l.m.auditErr
	}
	for _, o := range l.m.audited {
		if e.Action == audit.Sign && o.Action == audit.Sign && o.Certificate.SHA256Fingerprint == e.Certificate.SHA256Fingerprint {
			return nil
		}
	}
	return l.m.step(l.s, func() error {
		l.m.audited = append(l.m.audited, e)
		return nil
	})
}

// checkAudited checks that no certificate was ever stored, and so none shown, that the audit log doesn't have.
func (m *machine) checkAudited() {
	m.t.Helper()
	type entered struct {
		instance    string
		kind        audit.Kind
		fingerprint audit.Hash
	}
	there := make(map[entered]bool)
	for _, e := range m.audited {
		if e.Reason == "" || e.Time.IsZero() || e.Instance == "" || (e.Action == audit.Sign) != (e.Actor == "") ||
			e.Action == audit.Sign && e.Certificate.IssuerGeneration == 0 {
			m.t.Errorf("audit log: %+v", e)
		}
		if e.Action != audit.Sign {
			continue
		}
		there[entered{e.Instance, e.Certificate.Kind, e.Certificate.SHA256Fingerprint}] = true
	}
	want := func(key string, kind audit.Kind, der []byte) {
		if !there[entered{key, kind, sha256.Sum256(der)}] {
			m.t.Errorf("record %s had a %s certificate that the audit log doesn't have", key, kind)
		}
	}
	for _, r := range m.history {
		i, err := instance.Decode(r.Key, r.Value, r.Version)
		if r.Key == instance.KeyCheck || err != nil || i.Certificates == nil {
			continue
		}
		for _, ca := range i.Certificates.CAs {
			want(r.Key, audit.CA, ca.Certificate)
			if ca.Cross != nil {
				want(r.Key, audit.Cross, ca.Cross)
			}
		}
		if i.Certificates.Next != nil {
			want(r.Key, audit.LeafNext, i.Certificates.Next.Certificate)
		}
		if i.Certificates.Leaf != nil {
			want(r.Key, audit.Leaf, i.Certificates.Leaf.Certificate)
		}
		if i.Certificates.Peer != nil {
			want(r.Key, audit.Peer, i.Certificates.Peer.Certificate)
		}
	}
}

// Until the audit log takes it, a new certificate is shown to nobody; the old one serves on, and the user is told why.
func TestCertificateThatCantBeLoggedIsNotShown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		before := m.made(first)
		m.set(func() { m.auditErr = syscall.ENOSPC })
		m.jump(180 * 24 * time.Hour)
		m.wait("the trouble shows", func() bool { return m.get(first).StatusMessage != "" })
		time.Sleep(time.Minute)
		now := m.get(first)
		if want := "the disk is full: free space in the server's state folder"; now.State != instance.Repairing || !strings.Contains(now.StatusMessage, want) {
			t.Errorf("the instance is %s, %q; want %q", now.State, now.StatusMessage, want)
		}
		if !bytes.Equal(now.Certificates.Leaf.Certificate, before.Certificates.Leaf.Certificate) {
			t.Error("a certificate that is not in the audit log was committed")
		}
		if n := m.node(first); n.applied != 1 || !bytes.Equal(n.Gateway.Certificate, pki.EncodePEM(before.Certificates.Leaf.Certificate)) {
			t.Errorf("the node was given %d certificates; want the one that it had", n.applied)
		}
		m.set(func() { m.auditErr = nil })
		m.waitReady(first)
		if len(m.audited) != 3 || m.node(first).applied != 2 {
			t.Errorf("%d entries, %d certificates applied; want 3 and 2", len(m.audited), m.node(first).applied)
		}
	})
}

func TestCreateThatCantBeLoggedIsToldAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		m.auditErr = syscall.EROFS
		began := time.Now()
		m.create(first)
		m.waitGone(first)
		ops, err := m.server.Operations.List("p1", "local")
		if err != nil || ops[0].Failure == nil || !strings.Contains(ops[0].Failure.Message, "the server's state folder is not writable") {
			t.Fatalf("operation %+v, %v; want what is wrong", ops[0].Failure, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the user waited %v for it", took)
		}
	})
}

// Whatever sort of certificate is signed in the years ahead has a kind in the audit log.
func TestEveryKindOfCertificateIsAudited(t *testing.T) {
	t.Parallel()
	key, err := pki.ParseMasterKey(pki.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	s := pki.State{Names: pki.Names{URI: pki.Identity("p", "l", "i")}, Peers: true}
	found := make(map[audit.Kind]bool)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for end := now.AddDate(11, 0, 0); now.Before(end); now = s.At(now).Upcoming()[0].Due {
		var signed []pki.Signed
		if s, signed, err = s.DoAll(pki.Plan(s, now), key, now); err != nil {
			t.Fatal(err)
		}
		for _, c := range signed {
			found[instance.AuditKinds[c.Kind]] = true
		}
	}
	if found[""] || len(found) != len(instance.AuditKinds) || !found[audit.Peer] {
		t.Errorf("kinds %v; want all of %v", found, instance.AuditKinds)
	}
}

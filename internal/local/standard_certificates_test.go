package local_test

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// An instance without encryption for its clients has a CA for its nodes, which users are not shown. With encryption that CA is their own,
// and no node loses the others. What is left of a deleted instance has no key.
func TestCertificatesOfAStandardInstance(t *testing.T) {
	t.Parallel()
	s := newStandard(t, nil)
	before := s.get()
	if before.Certificates != nil || len(before.ServerCAs) > 0 || before.Replication.Certificates == nil || before.Replication.Certificates.Leaf != nil {
		t.Fatalf("certificates %+v, of the nodes %+v", before.Certificates, before.Replication.Certificates)
	}
	peer := before.Replication.Certificates.Peer
	if v, ok := s.metric("sealane_certificate_expiry_timestamp_seconds", "certificate=peer"); !ok || v < float64(time.Now().Add(200*24*time.Hour).Unix()) {
		t.Errorf("the peer certificate expires at %v, %v", v, ok)
	}
	if v, ok := s.metric("sealane_certificate_expiry_timestamp_seconds", "certificate=leaf"); ok {
		t.Errorf("there is a server certificate, which expires at %v", v)
	}

	if err := s.manager.Encryption.Prefer(t.Context(), s.name, false); err != nil {
		t.Fatal(err)
	}
	after := s.await("the replicas are in sync", inSync)
	switch c := after.Certificates; {
	case c == nil || c.Leaf == nil || after.Replication.Certificates != nil:
		t.Fatalf("with encryption: certificates %+v, of the nodes %+v", c, after.Replication.Certificates)
	case len(c.CAs) != 1 || c.CAs[0].Fingerprint() != before.Replication.Certificates.CAs[0].Fingerprint() || !bytes.Equal(c.Peer.Certificate, peer.Certificate):
		t.Error("with encryption there is another CA, or another peer certificate")
	}

	if _, err := s.manager.Delete(s.name, "v1"); err != nil {
		t.Fatal(err)
	}
	var left string
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(left, `"Deleted":true`); time.Sleep(10 * time.Millisecond) {
		records, err := s.store.List("")
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("it is never deleted: %v", err)
		}
		left = ""
		for _, r := range records {
			if strings.Contains(r.Key, s.name.String()) {
				left = string(r.Value)
			}
		}
	}
	for _, secret := range []string{"SealedKey", "SealedPassword"} {
		if strings.Contains(left, secret) {
			t.Errorf("what is left of it has a %s", secret)
		}
	}
}

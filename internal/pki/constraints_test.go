package pki_test

import (
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/pki"
)

// kindsOfCAs are the histories that an instance's CAs may have with name constraints.
var kindsOfCAs = []struct {
	name        string
	constrained func(generation int) bool // whether that generation is made with them
}{
	{"without name constraints", func(int) bool { return false }},
	{"with name constraints", func(int) bool { return true }},
	{"as before, then without", func(generation int) bool { return generation == 1 }},
	{"in turn", func(generation int) bool { return generation%2 == 1 }},
}

// A CA has name constraints where they are asked for, and no other does; no cross-certificate has any.
func TestNameConstraintsOnlyWhereAskedFor(t *testing.T) {
	t.Parallel()
	for _, kind := range kindsOfCAs {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pki.State{Names: loopback, NameConstraints: kind.constrained(1)}, start)
			now := start
			for len(w.s.CAs) < 5 {
				w.s = w.s.WithNameConstraints(kind.constrained(len(w.s.CAs) + 1))
				now = w.next(now)
				w.tick(now)
				w.check(now, w.s.Lifetimes.Grace())
			}
			o, err := w.s.At(now).Overview()
			if err != nil {
				t.Fatal(err)
			}
			for i, ca := range w.s.CAs {
				got, want := constrained(parse(t, ca.Certificate)), kind.constrained(ca.Generation)
				if got != want || o.CAs[i].Constrained != want {
					t.Errorf("CA-%d has constraints: %t, and is said to: %t; want %t", ca.Generation, got, o.CAs[i].Constrained, want)
				}
				if ca.Cross != nil && constrained(parse(t, ca.Cross)) {
					t.Errorf("the cross-certificate of CA-%d has constraints", ca.Generation)
				}
			}
		})
	}
}

// Without constraints a new name is served at once, and nothing waits.
func TestNewNameWithoutConstraints(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pki.State{Names: pki.Names{DNS: []string{"a.example"}}}, start)
	first := w.s.At(start).Bundle()
	now := start.Add(100 * day)
	w.s.Names = pki.Names{DNS: []string{"b.example", "c.example"}, IPs: addressOnly.IPs}
	if got := fmt.Sprint(kinds(w.tick(now))); got != "[issue-leaf]" {
		t.Errorf("done: %s; want only a new leaf", got)
	}
	for _, host := range []string{"b.example", "c.example", "10.1.2.3"} {
		if err := verify(t, first, w.served, host, now); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if o, err := w.s.At(now).Overview(); err != nil || len(o.Leaf.Waiting)+len(o.Warnings) != 0 {
		t.Errorf("waiting %v, warnings %q, %v", o.Leaf.Waiting, o.Warnings, err)
	}
}

// A record of when every CA had name constraints is read as what it is: a name that CA-1 forbids waits, and is told so. The next
// generation comes without, so whatever names come then make no further generation, and wait for CA-1 only.
func TestInstanceOfBeforeGetsRidOfConstraints(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pki.State{Names: pki.Names{DNS: []string{"a.example"}}, NameConstraints: true}, start)
	w.s = w.s.WithNameConstraints(false) // as an old record is read, which says nothing of them
	first := w.s.At(start).Bundle()
	at := func(days int) time.Time { return start.Truncate(time.Second).Add(time.Duration(days) * day) }
	warned := func(days int, want ...string) {
		t.Helper()
		o, err := w.s.At(at(days)).Overview()
		if err != nil || len(o.Warnings) != len(want) {
			t.Fatalf("day %d: warnings %q, %v; want %d", days, o.Warnings, err, len(want))
		}
		for i := range want {
			if !strings.Contains(o.Warnings[i], want[i]) {
				t.Errorf("day %d: warning %q; want %q", days, o.Warnings[i], want[i])
			}
		}
	}
	if plan := w.tick(at(10)); len(plan) != 0 {
		t.Errorf("without cause: %v", plan)
	}
	warned(10, "CA-1 has name constraints, and rustls (valkey-glide, Deno, redis-rs), BoringSSL (Bun), wolfSSL, Botan and mbedTLS refuse such a CA and all that it signs: start the next generation, which has none")

	operate := func(days int, do func(pki.State, time.Time) ([]pki.Action, error)) {
		t.Helper()
		actions, err := do(w.s, at(days))
		if err != nil {
			t.Fatal(err)
		}
		w.do(at(days), actions)
	}
	operate(20, pki.State.Rotate)
	if constrained(parse(t, w.s.CAs[1].Certificate)) {
		t.Error("CA-2 has name constraints")
	}
	warned(20, "CA-2 has none, so they connect once it signs")
	for i := range 4 {
		w.s.Names.DNS = append(slices.Clone(w.s.Names.DNS), fmt.Sprintf("new%d.example", i))
		w.tick(at(30 + i))
		w.wantNames(at(30+i), "a.example", strings.Join(w.s.Names.DNS, " "))
	}
	if len(w.s.CAs) != 2 {
		t.Errorf("%d generations; CA-2 permits every name", len(w.s.CAs))
	}
	operate(50, pki.State.Activate)
	if err := verify(t, first, w.served, "a.example", at(50)); err != nil {
		t.Errorf("who holds only CA-1 is cut off: %v", err)
	}
	warned(50, "not in the server certificate yet, for clients that hold nothing newer than CA-1 would", "CA-2 has none, so they connect as it signs now")
	operate(60, pki.State.Retire)
	w.wantNames(at(60), strings.Join(w.s.Names.DNS, " "), "")
	warned(60)
}

// The constraints of a CA hold below its cross-certificate, though that has none: for whoever holds only CA-1 the key of CA-2 is
// worth no more than CA-1's.
func TestConstraintsHoldBelowTheCrossCertificate(t *testing.T) {
	t.Parallel()
	key := masterKey(t)
	s := settle(t, pki.State{Names: loopback, NameConstraints: true}, key, start)
	now := start.Add(1825 * day)
	s = settle(t, s.WithNameConstraints(false), key, now)
	one, two, cross := parse(t, s.CAs[0].Certificate), parse(t, s.CAs[1].Certificate), parse(t, s.CAs[1].Cross)
	leafKey := certtest.NewKey(t)
	for host, want := range map[string]string{"localhost": "yes", "www.example.org": "no"} {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(7), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), DNSNames: []string{host},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		der := certtest.Sign(t, template, two, leafKey.Public(), caSigner(t, s, key, 2))
		chain := append(pki.EncodePEM(der), pki.EncodePEM(cross.Raw)...)
		if got := accepts(t, pki.EncodePEM(one.Raw), chain, host, now); got != want {
			t.Errorf("%s under CA-1: %s; want %s", host, got, want)
		}
		if got := accepts(t, pki.EncodePEM(two.Raw), chain, host, now); got != "yes" {
			t.Errorf("%s under CA-2: %s; want yes, for it has no constraints", host, got)
		}
	}
}

// A cross-certificate with constraints, of a time when it took over its CA's, is replaced by one without, once, and serves on
// until then.
func TestCrossCertificateWithConstraintsIsReplaced(t *testing.T) {
	t.Parallel()
	for _, day := range []int{1900, 2800} { // before it is served, and while it is
		key := masterKey(t)
		now := start.AddDate(0, 0, day)
		s := settle(t, pki.State{Names: loopback, NameConstraints: true}, key, start)
		for _, d := range []int{1825, 2000, 2500, day} {
			if d <= day {
				s = settle(t, s, key, start.AddDate(0, 0, d))
			}
		}
		old := withOldCross(t, s, key)
		plan := pki.Plan(old, now)
		if got := fmt.Sprint(kinds(plan)); got != "[sign-cross]" || !strings.Contains(plan[0].Reason, "the cross-certificate of CA-2 has name constraints") {
			t.Errorf("day %d: plan %v", day, plan)
		}
		if got := pki.Forecast(old, now, now.AddDate(12, 0, 0)); len(got) < 20 {
			t.Errorf("day %d: forecast of %d moments", day, len(got))
		}
		if length := chainLength(t, old, key, now); length != chainLength(t, s, key, now) {
			t.Errorf("day %d: %d certificates are served until it is replaced", day, length)
		}
		healed := settle(t, old, key, now)
		if constrained(parse(t, healed.CAs[1].Cross)) || healed.Leaf.Issuer != s.Leaf.Issuer {
			t.Errorf("day %d: it was not replaced, or the leaf is of CA-%d", day, healed.Leaf.Issuer)
		}
		// Without CA-1's key the old one stays.
		old.CAs[0].SealedKey = masterKey(t).Seal([]byte("x"), "y")
		if after, _, err := old.DoAll(pki.Plan(old, now), key, now); err == nil || string(after.CAs[1].Cross) != string(old.CAs[1].Cross) || after.CAs[1].CrossedBy != 1 {
			t.Errorf("day %d: without CA-1's key: %v", day, err)
		}
	}
}

// withOldCross gives CA-2 a cross-certificate with its own constraints.
func withOldCross(t *testing.T, s pki.State, key pki.MasterKey) pki.State {
	t.Helper()
	s.CAs = slices.Clone(s.CAs)
	one, two, template := parse(t, s.CAs[0].Certificate), parse(t, s.CAs[1].Certificate), parse(t, s.CAs[1].Cross)
	template.ExtraExtensions = template.ExtraExtensions[:0]
	for _, e := range two.Extensions {
		if e.Id.String() == "2.5.29.30" {
			template.ExtraExtensions = append(template.ExtraExtensions, e)
		}
	}
	der := certtest.Sign(t, template, one, two.PublicKey, caSigner(t, s, key, 1))
	if !constrained(parse(t, der)) {
		t.Fatal("the old cross-certificate has no constraints")
	}
	s.CAs[1].Cross = der
	return s
}

package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

// node is what a node of an instance is configured with.
type node struct {
	chain       []*x509.Certificate
	authorities []byte
}

// peers are two nodes of an instance. One of them gets its configuration a moment before the other.
type peers struct {
	*world
	last    node
	openssl bool // asks OpenSSL, too
	changes int
}

func newPeers(t testing.TB, s pki.State, now time.Time) *peers {
	p := &peers{world: newWorld(t, s.WithPeers(true), now)}
	p.last = p.node(now)
	return p
}

func (p *peers) node(now time.Time) node {
	p.t.Helper()
	chain, _, err := p.s.At(now).PeerChain(p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return node{certificates(p.t, chain), p.s.At(now).PeerAuthorities()}
}

func (n node) equal(o node) bool {
	return slices.EqualFunc(n.chain, o.chain, (*x509.Certificate).Equal) && string(n.authorities) == string(o.authorities)
}

// meet checks that a node with the configuration of before and one with that of now accept each other, and that all like them do.
func (p *peers) meet(now time.Time) {
	p.t.Helper()
	next := p.node(now)
	for _, pair := range [][2]node{{p.last, next}, {next, p.last}, {next, next}} {
		if err := p.accepts(pair[0], pair[1], now); err != nil {
			p.t.Fatalf("%s, day %.4f: a node that holds %s does not accept %s: %v\n%s", now, days(now), subjects(certificates(p.t, pair[0].authorities)),
				subjects(pair[1].chain), err, p.history())
		}
	}
	if !next.equal(p.last) {
		p.changes++
	}
	p.last = next
}

// accepts asks for the verdict of both ends of a link: the gateway verifies with Go, and an engine with OpenSSL.
func (p *peers) accepts(verifier, shown node, now time.Time) error {
	p.t.Helper()
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
		opts.Roots.AppendCertsFromPEM(verifier.authorities)
		for _, c := range shown.chain[1:] {
			opts.Intermediates.AddCert(c)
		}
		if _, err := shown.chain[0].Verify(opts); err != nil {
			return err
		}
	}
	if !p.openssl || verifier.equal(p.last) && shown.equal(p.last) {
		return nil
	}
	for _, purpose := range []string{"sslserver", "sslclient"} {
		if out, err := opensslPurpose(p.t, verifier.authorities, shown.chain, now, purpose); err != nil {
			return fmt.Errorf("OpenSSL, for %s: %s", purpose, out)
		}
	}
	return nil
}

// live carries plans out until a time, and lets the nodes meet at every change, and a second before it.
func (p *peers) live(now, end time.Time, late func() time.Duration) {
	p.t.Helper()
	for due := p.next(now); due.Before(end); due = p.next(now) {
		if before := due.Add(-time.Second); before.After(now) {
			p.meet(before)
		}
		if wait := late(); wait > 0 {
			due = due.Add(wait)
			p.meet(due)
		}
		now = due
		p.tick(now)
		p.meet(now)
	}
}

func inTime() time.Duration { return 0 }

// At every change in ten years a node from before it and a node from after it accept each other, by Go's verdict and by OpenSSL's.
func TestPeersAcceptEachOtherThroughTenYears(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 3} {
		kind := kindsOfCAs[n]
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			p := newPeers(t, pki.State{Names: loopback, NameConstraints: kind.constrained(1)}, start)
			p.s = p.s.WithNameConstraints(kind.constrained(2))
			p.openssl = true
			p.live(start, start.AddDate(11, 0, 0), inTime)
			if p.changes < 22 || len(p.s.CAs) != 3 || p.s.Peer.Issuer != 2 {
				t.Errorf("%d changes, %d CAs, the peer certificate is by CA-%d", p.changes, len(p.s.CAs), p.s.Peer.Issuer)
			}
		})
	}
}

// The same with a server that is down for up to twelve weeks when something is due, with scaled lifetimes, and without TLS for clients.
func TestPeersAcceptEachOther(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		state pki.State
		years int
		late  time.Duration
	}{
		"late":                      {pki.State{Names: loopback}, 30, 12 * 7 * day},
		"without TLS for clients":   {pki.State{Names: loopback}.WithoutServerCertificate(true), 30, 0},
		"without TLS, late":         {pki.State{Names: loopback}.WithoutServerCertificate(true), 30, 12 * 7 * day},
		"a CA lives for a minute":   {pki.State{Names: loopback, Lifetimes: pki.ScaledLifetimes(time.Minute)}, 0, 0},
		"a CA lives for 20 seconds": {pki.State{Names: loopback, Lifetimes: pki.ScaledLifetimes(pki.MinScaledCA)}, 0, 0},
		"a CA lives for two hours":  {pki.State{Names: loopback, Lifetimes: pki.ScaledLifetimes(2 * time.Hour)}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(4, 4))
			p := newPeers(t, tt.state, start)
			end := start.AddDate(tt.years, 0, 0)
			if tt.years == 0 {
				end = start.Add(3 * tt.state.Lifetimes.CA)
			}
			p.live(start, end, func() time.Duration {
				if tt.late == 0 || random.IntN(2) == 0 {
					return 0
				}
				return time.Duration(random.Int64N(int64(tt.late)))
			})
			if (p.s.Leaf == nil) != tt.state.NoLeaf || len(p.s.CAs) < 4 {
				t.Errorf("a leaf: %v, %d CAs", p.s.Leaf != nil, len(p.s.CAs))
			}
		})
	}
}

// An operator who rotates, activates, renews and retires at any moment, also one right after another, breaks no link.
func TestPeersAcceptEachOtherWhateverAnOperatorAsksFor(t *testing.T) {
	t.Parallel()
	for _, pause := range []time.Duration{time.Second, 200 * day} {
		t.Run(pause.String(), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(5, 5))
			p, now := newPeers(t, pki.State{Names: addressOnly}, start), start
			done := make(map[string]int)
			for now.Before(start.AddDate(20, 0, 0)) {
				wait := time.Duration(random.Int64N(int64(200 * day)))
				p.live(now, now.Add(wait), inTime)
				now = now.Add(wait)
				for _, verb := range []string{"rotate", "activate", "renew", "retire"} {
					if random.IntN(3) == 0 {
						continue
					}
					if actions, err := orders(p.s, now)[verb](); err == nil {
						done[verb]++
						p.do(now, actions)
						p.meet(now)
					}
					next := now.Add(time.Duration(random.Int64N(int64(pause))) + time.Second)
					p.live(now, next, inTime)
					now = next
				}
			}
			for verb, n := range done {
				if n < 3 {
					t.Errorf("%s worked %d times", verb, n)
				}
			}
		})
	}
}

// Where no CA can be activated in time, or new names need another CA at once, the nodes learn of a CA before it signs.
func TestPeersLearnOfACABeforeItSigns(t *testing.T) {
	t.Parallel()
	at := func(days float64) time.Time {
		return start.Truncate(time.Second).Add(time.Duration(days * float64(day)))
	}
	for _, published := range []float64{3640, 3649.5} {
		t.Run(fmt.Sprintf("the publication was missed until day %g", published), func(t *testing.T) {
			t.Parallel()
			p := newPeers(t, pki.State{Names: loopback}, start)
			var err error // as a server does that can't make a CA
			if p.s, _, err = p.s.DoAll([]pki.Action{{Kind: pki.IssueLeaf, Generation: 1}, {Kind: pki.IssuePeer, Generation: 1}}, p.key, at(3500)); err != nil {
				t.Fatal(err)
			}
			p.last = p.node(at(3500))
			p.tick(at(published))
			p.meet(at(published))
			if p.s.Peer.Issuer != 1 {
				t.Fatal("CA-2 signs the peer certificate before all nodes know CA-2")
			}
			p.live(at(published), at(3649.9), inTime)
			if p.s.Peer.Issuer != 2 || p.s.Leaf.Issuer != 1 {
				t.Errorf("before CA-1 expires the peer certificate is by CA-%d, and the leaf by CA-%d", p.s.Peer.Issuer, p.s.Leaf.Issuer)
			}
			p.live(at(3649.9), at(3800), inTime)
		})
	}
	t.Run("the publication was missed until the activation", func(t *testing.T) {
		t.Parallel()
		p := newPeers(t, pki.State{Names: loopback}, start)
		var err error
		if p.s, _, err = p.s.DoAll([]pki.Action{{Kind: pki.IssueLeaf, Generation: 1}, {Kind: pki.IssuePeer, Generation: 1}}, p.key, at(2800)); err != nil {
			t.Fatal(err)
		}
		p.last = p.node(at(2800))
		p.tick(at(3000))
		if p.meet(at(3000)); p.s.Peer.Issuer != 2 || len(p.last.chain) != 2 {
			t.Errorf("CA-%d signs the peer certificate; the chain is %s", p.s.Peer.Issuer, subjects(p.last.chain))
		}
	})
	t.Run("other names", func(t *testing.T) {
		t.Parallel()
		p := newPeers(t, pki.State{Names: loopback, NameConstraints: true}, start)
		p.s.Names.DNS, p.s.Names.IPs = nil, addressOnly.IPs
		p.tick(at(10))
		p.meet(at(10))
		if p.s.Leaf.Issuer != 2 || p.s.Peer.Issuer != 1 {
			t.Fatalf("the leaf is by CA-%d, the peer certificate by CA-%d", p.s.Leaf.Issuer, p.s.Peer.Issuer)
		}
		p.live(at(10), at(12), inTime)
		if p.s.Peer.Issuer != 2 {
			t.Errorf("two days later the peer certificate is by CA-%d", p.s.Peer.Issuer)
		}
		p.s.Names = loopback
		p.tick(at(20))
		p.meet(at(20))
		p.live(at(20), at(8000), inTime)
	})
}

// A CA that is given up is accepted no more, and what it signed is replaced at once. So is the peer certificate of a CA that is not, as the
// leaf is.
func TestPeersAfterACompromise(t *testing.T) {
	t.Parallel()
	for _, age := range []time.Duration{100 * day, 2000 * day, 2800 * day, 3640 * day} {
		for _, generation := range []int{0, 1, 2} {
			if generation == 2 && age < 1825*day {
				continue
			}
			now := start.Add(age)
			p := newPeers(t, pki.State{Names: loopback}, start)
			p.live(start, now, inTime)
			before, replaced := p.node(now), p.s.Peer.Certificate
			actions, err := p.s.Compromise(now, generation)
			if err != nil {
				t.Fatal(err)
			}
			p.do(now, actions)
			after := p.node(now)
			if err := p.accepts(after, after, now); err != nil {
				t.Errorf("%v, CA-%d: %v", age, generation, err)
			}
			for _, ca := range p.s.CAs {
				if !ca.Compromised.IsZero() && strings.Contains(string(after.authorities), string(pki.EncodePEM(ca.Certificate))) {
					t.Errorf("%v: CA-%d is still accepted", age, ca.Generation)
				}
			}
			if string(p.s.Peer.Certificate) == string(replaced) {
				t.Errorf("%v, CA-%d: the peer certificate was not replaced", age, generation)
			}
			// Where the cross-certificate was served, the CA that signed it still vouches: nothing but giving that up, too, ends it.
			if err := p.accepts(after, before, now); (generation == 0 || generation == before.issuer(p.s) && len(before.chain) == 1) && err == nil {
				t.Errorf("%v, CA-%d: what it signed is still accepted", age, generation)
			}
			p.last = after
			p.live(now, now.AddDate(1, 0, 0), inTime)
		}
	}
}

// issuer is the generation by which the node's certificate is.
func (n node) issuer(s pki.State) int {
	for _, ca := range s.CAs {
		if cert, err := x509.ParseCertificate(ca.Certificate); err == nil && n.chain[0].CheckSignatureFrom(cert) == nil {
			return ca.Generation
		}
	}
	return 0
}

// The peer certificate has one name, which is no name that clients dial, and is good for both ends of a link.
func TestPeerCertificateHasTheDocumentedShape(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []pki.Algorithm{pki.ECDSAP256, pki.RSA2048} {
		p := newPeers(t, pki.State{Names: loopback, Algorithm: algorithm}, start)
		p.openssl = true
		p.last = node{}
		now := p.node(start)
		if err := p.accepts(now, now, start); err != nil {
			t.Error(err)
		}
		cert := now.chain[0]
		if len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://sealane/local/local/first/node" || len(cert.DNSNames)+len(cert.IPAddresses) > 0 {
			t.Errorf("names: %v %v %v", cert.URIs, cert.DNSNames, cert.IPAddresses)
		}
		if !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) || cert.IsCA {
			t.Errorf("extended key usage %v, CA %v", cert.ExtKeyUsage, cert.IsCA)
		}
		if _, _, _, ok := pki.ParseIdentity(cert.URIs[0].String()); ok {
			t.Error("the name of a node passes for that of an instance")
		}
		chain, key, err := p.s.At(start).PeerChain(p.key)
		if _, err := tls.X509KeyPair(chain, key); err != nil {
			t.Error(err)
		}
		if err != nil || p.s.Leaf.Certificate == nil || slices.Contains(p.served[0].ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
			t.Errorf("%v; the leaf is for %v", err, p.served[0].ExtKeyUsage)
		}
	}
}

// States of before have no peer certificate, and get nothing but that when they need one. Without TLS for clients there is nothing else
// than the CAs, until there is TLS.
func TestPeerCertificateOnlyWhereAskedFor(t *testing.T) {
	t.Parallel()
	key := masterKey(t)
	s := settle(t, pki.State{Names: loopback}, key, start)
	if record, err := json.Marshal(s); err != nil || strings.Contains(string(record), "Peer") || strings.Contains(string(record), "NoLeaf") {
		t.Errorf("%s, %v", record, err)
	}
	if _, _, err := s.At(start).PeerChain(key); err == nil {
		t.Error("there is a chain for nodes")
	}
	if got := fmt.Sprint(kinds(pki.Plan(s.WithPeers(true), start))); got != "[issue-peer]" {
		t.Errorf("with peers: %s", got)
	}
	s = pki.State{Names: loopback}.WithPeers(true).WithoutServerCertificate(true)
	if got := fmt.Sprint(kinds(pki.Plan(s, start))); got != "[create-ca issue-peer]" {
		t.Errorf("without TLS for clients: %s", got)
	}
	s = settle(t, s, key, start)
	renew, err := s.Renew(start.Add(day))
	if err != nil || fmt.Sprint(kinds(renew)) != "[issue-peer]" || renew[0].Due.IsZero() {
		t.Errorf("renewed: %v, %v", renew, err)
	}
	if o, err := s.At(start).Overview(); err != nil || o.Leaf != nil || o.Next != nil {
		t.Errorf("overview: %+v, %v", o, err)
	}
	if got := fmt.Sprint(kinds(pki.Plan(s.WithoutServerCertificate(false), start))); got != "[issue-leaf]" {
		t.Errorf("with TLS: %s", got)
	}
	if boot := time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC); len(pki.Plan(s, boot)) > 0 {
		t.Error("a clock before everything changes something")
	} else if chain, _, err := s.At(boot).PeerChain(key); err != nil || len(chain) == 0 || len(s.At(boot).PeerAuthorities()) == 0 {
		t.Errorf("with a clock before everything there is no chain: %v", err)
	}
}

// Every peer certificate that is signed is reported as one.
func TestEverySignatureForPeersIsReported(t *testing.T) {
	t.Parallel()
	key, now, last := masterKey(t), start, ""
	s := pki.State{Names: loopback}.WithPeers(true)
	for now.Before(start.AddDate(6, 0, 0)) {
		var signed []pki.Signed
		var err error
		if s, signed, err = s.DoAll(pki.Plan(s, now), key, now); err != nil {
			t.Fatal(err)
		}
		reported := slices.ContainsFunc(signed, func(x pki.Signed) bool {
			return x.Kind == pki.IssuePeer && x.Issuer == s.Peer.Issuer && x.Reason != "" && string(x.Certificate) == string(s.Peer.Certificate)
		})
		if reported != (string(s.Peer.Certificate) != last) {
			t.Errorf("on day %.0f a new peer certificate is reported: %v", days(now), reported)
		}
		last, now = string(s.Peer.Certificate), s.At(now).Upcoming()[0].Due
	}
}

// A node that has missed two changes, which an operator made one right after the other, accepts the others, and they accept it.
func TestPeersAcceptANodeThatMissedTwoChanges(t *testing.T) {
	t.Parallel()
	p, now := newPeers(t, pki.State{Names: loopback}, start), start.Add(100*day)
	var nodes []node
	for _, verb := range []string{"renew", "rotate", "activate", "retire"} {
		nodes = append(nodes, p.node(now))
		now = now.Add(time.Second)
		actions, err := orders(p.s, now)[verb]()
		if err != nil {
			t.Fatal(err)
		}
		p.do(now, actions)
		if n := len(nodes); n > 1 {
			p.last = nodes[n-2]
			p.meet(now)
		}
	}
	now = now.Add(2 * day)
	if p.meet(now); strings.Count(string(p.last.authorities), "BEGIN") != 1 {
		t.Error("two days later a node still accepts the CA that was retired")
	}
}

package gateway_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/pki"
)

const day = 24 * time.Hour

// stage is a moment in the life of an instance's CAs, and what the gateway serves then.
type stage struct {
	name string
	age  time.Duration // of CA-1
	// served, where it is not zero, is how old CA-1 was when the chain was made that is served.
	served time.Duration
	// want says which trust stores verify it.
	want string
	// elsewhere: the certificate is for another address and another name than the client's.
	elsewhere bool
	// forged: CA-1 was made for another address and another name, and its key has signed a certificate for the client's.
	forged bool
	// relaxed: CA-1 has name constraints, as CAs had before Sealane made them without, and its successors have none.
	relaxed bool
	// except says of clients, by name, which trust stores theirs are instead.
	except map[string]string
}

// stages are what every client must get right.
var stages = []stage{
	{name: "CA-1 signs", age: 1900 * day, want: "CA-1 both"},
	{name: "cross-signed", age: 2800 * day, want: "CA-1 CA-2 both"},
	{name: "the cross-certificate has ended", age: 3630 * day, want: "CA-2 both"},
	{name: "CA-1 has expired", age: 3660 * day, want: "CA-2 both"},
	{name: "the same, and an expired cross-certificate is still served", age: 3660 * day, served: 3600 * day, want: "CA-2 both",
		// With CA-1 in its store too it refuses the expired certificate, although it doesn't need it.
		except: map[string]string{"wolfSSL": "CA-2", "wolfSSL 5.7": "CA-2"}},
	// redis-cli has no option to compare the certificate with anything, and Botan's tls_client does it only with a DNS name.
	{name: "a certificate for another address and name", age: 1900 * day, elsewhere: true,
		except: map[string]string{"redis-cli": "CA-1 both", "Botan tls_client": "CA-1 both"}},
}

// constrainedStages are served by CAs with name constraints, with which not every client can do anything.
var constrainedStages = []stage{
	stages[0], stages[1],
	{name: "cross-signed, and only CA-1 is constrained", age: 2800 * day, want: "CA-1 CA-2 both", relaxed: true},
	{name: "the cross-certificate has ended", age: 3630 * day, want: "CA-2 both"},
	{name: "a certificate for an address that CA-1 does not permit", age: 1900 * day, forged: true},
}

// connect is with which trust stores a client is to connect.
func (g stage) connect(client string) []string {
	if stores, ok := g.except[client]; ok {
		return strings.Fields(stores)
	}
	return strings.Fields(g.want)
}

var stores = []string{"CA-1", "CA-2", "both"}

// otherName and otherAddress are where no client of these tests connects to.
const (
	otherName    = "elsewhere.test"
	otherAddress = "127.9.9.9"
)

// trial is one connection: a stage, a trust store.
type trial struct {
	series      string
	constrained bool
	stage       stage
	store       string
	host, port  string
	name        string // of the host, for clients that compare the certificate with a name only
	file        string // the trust store, PEM
}

// Real clients of every kind, with each trust store, in each phase of a change of CAs: exactly the expected ones get in.
// What a CA with name constraints does to each of them is as the documentation says.
func TestClientsAcceptExactlyTheExpectedCAs(t *testing.T) {
	t.Parallel()
	p := newPage()
	t.Cleanup(func() { p.check(t) }) // when all have been asked
	bench := newWorkbench(t)
	engine := newWorld(t)
	redis(t, engine)
	trials := slices.Concat(
		setStages(t, engine.engine, stages, pki.State{Algorithm: pki.ECDSAP256}),
		setStages(t, engine.engine, stages, pki.State{Algorithm: pki.RSA2048}),
		setStages(t, engine.engine, constrainedStages, pki.State{Algorithm: pki.ECDSAP256, NameConstraints: true}),
	)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			version := c.version(t, bench)
			answers := c.probe(t, bench, trials)
			for i, got := range answers {
				r := trials[i]
				if r.constrained {
					continue
				}
				want := slices.Contains(r.stage.connect(c.name), r.store)
				if (got == "ok") != want {
					t.Errorf("%s, %s, %s in the store: %s; want ok: %t", r.series, r.stage.name, r.store, got, want)
				}
			}
			if c.by == byName {
				first := trials[0]
				first.name = first.host
				if got := c.probe(t, bench, []trial{first}); got[0] == "ok" && p.isAbout(t, c, version) {
					t.Errorf("given an address as its name, it connects; %s says that it can't", pagePath)
				}
			}
			p.saw(c, version, trials, answers)
		})
	}
}

// setStages serves every stage, and writes the trust stores.
func setStages(t *testing.T, engine string, stages []stage, with pki.State) []trial {
	t.Helper()
	key, err := pki.ParseMasterKey(pki.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	var trials []trial
	for i, g := range stages {
		w := newWorld(t)
		w.engine = engine
		host, port := w.hostPort()
		s := with
		s.Names = pki.Names{IPs: []netip.Addr{netip.MustParseAddr(host)}, DNS: []string{"localhost"}, URI: "spiffe://sealane/p/l/i"}
		if g.elsewhere || g.forged {
			s.Names.IPs, s.Names.DNS = []netip.Addr{netip.MustParseAddr(otherAddress)}, []string{otherName}
		}
		s, chain, private := live(t, s, g, key)
		if g.forged {
			chain, private = forged(t, s, key, host)
		}
		block, _ := pem.Decode(private)
		w.id = identity{chain: chain, key: private, keyDER: block.Bytes}
		w.run()
		w.apply(w.snapshot(1))
		cas := [][]byte{pki.EncodePEM(s.CAs[0].Certificate), pki.EncodePEM(s.CAs[1].Certificate)}
		for j, pems := range [][]byte{cas[0], cas[1], bytes.Join(cas, nil)} {
			file := filepath.Join(w.dir, fmt.Sprintf("store%d-%d.pem", i, j))
			if err := os.WriteFile(file, pems, 0o600); err != nil {
				t.Fatal(err)
			}
			trials = append(trials, trial{
				series: string(s.Algorithm), constrained: with.NameConstraints, stage: g, store: stores[j],
				host: host, port: port, name: "localhost", file: file,
			})
		}
	}
	return trials
}

// live lets CAs grow as old as the stage has them, and returns what is served then.
func live(t *testing.T, s pki.State, g stage, key pki.MasterKey) (_ pki.State, chain, private []byte) {
	t.Helper()
	now := time.Now()
	for _, age := range []time.Duration{0, 1825 * day, 2000 * day, 2500 * day, 2750 * day, 3590 * day, 3600 * day, g.age} {
		if age > g.age {
			continue
		}
		at := now.Add(age - g.age)
		var err error
		if s, _, err = s.DoAll(pki.Plan(s, at), key, at); err != nil {
			t.Fatal(err)
		}
		if g.relaxed {
			s = s.WithNameConstraints(false)
		}
		if age == g.served || g.served == 0 {
			if chain, private, err = s.At(at).Chain(key); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s, chain, private
}

// forged is what whoever has stolen CA-1's key could make: a leaf for another address and name.
func forged(t *testing.T, s pki.State, key pki.MasterKey, host string) (chain, private []byte) {
	t.Helper()
	ca, err := x509.ParseCertificate(s.CAs[0].Certificate)
	if err != nil {
		t.Fatal(err)
	}
	der, err := key.Open(s.CAs[0].SealedKey, "ca 1 of "+s.Names.URI)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	leaf := (&certtest.Authority{Cert: ca, Key: signer.(crypto.Signer)}).Leaf(t, certtest.Names(host, "localhost"))
	return certtest.PEM(leaf.Certificate...), certtest.KeyPEM(t, leaf.PrivateKey)
}

package gateway_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

var update = flag.Bool("update", false, "write the table of clients in docs/clients-and-cas.md anew")

const day = 24 * time.Hour

// stage is a moment in the life of an instance's CAs, and what the gateway serves then.
type stage struct {
	name string
	age  time.Duration // of CA-1
	// served, where it is not zero, is how old CA-1 was when the chain was made that is served.
	served time.Duration
	// want says which trust stores verify it.
	want    string
	foreign bool // the CAs have name constraints, and the leaf is for an address that they don't permit
	// except names clients that connect all the same.
	except string
}

var stages = []stage{
	{name: "CA-1 signs", age: 1900 * day, want: "CA-1 both"},
	{name: "cross-signed", age: 2800 * day, want: "CA-1 CA-2 both"},
	{name: "the cross-certificate has ended", age: 3630 * day, want: "CA-2 both"},
	{name: "CA-1 has expired", age: 3660 * day, want: "CA-2 both"},
	{name: "the same, and an expired cross-certificate is still served", age: 3660 * day, served: 3600 * day, want: "CA-2 both"},
	{name: "with name constraints, a certificate for an address that CA-1 does not permit", age: 1900 * day, foreign: true, except: "Java"},
}

var stores = []string{"CA-1", "CA-2", "both"}

// trial is one handshake: a stage, a trust store.
type trial struct {
	stage, store string
	host, port   string
	file         string // the trust store, PEM
	want         bool
	except       string
}

// prober is a TLS client. It says of each trial what came of it: "ok", or "no" and why.
type prober struct {
	name    string
	version []string // prints it
	probe   func(t *testing.T, trials []trial) []string
}

var probers = []prober{
	{"Go crypto/tls", []string{"go", "version"}, probeGo},
	{"OpenSSL s_client", []string{"openssl", "version"}, each(func(t *testing.T, c trial) *exec.Cmd {
		return exec.Command("openssl", "s_client", "-connect", c.host+":"+c.port, "-CAfile", c.file, "-no-CApath", "-no-CAstore",
			"-verify_return_error", "-verify_ip", c.host, "-brief")
	})},
	{"redis-cli", []string{"redis-cli", "--version"}, each(func(t *testing.T, c trial) *exec.Cmd {
		return exec.Command("redis-cli", "-h", c.host, "-p", c.port, "--tls", "--cacert", c.file, "PING")
	})},
	{"GnuTLS gnutls-cli", []string{"gnutls-cli", "--version"}, each(func(t *testing.T, c trial) *exec.Cmd {
		return exec.Command("gnutls-cli", "--x509cafile", c.file, "--port", c.port, c.host)
	})},
	{"NSS tstclnt", []string{"dpkg-query", "-W", "libnss3-tools"}, each(nss)},
	{"Java", []string{"java", "--version"}, batch(func(t *testing.T) *exec.Cmd {
		return exec.Command(program(t, "java"), "testdata/clients/Handshakes.java")
	})},
	{"Node.js", []string{"node", "--version"}, batch(func(t *testing.T) *exec.Cmd {
		return exec.Command(program(t, "node"), "testdata/clients/handshakes.mjs")
	})},
	{"Python ssl", []string{"python3", "--version"}, batch(func(t *testing.T) *exec.Cmd {
		return exec.Command(program(t, "python3"), "testdata/clients/handshakes.py")
	})},
}

// Real clients of every kind, with each trust store, in each phase of a change of CAs: exactly the expected ones get in.
func TestClientsAcceptExactlyTheExpectedCAs(t *testing.T) {
	t.Parallel()
	t.Cleanup(func() { checkPage(t) }) // when all have been asked
	for _, algorithm := range []pki.Algorithm{pki.ECDSAP256, pki.RSA2048} {
		trials := setStage(t, algorithm)
		for _, p := range probers {
			t.Run(p.name+" "+string(algorithm), func(t *testing.T) {
				t.Parallel()
				program(t, p.version[0])
				for i, got := range p.probe(t, trials) {
					c := trials[i]
					// Java's PKIX takes no name constraints from a trust anchor (RFC 5280, 6.1.1, leaves that open).
					want := c.want || c.except == p.name && c.store != "CA-2"
					if (got == "ok") != want {
						t.Errorf("%s, %s in the store: %s; want ok: %t", c.stage, c.store, got, want)
					}
				}
			})
		}
	}
}

// setStage serves every stage, and writes the trust stores.
func setStage(t *testing.T, algorithm pki.Algorithm) []trial {
	t.Helper()
	key, err := pki.ParseMasterKey(pki.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	var trials []trial
	now := time.Now()
	for i, g := range stages {
		w := newWorld(t)
		host, port := w.hostPort()
		names := pki.Names{IPs: []netip.Addr{netip.MustParseAddr(host)}, URI: "spiffe://sealane/p/l/i"}
		if g.foreign {
			names.IPs[0] = netip.MustParseAddr("127.9.9.9")
		}
		s := pki.State{Names: names, Algorithm: algorithm, NameConstraints: g.foreign}
		var chain, private []byte
		for _, age := range []time.Duration{0, 1825 * day, 2000 * day, 2500 * day, 2750 * day, 3590 * day, 3600 * day, g.age} {
			if age > g.age {
				continue
			}
			at := now.Add(age - g.age)
			if s, _, err = s.DoAll(pki.Plan(s, at), key, at); err != nil {
				t.Fatal(err)
			}
			if age == g.served || g.served == 0 {
				if chain, private, err = s.Chain(key, at); err != nil {
					t.Fatal(err)
				}
			}
		}
		if g.foreign {
			chain, private = forged(t, s, key, host)
		}
		cas := [][]byte{pki.EncodePEM(s.CAs[0].Certificate), pki.EncodePEM(s.CAs[1].Certificate)}
		block, _ := pem.Decode(private)
		w.id = identity{chain: chain, key: private, keyDER: block.Bytes}
		fakeEngine(t, w.engine, echo)
		w.run()
		w.apply(w.snapshot(1))
		for j, pems := range [][]byte{cas[0], cas[1], bytes.Join(cas, nil)} {
			file := filepath.Join(w.dir, fmt.Sprintf("store%d-%d.pem", i, j))
			if err := os.WriteFile(file, pems, 0o600); err != nil {
				t.Fatal(err)
			}
			want := slices.Contains(strings.Fields(g.want), stores[j])
			trials = append(trials, trial{g.name, stores[j], host, port, file, want, g.except})
		}
	}
	return trials
}

// forged is what whoever has stolen CA-1's key could make: a leaf for another address.
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
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(9), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(host)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), signer.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return pki.EncodePEM(cert), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func probeGo(t *testing.T, trials []trial) []string {
	var got []string
	for _, c := range trials {
		text, err := os.ReadFile(c.file)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(text)
		conn, err := tls.Dial("tcp", net.JoinHostPort(c.host, c.port), &tls.Config{RootCAs: roots})
		if err != nil {
			got = append(got, "no "+err.Error())
			continue
		}
		conn.Close()
		got = append(got, "ok")
	}
	return got
}

// each runs a program for each trial; its exit status tells.
func each(command func(*testing.T, trial) *exec.Cmd) func(*testing.T, []trial) []string {
	return func(t *testing.T, trials []trial) []string {
		var got []string
		for _, c := range trials {
			cmd := command(t, c)
			out, err := within(t, cmd, "")
			if err != nil {
				got = append(got, "no "+string(out))
				continue
			}
			got = append(got, "ok")
		}
		return got
	}
}

// batch gives a program all trials at once: a virtual machine takes a while to start.
func batch(command func(*testing.T) *exec.Cmd) func(*testing.T, []trial) []string {
	return func(t *testing.T, trials []trial) []string {
		var in strings.Builder
		for _, c := range trials {
			fmt.Fprintln(&in, c.host, c.port, c.file)
		}
		out, err := within(t, command(t), in.String())
		got := strings.Split(strings.TrimSpace(string(out)), "\n")
		if err != nil || len(got) != len(trials) {
			t.Fatalf("%d answers to %d trials, %v: %s", len(got), len(trials), err, out)
		}
		return got
	}
}

func within(t *testing.T, cmd *exec.Cmd, in string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	limited := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	limited.Stdin = strings.NewReader(in)
	out, err := limited.CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("%q did not end", cmd.Args)
	}
	return out, err
}

// nss has its trust in a database.
func nss(t *testing.T, c trial) *exec.Cmd {
	db := filepath.Join(t.TempDir(), "nss")
	if err := os.Mkdir(db, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("certutil", "-N", "-d", db, "--empty-password").CombinedOutput(); err != nil {
		t.Fatalf("certutil: %v: %s", err, out)
	}
	text, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; len(text) > 0; i++ {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		add := exec.Command("certutil", "-A", "-d", db, "-n", fmt.Sprint("ca", i), "-t", "C,,")
		add.Stdin = bytes.NewReader(block.Bytes)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("certutil: %v: %s", err, out)
		}
	}
	return exec.Command("tstclnt", "-h", c.host, "-p", c.port, "-d", db, "-V", "tls1.2:tls1.3", "-Q")
}

const page = "../../docs/clients-and-cas.md"

// checkPage holds the documentation against what was shown just now.
func checkPage(t *testing.T) {
	t.Helper()
	const from, to = "<!-- Written by `go test ./internal/gateway -run Expected -update`. -->\n", "<!-- the end of that -->\n"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), from)
	_, after, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", page)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n| what is served | %s |\n|---|---|---|---|\n", strings.Join(stores, " | "))
	for _, g := range stages {
		fmt.Fprintf(&b, "| %s |", g.name)
		for _, s := range stores {
			verdict := "refuses"
			switch {
			case slices.Contains(strings.Fields(g.want), s):
				verdict = "**connects**"
			case g.except != "" && s != "CA-2":
				verdict += " (" + g.except + " connects)"
			}
			fmt.Fprintf(&b, " %s |", verdict)
		}
		b.WriteByte('\n')
	}
	if *update && !t.Failed() {
		b.WriteString("\n| client | version |\n|---|---|\n")
		for _, p := range probers {
			out, _ := exec.Command(p.version[0], p.version[1:]...).Output()
			fmt.Fprintf(&b, "| %s | %s |\n", p.name, firstLineOf(string(out)))
		}
		b.WriteByte('\n')
		if err := os.WriteFile(page, []byte(before+from+b.String()+to+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	// Versions differ from machine to machine.
	if !strings.HasPrefix(rest, b.String()) {
		t.Errorf("%s does not have the table of this test: run `go test ./internal/gateway -run Expected -update`", page)
	}
	for _, p := range probers {
		if !strings.Contains(rest, "| "+p.name+" | ") {
			t.Errorf("%s does not name %s", page, p.name)
		}
	}
}

func firstLineOf(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return strings.Join(strings.Fields(line), " ")
}

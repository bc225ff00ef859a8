package gateway_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/gateway"
)

func TestValidSnapshotsAreValid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	asRSA, asEd, ipv6, bare, chain := w.snapshot(1), w.snapshot(1), w.snapshot(1), w.plain(1), w.snapshot(1)
	id := signed(t, rsaKey)
	asRSA.Certificate, asRSA.PrivateKey = id.chain, id.key
	id = signed(t, edKey)
	asEd.Certificate, asEd.PrivateKey = id.chain, id.key
	ipv6.Listeners[0].Address = "[::1]:6378"
	bare.Certificate, bare.PrivateKey, bare.Connect = nil, nil, ""
	chain.Certificate = append(bytes.Clone(chain.Certificate), newIdentity(t).chain...)
	for name, s := range map[string]gateway.Snapshot{
		"ecdsa": w.snapshot(1), "rsa": asRSA, "ed25519": asEd, "ipv6": ipv6, "no tls, no key": bare, "chain": chain,
	} {
		if err := s.ValidateForTest(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// spoiled is a snapshot with something wrong, and what the error must say.
type spoiled struct {
	name  string
	spoil func(*gateway.Snapshot)
	want  []string
}

func TestApplyNamesEveryProblem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := newIdentity(t)
	w.wantProblems([]spoiled{
		{"no generation", func(s *gateway.Snapshot) { s.Generation = 0 }, []string{"generation 0"}},
		{"no listener", func(s *gateway.Snapshot) { s.Listeners = nil }, []string{"listeners: there are 0"}},
		{"too many", func(s *gateway.Snapshot) { s.Listeners = make([]gateway.Listener, 65) }, []string{"there are 65"}},
		{"a name", func(s *gateway.Snapshot) { s.Listeners[0].Address = "localhost:6378" }, []string{`listeners[0].address "localhost:6378"`}},
		{"port 0", func(s *gateway.Snapshot) { s.Listeners[0].Address = "127.0.0.1:0" }, []string{`"127.0.0.1:0": the port`}},
		{"other spelling", func(s *gateway.Snapshot) { s.Listeners[0].Address = "[::0001]:1" }, []string{`must be written "[::1]:1"`}},
		{"twice", func(s *gateway.Snapshot) { s.Listeners = append(s.Listeners, s.Listeners[0]) }, []string{"listeners[1].address", "is listeners[0] already"}},
		{"relative engine", func(s *gateway.Snapshot) { s.Engine = "e.sock" }, []string{`engine "e.sock"`}},
		{"long engine", func(s *gateway.Snapshot) { s.Engine = "/" + strings.Repeat("e", 107) }, []string{"at most 107 bytes"}},
		{"a failover of a backend", func(s *gateway.Snapshot) {
			s.Engine, s.Backend, s.ReadOnly, s.Standby = "", &backend.Server{}, true, true
		}, []string{"read_only true", "standby true"}},
		{"no advice", func(s *gateway.Snapshot) { s.Connect = "" }, []string{`connect ""`}},
		{"two lines", func(s *gateway.Snapshot) { s.Connect = "a\r\nb" }, []string{`connect "a\r\nb"`}},
		{"not ASCII", func(s *gateway.Snapshot) { s.Connect = "é" }, []string{`connect "é"`}},
		{"long advice", func(s *gateway.Snapshot) { s.Connect = strings.Repeat("a", 513) }, []string{"at most 512 bytes"}},
		{"negative", func(s *gateway.Snapshot) { s.HandshakeTimeout = -1 }, []string{"handshake_timeout -1ns"}},
		{"silent before its time", func(s *gateway.Snapshot) { s.FirstByteTimeout = -1 }, []string{"first_byte_timeout -1ns"}},
		{"silent for days", func(s *gateway.Snapshot) { s.FirstByteTimeout = 48 * time.Hour }, []string{"first_byte_timeout 48h0m0s"}},
		{"for ever", func(s *gateway.Snapshot) { s.HandshakeTimeout = time.Hour }, []string{"handshake_timeout 1h0m0s"}},
		{"no chain", func(s *gateway.Snapshot) { s.Certificate = nil }, []string{"certificate", "leaf first"}},
		{"key as chain", func(s *gateway.Snapshot) { s.Certificate = s.PrivateKey }, []string{"PEM block 0", "is no certificate"}},
		{"junk after chain", func(s *gateway.Snapshot) { s.Certificate = append(bytes.Clone(s.Certificate), "junk"...) }, []string{`certificate "junk"`}},
		{"no key", func(s *gateway.Snapshot) { s.PrivateKey = nil }, []string{"private_key (0 bytes, not shown)"}},
		{"chain as key", func(s *gateway.Snapshot) { s.PrivateKey = s.Certificate }, []string{"private_key", "PRIVATE KEY"}},
		{"broken key", func(s *gateway.Snapshot) {
			s.PrivateKey = []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
		}, []string{"private_key", "not PKCS#8"}},
		{"another's key", func(s *gateway.Snapshot) { s.PrivateKey = other.key }, []string{"private_key", "is not the key of the first certificate"}},
		{"all at once", func(s *gateway.Snapshot) {
			*s = gateway.Snapshot{Listeners: []gateway.Listener{{Address: "x", TLS: true}}}
		},
			[]string{"generation 0", `"x"`, `engine ""`, `connect ""`, "certificate", "private_key"}},
	})
}

func (w *world) wantProblems(cases []spoiled) {
	w.t.Helper()
	for _, tc := range cases {
		s := w.snapshot(1)
		tc.spoil(&s)
		err := s.ValidateForTest()
		if err == nil {
			w.t.Errorf("%s: is valid", tc.name)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				w.t.Errorf("%s: %v; want it to contain %q", tc.name, err, want)
			}
		}
		w.hidesKey("error of "+tc.name, err.Error())
	}
}

func TestSnapshotIsPrintedWithoutItsKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var log bytes.Buffer
	s := w.snapshot(7)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "p", &s, "in", struct{ S gateway.Snapshot }{s})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s)
	text := log.String() + fmt.Sprintf("%v %+v %#v %s %v", s, s, s, s, &s)
	for _, secret := range []string{string(w.id.key[40:80]), fmt.Sprintf("%x", w.id.keyDER[8:24]), fmt.Sprint(w.id.key[40:60])} {
		if strings.Contains(text, strings.Trim(secret, "[]")) {
			t.Errorf("printed with its key: %s", text)
		}
	}
	if !strings.Contains(text, s.Digest()) || !strings.Contains(text, "snapshot 7") {
		t.Errorf("not recognisable: %s", text)
	}
}

func TestDigestCoversEverythingButTheGeneration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	base := w.snapshot(1).Digest()
	if got := w.snapshot(2).Digest(); got != base {
		t.Error("the generation changes the digest")
	}
	seen := map[string]string{base: "nothing"}
	for name, change := range map[string]func(*gateway.Snapshot){
		"address":     func(s *gateway.Snapshot) { s.Listeners[0].Address = "127.0.0.1:1" },
		"tls":         func(s *gateway.Snapshot) { s.Listeners[0].TLS = false },
		"engine":      func(s *gateway.Snapshot) { s.Engine += "x" },
		"standby":     func(s *gateway.Snapshot) { s.Standby = true },
		"read only":   func(s *gateway.Snapshot) { s.ReadOnly = true },
		"certificate": func(s *gateway.Snapshot) { s.Certificate = nil },
		"key":         func(s *gateway.Snapshot) { s.PrivateKey = nil },
		"connect":     func(s *gateway.Snapshot) { s.Connect += "x" },
		"timeout":     func(s *gateway.Snapshot) { s.HandshakeTimeout = 1 },
		"first byte":  func(s *gateway.Snapshot) { s.FirstByteTimeout = 1 },
		"min version": func(s *gateway.Snapshot) { s.MinTLSVersion = "1.3" },
		"groups":      func(s *gateway.Snapshot) { s.Groups = []string{"P-256"} },
		"ciphers":     func(s *gateway.Snapshot) { s.TLS12Ciphers = []string{"x"} },
	} {
		s := w.snapshot(1)
		change(&s)
		if other, ok := seen[s.Digest()]; ok {
			t.Errorf("changing the %s gives the digest of changing %s", name, other)
		}
		seen[s.Digest()] = name
	}
	data, err := gateway.EncodeForTest(w.snapshot(1))
	if err != nil {
		t.Fatal(err)
	}
	var back gateway.Snapshot
	if err := json.Unmarshal(data, &back); err != nil || back.Digest() != base {
		t.Errorf("digest after a round through JSON: %s, %v; want %s", back.Digest(), err, base)
	}
}

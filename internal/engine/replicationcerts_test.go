package engine_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
)

func serialOf(t *testing.T, r engine.ReplicationConfig) string {
	t.Helper()
	pair, err := tls.X509KeyPair(r.Certificate, r.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf.SerialNumber.String()
}

// A new leaf of a new CA while the link is up: the link stays, the next one shows the new certificate and trusts the new CA only, and
// takes up where the old one ended. It is the same for an engine that another control plane has started.
func TestCertificatesRotateUnderALink(t *testing.T) { t.Parallel(); eachWithTLS(t, rotateUnderALink) }

func rotateUnderALink(t *testing.T, b engine.Binary) {
	g := newGroup(t, b)
	primary := g.add(netip.AddrPort{})
	replica := g.add(primary.link.addr)
	replica.awaitSame(t, primary)
	again, err := engine.Adopt(deadline(t), replica.cfg.Dir, admin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Release)

	want := []string{serialOf(t, *replica.cfg.Replication)}
	for n, by := range []*engine.Engine{replica.Engine, again} {
		ca := certtest.NewAuthority(t, fmt.Sprint("new ", n))
		r := g.replication(ca, 7000+n)
		for range 2 {
			if err := by.SetReplication(deadline(t), r); err != nil {
				t.Fatal(err)
			}
		}
		for name, text := range map[string][]byte{"replication.pem": append(r.Certificate, r.PrivateKey...), "replication-ca.pem": r.Authorities} {
			path := filepath.Join(replica.cfg.Dir, name)
			have, err := os.ReadFile(path)
			info, statErr := os.Stat(path)
			if err != nil || statErr != nil || !bytes.Equal(have, text) || info.Mode() != 0o600 {
				t.Errorf("%s: %v, %v, as it should be: %v", name, err, info, bytes.Equal(have, text))
			}
		}
		if got := primary.link.shown(); !slices.Equal(got, want) || !replica.state(t).Linked {
			t.Fatalf("with the new certificate: the certificates shown are %v, want %v; linked: %v", got, want, replica.state(t).Linked)
		}
		primary.link.trust(ca)
		primary.link.cut()
		want = append(want, serialOf(t, r))
		replica.await(t, "linked again", func(r engine.Replication) bool { return r.Linked && len(primary.link.shown()) == len(want) })
		replica.awaitSame(t, primary)
		if got := primary.link.shown(); !slices.Equal(got, want) {
			t.Errorf("after a cut: the certificates shown are %v, want %v", got, want)
		}
		wantSyncs(t, primary, "1", fmt.Sprint(n+1))
		primary.await(t, "aware of the new address", func(of engine.Replication) bool {
			return len(of.Replicas) == 1 && of.Replicas[0].Address == fmt.Sprintf("127.77.0.1:%d", 7000+n)
		})
	}
}

// Both ends get certificates of a new CA while a replica is sent all data: it goes on, and there is no second one.
func TestCertificatesRotateDuringAFullSynchronisation(t *testing.T) {
	t.Parallel()
	eachWithTLS(t, rotateDuringSync)
}

func rotateDuringSync(t *testing.T, b engine.Binary) {
	g := newGroup(t, b)
	primary, replica := g.add(netip.AddrPort{}), g.add(netip.AddrPort{})
	// A replica that has data takes the new ones into a file, and answers meanwhile.
	connect(t, replica.cfg.Dir).want("OK", "SET", "old", "data")
	fill(t, primary)
	held := primary.link.hold(4 << 20)
	if err := replica.FollowTLS(deadline(t), primary.link.addr); err != nil {
		t.Fatal(err)
	}
	select {
	case <-held:
	case <-time.After(20 * time.Second):
		t.Fatal("no synchronisation")
	}
	if during := replica.state(t); !during.Syncing || during.Linked || during.Loading {
		t.Errorf("while the data are on their way, the replica says %+v", during)
	}
	connect(t, replica.cfg.Dir).want("data", "GET", "old")
	ca := certtest.NewAuthority(t, "new")
	for _, m := range []*member{primary, replica} {
		if err := m.SetReplication(deadline(t), g.replication(ca, 7001)); err != nil {
			t.Fatal(err)
		}
		m.link.trust(ca)
	}
	primary.link.goOn()
	replica.awaitSame(t, primary)
	connect(t, replica.cfg.Dir).want("", "GET", "old")
	if got := len(primary.link.shown()); got != 1 {
		t.Errorf("there were %d links, want 1", got)
	}
	wantSyncs(t, primary, "1", "0")
	exists(t, filepath.Join(replica.cfg.Dir, "dump.rdb"), false) // without persistence nothing stays on the disk
}

// fill writes some 8 MB that don't compress.
func fill(t *testing.T, m *member) {
	t.Helper()
	value := make([]byte, 1<<20)
	rand.Read(value)
	c := connect(t, m.cfg.Dir)
	for n := range 8 {
		c.want("OK", "SET", fmt.Sprint("large:", n), string(value))
	}
}

func TestReplicationIsSetAgain(t *testing.T) { t.Parallel(); eachWithTLS(t, replicationIsSetAgain) }

func replicationIsSetAgain(t *testing.T, b engine.Binary) {
	g := newGroup(t, b)
	m := g.add(netip.AddrPort{})
	same := *m.cfg.Replication
	if err := syscall.Kill(m.Identity().PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := m.SetReplication(deadline(t), same); err != nil {
		t.Errorf("the same again has asked the engine, which is stopped: %v", err)
	}
	if err := syscall.Kill(m.Identity().PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}

	// The backlog and the buffer follow the size.
	larger := same
	larger.Backlog = 200 << 20
	if err := m.SetReplication(deadline(t), larger); err != nil {
		t.Fatal(err)
	}
	if got := m.state(t); got.BacklogSize != larger.Backlog {
		t.Errorf("backlog: got %d, want %d", got.BacklogSize, larger.Backlog)
	}
	if got := connect(t, m.cfg.Dir).do("CONFIG", "GET", "client-output-buffer-limit"); !strings.Contains(got.Elems[1].Str, fmt.Sprintf(" %d 0 0", 1000<<20)) {
		t.Errorf("buffer of a replica: got %q, want %d", got.Elems[1].Str, 1000<<20)
	}

	// What the engine refuses leaves it what it had, also for its next start.
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	leaf := certtest.SelfSigned(t, weak)
	refused := same
	refused.Certificate, refused.PrivateKey = certtest.PEM(leaf.Certificate...), certtest.KeyPEM(t, weak)
	var conf *engine.ConfigError
	if err := m.SetReplication(deadline(t), refused); !errors.As(err, &conf) || conf.Name != "tls-cert-file" {
		t.Errorf("a key that the engine's TLS refuses: got %v, want a *ConfigError", err)
	}
	have, err := os.ReadFile(filepath.Join(m.cfg.Dir, "replication.pem"))
	if err != nil || !bytes.Contains(have, same.PrivateKey) {
		t.Errorf("after it has refused a key, its file is not the one before (%v)", err)
	}
	if err := m.SetReplication(deadline(t), same); err != nil {
		t.Errorf("back: %v", err)
	}
}

// An engine that was started without it would replicate without TLS.
func TestNoReplicationWithoutTLS(t *testing.T) { t.Parallel(); eachWithTLS(t, noReplicationWithoutTLS) }

func noReplicationWithoutTLS(t *testing.T, b engine.Binary) {
	g := newGroup(t, b)
	e := startOf(t, b, config(t))
	if err := e.FollowTLS(deadline(t), netip.MustParseAddrPort("127.77.0.1:1")); !errors.Is(err, engine.ErrNoReplication) {
		t.Errorf("follow: got %v, want ErrNoReplication", err)
	}
	if err := e.SetReplication(deadline(t), g.replication(g.ca, 7000)); !errors.Is(err, engine.ErrNoReplication) {
		t.Errorf("set: got %v, want ErrNoReplication", err)
	}
	cfg := config(t)
	r := g.replication(g.ca, 7000)
	cfg.Replication = &r
	b.TLS = false
	if _, err := engine.Start(deadline(t), b, cfg); err == nil || !strings.Contains(err.Error(), "built without TLS") {
		t.Errorf("an engine without TLS: got %v, want that", err)
	}
}

// Whether an engine was built with TLS is known before one is started with it.
func TestTLSIsFoundOut(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		cfg, g := config(t), newGroup(t, b)
		r := g.replication(g.ca, 7000)
		cfg.Replication = &r
		forced := b
		forced.TLS = true
		e, err := engine.Start(deadline(t), forced, cfg)
		if err == nil {
			e.Kill()
			<-e.Done()
		}
		if started := err == nil; started != b.TLS {
			t.Errorf("it is said to have TLS: %t; its start with it: %v", b.TLS, err)
		}
	})
}

// All that is wrong is named, and no part of a key is.
func TestReplicationConfigErrors(t *testing.T) {
	t.Parallel()
	r := engine.ReplicationConfig{Certificate: []byte("x"), PrivateKey: []byte("secret"), Authorities: []byte("x"), PasswordHash: "secret",
		AnnounceHost: "a b", AnnouncePort: 70000, Backlog: 5}
	cfg := engine.Config{Dir: "/x", AdminPassword: admin, Replication: &r, Primary: netip.MustParseAddrPort("0.0.0.0:1")}
	_, err := engine.Render(engine.Binary{Version: engine.Version{Major: 7}, TLS: true}, cfg)
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"certificate and private key", "authorities", "password hash", `announce host "a b"`, "announce port 70000: want 1 to 65535",
		"backlog 5: want 16384", "primary 0.0.0.0:1"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("%q has a secret", err)
	}
	cfg.Replication = nil
	if _, err := engine.Render(engine.Binary{Version: engine.Version{Major: 7}}, cfg); err == nil || !strings.Contains(err.Error(), "without Replication") {
		t.Errorf("a primary without replication: got %v", err)
	}
}

package engine_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/resp"
)

const replicationSecret = "the replicas' secret"

// eachWithTLS runs a test on every engine that can replicate.
func eachWithTLS(t *testing.T, test func(t *testing.T, b engine.Binary)) {
	t.Helper()
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		if !b.TLS {
			t.Skip("this engine was built without TLS")
		}
		test(t, b)
	})
}

// group is the engines of an instance, and their CA.
type group struct {
	t      *testing.T
	b      engine.Binary
	ca     *certtest.Authority
	hash   string
	change func(*engine.Config)
}

func newGroup(t *testing.T, b engine.Binary) *group {
	sum := sha256.Sum256([]byte(replicationSecret))
	return &group{t: t, b: b, ca: certtest.NewAuthority(t, "instance"), hash: hex.EncodeToString(sum[:]), change: func(*engine.Config) {}}
}

func forPeers(c *x509.Certificate) {
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
}

// member is one node: an engine, and what its gateway does for replication.
type member struct {
	*engine.Engine
	cfg  engine.Config
	link *terminator
}

// replication is a configuration with a new certificate of a CA.
func (g *group) replication(ca *certtest.Authority, port int) engine.ReplicationConfig {
	leaf := ca.Leaf(g.t, forPeers, certtest.Names("spiffe://sealane/p/l/i/node"))
	return engine.ReplicationConfig{
		Certificate: certtest.PEM(leaf.Certificate...), PrivateKey: certtest.KeyPEM(g.t, leaf.PrivateKey), Authorities: ca.PEM(),
		PasswordHash: g.hash, AnnounceHost: "127.77.0.1", AnnouncePort: port, Backlog: 1 << 20,
	}
}

// add starts another engine. A valid primary makes it its replica from the start.
func (g *group) add(primary netip.AddrPort) *member {
	g.t.Helper()
	m := &member{cfg: config(g.t)}
	m.link = newTerminator(g.t, g.ca, engine.Socket(m.cfg.Dir))
	r := g.replication(g.ca, int(m.link.addr.Port()))
	m.cfg.Replication, m.cfg.Primary = &r, primary
	g.change(&m.cfg)
	m.Engine = startOf(g.t, g.b, m.cfg)
	return m
}

// again starts the engine of a node again, as a replica.
func (g *group) again(m *member, primary netip.AddrPort) {
	g.t.Helper()
	m.cfg.Primary = primary
	m.Engine = startOf(g.t, g.b, m.cfg)
}

// state is an engine's side of replication.
func (m *member) state(t *testing.T) engine.Replication {
	t.Helper()
	r, err := m.Replication(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (m *member) await(t *testing.T, what string, is func(engine.Replication) bool) engine.Replication {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		r, err := m.Replication(deadline(t))
		if err == nil && is(r) {
			return r
		}
		if time.Now().After(end) {
			t.Fatalf("not %s: %+v, %v; its log ends with:\n%s", what, r, err, engine.LogTail(m.cfg.Dir))
		}
	}
}

// awaitSame waits until a replica has all of its primary.
func (m *member) awaitSame(t *testing.T, primary *member) engine.Replication {
	t.Helper()
	m.await(t, "linked", func(r engine.Replication) bool { return r.Linked })
	goal := primary.state(t).Offset
	return m.await(t, "up to date", func(r engine.Replication) bool { return r.Linked && r.Offset >= goal })
}

// syncs are how many full and partial resynchronisations an engine has given.
func (m *member) syncs(t *testing.T) (full, partial string) {
	t.Helper()
	info, err := m.Info(deadline(t), "stats")
	if err != nil {
		t.Fatal(err)
	}
	return info["sync_full"], info["sync_partial_ok"]
}

func wantSyncs(t *testing.T, m *member, full, partial string) {
	t.Helper()
	if f, p := m.syncs(t); f != full || p != partial {
		t.Errorf("full resynchronisations: got %s, want %s; partial ones: got %s, want %s", f, full, p, partial)
	}
}

// terminator does what a gateway's replication listener does: it ends TLS, both sides of which are verified, logs in to the engine as
// "replication", and copies bytes both ways.
type terminator struct {
	t      *testing.T
	socket string
	addr   netip.AddrPort

	mu      sync.Mutex
	config  *tls.Config
	conns   map[net.Conn]bool
	serials []string      // of the certificates that replicas have shown
	refused int           // how many links the engine has refused
	pause   chan struct{} // until it is closed nothing more goes to a replica that was sent holdAt bytes; nil: all goes
	holdAt  int
	held    chan struct{} // closed when a replica has been sent so much
}

func newTerminator(t *testing.T, ca *certtest.Authority, socket string) *terminator {
	t.Helper()
	ln, err := net.Listen("tcp", "127.77.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &terminator{t: t, socket: socket, addr: ln.Addr().(*net.TCPAddr).AddrPort(), conns: map[net.Conn]bool{}}
	l.trust(ca)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { l.serve(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		l.goOn()
		l.cut()
		serving.Wait()
	})
	return l
}

// trust makes the terminator show a certificate of a CA, and accept those of it only.
func (l *terminator) trust(ca *certtest.Authority) {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	leaf := ca.Leaf(l.t, forPeers, certtest.Names("spiffe://sealane/p/l/i/node"))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.config = &tls.Config{
		Certificates: []tls.Certificate{leaf}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		// A replica takes what comes of a ticket for the beginning of an answer, and does nothing else until that is there, for 5 s.
		SessionTicketsDisabled: true,
	}
}

func (l *terminator) serve(conn net.Conn) {
	defer conn.Close()
	l.mu.Lock()
	config := l.config
	l.conns[conn] = true
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	secure := tls.Server(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return
	}
	inner, err := net.Dial("unix", l.socket)
	if err != nil {
		return
	}
	defer inner.Close()
	if _, err := resp.NewClient(inner, 1<<10).Do(ctx, "AUTH", "replication", replicationSecret); err != nil {
		l.mu.Lock()
		l.refused++
		l.mu.Unlock()
		return
	}
	l.mu.Lock()
	l.conns[inner] = true
	l.serials = append(l.serials, secure.ConnectionState().PeerCertificates[0].SerialNumber.String())
	l.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(inner, secure)
		inner.Close()
	}()
	buf := make([]byte, 64<<10)
	for sent := 0; ; {
		n, err := inner.Read(buf)
		if sent += n; n > 0 {
			l.waitIfHeld(sent)
		}
		if _, writeErr := secure.Write(buf[:n]); err != nil || writeErr != nil {
			break
		}
	}
	conn.Close()
	<-done
}

// cut ends all connections.
func (l *terminator) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		conn.Close()
	}
	clear(l.conns)
}

// awaitRefusal waits until the engine has refused a replica.
func (l *terminator) awaitRefusal(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		l.mu.Lock()
		refused := l.refused
		l.mu.Unlock()
		if refused > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the engine has refused no replica")
		}
	}
}

// hold keeps what goes to a replica after so many bytes, and closes the channel that it returns when it does.
func (l *terminator) hold(after int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pause, l.held, l.holdAt = make(chan struct{}), make(chan struct{}), after
	return l.held
}

func (l *terminator) goOn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pause != nil {
		close(l.pause)
		l.pause = nil
	}
}

func (l *terminator) waitIfHeld(sent int) {
	l.mu.Lock()
	pause := l.pause
	if pause != nil && sent >= l.holdAt {
		select {
		case <-l.held:
		default:
			close(l.held)
		}
	} else {
		pause = nil
	}
	l.mu.Unlock()
	if pause != nil {
		<-pause
	}
}

// shown are the serial numbers of the certificates that replicas have shown so far.
func (l *terminator) shown() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.serials...)
}

func TestReplicatesOverTLS(t *testing.T) { t.Parallel(); eachWithTLS(t, replicatesOverTLS) }

func replicatesOverTLS(t *testing.T, b engine.Binary) {
	g := newGroup(t, b)
	primary := g.add(netip.AddrPort{})
	replica := g.add(netip.AddrPort{})
	connect(t, primary.cfg.Dir).want("OK", "SET", "k", "v")
	before := replica.state(t)
	if err := replica.FollowTLS(deadline(t), primary.link.addr); err != nil {
		t.Fatal(err)
	}
	got := replica.awaitSame(t, primary)
	connect(t, replica.cfg.Dir).want("v", "GET", "k")
	of := primary.await(t, "aware of the replica's offset", func(r engine.Replication) bool {
		return len(r.Replicas) == 1 && r.Replicas[0].State == "online" && r.Replicas[0].Offset >= got.Offset
	})
	if got.Role != engine.RoleReplica || got.Primary != primary.link.addr.String() || got.ID != of.ID || got.ID == before.ID ||
		got.LastIO < 0 || got.DownFor >= 0 || got.Syncing || got.Loading {
		t.Errorf("the replica says %+v of itself, its primary has the ID %s", got, of.ID)
	}
	if of.Role != engine.RolePrimary || of.Replicas[0].Address != replica.link.addr.String() || of.Replicas[0].State != "online" || of.BacklogSize != 1<<20 {
		t.Errorf("the primary says %+v", of)
	}
	if !got.Follows(of.ID) || before.Follows(of.ID) {
		t.Errorf("of the primary's history: the replica %v, before it had its data %v", got.Follows(of.ID), before.Follows(of.ID))
	}
	// Neither listens on the network. The replica has the one connection to its primary.
	for m, want := range map[*member]int{primary: 0, replica: 1} {
		lines := networkSockets(t, m.Engine)
		if len(lines) != want || strings.Contains(strings.Join(lines, ""), " 0A ") {
			t.Errorf("network sockets: got %q, want %d that don't listen", lines, want)
		}
	}

	// A cut, and then a partial resynchronisation. Following again changes nothing.
	primary.link.cut()
	connect(t, primary.cfg.Dir).want("OK", "SET", "k", "w")
	if err := replica.FollowTLS(deadline(t), primary.link.addr); err != nil {
		t.Fatal(err)
	}
	replica.awaitSame(t, primary)
	connect(t, replica.cfg.Dir).want("w", "GET", "k")
	wantSyncs(t, primary, "1", "1")
}

// What engines say of themselves in situations that are hard to bring about.
func TestWhatInfoSaysOfReplication(t *testing.T) {
	t.Parallel()
	id, id2 := strings.Repeat("a", 40), strings.Repeat("0b", 20)
	replica := func(more ...string) map[string]string {
		info := map[string]string{"role": "slave", "master_host": "::1", "master_port": "7000", "master_link_status": "down", "master_sync_in_progress": "0",
			"master_replid": id, "master_replid2": strings.Repeat("0", 40), "second_repl_offset": "-1", "master_repl_offset": "500", "slave_repl_offset": "400"}
		for i := 0; i < len(more); i += 2 {
			info[more[i]] = more[i+1]
		}
		return info
	}
	whole := engine.ParseReplication(replica())
	if whole.Primary != "[::1]:7000" || whole.Offset != 400 || whole.ID2 != "" || whole.ID2Offset != 0 || whole.Syncing || !whole.Follows(id) {
		t.Errorf("without a link: %+v", whole)
	}
	// It has its primary's ID from before, and was loading a file that broke off.
	if lost := engine.ParseReplication(replica("slave_repl_offset", "1")); lost.Follows(id) || lost.Continues(id, 0) || !lost.Syncing || lost.Offset != -1 {
		t.Errorf("with data that are not whole: %+v", lost)
	}
	if young := engine.ParseReplication(replica("slave_repl_offset", "1", "master_link_status", "up")); !young.Follows(id) || young.Offset != 1 {
		t.Errorf("linked to a primary that has changed nothing: %+v", young)
	}
	for name, info := range map[string]map[string]string{"loads": replica("loading", "1"), "loads beside its data": replica("async_loading", "1")} {
		if loads := engine.ParseReplication(info); loads.Follows(id) || loads.Continues(id, 0) {
			t.Errorf("%s: %+v", name, loads)
		}
	}
	primary := engine.ParseReplication(map[string]string{"role": "master", "master_replid": id, "master_replid2": id2, "second_repl_offset": "300", "master_repl_offset": "500",
		"slave10": "ip=::1,port=7001,state=online,offset=480,lag=1,type=replica", "slave2": "ip=host,port=7002,state=wait_bgsave,offset=0,lag=0", "slave_x": "ip=no"})
	want := []engine.ReplicaLink{{Address: "host:7002", State: "wait_bgsave"}, {Address: "[::1]:7001", State: "online", Offset: 480, Lag: time.Second}}
	if !slices.Equal(primary.Replicas, want) || primary.ID2 != id2 {
		t.Errorf("a primary: %+v, want the replicas %+v", primary, want)
	}
	for _, tt := range []struct {
		id     string
		offset int64
		want   bool
	}{{id, 500, true}, {id, 501, false}, {id2, 299, true}, {id2, 300, false}, {"", 0, false}, {strings.Repeat("c", 40), 1, false}} {
		if got := primary.Continues(tt.id, tt.offset); got != tt.want {
			t.Errorf("who has %d of %s loses nothing: got %v, want %v", tt.offset, tt.id, got, tt.want)
		}
	}
}

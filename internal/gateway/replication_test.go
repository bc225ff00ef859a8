package gateway_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/gateway"
)

const nodeIdentity = "spiffe://sealane/local/local/first/node"

// peerCertificate is what an instance's nodes show each other.
func peerCertificate(t testing.TB, ca *certtest.Authority) tls.Certificate {
	return ca.Leaf(t, certtest.Names(nodeIdentity), func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	})
}

// replication is what replicas are served, from an engine of its own that says back what it reads.
func (w *world) replication(ca *certtest.Authority) *gateway.Replication {
	socket := filepath.Join(tempDir(w.t), "r")
	fakeEngine(w.t, socket, func(c *net.UnixConn) {
		if _, err := io.ReadFull(c, make([]byte, len("*3\r\n$4\r\nAUTH\r\n$11\r\nreplication\r\n$4\r\nword\r\n"))); err == nil {
			_, _ = io.WriteString(c, "+OK\r\n")
			_, _ = io.Copy(struct{ io.Writer }{c}, c)
		}
	})
	cert := peerCertificate(w.t, ca)
	return &gateway.Replication{
		Address: address(), Engine: socket, Password: "word", Certificate: certtest.PEM(cert.Certificate...), PrivateKey: certtest.KeyPEM(w.t, cert.PrivateKey),
		Authorities: ca.PEM(), Identity: nodeIdentity,
	}
}

// replicate connects as a replica and shows that it reaches the engine.
func replicate(t testing.TB, r *gateway.Replication, ca *certtest.Authority) *tls.Conn {
	t.Helper()
	c := tls.Client(dialTCP(t, r.Address), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{peerCertificate(t, ca)}})
	roundTrip(t, c, "hello")
	return c
}

func TestReplicasAreServed(t *testing.T) {
	t.Parallel()
	w, ca := serving(t), certtest.NewAuthority(t, "CA-1")
	s := w.snapshot(2)
	s.Replication = w.replication(ca)
	if st := w.apply(s); st.Replication == nil || len(st.Replication.Replicas) > 0 {
		t.Errorf("status %+v", st.Replication)
	}
	link, client := replicate(t, s.Replication, ca), w.dial()
	st := w.status().Replication
	if len(st.Replicas) != 1 || st.Replicas[0].Address != link.LocalAddr().String() || st.BytesOut == 0 {
		t.Errorf("with a replica: %+v", st)
	}
	closed := *s.Replication
	closed.Closed = true
	s.Generation, s.Replication = 3, &closed
	if st := w.apply(s).Replication; len(st.Replicas) > 0 {
		t.Errorf("with the port closed to them: %+v", st)
	}
	if _, err := link.Read(make([]byte, 1)); err == nil {
		t.Error("the link was not cut")
	}
	s.Generation, s.Replication = 4, nil
	if st := w.apply(s).Replication; st != nil {
		t.Errorf("without replication: %+v", st)
	}
	if c, err := net.Dial("tcp", closed.Address); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
	roundTrip(t, client, "the client has noticed nothing")
}

// A node whose engine only waits to become the primary has no clients.
func TestAGatewayForReplicasAlone(t *testing.T) {
	t.Parallel()
	w, ca := newWorld(t), certtest.NewAuthority(t, "CA-1")
	w.run()
	s := gateway.Snapshot{Generation: 1, Replication: w.replication(ca)}
	if st := w.apply(s); st.Problem != "" || st.Generation != 1 || len(st.Listening) > 0 {
		t.Errorf("status %+v", st)
	}
	replicate(t, s.Replication, ca)
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	w.run() // from what is on disk
	eventually(t, "served again", func() bool { return w.status().Generation == 1 })
	replicate(t, s.Replication, ca)
	both := w.snapshot(2)
	both.Replication = s.Replication
	fakeEngine(t, w.engine, echo)
	w.apply(both)
	roundTrip(t, w.dial(), "with clients")
}

func TestAReplicationAddressThatIsTakenChangesNothing(t *testing.T) {
	t.Parallel()
	w, ca := serving(t), certtest.NewAuthority(t, "CA-1")
	taken, err := net.Listen("tcp", address())
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s, other := w.snapshot(2), address()
	s.Listeners = append(s.Listeners, gateway.Listener{Address: other, TLS: true})
	s.Replication = w.replication(ca)
	s.Replication.Address = taken.Addr().String()
	if _, err := w.client.Apply(context.Background(), s); err == nil || !strings.Contains(err.Error(), s.Replication.Address) {
		t.Errorf("apply: %v", err)
	}
	if c, err := net.Dial("tcp", other); err == nil {
		c.Close()
		t.Error("the other listener is open")
	}
	taken.Close()
	// A listener that is taken closes what was opened for replicas.
	if taken, err = net.Listen("tcp", other); err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := w.client.Apply(context.Background(), s); err == nil || !strings.Contains(err.Error(), other) {
		t.Errorf("apply: %v", err)
	}
	if c, err := net.Dial("tcp", s.Replication.Address); err == nil {
		c.Close()
		t.Error("the port for replicas is open")
	}
	if st := w.status(); st.Generation != 1 || st.Problem != "" {
		t.Errorf("status %+v", st)
	}
}

func TestProblemsOfReplicationAreNamed(t *testing.T) {
	t.Parallel()
	w, ca := newWorld(t), certtest.NewAuthority(t, "CA-1")
	good := w.replication(ca)
	with := func(change func(*gateway.Replication)) func(*gateway.Snapshot) {
		return func(s *gateway.Snapshot) {
			r := *good
			change(&r)
			s.Replication = &r
		}
	}
	w.wantProblems([]spoiled{
		{"address", with(func(r *gateway.Replication) { r.Address = "x" }), []string{`replication.address "x"`}},
		{"password", with(func(r *gateway.Replication) { r.Password = "" }), []string{"replication.password (0 bytes, not shown)"}},
		{"key", with(func(r *gateway.Replication) { r.PrivateKey = nil }), []string{"replication.private_key (0 bytes, not shown)"}},
		{"a client's listener", with(func(r *gateway.Replication) { r.Address = w.addr }), []string{"replication.address", "is listeners[0] already"}},
		{"no engine for clients", func(s *gateway.Snapshot) { s.Engine, s.Replication = "", good }, []string{`engine ""`}},
		{"nothing at all", func(s *gateway.Snapshot) { s.Engine, s.Listeners = "", nil }, []string{"listeners: there are 0", `engine ""`}},
	})
}

// A controller compares digests with those of gateways that are older.
func TestDigestOfASnapshotThatUsesNoNewFieldStays(t *testing.T) {
	t.Parallel()
	s := gateway.Snapshot{
		Generation: 7, Listeners: []gateway.Listener{{Address: "127.83.0.1:6378", TLS: true}}, Engine: "/run/e", Certificate: []byte("c"), PrivateKey: []byte("k"),
		Connect: "how", MaxClients: 3, Auth: 2, SystemMemory: 1,
	}
	const want = "bc9fd9c026f3aa3b07a8db082c1a3c5a215bc48849914051be923b80cbfbf3ef"
	if got := s.Digest(); got != want {
		t.Errorf("digest %s; want %s", got, want)
	}
}

func TestTwoGatewaysShareAnAddress(t *testing.T) {
	t.Parallel()
	one, two := serving(t), newWorld(t)
	two.addr, two.id = one.addr, one.id
	fakeEngine(t, two.engine, echo)
	two.run()
	shared, alone := two.snapshot(1), two.snapshot(2)
	shared.Listeners[0].Shared = true
	if _, err := two.client.Apply(context.Background(), shared); err == nil {
		t.Fatal("a gateway can listen where another one does that does not share")
	}
	// One that is open already becomes shared, without being closed.
	client, s := one.dial(), one.snapshot(2)
	s.Listeners[0].Shared = true
	one.apply(s)
	two.apply(shared)
	roundTrip(t, client, "from before it was shared")
	eventually(t, "both have clients", func() bool {
		roundTrip(t, one.dial(), "hello")
		return one.status().Accepted > 1 && two.status().Accepted > 0
	})
	s = one.snapshot(3)
	s.Listeners[0].Address = address()
	one.apply(s)
	before := two.status().Accepted
	for range 10 {
		roundTrip(t, one.dial(), "hello")
	}
	if n := two.status().Accepted - before; n != 10 {
		t.Errorf("%d of 10 clients came to the gateway that is left", n)
	}
	roundTrip(t, client, "a client of the one that has left the address")
	two.apply(alone)
	s = one.snapshot(4)
	s.Listeners[0].Shared = true
	if _, err := one.client.Apply(context.Background(), s); err == nil {
		t.Error("a gateway can listen where another one does that does not share any more")
	}
}

// The kernel has given clients to a listener already when it is closed. They are served all the same.
func TestClientsThatWaitAtAListenerThatIsLeftAreAccepted(t *testing.T) {
	t.Parallel()
	at := address()
	accepted, err := gateway.LeaveForTest(at, func() {
		for range 100 {
			dialTCP(t, at)
		}
	})
	if err != nil || accepted != 100 {
		t.Errorf("%d of 100 clients were accepted, %v", accepted, err)
	}
}

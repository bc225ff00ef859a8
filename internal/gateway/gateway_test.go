package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/gateway"
)

func TestBytesArriveExactlyThroughTLS(t *testing.T) {
	t.Parallel()
	size := 100 << 20
	if testing.Short() {
		size = 8 << 20
	}
	w := serving(t)
	c := w.dial()
	c.SetDeadline(time.Now().Add(5 * time.Minute))
	src := rand.NewChaCha8([32]byte{1})
	rnd, sent := rand.New(src), sha256.New()
	var wg sync.WaitGroup
	wg.Go(func() {
		for left, chunk := size, make([]byte, 100<<10); left > 0; {
			n := min(left, 1+rnd.IntN([]int{8, 1500, 16 << 10, len(chunk)}[rnd.IntN(4)]))
			src.Read(chunk[:n])
			sent.Write(chunk[:n])
			if _, err := c.Write(chunk[:n]); err != nil {
				t.Errorf("write: %v", err)
				return
			}
			left -= n
		}
		c.CloseWrite()
	})
	received := sha256.New()
	n, err := io.Copy(received, c)
	wg.Wait()
	if err != nil || n != int64(size) || !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		t.Errorf("%d of %d bytes came back, error %v, equal %v", n, size, err, bytes.Equal(sent.Sum(nil), received.Sum(nil)))
	}
	if st := w.status(); st.BytesIn != uint64(size) || st.BytesOut != uint64(size) {
		t.Errorf("counted %d in, %d out; want %d", st.BytesIn, st.BytesOut, size)
	}
}

func TestRepliesFlowAfterTheClientHalfClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fakeEngine(t, w.engine, func(c *net.UnixConn) {
		if introduced(c) {
			all, _ := io.ReadAll(c)
			_, _ = c.Write(bytes.ToUpper(all))
		}
	})
	w.run()
	w.apply(w.snapshot(1))
	c := w.dial()
	send(t, c, "ping\r\n")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(c); err != nil || string(all) != "PING\r\n" {
		t.Errorf("read %q, %v; want PING and a clean end", all, err)
	}
}

func TestLastWordsArriveThroughTLSThoughTheClientKeepsSending(t *testing.T) {
	t.Parallel()
	const refusal = "-ERR max number of clients reached\r\n"
	w := newWorld(t)
	fakeEngine(t, w.engine, func(c *net.UnixConn) { send(t, c, refusal) })
	w.run()
	w.apply(w.snapshot(1))
	c := w.dial()
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		for chunk := bytes.Repeat([]byte("PING\r\n"), 1000); ; {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	}()
	all, err := io.ReadAll(c)
	if err != nil || string(all) != refusal {
		t.Errorf("read %q, %v; want %q and close_notify", all, err, refusal)
	}
	c.Close()
	<-sending
}

// A client that speaks no TLS is told so in its own protocol, in however many pieces its bytes come.
func TestClientsWithoutTLSAreTold(t *testing.T) {
	t.Parallel()
	const redisAnswer = "-ERR this port wants TLS: " + connectHow + "\r\n"
	const body = "this port wants TLS: " + connectHow + "\n"
	const httpHead = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 75\r\nConnection: close\r\n\r\n"
	w := newWorld(t)
	w.run()
	w.apply(w.snapshot(1))
	cases := []struct{ name, in, want, kind string }{
		{"RESP", "*1\r\n$4\r\nPING\r\n", redisAnswer, "plaintext_resp"},
		{"RESP, first byte only", "*", redisAnswer, "plaintext_resp"},
		{"inline", "PING\r\n", redisAnswer, "inline"},
		{"inline GET", "GET key\r\n", redisAnswer, "inline"},
		{"GET", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", httpHead + body, "http"},
		{"POST", "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", httpHead + body, "http"},
		{"HEAD", "HEAD / HTTP/1.1\r\n\r\n", httpHead, "http"},
		{"lower-case junk", "get / http/1.1\r\n", redisAnswer, "inline"},
		{"SSLv2", "\x80\x2e\x01\x00\x02", "\x15\x03\x01\x00\x02\x02\x46", "sslv2"},
		{"binary", "\x80\x2e\x02\x00\x02", redisAnswer, "garbage"},
		{"long line", strings.Repeat("a", 9000), redisAnswer, "garbage"},
	}
	want := map[string]uint64{"plaintext_resp": 0, "inline": 0, "http": 0, "sslv2": 0, "garbage": 0, "tls_on_plaintext": 0}
	for _, tc := range cases {
		want[tc.kind] += 2
	}
	t.Run("answers", func(t *testing.T) {
		for _, tc := range cases {
			for how, pace := range map[string]int{"at once": len(tc.in), "one byte at a time": 1} {
				t.Run(tc.name+", "+how, func(t *testing.T) {
					t.Parallel()
					c := dialTCP(t, w.addr)
					for in := []byte(tc.in); len(in) > 0; in = in[min(pace, len(in)):] {
						if _, err := c.Write(in[:min(pace, len(in))]); err != nil {
							break // it has had its answer
						}
					}
					if got, err := io.ReadAll(c); err != nil || string(got) != tc.want {
						t.Errorf("read %q, %v; want %q", got, err, tc.want)
					}
				})
			}
		}
	})
	st := w.status()
	for kind, n := range want {
		if st.Diagnosed[kind] != n {
			t.Errorf("%s: counted %d; want %d", kind, st.Diagnosed[kind], n)
		}
	}
	if len(st.Diagnosed) != len(want) {
		t.Errorf("kinds %v", st.Diagnosed)
	}
	if log := w.log.String(); !strings.Contains(log, "kind=http") || !strings.Contains(log, "client=127.") || strings.Count(log, "kind=inline") > 4 {
		t.Errorf("log is not what it should be:\n%s", log)
	}
}

func TestPartialLineThenSilenceIsAnsweredAtTheDeadline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run()
	s := w.snapshot(1)
	s.HandshakeTimeout = 100 * time.Millisecond
	w.apply(s)
	c := dialTCP(t, w.addr)
	send(t, c, "PIN")
	if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "-ERR this port wants TLS") {
		t.Errorf("read %q, %v", got, err)
	}
	if st := w.status(); st.Diagnosed["inline"] != 1 {
		t.Errorf("diagnosed %v", st.Diagnosed)
	}
}

// A half-closed client (printf PING | nc) is answered at once, not at the deadline.
func TestHalfClosedClientWithoutTLSIsToldAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run()
	w.apply(w.snapshot(1))
	c := dialTCP(t, w.addr)
	c.SetDeadline(time.Now().Add(5 * time.Second))
	send(t, c, "PING")
	c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "-ERR this port wants TLS") {
		t.Errorf("read %q, %v", got, err)
	}
}

// A reset could destroy the answer on its way to a client that is still sending its request.
func TestClientStillSendingIsNotReset(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run()
	w.apply(w.snapshot(1))
	c := dialTCP(t, w.addr)
	part := strings.Repeat("x", 16<<10)
	send(t, c, "POST / HTTP/1.1\r\nContent-Length: 200000\r\n\r\n"+part)
	if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 400 ") {
		t.Errorf("read %q, %v", got, err)
	}
	for range 10 {
		send(t, c, part)
	}
}

func TestPortWithoutTLSRelaysAndAlertsTLSClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var dialed atomic.Int32
	fakeEngine(t, w.engine, func(c *net.UnixConn) { dialed.Add(1); echo(c) })
	w.run()
	w.apply(w.plain(1))
	_, err := tls.Dial("tcp", w.addr, w.trust())
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || !strings.Contains(err.Error(), "handshake failure") {
		t.Errorf("TLS client got %v; want the alert handshake_failure", err)
	}
	if n := dialed.Load(); n != 0 {
		t.Errorf("the engine was dialed %d times for a TLS client", n)
	}
	c := dialTCP(t, w.addr)
	roundTrip(t, c, "*1\r\n$4\r\nPING\r\n")
	if st := w.status(); st.Diagnosed["tls_on_plaintext"] != 1 || !strings.Contains(w.log.String(), "this port has no TLS") {
		t.Errorf("status %+v, log %s", st, w.log)
	}
}

func TestSilentConnectionStaysOpenAndStuckHandshakeIsCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	s := w.snapshot(1)
	s.HandshakeTimeout = 100 * time.Millisecond
	w.apply(s)
	silent, stuck := dialTCP(t, w.addr), dialTCP(t, w.addr)
	send(t, stuck, "\x16\x03\x01")
	if got, err := io.ReadAll(stuck); err != nil || len(got) != 0 {
		t.Errorf("stuck handshake read %q, %v; want EOF", got, err)
	}
	// The silent one came first, so it has been silent for longer than the deadline was. (A busy machine may need
	// longer for a handshake.)
	w.apply(w.snapshot(2))
	c := tls.Client(silent, w.trust())
	roundTrip(t, c, "hello")
	if st := w.status(); st.Handshakes["timeout"] != 1 || st.Handshakes["failed"] != 0 || st.Handshakes["tls1.3"] != 1 {
		t.Errorf("handshakes %v", st.Handshakes)
	}
}

// The deadline of the handshake must not outlive it.
func TestConnectionOutlivesTheHandshakeDeadline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	s := w.snapshot(1)
	s.HandshakeTimeout = 300 * time.Millisecond
	w.apply(s)
	var c *tls.Conn
	eventually(t, "a handshake within the deadline, on a busy machine", func() bool {
		c = tls.Client(dialTCP(t, w.addr), w.trust())
		_, werr := io.WriteString(c, "hello\r\n")
		_, rerr := io.ReadFull(c, make([]byte, 7))
		return werr == nil && rerr == nil
	})
	stuck := dialTCP(t, w.addr)
	send(t, stuck, "\x16")
	if _, err := io.ReadAll(stuck); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c, "still here")
}

func TestOnlyModernTLSIsServed(t *testing.T) {
	t.Parallel()
	w := serving(t)
	try := func(cfg *tls.Config) (tls.ConnectionState, error) {
		c := tls.Client(dialTCP(t, w.addr), cfg)
		defer c.Close()
		err := c.Handshake()
		return c.ConnectionState(), err
	}
	old := w.trust()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if _, err := try(old); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.1: %v; want the alert protocol_version", err)
	}
	var got, want []string
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if slices.Contains(suite.SupportedVersions, tls.VersionTLS13) && len(suite.SupportedVersions) == 1 {
			continue
		}
		name := suite.Name
		if strings.HasPrefix(name, "TLS_ECDHE_ECDSA_") && (strings.Contains(name, "GCM") || strings.Contains(name, "CHACHA20")) {
			want = append(want, name)
		}
		cfg := w.trust()
		cfg.MaxVersion, cfg.CipherSuites = tls.VersionTLS12, []uint16{suite.ID}
		if st, err := try(cfg); err == nil {
			got = append(got, tls.CipherSuiteName(st.CipherSuite))
		}
	}
	if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("TLS 1.2 suites %q; want %q", got, want)
	}
	for _, curve := range []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521} {
		cfg := w.trust()
		cfg.CurvePreferences = []tls.CurveID{curve}
		if _, err := try(cfg); (err == nil) != (curve != tls.CurveP521) {
			t.Errorf("group %v: %v", curve, err)
		}
	}
	if st, err := try(w.trust()); err != nil || st.CurveID != tls.X25519MLKEM768 || st.Version != tls.VersionTLS13 {
		t.Errorf("by default %v, %v, %v; want TLS 1.3 with X25519MLKEM768", tls.VersionName(st.Version), st.CurveID, err)
	}
}

func TestFailedHandshakesAreExplained(t *testing.T) {
	t.Parallel()
	w := serving(t)
	stranger := newIdentity(t)
	for _, tc := range []struct {
		class string
		fail  func()
	}{
		{"bad_certificate", func() {
			cfg := trusting(stranger)
			cfg.ServerName = "localhost"
			_ = tls.Client(dialTCP(t, w.addr), cfg).Handshake()
		}},
		{"tls1.1", func() {
			_ = tls.Client(dialTCP(t, w.addr), &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, ServerName: "x"}).Handshake()
		}},
		{"tls1.0", func() {
			_ = tls.Client(dialTCP(t, w.addr), &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10, ServerName: "x"}).Handshake()
		}},
		{"sslv3", func() {
			c := dialTCP(t, w.addr)
			send(t, c, "\x16\x03\x00\x00\x2d\x01\x00\x00\x29\x03\x00"+strings.Repeat("r", 32)+"\x00\x00\x02\x00\x35\x01\x00")
			_, _ = io.ReadAll(c)
		}},
		{"no_shared_cipher", func() {
			_ = tls.Client(dialTCP(t, w.addr), &tls.Config{MaxVersion: tls.VersionTLS12, ServerName: "x",
				CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}}).Handshake()
		}},
		{"no_shared_group", func() {
			_ = tls.Client(dialTCP(t, w.addr), &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP521}, ServerName: "x"}).Handshake()
		}},
		{"eof", func() {
			c := dialTCP(t, w.addr)
			send(t, c, "\x16\x03\x01\x02\x00")
			c.CloseWrite()
			_, _ = io.ReadAll(c)
		}},
		{"reset", func() { c := dialTCP(t, w.addr); send(t, c, "\x16\x03"); c.SetLinger(0); c.Close() }},
		{"sni_trailing_dot", func() {
			c := dialTCP(t, w.addr)
			send(t, c, strings.Replace(string(clientHello(t, &tls.Config{ServerName: "localhost"})), "localhost", "localhos.", 1))
			_, _ = io.ReadAll(c)
		}},
		{"not_tls", func() { c := dialTCP(t, w.addr); send(t, c, "\x16nonsense"); _, _ = io.ReadAll(c) }},
	} {
		tc.fail()
		eventually(t, "log line of class "+tc.class, func() bool {
			return strings.Contains(w.log.String(), "class="+tc.class+" ")
		})
		if n := w.status().Failures[tc.class]; n != 1 {
			t.Errorf("%s: counted %d; want 1", tc.class, n)
		}
	}
	if st := w.status(); st.Handshakes["failed"] != 10 || len(st.Failures) < 20 {
		t.Errorf("handshakes %v; want 10 failed, of a closed set of classes: %v", st.Handshakes, st.Failures)
	}
}

func TestAlertIsFoundHoweverTheRecordsAreCut(t *testing.T) {
	t.Parallel()
	const hello = "\x16\x03\x01\x00\x04\x15\x03\x02\x28"
	for _, tc := range []struct {
		name, in string
		want     uint8
	}{
		{"none", hello, 0},
		{"unknown_ca", hello + "\x14\x03\x03\x00\x01\x01" + "\x15\x03\x03\x00\x02\x02\x30", 48},
		{"empty record before", "\x16\x03\x01\x00\x00" + "\x15\x03\x03\x00\x02\x02\x2a", 42},
		{"encrypted", hello + "\x15\x03\x03\x00\x13" + strings.Repeat("\x30", 19), 0},
		{"half", hello + "\x15\x03\x03\x00\x02\x02", 0},
		{"no TLS", strings.Repeat("\x15", 100), 0},
	} {
		for n := 1; n <= len(tc.in); n++ {
			if got := gateway.AlertForTest([]byte(tc.in), n); got != tc.want {
				t.Errorf("%s in pieces of %d: %d; want %d", tc.name, n, got, tc.want)
			}
		}
	}
}

func TestReapplyUnderLoadDropsNoConnection(t *testing.T) {
	t.Parallel()
	w := serving(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var trips atomic.Int64
	for range 8 {
		c := w.dial()
		wg.Go(func() {
			defer c.Close()
			for got := bytes.Repeat([]byte("line\r\n"), 200); ; trips.Add(1) {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.Write(got); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				if _, err := io.ReadFull(c, got); err != nil {
					t.Errorf("read: %v", err)
					return
				}
			}
		})
	}
	wg.Go(func() { // and new ones all the time
		for {
			select {
			case <-stop:
				return
			default:
			}
			c, err := tls.Dial("tcp", w.addr, w.trust())
			if err != nil {
				t.Errorf("connect: %v", err)
				return
			}
			c.Close()
		}
	})
	second := address()
	for i := range uint64(100) {
		s := w.snapshot(2 + i)
		if i%2 == 0 {
			s.Listeners = append(s.Listeners, gateway.Listener{Address: second})
		}
		w.apply(s)
	}
	eventually(t, "clients get on", func() bool { return trips.Load() > 100 })
	close(stop)
	wg.Wait()
	if st := w.status(); st.Generation != 101 || st.Handshakes["failed"] != 0 || !slices.Equal(st.Listening, []string{w.addr}) {
		t.Errorf("status %+v", st)
	}
}

func TestNewCertificateIsForNewConnections(t *testing.T) {
	t.Parallel()
	w := serving(t)
	cfg := w.trust()
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	connect := func(cfg *tls.Config) *tls.Conn {
		c := tls.Client(dialTCP(t, w.addr), cfg)
		roundTrip(t, c, "hello") // reads the session ticket as well
		return c
	}
	before := connect(cfg)
	same := w.snapshot(2)
	same.Connect += " "
	w.apply(same)
	if c := connect(cfg); !c.ConnectionState().DidResume {
		t.Error("an apply with the same certificate ends session resumption")
	}
	first := w.id
	w.id = newIdentity(t, w.addr)
	w.apply(w.snapshot(3))
	if err := tls.Client(dialTCP(t, w.addr), cfg).Handshake(); err == nil {
		t.Error("a session of the old certificate is resumed, or the old certificate still served")
	}
	after := connect(w.trust())
	if got := after.ConnectionState().PeerCertificates[0]; !got.Equal(w.id.cert) {
		t.Errorf("new connections are served %v", got.Subject)
	}
	if got := before.ConnectionState().PeerCertificates[0]; !got.Equal(first.cert) {
		t.Errorf("the old connection has %v", got.Subject)
	}
	roundTrip(t, before, "still here")
}

func TestSilentConnectionGetsTheNewestCertificate(t *testing.T) {
	t.Parallel()
	w := serving(t)
	early, gone := dialTCP(t, w.addr), dialTCP(t, w.addr)
	eventually(t, "both are accepted", func() bool { return w.status().Connections == 2 })
	w.id = newIdentity(t, w.addr)
	w.apply(w.snapshot(2))
	roundTrip(t, tls.Client(early, w.trust()), "hello")
	// A client whose listener has gone is still served as it was.
	s := w.snapshot(3)
	s.Listeners = []gateway.Listener{{Address: address()}}
	w.apply(s)
	if c, err := net.Dial("tcp", w.addr); err == nil {
		c.Close()
		t.Error("a removed listener still accepts")
	}
	cfg := w.trust()
	cfg.InsecureSkipVerify = true
	roundTrip(t, tls.Client(gone, cfg), "hello")
}

func TestFailedApplyKeepsTheOldSnapshot(t *testing.T) {
	t.Parallel()
	w := serving(t)
	c := w.dial()
	before, err := os.ReadFile(filepath.Join(w.dir, "snapshot.json"))
	if err != nil {
		t.Fatal(err)
	}
	busy, free := address(), address()
	holder, err := net.Listen("tcp", busy)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	taken, invalid := w.snapshot(2), w.snapshot(2)
	taken.Listeners = []gateway.Listener{{Address: free}, {Address: busy}}
	invalid.PrivateKey = newIdentity(t).key
	for _, tc := range []struct {
		name string
		s    gateway.Snapshot
		want string
		is   error
	}{
		{"address in use", taken, busy, nil},
		{"invalid", invalid, "private_key", gateway.ErrInvalid},
	} {
		_, err := w.client.Apply(context.Background(), tc.s)
		if err == nil || !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
			t.Errorf("%s: %v; want it to contain %q", tc.name, err, tc.want)
		}
	}
	if c, err := net.Dial("tcp", free); err == nil {
		c.Close()
		t.Error("a listener of a failed snapshot is open")
	}
	after, err := os.ReadFile(filepath.Join(w.dir, "snapshot.json"))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("snapshot.json has changed (%v)", err)
	}
	roundTrip(t, c, "still here")
	roundTrip(t, w.dial(), "new ones too")
	if st := w.status(); st.Generation != 1 {
		t.Errorf("status %+v", st)
	}
}

func TestSnapshotThatCannotBeKeptIsNotServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	// rename(2) does not replace a folder, not even for root.
	file := filepath.Join(w.dir, "snapshot.json")
	if err := os.MkdirAll(filepath.Join(file, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Apply(context.Background(), w.snapshot(1)); err == nil || !strings.Contains(err.Error(), "keep snapshot") {
		t.Errorf("apply: %v", err)
	}
	if c, err := net.Dial("tcp", w.addr); err == nil {
		c.Close()
		t.Error("its listener is open")
	}
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	w.apply(w.snapshot(1))
	roundTrip(t, w.dial(), "hello")
}

func TestStaleSnapshotIsRefusedAndTheSameAcknowledged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run()
	first := w.apply(w.snapshot(5))
	if again := w.apply(w.snapshot(5)); again.Digest != first.Digest || again.Generation != 5 {
		t.Errorf("the same again: %+v", again)
	}
	if older := w.apply(w.snapshot(4)); older.Generation != 5 {
		t.Errorf("the same content, older: %+v", older)
	}
	for _, generation := range []uint64{4, 5} {
		s := w.snapshot(generation)
		s.Connect = "other"
		if _, err := w.client.Apply(context.Background(), s); !errors.Is(err, gateway.ErrStale) {
			t.Errorf("generation %d with other content: %v; want %v", generation, err, gateway.ErrStale)
		}
	}
}

func TestRestartFromTheSnapshotOnDiskAlone(t *testing.T) {
	t.Parallel()
	w := serving(t)
	applied := w.status()
	for _, name := range []string{"snapshot.json", "gateway.sock", "gateway.lock"} {
		if info, err := os.Stat(filepath.Join(w.dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", name, info.Mode(), err)
		}
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	// This is what a kill -9 leaves.
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: gateway.Socket(w.dir), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	// The address is busy for a moment. The admin socket is up meanwhile, and says so.
	holder, err := net.Listen("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	w.run()
	eventually(t, "status names the busy address", func() bool {
		st := w.status()
		return st.Generation == 0 && strings.Contains(st.Problem, w.addr) && strings.Contains(st.Problem, "in use")
	})
	stale := w.snapshot(1)
	stale.Connect = "other"
	if _, err := w.client.Apply(context.Background(), stale); !errors.Is(err, gateway.ErrStale) {
		t.Errorf("a stale snapshot while restoring: %v", err)
	}
	holder.Close()
	eventually(t, "restored", func() bool { return w.status().Generation == 1 })
	roundTrip(t, w.dial(), "hello")
	if st := w.status(); st.Digest != applied.Digest || st.Problem != "" {
		t.Errorf("status %+v", st)
	}
}

func TestCorruptSnapshotOnDiskWaitsForANewOne(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"half":          `{"generation":1,"lis`,
		"empty":         "",
		"invalid":       `{"generation":1}`,
		"unknown field": `{"generation":1,"require_client_certificate":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			fakeEngine(t, w.engine, echo)
			if err := os.WriteFile(filepath.Join(w.dir, "snapshot.json"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			w.run()
			if st := w.status(); st.Generation != 0 || !strings.Contains(st.Problem, "snapshot.json") {
				t.Errorf("status %+v", st)
			}
			w.apply(w.snapshot(1))
			roundTrip(t, w.dial(), "hello")
			if st := w.status(); st.Problem != "" {
				t.Errorf("problem %q stays", st.Problem)
			}
		})
	}
}

func TestAdminSocketRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run()
	for name, body := range map[string]string{
		"unknown field": `{"generation":1,"future":true}`,
		"no JSON":       "hello",
		"two":           `{} {}`,
		"too big":       `{"connect":"` + strings.Repeat("a", 5<<20) + `"}`,
	} {
		c, err := net.Dial("unix", gateway.Socket(w.dir))
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		go func() {
			_, _ = io.WriteString(c, "PUT /snapshot HTTP/1.0\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body)
		}()
		got := make([]byte, 12)
		if _, err := io.ReadFull(c, got); err != nil || !strings.HasSuffix(string(got), " 400") {
			t.Errorf("%s: %q, %v; want 400", name, got, err)
		}
		c.Close()
	}
}

func TestSecondGatewayInTheFolderIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run()
	if err := gateway.Run(context.Background(), gateway.Config{Dir: w.dir}); !errors.Is(err, gateway.ErrRunning) {
		t.Errorf("second Run: %v; want %v", err, gateway.ErrRunning)
	}
	w.status()
}

func TestFolderThatCannotBeUsedIsAnError(t *testing.T) {
	t.Parallel()
	long := filepath.Join(tempDir(t), strings.Repeat("d", 100))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{"/nowhere/at/all": "no such file", long: "choose a shorter folder"} {
		if err := gateway.Run(context.Background(), gateway.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", dir, err, want)
		}
	}
}

func TestEngineThatDiesMidStreamEndsTheConnectionCleanly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kill := fakeEngine(t, w.engine, echo)
	w.run()
	w.apply(w.snapshot(1))
	c := w.dial()
	roundTrip(t, c, "hello")
	kill()
	if all, err := io.ReadAll(c); err != nil || len(all) != 0 {
		t.Errorf("read %q, %v; want a clean end", all, err)
	}
}

func TestEngineThatComesBackWithinTheDialWindowIsNotMissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run()
	w.apply(w.snapshot(1))
	c := w.dial()
	send(t, c, "hello\r\n")
	eventually(t, "gateway waits for the engine", func() bool { return w.status().Handshakes["tls1.3"] == 1 })
	fakeEngine(t, w.engine, echo)
	expect(t, c, "hello\r\n")
	if st := w.status(); st.EngineUnreachable != 0 {
		t.Errorf("status %+v", st)
	}
}

func TestEngineThatIsAwayIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run()
	w.apply(w.snapshot(1))
	bare := address()
	s := w.snapshot(2)
	s.Listeners = append(s.Listeners, gateway.Listener{Address: bare})
	w.apply(s)
	for name, c := range map[string]io.ReadWriter{"tls": w.dial(), "plaintext": dialTCP(t, bare)} {
		send(t, c, "*1\r\n$4\r\nPING\r\n")
		got, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(got), "-ERR ") || !strings.HasSuffix(string(got), "\r\n") || !strings.Contains(string(got), "retry") {
			t.Errorf("%s: read %q, %v", name, got, err)
		}
	}
	if st := w.status(); st.EngineUnreachable != 2 {
		t.Errorf("status %+v", st)
	}
}

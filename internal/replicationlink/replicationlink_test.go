package replicationlink_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/replicationlink"
)

func TestOnlyTheInstancesNodesReachTheEngine(t *testing.T) {
	t.Parallel()
	engine, logins := engineThat(t, echo)
	w := newWorld(t, engine)
	foreign := certtest.NewAuthority(t, "CA of first") // the name is no proof
	past := certtest.Valid(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	for _, tc := range []struct {
		reason string
		shown  []tls.Certificate
	}{
		{"no_certificate", nil},
		{"foreign_ca", []tls.Certificate{peerOf(t, foreign)}},
		{"expired_certificate", []tls.Certificate{peerOf(t, w.ca, past)}},
		{"bad_certificate", []tls.Certificate{w.ca.Leaf(t, certtest.Names(identity))}}, // the instance's server certificate is for servers
		{"wrong_identity", []tls.Certificate{w.ca.Leaf(t, forPeers, certtest.Names("spiffe://sealane/local/local/second/node"))}},
		{"wrong_identity", []tls.Certificate{w.ca.Leaf(t, forPeers, certtest.Names("127.0.0.1", "localhost"))}},
		{"wrong_identity", []tls.Certificate{w.ca.Leaf(t, forPeers, certtest.CommonName(identity))}},
	} {
		before := w.listener.Status().Refused[tc.reason]
		c, err := w.dial(tc.shown...)
		if err == nil {
			_, err = c.Read(make([]byte, 1)) // in TLS 1.3 it is refused after the client's end of the handshake
		}
		if err == nil {
			t.Errorf("%s: was let in", tc.reason)
		}
		w.wantRefused(tc.reason, before+1)
		if !strings.Contains(w.log.String(), "reason="+tc.reason) {
			t.Errorf("%s is not in the log: %s", tc.reason, w.log)
		}
	}
	if n := logins.Load(); n != 0 {
		t.Errorf("%d of them have reached the engine", n)
	}
	roundTrip(t, w.link(), "and a replica gets in")
}

func TestPlaintextIsToldSo(t *testing.T) {
	t.Parallel()
	engine, logins := engineThat(t, echo)
	w := newWorld(t, engine)
	c := w.dialTCP()
	if _, err := io.WriteString(c, "*1\r\n$4\r\nPING\r\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); !strings.HasPrefix(string(got), "-ERR this port is for the instance's own replicas") {
		t.Errorf("answer %q, %v", got, err)
	}
	w.wantRefused("not_tls", 1)
	if logins.Load() != 0 {
		t.Error("the engine was reached")
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	t.Parallel()
	engine, _ := engineThat(t, echo)
	w := newWorld(t, engine)
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, Certificates: []tls.Certificate{peerOf(t, w.ca)}}
	if err := tls.Client(w.dialTCP(), config).Handshake(); err == nil {
		t.Error("TLS 1.1 was let in")
	}
	w.wantRefused("no_shared_parameters", 1)
	config.MaxVersion = tls.VersionTLS12
	c := tls.Client(w.dialTCP(), config)
	roundTrip(t, c, "TLS 1.2")
}

func TestReplicaThatRefusesTheNodesCertificate(t *testing.T) {
	t.Parallel()
	engine, _ := engineThat(t, echo)
	w := newWorld(t, engine)
	w.config.Authorities = certtest.NewAuthority(t, "another").PEM() // what dial verifies with
	if _, err := w.dial(peerOf(t, w.ca)); err == nil {
		t.Error("the certificate is verified by another CA")
	}
	w.wantRefused("refused_by_replica", 1)
}

// A rotation must not begin a full synchronisation again, which may have taken hours. When a CA is accepted no more, as after a compromise,
// nobody stays whom it let in.
func TestLinksOutliveARotation(t *testing.T) {
	t.Parallel()
	engine, _ := engineThat(t, echo)
	w := newWorld(t, engine)
	first, oldCert := w.link(), peerOf(t, w.ca)
	old := w.ca
	w.ca = certtest.NewAuthority(t, "CA-2")
	w.config.Authorities = append(old.PEM(), w.ca.PEM()...)
	w.apply()
	w.present(peerOf(t, w.ca))
	w.apply()
	second := w.link()
	if got := second.ConnectionState().PeerCertificates[0].Issuer.CommonName; got != "CA-2" {
		t.Errorf("a new link is presented a certificate of %s", got)
	}
	roundTrip(t, first, "in the middle of the rotation")
	w.config.Authorities = w.ca.PEM()
	w.apply()
	if c, err := w.dial(oldCert); err == nil {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a certificate of the old CA is let in")
		}
	}
	w.wantRefused("foreign_ca", 1)
	wantCut(t, first)
	roundTrip(t, second, "from after the rotation")
	if s := w.listener.Status(); len(s.Replicas) != 1 || s.Replicas[0].BytesOut != uint64(len("hellofrom after the rotation")) || s.Replicas[0].Since.IsZero() {
		t.Errorf("status %+v", s)
	}
}

func TestLinksAreCutWhenTheEngineIsNoPrimaryAnyMore(t *testing.T) {
	t.Parallel()
	engine, _ := engineThat(t, echo)
	other, otherLogins := engineThat(t, echo)
	for name, change := range map[string]func(w *world){
		"closed":         func(w *world) { w.config.Closed = true; w.apply() },
		"another engine": func(w *world) { w.config.Engine = other; w.apply() },
		"none": func(w *world) {
			p, err := w.listener.Prepare(w.t.Context(), nil)
			if err != nil {
				w.t.Fatal(err)
			}
			w.listener.Commit(p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, engine)
			link, silent := w.link(), w.dialTCP()
			change(w)
			if s := w.listener.Status(); len(s.Replicas) > 0 {
				t.Errorf("still up when the change has been made: %+v", s)
			}
			wantCut(t, link)
			if name != "another engine" { // it may have been accepted after the change, and then waits for nothing wrong
				wantCut(t, silent)
			}
		})
	}
	w := newWorld(t, engine)
	w.config.Closed = true
	w.apply()
	wantCut(t, w.dialTCP())
	w.wantRefused("not_primary", 1)
	w.config.Closed, w.config.Engine = false, other
	before := otherLogins.Load()
	w.apply()
	roundTrip(t, w.link(), "open again")
	if otherLogins.Load() != before+1 {
		t.Error("the other engine was not reached")
	}
}

func TestAnAddressIsChangedAsAWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	engine, _ := engineThat(t, echo)
	w := newWorld(t, engine)
	link, before := w.link(), w.config
	taken, err := net.Listen("tcp", address())
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	moved := before
	moved.Address = taken.Addr().String()
	if _, err := w.listener.Prepare(t.Context(), &moved); err == nil || !strings.Contains(err.Error(), moved.Address) {
		t.Errorf("an address that is taken: %v", err)
	}
	moved.Address = address()
	if p, err := w.listener.Prepare(t.Context(), &moved); err != nil {
		t.Error(err)
	} else {
		p.Discard()
	}
	roundTrip(t, w.link(), "at the old address")
	w.config.Address = moved.Address
	w.apply()
	roundTrip(t, w.link(), "at the new one")
	roundTrip(t, link, "through the old one")
	if c, err := net.Dial("tcp", before.Address); err == nil {
		c.Close()
		t.Error("the old address is still open")
	}
}

func TestEitherSideMayEndFirst(t *testing.T) {
	t.Parallel()
	// The engine answers when it has read everything, and then ends.
	engine, _ := engineThat(t, func(c *net.UnixConn) {
		all, _ := io.ReadAll(c)
		fmt.Fprintf(c, "%d bytes", len(all))
	})
	w := newWorld(t, engine)
	c, err := w.dial(peerOf(t, w.ca))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "1048576 bytes" {
		t.Errorf("after the replica's end: %q, %v", got, err)
	}
	after := make(chan string, 1)
	engine, _ = engineThat(t, func(c *net.UnixConn) {
		_, _ = c.Read(make([]byte, 1))
		_, _ = c.Write(make([]byte, 1<<20))
		_ = c.CloseWrite()
		said, _ := io.ReadAll(c)
		after <- string(said)
	})
	w = newWorld(t, engine)
	if c, err = w.dial(peerOf(t, w.ca)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || len(got) != 1<<20 {
		t.Errorf("before the engine's end: %d bytes, %v", len(got), err)
	}
	if _, err := io.WriteString(c, "still here"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got := <-after; got != "still here" {
		t.Errorf("after its end the engine reads %q", got)
	}
	eventually(t, "the link is gone", func() bool { return len(w.listener.Status().Replicas) == 0 })
}

func TestThoseWithoutACertificateAreBounded(t *testing.T) {
	t.Parallel()
	engine, _ := engineThat(t, echo)
	w := newWorld(t, engine)
	up := w.link()
	oldest := w.dialTCP()
	for range replicationlink.MaxPending {
		w.dialTCP()
	}
	wantCut(t, oldest)
	w.wantRefused("crowded", 1)
	roundTrip(t, w.link(), "a replica gets in all the same")
	roundTrip(t, up, "and one that is in stays")
}

func TestAnEngineThatDoesNotLetReplicasIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, filepath.Join(tempDir(t), "nobody"))
	c, err := w.dial(peerOf(t, w.ca))
	if err != nil {
		t.Fatal(err)
	}
	wantCut(t, c)
	w.wantRefused("engine_unreachable", 1)
	ln, err := net.Listen("unix", w.config.Engine)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			defer c.Close()
			_, _ = c.Read(make([]byte, 1024))
			fmt.Fprintf(c, "-WRONGPASS invalid username-password pair %s\r\n", password)
		}
	}()
	if c, err = w.dial(peerOf(t, w.ca)); err != nil {
		t.Fatal(err)
	}
	wantCut(t, c)
	w.wantRefused("login_refused", 1)
	if !strings.Contains(w.log.String(), "WRONGPASS") {
		t.Errorf("the log does not say why: %s", w.log)
	}
}

func TestProblemsOfAConfigurationAreNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "/run/e")
	leaf := peerOf(t, w.ca)
	for _, tc := range []struct {
		spoil func(*replicationlink.Config)
		want  string
	}{
		{func(c *replicationlink.Config) { c.Address = "localhost:1" }, `address "localhost:1"`},
		{func(c *replicationlink.Config) { c.Address = "127.0.0.1:0" }, "the port must not be 0"},
		{func(c *replicationlink.Config) { c.Address = "[::0001]:1" }, `must be written "[::1]:1"`},
		{func(c *replicationlink.Config) { c.Engine = "e" }, `engine "e": must be an absolute path`},
		{func(c *replicationlink.Config) { c.Password = "" }, "password (0 bytes, not shown)"},
		{func(c *replicationlink.Config) { c.Certificate = nil }, "certificate: "},
		{func(c *replicationlink.Config) { c.PrivateKey = c.Certificate }, "private_key ("},
		{func(c *replicationlink.Config) { c.Authorities = nil }, "authorities: "},
		{func(c *replicationlink.Config) { c.Authorities = certtest.PEM(leaf.Certificate...) }, "must be CA certificates in PEM"},
		{func(c *replicationlink.Config) { c.Identity = "" }, `identity "": must be a URI`},
		{func(c *replicationlink.Config) { c.Identity = "node-0" }, `identity "node-0": must be a URI`},
	} {
		c := w.config
		tc.spoil(&c)
		text := fmt.Sprint(c.Check())
		if !strings.Contains(text, tc.want) {
			t.Errorf("%s; want it to contain %q", text, tc.want)
		}
		if c.Equal(w.config) || !c.Equal(c) {
			t.Errorf("%s: Equal", tc.want)
		}
		w.hidesSecrets(text)
	}
}

func TestAConfigurationIsPrintedWithoutItsSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "/run/e")
	var log bytes.Buffer
	c := w.config
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "c", c, "p", &c, "in", struct{ C *replicationlink.Config }{&c})
	text := log.String() + fmt.Sprintf("%v %+v %#v %s %v", c, c, c, &c, struct{ C replicationlink.Config }{c})
	w.hidesSecrets(text)
	if !strings.Contains(text, c.Address) {
		t.Errorf("not recognisable: %s", text)
	}
}

func TestEveryReasonIsInTheDocs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range replicationlink.Reasons() {
		if !bytes.Contains(page, []byte("`"+reason+"`")) {
			t.Errorf("docs/operations.md does not say what %s means", reason)
		}
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	engine, _ := engineThat(t, func(c *net.UnixConn) {
		for {
			if _, err := c.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	w := newWorld(t, engine)
	c, err := w.dial(peerOf(t, w.ca))
	if err != nil {
		t.Fatal(err)
	}
	silent := w.dialTCP()
	// It reads nothing, so the link is in the middle of a write.
	eventually(t, "the stream stands still", func() bool {
		before := w.listener.Status().BytesOut
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		<-ctx.Done()
		return before > 0 && w.listener.Status().BytesOut == before
	})
	w.listener.Close()
	wantCut(t, silent)
	wantCut(t, c)
}

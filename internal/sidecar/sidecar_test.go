package sidecar_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealane/sealane/internal/sidecar"
	"github.com/sealane/sealane/internal/wire"
)

// open are the connections that the server has now.
func (r *redis) open() map[net.Conn]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.conns)
}

// haveLeft waits until none of these connections is there any more.
func (w *world) haveLeft(r *redis, old map[net.Conn]bool) {
	w.Helper()
	w.until("the old connections are left", func() bool {
		for c := range r.open() {
			if old[c] {
				return false
			}
		}
		return true
	})
}

// A change of the CA, of the password or of the address reaches clients that are connected, without their noticing.
func TestNewerInformationMovesClientsThatAreConnected(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(*world)
	}{
		{"CA", func(w *world) {
			ca := newAuthority(w, "second CA")
			w.set(func(w *world) { w.source.Bundle += ca.pem() })
			w.server.set(func(r *redis) { r.cert = ca.leaf(nil) })
		}},
		{"CA, of which the server knows before the API does", func(w *world) {
			ca := newAuthority(w, "second CA")
			w.server.set(func(r *redis) { r.cert = ca.leaf(nil) })
			w.server.cut()
			w.set(func(w *world) { w.source.Bundle = ca.pem() })
		}},
		{"password", func(w *world) {
			w.server.set(func(r *redis) { r.password = "new" })
			w.set(func(w *world) { w.source.Password = "new" })
		}},
		{"address", func(w *world) {
			other := newRedis(w, w.ca.leaf(nil))
			w.server.down()
			w.set(func(w *world) { w.source.Address = other.address })
			w.server = other
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.ready()
			clients := []*app{w.connect(), w.connect(), w.connect()}
			for _, c := range clients {
				c.works()
			}
			server, old := w.server, w.server.open()
			tc.change(w)
			stop := make(chan struct{})
			var busy sync.WaitGroup
			for _, c := range clients {
				busy.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							if got := c.ask("ECHO", "hello"); got != "hello" {
								t.Errorf("ECHO answers %q", got)
								return
							}
						}
					}
				})
			}
			w.until("moved", func() bool {
				return strings.Contains(w.log.String(), "clients move to fresh connections") && w.metric("sealane_sidecar_moves_total") > 1 && w.side.Ready() == nil
			})
			w.haveLeft(server, old)
			close(stop)
			busy.Wait()
			for _, c := range clients {
				c.works()
			}
		})
	}
}

// After a suspend, or when somebody sets the clock, all is fetched and verified anew.
func TestAnHourThatIsMissingMakesEverythingFresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.link.Every = time.Hour })
	w.ready()
	early := w.connect()
	early.works()
	old := w.server.open()
	w.set(func(w *world) { w.clock = time.Hour })
	w.until("asked again", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.asked > 1 })
	w.haveLeft(w.server, old)
	early.works()
	if log := w.log.String(); strings.Count(log, "the clock jumped") != 1 || !strings.Contains(log, "by=1h0m0s") || len(w.log.problems()) > 0 {
		t.Errorf("the log says %s", log)
	}
}

func TestASuspendThatOutlivesTheCertificateIsSaidAndHeals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.link.Every = time.Hour })
	w.ready()
	w.set(func(w *world) { w.clock = 48 * time.Hour })
	w.until("problem", func() bool { return len(w.log.problems()) > 0 })
	if p := w.log.problems(); len(p) != 1 || !strings.Contains(p[0], "code=expired ") || !strings.Contains(p[0], "this machine's clock says") {
		t.Errorf("the log says %q", p)
	}
	w.set(func(w *world) { w.clock = 0 })
	w.ready()
	w.connect().works()
}

// What the server is told is what is trusted, in the contract's words.
func TestTheBundleIsDeclared(t *testing.T) {
	t.Parallel()
	second := newAuthority(t, "second CA")
	w := newWorld(t, func(w *world) { w.source.Bundle += second.pem() })
	w.ready()
	one, two := sha256.Sum256(w.ca.Cert.Raw), sha256.Sum256(second.Cert.Raw)
	want := wire.ALPNSealane + " sealane-ca/" + hex.EncodeToString(one[:]) + " sealane-ca/" + hex.EncodeToString(two[:])
	w.server.set(func(r *redis) {
		if got := strings.Join(r.protocols, " "); got != want {
			t.Errorf("offered %q; want %q", got, want)
		}
	})
}

func TestAServerThatRefusesProtocolsIsServedWithoutThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.server.set(func(r *redis) { r.noALPN = true }) })
	w.ready()
	w.connect().works()
	if p := w.log.problems(); len(p) > 0 {
		t.Errorf("the log says %q", p)
	}
	w.server.set(func(r *redis) {
		if len(r.protocols) > 0 {
			t.Errorf("the last client offered %q: what the server refuses is not remembered", r.protocols)
		}
	})
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	t.Run("the sidecar logs in for clients that do not", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, func(w *world) {
			w.server.password = "secret-horse"
			w.source.User, w.source.Password = "app", "secret-horse"
		})
		w.ready()
		w.connect().works()
		w.server.set(func(r *redis) {
			if r.logins[0] != "app secret-horse" {
				t.Errorf("logged in as %q", r.logins[0])
			}
		})
		if strings.Contains(w.log.String(), "secret-horse") {
			t.Error("the password is in the log")
		}
	})
	t.Run("clients log in themselves", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, func(w *world) {
			w.server.password = "secret-horse"
			w.source.ClientsLogIn = true
		})
		w.ready()
		c := w.connect()
		if got := c.ask("ECHO", "x"); !strings.HasPrefix(got, "-NOAUTH") {
			t.Errorf("without a password: %q", got)
		}
		if got := c.ask("AUTH", "secret-horse"); got != "+OK" {
			t.Errorf("AUTH: %q", got)
		}
		c.works()
	})
	t.Run("a wrong one is said, not shown, and replaced when there is a right one", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, func(w *world) {
			w.server.password = "secret-horse"
			w.source.Password = "wrong-horse"
		})
		w.until("problem", func() bool { return len(w.log.problems()) > 0 })
		if p := w.log.problems(); len(p) != 1 || !strings.Contains(p[0], "code=auth ") || !strings.Contains(p[0], "refuses the password") || strings.Contains(p[0], "horse") {
			t.Errorf("the log says %q", p)
		}
		w.set(func(w *world) { w.source.Password = "secret-horse" })
		w.ready()
		w.connect().works()
	})
}

func TestAWrongServerGetsNoPassword(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) {
		w.server.cert = newAuthority(w, "other CA").leaf(nil)
		w.server.password = "x"
		w.source.Password = "secret-horse"
	})
	w.until("problem", func() bool { return len(w.log.problems()) > 0 })
	w.server.set(func(r *redis) {
		if len(r.logins) > 0 {
			t.Errorf("it was told %q", r.logins)
		}
	})
}

// The cache has what a start without the API needs, and no password.
func TestTheCacheStartsALinkWithoutItsSource(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "first.json")
	old := newWorld(t, func(w *world) {
		w.link.Cache = file
		w.server.password = "secret-horse"
		w.source.Password = "secret-horse"
	})
	old.ready()
	old.until("written", func() bool { _, err := os.Stat(file); return err == nil })
	raw, err := os.ReadFile(file)
	info, _ := os.Stat(file)
	if err != nil || strings.Contains(string(raw), "horse") || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v: %s", err, info.Mode(), raw)
	}
	away := func(w *world) {
		w.fault, w.link.Cache = errors.New("the API is away"), file
		w.server.password = "secret-horse"
	}
	w := newWorld(t, func(w *world) {
		away(w)
		w.server.down()
		w.server = old.server
		w.link.Local = func(s *sidecar.Server) error { s.Password = "secret-horse"; return nil }
	})
	w.ready()
	w.connect().works()
	if n := strings.Join(w.side.Notes(), "\n"); !strings.Contains(n, "is from "+file) || !strings.Contains(n, "the API is away") {
		t.Errorf("notes %q", n)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	open := newWorld(t, away)
	open.until("refused", func() bool { return strings.Contains(open.log.String(), "others could have changed whom it trusts") })
	if open.side.Ready() == nil {
		t.Error("a file that others may write is trusted")
	}
}

func TestClientsWithTheWrongProtocolAreAnsweredInIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.ready()
	address := w.side.Addresses()[0]
	r, err := http.Get("http://" + address + "/")
	if err != nil || r.StatusCode != http.StatusBadRequest {
		t.Fatalf("HTTP: %v %v", r, err)
	}
	r.Body.Close()
	_, err = tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err == nil || !strings.Contains(err.Error(), "remote error: tls: handshake failure") {
		t.Errorf("TLS: %v", err)
	}
	for _, kind := range []string{"kind=http", "kind=tls_on_plaintext"} {
		if !strings.Contains(w.log.String(), kind) {
			t.Errorf("the log lacks %s: %s", kind, w.log.String())
		}
	}
	// A request by hand, cut in the middle, is served.
	c := w.connect()
	for _, part := range []string{"PI", "NG\r\n"} {
		if _, err := c.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // so that it is two packets
	}
	if line, err := c.in.ReadString('\n'); line != "+PONG\r\n" {
		t.Errorf("inline PING: %q %v", line, err)
	}
}

func TestUnixSockets(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "redis.sock")
	listen := func(mode fs.FileMode) func(*world) {
		return func(w *world) { w.link.Listen = sidecar.Listen{Path: path, Mode: mode} }
	}
	w := newWorld(t, listen(0o600))
	w.ready()
	w.connect().works()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if _, err := sidecar.New(w.cfg); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a second one: %v", err)
	}
	w.side.Close()
	// What a killed sidecar leaves is no obstacle; what is no socket is not touched.
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	w = newWorld(t, listen(0o666))
	w.ready()
	w.connect().works()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	w.side.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sidecar.New(w.cfg); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file: %v", err)
	}
}

func TestOtherMachinesAreNotLetInByAccident(t *testing.T) {
	t.Parallel()
	for address, loopback := range map[string]bool{
		"127.0.0.1:0": true, "[::1]:0": true, "localhost:0": true, "127.9.9.9:1": true, "unix:/tmp/x": true,
		"0.0.0.0:0": false, "[::]:0": false, "10.0.0.5:6379": false, "redis.internal:6379": false,
	} {
		l, err := sidecar.ParseListen(address)
		if err != nil || l.IsLoopback() != loopback {
			t.Errorf("%s: loopback %v, %v; want %v", address, l.IsLoopback(), err, loopback)
		}
	}
	for _, address := range []string{":6379", "6379", "127.0.0.1", "127.0.0.1:99999", "unix:", "unix:" + strings.Repeat("x", 108), ""} {
		if l, err := sidecar.ParseListen(address); err == nil {
			t.Errorf("%q is taken for %v", address, l)
		}
	}
	l, _ := sidecar.ParseListen("0.0.0.0:0")
	if _, err := sidecar.New(sidecar.Config{Links: []sidecar.Link{{Name: "x", Listen: l}}}); err == nil || !strings.Contains(err.Error(), "not a loopback address") {
		t.Errorf("listens on 0.0.0.0: %v", err)
	}
}

// Whoever has something under way finishes it; the idle are let go at once.
func TestDrainLetsClientsFinish(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.ready()
	idle, busy := w.connect(), w.connect()
	idle.works()
	busy.works()
	if _, err := busy.Write([]byte("*2\r\n$4\r\nECHO\r\n$5\r\nhel")); err != nil { // half a request
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	left := make(chan int, 1)
	go func() { left <- w.side.Drain(ctx) }()
	if _, err := idle.in.ReadByte(); err == nil {
		t.Error("the idle client was not let go")
	}
	if _, err := net.Dial("tcp", w.side.Addresses()[0]); err == nil {
		t.Error("a new client was let in")
	}
	if _, err := busy.Write([]byte("lo\r\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := busy.in.ReadString('\n'); line != "$5\r\n" {
		t.Errorf("the busy client reads %q, %v", line, err)
	}
	if n := <-left; n != 0 {
		t.Errorf("%d clients are left", n)
	}
}

func TestDrainEndsWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.ready()
	busy := w.connect()
	if _, err := busy.Write([]byte("*2\r\n$4\r\nECHO\r\n")); err != nil {
		t.Fatal(err)
	}
	w.until("counted", func() bool { return w.metric("sealane_sidecar_connections") == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if n := w.side.Drain(ctx); n != 1 {
		t.Errorf("%d clients are left; want the one in the middle of a request", n)
	}
}

// metric is the sum of a metric's values.
func (w *world) metric(name string) (sum float64) {
	w.Helper()
	registry := prometheus.NewRegistry()
	for _, c := range w.side.Metrics() {
		registry.MustRegister(c)
	}
	families, err := registry.Gather()
	if err != nil {
		w.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func TestMetricsTellWhatHappens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.ready()
	w.connect().works()
	for name, want := range map[string]float64{
		"sealane_sidecar_ready": 1, "sealane_sidecar_connections": 1, "sealane_sidecar_connections_total": 1, "sealane_sidecar_problem": 0,
		"sealane_sidecar_moves_total": 1, "sealane_sidecar_requests_total": 1, "sealane_sidecar_ca_expiry_timestamp_seconds": float64(w.ca.Cert.NotAfter.Unix()),
	} {
		if got := w.metric(name); got != want {
			t.Errorf("%s is %v; want %v", name, got, want)
		}
	}
	w.server.down()
	w.until("problem", func() bool { w.poke(); return w.metric("sealane_sidecar_problem") == 1 })
	if got := w.metric("sealane_sidecar_ready"); got != 0 {
		t.Errorf("ready %v with its server down", got)
	}
	w.server.up()
}

// A thousand attempts at a server that is away must not be a thousand a second, whatever clients do.
func TestManyClientsDoNotHammerAServerThatIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.ready()
	w.server.set(func(r *redis) { r.closes = true })
	w.server.cut()
	for range 50 {
		w.poke()
	}
	w.until("problem", func() bool { return w.side.Ready() != nil })
	before := w.metric("sealane_sidecar_dials_total")
	time.Sleep(time.Second) // what is measured is a rate
	if n := w.metric("sealane_sidecar_dials_total") - before; n > 20 {
		t.Errorf("%v attempts in a second", n)
	}
	w.server.set(func(r *redis) { r.closes = false })
	w.ready()
}

// The server knows of its new CA before the sidecar does: that is no problem, if asking once helps.
func TestAVerificationFailureAsksOnceBeforeItIsAProblem(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.link.Every = time.Hour })
	w.ready()
	early := w.connect()
	early.works()
	ca := newAuthority(t, "second CA")
	w.set(func(w *world) { w.source.Bundle = ca.pem() })
	w.server.set(func(r *redis) { r.cert = ca.leaf(nil) })
	w.server.cut()
	early.works()
	w.connect().works()
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.log.problems(); len(p) > 0 || w.asked != 2 {
		t.Errorf("asked %d times, log %q", w.asked, p)
	}
}

// Another certificate than before is a sign that there may be news, long before the next refresh is due.
func TestAnotherCertificateIsAReasonToAsk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.link.Every = time.Hour })
	w.ready()
	next := newAuthority(t, "next CA")
	w.set(func(w *world) { w.source.Bundle += next.pem() })
	w.server.set(func(r *redis) { r.cert = w.ca.leaf(nil) })
	w.server.cut()
	w.connect().works()
	w.until("the next CA is declared", func() (ok bool) {
		w.server.set(func(r *redis) { ok = len(r.protocols) == 3 })
		return ok
	})
}

// What editors and shells do to files is no damage, or is called what it is.
func TestByteOrderMarks(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		bundle func(pem string) string
		says   string // "": it is good
	}{
		{"before the bundle", func(pem string) string { return "\ufeff" + pem }, ""},
		{"before each of two files that were made one", func(pem string) string { return "\ufeff" + pem + "\ufeff" + pem }, ""},
		{"UTF-16, little end first", func(pem string) string { return "\xff\xfe" + strings.Join(strings.Split(pem, ""), "\x00") }, "it is in UTF-16"},
		{"UTF-16, big end first", func(pem string) string { return "\xfe\xff\x00" + strings.Join(strings.Split(pem, ""), "\x00") }, "it is in UTF-16"},
		{"DER", func(text string) string { b, _ := pem.Decode([]byte(text)); return string(b.Bytes) }, "it is in DER"},
		{"nothing but the mark", func(string) string { return "\ufeff" }, "it is empty"},
	} {
		w := newWorld(t, func(w *world) { w.source.Bundle = tc.bundle(w.ca.pem()) })
		w.until("outcome", func() bool { return w.side.Ready() == nil || len(w.log.problems()) > 0 })
		switch err := w.side.Ready(); {
		case tc.says == "" && err != nil, tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)):
			t.Errorf("%s: %v; want %q", tc.name, err, tc.says)
		}
	}
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, []byte("\ufeffhorse\r\n"))
	if got, err := sidecar.Password(file); got != "horse" || err != nil {
		t.Errorf("a password file with a mark: %q %v", got, err)
	}
	write(t, file, []byte("\xff\xfeh\x00"))
	if _, err := sidecar.Password(file); err == nil || !strings.Contains(err.Error(), "is in UTF-16") {
		t.Errorf("a password file in UTF-16: %v", err)
	}
}

// Which address localhost is, is the client's choice.
func TestLocalhostIsBothOfItsAddresses(t *testing.T) {
	t.Parallel()
	listen, err := sidecar.ParseListen("localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(w *world) { w.link.Listen = listen })
	w.ready()
	host, port, _ := net.SplitHostPort(w.side.Addresses()[0])
	if host != "localhost" {
		t.Errorf("it listens at %q", w.side.Addresses()[0])
	}
	has6 := true
	for _, ip := range []string{"127.0.0.1", "::1"} {
		c, err := net.Dial("tcp", net.JoinHostPort(ip, port))
		if has6 = err == nil; err != nil {
			if notes := strings.Join(w.side.Notes(), "\n"); !strings.Contains(notes, "this machine has no") {
				t.Errorf("%s: %v, and the notes are %q", ip, err, notes)
			}
			continue
		}
		(&app{w, c, bufio.NewReader(c)}).works()
		c.Close()
	}
	w.side.Close()
	if !has6 {
		t.Skip("this machine has no ::1")
	}
	for _, ip := range []string{"127.0.0.1", "::1"} {
		taken, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(taken.Addr().String())
		w.cfg.Links[0].Listen.Address = "localhost:" + port
		_, err = sidecar.New(w.cfg)
		if err == nil || !strings.Contains(err.Error(), net.JoinHostPort(ip, port)+": address already in use, and ") || !strings.Contains(err.Error(), "is free") {
			t.Errorf("with %s taken: %v", ip, err)
		}
		taken.Close()
	}
}

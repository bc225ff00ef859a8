package sidecar_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/sidecar"
)

const identity = "spiffe://sealane/local/local/first"

// authority is a CA of a test. Its leaves are right for the server of the tests.
type authority struct {
	*certtest.Authority
	t testing.TB
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	return &authority{certtest.NewAuthority(t, name), t}
}

func (a *authority) pem() string { return string(a.PEM()) }

// leaf signs a server's certificate; change makes it another than the right one.
func (a *authority) leaf(change func(*x509.Certificate)) *tls.Certificate {
	a.t.Helper()
	c := a.Leaf(a.t, certtest.Names("127.0.0.1", "redis.internal", identity), change)
	return &c
}

// redis is a server that knows as much as the tests need. What it is can be changed while it runs.
type redis struct {
	t       testing.TB
	address string
	running sync.WaitGroup

	mu        sync.Mutex // guards what follows
	ln        net.Listener
	cert      *tls.Certificate
	plain     bool // it has no TLS
	silent    bool // it accepts and says nothing
	closes    bool // it accepts and closes
	noALPN    bool // it refuses whoever names a protocol
	wantsCert bool
	clientCAs *x509.CertPool // whose client certificates it takes
	shown     []string       // common names of the clients' certificates
	only12    bool           // no TLS 1.3
	resets    bool           // in place of an alert after the handshake
	password  string
	nopass    bool              // who does not log in may do everything
	greets    string            // what it says to the first request, before it closes
	says      map[string]string // its reply by the command, in place of the right one
	ran       []string          // commands but for the sidecar's own, each with its user before it
	protocols []string          // that the last client offered
	logins    []string
	conns     map[net.Conn]bool
}

func newRedis(t testing.TB, cert *tls.Certificate) *redis {
	r := &redis{t: t, cert: cert, conns: make(map[net.Conn]bool), address: "127.0.0.1:0"}
	r.up()
	t.Cleanup(r.down)
	return r
}

func (r *redis) up() {
	r.t.Helper()
	ln, err := net.Listen("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	r.ln, r.address = ln, ln.Addr().String()
	r.mu.Unlock()
	r.running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r.running.Go(func() { r.serve(c) })
		}
	})
}

func (r *redis) down() {
	r.mu.Lock()
	r.ln.Close()
	r.mu.Unlock()
	r.cut()
	r.running.Wait()
}

func (r *redis) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.Close()
	}
}

// set changes the server; connections that are open stay, unless they are cut.
func (r *redis) set(change func(*redis)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

func (r *redis) serve(c net.Conn) {
	defer c.Close()
	r.mu.Lock()
	r.conns[c] = true
	plain, silent, closes := r.plain, r.silent, r.closes
	r.mu.Unlock()
	defer func() { r.mu.Lock(); delete(r.conns, c); r.mu.Unlock() }()
	switch {
	case closes:
		return
	case silent:
		_, _ = io.Copy(io.Discard, c)
		return
	case plain:
		r.talk(c)
		return
	}
	s := tls.Server(c, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.protocols = h.SupportedProtos
		cfg := &tls.Config{Certificates: []tls.Certificate{*r.cert}}
		if r.noALPN && len(h.SupportedProtos) > 0 {
			cfg.NextProtos = []string{"other"}
		}
		switch {
		case r.wantsCert && r.resets:
			cfg.ClientAuth = tls.RequestClientCert // so that no alert is sent
		case r.wantsCert:
			cfg.ClientAuth = tls.RequireAnyClientCert
		}
		if r.clientCAs != nil {
			cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, r.clientCAs
		}
		if r.only12 {
			cfg.MaxVersion = tls.VersionTLS12
		}
		return cfg, nil
	}})
	err := s.Handshake()
	r.mu.Lock()
	resets := r.resets
	r.mu.Unlock()
	if resets {
		c.(*net.TCPConn).SetLinger(0)
		return
	}
	if err == nil {
		if certs := s.ConnectionState().PeerCertificates; len(certs) > 0 {
			r.set(func(r *redis) { r.shown = append(r.shown, certs[0].Subject.CommonName) })
		}
		r.talk(s)
		_ = s.CloseWrite()
	}
}

func (r *redis) talk(c net.Conn) {
	in := bufio.NewReader(c)
	user := "" // nobody yet
	r.mu.Lock()
	if r.password == "" || r.nopass {
		user = "default"
	}
	r.mu.Unlock()
	for {
		args, err := readRequest(in)
		if err != nil {
			return
		}
		r.mu.Lock()
		reply, greets := r.answer(args, &user), r.greets
		r.mu.Unlock()
		if greets != "" {
			_, _ = io.WriteString(c, greets)
			return
		}
		if _, err := io.WriteString(c, reply); err != nil {
			return
		}
	}
}

func (r *redis) answer(args []string, user *string) string {
	name := strings.ToUpper(args[0])
	if reply := r.says[name]; reply != "" {
		return reply
	}
	switch {
	case name == "AUTH":
		r.logins = append(r.logins, strings.Join(args[1:], " "))
		if r.password == "" {
			return "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n"
		}
		if args[len(args)-1] != r.password {
			return "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
		}
		*user = "default"
		if len(args) == 3 {
			*user = args[1]
		}
		return "+OK\r\n"
	case *user == "":
		return "-NOAUTH Authentication required.\r\n"
	case name == "PING":
		return "+PONG\r\n"
	case name == "CLIENT" && strings.EqualFold(args[1], "ID"):
		return ":7\r\n"
	case name == "ECHO":
		r.ran = append(r.ran, *user+": "+args[1])
		return fmt.Sprintf("$%d\r\n%s\r\n", len(args[1]), args[1])
	}
	return "+OK\r\n"
}

func readRequest(in *bufio.Reader) ([]string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "*")))
	if !strings.HasPrefix(line, "*") || err != nil {
		if words := strings.Fields(line); len(words) > 0 && words[0] == "PING" {
			return words, nil
		}
		return nil, errors.New("no request")
	}
	args := make([]string, n)
	for i := range args {
		head, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size, err := strconv.Atoi(strings.TrimSpace(head[1:]))
		if err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(in, b); err != nil {
			return nil, err
		}
		args[i] = string(b[:size])
	}
	return args, nil
}

// lines is a log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// problems are the lines that say that something is wrong.
func (l *lines) problems() []string {
	var all []string
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, "level=WARN") {
			all = append(all, line)
		}
	}
	return all
}

// world is a server, a sidecar before it, and what its Source says.
type world struct {
	testing.TB
	ca     *authority
	server *redis
	log    lines
	side   *sidecar.Sidecar
	link   sidecar.Link
	cfg    sidecar.Config

	mu     sync.Mutex // guards what follows
	source sidecar.Server
	fault  error
	asked  int
	clock  time.Duration // how much the wall clock is ahead
}

// newWorld makes a world in which all is well; change may break it before the sidecar starts.
func newWorld(t testing.TB, change func(*world)) *world {
	t.Helper()
	w := &world{TB: t, ca: newAuthority(t, "right CA")}
	w.server = newRedis(t, w.ca.leaf(nil))
	w.source = sidecar.Server{Address: w.server.address, Bundle: w.ca.pem(), Identity: identity}
	listen, err := sidecar.ParseListen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.link = sidecar.Link{Name: "first", Listen: listen, Every: 200 * time.Millisecond, TrustName: "the bundle of instance first", DoctorCommand: "sealane doctor first"}
	w.cfg.Now = func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return time.Now().Add(w.clock)
	}
	if change != nil {
		change(w)
	}
	w.link.Source = func(context.Context) (sidecar.Server, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked++
		return w.source, w.fault
	}
	w.cfg.Links = []sidecar.Link{w.link}
	w.cfg.Log = slog.New(slog.NewTextHandler(&w.log, nil))
	if w.side, err = sidecar.New(w.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.side.Close)
	return w
}

func (w *world) set(change func(*world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

// until waits for something to become true.
func (w *world) until(what string, ok func() bool) {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("%s: never; ready: %v, notes %q, log:\n%s", what, w.side.Ready(), w.side.Notes(), w.log.String())
		}
	}
}

func (w *world) ready() {
	w.Helper()
	w.until("ready", func() bool { return w.side.Ready() == nil })
}

// app is a client without TLS.
type app struct {
	w *world
	net.Conn
	in *bufio.Reader
}

func (w *world) connect() *app {
	w.Helper()
	network, address := "tcp", w.side.Addresses()[0]
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	c, err := net.Dial(network, address)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return &app{w, c, bufio.NewReader(c)}
}

func (a *app) ask(args ...string) string {
	a.w.Helper()
	if _, err := a.Write(resp.AppendCommand(nil, args...)); err != nil {
		a.w.Fatalf("%v: %v", args, err)
	}
	line, err := a.in.ReadString('\n')
	if err != nil {
		a.w.Fatalf("%v: %v; log:\n%s", args, err, a.w.log.String())
	}
	if strings.HasPrefix(line, "$") {
		body, err := a.in.ReadString('\n')
		if err != nil {
			a.w.Fatalf("%v: %v", args, err)
		}
		return strings.TrimSpace(body)
	}
	return strings.TrimSpace(line)
}

func (a *app) works() {
	a.w.Helper()
	if got := a.ask("ECHO", "hello"); got != "hello" {
		a.w.Fatalf("ECHO answers %q; log:\n%s", got, a.w.log.String())
	}
}

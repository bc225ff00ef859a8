package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// target is a server that runs and answers.
type target struct {
	name   string
	addr   string
	caFile string // empty: no TLS
	beside bool   // it runs beside the client: it accepts plaintext and encrypts it towards a server with TLS
	proxy  []int  // pids of the processes that encrypt
	server []int  // pids of the gateway that a target beside the client talks to; measured by neighbours only
	engine []int  // pids of the engine behind it; empty if the engine itself encrypts
	facts  facts
	stop   func()
}

func (t *target) pids() []int { return slices.Concat(t.proxy, t.engine) }

// facts are what a connection to a target showed.
type facts struct {
	Name    string `json:"name"`
	Program string `json:"program"` // with its version
	TLS     string `json:"tls,omitempty"`
	Cipher  string `json:"cipher,omitempty"`
	Key     string `json:"key,omitempty"`
	Group   string `json:"group,omitempty"` // the one that a client gets that offers X25519MLKEM768 and X25519
	Resumes bool   `json:"resumes,omitempty"`
	Problem string `json:"problem,omitempty"` // why it isn't measured
}

// starter says how a target is started.
type starter struct {
	name    string
	program string // the program that must be installed besides the engine; empty: none
	version string // the argument that makes it print its version
	start   func(*site) error
}

func starterName(s starter) string { return s.name }

const (
	plaintext   = "plaintext"
	native      = "native"
	haproxy     = "haproxy"
	transparent = "sealane-transparent"
	multiplexed = "sealane-multiplexed"
	sidecar     = "sealane-sidecar"
	stunnelSide = "stunnel-client"
	// For neighbours: a sidecar in front of a multiplexed gateway, and one in front of Redis's own TLS.
	sidecarMultiplexed = "sealane-sidecar-multiplexed"
	sidecarNative      = "sealane-sidecar-native"
)

func starters() []starter {
	return []starter{
		{plaintext, "", "--version", startPlaintext},
		{native, "", "--version", startNative},
		{"valkey", "valkey-server", "--version", startValkey},
		{haproxy, "haproxy", "-v", startHAProxy},
		{"nginx", "nginx", "-v", startNginx},
		{"stunnel", "stunnel", "-version", startStunnel},
		{transparent, "", "version", func(s *site) error { return s.startSealane("transparent") }},
		{multiplexed, "", "version", func(s *site) error { return s.startSealane("multiplexed") }},
		{stunnelSide, "stunnel", "-version", startStunnelSide},
		{sidecar, "", "version", func(s *site) error { return s.startSidecar("transparent") }},
		{sidecarMultiplexed, "", "version", func(s *site) error { return s.startSidecar("multiplexed") }},
		{sidecarNative, "", "version", startSidecarNative},
	}
}

// lab has what the targets share, and all targets that run.
type lab struct {
	dir                   string
	ca, cert, certKey     string // PEM files
	both                  string // certificate and key in one file
	engine, load, sealane string // programs
	files                 int    // how many files a process may have open
	nice                  int    // niceness of the load
	running               map[*target]bool
}

func newLab(o options, files int) (*lab, error) {
	l := &lab{sealane: o.sealane, files: files, nice: o.nice, running: map[*target]bool{}}
	if _, err := os.Stat(o.sealane); err != nil && slices.ContainsFunc(o.targets, needsOurs) {
		return nil, fmt.Errorf("find the binary to measure: %w (run make build, or say -sealane FILE)", err)
	}
	var err error
	if l.load, err = firstOf("redis-benchmark", "valkey-benchmark"); err != nil {
		return nil, fmt.Errorf("%w: install redis-tools", err)
	}
	if l.engine, err = firstOf("redis-server", "valkey-server"); err != nil {
		return nil, fmt.Errorf("%w: install redis-server", err)
	}
	if l.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return nil, err
	}
	l.ca, l.cert = filepath.Join(l.dir, "ca.pem"), filepath.Join(l.dir, "cert.pem")
	l.certKey, l.both = filepath.Join(l.dir, "key.pem"), filepath.Join(l.dir, "both.pem")
	if err := l.makeCertificates(); err != nil {
		l.close()
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	return l, nil
}

// ownPaths are the targets that have bars.
var ownPaths = []string{multiplexed, transparent, sidecar, sidecarMultiplexed, sidecarNative}

func isOurs(name string) bool {
	return slices.Contains(ownPaths, name)
}

func needsOurs(name string) bool { return isOurs(name) || name == stunnelSide }

// firstOf finds the first of the programs that is installed.
func firstOf(programs ...string) (path string, err error) {
	for _, p := range slices.Backward(programs) {
		found, missing := exec.LookPath(p)
		if missing == nil {
			path = found
		}
		err = missing
	}
	if path != "" {
		return path, nil
	}
	return "", err
}

// close stops every target and removes its files.
func (l *lab) close() {
	for t := range l.running {
		t.stop()
	}
	os.RemoveAll(l.dir)
}

// makeCertificates makes a CA and one ECDSA P-256 leaf that every target serves, so that a handshake costs all of them the same.
func (l *lab) makeCertificates() error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	leafPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return errors.Join(
		os.WriteFile(l.ca, caPEM, 0o600),
		os.WriteFile(l.cert, leafPEM, 0o600),
		os.WriteFile(l.certKey, keyPEM, 0o600),
		os.WriteFile(l.both, slices.Concat(leafPEM, keyPEM), 0o600),
	)
}

// startAll starts the targets that are chosen and installed. It prints for every chosen one what it is, or why it is left out.
func (l *lab) startAll(ctx context.Context, o options, progress io.Writer) (up []*target, all []facts) {
	for _, s := range starters() {
		if !o.needs(s.name) {
			continue
		}
		if _, err := exec.LookPath(s.program); s.program != "" && err != nil {
			fmt.Fprintf(progress, "%s isn't installed: left out\n", s.program)
			continue
		}
		t, err := l.start(ctx, s.name)
		if err != nil {
			fmt.Fprintln(progress, err)
			all = append(all, facts{Name: s.name, Problem: err.Error()})
			continue
		}
		up, all = append(up, t), append(all, t.facts)
	}
	return up, all
}

// start starts a target in a folder of its own and waits until it answers.
func (l *lab) start(ctx context.Context, name string) (*target, error) {
	starters := starters()
	i := slices.IndexFunc(starters, func(s starter) bool { return s.name == name })
	dir, err := os.MkdirTemp(l.dir, "t")
	if err != nil {
		return nil, err
	}
	s := &site{ctx: ctx, lab: l, dir: dir, target: &target{name: name}}
	s.target.stop = func() {
		for _, stop := range slices.Backward(s.stops) {
			stop()
		}
		delete(l.running, s.target)
		os.RemoveAll(dir)
	}
	l.running[s.target] = true
	err = starters[i].start(s)
	if err == nil {
		s.target.facts, err = l.inspect(ctx, s.target)
	}
	if err != nil {
		s.target.stop()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	program := starters[i].program
	switch {
	case isOurs(name):
		program = l.sealane
	case program == "":
		program = l.engine
	}
	s.target.facts.Program = version(program, starters[i].version)
	return s.target, nil
}

// version returns the first line with a digit that the program prints. stunnel prints other lines before that one.
func version(program, argument string) string {
	text, _ := exec.Command(program, argument).CombinedOutput()
	for line := range strings.Lines(string(text)) {
		if strings.ContainsAny(line, "0123456789") {
			name, _, _ := strings.Cut(strings.TrimSpace(line), " - http")
			name, _, _ = strings.Cut(name, " sha=")
			return name
		}
	}
	return filepath.Base(program)
}

// inspect connects twice and makes sure that the targets are comparable: TLS 1.3 and an ECDSA P-256 key.
func (l *lab) inspect(ctx context.Context, t *target) (facts, error) {
	f := facts{Name: t.name}
	r := request{Addr: t.addr, CAFile: t.caFile}
	config, err := clientConfig(r)
	if err != nil {
		return f, err
	}
	if config == nil {
		return f, (&generator{}).connect(ctx, request{Addr: t.addr, Clients: 1}, nil)
	}
	config.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768, tls.X25519}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	for range 2 {
		conn, err := dial(ctx, t.addr, config)
		if err != nil {
			return f, err
		}
		defer conn.Close()
		if err := ping(conn, time.Now().Add(connectTimeout)); err != nil {
			return f, err
		}
		state := conn.(*tls.Conn).ConnectionState()
		key, ok := state.PeerCertificates[0].PublicKey.(*ecdsa.PublicKey)
		if state.Version != tls.VersionTLS13 || !ok || key.Curve != elliptic.P256() {
			return f, fmt.Errorf("it speaks %s with a key of type %T, want TLS 1.3 and ECDSA P-256",
				tls.VersionName(state.Version), state.PeerCertificates[0].PublicKey)
		}
		f.TLS, f.Cipher, f.Key = tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), "ECDSA P-256"
		f.Group, f.Resumes = state.CurveID.String(), state.DidResume
	}
	return f, nil
}

// site collects the parts of one target while it is started.
type site struct {
	ctx    context.Context
	lab    *lab
	dir    string
	target *target
	stops  []func() // in the order in which the parts were started
}

// spawn starts a program whose output goes to a file. The signal is the one that ends it.
func (s *site) spawn(end syscall.Signal, program string, args ...string) (pid int, err error) {
	logName := filepath.Join(s.dir, filepath.Base(program)+".log")
	log, err := os.Create(logName)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	// The program has a process group of its own, so that only we get the terminal's Ctrl-C.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: end}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	s.stops = append(s.stops, func() {
		cmd.Process.Signal(end)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
	})
	return cmd.Process.Pid, nil
}

// answers waits until something accepts connections.
func (s *site) answers(network, addr string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn, err := net.Dial(network, addr)
		if err == nil {
			return conn.Close()
		}
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w\n%s", err, s.logs())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// logs returns the last lines that the programs have printed.
func (s *site) logs() string {
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		fmt.Fprintf(&b, "%s:\n%s\n", filepath.Base(file), text[max(0, len(text)-1000):])
	}
	return b.String()
}

// freePort returns a port of 127.0.0.1 that nobody listens on.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}

// spawnEngine starts an engine that writes nothing to disk.
func (s *site) spawnEngine(program string, args ...string) (int, error) {
	return s.spawn(syscall.SIGTERM, program, append([]string{
		"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--tcp-backlog", "4096",
		"--client-output-buffer-limit", "normal 0 0 0", // as Sealane configures its engines
		"--protected-mode", "no", // protected mode would refuse clients from our many loopback addresses
		"--maxclients", strconv.Itoa(s.lab.files - spareFiles),
	}, args...)...)
}

// spareFiles are the open files of a process that belong to no client.
const spareFiles = 100

func startPlaintext(s *site) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	pid, err := s.spawnEngine(s.lab.engine, "--port", port)
	if err != nil {
		return err
	}
	s.target.addr, s.target.proxy = "127.0.0.1:"+port, []int{pid}
	return s.answers("tcp", s.target.addr)
}

func startNative(s *site) error { return s.startTLS(s.lab.engine) }
func startValkey(s *site) error { return s.startTLS("valkey-server") }

// startTLS starts an engine that itself encrypts.
func (s *site) startTLS(program string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	pid, err := s.spawnEngine(program, "--port", "0", "--tls-port", port, "--tls-auth-clients", "no",
		"--tls-protocols", "TLSv1.3",
		"--tls-cert-file", s.lab.cert, "--tls-key-file", s.lab.certKey, "--tls-ca-cert-file", s.lab.ca)
	if err != nil {
		return err
	}
	s.target.addr, s.target.proxy, s.target.caFile = "127.0.0.1:"+port, []int{pid}, s.lab.ca
	return s.answers("tcp", s.target.addr)
}

// behind starts an engine on a Unix socket.
func (s *site) behind() (socket string, err error) {
	socket = filepath.Join(s.dir, "redis.sock")
	pid, err := s.spawnEngine(s.lab.engine, "--port", "0", "--unixsocket", socket)
	if err != nil {
		return "", err
	}
	s.target.engine = []int{pid}
	return socket, s.answers("unix", socket)
}

// proxied starts an engine and in front of it a program that reads the configuration which configure returns.
func (s *site) proxied(program string, workers int, configure func(port, socket string) string, args ...string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	socket, err := s.behind()
	if err != nil {
		return err
	}
	file := filepath.Join(s.dir, "proxy.conf")
	if err := os.WriteFile(file, []byte(configure(port, socket)), 0o600); err != nil {
		return err
	}
	pid, err := s.spawn(syscall.SIGTERM, program, append(args, file)...)
	if err != nil {
		return err
	}
	s.target.addr, s.target.caFile = "127.0.0.1:"+port, s.lab.ca
	if err := s.answers("tcp", s.target.addr); err != nil {
		return err
	}
	// The port is open before the workers run.
	for deadline := time.Now().Add(5 * time.Second); len(children(pid)) < workers; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has %d workers, want %d\n%s", program, len(children(pid)), workers, s.logs())
		}
	}
	s.target.proxy = append(children(pid), pid)
	return nil
}

func startHAProxy(s *site) error {
	configure := func(port, socket string) string {
		return fmt.Sprintf(`global
	nbthread %d
	maxconn %d
defaults
	mode tcp
	timeout connect 5s
	timeout client 1h
	timeout server 1h
listen redis
	bind 127.0.0.1:%s ssl crt %s ssl-min-ver TLSv1.3 backlog 4096
	server redis unix@%s
`, runtime.NumCPU(), s.lab.files/2-spareFiles, port, s.lab.both, socket)
	}
	return s.proxied("haproxy", 0, configure, "-db", "-f")
}

func startStunnel(s *site) error {
	configure := func(port, socket string) string {
		return fmt.Sprintf(`foreground = yes
pid =
syslog = no
debug = err
[redis]
accept = 127.0.0.1:%s
connect = %s
cert = %s
sslVersion = TLSv1.3
`, port, socket, s.lab.both)
	}
	return s.proxied("stunnel", 0, configure)
}

func startNginx(s *site) error {
	configure := func(port, socket string) string {
		head := ""
		// Debian ships the stream module as a separate file.
		if module := "/usr/lib/nginx/modules/ngx_stream_module.so"; fileExists(module) {
			head = "load_module " + module + ";\n"
		}
		if os.Getuid() == 0 {
			head += "user root;\n" // otherwise the workers can't open the engine's socket
		}
		return head + fmt.Sprintf(`daemon off;
pid %s/nginx.pid;
error_log stderr error;
worker_processes %d;
events { worker_connections %d; }
stream {
	server {
		listen 127.0.0.1:%s ssl backlog=4096;
		ssl_certificate %s;
		ssl_certificate_key %s;
		ssl_protocols TLSv1.3;
		ssl_session_cache shared:bench:10m;
		proxy_pass unix:%s;
		proxy_timeout 1h;
	}
}
`, s.dir, runtime.NumCPU(), s.lab.files-spareFiles, port, s.lab.cert, s.lab.certKey, socket)
	}
	return s.proxied("nginx", runtime.NumCPU(), configure, "-e", "stderr", "-c")
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// startSealane starts a gateway as the server does, and sends it its snapshot over the admin socket.
func (s *site) startSealane(dataPath string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	socket, err := s.behind()
	if err != nil {
		return err
	}
	pid, err := s.spawn(syscall.SIGTERM, s.lab.sealane, "gateway", "--dir", s.dir)
	if err != nil {
		return err
	}
	s.target.addr, s.target.proxy, s.target.caFile = "127.0.0.1:"+port, []int{pid}, s.lab.ca
	admin := filepath.Join(s.dir, "gateway.sock")
	if err := s.answers("unix", admin); err != nil {
		return err
	}
	if err := s.apply(admin, dataPath, socket); err != nil {
		return err
	}
	return s.answers("tcp", s.target.addr)
}

// apply sends a snapshot to the gateway. The fields are those of gateway.Snapshot; the others have their defaults.
func (s *site) apply(admin, dataPath, engine string) error {
	cert, err := os.ReadFile(s.lab.cert)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(s.lab.certKey)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{
		"generation": 1, "listeners": []any{map[string]any{"address": s.target.addr, "tls": true}}, "engine": engine,
		"certificate": cert, "private_key": key, "connect": "use TLS", "data_path": dataPath,
	})
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", admin)
		},
	}}
	r, err := http.NewRequestWithContext(s.ctx, http.MethodPut, "http://gateway/snapshot", bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("hand over a snapshot: %w\n%s", err, s.logs())
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000))
		return fmt.Errorf("hand over a snapshot: %s: %s", answer.Status, text)
	}
	return nil
}

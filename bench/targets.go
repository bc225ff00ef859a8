package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// target is a server, up and answering.
type target struct {
	name   string
	addr   string
	caFile string         // empty: no TLS
	roots  *x509.CertPool // what caFile holds
	proxy  []int          // pids of what encrypts
	engine []int          // pids of what is behind it; empty if the engine encrypts by itself
	stop   func()
}

func (t *target) pids() []int { return slices.Concat(t.proxy, t.engine) }

// starter knows how to start a target.
type starter struct {
	name    string
	program string // what must be installed besides the engine; empty: nothing
	start   func(*site) error
}

func starterName(s starter) string { return s.name }

var starters = []starter{
	{"plaintext", "", startPlaintext},
	{"native", "", startNative},
	{"haproxy", "haproxy", startHAProxy},
	{"stunnel", "stunnel", startStunnel},
	{"nginx", "nginx", startNginx},
	{"sealane", "", startSealane},
}

// lab holds what the targets share, and all of them that are up.
type lab struct {
	dir           string
	cert, certKey string // PEM files
	both          string // the two in one file
	engine        string
	sealane       string
	running       map[*target]bool
}

func newLab(sealane string) (*lab, error) {
	if _, err := os.Stat(sealane); err != nil {
		return nil, fmt.Errorf("find the binary to measure: %w (run make build, or say -sealane FILE)", err)
	}
	if _, err := exec.LookPath("redis-benchmark"); err != nil {
		return nil, fmt.Errorf("%w: install redis-tools", err)
	}
	engine, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("%w: install redis-server", err)
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	l := &lab{
		dir: dir, engine: engine, sealane: sealane, running: map[*target]bool{},
		cert: filepath.Join(dir, "cert.pem"), certKey: filepath.Join(dir, "key.pem"), both: filepath.Join(dir, "both.pem"),
	}
	if err := l.makeCertificate(); err != nil {
		l.close()
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return l, nil
}

// close stops every target and removes its files.
func (l *lab) close() {
	for t := range l.running {
		t.stop()
	}
	os.RemoveAll(l.dir)
}

func (l *lab) makeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return errors.Join(
		os.WriteFile(l.cert, certPEM, 0o600),
		os.WriteFile(l.certKey, keyPEM, 0o600),
		os.WriteFile(l.both, slices.Concat(certPEM, keyPEM), 0o600),
	)
}

// startAll starts the targets that are chosen and installed.
func (l *lab) startAll(ctx context.Context, chosen []string, progress io.Writer) ([]*target, error) {
	var targets []*target
	for _, s := range starters {
		if !slices.Contains(chosen, s.name) {
			continue
		}
		if _, err := exec.LookPath(s.program); s.program != "" && err != nil {
			fmt.Fprintf(progress, "%s isn't installed: left out\n", s.program)
			continue
		}
		t, err := l.start(ctx, s.name)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	if len(targets) == 0 {
		return nil, errors.New("none of the targets is installed")
	}
	return targets, nil
}

// start starts a target in a folder of its own and waits until it answers.
func (l *lab) start(ctx context.Context, name string) (*target, error) {
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
	if err := starters[i].start(s); err != nil {
		s.target.stop()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if s.target.caFile != "" {
		text, err := os.ReadFile(s.target.caFile)
		if err != nil {
			return nil, err
		}
		s.target.roots = x509.NewCertPool()
		s.target.roots.AppendCertsFromPEM(text)
	}
	return s.target, nil
}

// site is where one target is built.
type site struct {
	ctx    context.Context
	lab    *lab
	dir    string
	target *target
	stops  []func() // in the order of the starts
}

// spawn starts a program, to be ended by the signal; its output goes to a file.
func (s *site) spawn(end syscall.Signal, program string, args ...string) (pid int, err error) {
	logName := filepath.Join(s.dir, filepath.Base(program)+".log")
	log, err := os.Create(logName)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	// A process group of its own, so that the terminal's Ctrl-C comes to us alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: end}
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

// logs returns what the programs have printed, the last lines of it.
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

// spawnEngine starts a redis-server that keeps nothing on disk.
func (s *site) spawnEngine(args ...string) (int, error) {
	return s.spawn(syscall.SIGTERM, s.lab.engine, append([]string{
		"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--maxclients", "8000", "--tcp-backlog", "4096",
	}, args...)...)
}

func startPlaintext(s *site) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	pid, err := s.spawnEngine("--port", port)
	if err != nil {
		return err
	}
	s.target.addr, s.target.proxy = "127.0.0.1:"+port, []int{pid}
	return s.answers("tcp", s.target.addr)
}

func startNative(s *site) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	pid, err := s.spawnEngine("--port", "0", "--tls-port", port, "--tls-auth-clients", "no",
		"--tls-cert-file", s.lab.cert, "--tls-key-file", s.lab.certKey, "--tls-ca-cert-file", s.lab.cert)
	if err != nil {
		return err
	}
	s.target.addr, s.target.proxy, s.target.caFile = "127.0.0.1:"+port, []int{pid}, s.lab.cert
	return s.answers("tcp", s.target.addr)
}

// proxied starts an engine on a Unix socket and in front of it a program that reads the configuration which configure
// returns.
func (s *site) proxied(program string, configure func(port, socket string) string, args func(file string) []string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	socket := filepath.Join(s.dir, "redis.sock")
	pid, err := s.spawnEngine("--port", "0", "--unixsocket", socket)
	if err != nil {
		return err
	}
	s.target.engine = []int{pid}
	if err := s.answers("unix", socket); err != nil {
		return err
	}
	file := filepath.Join(s.dir, "proxy.conf")
	if err := os.WriteFile(file, []byte(configure(port, socket)), 0o600); err != nil {
		return err
	}
	if pid, err = s.spawn(syscall.SIGTERM, program, args(file)...); err != nil {
		return err
	}
	s.target.addr, s.target.caFile = "127.0.0.1:"+port, s.lab.cert
	if err := s.answers("tcp", s.target.addr); err != nil {
		return err
	}
	s.target.proxy = append(children(pid), pid)
	return nil
}

func startHAProxy(s *site) error {
	configure := func(port, socket string) string {
		return fmt.Sprintf(`global
	nbthread 2
	maxconn 4000
defaults
	mode tcp
	timeout connect 5s
	timeout client 1h
	timeout server 1h
listen redis
	bind 127.0.0.1:%s ssl crt %s backlog 4096
	server redis unix@%s
`, port, s.lab.both, socket)
	}
	return s.proxied("haproxy", configure, func(file string) []string { return []string{"-db", "-f", file} })
}

func startStunnel(s *site) error {
	configure := func(port, socket string) string {
		return fmt.Sprintf("foreground = yes\npid =\nsyslog = no\n[redis]\naccept = 127.0.0.1:%s\nconnect = %s\ncert = %s\n",
			port, socket, s.lab.both)
	}
	return s.proxied("stunnel", configure, func(file string) []string { return []string{file} })
}

func startNginx(s *site) error {
	configure := func(port, socket string) string {
		head := ""
		// Debian has it as a module.
		if module := "/usr/lib/nginx/modules/ngx_stream_module.so"; fileExists(module) {
			head = "load_module " + module + ";\n"
		}
		if os.Getuid() == 0 {
			head += "user root;\n" // or the workers can't open the engine's socket
		}
		return head + fmt.Sprintf(`daemon off;
pid %s/nginx.pid;
error_log stderr error;
worker_processes 2;
events { worker_connections 8000; }
stream {
	server {
		listen 127.0.0.1:%s ssl backlog=4096;
		ssl_certificate %s;
		ssl_certificate_key %s;
		ssl_protocols TLSv1.2 TLSv1.3;
		ssl_session_cache shared:bench:10m;
		proxy_pass unix:%s;
		proxy_timeout 1h;
	}
}
`, s.dir, port, s.lab.cert, s.lab.certKey, socket)
	}
	return s.proxied("nginx", configure, func(file string) []string { return []string{"-e", "stderr", "-c", file} })
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func startSealane(s *site) error {
	state := filepath.Join(s.dir, "state")
	config := filepath.Join(s.dir, "sealane.yaml")
	text := fmt.Sprintf("http: 127.0.0.1:0\ngrpc: 127.0.0.1:0\nops: 127.0.0.1:0\nengines: [%s]\naddresses:\n  pool: 127.78.%d.0/24\n",
		s.lab.engine, len(s.lab.running)+os.Getpid()%200)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	// Gateway and engine are sessions of their own: SIGINT makes the server stop them. What is left then is killed.
	s.stops = append(s.stops, func() {
		for pid := range commandLines(state) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	if _, err := s.spawn(syscall.SIGINT, s.lab.sealane, "serve", "--state", state, "--config", config); err != nil {
		return err
	}
	cli := func(args ...string) ([]byte, error) {
		return output(exec.CommandContext(s.ctx, s.lab.sealane, append([]string{"--state", state}, args...)...))
	}
	deadline := time.Now().Add(20 * time.Second)
	for _, err := cli("instances", "list"); err != nil; _, err = cli("instances", "list") {
		if s.ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("%w\n%s", err, s.logs())
		}
		time.Sleep(50 * time.Millisecond)
	}
	created, err := cli("instances", "create", "bench", "--format", "json")
	if err != nil {
		return err
	}
	var instance struct {
		Host string
		Port int
	}
	if err := json.Unmarshal(created, &instance); err != nil {
		return fmt.Errorf("read the instance: %w", err)
	}
	s.target.addr = net.JoinHostPort(instance.Host, strconv.Itoa(instance.Port))
	bundle, err := cli("ca", "bundle", "bench")
	if err != nil {
		return err
	}
	s.target.caFile = filepath.Join(s.dir, "ca.pem")
	if err := os.WriteFile(s.target.caFile, bundle, 0o600); err != nil {
		return err
	}
	return s.findSealane(state)
}

// findSealane tells the gateway and the engine from the server, which does nothing per operation.
func (s *site) findSealane(state string) error {
	for pid, args := range commandLines(state) {
		switch {
		// An engine writes all of its title into the first argument.
		case strings.Contains(filepath.Base(strings.Fields(args[0])[0]), "-server"):
			s.target.engine = append(s.target.engine, pid)
		case slices.Contains(args, "gateway"):
			s.target.proxy = append(s.target.proxy, pid)
		}
	}
	if len(s.target.proxy) != 1 || len(s.target.engine) != 1 {
		return fmt.Errorf("found %d gateways and %d engines by their command line, want one each: %v",
			len(s.target.proxy), len(s.target.engine), commandLines(state))
	}
	return nil
}

// output runs a command; its error tells what the command printed.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// Package e2e_test tests what Sealane promises with real engines, real clients and real processes. Each file is one story. The
// tests run the built binary and import none of its packages.
//
// SEALANE_BIN names the binary to test. Without it, one is built with the race detector.
package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// sealane is the binary under test.
var sealane string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		// Scenarios wait more than they compute, so more of them run at a time than the machine has cores.
		flag.Set("test.parallel", "6")
	}
	for _, name := range os.Environ() {
		// The tests must not touch the user's own server or its master key.
		if name, _, _ := strings.Cut(name, "="); strings.HasPrefix(name, "SEALANE_") && name != "SEALANE_BIN" {
			os.Unsetenv(name)
		}
	}
	sealane = os.Getenv("SEALANE_BIN")
	if _, err := exec.LookPath("redis-server"); err != nil {
		fmt.Fprintln(os.Stderr, "redis-server is not installed, and nothing can be shown without it: apt-get install redis-server")
		return 1
	}
	if sealane != "" {
		return m.Run()
	}
	tmp, err := os.MkdirTemp("", "slebin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(tmp)
	sealane = filepath.Join(tmp, "sealane")
	build := exec.Command("go", "build", "-race", "-o", sealane, "./cmd/sealane")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n%s", build, err, out)
		return 1
	}
	return m.Run()
}

// serverOptions says how a server differs from the default one.
type serverOptions struct {
	state  string   // the state folder; "": one in the temporary folder
	config string   // lines of YAML that replace the default http, grpc, ops and addresses
	env    []string // added to the environment
	files  int      // how many files a process may have open; 0: as many as this one
}

// server is one `sealane serve` with a folder of its own. Its fields change with a restart.
type server struct {
	t     *testing.T
	base  string // the temporary folder; every file of this server is in it, and every process names it
	state string
	home  string
	conf  string
	env   []string
	files int

	pid   int
	api   string // base URL of REST
	grpc  string
	ops   string
	token string

	cmd    *exec.Cmd
	stdout *output
	stderr *output // the output of all starts
	ended  chan struct{}
}

// pools numbers the servers of this process; each has a network of its own.
var pools atomic.Int64

func newPool() string {
	const first, last = 84, 249 // the second byte of the address; 127.83 belongs to real servers
	n := (int64(os.Getpid())*64 + pools.Add(1)) % ((last - first + 1) * 256)
	return fmt.Sprintf("127.%d.%d.0/24", first+n/256, n%256)
}

// newServer makes the folders and the configuration of a server and doesn't start it.
func newServer(t *testing.T, o serverOptions) *server {
	t.Helper()
	// t.TempDir would be too long for the path of a Unix socket.
	base, err := os.MkdirTemp("", "sle")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{
		t: t, base: base, state: o.state, home: filepath.Join(base, "home"), conf: filepath.Join(base, "sealane.yaml"),
		env: o.env, files: o.files, stderr: newOutput(),
	}
	if s.state == "" {
		s.state = filepath.Join(base, "state")
	}
	t.Cleanup(s.cleanup)
	if err := os.MkdirAll(s.home, 0o700); err != nil {
		t.Fatal(err)
	}
	if o.config == "" {
		o.config = localConfig()
	}
	s.write(s.conf, o.config)
	return s
}

// localConfig is a configuration that listens on free ports of loopback.
func localConfig() string {
	return "http: 127.0.0.1:0\ngrpc: 127.0.0.1:0\nops: 127.0.0.1:0\naddresses: {pool: " + newPool() + "}\n"
}

// startServer starts a server. At the end of the test the server is stopped, and nothing of it may be left.
func startServer(t *testing.T, o serverOptions) *server {
	t.Helper()
	s := newServer(t, o)
	s.start()
	return s
}

// start starts `sealane serve` and returns when it prints "ready".
func (s *server) start() {
	s.t.Helper()
	s.launch()
	if !within(20*time.Second, func() bool { return strings.Contains(s.stdout.String(), "ready\n") || isClosed(s.ended) }) ||
		!strings.Contains(s.stdout.String(), "ready\n") {
		s.t.Fatalf("sealane serve did not get ready; it wrote:\n%s%s", s.stdout, s.stderr)
	}
	var info struct {
		PID             int
		HTTP, GRPC, Ops string
	}
	raw, err := os.ReadFile(filepath.Join(s.state, "server.json"))
	if err == nil {
		err = json.Unmarshal(raw, &info)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(s.state, "admin.token"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.pid, s.api, s.grpc, s.ops, s.token = info.PID, info.HTTP, info.GRPC, info.Ops, strings.TrimSpace(string(token))
	if s.pid != s.cmd.Process.Pid {
		s.t.Fatalf("server.json: pid %d, want %d", s.pid, s.cmd.Process.Pid)
	}
}

// launch starts `sealane serve` and doesn't wait for anything.
func (s *server) launch() {
	s.t.Helper()
	s.stdout = newOutput()
	serve := []string{sealane, "serve", "--config", s.conf, "--state", s.state}
	if s.files > 0 {
		serve = append([]string{"prlimit", fmt.Sprintf("--nofile=%d:%d", s.files, s.files)}, serve...)
		need(s.t, serve[0])
	}
	s.cmd = exec.Command(serve[0], serve[1:]...)
	s.cmd.Env = s.environment()
	s.cmd.Stdout, s.cmd.Stderr = s.stdout, s.stderr
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	s.ended = ended
	cmd := s.cmd
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
}

// holdEngines makes engines that do not start until release is called, so that a test can look at a create in progress. It must be
// called before the server is started.
func (s *server) holdEngines() (release func()) {
	s.t.Helper()
	engine, err := exec.LookPath("redis-server")
	if err != nil {
		s.t.Fatal(err)
	}
	hold, script := filepath.Join(s.base, "hold"), filepath.Join(s.base, "redis-server")
	s.write(hold, "")
	s.write(script, fmt.Sprintf("#!/bin/sh\n[ \"$1\" = --version ] || while [ -e %s ]; do sleep 0.02; done\nexec %s \"$@\"\n", hold, engine))
	if err := os.Chmod(script, 0o700); err != nil {
		s.t.Fatal(err)
	}
	conf, err := os.ReadFile(s.conf)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(s.conf, string(conf)+"engines: ["+script+"]\n")
	return func() { os.Remove(hold) }
}

// environment is this process's environment with another HOME, where gcloud and the CLI put their caches.
func (s *server) environment() []string {
	env := append(os.Environ(), "HOME="+s.home, "XDG_CACHE_HOME="+filepath.Join(s.home, ".cache"),
		// Without this, a program with the race detector waits for a second at its end.
		"GORACE=atexit_sleep_ms=0")
	return append(env, s.env...)
}

// signal sends a signal to `sealane serve` and waits for its end.
func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
	s.waitEnd()
}

func (s *server) waitEnd() {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(30 * time.Second):
		s.t.Fatalf("sealane serve did not end; it wrote:\n%s", s.stderr)
	}
}

// alive says whether `sealane serve` runs.
func (s *server) alive() bool { return s.cmd != nil && !isClosed(s.ended) }

// cleanup stops everything, and fails the test if anything is left.
func (s *server) cleanup() {
	stop := s.command("stop")
	out, err := stop.CombinedOutput()
	if err != nil && !bytes.Contains(out, []byte("no server runs")) {
		s.t.Errorf("sealane stop: %v\n%s", err, out)
	}
	if s.alive() {
		select {
		case <-s.ended:
		case <-time.After(10 * time.Second):
			s.t.Error("sealane serve runs on after `sealane stop`")
		}
	}
	// A process that is ending may still be visible for a moment.
	left := func() []proc { return append(processes(s.base), processes(s.state+"/")...) }
	if !within(5*time.Second, func() bool { return len(left()) == 0 }) {
		for _, p := range left() {
			s.t.Errorf("left behind: process %d: %s", p.pid, p.line)
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	if isBroken(s.stderr.String()) {
		s.t.Error("the server's log has a panic or a data race")
	}
	for _, name := range []string{"gateway.out", "gateway.log"} {
		logs, _ := filepath.Glob(filepath.Join(s.state, "nodes", "*", name))
		for _, l := range logs {
			text, _ := os.ReadFile(l)
			if isBroken(string(text)) {
				s.t.Errorf("%s has a panic or a data race:\n%s", l, text)
			} else if s.t.Failed() && len(text) > 0 {
				s.t.Logf("%s:\n%s", l, text)
			}
		}
	}
	if s.t.Failed() {
		s.t.Logf("the server's log:\n%s", s.stderr)
	}
	if err := os.RemoveAll(s.base); err != nil {
		s.t.Error(err)
	}
}

// isBroken says whether the output shows a panic or a data race of a Go program.
func isBroken(log string) bool {
	return strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") || strings.Contains(log, "fatal error:")
}

// command is a command of the CLI with this server's state folder.
func (s *server) command(args ...string) *exec.Cmd {
	c := exec.Command(sealane, append([]string{"--state", s.state}, args...)...)
	c.Env = s.environment()
	c.Dir = s.base
	return c
}

// cli runs a command of the CLI that must succeed, and returns its output.
func (s *server) cli(args ...string) string {
	s.t.Helper()
	return s.mustRun(s.command(args...))
}

// cliFails runs a command of the CLI that must fail with the exit code, and returns its stderr.
func (s *server) cliFails(code int, args ...string) string {
	s.t.Helper()
	out := run(s.command(args...))
	if out.code != code || !strings.HasPrefix(lastLines(out.stderr, "sealane: error:"), "sealane: error: ") {
		s.t.Fatalf("sealane %s: exit code %d, want %d and a line \"sealane: error: …\"\n%s%s", strings.Join(args, " "), out.code, code, out.stdout, out.stderr)
	}
	return out.stderr
}

// lastLines is the part of text that begins with the line with prefix.
func lastLines(text, prefix string) string {
	if i := strings.LastIndex(text, prefix); i >= 0 {
		return text[i:]
	}
	return text
}

// mustRun runs a command that must succeed and returns its stdout.
func (s *server) mustRun(c *exec.Cmd) string {
	s.t.Helper()
	out := run(c)
	if out.code != 0 {
		s.t.Fatalf("%s: exit code %d\n%s%s", c, out.code, out.stdout, out.stderr)
	}
	return out.stdout
}

// program makes a command for a client program in the server's temporary folder. It skips the test if the program is missing.
func (s *server) program(name string, args ...string) *exec.Cmd {
	s.t.Helper()
	need(s.t, name)
	c := exec.Command(name, args...)
	c.Env, c.Dir = s.environment(), s.base
	return c
}

// installs says how to get the programs that the tests use.
var installs = map[string]string{
	"redis-cli":       "apt-get install redis-tools",
	"redis-benchmark": "apt-get install redis-tools",
	"openssl":         "apt-get install openssl",
	"curl":            "apt-get install curl",
	"ss":              "apt-get install iproute2",
	"setpriv":         "apt-get install util-linux",
	"prlimit":         "apt-get install util-linux",
	"make":            "apt-get install make",
	"node":            "apt-get install nodejs",
	"npm":             "apt-get install npm",
	"javac":           "apt-get install default-jdk-headless",
	"php":             "apt-get install php-cli",
	"gcc":             "apt-get install gcc",
	"gcloud":          "see https://cloud.google.com/sdk/docs/install",
}

// need skips the test if a program is missing. The test's name says what it would have shown.
func need(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed, so %s is not shown here; install it: %s", name, t.Name(), installs[name])
	}
}

// result is the outcome of a program.
type result struct {
	code           int // -1: it did not run, or a signal ended it
	stdout, stderr string
}

// run runs a command for at most a minute and a half.
func run(c *exec.Cmd) result {
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	c.WaitDelay = time.Second
	err := c.Start()
	if err == nil {
		timer := time.AfterFunc(90*time.Second, func() { c.Process.Kill() })
		err = c.Wait()
		timer.Stop()
	}
	r := result{0, out.String(), errs.String()}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		r.code = -1
		r.stderr += err.Error()
	}
	return r
}

// instance has the fields of the API's JSON that the tests read.
type instance struct {
	Name, DisplayName, Host, State, StatusMessage, RedisVersion, TransitEncryptionMode string

	Port          int
	MemorySizeGB  int `json:"memorySizeGb"`
	AuthEnabled   bool
	Labels        map[string]string
	ServerCACerts []struct{ SerialNumber, Cert, CreateTime, ExpireTime, SHA1Fingerprint string } `json:"serverCaCerts"`
}

func (i instance) address() string { return i.Host + ":" + strconv.Itoa(i.Port) }
func (i instance) port() string    { return strconv.Itoa(i.Port) }

// create creates an instance with the CLI and waits until it serves.
func (s *server) create(name string, flags ...string) instance {
	s.t.Helper()
	return s.parse(s.cli(append([]string{"instances", "create", name, "--format", "json"}, flags...)...))
}

func (s *server) describe(name string) instance {
	s.t.Helper()
	return s.parse(s.cli("instances", "describe", name, "--format", "json"))
}

func (s *server) parse(text string) instance {
	s.t.Helper()
	var i instance
	if err := json.Unmarshal([]byte(text), &i); err != nil {
		s.t.Fatalf("%v in %s", err, text)
	}
	return i
}

// bundle saves an instance's CA bundle and returns the file.
func (s *server) bundle(name string) string {
	s.t.Helper()
	file := filepath.Join(s.base, name+".pem")
	s.write(file, s.cli("ca", "bundle", name))
	return file
}

func (s *server) write(file, text string) {
	s.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// redisCLI runs redis-cli over verified TLS and returns its output.
func (s *server) redisCLI(i instance, ca string, args ...string) result {
	s.t.Helper()
	return run(s.program("redis-cli", append([]string{"--tls", "--cacert", ca, "-h", i.Host, "-p", i.port()}, args...)...))
}

// wantPong fails the test unless a new client is served.
func (s *server) wantPong(i instance, ca string) {
	s.t.Helper()
	if got := s.redisCLI(i, ca, "PING"); got.stdout != "PONG\n" || got.code != 0 {
		s.t.Fatalf("PING: got exit code %d, %q, %q, want PONG", got.code, got.stdout, got.stderr)
	}
}

// reply is an answer of the REST API.
type reply struct {
	code   int
	header http.Header
	body   []byte
}

// json decodes the answer.
func (r reply) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(r.body, &v); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
	return v
}

// rest sends a request to the REST API, with the administrator's token.
func (s *server) rest(method, path, body string) reply {
	s.t.Helper()
	return s.restAs("Bearer "+s.token, method, path, body)
}

var apiClient = &http.Client{Timeout: time.Minute}

func (s *server) restAs(authorization, method, path, body string) reply {
	s.t.Helper()
	req, err := http.NewRequest(method, s.api+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := apiClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, raw}
}

// metric returns the sum of a metric's samples whose labels contain all of the given texts.
func (s *server) metric(name string, labels ...string) float64 {
	s.t.Helper()
	text := s.askOps(s.ops, "/metrics")
	sum := 0.0
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name+"{")
		if !ok || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			continue
		}
		value := strings.TrimSpace(rest[strings.LastIndexByte(rest, ' ')+1:])
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		sum += n
	}
	return sum
}

// askOps asks an ops listener, with its token. It may be the server's, or that of a sidecar that uses the server's state folder.
func (s *server) askOps(ops, path string) string {
	s.t.Helper()
	token, err := os.ReadFile(filepath.Join(s.state, "ops.token"))
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+ops+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := apiClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %d %v: %s", path, resp.StatusCode, err, text)
	}
	return string(text)
}

// node finds the server's one process of a kind, "engine" or "gateway".
func (s *server) node(kind string) int {
	s.t.Helper()
	if pids := s.nodes(kind); len(pids) == 1 {
		return pids[0]
	} else {
		s.t.Fatalf("got %d processes that are an %s, want 1: %v", len(pids), kind, processes(s.base))
		return 0
	}
}

func (s *server) nodes(kind string) []int {
	var pids []int
	for _, p := range processes(s.state) {
		isGateway := strings.Contains(p.line, " gateway --dir ")
		isEngine := strings.Contains(p.line, "unixsocket:")
		if kind == "gateway" && isGateway || kind == "engine" && isEngine {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// kill9 ends a process with SIGKILL and waits until it is gone.
func (s *server) kill9(pids ...int) {
	s.t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			s.t.Fatalf("kill %d: %v", pid, err)
		}
	}
	for _, pid := range pids {
		if !within(5*time.Second, func() bool { return commandLine(pid) == "" }) {
			s.t.Fatalf("process %d survives SIGKILL", pid)
		}
	}
}

type proc struct {
	pid  int
	line string
}

// processes are the processes whose command line contains text. A zombie has no command line.
func processes(text string) []proc {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []proc
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if line := commandLine(pid); strings.Contains(line, text) {
			found = append(found, proc{pid, line})
		}
	}
	return found
}

func commandLine(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(bytes.ReplaceAll(raw, []byte{0}, []byte{' '})))
}

// output collects what a process writes. It can be read while the process runs.
type output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func newOutput() *output { return &output{} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// within polls until ok is true, or until the time is over.
func within(d time.Duration, ok func() bool) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ok()
		}
	}
	return true
}

// eventually fails the test when ok does not become true in time.
func eventually(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	if !within(d, ok) {
		t.Fatalf("not within %v: %s", d, what)
	}
}

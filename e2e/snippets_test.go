package e2e_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// snippet is a program that `sealane connect NAME --client CLIENT` prints, in a file and unchanged.
type snippet struct {
	client string
	file   string
	// prepare installs the library and builds the program, or skips the test. The function that it returns makes the command of one run.
	prepare func(t *testing.T, s *server, file string) func() *exec.Cmd
}

var snippets = []snippet{
	{"redis-cli", "example.sh", func(_ *testing.T, s *server, file string) func() *exec.Cmd {
		return func() *exec.Cmd { return s.program("sh", file) }
	}},
	{"go-redis", "example.go", buildGo},
	{"redis-py", "example.py", func(t *testing.T, s *server, file string) func() *exec.Cmd {
		return func() *exec.Cmd { return python(t, s, "redis", file) }
	}},
	{"ioredis", "ioredis.mjs", runNode},
	{"node-redis", "node-redis.mjs", runNode},
	{"phpredis", "phpredis.php", func(t *testing.T, s *server, file string) func() *exec.Cmd {
		wantPHP(t, s, "class_exists('Redis')", "php-redis")
		return func() *exec.Cmd { return s.program("php", file) }
	}},
	{"predis", "predis.php", runPredis},
	{"hiredis", "example.c", buildC},
	{"jedis", "jedis/Example.java", buildJava},
	{"lettuce", "lettuce/Example.java", buildJava},
}

// subject is the instance for which the snippets are printed.
type subject struct {
	instance
	ca   string // a file with the instance's bundle
	auth string
}

func newSubject(s *server, name string, flags ...string) subject {
	s.t.Helper()
	i := subject{instance: s.create(name, flags...)}
	if i.TransitEncryptionMode == "SERVER_AUTHENTICATION" {
		i.ca = s.bundle(name)
	}
	if slices.Contains(flags, "--enable-auth") {
		i.auth = strings.TrimSpace(s.cli("instances", "get-auth-string", name))
	}
	return i
}

// Every snippet whose client is installed runs as printed, and verifies the server. It accepts the instance's CA at any place of the
// bundle, and not another instance's CA. The certificate must be for the address.
func TestConnectSnippets(t *testing.T) {
	t.Parallel()
	s := snippetServer(t)
	first := newSubject(s, "first", "--enable-auth")
	s.create("other")
	own, foreign := s.cli("ca", "bundle", "first"), s.cli("ca", "bundle", "other")
	elsewhere := forward(t, first.instance)
	type printed struct {
		client, ca string
		run        func() *exec.Cmd
	}
	var ready []printed
	for _, c := range snippets {
		t.Run(c.client, func(t *testing.T) {
			dir := filepath.Join(s.base, c.client)
			p := printed{c.client, filepath.Join(dir, "ca.pem"), c.print(t, s, "first", dir, nil)}
			ready = append(ready, p)
			wantGreeting(t, s, first, p.run())
			s.write(p.ca, foreign)
			wantRefusal(t, s, first, p.run())
			s.write(p.ca, foreign+own)
			wantGreeting(t, s, first, p.run())

			atOther := c.print(t, s, "first", filepath.Join(dir, "other"), strings.NewReplacer(first.Host, elsewhere))
			if c.client == "redis-cli" { // redis-cli has no option for that
				wantGreeting(t, s, first, atOther())
			} else {
				wantRefusal(t, s, first, atOther())
			}
		})
	}
	s.cli("ca", "rotate", "first")
	both := s.cli("ca", "bundle", "first")
	if n := strings.Count(both, "BEGIN CERTIFICATE"); n != 2 {
		t.Fatalf("after a rotation the bundle has %d certificates, want 2", n)
	}
	for _, stage := range []string{"published", "signing"} {
		if stage == "signing" {
			s.cli("ca", "activate", "first", "--force")
		}
		for _, p := range ready {
			t.Run(p.client+" with the next CA "+stage, func(t *testing.T) {
				for _, bundle := range []string{both, own} { // with the old CA alone the cross-certificate is needed
					s.write(p.ca, bundle)
					wantGreeting(t, s, first, p.run())
				}
			})
		}
	}
	for _, p := range ready {
		s.write(p.ca, foreign)
		wantRefusal(t, s, first, p.run())
	}
}

// The snippets run for instances without TLS, without AUTH, and without both.
func TestConnectSnippetsOfOtherInstances(t *testing.T) {
	t.Parallel()
	s := snippetServer(t)
	for _, i := range []subject{
		newSubject(s, "tls"),
		newSubject(s, "plain", "--transit-encryption-mode", "disabled"),
		newSubject(s, "plain-auth", "--transit-encryption-mode", "disabled", "--enable-auth"),
	} {
		name := path.Base(i.Name)
		for _, c := range snippets {
			t.Run(name+" "+c.client, func(t *testing.T) {
				wantGreeting(t, s, i, c.print(t, s, name, filepath.Join(s.base, name, c.client), nil)())
			})
		}
	}
	if got := s.cliFails(1, "connect", "plain", "--client", "sidecar"); !strings.Contains(got, "instance plain has no TLS, which is what a sidecar is for") {
		t.Errorf("got %q, want that a sidecar is of no use", got)
	}
}

// forward makes the instance reachable at another loopback address, which it returns, with the same port.
func forward(t *testing.T, i instance) string {
	t.Helper()
	host := i.Host[:strings.LastIndex(i.Host, ".")] + ".250"
	l, err := net.Listen("tcp", net.JoinHostPort(host, i.port()))
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		conns.Wait()
	})
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", i.address())
			if err != nil {
				c.Close()
				continue
			}
			copyTo := func(to, from net.Conn) {
				io.Copy(to, from)
				to.Close()
			}
			conns.Go(func() { copyTo(up, c) })
			conns.Go(func() { copyTo(c, up) })
		}
	})
	return host
}

// The sidecar's snippet works. Only its port is replaced, since another program may use it here.
func TestConnectSnippetOfTheSidecar(t *testing.T) {
	t.Parallel()
	s := snippetServer(t)
	i := newSubject(s, "first", "--enable-auth")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	text := strings.ReplaceAll(s.cli("connect", "first", "--client", "sidecar"), "6379", port)
	sidecar, client, found := strings.Cut(text, "\n\n")
	if !found {
		t.Fatalf("no two parts in %q", text)
	}
	c := s.program("sh", "-c", "exec "+lastLines(sidecar, "sealane sidecar")+" --ops none")
	out := newOutput()
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	eventually(t, 10*time.Second, "the sidecar is ready", func() bool { return strings.Contains(out.String(), "ready") })
	wantGreeting(t, s, i, s.program("sh", "-c", client))
}

// snippetServer has `sealane` on its PATH, as the snippets' users do.
func snippetServer(t *testing.T) *server {
	s := newServer(t, serverOptions{})
	bin := filepath.Join(s.base, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Join(bin, "sealane"), fmt.Sprintf("#!/bin/sh\nexec %s --state %s \"$@\"\n", sealane, s.state))
	if err := os.Chmod(filepath.Join(bin, "sealane"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.env = append(s.env, "PATH="+bin+":"+os.Getenv("PATH"))
	s.start()
	return s
}

// print writes the snippet to a file in dir, where ca.pem is too.
func (c snippet) print(t *testing.T, s *server, instance, dir string, changed *strings.Replacer) func() *exec.Cmd {
	t.Helper()
	file := filepath.Join(dir, c.file)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	text := s.cli("connect", instance, "--client", c.client, "--ca-file", filepath.Join(dir, "ca.pem"))
	if changed != nil {
		text = changed.Replace(text)
	}
	s.write(file, text)
	return c.prepare(t, s, file)
}

// wantGreeting fails the test unless the program prints the greeting and got it from this instance.
func wantGreeting(t *testing.T, s *server, i subject, c *exec.Cmd) {
	t.Helper()
	s.forget(i)
	got := run(withPassword(c, i))
	if got.code != 0 || !strings.HasSuffix(got.stdout, "hello\n") {
		t.Fatalf("%s: got exit code %d, %q, %q, want hello", c, got.code, got.stdout, got.stderr)
	}
	if kept := s.forget(i); kept != "1\n" {
		t.Errorf("%s: the instance has %q greetings, want one", c, kept)
	}
	if i.auth != "" && strings.Contains(got.stdout+got.stderr, i.auth) {
		t.Errorf("%s prints the password", c)
	}
}

var (
	ofCertificates = regexp.MustCompile(`(?i)certificat`)
	greeted        = regexp.MustCompile(`(?m)^hello$`)
)

// wantRefusal fails the test unless the program says why it refuses the certificate, and writes no key. Some libraries never give up,
// so the program is ended then.
func wantRefusal(t *testing.T, s *server, i subject, c *exec.Cmd) {
	t.Helper()
	s.forget(i)
	out, ended := newOutput(), make(chan struct{})
	withPassword(c, i)
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(ended)
		c.Wait()
	}()
	within(20*time.Second, func() bool { return isClosed(ended) || ofCertificates.MatchString(out.String()) })
	if within(time.Second/2, func() bool { return isClosed(ended) }) {
		if c.ProcessState.ExitCode() == 0 {
			t.Errorf("%s: exit code 0, want that the certificate is refused", c)
		}
	} else {
		c.Process.Kill()
		<-ended
	}
	if text := out.String(); !ofCertificates.MatchString(text) || greeted.MatchString(text) {
		t.Errorf("%s: got %q, want that the certificate is refused", c, text)
	}
	if kept := s.forget(i); kept != "0\n" {
		t.Errorf("%s has set the greeting", c)
	}
}

// forget deletes the greeting and returns how many keys were deleted.
func (s *server) forget(i subject) string {
	s.t.Helper()
	args := []string{"-h", i.Host, "-p", i.port(), "DEL", "greeting"}
	if i.ca != "" {
		args = append([]string{"--tls", "--cacert", i.ca}, args...)
	}
	return s.mustRun(withPassword(s.program("redis-cli", args...), i))
}

func withPassword(c *exec.Cmd, i subject) *exec.Cmd {
	if i.auth != "" {
		c.Env = append(c.Env, "REDIS_AUTH="+i.auth, "REDISCLI_AUTH="+i.auth)
	}
	return c
}

// buildGo builds the program inside this module, which has the library.
func buildGo(t *testing.T, s *server, file string) func() *exec.Cmd {
	program := strings.TrimSuffix(file, ".go")
	if out := run(exec.Command("go", "build", "-ldflags=-s -w", "-o", program, file)); out.code != 0 {
		t.Fatalf("%s%s", out.stdout, out.stderr)
	}
	return func() *exec.Cmd { return s.program(program) }
}

func runNode(t *testing.T, s *server, file string) func() *exec.Cmd {
	testdata, err := filepath.Abs(filepath.Join("testdata", "clients"))
	if err != nil {
		t.Fatal(err)
	}
	c := node(t, s, testdata, file)
	// Node.js looks for modules from the file's folder upwards.
	if err := os.Symlink(filepath.Join(c.Dir, "node_modules"), filepath.Join(filepath.Dir(file), "node_modules")); err != nil {
		t.Fatal(err)
	}
	return func() *exec.Cmd { return s.program("node", file) }
}

// runPredis puts Debian's Predis where Composer would put it.
func runPredis(t *testing.T, s *server, file string) func() *exec.Cmd {
	wantPHP(t, s, "@include 'Predis/autoload.php'", "php-predis")
	vendor := filepath.Join(filepath.Dir(file), "vendor")
	if err := os.Mkdir(vendor, 0o700); err != nil {
		t.Fatal(err)
	}
	s.write(filepath.Join(vendor, "autoload.php"), "<?php require 'Predis/autoload.php';\n")
	return func() *exec.Cmd {
		c := s.program("php", file)
		c.Dir = filepath.Dir(file)
		return c
	}
}

// wantPHP skips the test if a PHP expression is false.
func wantPHP(t *testing.T, s *server, expression, from string) {
	t.Helper()
	need(t, "php")
	if out := run(s.program("php", "-r", "exit(("+expression+") ? 0 : 1);")); out.code != 0 {
		t.Skipf("%s is not installed, so %s is not shown here; install it: apt-get install %s", from, t.Name(), from)
	}
}

// buildC needs hiredis with TLS, which Debian 12 doesn't have.
func buildC(t *testing.T, s *server, file string) func() *exec.Cmd {
	need(t, "gcc")
	probe := exec.Command("gcc", "-E", "-include", "hiredis/hiredis_ssl.h", "-include", "openssl/ssl.h", "-x", "c", "/dev/null")
	if out := run(probe); out.code != 0 {
		t.Skipf("hiredis 1.0 or newer is not installed, so %s is not shown here; install it: apt-get install libhiredis-dev libssl-dev", t.Name())
	}
	program := strings.TrimSuffix(file, ".c")
	c := exec.Command("gcc", "-Wall", "-Werror", "-o", program, file, "-lhiredis_ssl", "-lhiredis", "-lssl", "-lcrypto")
	if out := run(c); out.code != 0 {
		t.Fatalf("%s%s", out.stdout, out.stderr)
	}
	return func() *exec.Cmd { return s.program(program) }
}

// buildJava needs the libraries in CLASSPATH. Debian has neither of them.
func buildJava(t *testing.T, s *server, file string) func() *exec.Cmd {
	need(t, "javac")
	dir, classes := filepath.Dir(file), os.Getenv("CLASSPATH")
	if classes == "" {
		t.Skipf("there is no CLASSPATH with the library, so %s is not shown here", t.Name())
	}
	if out := run(exec.Command("javac", "-d", dir, file)); out.code != 0 {
		library := map[string]string{"jedis": "redis.clients.jedis", "lettuce": "io.lettuce.core"}[filepath.Base(dir)]
		if strings.Contains(out.stderr, "package "+library+" does not exist") {
			t.Skipf("%s is not in CLASSPATH, so %s is not shown here", library, t.Name())
		}
		t.Fatalf("%s%s", out.stdout, out.stderr)
	}
	return func() *exec.Cmd {
		c := s.program("java", "-XX:TieredStopAtLevel=1", "Example")
		c.Env = append(c.Env, "CLASSPATH="+dir+":"+classes)
		return c
	}
}

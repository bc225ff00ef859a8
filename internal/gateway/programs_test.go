package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// program skips the test where the real program is not installed.
func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

// output runs a program to its end and returns what it printed, on both streams.
func output(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, name), args...)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("%s %q did not end", name, args)
	}
	return string(out), err
}

// redis starts a real engine on the Unix socket and returns a function that kills it.
func redis(t testing.TB, w *world) (kill func()) {
	t.Helper()
	cmd := exec.Command(program(t, "redis-server"), "--port", "0", "--unixsocket", w.engine, "--save", "", "--dir", w.dir,
		"--logfile", filepath.Join(w.dir, "redis.log"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := false
	kill = func() {
		if !done {
			done = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	eventually(t, "redis-server answers", func() bool {
		c, err := net.Dial("unix", w.engine)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		got := make([]byte, 7)
		_, err = io.WriteString(c, "PING\r\n")
		_, rerr := io.ReadFull(c, got)
		return err == nil && rerr == nil && string(got) == "+PONG\r\n"
	})
	return kill
}

// pemFile writes what a client's --cacert wants.
func (w *world) pemFile(name string, id identity) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, id.chain, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *world) hostPort() (string, string) {
	host, port, _ := net.SplitHostPort(w.addr)
	return host, port
}

func TestRedisCLI(t *testing.T) {
	t.Parallel()
	program(t, "redis-cli")
	w := newWorld(t)
	redis(t, w)
	w.run()
	w.apply(w.snapshot(1))
	host, port := w.hostPort()
	ca, other := w.pemFile("ca.pem", w.id), w.pemFile("other.pem", newIdentity(t, w.addr))

	if out, err := output(t, "redis-cli", "--tls", "--cacert", ca, "-h", host, "-p", port, "PING"); err != nil || out != "PONG\n" {
		t.Errorf("with the CA: %q, %v; want PONG", out, err)
	}
	if out, err := output(t, "redis-cli", "--tls", "--cacert", other, "-h", host, "-p", port, "PING"); err == nil || !strings.Contains(out, "certificate verify failed") {
		t.Errorf("with another CA: %q, %v; want a refusal", out, err)
	}
	eventually(t, "the log says why", func() bool { return strings.Contains(w.log.String(), "class=unknown_ca") })
	out, _ := output(t, "redis-cli", "-h", host, "-p", port, "PING")
	if want := "ERR this port wants TLS: " + connectHow; strings.TrimSpace(out) != want {
		t.Errorf("without TLS: %q; want %q", out, want)
	}
	// 20,000 commands in one pipe, as a bulk load sends them, and not one reply missing.
	bulk := exec.Command(program(t, "redis-cli"), "--tls", "--cacert", ca, "-h", host, "-p", port, "--pipe")
	bulk.Stdin = strings.NewReader(strings.Repeat("INCR n\r\n", 20000))
	if out, err := bulk.CombinedOutput(); err != nil || !strings.Contains(string(out), "errors: 0, replies: 20000") {
		t.Errorf("--pipe: %q, %v", out, err)
	}
}

func TestBigValueComesBackFromRedis(t *testing.T) {
	t.Parallel()
	size := 100 << 20
	if testing.Short() {
		size = 8 << 20
	}
	w := newWorld(t)
	redis(t, w)
	w.run()
	w.apply(w.snapshot(1))
	c := w.dial()
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	value := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	send(t, c, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$"+strconv.Itoa(len(value))+"\r\n")
	send(t, c, string(value))
	send(t, c, "\r\n")
	expect(t, c, "+OK\r\n")
	send(t, c, "GET k\r\n")
	expect(t, c, "$"+strconv.Itoa(len(value))+"\r\n")
	got := make([]byte, len(value))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, value) {
		t.Errorf("the value did not come back: %v", err)
	}
}

func TestRedisThatIsKilledAndComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kill := redis(t, w)
	w.run()
	w.apply(w.snapshot(1))
	idle, blocked := w.dial(), w.dial()
	send(t, blocked, "BLPOP q 0\r\n")
	send(t, idle, "PING\r\n")
	expect(t, idle, "+PONG\r\n")
	eventually(t, "both commands are with the engine", func() bool {
		return w.status().BytesIn == uint64(len("BLPOP q 0\r\nPING\r\n"))
	})
	kill()
	if got, err := io.ReadAll(blocked); err != nil || len(got) != 0 {
		t.Errorf("a blocked client read %q, %v; want a clean end", got, err)
	}
	// A new client waits for it, or is told to retry if it takes longer than clients should wait; nothing else.
	back := make(chan string)
	go func() {
		defer close(back)
		for answer := ""; answer != "+PONG"; {
			c, err := tls.Dial("tcp", w.addr, w.trust())
			if err != nil {
				back <- err.Error()
				return
			}
			_, _ = io.WriteString(c, "PING\r\n")
			answer, _ = bufio.NewReader(c).ReadString('\r')
			answer = strings.TrimSpace(answer)
			c.Close()
			if answer != "+PONG" && !strings.HasPrefix(answer, "-ERR the engine behind this port is not answering") {
				back <- answer
				return
			}
		}
	}()
	redis(t, w)
	for wrong := range back {
		t.Errorf("a client read %q", wrong)
	}
	send(t, idle, "PING\r\n") // which had nothing at stake
	expect(t, idle, "+PONG\r\n")
}

func TestRedisAtItsClientLimitIsHeard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	redis(t, w)
	w.run()
	w.apply(w.snapshot(1))
	first := w.dial()
	send(t, first, "CONFIG SET maxclients 1\r\n")
	expect(t, first, "+OK\r\n")
	c := w.dial()
	send(t, c, strings.Repeat("PING\r\n", 100))
	if got, err := io.ReadAll(c); err != nil || string(got) != "-ERR max number of clients reached\r\n" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestOpenSSL(t *testing.T) {
	t.Parallel()
	program(t, "openssl")
	w := serving(t)
	ca := w.pemFile("ca.pem", w.id)
	connect := func(args ...string) (string, error) {
		return output(t, "openssl", append([]string{"s_client", "-connect", w.addr, "-CAfile", ca, "-verify_return_error", "-brief"}, args...)...)
	}
	for _, tc := range []struct {
		name, want string
		ok         bool
		args       []string
	}{
		{"TLS 1.3", "Protocol version: TLSv1.3", true, nil},
		{"TLS 1.2", "Protocol version: TLSv1.2", true, []string{"-tls1_2"}},
		// SECLEVEL=0, or this openssl would refuse before we do.
		{"TLS 1.1", "protocol version", false, []string{"-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"}},
		{"TLS 1.0", "protocol version", false, []string{"-tls1", "-cipher", "DEFAULT@SECLEVEL=0"}},
		{"CBC", "handshake failure", false, []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA256"}},
		{"P-384", "Protocol version: TLSv1.3", true, []string{"-groups", "P-384"}},
	} {
		out, err := connect(tc.args...)
		if (err == nil) != tc.ok || !strings.Contains(out, tc.want) {
			t.Errorf("%s: %v, %q; want it to contain %q", tc.name, err, out, tc.want)
		}
	}
	w.apply(w.plain(2))
	if out, err := connect(); err == nil || !strings.Contains(out, "handshake failure") {
		t.Errorf("on a port without TLS: %v, %q; want the alert", err, out)
	}
}

func TestCurl(t *testing.T) {
	t.Parallel()
	program(t, "curl")
	w := serving(t)
	for _, args := range [][]string{{}, {"-X", "POST", "-d", strings.Repeat("x", 100000)}} {
		out, err := output(t, "curl", append([]string{"-sS", "--http0.9", "http://" + w.addr + "/"}, args...)...)
		if !strings.Contains(out, "this port wants TLS: "+connectHow) {
			t.Errorf("curl %.40q: %q, %v", args, out, err)
		}
	}
	out, err := output(t, "curl", "-sS", "-I", "http://"+w.addr+"/")
	if err != nil || !strings.HasPrefix(out, "HTTP/1.1 400 Bad Request\r\n") || !strings.Contains(out, "Content-Type: text/plain\r\n") {
		t.Errorf("curl -I: %q, %v", out, err)
	}
	out, err = output(t, "curl", "-sS", "-o", os.DevNull, "-w", "%{http_code}", "http://"+w.addr+"/")
	if err != nil || out != "400" {
		t.Errorf("status %q, %v", out, err)
	}
	var exit *exec.ExitError
	if out, err := output(t, "curl", "-sS", "--cacert", w.pemFile("ca.pem", w.id), "https://"+w.addr+"/"); errors.As(err, &exit) && exit.ExitCode() == 60 {
		t.Errorf("curl does not accept the certificate: %q", out)
	}
}

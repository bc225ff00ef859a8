package e2e_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What the README tells a newcomer to do works: make run, paste the line, Ctrl-C, and all of it again.
//
// This test is not parallel, because it builds bin/sealane.
func TestMakeRun(t *testing.T) {
	need(t, "make")
	s := newServer(t, serverOptions{})
	mk := func() (group int, line string, wait func() error) {
		t.Helper()
		out, errs := newOutput(), newOutput()
		// The configuration only sets ports and addresses that nobody else uses.
		c := exec.Command("make", "run", "STATE="+s.state, "RUN_FLAGS=--config "+s.conf)
		c.Dir = ".."
		c.Env = append(s.environment(), goEnvironment(t)...)
		c.Stdout, c.Stderr = out, errs
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a shell does for a command that is typed
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		var result error
		go func() {
			result = c.Wait()
			close(ended)
		}()
		t.Cleanup(func() {
			syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
			<-ended
		})
		const missing = "echo there is no line"
		if !within(2*time.Minute, func() bool {
			return isClosed(ended) || !strings.HasPrefix(pasteLine(completeLines(out.String())), missing)
		}) || isClosed(ended) {
			t.Fatalf("make run prints no line that begins with redis-cli:\n%s%s", out, errs)
		}
		return c.Process.Pid, pasteLine(out.String()), func() error {
			select {
			case <-ended:
				return result
			case <-time.After(30 * time.Second):
				t.Fatalf("make run does not end after Ctrl-C:\n%s%s", out, errs)
				return nil
			}
		}
	}
	paste := func(line string, more ...string) string {
		t.Helper()
		c := s.program("sh", "-c", strings.TrimSuffix(line, " PING")+" "+strings.Join(more, " "))
		return strings.TrimSpace(s.mustRun(c))
	}

	group, line, wait := mk()
	if !strings.HasSuffix(line, " PING") || !strings.Contains(line, "--tls --cacert ") {
		t.Fatalf("got the line %q, want one with TLS that ends with PING", line)
	}
	if got := paste(line, "PING"); got != "PONG" {
		t.Errorf("%s: got %q, want PONG", line, got)
	}
	paste(line, "SET", "greeting", "hello")
	bundle, err := os.ReadFile(filepath.Join(s.home, ".cache", "sealane", "local_local_first.pem"))
	if err != nil {
		t.Error(err)
	}
	syscall.Kill(-group, syscall.SIGINT)
	wait()
	s.wantStopped()

	group, again, wait := mk()
	if again != line {
		t.Errorf("the second time: got the line %q, want %q", again, line)
	}
	if got := paste(again, "GET", "greeting"); got != "hello" {
		t.Errorf("GET greeting: got %q, want hello", got)
	}
	if now, _ := os.ReadFile(filepath.Join(s.home, ".cache", "sealane", "local_local_first.pem")); !bytes.Equal(now, bundle) {
		t.Error("the CA is another one the second time")
	}
	syscall.Kill(-group, syscall.SIGINT)
	wait()
	s.wantStopped()
}

// goEnvironment lets a build with another HOME use the caches of modules and builds.
func goEnvironment(t *testing.T) []string {
	t.Helper()
	names := []string{"GOPATH", "GOMODCACHE", "GOCACHE"}
	out, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var env []string
	for n, value := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		env = append(env, names[n]+"="+value)
	}
	return env
}

// completeLines is text without an unfinished last line.
func completeLines(text string) string { return text[:strings.LastIndexByte(text, '\n')+1] }

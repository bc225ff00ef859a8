package enginetest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

// Running is an engine that runs as somebody else would run it, with TCP and a Unix socket.
type Running struct {
	Binary  string
	Socket  string
	Address string // of TCP, without TLS unless an argument says otherwise
	t       testing.TB
	dir     string
	args    []string
	cmd     *exec.Cmd
}

// Run starts an engine on a free port of loopback, with more arguments, and ends it with the test. PORT in an argument is the port.
func Run(t testing.TB, binary string, args ...string) *Running {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl") // short: the path of a Unix socket is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	r := &Running{Binary: binary, Socket: filepath.Join(dir, "s"), Address: address, t: t, dir: dir}
	_, port, _ := net.SplitHostPort(address)
	r.args = []string{"--unixsocket", r.Socket, "--bind", "127.0.0.1", "--dir", dir, "--logfile", filepath.Join(dir, "log"), "--appendonly", "yes"}
	if !strings.Contains(strings.Join(args, " "), "--port ") {
		r.args = append(r.args, "--port", port)
	}
	for _, a := range args {
		r.args = append(r.args, strings.ReplaceAll(a, "PORT", port))
	}
	t.Cleanup(r.Kill)
	r.Start()
	return r
}

// Start starts the engine, also again, and waits until it answers on its socket, if it is to answer at all.
func (r *Running) Start() {
	r.t.Helper()
	r.cmd = exec.Command(r.Binary, r.args...)
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := r.answers()
		if err == nil {
			return
		}
		if time.Now().After(until) {
			log, _ := os.ReadFile(filepath.Join(r.dir, "log"))
			r.t.Fatalf("%s does not answer: %v\n%s", r.Binary, err, log)
		}
	}
}

// answers returns nil once the engine has loaded its data.
func (r *Running) answers() error {
	c, err := net.Dial("unix", r.Socket)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	reply, err := resp.NewClient(c, 1<<10).Do(ctx, "PING")
	if strings.HasPrefix(reply.Str, "LOADING") || reply.Str == "" {
		return fmt.Errorf("%q, %v", reply.Str, err)
	}
	return nil
}

// Kill ends the engine as a crash would. It may be called again.
func (r *Running) Kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

// Do asks the engine one thing over its socket. What is before a "--" are the arguments of an AUTH that comes first.
func (r *Running) Do(args ...string) resp.Value {
	r.t.Helper()
	c, err := net.Dial("unix", r.Socket)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	client := resp.NewClient(c, 1<<20)
	for i, a := range args {
		if a == "--" {
			if _, err := client.Do(context.Background(), append([]string{"AUTH"}, args[:i]...)...); err != nil {
				r.t.Fatalf("AUTH: %v", err)
			}
			args = args[i+1:]
			break
		}
	}
	v, err := client.Do(context.Background(), args...)
	if err != nil && !v.IsError() {
		r.t.Fatalf("%q: %v", args, err)
	}
	return v
}

// Old are the programs of engines older than those that Sealane starts, as SEALANE_TEST_OLD_ENGINES lists them, in the form of PATH.
func Old(t testing.TB) []string {
	t.Helper()
	list := filepath.SplitList(os.Getenv("SEALANE_TEST_OLD_ENGINES"))
	if len(list) == 0 {
		t.Log("NOT TESTED on a Redis older than 6.0: SEALANE_TEST_OLD_ENGINES names none (redis-server programs, in the form of PATH)")
	}
	return list
}

// EachBackend runs a test on every engine that a backend may be: All, and Old.
func EachBackend(t *testing.T, test func(t *testing.T, binary string)) {
	t.Helper()
	for _, b := range All(t) {
		t.Run(Name(b), func(t *testing.T) { test(t, b.Path) })
	}
	for _, path := range Old(t) {
		t.Run("old/"+filepath.Base(filepath.Dir(filepath.Dir(path))), func(t *testing.T) { test(t, path) })
	}
}

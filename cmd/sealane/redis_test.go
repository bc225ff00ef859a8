package main

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// runRedis runs the Redis servers of a script that sealane did not start: "redis start NAME [ARGUMENT…]" starts one, also again, on
// loopback and a Unix socket, whose addresses are then in $NAME and $NAME_SOCKET; "redis kill NAME" ends it as a crash would.
func runRedis(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: redis start|kill NAME [ARGUMENT…]")
	}
	running := ts.Value(redisKey{}).(map[string]*exec.Cmd)
	kill := func(name string) {
		if cmd := running[name]; cmd != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			running[name] = nil
		}
	}
	name := args[1]
	if args[0] == "kill" {
		kill(name)
		return
	}
	if ts.Getenv(name) == "" {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Setenv(name, ln.Addr().String())
		ln.Close()
		dir, err := os.MkdirTemp("", "sl") // short: the path of a Unix socket is
		ts.Check(err)
		ts.Setenv(name+"_SOCKET", dir+"/s")
		ts.Defer(func() {
			kill(name)
			os.RemoveAll(dir)
		})
	}
	_, port, _ := net.SplitHostPort(ts.Getenv(name))
	socket := ts.Getenv(name + "_SOCKET")
	cmd := exec.Command("redis-server", append([]string{"--port", port, "--bind", "127.0.0.1", "--unixsocket", socket, "--save", "", "--dir", strings.TrimSuffix(socket, "/s")}, args[2:]...)...)
	ts.Check(cmd.Start())
	running[name] = cmd
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(until) {
			ts.Fatalf("redis-server does not answer: %v", err)
		}
	}
}

type redisKey struct{}

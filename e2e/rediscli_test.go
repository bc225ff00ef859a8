package e2e_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The programs that come with the engine work: redis-cli and redis-benchmark.
func TestRedisCLI(t *testing.T) {
	t.Parallel()
	onEveryDataPath(t, func(t *testing.T, path string) {
		s := startServer(t, serverOptions{})
		i := s.createOn(path, "first")
		ca := s.bundle("first")
		cli := func(stdin string, args ...string) string {
			t.Helper()
			c := s.program("redis-cli", append([]string{"--tls", "--cacert", ca, "-h", i.Host, "-p", i.port()}, args...)...)
			c.Stdin = strings.NewReader(stdin)
			return s.mustRun(c)
		}
		if got, want := cli("SET a 1\nMULTI\nINCR a\nEXEC\nSELECT 1\nGET a\nHELLO 3\nCLIENT GETNAME\n"), "OK\nOK\nQUEUED\n2\nOK\n\n"; !strings.HasPrefix(got, want) {
			t.Errorf("commands from stdin: got %q, want %q first", got, want)
		}
		var commands strings.Builder
		for n := range 10000 {
			commands.Write(command("SET", fmt.Sprint("key:", n), fmt.Sprint("value-", n)))
		}
		if got := cli(commands.String(), "--pipe"); !strings.Contains(got, "errors: 0, replies: 10000") {
			t.Errorf("--pipe: got %q, want 10000 replies and no errors", got)
		}
		if got := strings.Count(cli("", "--scan", "--pattern", "key:*"), "\n"); got != 10000 {
			t.Errorf("--scan: got %d keys, want 10000", got)
		}
		if got := cli("", "--bigkeys"); !strings.Contains(got, "10001 keys in the keyspace") {
			t.Errorf("--bigkeys: got %q, want 10001 keys", got)
		}
		if got := cli("", "-r", "3", "-i", "0", "PING"); got != "PONG\nPONG\nPONG\n" {
			t.Errorf("-r 3 PING: got %q", got)
		}
		listening := func(args ...string) (*output, *exec.Cmd) {
			t.Helper()
			c, out := s.program("redis-cli", append([]string{"--tls", "--cacert", ca, "-h", i.Host, "-p", i.port()}, args...)...), newOutput()
			c.Stdout = out
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				c.Process.Kill()
				c.Wait()
			})
			return out, c
		}
		out, _ := listening("SUBSCRIBE", "news")
		eventually(t, 10*time.Second, "redis-cli is subscribed", func() bool { return cli("", "PUBSUB", "NUMSUB", "news") == "news\n1\n" })
		if got := cli("", "PUBLISH", "news", "hello"); got != "1\n" {
			t.Errorf("PUBLISH: got %q, want one receiver", got)
		}
		eventually(t, 10*time.Second, "redis-cli prints the message", func() bool { return strings.Contains(out.String(), "hello") })
		out, _ = listening("MONITOR")
		eventually(t, 10*time.Second, "MONITOR has begun", func() bool { return strings.Contains(out.String(), "OK") })
		cli("", "SET", "watched", "by-monitor")
		eventually(t, 10*time.Second, "MONITOR shows a command", func() bool { return strings.Contains(out.String(), `"SET" "watched" "by-monitor"`) })
	})
}

func TestRedisBenchmark(t *testing.T) {
	t.Parallel()
	onEveryDataPath(t, func(t *testing.T, path string) {
		s := startServer(t, serverOptions{})
		i := s.createOn(path, "first")
		ca := s.bundle("first")
		for _, flags := range [][]string{{"-c", "20", "-n", "2000"}, {"-c", "20", "-n", "8000", "-P", "16"}} {
			c := s.program("redis-benchmark", append([]string{"--tls", "--cacert", ca, "-h", i.Host, "-p", i.port(), "--csv",
				"-t", "ping,set,get,incr,lpush,lpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset"}, flags...)...)
			if got := s.mustRun(c); strings.Count(got, "\n") < 15 || strings.Contains(got, "rror") {
				t.Errorf("%v: got %s, want a line per test and no error", flags, got)
			}
		}
	})
}

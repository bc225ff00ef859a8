package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

const oomPrevention = "OOM command not allowed under OOM prevention."

// While an instance's system memory is used up, clients of either path read on and free what they have, and nothing is written, also while the
// server is down. maxmemory doesn't prevent it here: the script was begun when there was memory.
func TestOOMPreventionWithoutTheServer(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first", "--redis-config", "maxmemory-policy=noeviction")
	ca := s.bundle("first")
	s.redis(first, ca, "SET", "k", "v")
	eventually(t, 10*time.Second, "describe shows 1.50 GiB of system memory", func() bool {
		return strings.Contains(s.cli("instances", "describe", "first"), " % of 1.50 GiB used")
	})
	s.kill9(s.pid)
	s.waitEnd()
	if got := s.redisCLI(first, ca, "EVAL", "for i=1,3 do redis.call('SETRANGE', 'big' .. i, 536870000, 'x') end return 'filled'", "0"); got.stdout != "filled\n" {
		t.Fatalf("fill: %+v", got)
	}
	eventually(t, 10*time.Second, "writes are refused", func() bool {
		return strings.Contains(s.redisCLI(first, ca, "SET", "k", "changed").stdout, oomPrevention)
	})
	for _, c := range [][]string{
		{"v", "GET", "k"}, {oomPrevention, "LPUSH", "list", "a"}, {"v", "EVAL", "return redis.call('GET', KEYS[1])", "1", "k"},
		{oomPrevention, "EVAL", "return redis.call('SET', KEYS[1], 'changed')", "1", "k"}, {"1", "EXPIRE", "k", "1000"},
	} {
		if got := s.redisCLI(first, ca, c[1:]...).stdout; !strings.Contains(got, c[0]) {
			t.Errorf("%v: got %q, want %q", c[1:], got, c[0])
		}
	}
	s.start()
	s.cli("instances", "update", "first", "--data-path", "multiplexed")
	eventually(t, 30*time.Second, "users are told", func() bool {
		return strings.Contains(s.cli("instances", "describe", "first"), "the system memory is used up (")
	})
	if got := s.redisCLI(first, ca, "SET", "k", "changed").stdout; !strings.Contains(got, oomPrevention) {
		t.Errorf("SET on the multiplexed path: %q", got)
	}
	if ratio := s.metric("sealane_gateway_system_memory_usage_ratio"); ratio < 1 || s.metric("sealane_gateway_oom_refused_total") < 4 ||
		s.metric("sealane_gateway_system_memory_overload_seconds_total") <= 0 {
		t.Errorf("metrics: ratio %v, %v refused, for %v s", ratio, s.metric("sealane_gateway_oom_refused_total"), s.metric("sealane_gateway_system_memory_overload_seconds_total"))
	}
	if state := s.describe("first").State; state != "READY" {
		t.Errorf("the instance is %s; want READY: it serves", state)
	}
	// More memory, live, is one way out; deleting keys is the other.
	s.cli("instances", "update", "first", "--size", "2")
	eventually(t, 10*time.Second, "writes are taken", func() bool { return s.redisCLI(first, ca, "SET", "k", "changed").stdout == "OK\n" })
	s.redis(first, ca, "DEL", "big1", "big2", "big3")
	eventually(t, 30*time.Second, "all is well", func() bool { return !strings.Contains(s.cli("instances", "describe", "first"), "problem:") })
}

// With encryption on, connections take system memory, as the managed service says. Plain ones take less.
func TestEncryptionTakesSystemMemory(t *testing.T) {
	s := startServer(t, serverOptions{})
	var limit syscall.Rlimit
	clients := 1000
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil && int(limit.Cur) < 4*clients {
		clients = int(limit.Cur) / 8
		t.Logf("only %d clients: there are %d open files", clients, limit.Cur)
	}
	encrypted := s.create("encrypted")
	plain := s.create("plain", "--transit-encryption-mode", "disabled")
	pem, err := os.ReadFile(s.bundle("encrypted"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	used := func(name string) float64 {
		// The gateway looks once a second.
		time.Sleep(2500 * time.Millisecond)
		return s.metric("sealane_gateway_system_memory_usage_ratio", `instance="`+name+`"`)
	}
	grown := map[string]float64{}
	for name, dial := range map[string]func() (net.Conn, error){
		"encrypted": func() (net.Conn, error) {
			return tls.Dial("tcp", encrypted.address(), &tls.Config{RootCAs: pool})
		},
		"plain": func() (net.Conn, error) { return net.Dial("tcp", plain.address()) },
	} {
		before := used(name)
		var open []net.Conn
		for range clients {
			c, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
			if _, err := fmt.Fprint(c, "SET k v\r\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
		}
		after := used(name)
		grown[name] = after - before
		t.Logf("%s: %d clients take the ratio from %.4f to %.4f: %.1f KiB of system memory each", name, clients, before, after, (after-before)*1.5*(1<<20)/float64(clients))
		for _, c := range open {
			c.Close()
		}
	}
	if grown["encrypted"] < 1.2*grown["plain"] {
		t.Errorf("the ratio grows by %.4f with encryption and by %.4f without", grown["encrypted"], grown["plain"])
	}
}

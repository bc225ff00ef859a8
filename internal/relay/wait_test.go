package relay_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/resp"
)

// stop keeps the engine from doing anything, until goOn.
func (e *replicated) stop() {
	e.t.Helper()
	must(e.cmd.Process.Signal(syscall.SIGSTOP))
	until(e.t, "the engine has stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", e.cmd.Process.Pid))
		_, state, _ := strings.Cut(string(stat), ") ")
		return err == nil && strings.HasPrefix(state, "T")
	})
}

func (e *replicated) goOn() { must(e.cmd.Process.Signal(syscall.SIGCONT)) }

// paths are those to an engine: without anything between, and through loops, of a gateway, of a sidecar, and of both.
type paths map[string]func() *talker

func waysTo(t testing.TB, e *replicated) paths {
	through := func(b relay.Backend) *fleet {
		b.Engine, b.ConnectTimeout, b.UnavailableReply = e.socket, patience, func() string { return "-ERR away\r\n" }
		f := &fleet{t: t, loops: loops(t)}
		f.loops.SetBackend(&b)
		return f
	}
	gateway := func(multiplexed bool) *fleet {
		return through(relay.Backend{Connect: relay.UnixSocket(e.socket), Multiplexed: multiplexed})
	}
	sidecar := func(address string) *fleet {
		return through(relay.Backend{Dial: dialPlain("tcp", address), Multiplexed: true})
	}
	return paths{
		"direct": func() *talker {
			c, err := net.Dial("unix", e.socket)
			must(err)
			t.Cleanup(func() { c.Close() })
			return newTalker(t, c)
		},
		"transparent":                          gateway(false).client,
		"multiplexed":                          gateway(true).client,
		"sidecar":                              sidecar("127.0.0.1:" + e.port).client,
		"sidecar before a transparent gateway": sidecar(gateway(false).listen()).client,
		"sidecar before a multiplexed gateway": sidecar(gateway(true).listen()).client,
	}
}

// chorus are clients, by the way that they take, that say the same at the same time.
type chorus map[string]*talker

func (w paths) chorus(names ...string) chorus {
	all := chorus{}
	for name, dial := range w {
		if len(names) == 0 || slices.Contains(names, name) {
			all[name] = dial()
		}
	}
	return all
}

// want sends the requests in one piece, and compares the replies.
func (c chorus) want(requests []string, replies ...string) {
	for _, k := range c {
		k.t.Helper()
		var all []byte
		for _, r := range requests {
			all = append(all, resp.AppendCommand(nil, strings.Fields(r)...)...)
		}
		_, err := k.c.Write(all)
		must(err)
	}
	for name, k := range c {
		for i, want := range replies {
			if got := k.next(); got != want && !(strings.HasSuffix(want, "*") && strings.HasPrefix(got, strings.TrimSuffix(want, "*"))) {
				k.t.Errorf("%s: reply %d to %q: %.300q; want %q", name, i+1, requests, got, want)
			}
		}
	}
}

func (c chorus) one(request, reply string) {
	for _, k := range c {
		k.t.Helper()
	}
	c.want([]string{request}, reply)
}

// listen serves who connects to the address that it returns.
func (f *fleet) listen() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	f.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fd, err := netloop.Descriptor(c.(syscall.Conn))
			c.Close()
			if err == nil {
				f.loops.Serve(netloop.Conn{FD: fd}, relay.Config{Remote: netip.MustParseAddrPort(c.RemoteAddr().String())})
			}
		}
	}()
	return ln.Addr().String()
}

// A replica that does not answer has confirmed nothing of what the client wrote, over whichever connection that went.
func TestWaitCountsWritesOfEveryConnection(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		primary, replica := startReplicated(t, b), startReplicated(t, b)
		replica.follow(primary)
		all := waysTo(t, primary)
		waitCounts(all.chorus(), replica)
		if primary.admin.do("ACL SETUSER u on >p ~* +@all -spublish") != "OK" {
			return // before Redis 7.0 there is no such command, nor is it needed
		}
		waitRefused(all.chorus("direct", "transparent"), all.chorus("multiplexed", "sidecar"), replica)
	})
}

func waitCounts(c chorus, replica *replicated) {
	// Before the replica stops, no client has said WAIT.
	c.one("SET a 0", "OK")
	replica.stop()
	defer replica.goOn()
	c.one("SET a 1", "OK")
	c.one("WAIT 1 50", "0")
	c.one("WAIT 1 1", "0")
	replica.goOn()
	c.one("WAIT 1 20000", "1")

	// Now there are connections that have waited.
	replica.stop()
	c.want([]string{"SET a 3", "WAIT 1 50", "GET a", "SET a 4", "GET a", "WAIT 1 50", "PING"}, "OK", "0", "*", "OK", "*", "0", "PONG")
	c.want([]string{"CLIENT REPLY SKIP", "SET a 5", "WAIT 1 50", "CLIENT REPLY OFF", "SET a 6", "WAIT 1 1", "CLIENT REPLY ON", "WAIT 1 50"},
		"0", "OK", "0")
	replica.goOn()
	c.one("WAIT 1 20000", "1")
	// In a transaction, WAIT doesn't wait.
	c.want([]string{"MULTI", "SET a 8", "WAIT 1 0", "EXEC"}, "OK", "QUEUED", "QUEUED", "[OK *")
	c.one("WAIT 1 20000", "1")

	c.one("SELECT 1", "OK")
	replica.stop()
	c.one("SET b 1", "OK")
	c.one("SELECT 0", "OK")
	c.one("WAIT 1 50", "0")
	replica.goOn()
	c.one("WAIT 1 20000", "1")
	c.one("SET a 9", "OK")
	c.one("WAIT x 1", "ERR value is not an integer or out of range")
	c.one("WAIT 1", "ERR wrong number of arguments for 'wait' command")
}

// waitRefused shows what clients read that share connections, where the engine refuses what WAIT needs: once, and what they write from
// then on counts.
func waitRefused(alone, sharing chorus, replica *replicated) {
	for _, c := range []chorus{alone, sharing} {
		c.one("AUTH u p", "OK")
		c.one("SET a 1", "OK")
	}
	sharing.one("WAIT 1 20000", "ERR WAIT can't count what this client wrote over a shared connection (NOPERM *")
	sharing.one("SET a 2", "OK")
	for _, c := range []chorus{alone, sharing} {
		c.one("WAIT 1 20000", "1")
	}
	replica.stop()
	defer replica.goOn()
	for _, c := range []chorus{alone, sharing} {
		c.one("SET a 3", "OK")
		c.one("WAIT 1 50", "0")
	}
}

// What a file has to have is counted as what replicas have; also where no replica was ever there, so that the engine has no offset of
// a replication stream.
func TestWaitAOFCountsWritesOfEveryConnection(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		e := startReplicated(t, b, "--appendonly", "yes", "--appendfsync", "no")
		if strings.HasPrefix(e.admin.do("WAITAOF 0 0 1"), "ERR unknown command") {
			t.Skip("the engine has no WAITAOF")
		}
		c := waysTo(t, e).chorus()
		for range 2 {
			c.one("SET a 1", "OK")
			c.one("WAITAOF 1 0 30", "[0 0]")
		}
		e.admin.want("CONFIG SET appendfsync always", "OK")
		c.one("SET a 3", "OK")
		c.one("WAITAOF 1 0 20000", "[1 0]")
		c.one("WAITAOF 1 x 1", "ERR value is out of range, must be positive")
	})
}

// A node of a cluster sends nothing to its replicas for a message to a shard channel.
func TestWaitAtANodeOfACluster(t *testing.T) {
	t.Parallel()
	all := enginetest.All(t)
	e := startReplicated(t, all[len(all)-1], "--cluster-enabled", "yes")
	e.admin.want("CLUSTER ADDSLOTSRANGE 0 16383", "OK")
	until(t, "the cluster is up", func() bool { return e.admin.do("SET a 0") == "OK" })
	for _, proto := range []string{"2", "3"} {
		c := waysTo(t, e).chorus("sidecar")
		c.one("HELLO "+proto, "[*")
		c.one("SET a 1", "OK")
		c.one("WAIT 0 1", "ERR WAIT can't count what this client wrote over a shared connection (the server is a node of a cluster)*")
		c.one("SET a 2", "OK")
		c.one("WAIT 0 1", "0")
	}
}

// Nobody sees what WAIT needs, neither at the primary nor at a replica.
func TestMonitorDoesNotShowWhatWaitNeeds(t *testing.T) {
	t.Parallel()
	b := enginetest.All(t)[0]
	primary, replica := startReplicated(t, b), startReplicated(t, b)
	replica.follow(primary)
	primary.admin.want("CONFIG RESETSTAT", "OK")
	dial := waysTo(t, primary)["multiplexed"]
	k, listener := dial(), dial()
	listener.want("PSUBSCRIBE *", "[psubscribe * 1]")
	monitors := map[string]*talker{"primary": dial(), "replica": waysTo(t, replica)["multiplexed"]()}
	for _, m := range monitors {
		m.want("MONITOR", "OK")
	}
	k.want("SET a 1", "OK")
	k.want("WAIT 1 20000", "1")
	k.want("PUBLISH end x", "1")
	if got := listener.next(); got != "[pmessage * end x]" {
		t.Errorf("a client that listens to everything hears %q", got)
	}
	for name, m := range monitors {
		var seen []string
		for line := ""; !strings.Contains(line, `"end"`); {
			if line = m.next(); line == "closed" || line == "nothing in time" {
				t.Fatalf("monitor of the %s: %s", name, line)
			}
			seen = append(seen, line)
		}
		if all := strings.Join(seen, "\n"); strings.Contains(strings.ToLower(all), "spublish") || strings.Contains(all, `"0" "0"`) {
			t.Errorf("the monitor of the %s shows\n%s", name, all)
		}
	}
}

// After an engine is gone with what was written last, the one that takes its place can't confirm that. A change for which all was held
// until the new engine had everything loses nothing.
func TestWaitAfterWritesWereLost(t *testing.T) {
	const told = "ERR the engine, or the connection to it, was lost after this client wrote*"
	for _, multiplexed := range []bool{false, true} {
		b := enginetest.All(t)[0]
		t.Run(fmt.Sprintf("failover, multiplexed %t", multiplexed), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, multiplexed, b, b)
			k, confirmed, reader := f.client(), f.client(), f.client()
			confirmed.want("SET b 1", "OK")
			confirmed.want("WAIT 1 20000", "1")
			reader.want("GET a", "nil")
			f.other.admin.want("REPLICAOF NO ONE", "OK")
			k.want("SET a 1", "OK")
			third := startReplicated(t, b)
			third.follow(f.other)
			f.use(f.other)
			f.serves.kill()
			k.want("GET a", "nil")
			k.want("WAIT x 1", "ERR value is not an integer or out of range")
			k.want("WAIT 1 0", told)
			k.want("SET a 2", "OK")
			k.want("WAIT 1 20000", "1")
			confirmed.want("WAIT 1 20000", "1")
			reader.want("WAIT 1 20000", "1")
		})
		t.Run(fmt.Sprintf("failover while WAIT waits, multiplexed %t", multiplexed), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, multiplexed, b, b)
			f.backend.Standby = true
			f.use(f.serves)
			k := f.client()
			k.want("SET a 1", "OK")
			k.want("WAIT 1 20000", "1")
			f.other.stop()
			defer f.other.goOn()
			k.want("SET a 2", "OK")
			must(k.send("WAIT", "1", "0"))
			until(t, "WAIT waits", func() bool { return f.serves.info("clients", "blocked_clients") == "1" })
			f.serves.kill()
			f.other.goOn()
			f.other.admin.want("REPLICAOF NO ONE", "OK")
			f.use(f.other)
			if got := k.next(); !strings.HasPrefix(got, "TRYAGAIN") {
				t.Errorf("the reply to WAIT is %q", got)
			}
			k.want("WAIT 1 0", told) // as a library tries again
			k.want("SET a 3", "OK")
			k.want("WAIT 1 50", "0")
		})
		t.Run(fmt.Sprintf("planned, multiplexed %t", multiplexed), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, multiplexed, b, b)
			k := f.client()
			third := startReplicated(t, b)
			third.follow(f.other)
			third.stop()
			defer third.goOn()
			k.want("SET a 1", "OK")
			f.change()
			k.want("WAIT 1 50", "0")
			third.goOn()
			k.want("WAIT 1 20000", "1")
		})
		t.Run(fmt.Sprintf("restart, multiplexed %t", multiplexed), func(t *testing.T) {
			t.Parallel()
			e := newRealEngine(t, multiplexed)
			k := e.client()
			k.want("SET a 1", "OK")
			e.kill()
			e.start()
			k.want("GET a", "nil")
			k.want("WAIT 0 1", told)
			k.want("WAIT 0 1", "0")
		})
	}
	t.Run("sidecar", func(t *testing.T) {
		t.Parallel()
		e := startReplicated(t, enginetest.All(t)[0])
		k := waysTo(t, e)["sidecar"]()
		k.want("SET a 1", "OK")
		e.admin.do("CLIENT KILL TYPE normal SKIPME yes")
		k.want("GET a", "1")
		k.want("WAIT 0 1", told)
		k.want("WAIT 0 1", "0")
	})
}

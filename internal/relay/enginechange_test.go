package relay_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
)

// replicated is an engine that can replicate another one, over TCP on loopback.
type replicated struct {
	t      testing.TB
	socket string
	port   string
	cmd    *exec.Cmd
	admin  *talker
}

func startReplicated(t testing.TB, b engine.Binary, more ...string) *replicated {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e := &replicated{t: t, socket: filepath.Join(dir, "s"), port: freePort(t)}
	e.cmd = exec.Command(b.Path, append([]string{"--port", e.port, "--bind", "127.0.0.1", "--unixsocket", e.socket, "--save", "", "--dir", dir,
		"--logfile", filepath.Join(dir, "log"), "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--maxclients", "4000",
		"--repl-diskless-load", "swapdb"}, more...)...)
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.kill)
	for until := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", e.socket)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			e.admin = newTalker(t, c)
			return e
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

func (e *replicated) kill() {
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}

func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// info returns a field of INFO.
func (e *replicated) info(section, field string) string {
	e.t.Helper()
	for line := range strings.Lines(e.admin.do("INFO " + section)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			return value
		}
	}
	return ""
}

// follow makes the engine a replica of another one, and returns when they have the same data.
func (e *replicated) follow(primary *replicated) {
	e.t.Helper()
	e.admin.want("REPLICAOF 127.0.0.1 "+primary.port, "OK*")
	until(e.t, "replication is up", func() bool { return e.info("replication", "master_link_status") == "up" })
}

// caughtUp returns when the engine has all that its primary has.
func (e *replicated) caughtUp(primary *replicated) {
	e.t.Helper()
	until(e.t, "the replica has everything", func() bool {
		offset := primary.info("replication", "master_repl_offset")
		return e.info("replication", "slave_repl_offset") == offset
	})
}

func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// fleet is loops in front of one of two engines, the other of which is its replica.
type fleet struct {
	t       testing.TB
	loops   *relay.Loops
	backend relay.Backend
	serves  *replicated
	other   *replicated
	began   time.Time // of the last hold
	quiet   time.Time // when nothing was in flight
	ready   time.Time // when the new engine could take over
}

func newFleet(t testing.TB, multiplexed bool, first, second engine.Binary) *fleet {
	t.Helper()
	f := &fleet{t: t, loops: loops(t), serves: startReplicated(t, first), other: startReplicated(t, second)}
	f.backend = relay.Backend{ConnectTimeout: 2 * time.Second, UnavailableReply: func() string { return "-ERR away\r\n" }, Multiplexed: multiplexed}
	f.use(f.serves)
	f.other.follow(f.serves)
	return f
}

func (f *fleet) use(e *replicated) {
	f.backend.Engine, f.backend.Connect = e.socket, relay.UnixSocket(e.socket)
	b := f.backend
	f.loops.SetBackend(&b)
}

func (f *fleet) client() *talker {
	f.t.Helper()
	c, far := tcpPair(f.t)
	_ = c.SetDeadline(time.Now().Add(patience))
	s := f.loops.Serve(netloop.Conn{FD: descriptor(f.t, far)}, relay.Config{
		Remote: netip.MustParseAddrPort(c.LocalAddr().String()), Local: netip.MustParseAddrPort(c.RemoteAddr().String()),
	})
	k := newTalker(f.t, c)
	k.session = s
	return k
}

// change moves everybody to the other engine, as the control plane does.
func (f *fleet) change() {
	f.t.Helper()
	f.began = time.Now()
	if err := f.loops.Hold(f.t.Context(), 20*time.Second, 10*time.Second); err != nil {
		f.t.Fatal(err)
	}
	f.quiet = time.Now()
	f.other.caughtUp(f.serves)
	f.other.admin.want("REPLICAOF NO ONE", "OK")
	f.ready = time.Now()
	f.serves, f.other = f.other, f.serves
	f.use(f.serves)
}

// eachChange runs a test for each path and protocol, from the first engine to each that there is; to those beyond the first with one
// protocol for each path.
func eachChange(t *testing.T, test func(t *testing.T, f *fleet, proto string)) {
	all := enginetest.All(t)
	for i, b := range all {
		for _, multiplexed := range []bool{false, true} {
			for _, proto := range []string{"2", "3"} {
				if i > 0 && multiplexed != (proto == "3") {
					continue
				}
				t.Run(fmt.Sprintf("to %s, multiplexed %t, RESP%s", enginetest.Name(b), multiplexed, proto), func(t *testing.T) {
					t.Parallel()
					test(t, newFleet(t, multiplexed, all[0], b), proto)
				})
			}
		}
	}
}

// hello is a client that speaks a protocol.
func (f *fleet) hello(proto string) *talker {
	f.t.Helper()
	k := f.client()
	if proto == "3" {
		k.want("HELLO 3", "[*")
	}
	return k
}

// What a client has set, asked and begun is there after the change, whatever it is.
func TestStateOfClientsMovesToAnotherEngine(t *testing.T) {
	eachChange(t, func(t *testing.T, f *fleet, proto string) {
		f.serves.admin.want("ACL SETUSER ann on >pw ~* &* +@all", "OK")
		f.other.admin.want("ACL SETUSER ann on >pw ~* &* +@all", "OK") // ACLs are not replicated
		var after []func()
		for _, state := range movingStates {
			k := f.hello(proto)
			check := state.before(f, k, proto)
			after = append(after, func() {
				k.t = named{f.t, state.name}
				check()
			})
		}
		f.change()
		f.other.kill()
		for _, check := range after {
			check()
		}
		if held := f.loops.HoldState(); !held.Since.IsZero() {
			t.Errorf("the hold is still on: %+v", held)
		}
	})
}

// named says about which state of a client a failure is.
type named struct {
	testing.TB
	state string
}

func (n named) Errorf(format string, args ...any) {
	n.Helper()
	n.TB.Errorf(n.state+": "+format, args...)
}

var movingStates = []struct {
	name   string
	before func(f *fleet, k *talker, proto string) (after func())
}{
	{"nothing but a value", func(f *fleet, k *talker, _ string) func() {
		k.want("SET plain 1", "OK")
		return func() { k.want("INCR plain", "2") }
	}},
	{"user and database", func(f *fleet, k *talker, _ string) func() {
		k.want("AUTH ann pw", "OK")
		k.want("SELECT 3", "OK")
		k.want("SET where three", "OK")
		return func() {
			k.want("ACL WHOAMI", "ann")
			k.want("GET where", "three")
		}
	}},
	{"protocol and id", func(f *fleet, k *talker, proto string) func() {
		id := k.id()
		return func() {
			if k.id() != id {
				k.t.Errorf("its id has changed")
			}
			want := map[string]string{"2": "[f 1]", "3": "[f 1]"}[proto]
			k.do("HSET hash f 1")
			k.want("HGETALL hash", want)
		}
	}},
	{"name and library", func(f *fleet, k *talker, _ string) func() {
		k.want("CLIENT SETNAME moved", "OK")
		k.do("CLIENT SETINFO LIB-NAME lib")
		k.want("MULTI", "OK") // so that it has a connection of its own now
		k.want("EXEC", "[]")
		return func() {
			k.want("CLIENT GETNAME", "moved")
			if list := k.do("CLIENT LIST"); strings.Count(list, "name=moved") != 1 {
				k.t.Errorf("CLIENT LIST: %s", list)
			}
			if f.backend.Multiplexed {
				return
			}
			if list := f.serves.admin.do("CLIENT LIST"); strings.Count(list, "name=moved") != 1 {
				k.t.Errorf("the engine does not know its name: %s", list)
			}
		}
	}},
	{"CLIENT NO-EVICT and NO-TOUCH", func(f *fleet, k *talker, _ string) func() {
		evict, touch := k.do("CLIENT NO-EVICT ON"), k.do("CLIENT NO-TOUCH ON")
		return func() {
			k.want("PING", "PONG")
			list := f.serves.admin.do("CLIENT LIST")
			if evict == "OK" && !strings.Contains(flags(list), "e") {
				k.t.Errorf("nobody has NO-EVICT: %s", list)
			}
			if touch == "OK" && !strings.Contains(flags(list), "T") {
				k.t.Errorf("nobody has NO-TOUCH: %s", list)
			}
		}
	}},
	{"channels, patterns and shard channels", func(f *fleet, k *talker, proto string) func() {
		k.want("SUBSCRIBE news", "[subscribe news 1]")
		k.want("SUBSCRIBE gone", "[subscribe gone 2]")
		k.want("PSUBSCRIBE n*s", "[psubscribe n*s 3]")
		k.want("UNSUBSCRIBE gone", "[unsubscribe gone 2]")
		k.want("SSUBSCRIBE shard", "[ssubscribe shard 1]")
		return func() {
			p := f.client()
			p.want("PUBLISH news x", "2")
			p.want("PUBLISH gone y", "0")
			p.want("SPUBLISH shard z", "1")
			got := map[string]bool{k.next(): true, k.next(): true}
			if !got["[message news x]"] || !got["[pmessage n*s news x]"] {
				k.t.Errorf("got %v", got)
			}
			if got := k.next(); got != "[smessage shard z]" {
				k.t.Errorf("got %s", got)
			}
			k.want("UNSUBSCRIBE news", "[unsubscribe news 1]")
			k.want("PUNSUBSCRIBE", "[punsubscribe n*s 0]")
			k.want("SUNSUBSCRIBE", "[sunsubscribe shard 0]")
			k.want("SET k v", "OK")
		}
	}},
	{"CLIENT TRACKING", func(f *fleet, k *talker, proto string) func() {
		if proto == "2" {
			k.want("CLIENT TRACKING ON", "OK")
			return func() { k.want("CLIENT TRACKINGINFO", "[flags [on] redirect 0 prefixes []]") }
		}
		k.want("CLIENT TRACKING ON BCAST PREFIX tracked: NOLOOP", "OK")
		return func() {
			if got := k.next(); got != "[invalidate nil]" {
				k.t.Errorf("its cache is not declared stale: %s", got)
			}
			f.client().want("SET tracked:1 x", "OK")
			if got := k.next(); got != "[invalidate [tracked:1]]" {
				k.t.Errorf("got %s", got)
			}
			k.want("CLIENT TRACKINGINFO", "[flags [on bcast noloop] redirect 0 prefixes [tracked:]]")
		}
	}},
	{"CLIENT TRACKING with CLIENT CACHING", func(f *fleet, k *talker, proto string) func() {
		if proto == "2" {
			return func() {}
		}
		k.want("CLIENT TRACKING ON OPTIN", "OK")
		k.want("CLIENT CACHING YES", "OK")
		return func() {
			if got := k.next(); got != "[invalidate nil]" {
				k.t.Errorf("its cache is not declared stale: %s", got)
			}
			k.want("GET opted-in", "nil")
			f.client().want("SET opted-in x", "OK")
			if got := k.next(); got != "[invalidate [opted-in]]" {
				k.t.Errorf("got %s", got)
			}
		}
	}},
	{"CLIENT TRACKING REDIRECT", func(f *fleet, k *talker, proto string) func() {
		listener := f.hello(proto)
		id := listener.id()
		want, all := "[invalidate [seen]]", "[invalidate nil]"
		if proto == "2" {
			listener.want("SUBSCRIBE __redis__:invalidate", "[subscribe __redis__:invalidate 1]")
			want, all = "[message __redis__:invalidate [seen]]", "[message __redis__:invalidate nil]"
		}
		k.want("CLIENT TRACKING ON REDIRECT "+id, "OK")
		return func() {
			if got := listener.next(); got != all {
				k.t.Errorf("the cache is not declared stale: %s", got)
			}
			k.want("GET seen", "nil")
			k.want("CLIENT GETREDIR", id)
			f.client().want("SET seen x", "OK")
			if got := listener.next(); got != want {
				k.t.Errorf("got %s", got)
			}
		}
	}},
	{"MONITOR", func(f *fleet, k *talker, _ string) func() {
		k.want("MONITOR", "OK")
		return func() {
			p := f.client()
			p.want("ECHO seen-by-monitor", "seen-by-monitor")
			for {
				line := k.next()
				if strings.Contains(line, "seen-by-monitor") {
					if !strings.Contains(line, p.c.LocalAddr().String()) {
						k.t.Errorf("MONITOR does not say who asked: %s", line)
					}
					return
				}
				if line == "closed" || line == "nothing in time" {
					k.t.Errorf("MONITOR says %s", line)
					return
				}
			}
		}
	}},
	{"WATCH", func(f *fleet, k *talker, _ string) func() {
		k.want("WATCH w", "OK")
		return func() {
			k.want("MULTI", "OK")
			k.want("INCR watched-incr", "QUEUED")
			k.want("EXEC", "nil")
			k.want("EXEC", "ERR EXEC without MULTI")
			k.want("EXISTS watched-incr", "0")
			k.want("MULTI", "OK") // the next one is not concerned
			k.want("INCR watched-incr", "QUEUED")
			k.want("EXEC", "[1]")
		}
	}},
	{"WATCH, and EXEC without MULTI", func(f *fleet, k *talker, _ string) func() {
		k.want("WATCH w", "OK")
		return func() {
			k.want("EXEC", "ERR EXEC without MULTI")
			k.want("MULTI", "OK")
			k.want("NOSUCH", "ERR unknown command*")
			k.want("EXEC", "EXECABORT*")
		}
	}},
	{"WATCH, then UNWATCH", func(f *fleet, k *talker, _ string) func() {
		k.want("WATCH w", "OK")
		return func() {
			k.want("UNWATCH", "OK")
			k.want("MULTI", "OK")
			k.want("INCR unwatched", "QUEUED")
			k.want("EXEC", "[1]")
		}
	}},
	{"an open MULTI", func(f *fleet, k *talker, _ string) func() {
		k.want("MULTI", "OK")
		k.want("INCR aborted", "QUEUED")
		return func() {
			k.want("INCR aborted", "QUEUED")
			k.want("EXEC", "EXECABORT*")
			k.want("EXISTS aborted", "0")
			k.want("MULTI", "OK")
			k.want("INCR aborted", "QUEUED")
			k.want("EXEC", "[1]")
		}
	}},
	{"an open MULTI that is discarded", func(f *fleet, k *talker, _ string) func() {
		k.want("MULTI", "OK")
		return func() {
			k.want("DISCARD", "OK")
			k.want("DISCARD", "ERR DISCARD without MULTI")
		}
	}},
	{"BLPOP", func(f *fleet, k *talker, _ string) func() {
		must(k.send("BLPOP", "queue", "0"))
		return func() {
			p := f.client()
			p.want("LPUSH queue a", "1")
			if got := k.next(); got != "[queue a]" {
				k.t.Errorf("BLPOP: %s", got)
			}
			p.want("LLEN queue", "0")
			k.want("PING", "PONG")
		}
	}},
	{"BLPOP with requests behind it", func(f *fleet, k *talker, _ string) func() {
		must(k.send("INCR", "before"), k.send("BLPOP", "queue2", "0"), k.send("INCR", "behind"), k.send("INCR", "behind"))
		if got := k.next(); got != "1" {
			k.t.Errorf("INCR before it: %s", got)
		}
		return func() {
			p := f.client()
			p.want("LPUSH queue2 a", "1")
			for _, want := range []string{"[queue2 a]", "1", "2"} {
				if got := k.next(); got != want {
					k.t.Errorf("got %s, want %s", got, want)
				}
			}
			k.want("INCR before", "2")
		}
	}},
	{"a BLPOP that was answered, and others' requests since", func(f *fleet, k *talker, _ string) func() {
		f.client().want("LPUSH answered a b c", "3")
		k.want("BLPOP answered 0", "[answered c]")
		k.want("SET answered-since 1", "OK")
		k.want("SET answered-since 1", "OK")
		must(k.send("INCR", "answered-since"), k.send("INCR", "answered-since"))
		return func() {
			if got := k.next() + k.next(); got != "23" {
				k.t.Errorf("got %s", got)
			}
			k.want("LLEN answered", "2")
			k.want("GET answered-since", "3")
		}
	}},
	{"a BLPOP that ends in time", func(f *fleet, k *talker, _ string) func() {
		began := time.Now()
		must(k.send("BLPOP", "never", "2"))
		return func() {
			if got := k.next(); got != "nil" {
				k.t.Errorf("BLPOP: %s", got)
			}
			if took := time.Since(began); took < 1900*time.Millisecond || took > patience/2 {
				k.t.Errorf("BLPOP of 2 s took %v", took)
			}
		}
	}},
	{"XREAD BLOCK and XREADGROUP BLOCK", func(f *fleet, k *talker, proto string) func() {
		k.want("XGROUP CREATE log g $ MKSTREAM", "OK")
		must(k.send("XREAD", "BLOCK", "0", "STREAMS", "log", "$"))
		g := f.hello(proto)
		must(g.send("XREADGROUP", "GROUP", "g", "block", "COUNT", "1", "BLOCK", "20000", "STREAMS", "log", ">"))
		return func() {
			p := f.client()
			p.want("XADD log 1-1 f v", "1-1")
			for _, got := range []string{k.next(), g.next()} {
				if !strings.Contains(got, "[1-1 [f v]]") {
					k.t.Errorf("got %s", got)
				}
			}
			p.want("XPENDING log g", "[1 1-1 1-1 [[block 1]]]")
		}
	}},
	{"after CLIENT REPLY ON", func(f *fleet, k *talker, _ string) func() {
		k.want("CLIENT REPLY ON", "OK")
		return func() { k.want("PING", "PONG") }
	}},
	{"CLIENT REPLY OFF", func(f *fleet, k *talker, _ string) func() {
		must(k.send("CLIENT", "REPLY", "OFF"), k.send("SELECT", "5"), k.send("INCR", "unseen"))
		return func() {
			must(k.send("INCR", "unseen"), k.send("CLIENT", "REPLY", "ON"))
			if got := k.next(); got != "OK" {
				k.t.Errorf("CLIENT REPLY ON: %s", got)
			}
			k.want("GET unseen", "2")
			k.want("SELECT 0", "OK")
			k.want("EXISTS unseen", "0")
		}
	}},
	{"CLIENT REPLY SKIP", func(f *fleet, k *talker, _ string) func() {
		must(k.send("CLIENT", "REPLY", "SKIP"))
		return func() {
			must(k.send("INCR", "skipped"))
			k.want("GET skipped", "1")
		}
	}},
	{"CLIENT REPLY SKIP and BLPOP", func(f *fleet, k *talker, _ string) func() {
		must(k.send("CLIENT", "REPLY", "SKIP"), k.send("BLPOP", "skipped-queue", "0"), k.send("INCR", "behind-it"))
		return func() {
			f.client().want("LPUSH skipped-queue a", "1")
			if got := k.next(); got != "1" {
				k.t.Errorf("got %s", got)
			}
		}
	}},
	{"half of a request", func(f *fleet, k *talker, _ string) func() {
		_, err := k.c.Write([]byte("*2\r\n$4\r\nECHO\r\n$5\r\nhe"))
		must(err)
		return func() {
			_, err := k.c.Write([]byte("llo\r\n"))
			must(err)
			if got := k.next(); got != "hello" {
				k.t.Errorf("got %s", got)
			}
		}
	}},
	{"RESET after WATCH and NO-EVICT", func(f *fleet, k *talker, proto string) func() {
		k.want("WATCH w", "OK")
		return func() {
			k.want("RESET", "RESET")
			k.want("MULTI", "OK")
			k.want("INCR after-reset", "QUEUED")
			k.want("EXEC", "[1]")
		}
	}},
}

func must(errs ...error) {
	if err := errors.Join(errs...); err != nil {
		panic(err)
	}
}

// flags are those of all clients in CLIENT LIST.
func flags(list string) string {
	var all []string
	for line := range strings.Lines(list) {
		_, rest, _ := strings.Cut(line, " flags=")
		f, _, _ := strings.Cut(rest, " ")
		all = append(all, f)
	}
	return strings.Join(all, " ")
}

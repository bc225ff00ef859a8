package relay_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/resp"
)

const outcomeUnknown = "TRYAGAIN a failover took place: whether this request was carried out is not known"

// ways are how an engine is lost.
var ways = map[string]func(*replicated){
	"killed": func(e *replicated) { e.kill() },
	"hung":   func(e *replicated) { _ = e.cmd.Process.Signal(syscall.SIGSTOP) },
}

// eachFailover runs a test for each path, protocol and way; for engines beyond the first with one protocol for each path.
func eachFailover(t *testing.T, test func(t *testing.T, f *fleet, proto string, lose func())) {
	failovers(t, enginetest.All(t), test)
}

func failovers(t *testing.T, engines []engine.Binary, test func(t *testing.T, f *fleet, proto string, lose func())) {
	for i, b := range engines {
		for _, multiplexed := range []bool{false, true} {
			for _, proto := range []string{"2", "3"} {
				for way, lose := range ways {
					if i > 0 && (multiplexed != (proto == "3") || (way == "hung") != (i%2 == 1)) {
						continue
					}
					t.Run(fmt.Sprintf("%s %s, multiplexed %t, RESP%s", enginetest.Name(b), way, multiplexed, proto), func(t *testing.T) {
						t.Parallel()
						f := newFleet(t, multiplexed, b, b)
						f.backend.Standby, f.backend.ConnectTimeout = true, patience
						f.use(f.serves)
						test(t, f, proto, func() {
							t.Helper()
							f.other.caughtUp(f.serves)
							lose(f.serves)
						})
					})
				}
			}
		}
	}
}

// promote makes the other engine the one that serves, as the control plane does.
func (f *fleet) promote() {
	f.t.Helper()
	f.other.admin.want("REPLICAOF NO ONE", "OK")
	f.serves, f.other = f.other, f.serves
	f.use(f.serves)
}

// state is something that a client is in the middle of.
type state = struct {
	name   string
	before func(f *fleet, k *talker, proto string) (after func())
}

// failoverStates are those of movingStates that a failover treats in another way.
var failoverStates = []state{
	{"an open MULTI", func(f *fleet, k *talker, _ string) func() {
		id := k.id()
		k.want("MULTI", "OK")
		k.want("INCR carried", "QUEUED")
		k.want("CLIENT ID", "QUEUED")
		return func() {
			k.want("INCR carried", "QUEUED")
			k.want("EXEC", "[1 "+id+" 2]")
			k.want("MULTI", "OK")
			k.want("INCR carried", "QUEUED")
			k.want("EXEC", "[3]")
		}
	}},
	{"an open MULTI that has failed already", func(f *fleet, k *talker, _ string) func() {
		k.want("MULTI", "OK")
		k.want("INCR failed", "QUEUED")
		k.want("INCR", "ERR wrong number*")
		return func() {
			k.want("INCR failed", "QUEUED")
			k.want("EXEC", "EXECABORT*")
			k.want("EXISTS failed", "0")
		}
	}},
	{"WATCH, and an open MULTI", func(f *fleet, k *talker, _ string) func() {
		k.want("WATCH w", "OK")
		k.want("MULTI", "OK")
		k.want("INCR watched", "QUEUED")
		return func() {
			k.want("INCR watched", "QUEUED")
			k.want("EXEC", "nil")
			k.want("EXISTS watched", "0")
			k.want("MULTI", "OK")
			k.want("INCR watched", "QUEUED")
			k.want("EXEC", "[1]")
		}
	}},
	{"BLPOP", func(f *fleet, k *talker, _ string) func() {
		must(k.send("BLPOP", "queue", "0"))
		return func() {
			if got := k.next(); got != outcomeUnknown {
				k.t.Errorf("BLPOP: %s", got)
			}
			f.client().want("LPUSH queue a", "1")
			k.want("BLPOP queue 0", "[queue a]")
		}
	}},
	{"BLPOP with requests behind it", func(f *fleet, k *talker, _ string) func() {
		must(k.send("BLPOP", "queue2", "0"), k.send("ECHO", "read"), k.send("SELECT", "2"), k.send("ECHO", "last"))
		return func() {
			for _, want := range []string{outcomeUnknown, "read", "OK", "last"} {
				if got := k.next(); got != want {
					k.t.Errorf("got %s, want %s", got, want)
				}
			}
		}
	}},
	{"XREAD BLOCK and XREADGROUP BLOCK", func(f *fleet, k *talker, proto string) func() {
		k.want("XGROUP CREATE log g $ MKSTREAM", "OK")
		must(k.send("XREAD", "BLOCK", "0", "STREAMS", "log", "$"))
		g := f.hello(proto)
		must(g.send("XREADGROUP", "GROUP", "g", "c", "BLOCK", "20000", "STREAMS", "log", ">"))
		return func() {
			if got := g.next(); got != outcomeUnknown {
				k.t.Errorf("XREADGROUP: %s", got)
			}
			until(k.t, "XREAD is asked again", func() bool { return strings.Contains(f.serves.admin.do("CLIENT LIST"), "cmd=xread ") })
			f.client().want("XADD log 1-1 f v", "1-1")
			if got := k.next(); !strings.Contains(got, "[1-1 [f v]]") {
				k.t.Errorf("XREAD: %s", got)
			}
		}
	}},
	{"a BLPOP that ends in time", nil},
	{"CLIENT REPLY SKIP and BLPOP", func(f *fleet, k *talker, _ string) func() {
		must(k.send("CLIENT", "REPLY", "SKIP"), k.send("BLPOP", "skipped-queue", "0"), k.send("ECHO", "behind-it"))
		return func() {
			if got := k.next(); got != "behind-it" {
				k.t.Errorf("got %s", got)
			}
		}
	}},
	{"a BLPOP that was answered, and others' requests since", nil},
}

func statesOfFailover() []state {
	all := append([]state(nil), failoverStates...)
	for _, m := range movingStates {
		known := false
		for _, s := range failoverStates {
			known = known || s.name == m.name
		}
		if !known {
			all = append(all, m)
		}
	}
	return all
}

// Whatever a client has set or begun on its connection is there after a failover, and its connection too.
func TestStateOfClientsOutlivesTheirEngine(t *testing.T) {
	eachFailover(t, func(t *testing.T, f *fleet, proto string, lose func()) {
		f.serves.admin.want("ACL SETUSER ann on >pw ~* &* +@all", "OK")
		f.other.admin.want("ACL SETUSER ann on >pw ~* &* +@all", "OK")
		var after []func()
		for _, state := range statesOfFailover() {
			if state.before == nil {
				continue
			}
			k := f.hello(proto)
			check := state.before(f, k, proto)
			after = append(after, func() {
				k.t = named{f.t, state.name}
				check()
			})
		}
		f.quietEngine()
		lose()
		f.promote()
		for _, check := range after {
			check()
		}
	})
}

// An engine that is killed closes its files one after the other. On a busy machine its listening socket may be open for long after it has
// closed its clients' connections. Here it stays open until the test ends.
func TestEngineThatEndsSlowlyKeepsItsClients(t *testing.T) {
	t.Parallel()
	b := enginetest.All(t)[0]
	for _, multiplexed := range []bool{false, true} {
		t.Run(fmt.Sprintf("multiplexed %t", multiplexed), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, multiplexed, b, b)
			f.backend.Standby, f.backend.ConnectTimeout = true, patience
			f.use(f.serves)
			k := f.client()
			k.want("SET key value", "OK")
			f.other.caughtUp(f.serves)
			f.serves.keepListening()
			f.serves.kill()
			// By the end of this the gateway has made up its mind about the connections that have ended.
			must(k.c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)))
			if _, err := k.c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the client's connection: %v, want that it stays open", err)
			}
			must(k.c.SetReadDeadline(time.Now().Add(patience)))
			f.promote()
			k.want("GET key", "value")
		})
	}
}

// keepListening keeps the engine's listening socket open, whatever becomes of the engine.
func (e *replicated) keepListening() {
	e.t.Helper()
	pid := e.cmd.Process.Pid
	engine, err := unix.PidfdOpen(pid, 0)
	must(err)
	defer unix.Close(engine)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(err)
	for _, entry := range entries {
		n, err := strconv.Atoi(entry.Name())
		must(err)
		fd, err := unix.PidfdGetfd(engine, n, 0)
		must(err)
		name, err := unix.Getsockname(fd)
		if socket, ok := name.(*unix.SockaddrUnix); err == nil && ok && socket.Name == e.socket {
			if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && listens == 1 {
				e.t.Cleanup(func() { unix.Close(fd) })
				return
			}
		}
		unix.Close(fd)
	}
	e.t.Fatal("the engine has no listening socket")
}

// quietEngine returns when the engine has read what clients have sent.
func (f *fleet) quietEngine() {
	f.t.Helper()
	if err := f.loops.Hold(f.t.Context(), time.Second, time.Second); err != nil {
		f.t.Log(err)
	}
	f.loops.Release()
}

// stick makes the engine read requests of a client, and answer none of them, and then hang.
func (f *fleet) stick(k *talker, requests ...string) {
	f.t.Helper()
	f.serves.admin.want("CONFIG SET lua-time-limit 20", "OK")
	all := resp.AppendCommand(nil, "EVAL", "while true do end", "0")
	for _, r := range requests {
		all = resp.AppendCommand(all, strings.Fields(r)...)
	}
	_, err := k.c.Write(all)
	must(err)
	until(f.t, "the engine is busy", func() bool { return strings.HasPrefix(f.serves.admin.do("PING"), "BUSY") })
	ways["hung"](f.serves)
}

// wantAll reads replies.
func (k *talker) wantAll(what string, replies ...string) {
	k.t.Helper()
	for i, want := range replies {
		if got := k.next(); got != want {
			k.t.Errorf("%s: reply %d is %.100q; want %q", what, i, got, want)
		}
	}
}

// What the engine may have executed is answered with an error; what it has certainly not executed is asked again, and so is what only
// reads. Nobody is disconnected, and who comes while there is no engine waits for the next one.
func TestRequestsInFlightAtAFailover(t *testing.T) {
	failovers(t, enginetest.All(t)[:1], func(t *testing.T, f *fleet, proto string, _ func()) {
		const unknown = outcomeUnknown
		read, watched, one, many, wrote, half := f.hello(proto), f.hello(proto), f.hello(proto), f.hello(proto), f.hello(proto), f.hello(proto)
		for _, k := range []*talker{one, many, wrote, half} {
			k.want("ECHO x", "x")
		}
		for _, k := range []*talker{one, wrote} {
			k.want("CLIENT NO-EVICT ON", "OK") // so that it keeps its connection
		}
		many.want("SET s 0123456789", "OK")
		watched.want("WATCH s", "OK")
		f.other.caughtUp(f.serves)
		f.stick(read, "INCR n", "GET s", "SELECT 2", "MULTI", "INCR n", "EXEC", "GET s", "SELECT 0", "MULTI", "INCR n")
		must(one.send("INCR", "one"))
		must(watched.send("MULTI"))
		_, err := many.c.Write([]byte("GET s\r\nSTRLEN s\r\nPING\r\nGETRANGE s 0 0\r\n"))
		must(err)
		_, err = wrote.c.Write(resp.AppendCommand(nil, "SET", "long", strings.Repeat("x", 1<<20))[:300_000])
		must(err)
		must(half.send("GET", "s"))
		must(half.c.(*net.TCPConn).CloseWrite())
		until(t, "the gateway has read all of it", func() bool { return f.loops.Counts().In > 300_000 })
		if strings.Contains(t.Name(), "killed") {
			f.serves.kill()
		}
		late := f.client()
		_, err = late.c.Write([]byte("CLIENT SETINFO LIB-NAME late\r\nSELECT 1\r\nINCR late\r\n"))
		must(err)
		f.promote()

		read.wantAll("read by the engine", unknown, unknown, "0123456789", "OK", unknown, unknown, unknown, "nil", "OK", "OK", "QUEUED")
		read.want("INCR n", "QUEUED")
		read.want("EXEC", "[1 2]")
		one.wantAll("not read", "1")
		watched.wantAll("MULTI after WATCH", "OK")
		watched.want("GET s", "QUEUED")
		watched.want("EXEC", "nil")
		many.wantAll("reads", "0123456789", "10", "PONG", "0")
		wrote.wantAll("a request that is half sent", unknown)
		_, err = wrote.c.Write([]byte(strings.Repeat("x", 1<<20-300_000+len("*3\r\n$3\r\nSET\r\n$4\r\nlong\r\n$1048576\r\n")) + "\r\nECHO y\r\n"))
		must(err)
		wrote.wantAll("the request behind it", "y")
		half.wantAll("a client that has said all", "0123456789", "closed")
		late.next() // before Redis 7.2 it is an error
		late.wantAll("a client that has come meanwhile", "OK", "1")
		f.client().want("EXISTS long", "0")
	})
}

// At a read endpoint everything in flight is asked again, because nothing of it can have written; but not a script that has been running for
// so long that it may be what is wrong with the engine.
func TestReadsInFlightAtAFailover(t *testing.T) {
	failovers(t, enginetest.All(t)[:1], func(t *testing.T, f *fleet, proto string, _ func()) {
		f.serves.admin.want("SET s here", "OK")
		f.other.caughtUp(f.serves)
		f.backend.ReadOnly = true
		f.use(f.serves)
		first, other, young := f.hello(proto), f.hello(proto), f.hello(proto)
		for _, k := range []*talker{first, other, young} {
			k.want("GET s", "here")
		}
		f.stick(first, "GET s", "SET s x", "MGET s s")
		must(other.send("SET", "s", "x"))
		time.Sleep(1100 * time.Millisecond) // that it has been running for so long is what this is about
		must(young.send("EVAL", "return redis.call('get', KEYS[1])", "1", "s"))
		if strings.Contains(t.Name(), "killed") {
			f.serves.kill()
		}
		f.promote()
		const refused = "READONLY You can't write against a read only replica."
		first.wantAll("behind a script", outcomeUnknown, "here", refused, "[here here]")
		other.wantAll("a write", refused)
		young.wantAll("a script", "here")
	})
}

// An engine that listens in the same place again is as good as another one.
func TestClientsWaitForTheSameEngine(t *testing.T) {
	t.Parallel()
	for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
		t.Run(path, func(t *testing.T) {
			e := newRealEngine(t, multiplexed)
			e.base.Standby = true
			e.use(multiplexed)
			queues, hears, waits := e.client(), e.client(), e.client()
			queues.want("MULTI", "OK")
			queues.want("INCR n", "QUEUED")
			hears.want("SUBSCRIBE news", "[subscribe news 1]")
			must(waits.send("BLPOP", "queue", "0"))
			until(t, "the engine has read it", func() bool { return strings.Contains(e.client().do("INFO clients"), "blocked_clients:1\r\n") })
			e.kill()
			must(queues.send("EXEC"))
			waits.wantAll("BLPOP", outcomeUnknown)
			e.start()
			queues.wantAll("EXEC", "[1]")
			until(t, "the subscription is there again", func() bool { return e.client().do("PUBLISH news x") == "1" })
			hears.wantAll("SUBSCRIBE", "[message news x]")
			waits.want("RPUSH queue a", "1")
		})
	}
}

// Without another engine clients wait for as long as they are told to, and learn why they are closed.
func TestNoEngineTakesOver(t *testing.T) {
	t.Parallel()
	for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
		t.Run(path, func(t *testing.T) {
			e := newRealEngine(t, multiplexed)
			e.base.Standby, e.base.ConnectTimeout = true, 100*time.Millisecond
			e.use(multiplexed)
			idle, hears := e.client(), e.client()
			idle.want("SET k v", "OK")
			hears.want("SUBSCRIBE news", "[subscribe news 1]")
			e.kill()
			hears.wantAll("SUBSCRIBE", "ERR away", "closed")
			idle.want("GET k", "ERR away")
		})
	}
}

// An engine that closes one connection wants to be rid of that client, although another engine stands by.
func TestALivingEngineClosesAClientThatCouldOutliveIt(t *testing.T) {
	t.Parallel()
	for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
		t.Run(path, func(t *testing.T) {
			e := newRealEngine(t, multiplexed)
			e.base.Standby = true
			e.use(multiplexed)
			k := e.client()
			must(k.send("BLPOP", "queue", "0"))
			c, err := net.Dial("unix", e.socket)
			must(err)
			defer c.Close()
			admin := newTalker(t, c)
			until(t, "the engine has read it", func() bool { return strings.Contains(admin.do("INFO clients"), "blocked_clients:1\r\n") })
			admin.do("CLIENT KILL TYPE normal SKIPME yes")
			k.wantAll("BLPOP", "closed")
		})
	}
}

// A client that does not read its replies gets each of them once, and the right one. Only where it was told the beginning of one is
// there nothing that can be mended.
func TestSlowReaderAtAFailover(t *testing.T) {
	failovers(t, enginetest.All(t)[:1], func(t *testing.T, f *fleet, proto string, lose func()) {
		const requests = 3000
		k := f.hello(proto)
		_ = k.c.(*net.TCPConn).SetReadBuffer(128 << 10)
		k.want("SET big "+strings.Repeat("v", 2000), "OK")
		f.other.caughtUp(f.serves)
		go func() {
			for range requests {
				if k.send("GET", "big") != nil {
					return
				}
			}
		}()
		until(t, "the gateway does not get rid of replies", func() bool { return f.loops.Counts().Out > 1<<20 })
		lose()
		f.promote()
		for i := range requests {
			v, err := k.read()
			if err != nil {
				if !errors.Is(err, io.EOF) || k.r.Buffered() > 0 || len(k.buf) == 0 {
					t.Errorf("after %d replies: %v, in the middle of a reply: %t", i, err, len(k.buf) > 0)
				}
				return
			}
			if got := flat(v); len(got) != 2000 || strings.Trim(got, "v") != "" {
				t.Fatalf("reply %d is %.100q", i, got)
			}
		}
		k.want("PING", "PONG")
	})
}

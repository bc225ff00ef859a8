package relay_test

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/resp"
)

// realEngine is an engine on a Unix socket, and loops in front of it.
type realEngine struct {
	t      testing.TB
	binary engine.Binary
	socket string
	dir    string
	cmd    *exec.Cmd
	loops  *relay.Loops
	base   relay.Backend
}

// newRealEngine takes the engine in PATH.
func newRealEngine(t testing.TB, multiplexed bool) *realEngine {
	t.Helper()
	return newEngineOf(t, enginetest.All(t)[0], multiplexed)
}

func newEngineOf(t testing.TB, b engine.Binary, multiplexed bool) *realEngine {
	t.Helper()
	dir, err := os.MkdirTemp("", "relay") // short: the path of a Unix socket is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e := &realEngine{t: t, binary: b, socket: filepath.Join(dir, "s"), dir: dir}
	e.start()
	t.Cleanup(e.kill)
	e.loops = loops(t)
	e.base = relay.Backend{
		Engine: "e", Connect: relay.UnixSocket(e.socket), ConnectTimeout: 10 * time.Second, UnavailableReply: func() string { return "-ERR away\r\n" }, Multiplexed: multiplexed,
	}
	e.use(multiplexed)
	return e
}

func (e *realEngine) use(multiplexed bool) {
	b := e.base
	b.Multiplexed = multiplexed
	e.loops.SetBackend(&b)
}

func (e *realEngine) start() {
	e.cmd = exec.Command(e.binary.Path, "--port", "0", "--unixsocket", e.socket, "--save", "", "--dir", e.dir, "--logfile",
		filepath.Join(e.dir, "log"), "--lua-time-limit", "100", "--enable-debug-command", "yes")
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	for until := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("unix", e.socket); err == nil {
			c.Close()
			return
		} else if time.Now().After(until) {
			e.t.Fatal(err)
		}
	}
}

// kill ends the engine as a crash would. It may be called again.
func (e *realEngine) kill() {
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}

// talker is a client that speaks RESP.
type talker struct {
	t       testing.TB
	c       net.Conn
	r       *bufio.Reader
	session *relay.Session
	buf     []byte
}

func (e *realEngine) client() *talker {
	e.t.Helper()
	c, far := tcpPair(e.t)
	_ = c.SetDeadline(time.Now().Add(patience))
	remote := netip.MustParseAddrPort(c.LocalAddr().String())
	local := netip.MustParseAddrPort(c.RemoteAddr().String())
	s := e.loops.Serve(netloop.Conn{FD: descriptor(e.t, far)}, relay.Config{Remote: remote, Local: local})
	k := newTalker(e.t, c)
	k.session = s
	return k
}

func newTalker(t testing.TB, c net.Conn) *talker {
	return &talker{t: t, c: c, r: bufio.NewReaderSize(c, 64<<10)}
}

func (k *talker) send(args ...string) error {
	_, err := k.c.Write(resp.AppendCommand(nil, args...))
	return err
}

// read returns the next reply or push.
func (k *talker) read() (resp.Value, error) {
	var scan resp.ReplyScanner
	k.buf = k.buf[:0]
	for {
		if _, err := k.r.Peek(1); err != nil {
			return resp.Value{}, err
		}
		b, _ := k.r.Peek(k.r.Buffered())
		n, done, err := scan.Next(b)
		if err != nil {
			return resp.Value{}, err
		}
		k.buf = append(k.buf, b[:n]...)
		_, _ = k.r.Discard(n)
		if done {
			v, _, err := resp.ParseReply(k.buf, resp.Limits{})
			return v, err
		}
	}
}

// do asks one thing and returns the answer as text.
func (k *talker) do(words string) string {
	k.t.Helper()
	if err := k.send(strings.Fields(words)...); err != nil {
		return "closed"
	}
	return k.next()
}

func (k *talker) next() string {
	v, err := k.read()
	if err != nil {
		if e, ok := err.(net.Error); ok && e.Timeout() {
			return "nothing in time"
		}
		return "closed"
	}
	return flat(v)
}

func flat(v resp.Value) string {
	switch {
	case v.IsNull:
		return "nil"
	case v.Kind == resp.Integer:
		return strconv.FormatInt(v.Int, 10)
	case v.Kind == resp.Array || v.Kind == resp.Map || v.Kind == resp.Push || v.Kind == resp.Set:
		var parts []string
		for _, e := range v.Elems {
			parts = append(parts, flat(e))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case v.Kind == resp.Verbatim:
		return v.Str[4:]
	}
	return v.Str
}

func (k *talker) want(words, answer string) {
	k.t.Helper()
	if got := k.do(words); got != answer && !(strings.HasSuffix(answer, "*") && strings.HasPrefix(got, strings.TrimSuffix(answer, "*"))) {
		k.t.Errorf("%s: got %.300q; want %q", words, got, answer)
	}
}

func (k *talker) id() string { return k.do("CLIENT ID") }

// Both paths must look the same, with every engine; each step says what is shown.
func TestWhatClientsSeeOfEachOther(t *testing.T) {
	for _, tc := range []struct {
		name string
		test func(t *testing.T, e *realEngine)
	}{
		{"ids are unique and stay", func(t *testing.T, e *realEngine) {
			a, b := e.client(), e.client()
			x, y := a.id(), b.id()
			a.want("MULTI", "OK")
			a.want("EXEC", "[]")
			a.want("EVAL return(1) 0", "1")
			if x == y || a.id() != x || b.id() != y {
				t.Errorf("%s %s, then %s %s", x, y, a.id(), b.id())
			}
		}},
		{"names are each client's", func(t *testing.T, e *realEngine) {
			a, b := e.client(), e.client()
			a.want("CLIENT SETNAME anna", "OK")
			b.want("CLIENT GETNAME", "nil")
			a.want("WATCH k", "OK")
			a.want("CLIENT GETNAME", "anna")
			if l := b.do("CLIENT LIST"); strings.Count(l, "\n") != 2 || !strings.Contains(l, "name=anna") ||
				!strings.Contains(l, "addr="+a.c.LocalAddr().String()+" ") {
				t.Errorf("CLIENT LIST: %q", l)
			}
			if l := a.do("CLIENT INFO"); !strings.HasPrefix(l, "id="+a.id()+" ") || !strings.Contains(l, "name=anna") {
				t.Errorf("CLIENT INFO: %q", l)
			}
			if i := a.do("INFO clients"); !strings.Contains(i, "connected_clients:2\r\n") {
				t.Errorf("INFO: %q", i)
			}
		}},
		{"a busy engine says so to clients of another database too", func(t *testing.T, e *realEngine) {
			a, b, c, d := e.client(), e.client(), e.client(), e.client()
			b.want("SELECT 3", "OK")
			b.want("SET k 1", "OK")
			d.want("SELECT 3", "OK")
			d.want("MULTI", "OK") // it has the only connection that is in that database
			_ = a.send("EVAL", "while true do end", "0")
			for until := time.Now().Add(patience); !strings.HasPrefix(c.do("GET k"), "BUSY"); {
				if time.Now().After(until) {
					t.Fatal("the engine is not busy")
				}
			}
			b.want("BLPOP q 0", "BUSY*")
			b.want("SET big "+strings.Repeat("v", 100_000), "BUSY*")
			b.want("SCRIPT KILL", "OK")
			a.next()
			b.want("WATCH k", "OK")
			b.want("GET k", "1")
		}},
		{"CLIENT KILL by id, addr, laddr, user, type, old form", func(t *testing.T, e *realEngine) {
			for _, how := range []func(*talker) (string, string){
				func(k *talker) (string, string) { return "CLIENT KILL ID " + k.id(), "1" },
				func(k *talker) (string, string) { return "CLIENT KILL ADDR " + k.c.LocalAddr().String(), "1" },
				func(k *talker) (string, string) { return "CLIENT KILL LADDR " + k.c.RemoteAddr().String(), "1" },
				func(k *talker) (string, string) { return "CLIENT KILL " + k.c.LocalAddr().String(), "OK" },
				func(k *talker) (string, string) { return "CLIENT KILL USER default", "1" },
				func(k *talker) (string, string) { return "CLIENT KILL TYPE normal", "1" },
			} {
				a, victim := e.client(), e.client()
				a.want("PING", "PONG")
				victim.want("PING", "PONG")
				words, answer := how(victim)
				a.want(words, answer)
				if got := victim.next(); got != "closed" {
					t.Errorf("%s: the victim read %q", words, got)
				}
				a.want("PING", "PONG")
				a.want("CLIENT KILL ID 999999", "0")
				a.want("CLIENT KILL ID "+a.id()+" SKIPME no", "1")
				if got := a.next(); got != "closed" {
					t.Errorf("who killed itself read %q", got)
				}
				// Until it has closed its side too it is still counted: a known gap.
				a.c.Close()
				<-a.session.Done()
			}
		}},
		{"CLIENT UNBLOCK reaches a blocked client", func(t *testing.T, e *realEngine) {
			a, b := e.client(), e.client()
			id := b.id()
			_ = b.send("BLPOP", "nothing", "0")
			for until := time.Now().Add(patience); a.do("CLIENT UNBLOCK "+id) != "1" && time.Now().Before(until); {
				time.Sleep(5 * time.Millisecond)
			}
			if got := b.next(); got != "nil" {
				t.Errorf("the blocked one read %q", got)
			}
			b.want("PING", "PONG")
		}},
		{"CLIENT PAUSE WRITE holds writers only", func(t *testing.T, e *realEngine) {
			a, r, w := e.client(), e.client(), e.client()
			r.want("GET k", "nil")
			w.want("GET k", "nil")
			a.want("CLIENT PAUSE 10000 WRITE", "OK")
			_ = w.send("SET", "k", "v")
			time.Sleep(50 * time.Millisecond)
			r.want("GET k", "nil")
			a.want("CLIENT UNPAUSE", "OK")
			if got := w.next(); got != "OK" {
				t.Errorf("the writer read %q", got)
			}
			r.want("GET k", "v")
		}},
		{"tracking shows no redirection", func(t *testing.T, e *realEngine) {
			a := e.client()
			a.want("CLIENT GETREDIR", "-1")
			a.want("CLIENT TRACKINGINFO", "[flags [off] redirect -1 prefixes []]")
			a.want("CLIENT NO-EVICT on", "OK")
			a.want("HELLO 3", "[server*")
			a.want("CLIENT TRACKING on", "OK")
			a.want("CLIENT GETREDIR", "0")
		}},
		{"RESET and QUIT", func(t *testing.T, e *realEngine) {
			a := e.client()
			a.want("HELLO 3 SETNAME x", "[server*")
			a.want("SELECT 4", "OK")
			a.want("WATCH k", "OK")
			a.want("MULTI", "OK")
			a.want("RESET", "RESET")
			a.want("EXEC", "ERR EXEC without MULTI")
			a.want("CLIENT GETNAME", "nil")
			a.want("SET only0 1", "OK")
			a.want("SELECT 4", "OK")
			a.want("GET only0", "nil")
			a.want("QUIT", "OK")
			if got := a.next(); got != "closed" {
				t.Errorf("after QUIT: %q", got)
			}
		}},
		{"HELLO and SELECT in one write", func(t *testing.T, e *realEngine) {
			a, b := e.client(), e.client()
			_, _ = a.c.Write([]byte("HELLO 3\r\nSELECT 5\r\nCLIENT SETNAME n\r\nGET none\r\nWATCH k\r\nUNWATCH\r\nGET none\r\n"))
			for range 6 {
				a.next()
			}
			if v, err := a.read(); err != nil || v.Kind != resp.Null {
				t.Errorf("RESP3's null is %+v, %v", v, err)
			}
			b.want("SELECT 5", "OK")
			b.want("WATCH k", "OK")
			_ = b.send("GET", "none")
			if v, err := b.read(); err != nil || v.Kind != resp.Bulk {
				t.Errorf("RESP2's null is %+v, %v", v, err)
			}
		}},
		{"SCRIPT KILL while another's script loops", func(t *testing.T, e *realEngine) {
			a, b := e.client(), e.client()
			b.want("PING", "PONG")
			_ = a.send("EVAL", "while true do end", "0")
			busy := false
			for until := time.Now().Add(patience); !busy && time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
				busy = strings.HasPrefix(b.do("GET k"), "BUSY")
			}
			if !busy {
				t.Error("others were not told BUSY")
			}
			b.want("SCRIPT KILL", "OK")
			if got := a.next(); !strings.Contains(got, "SCRIPT KILL") {
				t.Errorf("the script's client read %q", got)
			}
			b.want("PING", "PONG")
		}},
		{"users keep to their rights", users},
		{"a long request before the login hurts nobody", func(t *testing.T, e *realEngine) {
			admin := e.client()
			admin.want("CONFIG SET requirepass pw", "OK")
			// Clients that come over a shared connection from before are let in without it: a known gap. Another engine's name
			// makes new connections.
			e.base.Engine = "e2"
			e.use(e.base.Multiplexed)
			a, b := e.client(), e.client()
			a.want("GET k", "NOAUTH*")
			b.want("GET k", "NOAUTH*")
			_ = b.send("ECHO", strings.Repeat("x", 20000))
			if got := b.next(); !strings.HasPrefix(got, "ERR Protocol error") && got != "closed" {
				t.Errorf("the long request: %.100q", got)
			}
			a.want("GET k", "NOAUTH*")
			a.want("AUTH wrong", "WRONGPASS*")
			a.want("GET k", "NOAUTH*")
			a.want("AUTH pw", "OK")
			a.want("GET k", "nil")
			e.client().want("GET k", "NOAUTH*")
		}},
	} {
		for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
			for _, b := range enginetest.All(t) {
				t.Run(enginetest.Name(b)+"/"+path+"/"+tc.name, func(t *testing.T) {
					t.Parallel()
					tc.test(t, newEngineOf(t, b, multiplexed))
				})
			}
		}
	}
}

func users(t *testing.T, e *realEngine) {
	admin := e.client()
	admin.want("ACL SETUSER reader on >r ~* +@read +@connection", "OK")
	admin.want("ACL SETUSER writer on >w ~* +@all", "OK")
	r, w := e.client(), e.client()
	for range 3 {
		r.want("AUTH reader r", "OK")
		w.want("AUTH writer w", "OK")
		r.want("SET k v", "NOPERM*")
		w.want("SET k v", "OK")
		r.want("AUTH writer wrong", "WRONGPASS*")
		r.want("SET k v", "NOPERM*")
		r.want("ACL WHOAMI", "NOPERM*")
		w.want("ACL WHOAMI", "writer")
		r.want("RESET", "RESET")
		r.want("SET k v", "OK")
	}
	r.want("AUTH reader r", "OK")
	r.want("GET k", "v")
	admin.want("ACL SETUSER reader resetpass >new", "OK")
	r.want("GET k", "v")
	e.client().want("AUTH reader r", "WRONGPASS*")
	admin.want("ACL DELUSER reader", "1")
	if got := r.do("GET k"); got != "closed" {
		t.Errorf("a deleted user's client read %q", got)
	}
	w.want("GET k", "v")
}

// When a password is replaced, each client goes on by the one that let it in, as long as that is accepted; nobody loses by what
// others have logged in with.
func TestClientsGoOnByTheirOwnPassword(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		goOnByTheirOwnPassword(t, newEngineOf(t, b, true))
	})
}

func goOnByTheirOwnPassword(t *testing.T, e *realEngine) {
	admin := e.client()
	admin.want("ACL SETUSER app on >old >new ~* +@all", "OK")
	first, second := e.client(), e.client()
	first.want("AUTH app new", "OK")
	second.want("AUTH app old", "OK")
	first.want("SET k v", "OK")
	admin.want("ACL SETUSER app <old", "OK")
	// Each of these needs a connection that is not there yet.
	first.want("SELECT 3", "OK")
	first.want("SET k v", "OK")
	first.want("MULTI", "OK")
	first.want("EXEC", "[]")
	third := e.client()
	third.want("AUTH app new", "OK")
	third.want("SELECT 5", "OK")
	third.want("GET none", "nil")
}

// A client is back on the shared connection as soon as it has left its state behind.
func TestClientsComeBackToTheSharedConnection(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		comeBack(t, newEngineOf(t, b, true))
	})
}

func comeBack(t *testing.T, e *realEngine) {
	for _, steps := range []string{
		"MULTI|SET k v|EXEC", "MULTI|DISCARD", "WATCH k|UNWATCH", "WATCH k|MULTI|EXEC", "BLPOP none 0.01", "SUBSCRIBE c|UNSUBSCRIBE c",
		"EVAL return(1) 0", "HELLO 3|SUBSCRIBE c|UNSUBSCRIBE", "SUBSCRIBE c|RESET", "CLIENT NEWER-THAN-THE-ENGINE on", "NEWER.COMMAND 1",
	} {
		c := e.client()
		for step := range strings.SplitSeq(steps, "|") {
			c.do(step)
		}
		before := e.loops.Counts().Shared
		c.want("EXISTS nothing", "0")
		if e.loops.Counts().Shared != before+1 {
			t.Errorf("after %s: not shared", steps)
		}
	}
}

func TestSlowReaderDelaysNobody(t *testing.T) {
	t.Parallel()
	e := newRealEngine(t, true)
	slow, other := e.client(), e.client()
	other.want("SETRANGE big 50000000 x", "50000001")
	_ = slow.send("GET", "big")
	for range 200 { // the slow one reads only after all of them
		other.want("PING", "PONG")
	}
	if v, err := slow.read(); err != nil || len(v.Str) != 50000001 {
		t.Errorf("the slow one read %d bytes, %v", len(v.Str), err)
	}
}

func TestIdleClientsAreClosedButNotThoseThatWait(t *testing.T) {
	for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			e := newRealEngine(t, multiplexed)
			e.base.IdleTimeout = 500 * time.Millisecond
			e.use(multiplexed)
			idle, blocked, subscribed := e.client(), e.client(), e.client()
			idle.want("PING", "PONG")
			_ = blocked.send("BLPOP", "q", "0")
			subscribed.want("SUBSCRIBE c", "[subscribe c 1]")
			if got := idle.next(); got != "closed" {
				t.Errorf("the idle one read %q", got)
			}
			other := e.client()
			other.want("RPUSH q v", "1")
			if got := blocked.next(); got != "[q v]" {
				t.Errorf("the blocked one read %q", got)
			}
			other.want("PUBLISH c hello", "1")
			if got := subscribed.next(); got != "[message c hello]" {
				t.Errorf("the subscribed one read %q", got)
			}
		})
	}
}

func TestEngineAwayAndEngineFull(t *testing.T) {
	for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			e := newRealEngine(t, multiplexed)
			e.base.ConnectTimeout = 0
			e.base.Connect = relay.UnixSocket(e.socket + "-not")
			e.base.Engine = "away"
			e.use(multiplexed)
			c := e.client()
			c.want("PING", "ERR away")
			if got := c.next(); got != "closed" {
				t.Errorf("then %q", got)
			}
			e.base.Connect, e.base.Engine = relay.UnixSocket(e.socket), "e"
			e.use(multiplexed)
			first := e.client()
			first.want("CONFIG SET maxclients 1", "OK")
			second := e.client()
			second.want("BLPOP q 0.01", "ERR max number of clients reached")
			first.want("PING", "PONG")
		})
	}
}

// SEALANE_RELAY_TIME makes it go on for longer.
func TestManyClientsOnARealEngine(t *testing.T) {
	for i, b := range enginetest.All(t) {
		length := 5 * time.Second
		if d, err := time.ParseDuration(os.Getenv("SEALANE_RELAY_TIME")); err == nil {
			length = d
		} else if testing.Short() || i > 0 {
			length = 2 * time.Second
		}
		t.Run(enginetest.Name(b), func(t *testing.T) { manyClients(t, newEngineOf(t, b, true), length) })
	}
}

func manyClients(t *testing.T, e *realEngine, length time.Duration) {
	stop, began := make(chan struct{}), time.Now()
	var all sync.WaitGroup
	var rounds, broken, generation atomic.Int64
	for i := range 60 {
		all.Go(func() {
			for time.Since(began) < length {
				at := generation.Load()
				k := e.client()
				wrong := realClient(k, i, began.Add(length), &rounds)
				k.c.Close()
				<-k.session.Done()
				switch {
				case wrong == "":
				case strings.HasPrefix(wrong, "closed") || strings.Contains(wrong, "LOADING") || strings.Contains(wrong, "away"):
					if broken.Add(1); at == generation.Load() && time.Since(began) < length/8 {
						t.Errorf("client %d before any kill: %s", i, wrong)
					}
				case at != generation.Load() && !foreign(wrong, i):
					broken.Add(1) // its own keys went with the engine; a client that asked nothing just then lives on
				default:
					t.Errorf("client %d: %s", i, wrong)
					return
				}
			}
		})
	}
	multiplexed := true
	kills := time.NewTicker(length / 4)
	defer kills.Stop()
	paths := time.NewTicker(300 * time.Millisecond)
	defer paths.Stop()
	go func() { all.Wait(); close(stop) }()
	for running := true; running; {
		select {
		case <-stop:
			running = false
		case <-paths.C:
			multiplexed = !multiplexed
			e.use(multiplexed)
		case <-kills.C:
			if time.Since(began) < length {
				generation.Add(1)
				e.kill()
				e.start()
			}
		}
	}
	t.Logf("%d rounds, %d connections broke off by %d kills", rounds.Load(), broken.Load(), generation.Load())
	if rounds.Load() == 0 {
		t.Error("nobody got through a round")
	}
}

// realClient goes through rounds of all kinds of requests and returns the first wrong answer; "closed..." is the end.
func realClient(k *talker, i int, until time.Time, rounds *atomic.Int64) string {
	id, name, key := "", fmt.Sprintf("n%d-%p", i, k), fmt.Sprintf("k%d-%p", i, k)
	big := strings.Repeat(key, 1<<20/len(key))
	check := func(want string, args ...string) string {
		if err := k.send(args...); err != nil {
			return "closed"
		}
		if got := k.next(); got != want && (want != "" || got == "closed") {
			return classify(got, want, args)
		}
		return ""
	}
	if w := check("OK", "CLIENT", "SETNAME", name); w != "" {
		return w
	}
	if id = k.id(); id == "closed" {
		return id
	}
	for n := 0; time.Now().Before(until); n++ {
		v, db := fmt.Sprintf("%s.%d", key, n), strconv.Itoa(n%4)
		steps := [][]string{
			{"OK", "SELECT", db}, {"OK", "SET", key, v + "@" + db}, {v + "@" + db, "GET", key}, {id, "CLIENT", "ID"},
			{name, "CLIENT", "GETNAME"}, {"OK", "SET", key + "n", "0"}, {"1", "INCR", key + "n"}, {"2", "INCR", key + "n"},
			{"OK", "MULTI"}, {"QUEUED", "INCR", key + "n"}, {"QUEUED", "GET", key}, {"[3 " + v + "@" + db + "]", "EXEC"},
			{"OK", "WATCH", key + "n"}, {"4", "INCR", key + "n"}, {"OK", "MULTI"}, {"QUEUED", "GET", key}, {"nil", "EXEC"},
			{"[" + v + " " + db + "]", "EVAL", "return {ARGV[1],ARGV[2]}", "0", v, db}, {"1", "RPUSH", key + "q", v},
			{"[" + key + "q " + v + "]", "BLPOP", key + "q", "0"}, {"", "HELLO", strconv.Itoa(2 + n%2)},
		}
		if n%2 == 0 {
			steps = append(steps, []string{"[subscribe " + key + " 1]", "SUBSCRIBE", key}, []string{"[unsubscribe " + key + " 0]", "UNSUBSCRIBE", key})
		}
		if n%20 == 5 {
			steps = append(steps, []string{"OK", "SET", key, big}, []string{big, "GET", key})
		}
		for _, s := range steps {
			if w := check(s[0], s[1:]...); w != "" {
				return w
			}
		}
		var pipe []byte
		for j := range 200 {
			pipe = resp.AppendCommand(pipe, "ECHO", v+"#"+strconv.Itoa(j))
		}
		if _, err := k.c.Write(pipe); err != nil {
			return "closed"
		}
		for j := range 200 {
			if got, want := k.next(), v+"#"+strconv.Itoa(j); got != want {
				return classify(got, want, []string{"pipeline"})
			}
		}
		rounds.Add(1)
	}
	return ""
}

var owners = regexp.MustCompile(`[kn](\d+)-0x`)

// foreign says that a client was told what belongs to another one.
func foreign(wrong string, i int) bool {
	for _, m := range owners.FindAllStringSubmatch(wrong, -1) {
		if m[1] != strconv.Itoa(i) {
			return true
		}
	}
	return false
}

func classify(got, want string, args []string) string {
	if got == "closed" || strings.HasPrefix(got, "LOADING") || got == "ERR away" {
		return "closed: " + got
	}
	return fmt.Sprintf("%.60q: got %.200q; want %.200q", args, got, want)
}

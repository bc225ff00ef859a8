package relay_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/resp"
)

// choices are what a run is made of: the fuzzer's bytes as long as there are any, then those of a seed.
type choices struct {
	steer []byte
	rnd   *rand.Rand
}

func (c *choices) n(below int) int {
	if len(c.steer) > 0 && below <= 256 {
		b := c.steer[0]
		c.steer = c.steer[1:]
		return int(b) % below
	}
	return c.rnd.IntN(below)
}

func (c *choices) of(words ...string) string { return words[c.n(len(words))] }

// script is what one client says, and what it must be told.
type script struct {
	id       int64
	requests []byte
	replies  []byte
	closes   bool // the engine ends it, by QUIT or for a protocol error
	cut      int  // the client goes away after so many bytes; -1: it ends its direction when all is said
	seed     uint64
	log      []string
}

func write(c *choices, id int64, user string, length int, moves, failover bool) *script {
	s := &script{id: id, cut: -1, seed: c.rnd.Uint64()}
	d := newDialogue(id)
	d.user, d.home = user, user
	blind := false
	for i := range length {
		b := request(c, d, fmt.Sprintf("c%d.%d", id, i))
		// Who has said CLIENT REPLY or SUBSCRIBE in a transaction is between itself and the engine, which knows neither the name nor
		// the id that the client had before: a known gap.
		if low := bytes.ToLower(b); blind && (bytes.Contains(low, []byte("client")) || bytes.Contains(low, []byte("hello")) ||
			bytes.Contains(low, []byte("auth")) || // which the engine may leave unanswered
			user != "default" && bytes.Contains(low, []byte("reset"))) { // and there the login is not known to be gone
			b = []byte("echo blind\r\n")
		} else if d.silent && d.multi && bytes.Contains(low, []byte("subscribe")) {
			b = []byte("echo silent\r\n") // it would be closed
		} else if d.multi && (bytes.Contains(low, []byte("reply")) || bytes.Contains(low, []byte("subscribe"))) {
			blind = true
		}
		// Whether EXEC was executed may not be known, and with it the database in which a client is.
		if moves && leavesTraces(b, d) || failover && d.multi && bytes.Contains(bytes.ToLower(b), []byte("select")) {
			b, blind = []byte("echo moves\r\n"), false
		}
		s.log = append(s.log, fmt.Sprintf("%.120q", b))
		d.hear(b)
		s.requests = append(s.requests, b...)
		if d.over {
			break
		}
	}
	s.replies, s.closes = d.out, d.over
	if c.n(6) == 0 {
		s.cut = c.rnd.IntN(len(s.requests) + 1)
	}
	return s
}

// leavesTraces says that the client would notice that its engine is replaced after this request: its transaction fails, its cache is
// declared stale, or it is closed because it is not known what it has left there.
func leavesTraces(request []byte, d *dialogue) bool {
	low := string(bytes.ToLower(request))
	for _, word := range []string{"watch", "tracking", "quit", "subscribe", "nonsense"} {
		if strings.Contains(low, word) {
			return true
		}
	}
	if slices.Contains(strings.Fields(low), "01") { // a database in a form that is not understood here, and by real engines neither
		return true
	}
	return d.multi && (strings.Contains(low, "auth") || strings.Contains(low, "reply")) || low == "*x\r\n" || strings.HasPrefix(low, "*1\r\n:") || strings.HasPrefix(low, "*1\r\n$-") ||
		strings.Contains(low, "\"")
}

// request makes the next request of a client that is in the state d.
func request(c *choices, d *dialogue, token string) []byte {
	user := "u" + strconv.Itoa(c.n(3))
	var args []string
	switch kind := c.n(64); {
	case kind < 14:
		args = []string{c.of("mget", "MGET", "mGet"), token}
	case kind < 18:
		args = []string{"echo", token}
	case kind < 21:
		args = []string{"incr", token}
	case kind < 23:
		args = []string{"ping", token}
	case kind < 24:
		args = []string{"getrange", token, strconv.Itoa(1 + c.n(60)*c.n(60)*c.n(9))}
	case kind < 25:
		args = []string{"set", token, strings.Repeat("v", c.n(60)*c.n(60)*c.n(40))}
	case kind < 27:
		args = []string{"lrange", token, strconv.Itoa(c.n(200))}
	case kind < 29:
		args = []string{"eval", token, "0"}
	case kind < 31:
		args = []string{"blpop", token, "0"}
	case kind < 35:
		args = []string{"multi"}
	case kind < 37:
		args = []string{"watch", token}
	case kind < 38:
		args = []string{"unwatch"}
	case kind < 42:
		args = []string{c.of("exec", "exec", "EXEC", "discard")}
	case kind < 44:
		args = []string{"select", c.of("0", "1", "2", "2", "99", "x", "01")}
	case kind < 45:
		args = []string{"auth", user, c.of("pw-"+user, "pw-"+user, "wrong")}
	case kind < 49:
		args = hello(c, user, token)
	case kind < 50:
		args = []string{"subscribe", "ch" + token}
		if c.n(2) == 0 {
			args = append(args, "more"+token)
		}
	case kind < 53:
		args = []string{"unsubscribe"}
	case kind < 54:
		args = []string{"reset"}
	case kind < 61:
		args = client(c, token)
	case kind < 62:
		args = []string{c.of("mystery", "mystery", "quit", "mystery"), token}
	case kind < 63:
		return []byte(c.of("\r\n", "*0\r\n", "  \r\n", "*-1\r\n", "PING \"a b\"\r\n"))
	default:
		if c.n(8) == 0 {
			return []byte(c.of("*x\r\n", "*1\r\n:1\r\n", "*1\r\n$-5\r\n"))
		}
		args = []string{"mget", token}
	}
	// What is asked of the client itself in a transaction is answered by the engine: a known gap.
	if d.multi && args[0] == "client" {
		args = []string{"exec"}
	}
	if c.n(10) == 0 && len(args) > 0 && len(strings.Join(args, "")) < 1000 && !strings.Contains(strings.Join(args, " ")+" ", "  ") {
		return []byte(strings.Join(args, c.of(" ", "  ", "\t")) + c.of("\r\n", "\n"))
	}
	return resp.AppendCommand(nil, args...)
}

func hello(c *choices, user, token string) []string {
	args := []string{"hello", c.of("2", "3", "3", "3", "4")}
	switch c.n(6) {
	case 0:
		args = append(args, "AUTH", user, c.of("pw-"+user, "pw-"+user, "wrong"))
	case 1:
		args = append(args, "SETNAME", "hello-"+token)
	case 2:
		return args[:1]
	case 3:
		args = append(args, "AUTH", user, "pw-"+user, "SETNAME", "both-"+token)
	}
	return args
}

func client(c *choices, token string) []string {
	switch c.n(16) {
	case 0, 1, 2, 3:
		return []string{"client", "id"}
	case 4, 5, 6, 7:
		return []string{"client", "setname", "name-" + token}
	case 8, 9, 10:
		return []string{"client", "getname"}
	case 11:
		return []string{"CLIENT", "no-evict", "on"}
	case 12:
		return []string{"client", "tracking", c.of("on", "on", "off")}
	case 13:
		return []string{"client", "reply", c.of("on", "off", "skip")}
	case 14:
		return []string{"client", "setname", ""}
	}
	return []string{"client", "nonsense"}
}

// scenario is one run.
type scenario struct {
	clients, length int
	cutting         int  // as in fake
	failing         int  // as in fake
	switching       bool // the path changes meanwhile, and if there is a server between, which one that is
	multiplexed     bool // at first
	far             bool // there is a server with TLS between, which asks its clients to go
	moving          bool // the engine is replaced meanwhile, each time after a hold
	failover        bool // the engine is killed, or hangs, and is replaced by another one that stands by
	mute            bool // the engine leaves logins that fail unanswered while it has replies to send
}

// play runs a scenario and compares what each client was told with what it asked.
func play(t *testing.T, sc scenario, seed uint64, steer []byte) {
	t.Helper()
	c := &choices{steer: steer, rnd: rand.New(rand.NewPCG(seed, 1))}
	goroutines, files := runtime.NumGoroutine(), openFiles(t)

	f := newFake(t, seed)
	f.cutting, f.failing, f.mute = sc.cutting, sc.failing, sc.mute
	ls, err := relay.NewLoops(2)
	if err != nil {
		t.Fatal(err)
	}
	backend := func(engine string, multiplexed bool) {
		connect := f.connect
		if sc.failover {
			connect = func() (int, error) { return f.connectTo(engine) }
		}
		ls.SetBackend(&relay.Backend{Engine: engine, Connect: connect, ConnectTimeout: patience, Multiplexed: multiplexed, Standby: sc.failover})
	}
	if sc.failover {
		f.replace("a", false)
	}
	user, server := "default", (*far)(nil)
	if sc.far {
		user, server = "u9", newFar(t, seed, backend, ls)
		ls, backend = server.clients, server.backend
	}
	backend("a", sc.multiplexed)
	scripts := make([]*script, sc.clients)
	for i := range scripts {
		scripts[i] = write(c, ls.FirstIDForTest()+int64(i+1), user, 1+c.n(sc.length), sc.moving || sc.failover, sc.failover)
	}
	stop := make(chan struct{})
	var switcher, clients sync.WaitGroup
	if sc.switching {
		switcher.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 2))
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(500+rnd.IntN(4000)) * time.Microsecond):
					engine := []string{"a", "a", "b"}[rnd.IntN(3)]
					if !sc.far {
						engine = "a" // another one is another thing: see moving
					}
					backend(engine, rnd.IntN(3) > 0)
				}
			}
		})
	}
	if sc.moving {
		ls.LetTransactionsFinishForTest()
		switcher.Go(func() { moveToAndFro(t, ls, seed, stop, backend) })
	}
	if sc.failover {
		switcher.Go(func() { failOver(f, seed, stop, backend) })
	}
	problems := make([]string, len(scripts))
	for i, s := range scripts {
		near, far := clientPair(t, i)
		session := ls.Serve(netloop.Conn{FD: far}, relay.Config{})
		clients.Go(func() { problems[i] = talk(near, session, s, f, sc.failover) })
	}
	clients.Wait()
	close(stop)
	switcher.Wait()
	ls.Close()
	if server != nil {
		server.stop()
	}
	f.stop()
	for token, n := range f.done {
		if n > 1 && strings.Contains(token, ".") {
			var i, k int
			_, _ = fmt.Sscanf(token, "c%d.%d", &i, &k)
			log := scripts[i-int(ls.FirstIDForTest())-1].log
			t.Errorf("seed %d, %+v: the request with %q was executed %d times:\n%s", seed, sc, token, n, strings.Join(log[max(0, k-6):min(len(log), k+4)], "\n"))
		}
	}
	for token, n := range f.read {
		// One more for each loop in the way: a long reply is asked for again over a connection of the client's own.
		if n > 3 && strings.Contains(token, ".") {
			t.Errorf("seed %d, %+v: the read of %q was executed %d times", seed, sc, token, n)
		}
	}
	for i, p := range problems {
		if p != "" {
			t.Errorf("seed %d, %+v, client %d: %s\nit asked:\n%s", seed, sc, i+1, p, strings.Join(scripts[i].log, "\n"))
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		g, n := runtime.NumGoroutine(), openFiles(t)
		if g <= goroutines && n <= files {
			break
		}
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("seed %d: %d goroutines and %d descriptors; before there were %d and %d\n%s", seed, g, n, goroutines, files,
				buf[:runtime.Stack(buf, true)])
		}
	}
}

// moveToAndFro replaces the engine again and again.
func moveToAndFro(t *testing.T, ls *relay.Loops, seed uint64, stop chan struct{}, backend func(engine string, multiplexed bool)) {
	rnd := rand.New(rand.NewPCG(seed, 4))
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(100+rnd.IntN(2000)) * time.Microsecond):
		}
		if err := ls.Hold(context.Background(), patience, patience/2); err != nil {
			t.Errorf("seed %d: %v", seed, err)
			return
		}
		backend([]string{"a", "b"}[n%2], rnd.IntN(2) == 0)
		if c := ls.Counts(); c.MovedLost > 0 {
			t.Errorf("seed %d: %d clients were closed", seed, c.MovedLost)
			return
		}
	}
}

// failOver loses the engine again and again.
func failOver(f *fake, seed uint64, stop chan struct{}, backend func(engine string, multiplexed bool)) {
	rnd := rand.New(rand.NewPCG(seed, 5))
	for n := 1; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(100+rnd.IntN(3000)) * time.Microsecond):
		}
		hangs, next := rnd.IntN(2) == 0, fmt.Sprint("next", n)
		f.lose(hangs)
		time.Sleep(time.Duration(rnd.IntN(1+30_000*rnd.IntN(2))) * time.Microsecond)
		f.replace(next, hangs)
		backend(next, rnd.IntN(2) == 0)
	}
}

// asAnswered puts the replies that there should have been in the place of those that say that the outcome is not known. It says whether
// the last reply is not complete.
func asAnswered(got, want []byte) (all []byte, broken bool) {
	var scan, wanted resp.ReplyScanner
	for {
		n, done, err := scan.Next(got)
		if err != nil || !done {
			return append(all, got...), len(got) > 0
		}
		k, _, _ := wanted.Next(want)
		// A transaction can't be queued again if one of its requests is so long that it was passed on as it came.
		if string(got[:n]) == "-"+outcomeUnknown+"\r\n" || bytes.HasPrefix(got, []byte("-EXECABORT")) {
			all = append(all, want[:k]...)
		} else {
			all = append(all, got[:n]...)
		}
		got, want = got[n:], want[k:]
	}
}

// startRuntimePoller makes the Go runtime open the descriptors of its own poller, which it does at the first use of one.
var startRuntimePoller = sync.OnceFunc(func() {
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
})

func openFiles(t testing.TB) int {
	t.Helper()
	startRuntimePoller() // or its descriptors would look like a leak of whoever comes first
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// clientPair is a TCP connection or a Unix one in turn.
func clientPair(t testing.TB, i int) (end, int) {
	if i%2 == 0 {
		near, far := tcpPair(t)
		return near, descriptor(t, far)
	}
	near, far := unixPair(t)
	return near, descriptor(t, far)
}

// talk is a client. It returns what was wrong.
func talk(c end, session *relay.Session, s *script, f *fake, failover bool) string {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	said := make(chan struct{})
	go func() {
		defer close(said)
		rnd := rand.New(rand.NewPCG(s.seed, 3))
		left := s.requests
		if s.cut >= 0 {
			left = left[:s.cut]
		}
		most := []int{1, 20, 300, 5000, 1 << 20}[rnd.IntN(5)]
		if len(left) > 2000*most {
			most = len(left)
		}
		for len(left) > 0 {
			k := min(len(left), 1+rnd.IntN(most))
			if _, err := c.Write(left[:k]); err != nil {
				return
			}
			left = left[k:]
			switch rnd.IntN(12) {
			case 0:
				time.Sleep(time.Duration(rnd.IntN(500)) * time.Microsecond)
			case 1, 2, 3:
				runtime.Gosched()
			}
		}
		if s.cut >= 0 && rnd.IntN(2) == 0 {
			c.Close()
			return
		}
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	c.Close()
	<-said
	select {
	case <-session.Done():
	case <-time.After(patience):
		return "its session is still there"
	}
	r := session.Result()
	if failover {
		var broken bool // in the middle of a reply, which can't be mended
		if got, broken = asAnswered(got, s.replies); broken && bytes.HasPrefix(s.replies, got) {
			return ""
		}
	}
	if !bytes.HasPrefix(s.replies, got) {
		at := 0
		for at < len(got) && at < len(s.replies) && got[at] == s.replies[at] {
			at++
		}
		return fmt.Sprintf("at byte %d it was told %.300q\nand should have been %.300q\n(before that %.200q; %+v, %v)", at, got[at:],
			s.replies[at:], got[max(0, at-200):at], r, err)
	}
	complete := len(got) == len(s.replies)
	switch {
	case s.cut >= 0 || complete:
		return ""
	case f.cut.Load() > 0 && (r.Ended == relay.EngineClosed || r.Ended == relay.EngineFailed || r.Ended == relay.ClientClosed):
		return "" // its connection may be one of those that broke off
	}
	return fmt.Sprintf("it was told %d bytes of %d (%+v, %v)\nthe last: %.200q\nmissing: %.200q", len(got), len(s.replies), r, err,
		got[max(0, len(got)-200):], s.replies[len(got):])
}

// Each reply says who asked for it and in which state; a client with a connection of its own is what it must look like.
// SEALANE_RELAY_SEED repeats one run, SEALANE_RELAY_TIME makes it go on for longer. Not parallel: it counts goroutines.
func TestEveryReplyReachesWhoAsked(t *testing.T) {
	scenarios := []struct {
		name string
		scenario
	}{
		{"shared", scenario{clients: 24, length: 40, multiplexed: true}},
		{"of their own", scenario{clients: 16, length: 40}},
		{"the path changes", scenario{clients: 24, length: 60, multiplexed: true, switching: true}},
		{"the engine breaks off", scenario{clients: 24, length: 40, multiplexed: true, cutting: 6}},
		{"far, shared", scenario{clients: 24, length: 40, multiplexed: true, far: true, switching: true}},
		{"far, of their own", scenario{clients: 12, length: 40, far: true, switching: true}},
		{"far, and it breaks off", scenario{clients: 24, length: 40, multiplexed: true, far: true, switching: true, cutting: 6}},
		{"the engine is replaced, shared", scenario{clients: 24, length: 80, multiplexed: true, moving: true}},
		{"the engine is replaced, of their own", scenario{clients: 24, length: 80, moving: true}},
		{"failovers, shared", scenario{clients: 24, length: 60, multiplexed: true, failover: true}},
		{"failovers, of their own", scenario{clients: 24, length: 60, failover: true}},
		{"logins unanswered, shared", scenario{clients: 24, length: 60, multiplexed: true, mute: true}},
		{"logins unanswered, of their own", scenario{clients: 16, length: 60, mute: true}},
		{"logins unanswered, far", scenario{clients: 24, length: 40, multiplexed: true, mute: true, far: true, switching: true}},
		{"all of it", scenario{clients: 32, length: 60, multiplexed: true, cutting: 12, failing: 9, switching: true}},
	}
	until := time.Now().Add(1200 * time.Millisecond)
	if d, err := time.ParseDuration(os.Getenv("SEALANE_RELAY_TIME")); err == nil {
		until = time.Now().Add(d)
	}
	seed, fixed := uint64(time.Now().UnixNano()), false
	if n, err := strconv.ParseUint(os.Getenv("SEALANE_RELAY_SEED"), 10, 64); err == nil {
		seed, fixed = n, true
	}
	rounds := 0
	for first := true; first || !fixed && time.Now().Before(until); first = false {
		for _, sc := range scenarios {
			t.Run(sc.name, func(t *testing.T) { play(t, sc.scenario, seed, nil) })
			if t.Failed() {
				t.Fatalf("SEALANE_RELAY_SEED=%d repeats it", seed)
			}
		}
		seed++
		rounds++
	}
	t.Logf("%d rounds up to seed %d", rounds, seed-1)
}

// FuzzManyClients lets the fuzzer choose what a few clients say, and where they are cut.
func FuzzManyClients(f *testing.F) {
	f.Add(uint64(1), byte(0), []byte{5, 40, 2, 45, 3, 0, 1, 50, 0, 0})
	f.Add(uint64(2), byte(7), bytes.Repeat([]byte{31, 0, 38, 44}, 20))
	f.Add(uint64(4), byte(10), []byte("far away, RESET and SUBSCRIBE"))
	f.Add(uint64(3), byte(1), []byte("HELLO SELECT WATCH UNWATCH"))
	f.Fuzz(func(t *testing.T, seed uint64, kind byte, steer []byte) {
		sc := scenario{clients: 5, length: 24, multiplexed: kind&1 == 0, switching: kind&2 != 0, far: kind&8 != 0}
		if kind&4 != 0 {
			sc.cutting = 4
		}
		play(t, sc, seed, steer)
	})
}

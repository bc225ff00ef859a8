package relay_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// Passwords that the relay checks must look to clients like passwords of the engine's own: the same requests go to an engine that has
// them for its default user, and through a relay that has them to an engine with another password that only the relay knows.
func TestPasswordsOfTheRelayAnswerAsAnEngineWouldWithThem(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
			t.Run(path, func(t *testing.T) {
				t.Parallel()
				e := newEngineWithPasswords(t, b, multiplexed)
				for seed := range uint64(60) {
					rnd := rand.New(rand.NewPCG(seed, 7))
					e.compare(t, rnd, randomLogins(rnd))
				}
				for _, fixed := range loginStories {
					e.compare(t, rand.New(rand.NewPCG(1, 1)), strings.Split(fixed, "; "))
				}
			})
		}
	})
}

// loginStories are what the random ones are unlikely to hit.
var loginStories = []string{
	"GET k; AUTH one; SET k v; GET k; RESET; GET k; AUTH two; GET k",
	"HELLO 3; HELLO 3 AUTH default one SETNAME me; CLIENT GETNAME; SUBSCRIBE c; AUTH one; AUTH no; UNSUBSCRIBE c; GET k",
	"AUTH one; MULTI; SET k 2; EXEC; AUTH bob one; GET k; AUTH; GET k; AUTH a b c d; GET k",
	"HELLO; HELLO x; HELLO 4; HELLO 3 AUTH; HELLO 3 AUTH default; HELLO 2 nothing; HELLO 3 SETNAME; QUIT",
	"AUTH one; HELLO 3 AUTH default no SETNAME x; CLIENT GETNAME; HELLO 2 SETNAME y AUTH default two; CLIENT GETNAME; GET k",
	"AUTH one; SUBSCRIBE a; UNSUBSCRIBE a; AUTH no; GET k; RESET; PING; QUIT",
	"GET " + strings.Repeat("x", 17000) + "; GET k",
	"MSET a b c d e f g h i j k; GET k",
	"AUTH one; SET k " + strings.Repeat("x", 100_000) + "; STRLEN k; AUTH one; SET k 1",
	"QUIT; GET k",
}

// TestPasswordsOfTheRelayChangeWithoutDroppingAClient has a change of the passwords while clients are connected: those that are in stay.
func TestPasswordsOfTheRelayChangeWithoutDroppingAClient(t *testing.T) {
	for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			e := newRealEngine(t, multiplexed)
			set := func(passwords ...string) {
				e.base.Passwords = hashes(passwords...)
				e.use(multiplexed)
			}
			before := e.client()
			before.want("SET k v", "OK")
			set("one")
			before.want("GET k", "v")
			silent, in := e.client(), e.client()
			silent.want("GET k", "NOAUTH*")
			in.want("AUTH one", "OK")
			set("one", "two")
			second := e.client()
			second.want("AUTH two", "OK")
			set("two")
			in.want("GET k", "v")
			silent.want("AUTH one", "WRONGPASS*")
			silent.want("AUTH two", "OK")
			in.want("RESET", "RESET")
			in.want("GET k", "NOAUTH*")
			in.want("AUTH one", "WRONGPASS*")
			late := e.client()
			late.want("GET k", "NOAUTH*")
			set()
			late.want("GET k", "v")
			in.want("GET k", "v")
			late.want("AUTH two", "ERR AUTH <password> called without any password*") // the engine's own words
			late.want("GET k", "v")
			set("three") // whoever never logged in is not let in by the time in which nobody had to
			late.want("GET k", "NOAUTH*")
			late.want("AUTH three", "OK")
			before.want("GET k", "v")
		})
	}
}

// TestNoPasswordOfTheRelayReachesTheServer looks at all that the server gets.
func TestNoPasswordOfTheRelayReachesTheServer(t *testing.T) {
	for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			e := newRealEngine(t, multiplexed)
			heard := &recorder{}
			e.base.Dial, e.base.Passwords = heard.dial(t, e.socket), hashes("sesame-1")
			e.use(multiplexed)
			k := e.client()
			for _, ask := range []string{
				"AUTH sesame-1", "AUTH default sesame-1", "HELLO 3 AUTH default sesame-1", "HELLO 2 AUTH default sesame-1 SETNAME n",
				"MULTI", "AUTH sesame-1", "HELLO 3 AUTH default sesame-1", "EXEC", "SUBSCRIBE c", "AUTH sesame-1", "UNSUBSCRIBE c", "AUTH bob sesame-1",
			} {
				k.do(ask)
			}
			k.want("ECHO the-end", "the-end")
			if said := heard.String(); strings.Contains(said, "sesame") || !strings.Contains(said, "the-end") {
				t.Fatalf("the server was told %q", said)
			}
		})
	}
}

// recorder keeps what is said to a server.
type recorder struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(b)
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

// dial is a Backend.Dial of the server at a Unix socket.
func (r *recorder) dial(t *testing.T, socket string) func(context.Context) (netloop.Conn, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	t.Cleanup(open.Wait)
	t.Cleanup(func() { ln.Close() })
	open.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", socket)
			if err != nil {
				near.Close()
				continue
			}
			context.AfterFunc(t.Context(), func() { near.Close() })
			open.Go(func() {
				_, _ = io.Copy(io.MultiWriter(r, far), near)
				far.Close()
			})
			open.Go(func() {
				_, _ = io.Copy(near, far)
				near.Close()
			})
		}
	})
	return dialPlain("tcp", ln.Addr().String())
}

// withPasswords is an engine with passwords of its own beside one whose passwords the relay checks.
type withPasswords struct {
	oracle  *realEngine
	guarded *realEngine
}

func newEngineWithPasswords(t *testing.T, b engine.Binary, multiplexed bool) withPasswords {
	t.Helper()
	e := withPasswords{newEngineOf(t, b, multiplexed), newEngineOf(t, b, multiplexed)}
	newTalker(t, e.oracle.dialEngine()).want("ACL SETUSER default resetpass >one >two", "OK")
	newTalker(t, e.guarded.dialEngine()).want("ACL SETUSER default resetpass >of-the-server", "OK")
	socket := e.guarded.socket
	e.guarded.base = relay.Backend{
		Engine: "b", ConnectTimeout: patience, Multiplexed: multiplexed, Login: []string{"of-the-server"}, Passwords: hashes("one", "two"),
		Name: "relay", Dial: dialPlain("unix", socket),
	}
	e.guarded.loops = loops(t)
	e.guarded.use(multiplexed)
	return e
}

func hashes(passwords ...string) (all routing.Passwords) {
	for _, p := range passwords {
		all = append(all, sha256.Sum256([]byte(p)))
	}
	return all
}

func randomLogins(rnd *rand.Rand) (all []string) {
	words := []string{
		"AUTH one", "AUTH two", "AUTH no", "AUTH default one", "AUTH bob one", "HELLO 3", "HELLO 2 AUTH default two", "HELLO 3 AUTH default no",
		"HELLO 3 AUTH default one SETNAME s", "RESET", "GET k", "SET k v", "INCR n", "MULTI", "EXEC", "DISCARD", "PING", "SELECT 2", "SELECT 0",
		"LRANGE l 0 9", "GET k", "ECHO word",
	}
	queuing := false
	for range 3 + rnd.IntN(20) {
		w := words[rnd.IntN(len(words))]
		if queuing && (strings.HasPrefix(w, "AUTH") || strings.HasPrefix(w, "HELLO")) {
			continue // a password in a transaction is refused: TestNoPasswordOfTheRelayReachesTheServer
		}
		switch {
		case w == "MULTI":
			queuing = true
		case w == "EXEC", w == "DISCARD", w == "RESET":
			queuing = false
		}
		all = append(all, w)
	}
	return all
}

// compare says the same to both, cut at random, and compares the answers.
func (e withPasswords) compare(t *testing.T, rnd *rand.Rand, requests []string) {
	t.Helper()
	var all []byte
	for _, r := range requests {
		all = resp.AppendCommand(all, strings.Fields(r)...)
	}
	// Redis 7.2 to 8.8 do not answer a failed login behind other requests: there is nothing to compare with.
	pipelined := rnd.IntN(2) == 0 && !bytes.Contains(all, []byte("\r\nno\r\n")) && !bytes.Contains(all, []byte("\r\nbob\r\n"))
	var answers [2][]string
	for i, k := range []*talker{newTalker(t, e.oracle.dialEngine()), e.guarded.client()} {
		newTalker(t, [2]*realEngine{e.oracle, e.guarded}[i].admin(t)).want("FLUSHALL", "OK")
		if pipelined {
			go func() {
				for left := all; len(left) > 0; {
					n := 1 + rand.IntN(min(len(left), 4000))
					if _, err := k.c.Write(left[:n]); err != nil {
						return
					}
					left = left[n:]
				}
			}()
		}
		for _, r := range requests {
			if !pipelined {
				_ = k.send(strings.Fields(r)...)
			}
			answers[i] = append(answers[i], normalised(fmt.Sprintf("%.60s: %s", r, k.next())))
		}
		k.c.Close()
	}
	for i, want := range answers[0] {
		if got := answers[1][i]; got != want {
			t.Fatalf("pipelined %t, %.300q:\n got %s\nwant %s", pipelined, requests, got, want)
		}
	}
}

var idOfHello = regexp.MustCompile(`id \d+`)

// normalised leaves out in what engines differ among themselves: ids, and what HELLO recommends.
func normalised(reply string) string {
	reply, _, _ = strings.Cut(idOfHello.ReplaceAllString(reply, "id N"), ", otherwise the HELLO")
	return reply
}

// admin is a connection that may do everything.
func (e *realEngine) admin(t *testing.T) net.Conn {
	t.Helper()
	c := e.dialEngine()
	k := newTalker(t, c)
	if got := k.do("AUTH of-the-server"); got != "OK" {
		k.want("AUTH one", "OK")
	}
	return c
}

// A client that may not do anything yet has said who it is all the same: a probe never logs in.
func TestLibraryIsKnownBeforeTheLogin(t *testing.T) {
	for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			e := newRealEngine(t, multiplexed)
			e.base.Passwords = hashes("one")
			e.use(multiplexed)
			k := e.client()
			k.want("CLIENT SETINFO LIB-NAME a-probe", "NOAUTH*")
			if got := k.session.Client().Library; got != "a-probe" {
				t.Errorf("the client's library is %q", got)
			}
			k.want("client setinfo lib-ver 1.0", "NOAUTH*")
			if got := k.session.Client().Library; got != "a-probe" {
				t.Errorf("the client's library is %q after its version", got)
			}
		})
	}
}

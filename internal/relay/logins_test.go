package relay_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/resp"
)

// A hundred clients log in with right, wrong and changing passwords, as one user after the other, in the middle of pipelines
// about keys of their own. Every request is answered, every login too, and every answer is that client's own: Redis 7.2 to
// 8.8 and Valkey 7.2 to 8.1.1 leave a failed AUTH unanswered while replies are pending, which must shift nobody's replies.
//
// SEALANE_LOGINS is how long it goes on in each case, as in 10m; the cases then run at the same time (-parallel says how
// many). SEALANE_RELAY_SEED repeats what the clients choose.
func TestLoginsReachWhoAsked(t *testing.T) {
	length, long := 700*time.Millisecond, false
	if d, err := time.ParseDuration(os.Getenv("SEALANE_LOGINS")); err == nil {
		length, long = d, true
	}
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("SEALANE_RELAY_SEED"), 10, 64); err == nil {
		seed = n
	}
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		for _, tc := range []struct {
			name                string
			multiplexed, closed bool // closed: the default user has a password
		}{
			{"multiplexed, AUTH on", true, true},
			{"multiplexed, AUTH off", true, false},
			{"transparent, AUTH on", false, true},
			{"transparent, AUTH off", false, false},
		} {
			t.Run(tc.name, func(t *testing.T) {
				if long {
					t.Parallel()
				}
				l := &logins{engine: newEngineOf(t, b, tc.multiplexed), closed: tc.closed, seed: seed, until: time.Now().Add(length)}
				l.run(t)
			})
		}
	})
}

// loginUsers are the engine's users. Nobody may SET but those that have no "-set".
var loginUsers = []struct{ name, rules string }{
	{"default", "~* &* +@all"},
	{"anna", "~* &* +@all"},
	{"ben", "~* &* +@all"},
	{"reader", "~* &* +@all -set"},
}

// logins is one run.
type logins struct {
	engine *realEngine
	closed bool
	seed   uint64
	until  time.Time

	// mu is held for reading while a batch of requests is under way, and for writing while a password is taken away.
	mu         sync.RWMutex
	generation [4]int // of each user's password; the one before is refused

	batches, answered, refused, ended, changes atomic.Int64
}

func (l *logins) password(user, generation int) string {
	return fmt.Sprintf("pw-%s-%d", loginUsers[user].name, generation)
}

func (l *logins) run(t *testing.T) {
	admin := l.dialEngine(t)
	for n, u := range loginUsers {
		password := ">" + l.password(n, 0)
		if n == 0 && !l.closed {
			password = "nopass"
		}
		admin.want("ACL SETUSER "+u.name+" reset on "+password+" "+u.rules, "OK")
	}
	// The administrator's own user, so that the default user's password can change.
	admin.want("ACL SETUSER admin reset on >admin ~* &* +@all", "OK")
	admin.want("AUTH admin admin", "OK")

	var clients sync.WaitGroup
	for i := range 100 {
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(l.seed, uint64(i)))
			for time.Now().Before(l.until) && !t.Failed() {
				if wrong := l.client(fmt.Sprintf("c%d.%d", i, rnd.Uint32()), rnd); wrong != "" {
					t.Errorf("client %d: %s", i, wrong)
				}
			}
		})
	}
	rnd := rand.New(rand.NewPCG(l.seed, 1000))
	for time.Now().Before(l.until) && !t.Failed() {
		l.change(admin, rnd)
		time.Sleep(time.Duration(20+rnd.IntN(200)) * time.Millisecond) // how often passwords change
	}
	clients.Wait()
	t.Logf("%d batches, %d logins let in, %d refused, %d changes of a password, %d clients disconnected by them; seed %d",
		l.batches.Load(), l.answered.Load(), l.refused.Load(), l.changes.Load(), l.ended.Load(), l.seed)
	if l.answered.Load() == 0 || l.refused.Load() == 0 || l.changes.Load() == 0 {
		t.Error("not everything was tried")
	}
}

// dialEngine talks to the engine itself.
func (l *logins) dialEngine(t *testing.T) *talker {
	t.Helper()
	c, err := net.Dial("unix", l.engine.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return newTalker(t, c)
}

// change gives one user a new password, and takes the old one away while nobody is about to log in with it.
func (l *logins) change(admin *talker, rnd *rand.Rand) {
	user := rnd.IntN(len(loginUsers))
	if user == 0 && !l.closed {
		user = 1
	}
	admin.want("ACL SETUSER "+loginUsers[user].name+" >"+l.password(user, l.generation[user]+1), "OK")
	l.mu.Lock()
	defer l.mu.Unlock()
	admin.want("ACL SETUSER "+loginUsers[user].name+" <"+l.password(user, l.generation[user]), "OK")
	l.generation[user]++
	l.changes.Add(1)
}

// visitor is one connection of a client, and what the engine must think of it.
type visitor struct {
	l    *logins
	rnd  *rand.Rand
	key  string
	name string
	db   int
	user int // -1: nobody yet
	// generation is that of the password that let it in; -1: none was asked for.
	generation int
	values     map[int]string // of its key, by database
	n          int
	owed       int // bytes of replies, at most, while it is nobody

	requests []byte
	expected []expectation
}

// expectation is what a request must be answered with: all of it, or its beginning where it ends in "*".
type expectation struct{ asked, want string }

// client is one connection from its first request to its last. It returns what was wrong.
func (l *logins) client(key string, rnd *rand.Rand) string {
	k := l.engine.client()
	defer func() {
		k.c.Close()
		<-k.session.Done()
	}()
	v := &visitor{l: l, rnd: rnd, key: key, values: map[int]string{}}
	v.reset()
	for range 5 + rnd.IntN(60) {
		if time.Now().After(l.until) {
			break
		}
		if wrong, over := v.batch(k); wrong != "" || over {
			return wrong
		}
	}
	return ""
}

// batch sends some requests, mostly in one write, and checks every answer.
func (v *visitor) batch(k *talker) (wrong string, over bool) {
	v.l.mu.RLock()
	defer v.l.mu.RUnlock()
	lost := v.lostItsLogin()
	v.requests, v.expected = v.requests[:0], v.expected[:0]
	v.owed = 0
	for range 1 + v.rnd.IntN(12)*v.rnd.IntN(4) {
		// The engine disconnects who has not logged in and has more than 1 kB of replies to read.
		if v.owed < 700 {
			v.ask()
		}
	}
	_ = k.c.SetDeadline(time.Now().Add(patience))
	sent := make(chan struct{})
	go func() { // a pipeline may be answered while it is still being written
		defer close(sent)
		left := v.requests
		if cut := v.rnd.IntN(3 * len(left)); cut < len(left) {
			_, _ = k.c.Write(left[:cut])
			left = left[cut:]
		}
		_, _ = k.c.Write(left)
	}()
	defer func() { <-sent }()
	for n, e := range v.expected {
		got := k.next()
		if got == e.want || strings.HasSuffix(e.want, "*") && strings.HasPrefix(got, strings.TrimSuffix(e.want, "*")) {
			continue
		}
		if got == "closed" && lost {
			v.l.ended.Add(1)
			return "", true
		}
		return fmt.Sprintf("%s: got %.200q, want %.200q; it was number %d of %d, behind %.500q", e.asked, got, e.want, n+1,
			len(v.expected), v.expected[max(0, n-4):n]), true
	}
	v.l.batches.Add(1)
	return "", false
}

// lostItsLogin says that the password that let it in is no longer accepted: it is disconnected when it needs a connection
// on which it would have to log in again.
func (v *visitor) lostItsLogin() bool {
	return v.user >= 0 && v.generation >= 0 && v.generation != v.l.generation[v.user]
}

func (v *visitor) add(want string, args ...string) {
	if v.user < 0 {
		v.owed += len("-WRONGPASS invalid username-password pair or user is disabled.\r\n")
	}
	v.requests = resp.AppendCommand(v.requests, args...)
	v.expected = append(v.expected, expectation{strings.Join(args, " "), want})
}

// may adds a request for which one has to be logged in.
func (v *visitor) may(want string, args ...string) {
	if v.user < 0 {
		want = "NOAUTH*"
	}
	v.add(want, args...)
}

func (v *visitor) reset() {
	v.user, v.generation, v.db, v.name = 0, -1, 0, "nil"
	if v.l.closed {
		v.user = -1
	}
}

// ask adds the next request, or the next few that belong together.
func (v *visitor) ask() {
	v.n++
	token := fmt.Sprintf("%s#%d", v.key, v.n)
	value := v.values[v.db]
	if value == "" {
		value = "nil"
	}
	switch v.rnd.IntN(20) {
	case 0, 1, 2, 3:
		v.may(value, "GET", v.key)
	case 4, 5:
		v.set(token)
	case 6, 7:
		v.may(token, "ECHO", token)
	case 8, 9, 10:
		v.login(nil)
	case 11, 12:
		v.hello(token)
	case 13:
		v.add("RESET", "RESET")
		v.reset()
	case 14:
		db := v.rnd.IntN(3)
		v.may("OK", "SELECT", strconv.Itoa(db))
		if v.user >= 0 {
			v.db = db
		}
	case 15:
		v.may("OK", "CLIENT", "SETNAME", token)
		if v.user >= 0 {
			v.name = token
		}
		v.may(v.name, "CLIENT", "GETNAME")
	case 16:
		v.may(v.whoami(), "ACL", "WHOAMI")
	case 17:
		v.may("["+token+"]", "EVAL", "return {ARGV[1]}", "0", token)
	case 18:
		v.may("OK", "MULTI")
		v.may("QUEUED", "GET", v.key)
		v.may("QUEUED", "ECHO", token)
		if v.user < 0 {
			v.add("EXECABORT*", "EXEC")
		} else {
			v.add("["+value+" "+token+"]", "EXEC")
		}
	default:
		list := v.key + "-list" + strconv.Itoa(v.n)
		v.may("1", "RPUSH", list, token)
		v.may("["+list+" "+token+"]", "BLPOP", list, "0")
	}
}

func (v *visitor) whoami() string { return loginUsers[max(v.user, 0)].name }

func (v *visitor) set(token string) {
	if v.user >= 0 && strings.Contains(loginUsers[v.user].rules, "-set") {
		v.add("NOPERM*", "SET", v.key, token)
		return
	}
	v.may("OK", "SET", v.key, token)
	if v.user >= 0 {
		v.values[v.db] = token
	}
}

// credentials chooses a user and a password, and says whether they are right.
func (v *visitor) credentials() (user int, password string, right bool) {
	user = v.rnd.IntN(len(loginUsers))
	generation := v.l.generation[user]
	switch v.rnd.IntN(5) {
	case 0:
		return user, "wrong-" + v.key, user == 0 && !v.l.closed
	case 1:
		if generation > 0 { // the one before
			return user, v.l.password(user, generation-1), user == 0 && !v.l.closed
		}
	case 2: // one that is not to be yet
		return user, v.l.password(user, generation+2), user == 0 && !v.l.closed
	}
	return user, v.l.password(user, generation), true
}

// login adds AUTH, or what comes before and behind the same words in another command.
func (v *visitor) login(around func(words ...string) (want string, args []string)) {
	user, password, right := v.credentials()
	want, args := "OK", []string{"AUTH", loginUsers[user].name, password}
	if around != nil {
		want, args = around(args...)
	} else if user == 0 && v.l.closed && v.rnd.IntN(2) == 0 {
		args = []string{"AUTH", password}
	}
	if !right {
		v.l.refused.Add(1)
		v.add("WRONGPASS*", args...)
		return
	}
	v.l.answered.Add(1)
	v.add(want, args...)
	v.user, v.generation = user, v.l.generation[user]
	if user == 0 && !v.l.closed {
		v.generation = -1
	}
}

// hello adds HELLO, mostly with a login.
func (v *visitor) hello(token string) {
	protocol := strconv.Itoa(2 + v.rnd.IntN(2))
	if v.rnd.IntN(3) == 0 {
		v.may("[server*", "HELLO", protocol)
		return
	}
	named := v.rnd.IntN(2) == 0
	v.login(func(words ...string) (string, []string) {
		args := append([]string{"HELLO", protocol}, words...)
		if named {
			args = append(args, "SETNAME", token)
		}
		return "[server*", args
	})
	if named && v.expected[len(v.expected)-1].want == "[server*" {
		v.name = token
	}
}

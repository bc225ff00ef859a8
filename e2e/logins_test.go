package e2e_test

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
)

// SEALANE_LOGINS is how long TestLoginsOverTLS runs in each case, such as 10m; the test then has a hundred clients. It is read here
// because TestMain removes Sealane's variables from the environment.
var loginsTime = os.Getenv("SEALANE_LOGINS")

// Clients that log in with right, wrong and changing passwords in the middle of pipelines each get all of their own replies, also
// with an engine that does not answer a failed login while replies are pending. internal/relay/logins_test.go has more users.
// This test adds TLS, the gateway, sidecars and a password that is rotated.
func TestLoginsOverTLS(t *testing.T) {
	t.Parallel()
	length, clients := time.Second, 25
	if loginsTime != "" {
		var err error
		if length, err = time.ParseDuration(loginsTime); err != nil {
			t.Fatalf("SEALANE_LOGINS: %v", err)
		}
		clients = 100
	}
	onEveryEngine(t, func(t *testing.T, e testEngine) {
		s := startServer(t, serverOptions{config: e.config()})
		for _, path := range append(dataPaths, throughSidecar) {
			for name, flags := range map[string][]string{"AUTH-on": {"--enable-auth"}, "AUTH-off": nil} {
				if loginsTime == "" && path == "transparent" && flags == nil {
					continue // the other cases cover it
				}
				t.Run(path+"/"+name, func(t *testing.T) {
					l := newLogins(t, s, path, strings.ToLower(path[:1]+name), flags)
					l.run(t, clients, time.Now().Add(length))
				})
			}
		}
	})
}

// logins has what the clients of one run share.
type logins struct {
	dial     func() (*wire, error)
	locked   bool
	rotate   func()
	mu       sync.RWMutex // held for writing while the password changes
	password string

	requests, refused atomic.Int64
}

func newLogins(t *testing.T, s *server, path, name string, flags []string) *logins {
	t.Helper()
	through := path
	if path == throughSidecar {
		through = "multiplexed" // the sidecar multiplexes by itself, whatever the instance behind it does
	}
	i := s.createOn(through, name, flags...)
	config := verified(t, i, s.bundle(name))
	l := &logins{dial: func() (*wire, error) { return dialTLS(i, config) }, locked: i.AuthEnabled, rotate: func() {}}
	if path == throughSidecar {
		c := s.startSidecar("--instance", name, "--auth", "none")
		l.dial = func() (*wire, error) {
			conn, err := net.DialTimeout("tcp", c.address, wireTimeout)
			return &wire{Conn: conn}, err
		}
	}
	if l.locked {
		l.password = strings.TrimSpace(s.cli("instances", "get-auth-string", name))
		l.rotate = func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			s.cli("instances", "rotate-auth-string", name, "--grace", "1h")
			l.password = strings.TrimSpace(s.cli("instances", "get-auth-string", name))
		}
	}
	return l
}

func (l *logins) run(t *testing.T, clients int, until time.Time) {
	seed := rand.Uint64()
	var all sync.WaitGroup
	for n := range clients {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(n)))
			for time.Now().Before(until) && !t.Failed() {
				if wrong := l.client(rnd, fmt.Sprintf("c%d-%d", n, rnd.Uint32()), until); wrong != "" {
					t.Errorf("client %d: %s", n, wrong)
				}
			}
		})
	}
	for pause := max(time.Until(until)/4, 200*time.Millisecond); time.Until(until) > pause && !t.Failed(); {
		time.Sleep(pause) // the interval between two changes of the password
		l.rotate()
	}
	all.Wait()
	t.Logf("%d requests, %d logins refused", l.requests.Load(), l.refused.Load())
	if l.refused.Load() == 0 {
		t.Error("no login was refused")
	}
}

// loginClient is one connection, with the state that the engine must have for it.
type loginClient struct {
	l         *logins
	rnd       *rand.Rand
	key       string
	in        bool
	protocol  int
	db, count int
	values    map[int]string

	lines, wants []string
	bytes        []byte
}

// client runs one connection from its first request to its last, and returns what was wrong.
func (l *logins) client(rnd *rand.Rand, key string, until time.Time) string {
	w, err := l.dial()
	if err != nil {
		return err.Error()
	}
	defer w.Close()
	c := &loginClient{l: l, rnd: rnd, key: key, in: !l.locked, protocol: 2, values: map[int]string{}}
	for range 5 + rnd.IntN(40) {
		if time.Now().After(until) {
			break
		}
		if wrong := c.batch(w); wrong != "" {
			return wrong
		}
	}
	return ""
}

// batch sends a pipeline and checks every answer.
func (c *loginClient) batch(w *wire) string {
	c.l.mu.RLock()
	defer c.l.mu.RUnlock()
	c.lines, c.wants, c.bytes = c.lines[:0], c.wants[:0], c.bytes[:0]
	for range 1 + c.rnd.IntN(14) { // more than 1 kB of pending replies makes the engine disconnect a client that has not logged in
		c.ask()
	}
	w.send(c.bytes)
	for n, want := range c.wants {
		got := string(w.frames(1))
		if got != want && !(strings.HasSuffix(want, "…") && strings.HasPrefix(got, strings.TrimSuffix(want, "…"))) {
			return fmt.Sprintf("%s: got %.200q, want %.200q, behind %q", c.lines[n], got, want, c.lines[max(0, n-4):n])
		}
		c.l.requests.Add(1)
	}
	return ""
}

func (c *loginClient) add(shown, want string, words ...string) {
	c.lines, c.wants, c.bytes = append(c.lines, shown), append(c.wants, want), append(c.bytes, command(words...)...)
}

// may adds a request that needs a login.
func (c *loginClient) may(want string, words ...string) {
	if !c.in {
		want = "-NOAUTH…"
	}
	c.add(strings.Join(words, " "), want, words...)
}

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }

// ask adds the next request.
func (c *loginClient) ask() {
	c.count++
	token := c.key + "#" + strconv.Itoa(c.count)
	value := "$-1\r\n"
	if c.protocol == 3 {
		value = "_\r\n"
	}
	if v := c.values[c.db]; v != "" {
		value = bulk(v)
	}
	switch c.rnd.IntN(12) {
	case 0, 1:
		c.may("+OK\r\n", "SET", c.key, token)
		if c.in {
			c.values[c.db] = token
		}
	case 2, 3, 4:
		c.may(value, "GET", c.key)
	case 5:
		c.may(bulk(token), "ECHO", token)
	case 6, 7:
		c.login("+OK\r\n", "AUTH")
	case 8:
		protocol := 2 + c.rnd.IntN(2)
		if c.login([]string{"*…", "%…"}[protocol-2], "HELLO", strconv.Itoa(protocol), "AUTH") {
			c.protocol = protocol
		}
	case 9:
		c.add("RESET", "+RESET\r\n", "RESET")
		c.in, c.protocol, c.db = !c.l.locked, 2, 0
	case 10:
		db := c.rnd.IntN(3)
		c.may("+OK\r\n", "SELECT", strconv.Itoa(db))
		if c.in {
			c.db = db
		}
	default:
		c.may("*1\r\n"+bulk(token), "EVAL", "return {ARGV[1]}", "0", token)
	}
}

// login adds a login that is right or wrong, and says which.
func (c *loginClient) login(want string, words ...string) bool {
	user, password := "default", c.l.password
	if wrong := c.rnd.IntN(5); wrong == 0 || wrong == 1 && !c.l.locked {
		user = "nobody"
	} else if wrong == 1 {
		password = "wrong-" + c.key
	} else if !c.l.locked {
		password = "any"
	}
	right := user == "default" && (password == c.l.password || !c.l.locked)
	if right {
		c.in = true
	} else {
		want = "-WRONGPASS…"
		c.l.refused.Add(1)
	}
	shown := strings.Join(words, " ") + " " + user + map[bool]string{true: " (right)", false: " (wrong)"}[right]
	c.add(shown, want, append(words, user, password)...)
	return right
}

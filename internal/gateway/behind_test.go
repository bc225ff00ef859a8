package gateway_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/resp"
)

const backendPassword = "backend-pass-1"

// toBackend is a snapshot with a backend in place of the engine.
func (w *world) toBackend(generation uint64, s backend.Server, path gateway.DataPath) gateway.Snapshot {
	snapshot := w.snapshot(generation)
	snapshot.Engine, snapshot.Backend, snapshot.DataPath = "", &s, path
	return snapshot
}

func withBackend(t testing.TB, s backend.Server, path gateway.DataPath) *world {
	t.Helper()
	w := newWorld(t)
	w.run()
	w.apply(w.toBackend(1, s, path))
	t.Cleanup(func() {
		if log := w.log.String(); strings.Contains(log, backendPassword) {
			t.Errorf("the backend's password is in the log:\n%s", log)
		}
	})
	return w
}

// asker is a client that asks over TLS.
type asker struct {
	t testing.TB
	c *tls.Conn
	*resp.Client
}

func (w *world) asker() *asker {
	c := w.dial()
	return &asker{w.t, c, resp.NewClient(c, 1<<20)}
}

// want asks and compares; a * at the end of want stands for anything.
func (c *asker) want(words, want string) {
	c.t.Helper()
	v, err := c.Do(c.t.Context(), strings.Fields(words)...)
	got := v.Str
	switch {
	case err != nil && !v.IsError():
		got = "closed: " + err.Error()
	case v.Kind == resp.Integer:
		got = fmt.Sprint(v.Int)
	case v.IsNull:
		got = "nil"
	case len(v.Elems) > 0 || v.Kind == resp.Array || v.Kind == resp.Map || v.Kind == resp.Push:
		var all []string
		for _, e := range v.Elems {
			all = append(all, e.Str)
		}
		got = strings.Join(all, " ")
	}
	if got != want && !(strings.HasSuffix(want, "*") && strings.HasPrefix(got, strings.TrimSuffix(want, "*"))) {
		c.t.Errorf("%s: %.300q; want %q", words, got, want)
	}
}

// eachPath runs a test on both data paths.
func eachPath(t *testing.T, test func(t *testing.T, path gateway.DataPath)) {
	for _, path := range []gateway.DataPath{gateway.Transparent, gateway.Multiplexed} {
		t.Run(string(path), func(t *testing.T) { test(t, path) })
	}
}

// Every version that answers must serve clients as it does without a gateway, over TCP and over a socket.
func TestClientsOfABackendOfEachVersion(t *testing.T) {
	enginetest.EachBackend(t, func(t *testing.T, binary string) {
		eachPath(t, func(t *testing.T, path gateway.DataPath) {
			t.Parallel()
			for _, socket := range []bool{false, true} {
				e := enginetest.Run(t, binary, "--requirepass", backendPassword)
				address := e.Address
				if socket {
					address = "unix:" + e.Socket
				}
				w := withBackend(t, backend.Server{Address: address, Password: backendPassword}, path)
				a, b := w.asker(), w.asker()
				a.want("SET k v", "OK")
				b.want("GET k", "v")
				a.want("MSET a 1 b 2 c 3 d 4 e 5 f 6", "OK") // more words than who has not logged in may say
				a.want("SET big "+strings.Repeat("x", 100_000), "OK")
				b.want("STRLEN big", "100000")
				a.want("MULTI", "OK")
				a.want("INCR n", "QUEUED")
				b.want("GET n", "nil")
				a.want("EXEC", "*")
				b.want("DEL n", "1")
				a.want("SELECT 3", "OK")
				a.want("GET k", "nil")
				b.want("GET k", "v")
				b.want("EVAL return(redis.call('get','k')) 0", "v")
				a.want("CLIENT SETNAME worker", "OK")
				a.want("CLIENT GETNAME", "worker")
				b.want("CLIENT GETNAME", "nil*")
				b.want("SUBSCRIBE news", "subscribe news *")
				a.want("PUBLISH news hello", "1")
				a.want("NOSUCH x", "ERR unknown command *")
				a.want("SELECT 0", "OK")
				for range 3 { // a login that fails logs out, before Redis 6.0
					wrong, next := w.asker(), w.asker()
					wrong.want("AUTH wrong", "*")
					next.want("MULTI", "OK") // over the same connection, where that is possible
					next.want("GET k", "QUEUED")
					next.want("EXEC", "v")
					wrong.want("AUTH "+backendPassword, "OK")
					wrong.want("AUTH wrong", "*")
					next.want("AUTH "+backendPassword, "OK")
					next.want("MULTI", "OK")
					next.want("GET k", "QUEUED")
					next.want("EXEC", "v")
					wrong.c.Close()
					next.c.Close()
				}
				a.want("AUTH "+backendPassword, "OK")
				a.want("GET k", "v")
				wantClients(t, a, 2)
			}
		})
	})
}

// wantClients wants CLIENT LIST to have one line for each client.
func wantClients(t *testing.T, c *asker, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("CLIENT LIST shows %d clients", n), func() bool {
		v, err := c.Do(t.Context(), "CLIENT", "LIST")
		return err == nil && strings.Count(v.Str, "\n") == n
	})
}

// The gateway logs in for those who don't; who does is another user of the backend.
func TestUsersOfABackend(t *testing.T) {
	e := enginetest.Run(t, enginetest.All(t)[0].Path)
	e.Do("ACL", "SETUSER", "gateway", "on", ">"+backendPassword, "~*", "&*", "+@all")
	e.Do("ACL", "SETUSER", "reader", "on", ">reading", "~*", "+@read", "+@connection", "+acl|whoami")
	e.Do("ACL", "SETUSER", "default", "resetpass", ">of-default", "-@all", "+@connection", "+acl|whoami")
	eachPath(t, func(t *testing.T, path gateway.DataPath) {
		t.Parallel()
		w := withBackend(t, backend.Server{Address: e.Address, User: "gateway", Password: backendPassword}, path)
		a, b := w.asker(), w.asker()
		a.want("ACL WHOAMI", "gateway")
		b.want("AUTH reader wrong", "WRONGPASS*")
		b.want("ACL WHOAMI", "gateway")
		b.want("AUTH reader reading", "OK")
		b.want("ACL WHOAMI", "reader")
		b.want("SET k v", "NOPERM*")
		b.want("AUTH of-default", "OK")
		b.want("ACL WHOAMI", "default")
		b.want("HELLO 3 AUTH reader reading", "*")
		b.want("ACL WHOAMI", "reader")
		b.want("RESET", "RESET")
		b.want("ACL WHOAMI", "gateway")
		a.want("SET k v", "OK")

		noLogin := withBackend(t, backend.Server{Address: e.Address}, path)
		c := noLogin.asker()
		c.want("GET k", "NOAUTH*")
		c.want("AUTH reader reading", "OK")
		c.want("ACL WHOAMI", "reader")
		d := noLogin.asker()
		d.want("GET k", "NOAUTH*")
	})
}

// An AUTH string of Sealane's is checked by the gateway, and the backend's own users are out of reach.
func TestAuthStringInFrontOfABackend(t *testing.T) {
	enginetest.EachBackend(t, func(t *testing.T, binary string) {
		eachPath(t, func(t *testing.T, path gateway.DataPath) {
			t.Parallel()
			e := enginetest.Run(t, binary, "--requirepass", backendPassword)
			w := newWorld(t)
			w.run()
			s := w.toBackend(1, backend.Server{Address: e.Address, Password: backendPassword}, path)
			s.Passwords = []string{hashOf("one")}
			w.apply(s)
			a, b := w.asker(), w.asker()
			a.want("GET k", "NOAUTH*")
			a.want("AUTH "+backendPassword, "WRONGPASS*")
			a.want("AUTH one", "OK")
			a.want("SET k v", "OK")
			a.want("AUTH "+backendPassword, "WRONGPASS*")
			a.want("GET k", "v")
			b.want("GET k", "NOAUTH*")
			s.Generation, s.Passwords = 2, []string{hashOf("two"), hashOf("one")}
			w.apply(s)
			a.want("GET k", "v")
			b.want("AUTH default two", "OK")
			b.want("GET k", "v")
			s.Generation, s.Passwords = 3, []string{hashOf("two")}
			w.apply(s)
			a.want("GET k", "v")
			w.asker().want("AUTH one", "WRONGPASS*")
			if snapshot, err := os.ReadFile(filepath.Join(w.dir, "snapshot.json")); err != nil || strings.Contains(string(snapshot), `"two"`) {
				t.Errorf("%v, %s", err, snapshot)
			}
		})
	})
}

func hashOf(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}

// A hundred clients stay connected while their backend is killed and started again. A request fails only if it was under way: it may
// have been executed, so it is never sent twice.
func TestClientsStayThroughARestartOfTheirBackend(t *testing.T) {
	eachPath(t, func(t *testing.T, path gateway.DataPath) {
		t.Parallel()
		e := enginetest.Run(t, enginetest.All(t)[0].Path, "--requirepass", backendPassword)
		w := withBackend(t, backend.Server{Address: e.Address, Password: backendPassword}, path)
		idle, busy := w.askers(50), w.askers(50)
		var stop atomic.Bool
		var asked, lost, loading, refused atomic.Int64
		var clients sync.WaitGroup
		for _, c := range busy {
			clients.Go(func() {
				for !stop.Load() {
					v, err := c.Do(context.Background(), "INCR", "n")
					switch {
					case err == nil:
						asked.Add(1)
					case strings.HasPrefix(v.Str, "LOADING "): // the backend's own words
						loading.Add(1)
					case v.IsError():
						refused.Add(1)
					default:
						lost.Add(1)
						c = w.asker()
					}
				}
			})
		}
		eventually(t, "clients ask", func() bool { return asked.Load() > 500 })
		e.Kill()
		e.Start()
		before := asked.Load()
		eventually(t, "clients ask again", func() bool { return asked.Load() > before+500 })
		stop.Store(true)
		clients.Wait()
		for _, c := range idle {
			c.want("PING", "PONG")
		}
		t.Logf("%d requests; %d connections lost of 50 with a request under way, %d answered LOADING, %d refused", asked.Load(), lost.Load(), loading.Load(), refused.Load())
		if lost.Load() > 50 || refused.Load() > 0 {
			t.Errorf("%d connections were lost, %d requests refused", lost.Load(), refused.Load())
		}
	})
}

func (w *world) askers(n int) (all []*asker) {
	for range n {
		c := w.asker()
		c.want("PING", "PONG")
		all = append(all, c)
	}
	return all
}

// The address, the password and TLS change while clients are connected, who go on with the new ones.
func TestABackendIsChangedWithoutDroppingAClient(t *testing.T) {
	eachPath(t, func(t *testing.T, path gateway.DataPath) {
		t.Parallel()
		binary := enginetest.All(t)[0].Path
		ca := certtest.NewAuthority(t, "Backend CA")
		one, two := enginetest.Run(t, binary, "--requirepass", backendPassword), tlsBackend(t, binary, ca)
		one.Do(backendPassword, "--", "SET", "where", "one")
		two.Do("SET", "where", "two")
		w := withBackend(t, backend.Server{Address: one.Address, Password: backendPassword}, path)
		all := w.askers(20)
		for _, c := range all {
			c.want("GET where", "one")
		}
		one.Do(backendPassword, "--", "CONFIG", "SET", "requirepass", "another")
		w.apply(w.toBackend(2, backend.Server{Address: one.Address, Password: "another"}, path))
		for _, c := range append(all, w.askers(5)...) {
			c.want("GET where", "one")
		}
		w.apply(w.toBackend(3, backend.Server{Address: two.Address, TLS: true, CA: string(ca.PEM())}, path))
		for _, c := range append(all, w.askers(5)...) {
			c.want("GET where", "two")
		}
		all[0].want("MULTI", "OK")
		all[0].want("GET where", "QUEUED")
		w.apply(w.toBackend(4, backend.Server{Address: "unix:" + one.Socket, Password: "another"}, path))
		all[0].want("EXEC", "two") // what was begun there ends there
		all[0].want("GET where", "one")
		all[1].want("GET where", "one")
	})
}

// tlsBackend is an engine that has TLS alone on TCP.
func tlsBackend(t *testing.T, binary string, ca *certtest.Authority) *enginetest.Running {
	t.Helper()
	leaf := ca.Leaf(t, certtest.Names("127.0.0.1"))
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return enginetest.Run(t, binary, "--port", "0", "--tls-port", "PORT", "--tls-auth-clients", "no", "--tls-cert-file", file("c", certtest.PEM(leaf.Certificate...)),
		"--tls-key-file", file("k", certtest.KeyPEM(t, leaf.PrivateKey)), "--tls-ca-cert-file", file("ca", ca.PEM()))
}

// A client whose backend can't be reached, or refuses the gateway's login, is told so within seconds, and is told nothing that the backend
// says of the login.
func TestClientsOfABackendThatDoesNotServe(t *testing.T) {
	eachPath(t, func(t *testing.T, path gateway.DataPath) {
		t.Parallel()
		binary := enginetest.All(t)[0].Path
		gone := enginetest.Run(t, binary)
		gone.Kill()
		for name, s := range map[string]backend.Server{
			"gone":           {Address: gone.Address},
			"wrong password": {Address: enginetest.Run(t, binary, "--requirepass", "x").Address, Password: backendPassword},
			"no password":    {Address: enginetest.Run(t, binary).Address, Password: backendPassword},
			"renamed":        {Address: enginetest.Run(t, binary, "--rename-command", "AUTH", "LOGIN").Address, Password: backendPassword},
			"not trusted":    {Address: tlsBackend(t, binary, certtest.NewAuthority(t, "a")).Address, TLS: true},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := withBackend(t, s, path)
				c, began := w.asker(), time.Now()
				c.want("GET k", "ERR the engine behind this port can't be reached or refuses Sealane's login: retry with backoff")
				if took := time.Since(began); took > 15*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		}
	})
}

// What hosted services forbid to their users must not be missed.
func TestABackendWithoutAdministration(t *testing.T) {
	eachPath(t, func(t *testing.T, path gateway.DataPath) {
		t.Parallel()
		var args []string
		for _, name := range []string{"CONFIG", "ACL", "DEBUG", "SHUTDOWN", "CLIENT", "COMMAND", "RESET", "HELLO", "INFO"} {
			args = append(args, "--rename-command", name, "")
		}
		e := enginetest.Run(t, enginetest.All(t)[0].Path, append(args, "--requirepass", backendPassword)...)
		w := withBackend(t, backend.Server{Address: e.Address, Password: backendPassword}, path)
		for _, c := range w.askers(3) {
			c.want("SET k v", "OK")
			c.want("MULTI", "OK")
			c.want("GET k", "QUEUED")
			c.want("EXEC", "v")
			c.want("BLPOP nothing 0.01", "nil*")
			c.want("CONFIG GET maxmemory", "ERR unknown command*")
			c.want("CLIENT LIST", "ERR unknown command*")
			c.want("HELLO 3", "ERR unknown command*")
			c.want("GET k", "v")
		}
	})
}

func TestSnapshotsWithABackendThatIsWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run()
	s := w.toBackend(1, backend.Server{Address: "redis.example.com:6379", User: "x y", Password: backendPassword}, "")
	s.Engine, s.Passwords = w.engine, []string{"secret-words"}
	_, err := w.client.Apply(t.Context(), s)
	for _, want := range []string{"engine", "backend.plaintext", "backend.user", "passwords[0]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want it to name %s", err, want)
		}
	}
	for _, secret := range []string{"secret-words", backendPassword} {
		if strings.Contains(fmt.Sprint(err), secret) || strings.Contains(fmt.Sprintf("%v %+v %#v", s, s, s), secret) {
			t.Errorf("%s is in %v", secret, err)
		}
	}
}

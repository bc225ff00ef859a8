package backend_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/resp"
)

const password = "correct-horse"

// Every version must be reached, over a socket and over TCP, with and without a password, and say what it is.
func TestEveryVersionIsReached(t *testing.T) {
	enginetest.EachBackend(t, func(t *testing.T, binary string) {
		t.Parallel()
		e := enginetest.Run(t, binary, "--requirepass", password)
		for _, address := range []string{"unix:" + e.Socket, e.Address} {
			facts := reached(t, backend.Server{Address: address, Password: password})
			if facts.Name() == "" || facts.Role != "master" || facts.UsedMemory == 0 || facts.ClientsLogIn {
				t.Errorf("%s: %+v", address, facts)
			}
			t.Logf("%s is %s", address, facts.Name())
			if facts := reached(t, backend.Server{Address: address}); !facts.ClientsLogIn {
				t.Errorf("%s without a password: %+v", address, facts)
			}
			faulty(t, backend.Server{Address: address, Password: "wrong"}, diagnosis.AuthWrong, "refuses the password")
		}
		e.Do(password, "--", "SET", "k", "v")
		serves(t, backend.Server{Address: e.Address, Password: password}, "k", "v")
		serves(t, backend.Server{Address: "unix:" + e.Socket, Password: password}, "k", "v")
	})
}

func reached(t *testing.T, s backend.Server) backend.Facts {
	t.Helper()
	facts, err := dialer(t, s).Probe(t.Context())
	if err != nil {
		t.Fatalf("%v: %v", s, err)
	}
	return facts
}

func dialer(t *testing.T, s backend.Server) *backend.Dialer {
	t.Helper()
	if problems := s.Check(); problems != nil {
		t.Fatalf("%v: %v", s, problems)
	}
	d, err := backend.NewDialer(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// faulty wants a probe to fail with a kind and words, and without the password.
func faulty(t *testing.T, s backend.Server, kind diagnosis.Kind, words string) {
	t.Helper()
	_, err := dialer(t, s).Probe(t.Context())
	f, ok := errors.AsType[*backend.Fault](err)
	switch {
	case !ok:
		t.Errorf("%v: %v; want %s", s, err, kind)
	case f.Kind != kind || !strings.Contains(f.Error(), words) || f.Fix == "":
		t.Errorf("%v:\n got %s, %q\nwant %s, %q", s, f.Kind, f.Error(), kind, words)
	case s.Password != "" && strings.Contains(f.Error(), s.Password):
		t.Errorf("%v: the password is in %q", s, f.Error())
	}
}

// serves asks over a connection for relay.
func serves(t *testing.T, s backend.Server, key, want string) {
	t.Helper()
	c, err := dialer(t, s).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn := resp.Conn(nil)
	if c.TLS != nil {
		conn = c.TLS
		defer c.TLS.Close()
		t.Skip("its transport is the loop's")
	}
	f := os.NewFile(uintptr(c.FD), "backend")
	defer f.Close()
	if err := unix.SetNonblock(c.FD, true); err != nil {
		t.Fatal(err)
	}
	conn = f
	client := resp.NewClient(conn, 1<<10)
	if login := s.Login(); login != nil {
		if _, err := client.Do(t.Context(), append([]string{"AUTH"}, login...)...); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := client.Do(t.Context(), "GET", key); err != nil || v.Str != want {
		t.Errorf("%v: GET: %v, %v", s, v, err)
	}
}

func TestACLUserAndWhatAUserMayNotDo(t *testing.T) {
	t.Parallel()
	e := enginetest.Run(t, enginetest.All(t)[0].Path)
	e.Do("ACL", "SETUSER", "app", "on", ">"+password, "~*", "+@read")
	e.Do("ACL", "SETUSER", "default", "off")
	if facts := reached(t, backend.Server{Address: e.Address, User: "app", Password: password}); facts.ClientsLogIn {
		t.Errorf("%+v", facts)
	}
	faulty(t, backend.Server{Address: e.Address, User: "other", Password: password}, diagnosis.AuthWrong, "WRONGPASS")
	if facts := reached(t, backend.Server{Address: e.Address}); !facts.ClientsLogIn {
		t.Errorf("%+v", facts)
	}
}

// A password where there is none, a user before there were any, and AUTH renamed: the server's words may have the password in them.
func TestLoginsThatAServerCannotTake(t *testing.T) {
	t.Parallel()
	binary := enginetest.All(t)[0].Path
	faulty(t, backend.Server{Address: enginetest.Run(t, binary).Address, Password: password}, diagnosis.AuthUnneeded, "has no password")
	renamed := enginetest.Run(t, binary, "--rename-command", "AUTH", "LOGIN")
	faulty(t, backend.Server{Address: renamed.Address, Password: password}, diagnosis.AuthWrong, "does not know AUTH")
	for _, old := range enginetest.Old(t) {
		e := enginetest.Run(t, old, "--requirepass", password)
		v := e.Do(password, "--", "INFO")
		if strings.Contains(v.Str, "redis_version:6") {
			continue
		}
		faulty(t, backend.Server{Address: e.Address, User: "app", Password: password}, diagnosis.AuthWrong, "has no ACL users")
	}
}

func TestTLSIsVerified(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "Backend CA")
	leaf := ca.Leaf(t, certtest.Names("127.0.0.1", "redis.internal"))
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	args := []string{"--port", "0", "--tls-port", "PORT", "--tls-cert-file", write("c", certtest.PEM(leaf.Certificate...)),
		"--tls-key-file", write("k", certtest.KeyPEM(t, leaf.PrivateKey)), "--tls-ca-cert-file", write("ca", ca.PEM())}
	e := enginetest.Run(t, enginetest.All(t)[0].Path, append(args, "--tls-auth-clients", "no", "--requirepass", password)...)
	good := backend.Server{Address: e.Address, TLS: true, CA: string(ca.PEM()), Password: password}
	reached(t, good)
	if c, err := dialer(t, good).Dial(t.Context()); err != nil || c.TLS == nil {
		t.Errorf("%v, %v", c, err)
	} else {
		unix.Close(c.FD)
	}
	named := good
	named.ServerName = "redis.internal"
	reached(t, named)
	named.ServerName = "other.internal"
	faulty(t, named, diagnosis.NameMismatch, "redis.internal")
	faulty(t, backend.Server{Address: e.Address, TLS: true, Password: password}, diagnosis.CAUnknown, "--backend-ca-file")
	foreign := good
	foreign.CA = string(certtest.NewAuthority(t, "Other CA").PEM())
	faulty(t, foreign, diagnosis.CAUnknown, "not trusted")
	faulty(t, backend.Server{Address: e.Address, Password: password}, diagnosis.ClosedAfterHandshake, "rediss://") // Redis resets the connection without a word

	wantsCert := enginetest.Run(t, enginetest.All(t)[0].Path, args...)
	good.Address = wantsCert.Address
	if _, err := dialer(t, good).Probe(t.Context()); err == nil {
		t.Error("a server that wants a client certificate is taken for one that serves")
	}
}

// What is no Redis, or not there, is said to be that.
func TestWhatIsNoRedis(t *testing.T) {
	t.Parallel()
	binary := enginetest.All(t)[0].Path
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	at := func(u string) string { return strings.TrimPrefix(strings.TrimPrefix(u, "https://"), "http://") }
	faulty(t, backend.Server{Address: at(web.URL), Password: password}, diagnosis.HTTP, "web server")
	faulty(t, backend.Server{Address: at(web.URL), TLS: true}, diagnosis.HTTP, "web server")
	faulty(t, backend.Server{Address: at(secure.URL)}, diagnosis.ClosedAfterHandshake, "does not answer PING")
	faulty(t, backend.Server{Address: enginetest.Run(t, binary).Address, TLS: true, CA: string(certtest.NewAuthority(t, "x").PEM())}, diagnosis.Silent, "does not answer a TLS handshake")

	gone := enginetest.Run(t, binary)
	gone.Kill()
	faulty(t, backend.Server{Address: gone.Address}, diagnosis.PortClosed, "refuses connections")
	faulty(t, backend.Server{Address: "unix:" + gone.Socket}, diagnosis.PortClosed, "nothing listens on it")
	faulty(t, backend.Server{Address: "unix:" + gone.Socket + "x"}, diagnosis.Unreachable, "does not exist")
	faulty(t, backend.Server{Address: "no-such-host.invalid:6379", Plaintext: true}, diagnosis.NameUnknown, "can't be found")

	for said, want := range map[string]diagnosis.Kind{
		"-LOADING Redis is loading the dataset in memory\r\n": diagnosis.Loading, "-ERR max number of clients reached\r\n": diagnosis.MaxClients,
		"-DENIED Redis is running in protected mode\r\n": diagnosis.ProtectedMode, "SSH-2.0-x\r\n": diagnosis.NotRedis, "+HELLO\r\n": diagnosis.NotRedis,
		"-BUSY Redis is busy\r\n": diagnosis.Busy, "-ERR no " + password + "\r\n": diagnosis.PingRefused,
	} {
		s := backend.Server{Address: says(t, said)}
		faulty(t, s, want, "the backend "+s.Address)
	}
}

// says is the address of a server that says one thing to everybody.
func says(t *testing.T, words string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 512))
			_, _ = c.Write([]byte(words))
			context.AfterFunc(t.Context(), func() { c.Close() })
		}
	}()
	return ln.Addr().String()
}

// Without TLS a name that leads away from this machine is not dialled, whatever it looked like.
func TestPlaintextDoesNotLeaveTheMachineUnasked(t *testing.T) {
	t.Parallel()
	// The check of the spec can't know where a name leads: a dialer made without it stands for one that has changed since.
	d, err := backend.NewDialer(backend.Server{Address: "192.0.2.1:6379"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "--backend-plaintext") {
		t.Errorf("%v", err)
	}
	if _, err := d.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "not be encrypted") {
		t.Errorf("%v", err)
	}
}

func TestAServerIsPrintedWithoutItsPassword(t *testing.T) {
	t.Parallel()
	s := backend.Server{Address: "h:1", User: "app", Password: password}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "server", s, "pointer", &s)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "server", s, "pointer", &s)
	text := fmt.Sprintf("%v %+v %#v %s %v", s, s, s, s, &s) + log.String()
	if strings.Contains(text, password) || !strings.Contains(text, "app") {
		t.Error(text)
	}
}

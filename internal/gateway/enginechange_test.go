package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/resp"
)

// asProcess is the folder of a gateway that this test program is to be, so that it can be killed.
const asProcess = "SEALANE_TEST_GATEWAY"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asProcess); dir != "" {
		if err := gateway.Run(context.Background(), gateway.Config{Dir: dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runProcess starts the gateway as a process of its own. kill ends it as a crash would.
func (w *world) runProcess() (kill func()) {
	w.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asProcess+"="+w.dir)
	cmd.Stderr = w.log
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	w.t.Cleanup(kill)
	eventually(w.t, "admin socket answers", func() bool {
		_, err := w.client.Status(context.Background())
		return err == nil
	})
	return kill
}

// namedEngine is a real engine whose key "who" has its name. It returns its socket.
func namedEngine(t testing.TB, name string) string {
	t.Helper()
	socket, _ := mortalEngine(t, name)
	return socket
}

// mortalEngine is a namedEngine that can be killed.
func mortalEngine(t testing.TB, name string) (socket string, kill func()) {
	t.Helper()
	dir := tempDir(t)
	socket = filepath.Join(dir, "s")
	cmd := exec.Command(enginetest.All(t)[0].Path, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir, "--logfile", filepath.Join(dir, "log"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(kill)
	eventually(t, "the engine answers", func() bool {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		defer c.Close()
		send(t, c, "SET who "+name+"\r\n")
		expect(t, c, "+OK\r\n")
		return true
	})
	return socket, kill
}

// asksWho asks which engine it is, and wants this one.
func asksWho(t testing.TB, c io.ReadWriter, want string) {
	t.Helper()
	send(t, c, "GET who\r\n")
	expect(t, c, fmt.Sprintf("$%d\r\n%s\r\n", len(want), want))
}

func (w *world) hold(limit time.Duration) gateway.Status {
	w.t.Helper()
	st, err := w.client.Hold(context.Background(), limit)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

func eachDataPath(t *testing.T, test func(t *testing.T, path gateway.DataPath)) {
	for _, path := range []gateway.DataPath{gateway.Transparent, gateway.Multiplexed} {
		t.Run(string(path), func(t *testing.T) {
			t.Parallel()
			test(t, path)
		})
	}
}

func TestEngineIsReplacedUnderConnectedClients(t *testing.T) {
	eachDataPath(t, func(t *testing.T, path gateway.DataPath) {
		w := newWorld(t)
		w.engine = namedEngine(t, "old")
		w.run()
		s := w.snapshot(1)
		s.DataPath = path
		w.apply(s)
		c, watches := w.dial(), w.dial()
		asksWho(t, c, "old")
		send(t, watches, "WATCH who\r\n")
		expect(t, watches, "+OK\r\n")
		if st := w.status(); st.Engine != w.engine || st.Hold != nil {
			t.Errorf("status: engine %q, hold %+v", st.Engine, st.Hold)
		}

		st := w.hold(20 * time.Second)
		if st.Hold == nil || st.Hold.Until.Sub(st.Hold.Since) != 20*time.Second {
			t.Errorf("status: hold %+v", st.Hold)
		}
		send(t, c, "GET who\r\n")
		late := w.dial() // clients are let in during a hold
		s.Generation, s.Engine = 2, namedEngine(t, "new")
		st = w.apply(s)
		if st.Engine != s.Engine || st.Moved != 3 || st.MovedLost != 0 {
			t.Errorf("status: engine %q, %d moved, %d lost", st.Engine, st.Moved, st.MovedLost)
		}
		expect(t, c, "$3\r\nnew\r\n")
		asksWho(t, late, "new")
		send(t, watches, "MULTI\r\nGET who\r\nEXEC\r\n")
		expect(t, watches, "+OK\r\n+QUEUED\r\n*-1\r\n")
		eventually(t, "the hold has ended", func() bool { return w.status().Hold == nil })
	})
}

// The engine is killed, and another takes over: nobody is disconnected, whatever they are doing.
func TestClientsOutliveTheirEngineWhereAnotherStandsBy(t *testing.T) {
	eachDataPath(t, func(t *testing.T, path gateway.DataPath) {
		w := newWorld(t)
		var kill func()
		w.engine, kill = mortalEngine(t, "old")
		w.run()
		s := w.snapshot(1)
		s.DataPath, s.Standby = path, true
		w.apply(s)
		c, queues, waits := w.dial(), w.dial(), w.dial()
		asksWho(t, c, "old")
		send(t, queues, "MULTI\r\nGET who\r\n")
		expect(t, queues, "+OK\r\n+QUEUED\r\n")
		send(t, waits, "BLPOP list 0\r\n")
		eventually(t, "the engine has the request that waits", func() bool {
			e, err := net.Dial("unix", w.engine)
			if err != nil {
				return false
			}
			defer e.Close()
			send(t, e, "INFO clients\r\nQUIT\r\n")
			text, _ := io.ReadAll(e)
			return strings.Contains(string(text), "blocked_clients:1\r\n")
		})
		kill()
		late := w.dial()
		send(t, c, "GET who\r\n")
		send(t, late, "GET who\r\n")
		s.Generation, s.Engine = 2, namedEngine(t, "new")
		if st := w.apply(s); st.Engine != s.Engine || st.MovedLost != 0 {
			t.Errorf("status: engine %q, %d lost", st.Engine, st.MovedLost)
		}
		expect(t, c, "$3\r\nnew\r\n")
		expect(t, late, "$3\r\nnew\r\n")
		send(t, queues, "EXEC\r\n")
		expect(t, queues, "*1\r\n$3\r\nnew\r\n")
		expect(t, waits, "-TRYAGAIN a failover took place: whether this request was carried out is not known\r\n")
		asksWho(t, waits, "new")
	})
}

func TestReadOnlyGatewayRefusesWritesFromOneSnapshotToTheNext(t *testing.T) {
	eachDataPath(t, func(t *testing.T, path gateway.DataPath) {
		w := newWorld(t)
		w.engine = namedEngine(t, "kept")
		w.run()
		s := w.snapshot(1)
		s.DataPath = path
		w.apply(s)
		c := w.dial()
		asksWho(t, c, "kept")
		s.Generation, s.ReadOnly = 2, true
		w.apply(s)
		send(t, c, "SET who changed\r\n")
		expect(t, c, "-READONLY You can't write against a read only replica.\r\n")
		asksWho(t, c, "kept")
		if st := w.status(); st.RefusedOOM != 0 {
			t.Errorf("%d count as refused for want of memory", st.RefusedOOM)
		}
		s.Generation, s.ReadOnly = 3, false
		w.apply(s)
		send(t, c, "SET who changed\r\n")
		expect(t, c, "+OK\r\n")
	})
}

func TestHoldIsGivenUp(t *testing.T) {
	eachDataPath(t, func(t *testing.T, path gateway.DataPath) {
		w := newWorld(t)
		w.engine = namedEngine(t, "old")
		w.run()
		s := w.snapshot(1)
		s.DataPath = path
		w.apply(s)
		c := w.dial()
		asksWho(t, c, "old")
		for name, end := range map[string]func(){
			"released": func() {
				if st, err := w.client.Release(context.Background()); err != nil || st.Hold != nil {
					t.Errorf("%+v, %v", st.Hold, err)
				}
			},
			"run out": func() { eventually(t, "it runs out", func() bool { return w.status().Hold == nil }) },
			"another snapshot of the same engine": func() {
				s.Generation++
				s.MaxClients++
				if st := w.apply(s); st.Hold == nil {
					t.Error("the hold has ended")
				}
			},
		} {
			began := time.Now()
			w.hold(500 * time.Millisecond)
			send(t, c, "GET who\r\n")
			end()
			expect(t, c, "$3\r\nold\r\n")
			if took := time.Since(began); name != "released" && took < 500*time.Millisecond {
				t.Errorf("%s: the hold took %v", name, took)
			}
			if _, err := w.client.Release(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestHoldThatIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run()
	hold := func(limit time.Duration) error {
		_, err := w.client.Hold(context.Background(), limit)
		return err
	}
	if err := hold(time.Second); !errors.Is(err, gateway.ErrInvalidHold) || !strings.Contains(err.Error(), "no snapshot serves yet") {
		t.Errorf("got %v", err)
	}
	w.engine = namedEngine(t, "old")
	w.apply(w.snapshot(1))
	for _, limit := range []time.Duration{-1, 0, time.Hour} {
		if err := hold(limit); !errors.Is(err, gateway.ErrInvalidHold) || !strings.Contains(err.Error(), fmt.Sprintf("limit %v: must be", limit)) {
			t.Errorf("%v: got %v", limit, err)
		}
	}
	c := w.dial()
	send(t, c, "PING\r\n")
	expect(t, c, "+PONG\r\n")
	send(t, c, string(resp.AppendCommand(nil, "EVAL", "local t = redis.call('TIME')[1] + 2; repeat until redis.call('TIME')[1] + 0 >= t", "0")))
	eventually(t, "it runs", func() bool { return w.status().Commands["own"] == 2 })
	err := hold(500 * time.Millisecond)
	if !errors.Is(err, gateway.ErrBusy) || !strings.Contains(err.Error(), "eval of "+c.LocalAddr().String()) {
		t.Errorf("got %v", err)
	}
	expect(t, c, "$-1\r\n")
}

// What is on disk counts, wherever in the change the gateway is killed. Its clients connect anew, to an engine that is one of the two.
func TestGatewayIsKilledWhileItsEngineIsReplaced(t *testing.T) {
	eachDataPath(t, func(t *testing.T, path gateway.DataPath) {
		w := newWorld(t)
		engines := [2]string{namedEngine(t, "even"), namedEngine(t, "odd!")}
		w.engine = engines[0]
		kill := w.runProcess()
		s := w.snapshot(1)
		s.DataPath = path
		w.apply(s)
		asksWho(t, w.dial(), "even")

		w.hold(time.Minute)
		held := w.dial()
		send(t, held, "GET who\r\n")
		kill()
		kill = w.runProcess()
		eventually(t, "the listener is open", func() bool { return len(w.status().Listening) > 0 })
		if st := w.status(); st.Hold != nil || st.Engine != engines[0] {
			t.Errorf("after a kill during the hold: engine %q, hold %+v", st.Engine, st.Hold)
		}
		asksWho(t, w.dial(), "even")

		for round := range 8 {
			s.Generation++
			s.Engine = engines[s.Generation%2]
			w.hold(time.Minute)
			applied := make(chan error, 1)
			go func() { _, err := w.client.Apply(context.Background(), s); applied <- err }()
			time.Sleep(time.Duration(round) * 300 * time.Microsecond) // not for anything to happen: to be killed at another moment each time
			kill()
			err := <-applied
			kill = w.runProcess()
			eventually(t, "the listener is open", func() bool { return len(w.status().Listening) > 0 })
			st := w.status()
			if err == nil && st.Generation != s.Generation {
				t.Errorf("generation %d was applied, %d serves", s.Generation, st.Generation)
			}
			who := map[string]string{engines[0]: "even", engines[1]: "odd!"}[st.Engine]
			asksWho(t, w.dial(), who)
		}
	})
}

package local_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/process"
	"github.com/sealane/sealane/internal/rdb"
)

// pair is an engine, and one that can take over from it; the second is the first where there is one only.
func pair(t *testing.T) (from, to engine.Binary) {
	t.Helper()
	all := enginetest.All(t)
	for _, b := range all[1:] {
		if instance.CheckUpgrade(versionOf(all[0]), versionOf(b)) == nil {
			return all[0], b
		}
	}
	return all[0], all[0]
}

// script is an engine that isn't one.
func script(t *testing.T, b engine.Binary, body string) engine.Binary {
	t.Helper()
	b.Path = filepath.Join(t.TempDir(), "engine")
	if err := os.WriteFile(b.Path, []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.Kind, b.Version = engine.Valkey, engine.Version{Major: 99}
	return b
}

// checkMessage wants an error that a user may read: it says something, and no path of the server or log of an engine.
func checkMessage(t *testing.T, dir string, err error, words ...string) {
	t.Helper()
	var told *instance.Error
	if !errors.As(err, &told) {
		t.Fatalf("got %v; want an *instance.Error", err)
	}
	for _, w := range words {
		if !strings.Contains(told.Message, w) {
			t.Errorf("%q does not say %q", told.Message, w)
		}
	}
	if strings.Contains(told.Message, dir) || strings.Contains(told.Message, "\n") {
		t.Errorf("the message has a path or a log in it: %q", told.Message)
	}
}

func TestAnEngineThatDoesNotStartReplacesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body string
		says []string
	}{
		"it ends":         {"echo out of luck; exit 3", []string{"VALKEY_99_0", "ended at its start", "exit status 3"}},
		"it never serves": {"exec sleep 1000", []string{"VALKEY_99_0", "did not answer in time"}},
		"no such program": {"", []string{"VALKEY_99_0", "can't be started"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, _ := pair(t)
			broken := script(t, from, c.body)
			if c.body == "" {
				os.Remove(broken.Path)
			}
			m := newMachine(t, []engine.Binary{from, broken}, versionOf(from))
			m.SetStartLimit(time.Second)
			m.client().fill(100)
			stop := m.load(5)
			_, err := m.ReplaceEngine(t.Context(), m.node, m.next("VALKEY_99_0"), nil, func(string) {})
			checkMessage(t, m.dir, err, c.says...)
			m.ensure()
			stop()
			if got := m.client().do("GET", "key:7").Str; !strings.HasSuffix(got, "v7") {
				t.Errorf("key:7 is %q", got)
			}
			m.checkOneEngine()
		})
	}
}

// pidOf is the process that listens on a socket; 0: none.
func pidOf(socket string) int {
	p, err := process.Adopt(socket)
	if err != nil {
		return 0
	}
	defer p.Release()
	return p.Identity().PID
}

// Each of the processes is killed at each step of a replacement. Either it is done all the same or it fails with an error that says
// why, and the next Ensure finds the node well. No answered write is lost unless the engine that had the data was the victim.
func TestAProcessIsKilledWhileAnEngineIsReplaced(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"old engine", "new engine", "gateway"} {
		for _, step := range []string{"starting the new engine", "copying the data", "moving the clients"} {
			if victim == "new engine" && step == "starting the new engine" {
				continue // there is none yet
			}
			t.Run(victim+" killed while "+step, func(t *testing.T) {
				t.Parallel()
				from, to := pair(t)
				m := newMachine(t, []engine.Binary{from, to}, versionOf(from))
				c := m.client()
				c.fill(30000)
				next := m.next(versionOf(to))
				next.Patch = to.Version.String()
				dir := filepath.Join(m.dir, m.node.ID)
				socket := map[string]string{"old engine": engine.Socket(dir), "new engine": engine.Socket(filepath.Join(dir, "1")), "gateway": gateway.Socket(dir)}[victim]
				var once sync.Once
				_, err := m.ReplaceEngine(t.Context(), m.node, next, nil, func(what string) {
					if strings.HasPrefix(what, step) {
						once.Do(func() {
							if pid := pidOf(socket); pid > 0 {
								syscall.Kill(pid, syscall.SIGKILL)
							} else {
								t.Errorf("there is no %s to kill", victim)
							}
						})
					}
				})
				if err != nil {
					checkMessage(t, m.dir, err)
					t.Log(err.(*instance.Error).Message)
				}
				slot, servedErr := m.ServedSlot(m.node.ID)
				if servedErr != nil || (err == nil) != (slot == next.Slot) {
					t.Errorf("after %v slot %d is served (%v)", err, slot, servedErr)
				}
				if err == nil {
					m.node = next
				}
				m.ensure()
				m.checkOneEngine()
				c = m.client()
				if victim == "old engine" && err != nil {
					c.do("SET", "a", "b") // what it had is gone, as with any crash without persistence
					return
				}
				c.checkFilled(30000)
			})
		}
	}
}

// A server that stops, or is asked to give the operation up, leaves the present engine as it is.
func TestAReplacementIsGivenUp(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"starting the new engine", "copying the data"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			from, to := pair(t)
			m := newMachine(t, []engine.Binary{from, to}, versionOf(from))
			c := m.client()
			c.fill(1000)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, err := m.ReplaceEngine(ctx, m.node, m.next(versionOf(to)), nil, func(what string) {
				if strings.HasPrefix(what, step) {
					cancel()
				}
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			m.ensure()
			c.checkFilled(1000)
			m.checkOneEngine()
			for _, d := range [][2]string{{"repl-diskless-sync-delay", "5"}, {"min-replicas-to-write", "0"}} {
				if got := c.do("CONFIG", "GET", d[0]).Elems; len(got) != 2 || got[1].Str != d[1] {
					t.Errorf("%s is %v; want %s", d[0], got, d[1])
				}
			}
			if got := fmt.Sprint(c.do("CONFIG", "GET", "client-output-buffer-limit").Elems[1].Str); !strings.Contains(got, "slave 268435456 67108864 60") {
				t.Errorf("client-output-buffer-limit is %s", got)
			}
		})
	}
}

// Where snapshots are kept, the new engine has one from the first moment: a crash just after the move brings back what was copied.
func TestAnEngineThatCrashesAfterItTookOverHasItsSnapshot(t *testing.T) {
	t.Parallel()
	from, to := pair(t)
	m := newMachine(t, []engine.Binary{from, to}, versionOf(from))
	m.node.KeepDump = true
	m.ensure()
	m.client().fill(5000)
	next := m.next(versionOf(to))
	if _, err := m.ReplaceEngine(t.Context(), m.node, next, nil, func(string) {}); err != nil {
		t.Fatal(err)
	}
	m.node = next
	m.ensure()
	syscall.Kill(pidOf(engine.Socket(filepath.Join(m.dir, m.node.ID, "1"))), syscall.SIGKILL)
	m.ensure()
	m.client().checkFilled(5000)
}

// The bound of memory is that of the engine that runs now.
func TestTheNewEnginesMemoryIsBounded(t *testing.T) {
	t.Parallel()
	from, to := pair(t)
	m := newMachine(t, []engine.Binary{from, to}, versionOf(from))
	m.node.MemoryLimit = 1 << 30
	m.ensure()
	next := m.next(versionOf(to))
	next.MemoryLimit = 1 << 30
	if _, err := m.ReplaceEngine(t.Context(), m.node, next, nil, func(string) {}); err != nil {
		t.Fatal(err)
	}
	m.node = next
	m.ensure()
	e, err := engine.Adopt(t.Context(), filepath.Join(m.dir, m.node.ID, "1"), m.node.AdminPassword)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Release()
	known := m.MemoryBound(m.node.ID)
	if kept := e.MemoryBound(); kept.Limit != 1<<30 || known.Limit != kept.Limit || known.Group != kept.Group {
		t.Errorf("known is %+v; the engine has %+v", known, kept)
	}
}

// A new engine that neither answers nor ends is given up.
func TestANewEngineThatStopsAnsweringIsGivenUp(t *testing.T) {
	t.Parallel()
	from, to := pair(t)
	m := newMachine(t, []engine.Binary{from, to}, versionOf(from))
	m.SetStartLimit(2 * time.Second)
	m.client().fill(1000)
	var once sync.Once
	_, err := m.ReplaceEngine(t.Context(), m.node, m.next(versionOf(to)), nil, func(what string) {
		if strings.HasPrefix(what, "copying") {
			once.Do(func() { syscall.Kill(pidOf(engine.Socket(filepath.Join(m.dir, m.node.ID, "1"))), syscall.SIGSTOP) })
		}
	})
	checkMessage(t, m.dir, err, "does not answer")
	m.ensure()
	m.client().checkFilled(1000)
	m.checkOneEngine()
}

// An export ends with the engine, and goes on without the gateway, which is restarted meanwhile.
func TestAProcessIsKilledDuringADump(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"engine", "gateway"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			from, _ := pair(t)
			m := newMachine(t, []engine.Binary{from}, versionOf(from))
			m.client().fill(50000) // more than the sockets' buffers hold
			dir := filepath.Join(m.dir, m.node.ID)
			socket := map[string]string{"engine": engine.Socket(dir), "gateway": gateway.Socket(dir)}[victim]
			var checked *rdb.Reader
			err := m.DumpEngine(t.Context(), m.node, func(_ context.Context, dump io.Reader) (err error) {
				syscall.Kill(pidOf(socket), syscall.SIGKILL)
				if victim == "gateway" {
					for pidOf(socket) == 0 {
						time.Sleep(10 * time.Millisecond)
					}
				}
				checked, err = rdb.Check(dump)
				return err
			})
			if victim == "gateway" {
				if err != nil || checked.Size() < 1<<20 {
					t.Errorf("got %v", err)
				}
				m.ensure()
				m.client().do("PING")
				return
			}
			checkMessage(t, m.dir, err, "engine")
			m.ensure()
		})
	}
}

// A script that runs for longer than clients are to wait delays the move, and is answered by the engine that runs it.
func TestALongScriptDelaysTheMove(t *testing.T) {
	t.Parallel()
	from, to := pair(t)
	m := newMachine(t, []engine.Binary{from, to}, versionOf(from))
	c := m.client()
	c.fill(100)
	const script = "local began = redis.call('TIME') repeat local now = redis.call('TIME') until (now[1] - began[1]) * 1000000 + now[2] - began[2] > 1500000 return 'done'"
	answered := make(chan string, 1)
	var waited bool
	var once sync.Once
	next := m.next(versionOf(to))
	held, err := m.ReplaceEngine(t.Context(), m.node, next, nil, func(what string) {
		waited = waited || strings.HasPrefix(what, "waiting for a moment")
		if strings.HasPrefix(what, "moving the clients") {
			once.Do(func() {
				busy := m.client()
				busy.do("PING") // it is served
				go func() {
					v, err := busy.Do(context.Background(), "EVAL", script, "0")
					answered <- fmt.Sprint(v.Str, err)
				}()
				time.Sleep(50 * time.Millisecond) // the script runs by then, or the test shows less
			})
		}
	})
	if err != nil || !waited {
		t.Fatalf("got %v; waited %v", err, waited)
	}
	if got := <-answered; got != "done<nil>" {
		t.Errorf("the script is answered %s", got)
	}
	t.Logf("clients were held for %v in the end", held)
	m.node = next
	m.ensure()
	c.checkFilled(100)
}

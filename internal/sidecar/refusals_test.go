package sidecar_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/sidecar"
	"github.com/sealane/sealane/internal/wire"
)

// What a server says that serves nobody is what /readyz, the log and the clients say: from the start, and later on.
func TestARefusalOfTheServerIsSaidInItsWords(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, code, says string
		refuse           func(*redis)
	}{
		{"protected mode", "protected-mode", "DENIED Redis is running in protected mode", greet("-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the default user.\r\n")},
		{"no room", "max-clients", "has no room for one more client", greet("-ERR max number of clients reached\r\n")},
		{"no engine", "engine-away", "the engine behind it does not", greet("-ERR the engine behind this port is being restarted: retry with backoff\r\n")},
		{"loading", "loading", "LOADING Redis is loading the dataset in memory", say("LOADING Redis is loading the dataset in memory")},
		{"busy", "busy", "BUSY Redis is busy running a script", say("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.")},
		{"no master", "master-down", "MASTERDOWN Link with MASTER is down", say("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.")},
		{"an error of a proxy", "server-error", "ERR upstream failure", say("ERR upstream failure")},
		{"an error that nobody knows yet", "server-error", "NEWCODE something of tomorrow", say("NEWCODE something of tomorrow")},
	} {
		for _, login := range []string{"", "secret-horse"} {
			t.Run(tc.name+map[string]string{"": "", "secret-horse": " with a login"}[login], func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, func(w *world) {
					w.cfg.Patience = time.Second
					w.server.set(func(r *redis) { r.password = login; tc.refuse(r) })
					w.source.Password = login
				})
				problem := func() bool { err := w.side.Ready(); return err != nil && strings.Contains(err.Error(), tc.says) }
				w.until("said", problem)
				if n := w.metric("sealane_sidecar_ready"); n != 0 {
					t.Errorf("the metric says ready %v", n)
				}
				w.until("logged", func() bool { return len(w.log.problems()) > 0 }) // which is after /readyz says it
				if p := w.log.problems(); len(p) != 1 || !strings.Contains(p[0], "code="+tc.code+" ") {
					t.Errorf("the log says %q; want one line with code=%s", p, tc.code)
				}
				if got := w.connect().ask("ECHO", "x"); !strings.HasPrefix(got, "-") || strings.Contains(got, "where it is") ||
					!strings.Contains(got, strings.Fields(tc.says)[0]) && !strings.Contains(got, "max number of clients") && !strings.Contains(got, "engine behind") {
					t.Errorf("the client is told %q", got)
				}
				w.server.set(func(r *redis) { r.greets, r.says = "", nil })
				w.ready()
				w.connect().works()
				w.server.set(tc.refuse)
				w.server.cut()
				w.until("said again", func() bool { w.poke(); return problem() })
			})
		}
	}
}

func greet(words string) func(*redis) { return func(r *redis) { r.greets = words } }

// say is an error to everything that clients ask, and to PING.
func say(words string) func(*redis) {
	return func(r *redis) { r.says = map[string]string{"PING": "-" + words + "\r\n", "ECHO": "-" + words + "\r\n"} }
}

// A gateway may ask the sidecar to go on with a fresh connection just when the sidecar probes it.
func TestAGoawayBeforeAReplyIsNoProblem(t *testing.T) {
	t.Parallel()
	for _, login := range []string{"", "secret-horse"} {
		w := newWorld(t, func(w *world) {
			w.server.set(func(r *redis) {
				r.password, r.says = login, map[string]string{"PING": wire.GoawayPush + "+PONG\r\n"}
			})
			w.source.Password = login
		})
		w.ready()
		if p := w.log.problems(); len(p) != 0 {
			t.Errorf("the log says %q", p)
		}
	}
}

// The server's default user may do everything, and the sidecar is to log in as another: whatever goes wrong with that, no request runs
// as the default user.
func TestNoClientPassesBeforeTheLoginHasWorked(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "first.json")
	kept := newWorld(t, func(w *world) {
		w.link.Cache = file
		w.server.set(func(r *redis) { r.password, r.nopass = "right-horse", true })
		w.source.User, w.source.Password = "app", "right-horse"
	})
	kept.ready()
	for _, tc := range []struct {
		name   string
		change func(*world)
		mend   func(*world)
	}{
		{"wrong from the start", func(w *world) { w.source.Password = "wrong-horse" }, nil},
		{"wrong from the start, and several servers' worth of clients", func(w *world) { w.source.Password, w.link.Warm = "wrong-horse", 8 }, nil},
		{"from a cache, without the password", func(w *world) {
			w.fault, w.link.Cache = errors.New("the API is away"), file
			w.server.down()
			w.server = kept.server
		}, func(w *world) { w.fault = nil }},
		{"from a cache, and the password's file is wrong", func(w *world) {
			w.fault, w.link.Cache = errors.New("the API is away"), file
			w.server.down()
			w.server = kept.server
			w.link.Local = func(s *sidecar.Server) error { s.User, s.Password = "app", "wrong-horse"; return nil }
		}, func(*world) {}},
		{"the password's file can't be read", func(w *world) {
			w.link.Local = func(*sidecar.Server) error { return errors.New("permission denied") }
		}, func(*world) {}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(w *world) {
				w.cfg.Patience = time.Second
				w.server.set(func(r *redis) { r.password, r.nopass = "right-horse", true })
				w.source.User, w.source.Password = "app", "right-horse"
				tc.change(w)
				w.source.Address = w.server.address
			})
			var early []*app
			for range 5 {
				c := w.connect()
				_, _ = c.Write([]byte("*2\r\n$4\r\nECHO\r\n$5\r\nearly\r\n"))
				early = append(early, c)
			}
			w.until("said", func() bool { return len(w.log.problems()) > 0 && w.side.Ready() != nil })
			if tc.mend == nil {
				tc.mend = func(w *world) { w.source.Password = "right-horse" }
			}
			if got := early[0].ask("ECHO", "late"); !strings.HasPrefix(got, "-ERR the sidecar can't reach the server: ") {
				t.Errorf("the client is told %q", got)
			}
			w.set(tc.mend)
			w.server.set(func(r *redis) {
				for _, ran := range r.ran {
					if !strings.HasPrefix(ran, "app: ") {
						t.Errorf("ran as %q", ran)
					}
				}
			})
		})
	}
}

// A password that is wrong for a while: who is connected waits, and nothing runs as anybody else meanwhile.
func TestALoginThatChangesIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) {
		w.server.set(func(r *redis) { r.password, r.nopass = "old-horse", true })
		w.source.User, w.source.Password = "app", "old-horse"
	})
	w.ready()
	c := w.connect()
	c.works()
	w.server.set(func(r *redis) { r.password = "new-horse" })
	w.server.cut()
	go func() {
		w.until("refused", func() bool { return w.side.Ready() != nil })
		w.set(func(w *world) { w.source.Password = "new-horse" })
	}()
	c.works()
	w.ready()
	w.server.set(func(r *redis) {
		for _, ran := range r.ran {
			if !strings.HasPrefix(ran, "app: ") {
				t.Errorf("ran as %q", ran)
			}
		}
	})
}

// A server that knows no AUTH repeats its arguments in the error. What is said of it has no password in it.
func TestAServerThatRepeatsThePasswordDoesNotGetItIntoTheLog(t *testing.T) {
	t.Parallel()
	const password = "secret-horse"
	w := newWorld(t, func(w *world) {
		w.cfg.Patience = time.Second
		w.source.Password = password
		w.server.set(func(r *redis) {
			r.says = map[string]string{"AUTH": "-ERR unknown command `AUTH`, with args beginning with: `" + password + "`\r\n"}
		})
	})
	w.until("said", func() bool { return len(w.log.problems()) > 0 })
	said := w.log.String() + w.side.Ready().Error() + w.connect().ask("PING")
	if strings.Contains(said, password) || !strings.Contains(said, "(the password)") {
		t.Errorf("it is said: %s", said)
	}
}

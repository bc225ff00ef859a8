package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/local"
	"github.com/sealane/sealane/internal/statedir"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sealane": main})
}

// pools counts the servers of this test process: each has addresses of its own.
var pools atomic.Int32

// TestScripts runs the stories in testdata: the real program, in processes of its own, with a real engine.
// "serve" starts a server for the script, which the script's end stops; "stopserve SIGNAL" ends it earlier. "layout"
// holds the state folder against statedir.Layout. The configuration engines.yaml has all engines that there are: OLD is the version of one
// that NEW can take over from, and OLD_PATCH and NEW_PATCH are two of one version. The conditions [upgrade] and [maintenance] say that
// there are such ones.
func TestScripts(t *testing.T) {
	t.Parallel()
	engines := scriptEngines(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Deadline:            time.Now().Add(8 * time.Minute),
		Setup: func(e *testscript.Env) error {
			n := pools.Add(1)
			pool := fmt.Sprintf("127.%d.%d.0/24", 83+1+(os.Getpid()/250)%80, n)
			config := fmt.Sprintf("http: 127.0.0.1:0\ngrpc: 127.0.0.1:0\nops: 127.0.0.1:0\naddresses:\n  pool: %s\n", pool)
			if err := os.WriteFile(filepath.Join(e.WorkDir, "serve.yaml"), []byte(config), 0o600); err != nil {
				return err
			}
			config += "engines: [" + strings.Join(engines.paths, ", ") + "]\n"
			if err := os.WriteFile(filepath.Join(e.WorkDir, "engines.yaml"), []byte(config), 0o600); err != nil {
				return err
			}
			for name, value := range engines.env {
				e.Setenv(name, value)
			}
			e.Setenv("POOL", strings.TrimSuffix(pool, ".0/24"))
			e.Setenv("XDG_STATE_HOME", filepath.Join(e.WorkDir, "s"))
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, "c"))
			e.Values[serverKey{}], e.Values[redisKey{}] = &scriptServer{}, map[string]*exec.Cmd{}
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "upgrade":
				return engines.env["NEW"] != "", nil
			case "maintenance":
				return engines.env["NEW_PATCH"] != "", nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"serve": startServer, "stopserve": stopServerWith, "layout": checkLayout, "redis": runRedis},
	})
}

// engineList is what the scripts know of engines.
type engineList struct {
	paths []string
	env   map[string]string
}

func scriptEngines(t *testing.T) engineList {
	t.Helper()
	l := engineList{env: map[string]string{}}
	all := enginetest.All(t)
	versions := local.New("", nil, all).Engines()
	for i, b := range all {
		l.paths = append(l.paths, b.Path)
		for j, o := range versions {
			if instance.CheckUpgrade(versions[i].Version, o.Version) == nil && l.env["NEW"] == "" {
				l.env["OLD"], l.env["NEW"] = versions[i].Version, o.Version
			}
			if o.Version == versions[i].Version && b.Version.Compare(all[j].Version) < 0 {
				l.env["MAINTAINED"], l.env["OLD_PATCH"], l.env["NEW_PATCH"] = o.Version, versions[i].Patch, o.Patch
				l.env["OLD_ENGINE"], l.env["NEW_ENGINE"] = b.Path, all[j].Path
			}
		}
	}
	return l
}

type serverKey struct{}

type scriptServer struct{ cmd *exec.Cmd }

func startServer(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value(serverKey{}).(*scriptServer)
	cmd := exec.Command("sealane", append([]string{"serve", "--config", ts.MkAbs("serve.yaml")}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+ts.Getenv("XDG_STATE_HOME"))
	log, err := os.OpenFile(ts.MkAbs("serve.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer log.Close()
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	s.cmd = cmd
	ts.Defer(func() {
		stop := exec.Command("sealane", "stop")
		stop.Env = cmd.Env
		out, err := stop.CombinedOutput()
		if err != nil && !strings.Contains(string(out), "no server runs") {
			ts.Logf("stop: %v: %s", err, out)
		}
		if s.cmd != nil {
			s.cmd.Process.Kill()
			s.cmd.Wait()
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		text, _ := os.ReadFile(ts.MkAbs("serve.log"))
		ts.Fatalf("serve printed %q, %v: %s", line, err, text)
	}
}

func stopServerWith(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value(serverKey{}).(*scriptServer)
	signal := map[string]os.Signal{"INT": os.Interrupt, "KILL": os.Kill}[args[0]]
	ts.Check(s.cmd.Process.Signal(signal))
	err := s.cmd.Wait()
	s.cmd = nil
	if args[0] == "INT" {
		ts.Check(err)
	}
}

// checkLayout wants every file in the script's state folder to be in the layout, with the mode that is there. What a file must be there
// for, its arguments name.
func checkLayout(ts *testscript.TestScript, _ bool, wanted []string) {
	root := filepath.Join(ts.Getenv("XDG_STATE_HOME"), "sealane")
	ts.Check(filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		info, statErr := os.Lstat(path)
		if errors.Is(statErr, fs.ErrNotExist) || strings.HasPrefix(filepath.Base(path), ".") { // gone since, or being written
			return nil
		}
		if err = errors.Join(err, statErr); err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		for _, e := range statedir.Layout {
			if ok, _ := filepath.Match(e.Path, name); !ok {
				continue
			}
			if mode := lsMode(info.Mode()); mode != e.Mode && e.Mode != statedir.ByUmask {
				return fmt.Errorf("%s has mode %s, and in the layout %s", name, mode, e.Mode)
			}
			wanted = slices.DeleteFunc(wanted, func(w string) bool { return w == e.Path })
			return nil
		}
		return fmt.Errorf("%s is not in the layout", name)
	}))
	if len(wanted) > 0 {
		ts.Fatalf("there is no %s", strings.Join(wanted, ", "))
	}
}

// lsMode is a mode as ls shows it.
func lsMode(m fs.FileMode) string {
	kind := "-"
	switch {
	case m.IsDir():
		kind = "d"
	case m&fs.ModeSocket != 0:
		kind = "s"
	}
	return kind + m.Perm().String()[1:]
}

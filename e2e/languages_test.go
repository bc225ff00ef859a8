package e2e_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// steps are the steps of every client library's program, in this order. The program prints "ok STEP" after each.
var steps = []string{"get and set", "pipeline", "transaction", "blocking pop", "publish and subscribe", "script", "scan", "fifty connections",
	"no connection without the CA", "reconnect"}

// Client libraries of other languages work as their users have them, with verified TLS and with AUTH, on every data path. At the
// end each loses its engine and goes on.
func TestClientLibraries(t *testing.T) {
	t.Parallel()
	testdata, err := filepath.Abs(filepath.Join("testdata", "clients"))
	if err != nil {
		t.Fatal(err)
	}
	onEveryDataPath(t, func(t *testing.T, path string) {
		s := startServer(t, serverOptions{})
		for _, library := range libraries(s, testdata) {
			t.Run(library.name, func(t *testing.T) {
				c := library.command(t)
				name := strings.ToLower(library.name)
				i := s.createOn(path, name, "--enable-auth")
				auth := strings.TrimSpace(s.cli("instances", "get-auth-string", name))
				c.Env = append(c.Env, "HOST="+i.Host, "PORT="+i.port(), "CA="+s.bundle(name), "AUTH="+auth)
				tellStory(t, s, c, steps)
				s.cli("instances", "delete", name, "--quiet")
			})
		}
	})
}

type library struct {
	name    string
	command func(t *testing.T) *exec.Cmd
}

func libraries(s *server, testdata string) []library {
	return []library{
		{"ioredis", func(t *testing.T) *exec.Cmd { return node(t, s, testdata, "ioredis.mjs") }},
		{"node-redis", func(t *testing.T) *exec.Cmd { return node(t, s, testdata, "node-redis.mjs") }},
		{"redis-py", func(t *testing.T) *exec.Cmd { return python(t, s, "redis", filepath.Join(testdata, "redis_py.py")) }},
		{"Java", func(t *testing.T) *exec.Cmd { return java(t, s, filepath.Join(testdata, "Story.java")) }},
	}
}

// node makes the command for a JavaScript program, in a folder into which its libraries are installed.
func node(t *testing.T, s *server, testdata, story string) *exec.Cmd {
	t.Helper()
	need(t, "node")
	need(t, "npm")
	dir := filepath.Join(s.base, "node")
	if _, err := os.Stat(dir); err != nil {
		if err := os.CopyFS(dir, os.DirFS(testdata)); err != nil {
			t.Fatal(err)
		}
		c := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
		c.Dir = dir
		// npm gets the user's own settings and cache.
		if out := run(c); out.code != 0 {
			os.RemoveAll(dir)
			t.Skipf("npm could not install the libraries of package.json, so %s is not shown here:\n%s%s", t.Name(), out.stdout, out.stderr)
		}
	}
	c := s.program("node", story)
	c.Dir = dir
	return c
}

// python makes the command for a Python program. It uses a Python that has the module, which may be Debian's own and not the first
// in PATH.
func python(t *testing.T, s *server, module, story string) *exec.Cmd {
	t.Helper()
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(name, "-c", "import "+module).Run() == nil {
			return s.program(name, "-B", story)
		}
	}
	debian := map[string]string{"redis": "python3-redis", "googleapiclient": "python3-googleapi"}[module]
	t.Skipf("no Python has the module %s, so %s is not shown here; install it: apt-get install %s", module, t.Name(), debian)
	return nil
}

func java(t *testing.T, s *server, story string) *exec.Cmd {
	t.Helper()
	need(t, "javac") // a Java that can run a source file
	return s.program("java", "-XX:TieredStopAtLevel=1", story)
}

// tellStory runs a program, kills the engine when the program says that it is ready for that, and expects every step.
func tellStory(t *testing.T, s *server, c *exec.Cmd, steps []string) {
	t.Helper()
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs := newOutput()
	c.Stderr = errs
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(90*time.Second, func() { c.Process.Kill() })
	defer timer.Stop()
	var done []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if step, ok := strings.CutPrefix(lines.Text(), "ok "); ok {
			done = append(done, step)
		} else if lines.Text() == "ready to lose the engine" {
			s.kill9(s.node("engine"))
			io.WriteString(in, "it is killed\n")
		}
	}
	if err := c.Wait(); err != nil || !slices.Equal(done, steps) {
		t.Errorf("%v after %q, want %q\n%s", err, done, steps, errs)
	}
}

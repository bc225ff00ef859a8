package e2e_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The engines besides the one in PATH are those that scripts/engines.sh has unpacked, or the list of SEALANE_TEST_ENGINES, as for
// internal/enginetest. They are read here because TestMain removes Sealane's variables from the environment.
var enginesList, enginesListed = os.LookupEnv("SEALANE_TEST_ENGINES")
var enginesFolder = os.Getenv("SEALANE_ENGINES")

// testEngine is an engine on which a test runs.
type testEngine struct{ name, program string } // "redis-8.0.2", and its path

// config is the configuration of a server whose instances use this engine.
func (e testEngine) config() string { return localConfig() + "engines: [" + e.program + "]\n" }

var engineVersion = regexp.MustCompile(`^(Redis|Valkey|)(?: ?[Ss]erver) v=(\S+)`)

// allEngines are the engines of every version that was found, the one in PATH first.
func allEngines(t *testing.T) []testEngine {
	t.Helper()
	var programs []string
	for _, name := range []string{"redis-server", "valkey-server"} {
		if p, err := exec.LookPath(name); err == nil {
			programs = append(programs, p)
		}
	}
	if enginesListed {
		programs = append(programs, filepath.SplitList(enginesList)...)
	} else {
		programs = append(programs, unpackedEngines()...)
	}
	var all []testEngine
	seen := map[string]bool{}
	for _, p := range programs {
		out, err := exec.Command(p, "--version").Output()
		m := engineVersion.FindStringSubmatch(string(out))
		if err != nil || m == nil {
			t.Fatalf("%s --version: %v, %q", p, err, out)
		}
		name := strings.ToLower(m[1])
		if name == "" {
			name = "valkey" // Valkey 7.2 prints no name of its own
		}
		if name += "-" + m[2]; !seen[name] {
			seen[name] = true
			all = append(all, testEngine{name, p})
		}
	}
	return all
}

func unpackedEngines() []string {
	folder := enginesFolder
	if folder == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil
		}
		folder = filepath.Join(cache, "sealane", "engines")
	}
	var all []string
	for _, name := range []string{"redis-server", "valkey-server"} {
		found, _ := filepath.Glob(filepath.Join(folder, "*", name, name)) // the pattern is well formed
		all = append(all, found...)
	}
	return all
}

// onEveryEngine runs a test once per engine, in subtests that are named after the engines.
func onEveryEngine(t *testing.T, story func(t *testing.T, e testEngine)) {
	t.Helper()
	for _, e := range allEngines(t) {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			story(t, e)
		})
	}
}

// answersEveryLogin says whether an engine answers a failed login while it still has replies to send. Redis 7.2 to 8.8 and Valkey
// 7.2 to 8.1.1 don't. Behind Sealane every login is answered.
func answersEveryLogin(t *testing.T, socket string) bool {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := &wire{Conn: c}
	w.send([]byte(pipeline("PING", "AUTH nobody wrong", "QUIT"))) // QUIT needs no login
	return strings.Contains(string(w.rest()), "WRONGPASS")
}

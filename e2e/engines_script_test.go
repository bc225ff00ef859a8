package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// If the newer engines can't be had, scripts/engines.sh says so clearly, and fails only with --strict. Engines that were unpacked
// before need no network.
func TestEnginesScriptSaysWhatTestsGoWithout(t *testing.T) {
	t.Parallel()
	folder, programs := t.TempDir(), t.TempDir()
	// This program is found in PATH before the real apt-get, so no package can be had.
	if err := os.WriteFile(filepath.Join(programs, "apt-get"), []byte("#!/bin/sh\nexit 100\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	script := func(args ...string) result {
		c := exec.Command("../scripts/engines.sh", args...)
		c.Env = append(os.Environ(), "SEALANE_ENGINES="+folder, "PATH="+programs+":"+os.Getenv("PATH"))
		return run(c)
	}
	const all = "NOT TESTED WITH: trixie/redis-server trixie/valkey-server unstable/redis-server unstable/valkey-server"
	for flag, code := range map[string]int{"": 0, "--strict": 1} {
		if got := script(strings.Fields(flag)...); got.code != code || !strings.Contains(got.stderr, all) {
			t.Errorf("engines.sh %s: exit code %d, %s", flag, got.code, got.stderr)
		}
	}
	if got := script("--list"); got.code != 0 || got.stdout != "\n" {
		t.Errorf("engines.sh --list: exit code %d, %q", got.code, got.stdout)
	}
	if got := script("--nonsense"); got.code != 2 || !strings.HasPrefix(got.stderr, "usage: ") {
		t.Errorf("engines.sh --nonsense: exit code %d, %q", got.code, got.stderr)
	}

	there := filepath.Join(folder, "trixie", "valkey-server")
	if err := os.MkdirAll(there, 0o700); err != nil {
		t.Fatal(err)
	}
	valkey := filepath.Join(there, "valkey-server")
	if err := os.WriteFile(valkey, []byte("#!/bin/sh\necho Valkey server v=8.1.1 sha=0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	got := script()
	if want := "engine for the tests: Valkey server v=8.1.1, " + valkey + "\n"; got.code != 0 || got.stdout != want || strings.Contains(got.stderr, "trixie/valkey") {
		t.Errorf("with one engine: exit code %d, %q, %q", got.code, got.stdout, got.stderr)
	}
	if got := script("--list"); got.stdout != valkey+"\n" {
		t.Errorf("engines.sh --list: %q", got.stdout)
	}
}

// Package enginetest gives tests the engines that they run on: those in PATH, and the newer ones that scripts/engines.sh
// has unpacked. Only tests import it.
//
// Guaranteed: each version comes once, under a name such as "redis-8.0.2". A test for which there is no engine at all is skipped,
// with the error of engine.Find.
//
// Not guaranteed: which engines there are. The names of a test's subtests say on which it ran.
package enginetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sealane/sealane/internal/engine"
)

// All returns every engine there is, the one in PATH first. SEALANE_TEST_ENGINES, a list of programs separated as in PATH, takes the
// place of those that scripts/engines.sh has unpacked.
func All(t testing.TB) []engine.Binary {
	t.Helper()
	all, err := engine.Find(t.Context(), nil)
	var missing *engine.NotFoundError
	if err != nil && !errors.As(err, &missing) {
		t.Fatal(err)
	}
	if more := unpacked(t); len(more) > 0 {
		newer, err := engine.Find(t.Context(), more)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, newer...)
	}
	if len(all) == 0 {
		t.Skipf("this test needs a real engine: %v", missing)
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(b engine.Binary) bool {
		again := seen[Name(b)]
		seen[Name(b)] = true
		return again
	})
}

// Each runs a test on every engine, each in a subtest that is named after it.
func Each(t *testing.T, test func(t *testing.T, b engine.Binary)) {
	t.Helper()
	for _, b := range All(t) {
		t.Run(Name(b), func(t *testing.T) { test(t, b) })
	}
}

// Name is the engine's kind and version.
func Name(b engine.Binary) string { return fmt.Sprintf("%s-%s", b.Kind, b.Version) }

// unpacked finds the engines that scripts/engines.sh has unpacked, by the same variables.
func unpacked(t testing.TB) []string {
	t.Helper()
	if list, ok := os.LookupEnv("SEALANE_TEST_ENGINES"); ok {
		return filepath.SplitList(list)
	}
	folder := os.Getenv("SEALANE_ENGINES")
	if folder == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil // without a home there is no such folder
		}
		folder = filepath.Join(cache, "sealane", "engines")
	}
	var all []string
	for _, name := range []string{"redis-server", "valkey-server"} {
		found, err := filepath.Glob(filepath.Join(folder, "*", name, name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

package internal_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	codeSpan = regexp.MustCompile("`([^`]+)`")
	ourPath  = regexp.MustCompile("`((?:internal|cmd|e2e|bench|docs|proto|gen|scripts)/[A-Za-z0-9_./-]+)`")
	goFile   = regexp.MustCompile(`^[a-z0-9_]+\.go$`)
	// A name with the file that has it: "`doubts` in `clients.go`" or "`link.go` (`refresh`)".
	nameBefore = regexp.MustCompile("`([A-Za-z][A-Za-z0-9]*)` (?:\\(`[^`]+`\\) )?in `([A-Za-z0-9_./-]+\\.go)`")
	nameBehind = regexp.MustCompile("`([A-Za-z0-9_./-]+\\.go)` \\(`([A-Za-z][A-Za-z0-9]*)`\\)")
)

// Each file and folder that ARCHITECTURE.md names is there. A bare file name in a row of a table belongs to the folder named
// before it in that row; elsewhere there must be a file of that name in some package.
func TestWhatArchitectureNamesIsThere(t *testing.T) {
	t.Parallel()
	all := goFiles(t)
	for n, line := range architecture(t) {
		for _, m := range ourPath.FindAllStringSubmatch(line, -1) {
			if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
				t.Errorf("ARCHITECTURE.md:%d names %s, which is not there", n+1, m[1])
			}
		}
		folder := ""
		for _, m := range codeSpan.FindAllStringSubmatch(line, -1) {
			switch name := m[1]; {
			case strings.Contains(name, "/"):
				folder = strings.TrimSuffix(name, "/")
				if path.Ext(name) != "" {
					folder = path.Dir(name)
				}
			case !goFile.MatchString(name):
			case strings.HasPrefix(line, "|") && !slices.Contains(all, folder+"/"+name):
				t.Errorf("ARCHITECTURE.md:%d names %s, which is not in %q, the folder named before it", n+1, name, folder)
			case !slices.ContainsFunc(all, func(f string) bool { return path.Base(f) == name }):
				t.Errorf("ARCHITECTURE.md:%d names %s, and there is no such file", n+1, name)
			}
		}
	}
}

// A function or method that ARCHITECTURE.md sends its reader to is in the file that it names.
func TestWhatArchitectureNamesIsInItsFile(t *testing.T) {
	t.Parallel()
	for n, line := range architecture(t) {
		named := nameBefore.FindAllStringSubmatch(line, -1)
		for _, m := range nameBehind.FindAllStringSubmatch(line, -1) {
			named = append(named, []string{m[0], m[2], m[1]})
		}
		for _, m := range named {
			name, file := m[1], m[2]
			if !strings.Contains(file, "/") {
				continue
			}
			text, err := os.ReadFile(filepath.Join("..", file))
			if err != nil {
				continue // the other test says so
			}
			if !regexp.MustCompile(`\b` + name + `\b`).Match(text) {
				t.Errorf("ARCHITECTURE.md:%d sends its reader to %s in %s, which doesn't have it", n+1, name, file)
			}
		}
	}
}

// The table of packages has every package, at the level at which imports are checked.
func TestArchitectureHasEveryPackage(t *testing.T) {
	t.Parallel()
	row := regexp.MustCompile(`^\| (\d) \| ([a-z0-9/]+) \| `)
	found := make(map[string]int)
	for _, line := range architecture(t) {
		if m := row.FindStringSubmatch(line); m != nil {
			name := m[2]
			if !strings.Contains(name, "/") {
				name = "internal/" + name
			}
			found[name] = int(m[1][0] - '0')
		}
	}
	for name, level := range levels {
		if got, ok := found[name]; !ok || got != level {
			t.Errorf("the table of packages in ARCHITECTURE.md has no row for %s at level %d", name, level)
		}
	}
	for name := range found {
		if _, ok := levels[name]; !ok {
			t.Errorf("ARCHITECTURE.md has a package %s, which has no level here", name)
		}
	}
}

// architecture are the lines of ARCHITECTURE.md.
func architecture(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

// goFiles are the Go files of the repository, by their paths in it.
func goFiles(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, folder := range []string{"internal", "cmd", "e2e", "bench", "scripts"} {
		root := filepath.Join("..", folder)
		err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if strings.HasSuffix(file, ".go") {
				all = append(all, strings.TrimPrefix(filepath.ToSlash(file), "../"))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

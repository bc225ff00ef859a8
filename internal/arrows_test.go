// Package internal_test holds the rules that all packages keep: which may import which, and that each says what it
// guarantees.
package internal_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sealane/sealane/"

// levels is the layer table of ARCHITECTURE.md. A package may import packages of lower levels only: policy imports
// mechanism, never the other way, and siblings don't know each other.
var levels = map[string]int{
	"gen/sealane/v1":       0,
	"internal/resp":        0,
	"internal/pki":         0,
	"internal/durable":     0,
	"internal/process":     0,
	"internal/firstline":   0,
	"internal/stunnel":     0,
	"internal/ledger":      0,
	"internal/wire":        0,
	"internal/clientlist":  0,
	"internal/filter":      0,
	"internal/rest":        0,
	"internal/attribution": 1,
	"internal/plaintext":   1,
	"internal/netloop":     0,
	"internal/logfile":     0,
	"internal/rdb":         0,
	"internal/store":       1,
	"internal/engine":      1,
	"internal/replication": 1,
	"internal/routing":     1,
	"internal/objects":     1,
	"internal/relay":       2,
	"internal/backend":     2,
	"internal/ops":         1,
	"internal/audit":       1,
	"internal/diagnosis":   1,
	"internal/doctor":      3,
	"internal/gateway":     3,
	"internal/sidecar":     3,
	"internal/instance":    4,
	"internal/api":         5,
	"internal/local":       5,
	"internal/rehearsal":   5,
	"cmd/sealane":          7,

	"internal/hint":     0,
	"internal/access":   2,
	"internal/authz":    3,
	"internal/statedir": 2,

	"internal/systemmemory":    1,
	"internal/snapshot":        0,
	"internal/failover":        0,
	"internal/server":          6,
	"internal/replicationlink": 1,
	"internal/tier":            0,

	"internal/sidecarconfig": 4,

	"internal/certtest":   0,
	"internal/objecttest": 0,
	"internal/enginetest": 2,
}

// testsOnly are packages that only _test.go files may import: they end the test that uses them, and no program may hold them.
var testsOnly = []string{"internal/certtest", "internal/enginetest", "internal/objecttest"}

// forbidden are imports that would break what a package promises.
var forbidden = []struct{ by, what, why string }{
	{"internal/resp", "net", "resp opens no connection: its Client is given one"},
	{"internal/resp", "os", "resp reads no files"},
	{"internal/rdb", "os", "rdb checks a stream and opens no files"},
	{"internal/pki", "net/http", "pki says what should exist and reaches nobody"},
	{"internal/pki", "os", "pki reads no files: secrets come in as values"},
	{"internal/access", "google.golang.org/grpc", "who may do what doesn't depend on the transport"},
	{"internal/gateway", "google.golang.org/grpc", "the data plane knows its snapshot, not the API"},
	{"internal/routing", "net", "routing is pure functions: it decides, and relay acts"},
	{"internal/routing", "os", "routing is pure functions: it decides, and relay acts"},
	{"internal/routing", "time", "routing is pure functions: it decides, and relay acts"},
	{"internal/routing", "sync", "routing is pure functions: one goroutine has a State"},
	{"internal/relay", "crypto/x509", "relay carries TLS that somebody else has set up; trust is policy"},
	{"internal/doctor", module + "internal/relay", "doctor is a client: it needs the words on the wire (internal/wire), not the data path"},
	{"internal/instance", module + "internal/relay", "the domain knows the gateway's snapshot, not its data path; words on the wire are in internal/wire"},
	{"internal/rehearsal", module + "internal/relay", "a rehearsal is a client: words on the wire are in internal/wire"},
	{"cmd/sealane", module + "internal/relay", "the commands start gateways and sidecars, which own the data path; words on the wire are in internal/wire"},
	{"internal/instance", "google.golang.org/grpc", "the domain knows nothing of transports"},
	{"internal/instance", "cloud.google.com/go/redis", "the domain knows nothing of the API's messages"},
	{"internal/instance", module + "gen", "the domain knows nothing of the API's messages"},
}

type goPackage struct {
	ImportPath string
	Doc        string
	Imports    []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports", module+"...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		if strings.TrimPrefix(p.ImportPath, module) != "internal" {
			packages = append(packages, p)
		}
	}
}

func TestImportsPointDownwards(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		level, ok := levels[name]
		if !ok {
			t.Errorf("%s has no level: give it one here and in ARCHITECTURE.md", name)
		}
		for _, i := range p.Imports {
			imported, ours := strings.CutPrefix(i, module)
			if ours && levels[imported] >= level {
				t.Errorf("%s (level %d) imports %s (level %d): an import may point only to a lower level", name, level, imported, levels[imported])
			}
			if slices.Contains(testsOnly, imported) {
				t.Errorf("%s imports %s, which is for _test.go files only", name, imported)
			}
			for _, f := range forbidden {
				if name == f.by && (i == f.what || strings.HasPrefix(i, f.what+"/") && f.what != "net" && f.what != "os") {
					t.Errorf("%s imports %s: %s", name, i, f.why)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// e2e and bench look at Sealane from outside, by its binary: whatever they imported would no longer be what users have.
func TestOtherModulesKnowTheBinaryOnly(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"e2e", "bench"} {
		files := 0
		err := filepath.WalkDir(filepath.Join("..", folder), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" {
				return err
			}
			files++
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, i := range f.Imports {
				imported, ours := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), module)
				forTests := strings.HasSuffix(path, "_test.go") && (imported == "internal/certtest" || imported == "internal/objecttest")
				if ours && !forTests && !strings.HasPrefix(imported, folder+"/") {
					t.Errorf("%s imports %s: it may use the binary, and in tests internal/certtest and internal/objecttest", path, imported)
				}
			}
			return nil
		})
		if err != nil || files == 0 {
			t.Errorf("%s: %d files, %v", folder, files, err)
		}
	}
}

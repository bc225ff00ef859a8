// Package internal_test holds the rules that all packages keep: which may import which, and that each says what it
// guarantees.
package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/sealane/sealane/"

// levels is the layer table of ARCHITECTURE.md. A package may import packages of lower levels only: policy imports
// mechanism, never the other way, and siblings don't know each other.
var levels = map[string]int{
	"gen/sealane/v1":     0,
	"internal/resp":      0,
	"internal/pki":       0,
	"internal/durable":   0,
	"internal/process":   0,
	"internal/firstline": 0,
	"internal/stunnel":   0,
	"internal/ledger":    0,
	"internal/logfile":   0,
	"internal/store":     1,
	"internal/engine":    1,
	"internal/routing":   1,
	"internal/relay":     2,
	"internal/ops":       1,
	"internal/audit":     1,
	"internal/doctor":    3,
	"internal/gateway":   3,
	"internal/sidecar":   3,
	"internal/instance":  4,
	"internal/api":       5,
	"internal/rehearsal": 5,
	"cmd/sealane":        6,

	// For tests only.
	"internal/enginetest": 2,
}

// forbidden are imports that would break what a package promises.
var forbidden = []struct{ by, what, why string }{
	{"internal/resp", "net", "resp is pure functions: no input or output"},
	{"internal/resp", "os", "resp is pure functions: no input or output"},
	{"internal/pki", "net/http", "pki says what should exist and reaches nobody"},
	{"internal/pki", "os", "pki reads no files: secrets come in as values"},
	{"internal/gateway", "google.golang.org/grpc", "the data plane knows its snapshot, not the API"},
	{"internal/routing", "net", "routing is pure functions: it decides, and relay acts"},
	{"internal/routing", "os", "routing is pure functions: it decides, and relay acts"},
	{"internal/routing", "time", "routing is pure functions: it decides, and relay acts"},
	{"internal/routing", "sync", "routing is pure functions: one goroutine has a State"},
	{"internal/relay", "crypto/x509", "relay carries TLS that somebody else has set up; trust is policy"},
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

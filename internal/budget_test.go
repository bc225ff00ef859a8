package internal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// The budget of ARCHITECTURE.md, in lines, tests apart. gen/ is not written by hand; bench/, e2e/ and findings/ are not
// part of the binary.
const (
	functionBudget = 60
	fileBudget     = 800
	packageBudget  = 3000
)

// overBudget are the exceptions: a package, a file, or FILE:FUNCTION (a method as Type.Method), with its size and the
// reason. An exception may not grow, and one that shrank by more than budgetSlack of its size must be lowered here, so this table
// can only shrink.
var overBudget = map[string]struct {
	lines int
	why   string
}{
	"internal/relay":    {7019, "a loop's goroutine owns sessions, engine connections and pools together; the decisions and the sockets are packages of their own"},
	"internal/gateway":  {4680, "one process: accepting, handshakes, certificates, limits and the admin socket share one snapshot"},
	"internal/instance": {8946, "one domain: all of it works on one record per instance"},
	"cmd/sealane":       {5337, "the commands, a file each"},
}

// budgetSlack is the part of its size by which an exception may be smaller than its entry.
const budgetSlack = 0.05

func TestFunctionsFilesAndPackagesStayWithinTheirBudget(t *testing.T) {
	t.Parallel()
	sizes := measureSizes(t)
	for name, s := range sizes {
		if _, excepted := overBudget[name]; !excepted && s.lines > s.budget {
			t.Errorf("%s has %d lines, the budget is %d: divide it, or say in overBudget why it can't be", name, s.lines, s.budget)
		}
	}
	for name, e := range overBudget {
		s, ok := sizes[name]
		switch {
		case !ok:
			t.Errorf("%s, an exception, is not there any more: take it out of overBudget", name)
		case s.lines > e.lines:
			t.Errorf("%s has %d lines and is an exception up to %d (%s): it may not grow", name, s.lines, e.lines, e.why)
		case s.lines <= s.budget:
			t.Errorf("%s has %d lines and is within the budget of %d: take it out of overBudget", name, s.lines, s.budget)
		case float64(s.lines) < float64(e.lines)*(1-budgetSlack):
			t.Errorf("%s has shrunk to %d lines: its exception of %d can be lowered", name, s.lines, e.lines)
		case e.why == "":
			t.Errorf("%s is an exception without a reason", name)
		}
	}
}

type size struct{ lines, budget int }

// measureSizes returns the sizes of what the binary is made of, and of the scripts, by their names in overBudget.
func measureSizes(t *testing.T) map[string]size {
	t.Helper()
	sizes := make(map[string]size)
	for _, folder := range []string{"internal", "cmd", "scripts"} {
		err := filepath.WalkDir(filepath.Join("..", folder), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return filepath.SkipDir
			case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
				return measureFile(path, sizes)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return sizes
}

func measureFile(path string, sizes map[string]size) error {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	file := strings.TrimPrefix(filepath.ToSlash(path), "../")
	lines := set.File(parsed.FileStart).LineCount()
	sizes[file] = size{lines, fileBudget}
	folder := filepath.ToSlash(filepath.Dir(file))
	sizes[folder] = size{sizes[folder].lines + lines, packageBudget}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			n := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1
			sizes[file+":"+functionName(f)] = size{n, functionBudget}
		}
	}
	return nil
}

// functionName is Type.Method, or the name of a function that is no method.
func functionName(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	receiver := f.Recv.List[0].Type
	for {
		switch t := receiver.(type) {
		case *ast.StarExpr:
			receiver = t.X
		case *ast.IndexExpr:
			receiver = t.X
		case *ast.IndexListExpr:
			receiver = t.X
		case *ast.Ident:
			return t.Name + "." + f.Name.Name
		default:
			return f.Name.Name
		}
	}
}

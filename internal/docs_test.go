package internal_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A redis-cli command that a user can paste names the port: without -p redis-cli goes to 6379, where no instance is.
func TestPastedCommandsNameThePort(t *testing.T) {
	t.Parallel()
	command := regexp.MustCompile(`\bredis-cli (?:[^|#"` + "`" + `]* )?-h [^|#"` + "`" + `]*`)
	checked := 0
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../cmd/sealane/*.go", "../cmd/sealane/snippets/*", "../internal/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for n, line := range linesOf(t, file) {
				for _, c := range command.FindAllString(line, -1) {
					if checked++; !strings.Contains(c, " -p ") {
						t.Errorf("%s:%d: %q goes to port 6379: add -p 6378", strings.TrimPrefix(file, "../"), n+1, c)
					}
				}
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d commands were found", checked)
	}
}

// A link leads to a file that is there, and to a heading that the file has.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]*))?\)`)
	checked := 0
	for _, file := range documents(t) {
		for n, line := range linesOf(t, file) {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				if strings.Contains(m[1], "://") {
					continue
				}
				checked++
				target := file
				if m[1] != "" {
					target = filepath.Join(filepath.Dir(file), m[1])
				}
				if _, err := os.Stat(target); err != nil {
					t.Errorf("%s:%d: there is no %s", file, n+1, m[1])
				} else if m[2] != "" && !slices.Contains(headings(linesOf(t, target)), m[2]) {
					t.Errorf("%s:%d: %s has no heading #%s", file, n+1, target, m[2])
				}
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d links were found", checked)
	}
}

// headings are the anchors that GitHub makes of a document's headings.
func headings(lines []string) []string {
	var all []string
	unlinked := regexp.MustCompile("[^a-z0-9 _-]")
	for _, line := range lines {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			all = append(all, strings.ReplaceAll(unlinked.ReplaceAllString(strings.ToLower(title), ""), " ", "-"))
		}
	}
	return all
}

// Each metric that a document names is one of the program's.
func TestMetricsInDocumentsExist(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	for _, pattern := range []string{"../internal/*/*.go", "../cmd/sealane/*.go"} {
		files, _ := filepath.Glob(pattern) // the pattern is well formed
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				source.WriteString(strings.Join(linesOf(t, file), "\n"))
			}
		}
	}
	metric := regexp.MustCompile(`\bsealane_[a-z0-9_]+`)
	checked := 0
	for _, file := range documents(t) {
		for n, line := range linesOf(t, file) {
			for _, name := range metric.FindAllString(line, -1) {
				if strings.HasSuffix(name, "_") {
					continue // how several names begin
				}
				checked++
				inSidecar := strings.TrimPrefix(name, "sealane_sidecar_") // which adds the beginning itself
				if !strings.Contains(source.String(), `"`+name+`"`) && !strings.Contains(source.String(), `"`+inSidecar+`"`) {
					t.Errorf("%s:%d: there is no metric %s", file, n+1, name)
				}
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d metrics were found", checked)
	}
}

// documents are the Markdown files for users and engineers.
func documents(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../*.md", "../docs/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, files...)
	}
	return all
}

func linesOf(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

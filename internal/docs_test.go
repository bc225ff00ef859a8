package internal_test

import (
	"os"
	"path/filepath"
	"regexp"
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
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for n, line := range strings.Split(string(text), "\n") {
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

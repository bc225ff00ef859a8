package internal_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A database of vulnerabilities in the form of https://go.dev/doc/security/vuln/database, with one entry that is made up for this
// test: google/uuid has no such vulnerability.
var madeUpDatabase = map[string]string{
	"index/db.json":      `{"modified":"2026-01-01T00:00:00Z"}`,
	"index/modules.json": `[{"path":"github.com/google/uuid","vulns":[{"id":"GO-0000-0001","modified":"2026-01-01T00:00:00Z"}]}]`,
	"ID/GO-0000-0001.json": `{"schema_version":"1.3.1","id":"GO-0000-0001","modified":"2026-01-01T00:00:00Z","published":"2026-01-01T00:00:00Z",
		"summary":"made up by a test","details":"made up by a test","database_specific":{"url":"https://vuln.example/GO-0000-0001"},
		"affected":[{"package":{"name":"github.com/google/uuid","ecosystem":"Go"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}],
		"ecosystem_specific":{"imports":[{"path":"github.com/google/uuid","symbols":["NewString"]}]}}]}`,
}

// TestVulnerabilitiesFailTheCheck runs the script of `make check` on a module that calls uuid.NewString.
func TestVulnerabilitiesFailTheCheck(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	tool := regexp.MustCompile(`(?m)^GOVULNCHECK = (\S+)$`).FindStringSubmatch(string(makefile))[1]
	script, err := filepath.Abs("../scripts/vulncheck.sh")
	if err != nil {
		t.Fatal(err)
	}
	calls, plain := callerOfUUID(t), files(t, map[string]string{"go.mod": "module example.com/plain\n\ngo 1.26.0\n", "main.go": "package main\n\nfunc main() {}\n"})
	for _, tc := range []struct {
		name, module string
		database     string // GOVULNDB
		fails        bool
		says         string
	}{
		{"the database can't be reached", plain, "", false, "NOT CHECKED FOR KNOWN VULNERABILITIES: the database can't be reached: "},
		{"a call of what is vulnerable", calls, "file://" + files(t, madeUpDatabase), true, "GO-0000-0001"},
		{"no such call", plain, "file://" + files(t, madeUpDatabase), false, "no known vulnerability"},
		{"a copy that is not there", plain, "file://" + filepath.Join(plain, "none"), true, "none"},
	} {
		cmd := offline(script, tool, tc.module)
		cmd.Env = append(cmd.Env, "GOVULNDB="+tc.database)
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "can't be downloaded") {
			t.Skipf("%s is not in the module cache, where `make check` puts it: %s", tool, out)
		}
		if (err != nil) != tc.fails || !strings.Contains(string(out), tc.says) {
			t.Errorf("%s: %v, %s; want %q and failure %t", tc.name, err, out, tc.says, tc.fails)
		}
	}
}

// offline is a command that reaches nothing outside of this machine.
func offline(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GOPROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=", "GOWORK=off")
	return cmd
}

func callerOfUUID(t *testing.T) string {
	t.Helper()
	read := func(name string, line *regexp.Regexp) string {
		all, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(line.FindAllString(string(all), -1), "\n")
	}
	return files(t, map[string]string{
		"go.mod":  fmt.Sprintf("module example.com/caller\n\ngo 1.26.0\n\nrequire %s\n", strings.TrimSpace(read("go.mod", regexp.MustCompile(`(?m)^\tgithub.com/google/uuid .*$`)))),
		"go.sum":  read("go.sum", regexp.MustCompile(`(?m)^github.com/google/uuid .*$`)) + "\n",
		"main.go": "package main\n\nimport \"github.com/google/uuid\"\n\nfunc main() { println(uuid.NewString()) }\n",
	})
}

func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

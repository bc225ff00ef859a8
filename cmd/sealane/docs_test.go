package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/objects"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/server"
	"github.com/sealane/sealane/internal/sidecarconfig"
	"github.com/sealane/sealane/internal/statedir"
)

// table reads the rows of a page's tables whose first columns are called so. Cells are without backticks where they are nothing else.
func table(t *testing.T, page string, header ...string) [][]string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	inside := false
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "| "+strings.Join(header, " | ")+" |"):
			inside = true
		case !strings.HasPrefix(line, "|"):
			inside = false
		case inside && !strings.HasPrefix(line, "|---"):
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i, c := range cells {
				cells[i] = strings.TrimSpace(c)
			}
			rows = append(rows, cells)
		}
	}
	return rows
}

// documented is a field of a configuration.
type documented struct {
	defaultValue string // as the page has it; "" where the structure doesn't know it
	unit         string // what the column "value" must have; "" for what the kind doesn't tell
}

// fieldsIn are the fields of a configuration's structure, by their names in the file, with the values that they have by default.
func fieldsIn(prefix string, defaults reflect.Value, into map[string]documented) {
	for i := range defaults.NumField() {
		name := defaults.Type().Field(i).Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		value := defaults.Field(i)
		if value.Kind() == reflect.Pointer {
			value = value.Elem()
		}
		var d documented
		switch v := value.Interface().(type) {
		case bool:
			d = documented{fmt.Sprintf("`%t`", v), "true or false"}
		case int:
			d = documented{fmt.Sprintf("`%d`", v), "a number"}
		case time.Duration:
			d = documented{"`" + v.String() + "`", "a duration"}
		case string:
			if v != "" {
				d.defaultValue = "`" + v + "`"
			}
		case []string:
			d.unit = "a list of"
		case []sidecarconfig.Link:
			continue // a table of its own
		case map[string]objects.Bucket:
			fieldsIn(prefix+name+".NAME.", reflect.ValueOf(objects.Bucket{}), into)
			continue
		default:
			if value.Kind() == reflect.Slice {
				fieldsIn(prefix+name+"[].", reflect.New(value.Type().Elem()).Elem(), into)
			} else {
				fieldsIn(prefix+name+".", value, into)
			}
			continue
		}
		into[prefix+name] = d
	}
}

// checkTable holds a page's table against a configuration. Known are the defaults that are not in the structure, because they are with
// what uses them.
func checkTable(t *testing.T, page string, rows [][]string, fields map[string]documented, known map[string]string) {
	t.Helper()
	seen := make(map[string]bool)
	for _, row := range rows {
		name, byDefault, value := strings.Trim(row[0], "`"), row[len(row)-3], row[len(row)-2]
		f, ok := fields[name]
		if !ok || seen[name] {
			t.Errorf("docs/%s has a row for %s, which is no field, or has two", page, name)
			continue
		}
		seen[name] = true
		want := f.defaultValue
		if k, ok := known[name]; ok {
			want = k
		}
		if want == "" && (byDefault == "" || strings.HasPrefix(byDefault, "`") && strings.HasSuffix(byDefault, "`")) || want != "" && byDefault != want {
			t.Errorf("docs/%s: the default of %s is %s; want %q", page, name, byDefault, want)
		}
		if !strings.HasPrefix(value, f.unit) || value == "" {
			t.Errorf("docs/%s: %s is %q; want %q", page, name, value, f.unit)
		}
	}
	for name := range fields {
		if !seen[name] {
			t.Errorf("docs/%s has no row for %s", page, name)
		}
	}
}

func TestTheConfigurationPageHasEveryFieldWithItsDefault(t *testing.T) {
	t.Parallel()
	const page = "configuration.md"
	fields := make(map[string]documented)
	fieldsIn("", reflect.ValueOf(server.DefaultConfig()).Elem(), fields)
	checkTable(t, page, table(t, page, "field", "default", "value"), fields, map[string]string{
		"addresses.pool":   "`" + instance.DefaultAddresses().Pool.String() + "`",
		"ca_lifetime":      fmt.Sprintf("`%gh`", pki.DefaultLifetimes().CA.Hours()),
		"ca_key_algorithm": "`" + string(pki.ECDSAP256) + "`",
		"master_key_file":  "`master.key` in the state folder",

		"buckets.NAME.region": "`us-east-1`", "buckets.NAME.endpoint": "Google's or Amazon's", "buckets.NAME.bucket": "NAME", "buckets.NAME.ca_file": "the system's",
	})
}

func TestTheSidecarsPageHasEveryFieldWithItsDefaultAndFlag(t *testing.T) {
	t.Parallel()
	const page = "sidecar.md"
	defaults := sidecarconfig.Default()
	fields := make(map[string]documented)
	fieldsIn("", reflect.ValueOf(defaults).Elem(), fields)
	fieldsIn("", reflect.ValueOf(defaults.Links[0]), fields)
	rows := table(t, page, "field", "flag", "default", "value")
	checkTable(t, page, rows, fields, map[string]string{
		"listen_mode": "`0600`", "project": "`local`", "region": "`local`",
		"auth": "`auto` with `instance`, else `none`", "ops_token_file": "`ops.token` in the state folder",
	})
	flags := newSidecar(&env{}).Flags()
	for _, row := range rows {
		name, want := strings.Trim(row[0], "`"), ""
		if f := flags.Lookup(strings.ReplaceAll(name, "_", "-")); f != nil && !f.Hidden {
			want = "`--" + f.Name + "`"
		}
		if row[1] != want {
			t.Errorf("docs/%s: the flag of %s is %q; want %q", page, name, row[1], want)
		}
	}
}

func TestTheConfigurationPageShowsWhatIsOnDisk(t *testing.T) {
	t.Parallel()
	rows := table(t, "configuration.md", "path", "mode", "written by")
	for i, e := range statedir.Layout {
		mode := "`" + e.Mode + "`"
		if e.Mode == statedir.ByUmask {
			mode = e.Mode
		}
		want := []string{"`" + e.Path + "`", mode, e.Writer, e.What}
		if i >= len(rows) || !reflect.DeepEqual(rows[i], want) {
			t.Errorf("docs/configuration.md wants a row | %s |", strings.Join(want, " | "))
		}
	}
	if len(rows) > len(statedir.Layout) {
		t.Errorf("docs/configuration.md has %d rows; there are %d files", len(rows), len(statedir.Layout))
	}
}

// example is a file with the text of a page from one mark on, which is part of it, to another.
func example(t *testing.T, page, from, to string) string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(raw), from)
	text, _, ended := strings.Cut(text, to)
	if !found || !ended {
		t.Fatalf("docs/%s has no text from %q to %q", page, from, to)
	}
	file := t.TempDir() + "/config.yaml"
	if err := os.WriteFile(file, []byte(from+text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// The examples on the pages are taken as they are.
func TestTheConfigurationsInTheDocumentationAreRight(t *testing.T) {
	t.Parallel()
	if _, err := server.ReadConfig(example(t, "configuration.md", "http: 10.0.0.5", "```"), "", ""); err != nil {
		t.Error(err)
	}
	if c, err := server.ReadConfig(example(t, "import-export.md", "# buckets.yaml", "```"), "", ""); err != nil || len(c.Buckets) != 5 {
		t.Errorf("%+v, %v", c, err)
	}
	cfg, err := sidecarconfig.Read(sidecarconfig.Sources{File: example(t, "sidecar.md", "    ops: 127", "\n\n")})
	if err != nil || len(cfg.Links) != 2 {
		t.Errorf("%+v, %v", cfg, err)
	}
}

// What tells people to give a sidecar a flag names one that it has: commands on pages and in examples, and the sidecar's own messages.
func TestNothingNamesAFlagThatTheSidecarHasNot(t *testing.T) {
	t.Parallel()
	has, gone := map[string]bool{"--state": true, "--help": true}, make(map[string]bool)
	for _, c := range append(newSidecar(&env{}).Commands(), newSidecar(&env{})) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if gone["--"+f.Name] = f.Hidden; !f.Hidden {
				has["--"+f.Name] = true
			}
		})
	}
	command := regexp.MustCompile(`sealane sidecar[^|#\n` + "`" + `]*`)
	message := regexp.MustCompile(`(?m)^.*$`)
	flag := regexp.MustCompile(`--[a-z][a-z-]+`)
	checked := 0
	for pattern, where := range map[string]*regexp.Regexp{
		"../../*.md": command, "../../docs/*.md": command, "../../packaging/*/*": command, "snippets/*": command,
		"../../internal/sidecar/*.go": message, "../../internal/sidecarconfig/c*.go": message, "sidecar*.go": message,
		"../../internal/diagnosis/*.go": regexp.MustCompile(`(?m)^\s*sidecar:.*$`),
	} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range where.FindAllString(string(raw), -1) {
				if strings.Contains(text, "sealane doctor") || strings.HasSuffix(file, "_test.go") {
					continue
				}
				for _, name := range flag.FindAllString(text, -1) {
					// A message may name flags of other programs.
					if checked++; gone[name] || where == command && !has[name] {
						t.Errorf("%s: %q names %s", strings.TrimPrefix(file, "../../"), text, name)
					}
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d flags were found", checked)
	}
}

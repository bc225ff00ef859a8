package main

import (
	"flag"
	"go/format"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var updateClients = flag.Bool("update", false, "write the snippets in docs/clients.md anew")

// docs/clients.md has every snippet, as it is printed for one instance.
func TestClientsPageHasEverySnippetAsPrinted(t *testing.T) {
	const page = "../../docs/clients.md"
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	example := target{ID: "first", Host: "127.83.0.1", Port: "6378", TLS: true, Auth: true, CAFile: "/etc/redis/first.pem"}
	text := string(raw)
	for _, name := range snippetNames() {
		from, to := "<!-- sealane connect first --client "+name+" -->\n", "<!-- the end of that -->\n"
		before, rest, found := strings.Cut(text, from)
		_, after, ended := strings.Cut(rest, to)
		if !found || !ended {
			t.Errorf("%s has no section with the lines %q and %q", page, from, to)
			continue
		}
		var b strings.Builder
		if err := snippetOf(name).Execute(&b, example); err != nil {
			t.Fatal(err)
		}
		text = before + from + "\n" + indented(b.String()) + "\n" + to + after
	}
	if text == string(raw) {
		return
	}
	if !*updateClients {
		t.Errorf("%s has other snippets than are printed: run `go test ./cmd/sealane -run ClientsPage -update`", page)
	} else if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line != "\n" {
			b.WriteString("    ")
		}
		b.WriteString(line)
	}
	return b.String()
}

// A path may have any character; none of them may end a string early.
func TestSnippetsQuoteTheBundlesPath(t *testing.T) {
	at := target{ID: "first", Host: "127.0.0.1", Port: "6378", TLS: true, CAFile: `/it's/"a"/b\c`}
	want := map[string]string{".php": `'/it\'s/"a"/b\\c'`, ".sh": `'/it'\''s/"a"/b\c'`}
	for _, s := range snippets.Templates() {
		if clientOf(s) == "sidecar" {
			continue // it needs no file
		}
		quoted, ok := want[filepath.Ext(strings.TrimSuffix(s.Name(), ".tmpl"))]
		if !ok {
			quoted = `"/it's/\"a\"/b\\c"`
		}
		var b strings.Builder
		if err := s.Execute(&b, at); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), quoted) {
			t.Errorf("%s: want %s in\n%s", s.Name(), quoted, b.String())
		}
	}
}

// Pasted Go is as gofmt has it, whatever of it is left out.
func TestGoSnippetIsFormatted(t *testing.T) {
	for _, tls := range []bool{true, false} {
		for _, auth := range []bool{true, false} {
			var b strings.Builder
			if err := snippetOf("go-redis").Execute(&b, target{ID: "first", Host: "127.0.0.1", Port: "6378", CAFile: "ca.pem", TLS: tls, Auth: auth}); err != nil {
				t.Fatal(err)
			}
			if want, err := format.Source([]byte(b.String())); err != nil || string(want) != b.String() {
				t.Errorf("TLS %v, AUTH %v: %v, got\n%s\nwant\n%s", tls, auth, err, b.String(), want)
			}
		}
	}
}

// An instance of another project or region is meant by the sidecar too, which has no flags for them.
func TestSidecarSnippetNamesProjectAndRegion(t *testing.T) {
	t.Parallel()
	for parent, want := range map[parentFlags]string{
		{"local", "local"}:      "sealane sidecar --instance first --listen 127.0.0.1:6379 --auth auto",
		{"web", "europe-west1"}: "SEALANE_SIDECAR_PROJECT=web SEALANE_SIDECAR_REGION=europe-west1 sealane sidecar --instance first --listen 127.0.0.1:6379 --auth auto",
	} {
		var b strings.Builder
		if err := snippetOf("sidecar").Execute(&b, target{ID: "first", Where: parent.flags(), SidecarEnv: parent.sidecarEnv()}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), "\n"+want+"\n") {
			t.Errorf("%+v: %s", parent, b.String())
		}
	}
}

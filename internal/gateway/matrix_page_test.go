package gateway_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of clients in docs/clients-and-cas.md anew")

const pagePath = "../../docs/clients-and-cas.md"

// page is what docs/clients-and-cas.md has to say of what was seen.
type page struct {
	mu   sync.Mutex
	seen map[string]seen // by the client's name
}

type seen struct {
	version string
	// constrained says for each of constrainedStages what it makes of CAs with name constraints.
	constrained []string
}

func newPage() *page { return &page{seen: map[string]seen{}} }

// saw notes what a client did.
func (p *page) saw(c client, version string, trials []trial, answers []string) {
	s := seen{version: version}
	for _, g := range constrainedStages {
		var got []string
		for i, r := range trials {
			if r.constrained && r.stage.name == g.name && answers[i] == "ok" {
				got = append(got, r.store)
			}
		}
		s.constrained = append(s.constrained, verdict(strings.Fields(g.want), got))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[c.name] = s
}

// isAbout says whether what the page says of a client is about this version of it.
func (p *page) isAbout(t *testing.T, c client, version string) bool {
	text, err := os.ReadFile(pagePath)
	if err != nil {
		t.Fatal(err)
	}
	return majorMinor(column(rowOf(string(text), c.name), 2)) == majorMinor(version)
}

func verdict(wanted, got []string) string {
	switch {
	case len(got) == 0:
		return "refuses"
	case slices.Equal(got, wanted):
		return "**connects**"
	case len(wanted) == 0:
		return "connects"
	}
	return "connects with " + strings.Join(got, ", ") + " only"
}

// check holds the documentation against what was seen just now.
func (p *page) check(t *testing.T) {
	t.Helper()
	const from, to = "<!-- Written by `go test ./internal/gateway -run Expected -update`. -->\n", "<!-- the end of that -->\n"
	text, err := os.ReadFile(pagePath)
	if err != nil {
		t.Fatal(err)
	}
	rest, fresh := string(text), ""
	for _, table := range []func(old string) string{
		func(old string) string { return byStage() + p.byClient(old) },
		func(old string) string { return p.withConstraints(t, old) },
	} {
		before, after, ok := strings.Cut(rest, from)
		old, after, ok2 := strings.Cut(after, to)
		if !ok || !ok2 {
			t.Fatalf("%s has no place for all tables", pagePath)
		}
		fresh += before + from + table(old) + to
		rest = after
	}
	fresh += rest
	if *update && !t.Failed() {
		if err := os.WriteFile(pagePath, []byte(fresh), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if fresh != string(text) {
		var news strings.Builder
		for line := range strings.Lines(fresh) {
			if !strings.Contains(string(text), line) {
				news.WriteString(line)
			}
		}
		t.Errorf("%s does not say what this test saw: run `go test ./internal/gateway -run Expected -update`; new are\n%s", pagePath, &news)
	}
}

// byStage is the table of what every client does.
func byStage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n| what is served | %s |\n|---|---|---|---|\n", strings.Join(stores, " | "))
	for _, g := range stages {
		fmt.Fprintf(&b, "| %s |", g.name)
		for _, s := range stores {
			verdict, other := "refuses", "connects"
			wanted := slices.Contains(strings.Fields(g.want), s)
			if wanted {
				verdict, other = "**connects**", "refuses"
			}
			var others []string
			for _, c := range slices.Sorted(maps.Keys(g.except)) {
				if slices.Contains(g.connect(c), s) != wanted {
					others = append(others, c)
				}
			}
			if len(others) > 0 {
				verdict += fmt.Sprintf(" (%s: %s)", strings.Join(others, ", "), other)
			}
			fmt.Fprintf(&b, " %s |", verdict)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// byClient is the table of the clients. Versions differ from machine to machine: a row that is there stays.
func (p *page) byClient(old string) string {
	var b strings.Builder
	b.WriteString("\n| client | version | compares the certificate with |\n|---|---|---|\n")
	for _, c := range clients {
		version := column(rowOf(old, c.name), 2)
		if s, ok := p.seen[c.name]; ok && (*update || version == "") {
			version = s.version
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.name, version, c.by)
	}
	b.WriteByte('\n')
	return b.String()
}

// withConstraints is the table of what the clients do where CAs have name constraints. That differs between versions of a
// client: one that is not on this machine, or not in the version of the table, keeps its row.
func (p *page) withConstraints(t *testing.T, old string) string {
	var b strings.Builder
	b.WriteString("\n| client | version |")
	for _, g := range constrainedStages {
		fmt.Fprintf(&b, " %s |", g.name)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(constrainedStages)) + "\n")
	for _, c := range clients {
		row := rowOf(old, c.name)
		version := column(row, 2)
		s, ok := p.seen[c.name]
		switch {
		case !ok:
			t.Logf("%s: %s was not seen here", pagePath, c.name)
		case *update || row == "" || majorMinor(version) == majorMinor(s.version):
			row = fmt.Sprintf("| %s | %s | %s |\n", c.name, majorMinor(s.version), strings.Join(s.constrained, " | "))
		default:
			t.Logf("%s: what it says of %s %s was not looked at; %s: %q", pagePath, c.name, version, s.version, s.constrained)
		}
		b.WriteString(row)
	}
	b.WriteByte('\n')
	return b.String()
}

// rowOf is the row of a client in a table, "" if it has none.
func rowOf(table, name string) string {
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "| "+name+" | ") {
			return line
		}
	}
	return ""
}

// column is one of a row, counted from 1.
func column(row string, n int) string {
	if columns := strings.Split(row, "|"); n < len(columns) {
		return strings.TrimSpace(columns[n])
	}
	return ""
}

var twoNumbers, debianEpoch = regexp.MustCompile(`\d+(\.\d+)?`), regexp.MustCompile(`^\d+:`)

// majorMinor is as much of a version as makes a difference, without the epoch of Debian's.
func majorMinor(version string) string {
	return twoNumbers.FindString(debianEpoch.ReplaceAllString(version, ""))
}

// firstLineOf leaves out what is in parentheses at the end, such as the day when it was built.
func firstLineOf(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	line, _, _ = strings.Cut(line, " (")
	return strings.Join(strings.Fields(line), " ")
}

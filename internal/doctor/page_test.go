package doctor_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/doctor"
)

var update = flag.Bool("update", false, "write the list of faults in docs/doctor.md anew")

const (
	page     = "../../docs/doctor.md"
	listFrom = "<!-- The list is written by `go test ./internal/doctor -update`, from what real set-ups made doctor say. -->\n"
)

// checkPage compares the list in docs/doctor.md with what the scenarios made doctor say. Those that were skipped are taken
// from the page as they are.
func checkPage(t *testing.T, reports []doctor.Report, benches []*bench) {
	t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, list, found := strings.Cut(string(raw), listFrom)
	if !found {
		t.Fatalf("%s has no line %q", page, listFrom)
	}
	entries := map[string][]string{}
	for _, e := range strings.SplitAfter(list, "\n\n") {
		code, _, _ := strings.Cut(strings.TrimPrefix(e, "**`"), "`")
		entries[code] = append(entries[code], e)
	}
	var b strings.Builder
	last, n := "", 0
	for i, s := range scenarios {
		if s.code == last {
			n++
		} else {
			last, n = s.code, 0
		}
		switch {
		case reports[i].Fault != nil:
			b.WriteString(entry(s, reports[i], benches[i]))
		case n < len(entries[s.code]):
			b.WriteString(entries[s.code][n])
		default:
			t.Logf("%s, %s: not run and not in %s", s.code, s.setup, page)
		}
	}
	_, unverified := doctor.ProofForTest(nil, nil)
	fmt.Fprintf(&b, "**`%s`** FAIL in verification, when doctor itself is broken\n- %s\n- %s\n", unverified.Code, unverified.Sentence, unverified.Fix)
	if want := head + listFrom + "\n" + b.String(); want != string(raw) {
		if !*update {
			t.Errorf("%s is not what doctor says today: run `go test ./internal/doctor -update` and read what changed", page)
			return
		}
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var keyID = regexp.MustCompile(`\b[0-9a-f]{8}\b`)

// entry is a fault as the page shows it, without what differs from run to run.
func entry(s scenario, r doctor.Report, b *bench) string {
	var at doctor.Step
	for _, step := range r.Steps {
		if step.Fault != nil && step.Result == r.Result {
			at = step
			break
		}
	}
	_, port, _ := strings.Cut(r.Target, ":")
	keys := map[string]string{}
	clean := func(text string) string {
		text = strings.NewReplacer(b.dir+"/", "", b.ip, "127.0.0.1", port, "6378").Replace(text)
		return keyID.ReplaceAllStringFunc(text, func(id string) string {
			if keys[id] == "" {
				keys[id] = []string{"5f0c1d2e", "8a41b7c3", "c6092e5d"}[len(keys)]
			}
			return keys[id]
		})
	}
	return fmt.Sprintf("**`%s`** %s in %s: %s\n- %s\n- %s\n\n", s.code, at.Result, at.Name, s.setup, clean(r.Fault.Sentence), clean(r.Fault.Fix))
}

package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is report.json.
type report struct {
	Date        string    `json:"date"`
	Machine     string    `json:"machine"`
	Method      []string  `json:"method"`
	Interrupted bool      `json:"interrupted,omitempty"`
	Targets     []facts   `json:"targets"`
	Bars        []bar     `json:"bars"`
	Loads       []*result `json:"loads"`
}

// result is the outcome of one load on all targets, by the target's name.
type result struct {
	Name    string                     `json:"name"`
	Title   string                     `json:"title"`
	Notes   map[string]string          `json:"notes"`  // why a target does not support it
	Errors  map[string]string          `json:"errors"` // the last thing that went wrong
	Samples map[string][]sample        `json:"samples"`
	Stats   map[string]map[figure]stat `json:"stats"`
}

// stat is a figure over the rounds.
type stat struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func newReport(o options, l *lab) *report {
	osrelease, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return &report{
		Date: time.Now().UTC().Format(time.DateTime),
		Machine: fmt.Sprintf("%d cores (%s), Linux %s, %d open files per process", runtime.NumCPU(), processor(),
			strings.TrimSpace(string(osrelease)), l.files),
		Method: []string{
			fmt.Sprintf("%d rounds, targets in turns within each load (A B A B); medians, with the smallest and largest round.", o.rounds),
			fmt.Sprintf("A run measures for %v; latencies for %v, open loop at %s operations per second on %d connections, from the time at which each operation was due.",
				o.runFor, liveTime(o)-warmUp, number(o.liveRate), liveClients),
			"Load and servers share the machine. " + priorities(o.nice),
			"Server-side CPU is user and system time of proxy and engine, from the kernel's CPU clock of each process. That of the load is never in it.",
			fmt.Sprintf("%d idle connections; memory counts when it has not changed for %v.", o.idle, o.settle),
			"Only ratios inside one run carry over to another machine.",
		},
	}
}

func priorities(nice int) string {
	if nice == 0 {
		return "All have the same priority."
	}
	return fmt.Sprintf("The load runs at nice %d, the servers and the live traffic whose latency is taken at 0, the arrivals of a storm before all.", nice)
}

// processor is the name of the CPU, if the kernel tells it.
func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, name, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(name)
		}
	}
	return runtime.GOARCH
}

func newResult(l load) *result {
	return &result{
		Name: l.name, Title: l.title, Notes: map[string]string{}, Errors: map[string]string{},
		Samples: map[string][]sample{}, Stats: map[string]map[figure]stat{},
	}
}

// median returns the middle value, 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// spread returns the smallest and the largest value, 0 of none.
func spread(values []float64) (low, high float64) {
	if len(values) == 0 {
		return 0, 0
	}
	return slices.Min(values), slices.Max(values)
}

// values are the figure's values in all rounds.
func (r *report) values(m measured) []float64 {
	var out []float64
	for _, s := range r.load(m.load).Samples[m.target] {
		if v, ok := s[m.figure]; ok {
			out = append(out, v)
		}
	}
	return out
}

// load returns the result of a load, an empty one if it wasn't run.
func (r *report) load(name string) *result {
	for _, l := range r.Loads {
		if l.Name == name {
			return l
		}
	}
	return newResult(load{name: name})
}

// summarise fills in what follows from the samples.
func (r *report) summarise() {
	for _, l := range r.Loads {
		for _, t := range r.Targets {
			for _, f := range figures {
				values := r.values(measured{l.Name, t.Name, f.figure})
				if len(values) == 0 {
					continue
				}
				if l.Stats[t.Name] == nil {
					l.Stats[t.Name] = map[figure]stat{}
				}
				low, high := spread(values)
				l.Stats[t.Name][f.figure] = stat{median(values), low, high}
			}
		}
	}
	r.Bars = nil
	for _, u := range rules() {
		r.Bars = append(r.Bars, r.judge(u))
	}
}

// number writes three significant digits or so.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// table is printed as text, Markdown or HTML.
type table struct {
	Title string
	Head  []string
	Rows  [][]string
}

// barTables returns one table for each data path that was measured.
func (r *report) barTables() []table {
	var tables []table
	for _, path := range ownPaths {
		t := table{"Bars of " + path, []string{"bar", "limit", "got", "rounds", "verdict"}, nil}
		for _, b := range r.Bars {
			if b.Path != path {
				continue
			}
			got, verdict := number(b.Got), b.Verdict
			if b.Why != "" {
				verdict += ": " + firstLine(b.Why)
			}
			if b.Got == 0 && b.Verdict == notMeasured {
				got = ""
			}
			t.Rows = append(t.Rows, []string{b.What, b.limitText(), got, b.spreadText(), verdict})
		}
		tables = append(tables, t)
	}
	return tables
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	if len(line) > 120 {
		line = strings.ToValidUTF8(line[:120], "") + "…"
	}
	return line
}

// figureTables returns one table for each figure that a reader looks for first.
func (r *report) figureTables(all bool) []table {
	var tables []table
	for _, f := range figures {
		if !all && f.brief == "" {
			continue
		}
		t := table{Title: f.title, Head: []string{"load"}}
		for _, target := range r.Targets {
			t.Head = append(t.Head, target.Name)
		}
		for _, l := range r.Loads {
			if !r.has(l, f.figure) {
				continue
			}
			row := []string{l.Title}
			for _, target := range r.Targets {
				row = append(row, l.cell(target.Name, f.figure))
			}
			t.Rows = append(t.Rows, row)
		}
		if len(t.Rows) > 0 {
			tables = append(tables, t)
		}
	}
	return tables
}

func (r *report) has(l *result, f figure) bool {
	return slices.ContainsFunc(r.Targets, func(t facts) bool { _, ok := l.Stats[t.Name][f]; return ok })
}

// cell shows the median, or the reason why there is none.
func (l *result) cell(target string, f figure) string {
	switch s, ok := l.Stats[target][f]; {
	case ok:
		return number(s.Median)
	case l.Notes[target] != "":
		return l.Notes[target]
	case l.Errors[target] != "":
		return "failed"
	}
	return ""
}

// writeText prints the tables.
func (r *report) writeText(w io.Writer, markdown bool) {
	fmt.Fprintf(w, "%s UTC, %s. %s\n", r.Date, r.Machine, strings.Join(r.Method, " "))
	if r.Interrupted {
		fmt.Fprintln(w, "\nInterrupted: this is what had been measured until then.")
	}
	for _, t := range slices.Concat(r.barTables(), r.figureTables(false)) {
		if markdown {
			t.writeMarkdown(w)
		} else {
			t.write(w)
		}
	}
	for _, l := range r.Loads {
		for _, target := range r.Targets {
			if why := l.Errors[target.Name]; why != "" {
				fmt.Fprintf(w, "\n%s on %s failed: %s\n", l.Title, target.Name, firstLine(why))
			}
		}
	}
}

func (t table) writeMarkdown(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n\n| %s |\n|%s\n", t.Title, strings.Join(t.Head, " | "), strings.Repeat("---|", len(t.Head)))
	for _, row := range t.Rows {
		fmt.Fprintf(w, "| %s |\n", strings.ReplaceAll(strings.Join(row, " | "), "\n", " "))
	}
}

func (t table) write(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n", t.Title)
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range slices.Concat([][]string{t.Head}, t.Rows) {
		fmt.Fprintf(columns, "  %s\n", strings.Join(row, "\t"))
	}
	columns.Flush()
}

func readReport(file string) (*report, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &report{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return r, nil
}

//go:embed report.html.tmpl
var page string

// save writes report.json and report.html.
func (r *report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	t, err := template.New("report").Parse(page)
	if err != nil {
		return err
	}
	var html strings.Builder
	if err := t.Execute(&html, r.page()); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "report.json"), append(text, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "report.html"), []byte(html.String()), 0o644),
	)
}

package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report is report.json.
type report struct {
	Date    string    `json:"date"`
	Machine string    `json:"machine"`
	Engine  string    `json:"engine"`
	Rounds  int       `json:"rounds"`
	Targets []string  `json:"targets"`
	Loads   []*result `json:"loads"`
	Bars    []bar     `json:"bars"`
}

// result is one load on all targets, by the target's name.
type result struct {
	Name      string              `json:"name"`
	Title     string              `json:"title"`
	Notes     map[string]string   `json:"notes"` // why there are no samples
	Samples   map[string][]sample `json:"samples"`
	Medians   map[string]sample   `json:"medians"`
	VsNative  map[string]float64  `json:"cost_vs_native"` // CPU, or memory, divided by native's
	VsHAProxy map[string]float64  `json:"cost_vs_haproxy"`
}

// bar is a limit of performance.md for the transparent path.
type bar struct {
	What   string  `json:"what"`
	Limit  float64 `json:"limit"`
	AtMost bool    `json:"at_most"` // else at least
	Got    float64 `json:"got"`
	Met    bool    `json:"met"`
}

func newReport(rounds int) *report {
	engine, _ := exec.Command("redis-server", "--version").Output()
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return &report{
		Date:    time.Now().UTC().Format(time.DateTime),
		Machine: fmt.Sprintf("%d cores, shared by load and servers, Linux %s", runtime.NumCPU(), strings.TrimSpace(string(kernel))),
		Engine:  strings.TrimSpace(string(engine)),
		Rounds:  rounds,
	}
}

func newResult(l load) *result {
	return &result{
		Name: l.name, Title: l.title, Notes: map[string]string{}, Samples: map[string][]sample{},
		Medians: map[string]sample{}, VsNative: map[string]float64{}, VsHAProxy: map[string]float64{},
	}
}

// cost is what the bars are about: less is better.
func cost(s sample) float64 {
	if s.KiB != 0 {
		return s.KiB
	}
	return s.CPU
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

// medianOf takes the median of each figure by itself.
func medianOf(samples []sample) sample {
	of := func(field func(sample) float64) float64 {
		var values []float64
		for _, s := range samples {
			values = append(values, field(s))
		}
		return median(values)
	}
	return sample{
		CPU:    of(func(s sample) float64 { return s.CPU }),
		Rate:   of(func(s sample) float64 { return s.Rate }),
		P50:    of(func(s sample) float64 { return s.P50 }),
		P99:    of(func(s sample) float64 { return s.P99 }),
		KiB:    of(func(s sample) float64 { return s.KiB }),
		KiBAll: of(func(s sample) float64 { return s.KiBAll }),
	}
}

// ratio is 0, which no table shows, if one of the two isn't known.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// summarise fills in what follows from the samples.
func (r *report) summarise() {
	for _, l := range r.Loads {
		for name, samples := range l.Samples {
			l.Medians[name] = medianOf(samples)
		}
		for name, m := range l.Medians {
			l.VsNative[name] = ratio(cost(m), cost(l.Medians["native"]))
			l.VsHAProxy[name] = ratio(cost(m), cost(l.Medians["haproxy"]))
		}
	}
	for _, name := range []string{"get-50", "get-500", "get-2000", "pipeline", "set-1k", "get-16k"} {
		l := r.load(name)
		r.hold(l.Title+": CPU, of HAProxy's", l.VsHAProxy["sealane"], 0.85, true)
	}
	full, own := r.load("handshake").Medians["native"].CPU, r.load("handshake").Medians["sealane"].CPU
	r.hold("full handshake, X25519: CPU, of native's", ratio(own, full), 1.05, true)
	r.hold("full handshake, X25519MLKEM768: CPU, of native's X25519", ratio(r.load("handshake-mlkem").Medians["sealane"].CPU, full), 1.35, true)
	r.hold("resumed handshake: CPU, of the full one's", ratio(r.load("handshake-resumed").Medians["sealane"].CPU, own), 0.5, true)
	r.hold("KiB per idle connection", r.load("memory").Medians["sealane"].KiB, 10, true)
	many := r.load("get-500").Medians
	r.hold("GET 64 B, 500 clients: throughput, of HAProxy's", ratio(many["sealane"].Rate, many["haproxy"].Rate), 1.1, false)
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

// hold compares a figure with its bar, if there is a figure.
func (r *report) hold(what string, got, limit float64, atMost bool) {
	if got == 0 {
		return
	}
	met := got >= limit
	if atMost {
		met = got <= limit
	}
	r.Bars = append(r.Bars, bar{what, limit, atMost, got, met})
}

// number writes three significant digits or so; nothing for nothing.
func number(v float64) string {
	switch {
	case v == 0:
		return ""
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// table is a figure of every load and target.
type table struct {
	Title string
	Head  []string
	Rows  [][]string
}

// tables are all of the report, for text and HTML alike.
func (r *report) tables() []table {
	head := slices.Concat([]string{"load"}, r.Targets)
	costs := table{"Server-side CPU, µs per operation (last row: resident KiB of the proxy)", append(slices.Clone(head), "sealane/native", "sealane/haproxy"), nil}
	var all []table
	for _, l := range r.Loads {
		costs.Rows = append(costs.Rows, append(r.row(l, cost), number(l.VsNative["sealane"]), number(l.VsHAProxy["sealane"])))
	}
	all = append(all, costs)
	for _, more := range []struct {
		title  string
		figure func(sample) float64
	}{
		{"Operations per second", func(s sample) float64 { return s.Rate }},
		{"Latency, p50 in ms", func(s sample) float64 { return s.P50 }},
		{"Latency, p99 in ms", func(s sample) float64 { return s.P99 }},
		{"Resident KiB per idle connection, engine included", func(s sample) float64 { return s.KiBAll }},
	} {
		t := table{more.title, head, nil}
		for _, l := range r.Loads {
			if slices.ContainsFunc(r.Targets, func(name string) bool { return more.figure(l.Medians[name]) != 0 }) {
				t.Rows = append(t.Rows, r.row(l, more.figure))
			}
		}
		if len(t.Rows) > 0 {
			all = append(all, t)
		}
	}
	return append(all, r.barTable())
}

func (r *report) row(l *result, figure func(sample) float64) []string {
	row := []string{l.Title}
	for _, name := range r.Targets {
		text := number(figure(l.Medians[name]))
		if text == "" {
			text = l.Notes[name]
		}
		row = append(row, text)
	}
	return row
}

func (r *report) barTable() table {
	t := table{"Bars of the transparent path", []string{"bar", "limit", "got", ""}, nil}
	for _, b := range r.Bars {
		sign, verdict := "≥ ", "missed"
		if b.AtMost {
			sign = "≤ "
		}
		if b.Met {
			verdict = "met"
		}
		t.Rows = append(t.Rows, []string{b.What, sign + number(b.Limit), number(b.Got), verdict})
	}
	return t
}

// writeText prints the tables as Markdown.
func (r *report) writeText(w io.Writer) {
	fmt.Fprintf(w, "%s UTC, %s, %d rounds, medians\n%s\n", r.Date, r.Machine, r.Rounds, r.Engine)
	for _, t := range r.tables() {
		fmt.Fprintf(w, "\n%s\n\n| %s |\n|%s\n", t.Title, strings.Join(t.Head, " | "), strings.Repeat("---|", len(t.Head)))
		for _, row := range t.Rows {
			fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
		}
	}
}

//go:embed report.html.tmpl
var page string

// plot is a load's bars, in the units of the SVG.
type plot struct {
	Title  string
	Height int
	Bars   []plotBar
}

type plotBar struct {
	Y, Width int
	Name     string
	Label    string
}

const (
	plotWidth = 420 // of the longest bar
	plotRow   = 24
)

func (r *report) plots() []plot {
	var plots []plot
	for _, l := range r.Loads {
		p := plot{Title: l.Title}
		if l.Title != titleMemory {
			p.Title += ": CPU µs per operation"
		}
		most := 0.0
		for _, m := range l.Medians {
			most = max(most, cost(m))
		}
		for _, name := range r.Targets {
			if value := cost(l.Medians[name]); value > 0 {
				p.Bars = append(p.Bars, plotBar{p.Height, int(plotWidth * value / most), name, number(value)})
				p.Height += plotRow
			}
		}
		plots = append(plots, p)
	}
	return plots
}

// save writes report.json and report.html.
func (r *report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	t, err := template.New("report").Funcs(template.FuncMap{"add": func(a, b int) int { return a + b }}).Parse(page)
	if err != nil {
		return err
	}
	var html strings.Builder
	if err := t.Execute(&html, map[string]any{"Report": r, "Tables": r.tables(), "Plots": r.plots()}); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "report.json"), append(text, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "report.html"), []byte(html.String()), 0o644),
	)
}

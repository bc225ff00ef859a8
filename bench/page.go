package main

import "fmt"

// pageData is what report.html.tmpl shows.
type pageData struct {
	Report *report
	Paths  []pathBars
	Rows   []rowPlots
	Tables []table
}

// pathBars is the table of one path.
type pathBars struct {
	Name    string
	Met     int
	Missed  int
	Unknown int
	Bars    []pageBar
}

type pageBar struct {
	What, Limit, Got, Spread, Verdict, Why string
	Class                                  string
}

// rowPlots is one load.
type rowPlots struct {
	Name, Title string
	Plots       []plot
	Notes       []string
}

// plot is one figure of a load, a bar for each target, in the units of the SVG.
type plot struct {
	Title  string
	Height int
	Native bool // native was measured, so there is something to compare with
	Proxy  bool
	Bars   []plotBar
}

type plotBar struct {
	Top, Text, Middle   int // y of the bar, of the base line of its text, and of its middle
	Width               int
	Low, High           int // x of the whisker's ends
	Name, Class         string
	Value, Spread       string
	OfNative, OfHAProxy string
}

// The layout of the plots in report.html.tmpl, in units of the SVG.
const (
	plotLeft  = 160
	plotWidth = 300 // of the longest bar or whisker
	plotRow   = 24
)

func (r *report) page() pageData {
	d := pageData{Report: r, Tables: r.figureTables(true)}
	for _, path := range ownPaths {
		d.Paths = append(d.Paths, r.pathBars(path))
	}
	for _, l := range r.Loads {
		row := rowPlots{Name: l.Name, Title: l.Title}
		for _, f := range figures {
			if f.brief != "" && r.most(l, f.figure) > 0 {
				row.Plots = append(row.Plots, r.plot(l, f.figure, f.title, f.less))
			}
		}
		for _, t := range r.Targets {
			for _, text := range []string{l.Notes[t.Name], l.Errors[t.Name]} {
				if text != "" {
					row.Notes = append(row.Notes, t.Name+": "+text)
				}
			}
		}
		d.Rows = append(d.Rows, row)
	}
	return d
}

func (r *report) pathBars(path string) pathBars {
	p := pathBars{Name: path}
	for _, b := range r.Bars {
		if b.Path != path {
			continue
		}
		shown := pageBar{What: b.What, Limit: b.limitText(), Got: number(b.Got), Spread: b.spreadText(), Verdict: b.Verdict,
			Why: firstLine(b.Why), Class: b.Verdict}
		switch {
		case b.Verdict == notMeasured:
			shown.Class = "unknown"
			if b.Got == 0 {
				shown.Got = ""
			}
			p.Unknown++
		case b.Verdict == met:
			p.Met++
		case b.Aim:
			shown.Class = "aim" // a missed aim is no failure
		default:
			p.Missed++
		}
		p.Bars = append(p.Bars, shown)
	}
	return p
}

// most is the value at the end of the longest whisker.
func (r *report) most(l *result, f figure) float64 {
	most := 0.0
	for _, t := range r.Targets {
		most = max(most, l.Stats[t.Name][f].Max)
	}
	return most
}

func (r *report) plot(l *result, f figure, title string, less bool) plot {
	better := "longer is better"
	if less {
		better = "shorter is better"
	}
	p := plot{Title: fmt.Sprintf("%s (%s)", title, better)}
	most := r.most(l, f)
	x := func(v float64) int { return plotLeft + int(plotWidth*v/most) }
	of := func(v float64, target string) string {
		other, ok := l.Stats[target][f]
		if !ok || other.Median == 0 {
			return ""
		}
		return number(v/other.Median) + " ×"
	}
	for _, t := range r.Targets {
		s, ok := l.Stats[t.Name][f]
		if !ok {
			continue
		}
		b := plotBar{Top: p.Height + 4, Text: p.Height + 17, Middle: p.Height + 12, Width: x(s.Median) - plotLeft,
			Low: x(s.Min), High: x(s.Max), Name: t.Name, Value: number(s.Median),
			OfNative: of(s.Median, native), OfHAProxy: of(s.Median, haproxy)}
		if s.Min != s.Max {
			b.Spread = number(s.Min) + "–" + number(s.Max)
		}
		if isOurs(t.Name) {
			b.Class = "own"
		}
		p.Native, p.Proxy = p.Native || b.OfNative != "", p.Proxy || b.OfHAProxy != ""
		p.Bars = append(p.Bars, b)
		p.Height += plotRow
	}
	return p
}

// Viewed is the height of the plot with its line of titles.
func (p plot) Viewed() int { return p.Height + 20 }

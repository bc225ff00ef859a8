package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// formatFlag is --format.
type formatFlag string

func (f *formatFlag) add(c *cobra.Command) {
	*f = "table"
	c.Flags().Var(f, "format", "table, json (the API's own) or yaml")
	c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
}

// Set implements pflag.Value.
func (f *formatFlag) Set(s string) error {
	switch s {
	case "table", "json", "yaml":
		*f = formatFlag(s)
		return nil
	}
	return fmt.Errorf("want table, json or yaml")
}

// String implements pflag.Value.
func (f *formatFlag) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *formatFlag) Type() string { return "FORMAT" }

// print writes the API's answer raw as it is, as YAML, or lets table write it for people.
func (f formatFlag) print(w io.Writer, raw []byte, table func(io.Writer)) error {
	switch f {
	case "json":
		_, err := w.Write(raw)
		return err
	case "yaml":
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		e := yaml.NewEncoder(w)
		e.SetIndent(2)
		return e.Encode(v)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	table(t)
	return t.Flush()
}

// row writes one line of a table; what is empty shows as "-".
func row(w io.Writer, cells ...string) {
	for i, c := range cells {
		if c == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// progress shows what is waited for: on a terminal one line that changes, elsewhere a line for each change.
type progress struct {
	w        io.Writer
	terminal bool
	last     string
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	}
	return p
}

func (p *progress) show(text string) {
	text = oneLine(text)
	if text == p.last {
		return
	}
	p.last = text
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s …", text)
		return
	}
	fmt.Fprintf(p.w, "%s …\n", text)
}

// done clears the line.
func (p *progress) done() {
	if p.terminal && p.last != "" {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

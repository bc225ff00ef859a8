package failover

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// row is a line of the tables: the failovers of one kind on one target.
type row struct {
	target    string
	kind      Kind
	failovers []Failover
}

// rows groups the failovers of results by target and kind.
func rows(results []*Result) []row {
	var all []row
	for _, r := range results {
		for _, f := range r.Failovers {
			i := slices.IndexFunc(all, func(o row) bool { return o.target == r.Target && o.kind == f.Kind })
			if i < 0 {
				i = len(all)
				all = append(all, row{target: r.Target, kind: f.Kind})
			}
			all[i].failovers = append(all[i].failovers, f)
		}
	}
	return all
}

// Tables writes results as Markdown.
func Tables(w io.Writer, results []*Result) {
	all := rows(results)
	fmt.Fprintln(w, "| target | failover by | number | seconds without an acknowledged write: median | worst | one client: median | 95 % | worst | closed in a clean state | closed with a request in flight | given up by the library | lost | lost with WAIT |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range all {
		var outages, clients []time.Duration
		var sum Failover
		lost := 0
		for _, f := range r.failovers {
			outages = append(outages, f.Outage)
			clients = append(clients, f.Clients...)
			sum.ClosedClean += f.ClosedClean
			sum.ClosedBusy += f.ClosedBusy
			sum.ClosedByLibrary += f.ClosedByLibrary
			for _, n := range f.Lost {
				lost += n
			}
			sum.LostReplicated += f.LostReplicated
		}
		slices.Sort(outages)
		slices.Sort(clients)
		fmt.Fprintf(w, "| %s | %s | %d | %s | %s | %s | %s | %s | %d | %d | %d | %d | %d |\n", r.target, r.kind, len(r.failovers),
			seconds(percentile(outages, 50)), seconds(percentile(outages, 100)), seconds(percentile(clients, 50)), seconds(percentile(clients, 95)), seconds(percentile(clients, 100)),
			sum.ClosedClean, sum.ClosedBusy, sum.ClosedByLibrary, lost, sum.LostReplicated)
	}
	byLibrary(w, "The worst client of each library, in seconds", all, func(failovers []Failover, library string) string {
		worst := time.Duration(0)
		for _, f := range failovers {
			worst = max(worst, f.Libraries[library])
		}
		return seconds(worst)
	})
	byLibrary(w, "Acknowledged writes that were lost, by library", all, func(failovers []Failover, library string) string {
		lost := 0
		for _, f := range failovers {
			lost += f.Lost[library]
		}
		return fmt.Sprint(lost)
	})
	for _, r := range results {
		r.checked(w)
	}
	fmt.Fprintln(w)
	for _, r := range results {
		fmt.Fprintf(w, "\nErrors of %s:\n\n", r.Target)
		errors := make(map[string]int)
		for _, f := range r.Failovers {
			for text, n := range f.Errors {
				errors[text] += n
			}
		}
		for _, text := range slices.SortedFunc(maps.Keys(errors), func(a, b string) int { return errors[b] - errors[a] }) {
			fmt.Fprintf(w, "- %d × %s\n", errors[text], text)
		}
	}
}

// byLibrary writes a table with a column for each library.
func byLibrary(w io.Writer, title string, all []row, cell func([]Failover, string) string) {
	fmt.Fprintf(w, "\n%s:\n\n| target | failover by | %s |\n|---|---|%s\n", title, strings.Join(Libraries, " | "), strings.Repeat("---|", len(Libraries)))
	for _, r := range all {
		fmt.Fprintf(w, "| %s | %s |", r.target, r.kind)
		for _, library := range Libraries {
			fmt.Fprintf(w, " %s |", cell(r.failovers, library))
		}
		fmt.Fprintln(w)
	}
}

// checked writes what the checker found.
func (r *Result) checked(w io.Writer) {
	h := r.History
	fmt.Fprintf(w, "\n%s: %d clients, %d failovers in %v; %d acknowledged writes (%d confirmed by a replica), %d refused, %d without an answer, %d reads; %d acknowledged writes lost.",
		r.Target, r.Clients, len(r.Failovers), r.Duration.Round(time.Second), h.Acknowledged, h.Replicated, h.Refused, h.Unknown, h.Reads, len(h.Losses))
	if len(h.Violations) == 0 {
		fmt.Fprint(w, " The checker found no violation.\n")
		return
	}
	fmt.Fprint(w, " The checker found:\n\n")
	rules := h.ByRule()
	for _, rule := range slices.Sorted(maps.Keys(rules)) {
		fmt.Fprintf(w, "- %d × %s\n", rules[rule], rule)
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }

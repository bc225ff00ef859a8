package instance

import (
	"fmt"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
)

// maxNamed is how many clients a refusal names.
const maxNamed = 10

// whyNotReady says why not all clients are known to trust a generation; "": they are. The view is that of the time now.
func whyNotReady(view pki.View, generation int, known ledger.Ledger, now time.Time) string {
	proofs := view.Proofs(generation)
	d, ok := known.Doubts(proofs, now.Add(-clientsCount))
	switch {
	case ok:
		return ""
	case len(d.Clients) > 0:
		named := make([]string, 0, maxNamed)
		for _, c := range d.Clients[:min(len(d.Clients), maxNamed)] {
			named = append(named, describe(c, proofs))
		}
		others := ""
		if n := len(d.Clients) - len(named); n > 0 {
			others = fmt.Sprintf(", and %d more", n)
		}
		return fmt.Sprintf("it is not known that these clients trust CA-%d: %s%s", generation, strings.Join(named, "; "), others)
	case d.Evicted:
		return fmt.Sprintf("it is not known that all clients trust CA-%d: there were more than the %d that are kept account of", generation, ledger.MaxClients)
	}
	return fmt.Sprintf("it is not known that any client trusts CA-%d: none was seen in the last 30 days", generation)
}

// describe names a client in doubt, and why.
func describe(c ledger.Status, proofs []string) string {
	var b strings.Builder
	b.WriteString(c.Address.String())
	for _, f := range []struct{ name, value string }{{"name", c.Name}, {"library", c.Library}, {"user", c.User}} {
		if f.value != "" {
			fmt.Fprintf(&b, " %s=%q", f.name, f.value)
		}
	}
	if c.Readiness == ledger.Failed {
		fmt.Fprintf(&b, " (%s on %s)", c.How, c.At.UTC().Format(time.RFC3339))
	}
	if len(c.Missing) > 0 {
		name := pki.NextCrossName
		if c.Missing[0] == proofs[0] {
			name = pki.NextName
		}
		fmt.Fprintf(&b, " (not yet as %s)", name)
	}
	return b.String()
}

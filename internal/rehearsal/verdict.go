package rehearsal

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

const (
	installBundle = "install the bundle (`sealane ca bundle NAME`) with every deployment, and at least every %d days, and trust every CA in it"
	trustTheCA    = "trust the CAs of the bundle (`sealane ca bundle NAME`), not the server certificate or its key: those change every %d days"
	takeChain     = "let it verify with all certificates that the server sends, as TLS libraries do unless told otherwise, and " + installBundle
	tryTests      = "see which of the two it is: with the server name (SNI) " + pki.NextCrossName + " an instance presents both, with " + pki.NextName +
		" only the first; if that works, have the client trust CA-%d by itself, in place of the one before"
	loadAll     = "let it load every certificate of the file, not only the first or the last; and have no check that expects just one"
	connectAnew = "let it connect anew when its connection is lost, with the bundle as it is by then"
	dropCA      = "let it take the bundle as it is, in place of the one before: it needs no CA that has expired"
)

// explainBreak says what is wrong with the client that broke at a step, and what to do about it.
func (re *rehearsal) explainBreak(at int, r *run) (verdict, advice string) {
	s, days := re.outcome.Steps[at], int(pki.Lifetimes{}.Grace().Hours()/24)
	fails := fmt.Sprintf("it would fail on %s, when %s", s.Date.Format(time.DateOnly), s.Change)
	held := caNames(re.initialCAs)
	if primary(s.Actions).Kind == pki.IssueLeaf {
		fails = fmt.Sprintf("it would fail on %s, when the server certificate is replaced", s.Date.Format(time.DateOnly))
	}
	switch kind := primary(s.Actions).Kind; {
	case r.err == nil:
		return fmt.Sprintf("this client ended, though it was to live on: %s", fails), connectAnew + ", or leave --long-lived out"
	case re.removesTrust(at):
		return fmt.Sprintf("this client trusts %s only: %s", held, fails), fmt.Sprintf(installBundle, days)
	case kind == pki.ActivateCA && !slices.Contains([]string{"", unknownCA, withoutAlert}, r.refused):
		ca := s.accepted[len(s.accepted)-1]
		return fmt.Sprintf("this client refuses the certificates of CA-%d, the server's and the cross-certificate by %s, %s: %s", ca, held, r.refused, fails),
			fmt.Sprintf(tryTests, ca)
	case kind == pki.ActivateCA:
		return fmt.Sprintf("this client takes no certificate between the server's and %s: %s", held, fails), fmt.Sprintf(takeChain, days)
	case kind == pki.CreateCA:
		return fmt.Sprintf("this client can't use a bundle of %s: %s", caNames(s.published), fails), loadAll
	case kind == pki.RetireCA:
		return fmt.Sprintf("this client trusts what has expired, or needs it: %s", fails), dropCA
	case kind == pki.IssueLeaf && re.Reconnect:
		return "this client did not outlive the loss of its connection, which is cut after each change: " + fails, connectAnew
	case kind == pki.IssueLeaf:
		return fmt.Sprintf("this client accepts only the server certificate that it saw first: %s", fails),
			fmt.Sprintf(trustTheCA, int(pki.DefaultLifetimes().Renewal.Hours()/24))
	default:
		return fmt.Sprintf("this client does not trust %s: %s", caNames(s.accepted), fails), fmt.Sprintf(installBundle, days)
	}
}

func (re *rehearsal) verdictOnPass() (verdict, advice string) {
	years := float64(re.For) / float64(re.calendar.scaled.CA) * 10
	text := fmt.Sprintf("this client survives %.3g years: %d changes of certificates, in ", years, len(re.outcome.Steps))
	switch {
	case re.client == nil:
		return text + fmt.Sprintf("%d runs", re.outcome.Runs), ""
	case re.Reconnect:
		return text + "one run, its connections cut after each change", ""
	case re.outcome.Runs == 0:
		text += "one run that never ended"
	default:
		text += fmt.Sprintf("%d runs and one that has not ended yet", re.outcome.Runs)
	}
	return text, "an open connection outlasts every change, so it has shown nothing about the next one: --long-lived --reconnect cuts its connections after each"
}

// caNames are the names by which users know the generations.
func caNames(generations []int) string {
	var all []string
	for _, g := range generations {
		all = append(all, fmt.Sprintf("CA-%d", g))
	}
	return strings.Join(all, " and ")
}

package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Kind names what an Action does.
type Kind string

const (
	CreateCA      Kind = "create-ca"       // makes a generation, which is published from then on
	SignCross     Kind = "sign-cross"      // has the CA before sign a generation's key; served once that generation signs
	ActivateCA    Kind = "activate-ca"     // lets a generation sign leaves in place of the one before
	EndCross      Kind = "end-cross"       // stops serving a generation's cross-certificate
	RetireCA      Kind = "retire-ca"       // takes a generation out of the bundle
	CompromiseCA  Kind = "compromise-ca"   // gives a generation up for good, and its key with it
	IssueLeaf     Kind = "issue-leaf"      // signs the server certificate
	IssueNextLeaf Kind = "issue-next-leaf" // signs the one for NextName and NextCrossName
)

// Action is one step of a plan.
type Action struct {
	Kind       Kind
	Generation int       // the CA that it is about; of a leaf, the one that signs it
	Due        time.Time // when it fell due; zero: for other causes than age
	Reason     string    // for the user
}

// maxInLine bounds how many CAs are lined up to sign one after another: two by age, one more for new names.
const maxInLine = 3

// rules are what can fall due, in the order in which they build on each other. Each returns the next action of its kind,
// due now or later.
var rules = []func(view) (Action, bool){
	view.retire, view.publish, view.cross, view.activate, view.endCross, view.leaf, view.nextLeaf,
}

// Plan says what has to be done at the time now, in order; nothing when all is as it should be.
func Plan(s State, now time.Time) []Action {
	var plan []Action
	v := look(s, now)
	if v.behind {
		return nil
	}
	for _, rule := range rules {
		for a, ok := rule(v); ok && !a.Due.After(v.now); a, ok = rule(v) {
			plan = append(plan, a)
			v = look(v.noted(a, v.now), v.now)
		}
	}
	return plan
}

// Upcoming are the actions that will fall due as things stand, soonest first: what Plan asks for when the time of the
// first comes.
func Upcoming(s State, now time.Time) []Action {
	var coming []Action
	v := look(s, now)
	if v.behind {
		return nil
	}
	for _, rule := range rules {
		if a, ok := rule(v); ok && a.Due.After(v.now) {
			coming = append(coming, a)
		}
	}
	slices.SortStableFunc(coming, func(a, b Action) int { return a.Due.Compare(b.Due) })
	return coming
}

// authority is a CA with what its certificate says.
type authority struct {
	CA
	notBefore, notAfter time.Time
	cert                *x509.Certificate // nil while it is only planned
}

// view is what a State means at a time.
type view struct {
	State
	life   Lifetimes
	now    time.Time
	behind bool        // the clock is before everything; now is when something was last done
	all    []authority // oldest first
	live   []authority // those published
	line   []authority // those of live that sign one after another, oldest first
	signer int         // which of line signs now
	names  Names       // what the leaf is to be valid for: the wanted names that all in line permit
}

func look(s State, now time.Time) view {
	v := view{State: s, life: s.Lifetimes.orDefaults(), now: second(now)}
	var begin, last time.Time
	for _, ca := range s.CAs {
		a := authority{CA: ca, notBefore: ca.Created.Add(-v.life.Backdate), notAfter: ca.Created.Add(v.life.CA)}
		// Only one that may be in use is read: the others are many after some decades.
		if v.now.Before(a.notAfter) && ca.Certificate != nil && ca.Compromised.IsZero() {
			cert, err := x509.ParseCertificate(ca.Certificate)
			if err != nil {
				continue // it can't be in use: no client could read it either
			}
			a.cert, a.notBefore, a.notAfter = cert, cert.NotBefore, cert.NotAfter
		}
		v.all = append(v.all, a)
		if !ca.Compromised.IsZero() {
			continue
		}
		if begin.IsZero() || a.notBefore.Before(begin) {
			begin = a.notBefore
		}
		last = later(last, ca.Created)
	}
	if v.behind = v.now.Before(begin); v.behind {
		if v.now = last; s.Leaf != nil {
			v.now = later(begin, s.Leaf.Created)
		}
	}
	slices.SortStableFunc(v.all, func(a, b authority) int { return a.Created.Compare(b.Created) })
	for _, a := range v.all {
		if a.Compromised.IsZero() && !v.counts(a.Retired) && !v.now.Before(a.notBefore) && v.now.Before(a.notAfter) {
			v.live = append(v.live, a)
		}
	}
	v.lineUp()
	for v.signer+1 < len(v.line) && v.counts(v.line[v.signer+1].Activated) && !v.needsCross(v.signer) {
		v.signer++
	}
	return v
}

// lineUp finds who signs one after another, and which names can be served all the while: a name that clients use already
// must stay, so a CA that forbids it is passed over, and so is one that has no name in common with those before it.
func (v *view) lineUp() {
	v.names = v.Names
	var kept []string // wanted names that are in the leaf
	if v.Leaf != nil && v.counts(v.Leaf.Created) {
		gone := v.Leaf.Names.without(v.Names)
		kept = slices.DeleteFunc(v.Leaf.Names.hosts(), func(h string) bool { return slices.Contains(gone, h) })
	}
	for _, a := range v.live {
		common := a.permitted(v.names)
		hosts := common.hosts()
		if len(hosts) == 0 && len(v.Names.hosts()) > 0 || slices.ContainsFunc(kept, func(h string) bool { return !slices.Contains(hosts, h) }) {
			continue
		}
		v.line, v.names = append(v.line, a), common
	}
}

// counts says whether what was noted at t has happened by now. A little later counts too, so that a clock that is
// being corrected doesn't turn things back and forth.
func (v view) counts(t time.Time) bool { return !t.IsZero() && !t.After(v.now.Add(v.life.Backdate)) }

// crossEnd is when cross-certificates by a CA are no longer served.
func (v view) crossEnd(by authority) time.Time { return by.notAfter.Add(-v.life.CrossEnds) }

// needsCross says whether clients that hold only the CA before line[i] depend on that while line[i] signs: as long as the
// cross-certificate may be served.
func (v view) needsCross(i int) bool { return i > 0 && v.now.Before(v.crossEnd(v.line[i-1])) }

// crossed says whether line[i] has a cross-certificate by the CA before.
func (v view) crossed(i int) bool { return i > 0 && v.line[i].CrossedBy == v.line[i-1].Generation }

// crossServed says whether the cross-certificate belongs beside the leaf.
func (v view) crossServed() bool { return v.needsCross(v.signer) && v.crossed(v.signer) }

func (v view) nextServed() bool {
	return len(v.line) > 1 && v.Next != nil && v.Next.Issuer == v.newest().Generation
}

// nextCrossServed says whether the newest CA's activation is ahead, its cross-certificate will be served then, and the second
// leaf can be presented with it.
func (v view) nextCrossServed() bool {
	newest := len(v.line) - 1
	return v.nextServed() && newest > v.signer && v.needsCross(newest) && v.crossed(newest) && v.line[newest].Cross != nil && v.Next.CrossTest
}

func (v view) newest() authority { return v.line[len(v.line)-1] }

// permitted are those of n that the CA's constraints allow. A kind of name that they don't speak of is not constrained.
func (a authority) permitted(n Names) Names {
	if a.cert == nil {
		return n // it will be made for them
	}
	if domains := a.cert.PermittedDNSDomains; len(domains) > 0 {
		n.DNS = slices.DeleteFunc(slices.Clone(n.DNS), func(name string) bool {
			return !slices.ContainsFunc(domains, func(d string) bool { return within(name, d) })
		})
	}
	if ranges := a.cert.PermittedIPRanges; len(ranges) > 0 {
		n.IPs = slices.DeleteFunc(slices.Clone(n.IPs), func(ip netip.Addr) bool {
			return !slices.ContainsFunc(ranges, func(r *net.IPNet) bool { return r.Contains(ip.Unmap().AsSlice()) })
		})
	}
	return n
}

// constrained says whether a certificate has name constraints.
func constrained(cert *x509.Certificate) bool {
	return cert != nil && len(cert.PermittedDNSDomains)+len(cert.PermittedIPRanges)+len(cert.PermittedURIDomains)+len(cert.PermittedEmailAddresses) > 0
}

// crossConstrained says whether the CA's cross-certificate has name constraints, as those did that were made when all CAs had.
func (a authority) crossConstrained() bool {
	if a.Cross == nil || !constrained(a.cert) { // it took its own over
		return false
	}
	cert, err := x509.ParseCertificate(a.Cross)
	return err == nil && constrained(cert)
}

func (v view) retire() (Action, bool) {
	for _, a := range v.all {
		if a.Compromised.IsZero() && !v.counts(a.Retired) && !v.now.Before(a.notAfter) {
			return Action{RetireCA, a.Generation, a.notAfter, caName(a.Generation) + " has expired"}, true
		}
	}
	if len(v.line) == 0 {
		return Action{}, false
	}
	oldest := v.line[0]
	if len(v.line) > 1 {
		next := v.line[1]
		if due := next.Created.Add(v.life.PublishAfter); due.Before(oldest.notAfter) {
			return Action{RetireCA, oldest.Generation, due, fmt.Sprintf("%s has been published for %s: %s makes room for the next",
				caName(next.Generation), span(v.life.PublishAfter), caName(oldest.Generation))}, true
		}
	}
	return Action{RetireCA, oldest.Generation, oldest.notAfter, fmt.Sprintf("%s expires on %s", caName(oldest.Generation), oldest.notAfter.Format(time.DateOnly))}, true
}

func (v view) publish() (Action, bool) {
	a := Action{Kind: CreateCA, Generation: v.nextGeneration()}
	switch {
	case len(v.CAs) == 0:
		a.Reason = "the instance has no certificate authority"
		return a, true
	case len(v.live) == 0:
		a.Reason = "no certificate authority of the instance is good any more"
		return a, true
	case len(v.line) == 0:
		a.Reason = "no certificate authority of the instance permits its new names: " + strings.Join(v.Names.hosts(), ", ")
		return a, true
	}
	newest := v.newest()
	if missing := v.Names.without(newest.permitted(v.Names)); len(missing) > 0 && len(v.line) < maxInLine {
		a.Reason = fmt.Sprintf("%s does not permit the instance's new names: %s", caName(newest.Generation), strings.Join(missing, ", "))
		return a, true
	}
	a.Due = newest.Created.Add(v.life.PublishAfter)
	a.Reason = fmt.Sprintf("%s of %s is followed after %s, so that clients have time to install the next", caName(newest.Generation),
		newest.Created.Format(time.DateOnly), span(v.life.PublishAfter))
	return a, true
}

func (v view) cross() (Action, bool) {
	for i := 1; i < len(v.line); i++ {
		a := Action{Kind: SignCross, Generation: v.line[i].Generation}
		switch {
		case !v.needsCross(i):
		case !v.crossed(i):
			a.Reason = fmt.Sprintf("clients that hold only %s are to accept what %s signs", caName(v.line[i-1].Generation), caName(a.Generation))
			return a, true
		case v.line[i].crossConstrained():
			a.Reason = fmt.Sprintf("the cross-certificate of %s has name constraints, which some clients don't take between the server's certificate and a CA", caName(a.Generation))
			return a, true
		}
	}
	return Action{}, false
}

func (v view) activate() (Action, bool) {
	if v.signer+1 >= len(v.line) || v.counts(v.line[v.signer+1].Activated) {
		return Action{}, false
	}
	cur, next := v.line[v.signer], v.line[v.signer+1]
	a := Action{Kind: ActivateCA, Generation: next.Generation}
	a.Due = earlier(cur.Created.Add(v.life.ActivateAfter), next.Created.Add(v.life.ActivateAfter-v.life.PublishAfter))
	since := fmt.Sprintf("has been published since %s", next.Created.Format(time.DateOnly))
	if ready := later(next.Ready, next.Created).Add(v.life.ReadyFor); v.life.ReadyFor > 0 && v.counts(next.Ready) && ready.Before(a.Due) {
		a.Due, since = ready, fmt.Sprintf("is trusted by all clients, as they have shown, since %s", next.Ready.Format(time.DateOnly))
	}
	if v.needsCross(v.signer) {
		a.Due = later(a.Due, v.crossEnd(v.line[v.signer-1]))
	}
	a.Reason = fmt.Sprintf("%s %s: it signs from now on, and clients that hold only %s go on by its cross-certificate",
		caName(next.Generation), since, caName(cur.Generation))
	// Without a cross-certificate to serve, the older one had better sign as long as it lives.
	end := v.crossEnd(cur)
	return a, v.crossed(v.signer+1) && a.Due.Before(end) && v.now.Before(end)
}

func (v view) endCross() (next Action, ok bool) {
	for _, a := range v.all {
		by := slices.IndexFunc(v.all, func(b authority) bool { return b.Generation == a.CrossedBy })
		if by < 0 {
			continue
		}
		if due := v.crossEnd(v.all[by]); !ok || due.Before(next.Due) {
			next, ok = Action{EndCross, a.Generation, due, fmt.Sprintf("%s expires on %s: an expired cross-certificate would make some clients fail",
				caName(a.CrossedBy), v.all[by].notAfter.Format(time.DateOnly))}, true
		}
	}
	return next, ok
}

func (v view) leaf() (Action, bool) {
	if len(v.line) == 0 {
		return Action{}, false
	}
	return v.reissue(IssueLeaf, v.Leaf, v.line[v.signer], v.names)
}

func (v view) nextLeaf() (Action, bool) {
	if len(v.line) < 2 {
		return Action{}, false
	}
	return v.reissue(IssueNextLeaf, v.Next, v.newest(), v.newest().permitted(v.Names))
}

// reissue says when and why a leaf is to be replaced by one with these names by this issuer.
func (v view) reissue(kind Kind, l *Leaf, issuer authority, names Names) (Action, bool) {
	a := Action{Kind: kind, Generation: issuer.Generation}
	switch {
	case l == nil && kind == IssueLeaf:
		a.Reason = "the instance has no server certificate"
	case l == nil:
		a.Reason = fmt.Sprintf("clients can be tested against %s alone", caName(issuer.Generation))
	case l.Issuer != issuer.Generation:
		a.Reason = fmt.Sprintf("another certificate authority signs now: %s instead of %s", caName(issuer.Generation), caName(l.Issuer))
	case kind == IssueNextLeaf && !l.CrossTest:
		a.Reason = fmt.Sprintf("the second certificate has no name for tests with the cross-certificate: %s", NextCrossName)
	case !l.Names.Equal(names):
		a.Reason = "the names or addresses of the instance changed, or those that its certificate authorities permit"
	case v.now.Before(l.Created.Add(-v.life.Backdate)):
		a.Reason = fmt.Sprintf("the server certificate is not valid before %s: the clock was set back", l.Created.Add(-v.life.Backdate).Format(time.RFC3339))
	default:
		a.Due = v.renewal(l)
		a.Reason = fmt.Sprintf("the server certificate of %s is replaced after %s", l.Created.Format(time.DateOnly), span(v.life.Renewal))
	}
	return a, true
}

// renewal is when a leaf is replaced because of its age.
func (v view) renewal(l *Leaf) time.Time {
	due := l.Created.Add(v.life.Renewal)
	if seconds := uint64(v.life.Jitter / time.Second); seconds > 0 {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", v.Names.URI, l.Issuer, l.Created.Unix()))
		due = due.Add(-time.Duration(binary.BigEndian.Uint64(sum[:])%seconds) * time.Second)
	}
	return due
}

func (s State) nextGeneration() int {
	n := 1
	for _, ca := range s.CAs {
		n = max(n, ca.Generation+1)
	}
	return n
}

// noted is the State after an action, without the certificates that it signs.
func (s State) noted(a Action, now time.Time) State {
	v := look(s, now)
	s.CAs = slices.Clone(s.CAs)
	switch a.Kind {
	case CreateCA:
		ca := CA{Generation: a.Generation, Created: now}
		if len(v.line) == 0 || v.behind {
			ca.Activated = now
		}
		s.CAs = append(s.CAs, ca)
		slices.SortStableFunc(s.CAs, func(a, b CA) int { return a.Created.Compare(b.Created) })
	case IssueLeaf:
		s.Leaf = &Leaf{Issuer: a.Generation, Created: now, Names: v.names, CrossTest: true}
	case IssueNextLeaf:
		s.Next = &Leaf{Issuer: a.Generation, Created: now, Names: v.newest().permitted(v.Names), CrossTest: true}
	default:
		s.mark(a, v)
	}
	if a.Kind != RetireCA && a.Kind != CompromiseCA {
		return s
	}
	// Who signs by now is noted, so that it goes on to when the clock brings another CA back.
	if v = look(s, now); len(v.line) > 0 && !v.counts(v.line[v.signer].Activated) {
		s.mark(Action{Kind: ActivateCA, Generation: v.line[v.signer].Generation}, v)
	}
	return s
}

// mark notes an action on the CA that it is about.
func (s State) mark(a Action, v view) {
	at := slices.IndexFunc(v.line, func(l authority) bool { return l.Generation == a.Generation })
	for i := range s.CAs {
		ca := &s.CAs[i]
		if (a.Kind == RetireCA || a.Kind == CompromiseCA) && ca.CrossedBy == a.Generation {
			ca.Cross, ca.CrossedBy = nil, 0
		}
		if ca.Generation != a.Generation {
			continue
		}
		switch a.Kind {
		case SignCross:
			if at > 0 {
				ca.Cross, ca.CrossedBy = nil, v.line[at-1].Generation
			}
		case ActivateCA:
			ca.Activated = v.now
		case EndCross:
			ca.Cross, ca.CrossedBy = nil, 0
		case RetireCA:
			ca.Retired = v.now
		case CompromiseCA:
			ca.Compromised, ca.SealedKey, ca.Cross, ca.CrossedBy = v.now, nil, nil, 0
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

package pki

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The rules by which certificates and CAs are made and replaced. They are functions of a State and the time, and each gives its reason.
// The ages at which they apply are in lifetimes.go; the life of a CA that follows from them is told at the top of pki.go. What an
// operator may do out of turn is in operator.go.

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
	IssuePeer     Kind = "issue-peer"      // signs the one that nodes show each other
)

// Action is one step of a plan.
type Action struct {
	Kind       Kind
	Generation int       // the CA that it is about; of a leaf or a peer certificate, the one that signs it
	Due        time.Time // when it fell due; zero: for other causes than age
	Reason     string    // for the user
}

// maxSigning bounds how many CAs are in the signing chain: two by age, one more for new names.
const maxSigning = 3

// rules say what falls due, in the order in which they build on each other. Each returns the next action of its kind, which is due
// now or later; ok is false when there is none.
var rules = []func(View) (Action, bool){
	View.retire, View.publish, View.cross, View.activate, View.endCross, View.leaf, View.nextLeaf, View.peer,
}

// Plan says what has to be done at the time now, in order; nothing when all is as it should be.
func Plan(s State, now time.Time) []Action {
	var plan []Action
	v := s.At(now)
	if v.clockBehind {
		return nil
	}
	for _, rule := range rules {
		for a, ok := rule(v); ok && !a.Due.After(v.now); a, ok = rule(v) {
			plan = append(plan, a)
			v = v.state.apply(a, v.now).At(v.now)
		}
	}
	return plan
}

// Upcoming are the actions that will fall due as things stand, soonest first. When the time of the first comes, Plan asks for it.
func (v View) Upcoming() []Action {
	var coming []Action
	if v.clockBehind {
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

func (v View) retire() (Action, bool) {
	for _, a := range v.all {
		if a.Compromised.IsZero() && !v.counts(a.Retired) && !v.now.Before(a.notAfter) {
			return Action{RetireCA, a.Generation, a.notAfter, caName(a.Generation) + " has expired"}, true
		}
	}
	if len(v.signing) == 0 {
		return Action{}, false
	}
	oldest := v.signing[0]
	if len(v.signing) > 1 {
		next := v.signing[1]
		if due := next.Created.Add(v.life.PublishAfter); due.Before(oldest.notAfter) {
			return Action{RetireCA, oldest.Generation, due, fmt.Sprintf("%s has been published for %s: %s makes room for the next",
				caName(next.Generation), span(v.life.PublishAfter), caName(oldest.Generation))}, true
		}
	}
	return Action{RetireCA, oldest.Generation, oldest.notAfter, fmt.Sprintf("%s expires on %s", caName(oldest.Generation), oldest.notAfter.Format(time.DateOnly))}, true
}

func (v View) publish() (Action, bool) {
	a := Action{Kind: CreateCA, Generation: v.state.nextGeneration()}
	switch {
	case len(v.state.CAs) == 0:
		a.Reason = "the instance has no certificate authority"
		return a, true
	case len(v.live) == 0:
		a.Reason = "no certificate authority of the instance is good any more"
		return a, true
	case len(v.signing) == 0:
		a.Reason = "no certificate authority of the instance permits its new names: " + strings.Join(v.state.Names.hosts(), ", ")
		return a, true
	}
	newest := v.newest()
	if missing := v.state.Names.without(newest.permitted(v.state.Names)); len(missing) > 0 && len(v.signing) < maxSigning {
		a.Reason = fmt.Sprintf("%s does not permit the instance's new names: %s", caName(newest.Generation), strings.Join(missing, ", "))
		return a, true
	}
	a.Due = newest.Created.Add(v.life.PublishAfter)
	a.Reason = fmt.Sprintf("%s of %s is followed after %s, so that clients have time to install the next", caName(newest.Generation),
		newest.Created.Format(time.DateOnly), span(v.life.PublishAfter))
	return a, true
}

func (v View) cross() (Action, bool) {
	for i := 1; i < len(v.signing); i++ {
		a := Action{Kind: SignCross, Generation: v.signing[i].Generation}
		switch {
		case !v.needsCross(i):
		case !v.crossed(i):
			a.Reason = fmt.Sprintf("clients that hold only %s are to accept what %s signs", caName(v.signing[i-1].Generation), caName(a.Generation))
			return a, true
		case v.signing[i].crossConstrained():
			a.Reason = fmt.Sprintf("the cross-certificate of %s has name constraints, which some clients don't take between the server's certificate and a CA", caName(a.Generation))
			return a, true
		}
	}
	return Action{}, false
}

func (v View) activate() (Action, bool) {
	if v.signer+1 >= len(v.signing) || v.counts(v.signing[v.signer+1].Activated) {
		return Action{}, false
	}
	cur, next := v.signing[v.signer], v.signing[v.signer+1]
	a := Action{Kind: ActivateCA, Generation: next.Generation}
	a.Due = earlier(cur.Created.Add(v.life.ActivateAfter), next.Created.Add(v.life.ActivateAfter-v.life.PublishAfter))
	since := fmt.Sprintf("has been published since %s", next.Created.Format(time.DateOnly))
	if ready := later(next.Ready, next.Created).Add(v.life.ReadyFor); v.life.ReadyFor > 0 && v.counts(next.Ready) && ready.Before(a.Due) {
		a.Due, since = ready, fmt.Sprintf("is trusted by all clients, as they have shown, since %s", next.Ready.Format(time.DateOnly))
	}
	if v.needsCross(v.signer) {
		a.Due = later(a.Due, v.crossEnd(v.signing[v.signer-1]))
	}
	a.Reason = fmt.Sprintf("%s %s: it signs from now on, and clients that hold only %s go on by its cross-certificate",
		caName(next.Generation), since, caName(cur.Generation))
	// Where no cross-certificate would be served, it is better that the older CA signs as long as it lives.
	end := v.crossEnd(cur)
	return a, v.crossed(v.signer+1) && a.Due.Before(end) && v.now.Before(end)
}

func (v View) endCross() (next Action, ok bool) {
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

func (v View) leaf() (Action, bool) {
	if len(v.signing) == 0 || v.state.NoLeaf {
		return Action{}, false
	}
	return v.reissue(IssueLeaf, v.state.Leaf, v.signing[v.signer], v.names)
}

func (v View) nextLeaf() (Action, bool) {
	if len(v.signing) < 2 || v.state.NoLeaf {
		return Action{}, false
	}
	return v.reissue(IssueNextLeaf, v.state.Next, v.newest(), v.newest().permitted(v.state.Names))
}

// reissue says when and why a leaf is to be replaced by one with these names by this issuer.
func (v View) reissue(kind Kind, l *Leaf, issuer authority, names Names) (Action, bool) {
	a, what := Action{Kind: kind, Generation: issuer.Generation}, "server certificate"
	if kind == IssuePeer {
		what = "peer certificate"
	}
	switch {
	case l == nil && kind == IssuePeer:
		a.Reason = "the instance's nodes have no certificate for each other"
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
		a.Reason = fmt.Sprintf("the %s is not valid before %s: the clock was set back", what, l.Created.Add(-v.life.Backdate).Format(time.RFC3339))
	default:
		a.Due = v.renewal(l)
		a.Reason = fmt.Sprintf("the %s of %s is replaced after %s", what, l.Created.Format(time.DateOnly), span(v.life.Renewal))
	}
	return a, true
}

// renewal is when a leaf is replaced because of its age.
func (v View) renewal(l *Leaf) time.Time {
	due := l.Created.Add(v.life.Renewal)
	if seconds := uint64(v.life.Jitter / time.Second); seconds > 0 {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", v.state.Names.URI, l.Issuer, l.Created.Unix()))
		due = due.Add(-time.Duration(binary.BigEndian.Uint64(sum[:])%seconds) * time.Second)
	}
	return due
}

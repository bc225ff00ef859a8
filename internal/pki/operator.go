package pki

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// This file is what an operator may ask for. Each method returns the actions that carry it out, to be done as those of Plan are, or an
// error that says why it makes no sense now. Due of the first action is when it would have come by itself: before that day the
// caller may want to know whether clients are ready, which nothing here does.

const asked = "asked for by an operator"

// Rotate makes the next generation now.
func (s State) Rotate(now time.Time) ([]Action, error) {
	v := s.At(now)
	a, _ := v.publish()
	switch {
	case v.clockBehind: // if the clock is right now, a generation for the time that it shows is the way out
	case len(v.signing) > 1:
		return nil, fmt.Errorf("%s is still in the bundle beside %s: retire %s first, or wait until %s",
			caName(v.signing[0].Generation), caName(v.newest().Generation), caName(v.signing[0].Generation), v.retireDue().Format(time.DateOnly))
	}
	a.Reason = asked
	return s.andPlan(now, a), nil
}

// Activate lets the CA that was published next sign leaves now.
func (s State) Activate(now time.Time) ([]Action, error) {
	v := s.At(now)
	if v.clockBehind {
		return nil, v.clockBehindError()
	}
	if len(v.signing) == 0 || v.signer+1 >= len(v.signing) {
		return nil, fmt.Errorf("no certificate authority waits to be activated: start the next generation first")
	}
	cur, next := v.signing[v.signer], v.signing[v.signer+1]
	switch {
	case v.needsCross(v.signer):
		before := v.signing[v.signer-1].Generation
		return nil, fmt.Errorf("clients that hold only %s still depend on %s: retire %s first", caName(before), caName(cur.Generation), caName(before))
	case v.needsCross(v.signer+1) && !v.crossed(v.signer+1):
		return nil, fmt.Errorf("%s has no cross-certificate yet: see why it cannot be signed, and try again", caName(next.Generation))
	case !v.now.Before(v.crossEnd(cur)):
		return nil, fmt.Errorf("%s expires on %s, too soon for a cross-certificate: retire it now, or leave it until then",
			caName(cur.Generation), cur.notAfter.Format(time.DateOnly))
	}
	a, _ := v.activate()
	return s.andPlan(now, Action{ActivateCA, next.Generation, a.Due, asked}), nil
}

// Retire takes the oldest CA out of the bundle now. Clients that hold no other fail from then on.
func (s State) Retire(now time.Time) ([]Action, error) {
	v := s.At(now)
	switch {
	case v.clockBehind:
		return nil, v.clockBehindError()
	case len(v.signing) == 0:
		return nil, fmt.Errorf("the instance has no certificate authority")
	case len(v.signing) == 1:
		return nil, fmt.Errorf("%s is the only certificate authority: start the next generation first", caName(v.signing[0].Generation))
	case v.signer == 0 && v.needsCross(1):
		return nil, fmt.Errorf("%s still signs: activate %s first", caName(v.signing[0].Generation), caName(v.signing[1].Generation))
	}
	return s.andPlan(now, Action{RetireCA, v.signing[0].Generation, v.retireDue(), asked}), nil
}

// Renew replaces the server certificate now, and the peer certificate if there is one.
func (s State) Renew(now time.Time) ([]Action, error) {
	v := s.At(now)
	if v.clockBehind {
		return nil, v.clockBehindError()
	}
	plan := s.andNewLeaf(now)
	for i, a := range plan {
		switch {
		case a.Kind == IssueLeaf && v.state.Leaf != nil:
			plan[i].Due = v.renewal(v.state.Leaf)
		case a.Kind == IssuePeer && v.state.Peer != nil:
			plan[i].Due = v.renewal(v.state.Peer)
		}
	}
	return plan, nil
}

// Compromise gives a generation up for good, or with 0 all of them: the keys are destroyed, nothing that they signed is served any
// more, and a CA that remains, or a new generation, signs a new leaf at once. Clients that hold no other CA fail until they have
// the new bundle.
func (s State) Compromise(now time.Time, generation int) ([]Action, error) {
	var first []Action
	var known []string
	for _, ca := range s.CAs {
		if !ca.Compromised.IsZero() {
			continue
		}
		known = append(known, caName(ca.Generation))
		if generation == 0 || generation == ca.Generation {
			first = append(first, Action{Kind: CompromiseCA, Generation: ca.Generation, Reason: asked})
		}
	}
	switch {
	case len(known) == 0:
		return nil, fmt.Errorf("the instance has no certificate authority that could be given up")
	case len(first) == 0:
		return nil, fmt.Errorf("generation %d: want one of those not given up yet: %s", generation, strings.Join(known, ", "))
	}
	return s.andNewLeaf(now, first...), nil
}

// andPlan are some actions, and then those that Plan asks for once they are done.
func (s State) andPlan(now time.Time, first ...Action) []Action {
	for _, a := range first {
		s = s.apply(a, second(now))
	}
	return append(first, Plan(s, now)...)
}

// andNewLeaf is andPlan, with a new leaf and a new peer certificate in any case.
func (s State) andNewLeaf(now time.Time, first ...Action) []Action {
	all := s.andPlan(now, first...)
	for _, a := range all {
		s = s.apply(a, second(now))
	}
	v := s.At(now)
	planned := func(kind Kind) bool { return slices.ContainsFunc(all, func(a Action) bool { return a.Kind == kind }) }
	if v.clockBehind {
		return all
	}
	if !planned(IssueLeaf) && !s.NoLeaf && len(v.signing) > 0 {
		all = append(all, Action{Kind: IssueLeaf, Generation: v.signing[v.signer].Generation, Reason: asked})
	}
	if _, ok := v.peer(); ok && !planned(IssuePeer) {
		all = append(all, Action{Kind: IssuePeer, Generation: s.Peer.Issuer, Reason: asked})
	}
	return all
}

func (v View) retireDue() time.Time {
	a, _ := v.retire()
	return a.Due
}

func (v View) clockBehindError() error {
	return errors.New(v.clockBehindWarning())
}

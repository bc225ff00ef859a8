package pki

import (
	"slices"
	"time"
)

func (s State) nextGeneration() int {
	n := 1
	for _, ca := range s.CAs {
		n = max(n, ca.Generation+1)
	}
	return n
}

// apply returns the State after an action, without the certificates that the action signs.
func (s State) apply(a Action, now time.Time) State {
	v := s.At(now)
	s.CAs = slices.Clone(s.CAs)
	switch a.Kind {
	case CreateCA:
		ca := CA{Generation: a.Generation, Created: now}
		if len(v.signing) == 0 || v.clockBehind {
			ca.Activated = now
		}
		s.CAs = append(s.CAs, ca)
		slices.SortStableFunc(s.CAs, func(a, b CA) int { return a.Created.Compare(b.Created) })
	case IssueLeaf:
		s.Leaf = &Leaf{Issuer: a.Generation, Created: now, Names: v.names, CrossTest: true}
	case IssueNextLeaf:
		s.Next = &Leaf{Issuer: a.Generation, Created: now, Names: v.newest().permitted(v.state.Names), CrossTest: true}
	case IssuePeer:
		s.Peer = &Leaf{Issuer: a.Generation, Created: now, Names: Names{URI: PeerIdentity(s.Names.URI)}}
	default:
		s.applyToCA(a, v)
	}
	if a.Kind != RetireCA && a.Kind != CompromiseCA {
		return s
	}
	// Who signs now is recorded, so that it goes on signing when the clock brings another CA back.
	if v = s.At(now); len(v.signing) > 0 && !v.counts(v.signing[v.signer].Activated) {
		s.applyToCA(Action{Kind: ActivateCA, Generation: v.signing[v.signer].Generation}, v)
	}
	return s
}

// applyToCA records an action on the CA that it is about. s.CAs must be a copy.
func (s State) applyToCA(a Action, v View) {
	at := slices.IndexFunc(v.signing, func(l authority) bool { return l.Generation == a.Generation })
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
				ca.Cross, ca.CrossedBy = nil, v.signing[at-1].Generation
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

package pki

import (
	"cmp"
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"time"
)

// authority is a CA with what its certificate says.
type authority struct {
	CA
	notBefore, notAfter time.Time
	cert                *x509.Certificate // nil while it is only planned
}

// View is what a State means at one time: which CAs are published, which of them signs, what is served. It is a value, and
// nothing that it answers depends on a clock.
type View struct {
	state       State
	life        Lifetimes
	now         time.Time
	clockBehind bool        // the clock is before everything; now is when something was last done
	all         []authority // oldest first
	live        []authority // those that are published
	signing     []authority // the signing chain: those of live that sign one after another, oldest first
	signer      int         // which of the signing chain signs now
	names       Names       // what the leaf is to be valid for: the wanted names that all of the signing chain permit
}

// At evaluates a State at a time.
func (s State) At(now time.Time) View {
	v := View{state: s, life: s.Lifetimes.orDefaults(), now: second(now)}
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
	if v.clockBehind = v.now.Before(begin); v.clockBehind {
		if l := cmp.Or(s.Leaf, s.Peer); l != nil {
			last = later(begin, l.Created)
		}
		v.now = last
	}
	slices.SortStableFunc(v.all, func(a, b authority) int { return a.Created.Compare(b.Created) })
	for _, a := range v.all {
		if a.Compromised.IsZero() && !v.counts(a.Retired) && !v.now.Before(a.notBefore) && v.now.Before(a.notAfter) {
			v.live = append(v.live, a)
		}
	}
	v.findSigningChain()
	for v.signer+1 < len(v.signing) && v.counts(v.signing[v.signer+1].Activated) && !v.needsCross(v.signer) {
		v.signer++
	}
	return v
}

// findSigningChain finds which CAs sign one after another, and which names can be served all the while. A name that clients
// use already must stay, so a CA that forbids it is passed over, and so is one that has no name in common with those before it.
func (v *View) findSigningChain() {
	v.names = v.state.Names
	var kept []string // wanted names that are in the leaf
	if v.state.Leaf != nil && v.counts(v.state.Leaf.Created) {
		gone := v.state.Leaf.Names.without(v.state.Names)
		kept = slices.DeleteFunc(v.state.Leaf.Names.hosts(), func(h string) bool { return slices.Contains(gone, h) })
	}
	for _, a := range v.live {
		common := a.permitted(v.names)
		hosts := common.hosts()
		if len(hosts) == 0 && len(v.state.Names.hosts()) > 0 || slices.ContainsFunc(kept, func(h string) bool { return !slices.Contains(hosts, h) }) {
			continue
		}
		v.signing, v.names = append(v.signing, a), common
	}
}

// counts says whether what was recorded with the time t has happened by now. A little later counts too, so that a clock that
// is being corrected doesn't turn things back and forth.
func (v View) counts(t time.Time) bool { return !t.IsZero() && !t.After(v.now.Add(v.life.Backdate)) }

// crossEnd is when cross-certificates by a CA are no longer served.
func (v View) crossEnd(by authority) time.Time { return by.notAfter.Add(-v.life.CrossEnds) }

// needsCross says whether clients that hold only the CA before signing[i] depend on a cross-certificate while signing[i]
// signs. They do as long as it may be served.
func (v View) needsCross(i int) bool { return i > 0 && v.now.Before(v.crossEnd(v.signing[i-1])) }

// crossed says whether signing[i] has a cross-certificate by the CA before.
func (v View) crossed(i int) bool {
	return i > 0 && v.signing[i].CrossedBy == v.signing[i-1].Generation
}

// crossServed says whether the cross-certificate belongs beside the leaf.
func (v View) crossServed() bool { return v.needsCross(v.signer) && v.crossed(v.signer) }

func (v View) nextServed() bool {
	return len(v.signing) > 1 && v.state.Next != nil && v.state.Next.Issuer == v.newest().Generation
}

// nextCrossServed says whether the newest CA's activation is ahead, its cross-certificate will be served then, and the second
// leaf can be presented with it.
func (v View) nextCrossServed() bool {
	newest := len(v.signing) - 1
	return v.nextServed() && newest > v.signer && v.needsCross(newest) && v.crossed(newest) && v.signing[newest].Cross != nil && v.state.Next.CrossTest
}

func (v View) newest() authority { return v.signing[len(v.signing)-1] }

// permitted are those of n that the CA's constraints allow. A kind of name that they don't speak of is not constrained.
func (a authority) permitted(n Names) Names {
	if a.cert == nil {
		return n // it will be made for them
	}
	if domains := a.cert.PermittedDNSDomains; len(domains) > 0 {
		n.DNS = slices.DeleteFunc(slices.Clone(n.DNS), func(name string) bool {
			return !slices.ContainsFunc(domains, func(d string) bool { return inSubtree(name, d) })
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

// crossConstrained says whether the CA's cross-certificate has name constraints, as those have that older versions of Sealane
// signed.
func (a authority) crossConstrained() bool {
	if a.Cross == nil || !constrained(a.cert) { // such a cross-certificate took over the constraints of its own CA
		return false
	}
	cert, err := x509.ParseCertificate(a.Cross)
	return err == nil && constrained(cert)
}

package pki

import (
	"errors"
	"fmt"
	"time"
)

// The peer certificate is what the nodes of an instance show each other when one replicates from another: each end verifies the other's.
// It is for servers and for clients, and its only name is a URI (PeerIdentity), so that it passes for no server that clients dial. It
// exists where State.Peers says so.
//
// Nodes get their certificate and the CAs that they accept (PeerChain, PeerAuthorities) one after another, and a link may be made anew at
// any moment. So whenever something changes, a node with what was there before and a node with what is there now accept each other. Only
// Compromise cuts that short. For that,
//
//   - a CA signs the peer certificate only once the nodes know it: because it was made long enough ago (peerNotice), or by its
//     cross-certificate, which goes along;
//   - a CA that was retired before it expired is accepted for the same time on;
//   - the certificate is moved to a younger CA before its own CA expires. The leaf may stay with a CA until the day, because clients may hold
//     no other; nodes hold all.

// PeerIdentity is the URI in the peer certificate of the instance with an Identity.
func PeerIdentity(identity string) string { return identity + "/node" }

// WithPeers says whether the instance's nodes need a certificate for each other.
func (s State) WithPeers(on bool) State {
	s.Peers = on
	return s
}

// WithoutServerCertificate says that clients connect without TLS, so that no leaf is issued.
func (s State) WithoutServerCertificate(without bool) State {
	s.NoLeaf = without
	return s
}

// PeerChain is what a node shows another, as PEM, its certificate first, with the private key as PEM (PKCS #8).
func (v View) PeerChain(key MasterKey) (chain, privateKey []byte, err error) {
	p := v.state.Peer
	if p == nil {
		return nil, nil, errors.New("no peer certificate has been issued")
	}
	if privateKey, err = openLeafKey(key, p, peerPurpose(v.state.Names.URI)); err != nil {
		return nil, nil, fmt.Errorf("peer certificate: %w", err)
	}
	chain = EncodePEM(p.Certificate)
	if issuer, ok := v.peerCA(p.Issuer); ok {
		if _, crossed := v.servableCross(issuer); crossed && issuer.Cross != nil {
			chain = append(chain, EncodePEM(issuer.Cross)...)
		}
	}
	return chain, privateKey, nil
}

// PeerAuthorities are the CAs that another node's certificate may be from, as PEM, oldest first.
func (v View) PeerAuthorities() []byte {
	var out []byte
	for _, a := range v.all {
		if _, ok := v.peerCA(a.Generation); ok {
			out = append(out, EncodePEM(a.Certificate)...)
		}
	}
	return out
}

// peerNotice is for how long a CA is known to all nodes before it may sign the peer certificate without a cross-certificate, and for how
// long it is accepted after it was retired. With scaled lifetimes it is two seconds at least, for nodes take that long on a busy machine.
func (v View) peerNotice() time.Duration {
	return max((v.life.CA / 3650).Truncate(time.Second), 2*time.Second)
}

// peerCA returns a CA that nodes accept.
func (v View) peerCA(generation int) (authority, bool) {
	for _, a := range v.all {
		if a.Generation == generation {
			valid := !v.now.Before(a.notBefore) && v.now.Before(a.notAfter)
			retired := v.counts(a.Retired) && !v.now.Before(a.Retired.Add(v.peerNotice()))
			return a, a.Compromised.IsZero() && a.Certificate != nil && valid && !retired
		}
	}
	return authority{}, false
}

// servableCross returns the CA that signed a's cross-certificate, if that cross-certificate may be served now.
func (v View) servableCross(a authority) (by authority, ok bool) {
	for _, by := range v.all {
		if by.Generation == a.CrossedBy {
			return by, by.Compromised.IsZero() && v.now.Before(v.crossEnd(by))
		}
	}
	return authority{}, false
}

// peer says when and why the peer certificate is to be replaced.
func (v View) peer() (Action, bool) {
	if !v.state.Peers || len(v.live) == 0 {
		return Action{}, false
	}
	wanted := v.peerIssuer()
	current := wanted
	for _, a := range v.live {
		if v.state.Peer != nil && a.Generation == v.state.Peer.Issuer {
			current = a
		}
	}
	a, _ := v.reissue(IssuePeer, v.state.Peer, current, Names{URI: PeerIdentity(v.state.Names.URI)})
	if current.Generation == wanted.Generation {
		return a, true
	}
	due := v.now
	if !v.crossedForPeers(current, wanted) {
		due = v.knownToPeers(current, wanted)
	}
	if !due.After(v.now) || !a.Due.IsZero() && due.Before(a.Due) {
		a.Due, a.Generation = due, wanted.Generation
		a.Reason = fmt.Sprintf("%s signs the peer certificate in place of %s, once all nodes know it", caName(wanted.Generation), caName(current.Generation))
	}
	return a, true
}

// peerIssuer is the CA that is to sign the peer certificate: the one that signs the leaf, or the newest when that one soon expires.
func (v View) peerIssuer() authority {
	if len(v.signing) == 0 || !v.now.Before(v.crossEnd(v.signing[v.signer])) {
		return v.live[len(v.live)-1]
	}
	return v.signing[v.signer]
}

// crossedForPeers says whether nodes that know only CAs from before accept what the CA signs, by its cross-certificate.
func (v View) crossedForPeers(from, to authority) bool {
	by, ok := v.servableCross(to)
	return ok && (by.Generation == from.Generation || !v.now.Before(by.Created.Add(v.peerNotice())))
}

// knownToPeers is when all nodes know a CA. When the CA before expires too soon for that, it is half of the time that is left.
func (v View) knownToPeers(from, to authority) time.Time {
	if left := from.notAfter.Sub(to.Created); left > 0 && left < 2*v.peerNotice() {
		return second(to.Created.Add(left / 2))
	}
	return to.Created.Add(v.peerNotice())
}

// peerPath is by which CAs a peer certificate by a generation is verified.
func (v View) peerPath(generation int) trustPath {
	var p trustPath
	p.issuer, _ = v.peerCA(generation)
	if by, ok := v.servableCross(p.issuer); ok && p.issuer.Cross != nil {
		p.before = by
	}
	return p
}

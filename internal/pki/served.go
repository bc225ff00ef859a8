package pki

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// What a server presents and what a client should trust, at the time of a View. All answers of one View fit together: ask one
// View for everything that is published together, because a cross-certificate may end between two looks at a clock.

// Published are the CAs that a client should trust, oldest first.
func (v View) Published() []CA {
	var out []CA
	for _, a := range v.live {
		out = append(out, a.CA)
	}
	return out
}

// Bundle is every CA certificate that a client should trust, as PEM, oldest first.
func (v View) Bundle() []byte {
	var out []byte
	for _, a := range v.live {
		out = append(out, EncodePEM(a.Certificate)...)
	}
	return out
}

// Chain is what the server presents, as PEM, leaf first, with the leaf's private key as PEM (PKCS #8).
func (v View) Chain(key MasterKey) (chain, privateKey []byte, err error) {
	if v.state.Leaf == nil {
		return nil, nil, errors.New("no server certificate has been issued")
	}
	if privateKey, err = openLeafKey(key, v.state.Leaf, leafPurpose(v.state.Names.URI)); err != nil {
		return nil, nil, err
	}
	for _, der := range v.servedChain() {
		chain = append(chain, EncodePEM(der)...)
	}
	return chain, privateKey, nil
}

// Serves says whether chain, in DER as a server presented it, is the one that is meant to be presented.
func (v View) Serves(chain [][]byte) bool {
	return v.state.Leaf != nil && slices.EqualFunc(chain, v.servedChain(), bytes.Equal)
}

// servedChain is the leaf and, where it is served, the cross-certificate, in DER. There must be a leaf.
func (v View) servedChain() [][]byte {
	chain := [][]byte{v.state.Leaf.Certificate}
	if v.leafHasCross() {
		chain = append(chain, v.signing[v.signer].Cross)
	}
	return chain
}

// leafHasCross says whether the leaf that there is goes with the cross-certificate. A leaf of another CA does not, until Plan
// has replaced it.
func (v View) leafHasCross() bool {
	return v.crossServed() && v.state.Leaf.Issuer == v.signing[v.signer].Generation
}

// Anchors are the fingerprints of the CAs each of which, by itself, verifies what Chain presents.
func (v View) Anchors() []string {
	if v.state.Leaf == nil {
		return nil
	}
	var anchors []string
	for _, a := range v.all {
		if a.Generation == v.state.Leaf.Issuer || v.leafHasCross() && a.Generation == v.signing[v.signer].CrossedBy {
			anchors = append(anchors, a.Fingerprint())
		}
	}
	return anchors
}

// NextChain is what the server presents to clients that ask for NextName: a leaf by the newest CA, without a
// cross-certificate. It is empty while only one CA is published, because Chain tests the same then.
func (v View) NextChain(key MasterKey) (chain, privateKey []byte, err error) {
	if !v.nextServed() {
		return nil, nil, nil
	}
	if privateKey, err = openLeafKey(key, v.state.Next, nextPurpose(v.state.Names.URI)); err != nil {
		return nil, nil, err
	}
	return EncodePEM(v.state.Next.Certificate), privateKey, nil
}

// NextAnchor is the fingerprint of the one CA that verifies what NextChain presents; "" while that is empty.
func (v View) NextAnchor() string {
	if !v.nextServed() {
		return ""
	}
	return v.newest().Fingerprint()
}

// NextCrossChain is what the server presents to clients that ask for NextCrossName: NextChain with the newest CA's
// cross-certificate. It is empty when no cross-certificate will be served, and once one is served, because Chain has it then.
func (v View) NextCrossChain(key MasterKey) (chain, privateKey []byte, err error) {
	if !v.nextCrossServed() {
		return nil, nil, nil
	}
	if chain, privateKey, err = v.NextChain(key); err != nil {
		return nil, nil, err
	}
	return append(chain, EncodePEM(v.newest().Cross)...), privateKey, nil
}

// NextCrossLabel stands for what NextCrossChain presents beside the leaf, as NextAnchor stands for the CA: "cross-" and the
// fingerprint of the cross-certificate; "" while NextCrossChain is empty.
func (v View) NextCrossLabel() string {
	if !v.nextCrossServed() {
		return ""
	}
	return crossLabel(v.newest().CA)
}

// Proofs are the labels of everything that clients will be presented from a generation's activation on: the CA's
// fingerprint, and the cross-certificate's label, if that is to be served and isn't yet. A client that has verified each of
// them is ready.
func (v View) Proofs(generation int) []string {
	for i, a := range v.signing {
		if a.Generation == generation && i > v.signer && v.needsCross(i) && v.crossed(i) {
			return []string{a.Fingerprint(), crossLabel(a.CA)}
		}
	}
	for _, ca := range v.state.CAs {
		if ca.Generation == generation {
			return []string{ca.Fingerprint()}
		}
	}
	return nil
}

// NextSigner is the CA that is to sign next, if there is one.
func (v View) NextSigner() (CA, bool) {
	if v.clockBehind || v.signer+1 >= len(v.signing) || v.counts(v.signing[v.signer+1].Activated) {
		return CA{}, false
	}
	return v.signing[v.signer+1].CA, true
}

// Accepted are the generations of which a client needs one at least to verify what is served.
func (v View) Accepted() []int {
	if len(v.signing) == 0 {
		return nil
	}
	accepted := []int{v.signing[v.signer].Generation}
	if v.crossServed() {
		accepted = append([]int{v.signing[v.signer-1].Generation}, accepted...)
	}
	return accepted
}

func crossLabel(ca CA) string { return "cross-" + fingerprint(ca.Cross) }

// Fingerprint is the SHA-256 of the CA's certificate, in lower-case hexadecimal.
func (ca CA) Fingerprint() string { return fingerprint(ca.Certificate) }

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func openLeafKey(key MasterKey, l *Leaf, purpose string) ([]byte, error) {
	der, err := key.Open(l.SealedKey, purpose)
	if err != nil {
		return nil, fmt.Errorf("server certificate's key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

package local

import (
	"crypto/x509"
	"slices"
	"testing"

	"github.com/sealane/sealane/internal/pki"
)

// A chain is proved only when all of it is presented: without the cross-certificate some clients fail.
func TestTheWholeChainIsProved(t *testing.T) {
	t.Parallel()
	var certs []*x509.Certificate
	var pems [][]byte
	for n := range 3 {
		certs = append(certs, &x509.Certificate{Raw: []byte{byte(n)}})
		pems = append(pems, pki.EncodePEM(certs[n].Raw))
	}
	leaf, cross, other := pems[0], pems[1], pems[2]
	for name, c := range map[string]struct {
		presented []*x509.Certificate
		intended  []byte
		want      bool
	}{
		"the leaf":                   {certs[:1], leaf, true},
		"with its cross-certificate": {certs[:2], slices.Concat(leaf, cross), true},
		"another leaf":               {certs[:1], other, false},
		"no cross-certificate":       {certs[:1], slices.Concat(leaf, cross), false},
		"another cross-certificate":  {certs[:2], slices.Concat(leaf, other), false},
		"one cross-certificate more": {certs[:2], leaf, false},
		"nothing was intended":       {certs[:1], nil, false},
	} {
		if got := presents(c.presented, c.intended); got != c.want {
			t.Errorf("%s: %t; want %t", name, got, c.want)
		}
	}
}

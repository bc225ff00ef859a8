package local

import (
	"bytes"
	"crypto/x509"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/wire"
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

// Each listener is proved: one that is not served fails the proof, whatever the others do.
func TestEveryListenerIsProved(t *testing.T) {
	t.Parallel()
	var served []gateway.Listener
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					for b := make([]byte, 4096); ; {
						n, err := c.Read(b)
						if err != nil {
							return
						}
						answer := "+PONG\r\n"
						if bytes.Contains(b[:n], []byte(wire.ProbeLibrary)) {
							answer = "-ERR unknown subcommand\r\n"
						}
						_, _ = io.WriteString(c, answer)
					}
				}()
			}
		}()
		served = append(served, gateway.Listener{Address: ln.Addr().String()})
	}
	if err := prove(t.Context(), gateway.Snapshot{Listeners: served}, instance.Node{}); err != nil {
		t.Errorf("two that answer: %v", err)
	}
	full := append(slices.Clone(served), gateway.Listener{Address: "127.0.0.1:1"})
	if err := prove(t.Context(), gateway.Snapshot{Listeners: full}, instance.Node{}); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1 serves") {
		t.Errorf("one that doesn't listen: %v", err)
	}
	wrong := []gateway.Listener{served[0], {Address: served[1].Address, TLS: true}}
	if err := prove(t.Context(), gateway.Snapshot{Listeners: wrong}, instance.Node{}); err == nil || !strings.Contains(err.Error(), served[1].Address) {
		t.Errorf("one that has no TLS: %v", err)
	}
}

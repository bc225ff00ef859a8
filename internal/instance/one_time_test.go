package instance_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/pki"
)

// What a gateway is given is evaluated at one time, however long that takes. Where the cross-certificate's end falls between two
// looks at the clock, a chain that still has it beside anchors that name one CA would have clients noted as proven that only
// trust the other.
func TestSnapshotIsOfOneTime(t *testing.T) {
	for before := range 16 {
		t.Run(fmt.Sprintf("the cross-certificate ends after %d looks at the clock", before), func(t *testing.T) {
			story(t, func(t *testing.T, m *machine) { crossEndsWhileLookedAt(t, m, before) })
		})
	}
}

func crossEndsWhileLookedAt(t *testing.T, m *machine, before int) {
	begin := m.made(first).Certificates.CAs[0].Created
	for _, d := range []int{1826, 2738} {
		m.jump(begin.Add(time.Duration(d) * day).Sub(m.now()))
		time.Sleep(2 * instance.CheckInterval)
	}
	m.jump(begin.Add(3619*day + 12*time.Hour).Sub(m.now()))
	time.Sleep(2 * instance.CheckInterval) // leaves are as new as they will be
	life := pki.DefaultLifetimes()
	end := begin.Add(life.CA - life.CrossEnds)
	m.set(func() {
		m.onEnsured = func(_ context.Context, n instance.Node) {
			chain, anchors := bytes.Count(n.Gateway.Certificate, []byte("BEGIN")), len(n.Gateway.Anchors)
			if chain != anchors {
				t.Errorf("a gateway is given a chain of %d certificates with %d anchors", chain, anchors)
			}
		}
		m.skew += end.Sub(time.Now().Add(m.skew)) - time.Duration(before)*time.Second - 11*time.Second
		m.tick = time.Second
	})
	time.Sleep(3 * instance.CheckInterval)
	m.set(func() { m.tick, m.onEnsured = 0, nil })
	if n := m.node(first); bytes.Count(n.Gateway.Certificate, []byte("BEGIN")) != 1 || len(n.Gateway.Anchors) != 1 {
		t.Errorf("after the end: %d anchors", len(n.Gateway.Anchors))
	}
}

package instance

import (
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/pki"
)

// What clients have shown, and what is made of it.
func TestClientsAreJudgedByWhatTheyHaveShown(t *testing.T) {
	t.Parallel()
	now := time.Date(2031, 12, 1, 12, 0, 0, 0, time.UTC)
	ca := pki.CA{Generation: 2, Certificate: []byte("CA-2")}
	next := ca.Fingerprint()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	seen := func(address, name string, last time.Time) gateway.Evidence {
		return gateway.Evidence{Peer: gateway.Peer{Address: address, Name: name}, First: last, Last: last}
	}
	proven := func(e gateway.Evidence, at time.Time) gateway.Evidence {
		e.Proven = map[string]time.Time{next: at}
		return e
	}
	declared := func(e gateway.Evidence, at time.Time) gateway.Evidence {
		e.Declared = map[string]time.Time{next: at}
		return e
	}
	failed := func(e gateway.Evidence, at time.Time) gateway.Evidence {
		e.Failed = map[string]gateway.Refusal{next: {Time: at, Why: "unknown_ca"}}
		return e
	}
	other := seen("10.0.0.1", "app", ago(time.Hour))
	other.Proven = map[string]time.Time{"another CA": ago(time.Hour)}
	for name, c := range map[string]struct {
		clients []gateway.Evidence
		evicted uint64
		doubt   []string // parts of it; none: no doubt
	}{
		"nobody":                         {doubt: []string{"no client has connected"}},
		"nobody of late":                 {clients: []gateway.Evidence{proven(seen("10.0.0.1", "app", ago(31*24*time.Hour)), ago(40*24*time.Hour))}, doubt: []string{"no client"}},
		"only under another CA":          {clients: []gateway.Evidence{other}, doubt: []string{"10.0.0.1 (app): not shown to trust CA-2"}},
		"proven":                         {clients: []gateway.Evidence{proven(seen("10.0.0.1", "app", ago(time.Hour)), ago(time.Hour))}},
		"declared":                       {clients: []gateway.Evidence{declared(seen("10.0.0.1", "", ago(time.Hour)), ago(time.Hour))}},
		"a test by another program":      {clients: []gateway.Evidence{seen("10.0.0.1", "app", ago(time.Hour)), proven(gateway.Evidence{Peer: gateway.Peer{Address: "10.0.0.1", Name: "app", User: "u"}, Last: ago(2 * time.Hour)}, ago(2*time.Hour))}},
		"a test of another address":      {clients: []gateway.Evidence{seen("10.0.0.1", "app", ago(time.Hour)), proven(seen("10.0.0.2", "app", ago(time.Hour)), ago(time.Hour))}, doubt: []string{"10.0.0.1 (app)"}},
		"failed, then proven":            {clients: []gateway.Evidence{proven(seen("10.0.0.1", "app", ago(time.Hour)), ago(time.Hour)), proven(failed(seen("10.0.0.1", "", ago(2*time.Hour)), ago(2*time.Hour)), ago(time.Hour))}},
		"proven, then failed":            {clients: []gateway.Evidence{proven(seen("10.0.0.1", "app", ago(2*time.Hour)), ago(2*time.Hour)), failed(seen("10.0.0.1", "", ago(time.Hour)), ago(time.Hour))}, doubt: []string{"10.0.0.1 (app) refused it (unknown_ca)"}},
		"one that has not come for long": {clients: []gateway.Evidence{seen("10.0.0.9", "gone", ago(31*24*time.Hour)), proven(seen("10.0.0.1", "app", ago(time.Hour)), ago(time.Hour))}},
		"more than are remembered":       {clients: []gateway.Evidence{proven(seen("10.0.0.1", "app", ago(time.Hour)), ago(time.Hour))}, evicted: 3, doubt: []string{"3 of them"}},
	} {
		got := judgeClients(gateway.Ledger{Clients: c.clients, Evicted: c.evicted}, ca, now)
		for _, part := range c.doubt {
			if !strings.Contains(got.Doubt, part) {
				t.Errorf("%s: doubt %q; want %q in it", name, got.Doubt, part)
			}
		}
		if len(c.doubt) == 0 && got.Doubt != "" {
			t.Errorf("%s: doubt %q; want none", name, got.Doubt)
		}
		if len(got.Clients) != len(c.clients) {
			t.Errorf("%s: %d clients of %d", name, len(got.Clients), len(c.clients))
		}
	}
}

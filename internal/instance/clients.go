package instance

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/pki"
)

const (
	// recently is how far back a client counts: what has not come for so long is not waited for.
	recently = 30 * 24 * time.Hour
	// lookPace is how often the clients are asked about for an activation that comes by itself.
	lookPace = time.Hour
)

// Trust is what a client has shown of whether it trusts a CA.
type Trust string

const (
	Proven   Trust = "PROVEN"   // it verified a chain that only this CA verifies
	Declared Trust = "DECLARED" // it said so: a sidecar does
	Failed   Trust = "FAILED"   // it refused such a chain
	Unknown  Trust = "UNKNOWN"  // it has shown neither
)

// Client is one of an instance's clients, and what it has shown. Several behind one address translator look like one.
type Client struct {
	gateway.Peer
	FirstSeen, LastSeen time.Time
	Trust               Trust
	TrustTime           time.Time // of what Trust says; zero for Unknown
	Detail              string    // of a failure
}

// Clients are an instance's clients of the last ninety days, and what they have shown of the CA that comes next, or, where none
// does, of the one that signs.
type Clients struct {
	Generation int // of that CA
	Clients    []Client
	Doubt      string // why clients might fail without the other CA; "": none would, as far as anybody can know
	Since      time.Time
	Evicted    uint64
	gateway.Sampling
	Sampled, SamplesFailed uint64
}

// GatewayLedger is what a Runtime can say about the clients of its gateways.
type GatewayLedger interface {
	GatewayLedger(ctx context.Context, nodeID string) (gateway.Ledger, error)
}

// GatewayLedger implements GatewayLedger.
func (l *Local) GatewayLedger(ctx context.Context, nodeID string) (gateway.Ledger, error) {
	return gateway.NewClient(l.nodeDir(nodeID)).Ledger(ctx)
}

// Clients shows an instance's clients and which of them trust the CA that is to come.
func (m *Manager) Clients(ctx context.Context, name Name) (Clients, error) {
	i, err := m.Get(name)
	if err != nil {
		return Clients{}, err
	}
	if err := i.encrypted(); err != nil {
		return Clients{}, err
	}
	return m.clients(ctx, i)
}

func (m *Manager) clients(ctx context.Context, i Instance) (Clients, error) {
	now := m.Now()
	published := i.Certificates.Published(now)
	runtime, ok := m.Runtime.(GatewayLedger)
	if !ok || len(published) == 0 {
		return Clients{}, precondition("the clients of '%s' are not known: it has no CA yet", i.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	l, err := runtime.GatewayLedger(ctx, i.nodeID(0))
	if err != nil {
		m.Log.Warn("gateway does not answer", "instance", i.Name, "err", err)
		return Clients{}, &Error{Code: Unavailable, Message: "the clients of '" + i.Name.String() + "' are not known: the gateway does not answer"}
	}
	newest := published[len(published)-1]
	c := judgeClients(l, newest, now)
	if s := i.Spec.Sampling; s != nil {
		c.Sampling = *s
	}
	return c, nil
}

// judgeClients says what the clients have shown of a CA.
func judgeClients(l gateway.Ledger, ca pki.CA, now time.Time) Clients {
	anchor := ca.Fingerprint()
	c := Clients{Generation: ca.Generation, Since: l.Since, Evicted: l.Evicted, Sampled: l.Sampled, SamplesFailed: l.SamplesFailed}
	// A failed handshake has no name: it counts for all from that address. So does a test by another program, for those of the
	// name that it gave.
	failed, tested := make(map[string]gateway.Refusal), make(map[[2]string]time.Time)
	for _, e := range l.Clients {
		if r, ok := e.Failed[anchor]; ok && r.Time.After(failed[e.Address].Time) {
			failed[e.Address] = r
		}
		if at := e.Proven[anchor]; at.After(tested[[2]string{e.Address, e.Name}]) {
			tested[[2]string{e.Address, e.Name}] = at
		}
	}
	for _, e := range l.Clients {
		out := Client{Peer: e.Peer, FirstSeen: e.First, LastSeen: e.Last, Trust: Unknown}
		if at := tested[[2]string{e.Address, e.Name}]; !at.IsZero() {
			out.Trust, out.TrustTime = Proven, at
		}
		if at := e.Declared[anchor]; at.After(out.TrustTime) {
			out.Trust, out.TrustTime = Declared, at
		}
		if r := failed[e.Address]; r.Time.After(out.TrustTime) {
			out.Trust, out.TrustTime, out.Detail = Failed, r.Time, r.Why
		}
		c.Clients = append(c.Clients, out)
	}
	c.Doubt = c.doubt(now)
	return c
}

// doubt says which clients may not trust the CA.
func (c Clients) doubt(now time.Time) string {
	seen := 0
	var doubtful []string
	for _, x := range c.Clients {
		if now.Sub(x.LastSeen) > recently {
			continue
		}
		if seen++; x.Trust == Unknown || x.Trust == Failed {
			doubtful = append(doubtful, x.describe())
		}
	}
	const most = 10
	switch n := len(doubtful); {
	case seen == 0:
		return "no client has connected in the last 30 days, so nothing is known of any"
	case n > most:
		return fmt.Sprintf("%s and %d others have not shown that they trust CA-%d", strings.Join(doubtful[:most], ", "), n-most, c.Generation)
	case n > 0:
		return fmt.Sprintf("%s: not shown to trust CA-%d", strings.Join(doubtful, ", "), c.Generation)
	case c.Evicted > 0:
		return fmt.Sprintf("there are more clients than can be remembered, %d of them are not", c.Evicted)
	}
	return ""
}

func (x Client) describe() string {
	text := x.Address
	if who := cmp.Or(x.Name, x.Library, x.User); who != "" {
		text += " (" + who + ")"
	}
	if x.Trust == Failed {
		text += " refused it (" + x.Detail + ")"
	}
	return text
}

// SetSampling changes which share of new clients is shown the chain of the CA that is to come; nil: none. It returns as
// ChangeDataPlane does.
func (m *Manager) SetSampling(ctx context.Context, name Name, s *gateway.Sampling) error {
	if s != nil && (!(s.Percent > 0 && s.Percent <= 100) || s.PerHour < 1) {
		var vs []Violation
		if !(s.Percent > 0 && s.Percent <= 100) {
			vs = append(vs, Violation{"percent", fmt.Sprintf("%v: must be more than 0 and at most 100; 0 with per_hour 0 turns it off", s.Percent)})
		}
		if s.PerHour < 1 {
			vs = append(vs, Violation{"per_hour", fmt.Sprintf("%d: must be at least 1", s.PerHour)})
		}
		return NewViolations(InvalidArgument, vs)
	}
	var changed *Instance
	err := m.mutate(name, func(i *Instance) error {
		if err := i.idle(); err != nil {
			return err
		}
		if err := i.encrypted(); err != nil {
			return err
		}
		i.Spec.Sampling, changed = s, i
		return nil
	})
	if err != nil {
		return err
	}
	return m.served(ctx, changed)
}

// activateWhenTrusted lets the published CA sign before its day, when every client has trusted it for long.
func (m *Manager) activateWhenTrusted(ctx context.Context, w *worker, i Instance) {
	if i.Certificates == nil || i.pending() != nil {
		return
	}
	now := m.Now()
	published := i.Certificates.Published(now)
	if len(published) != 2 || now.Sub(published[1].Created) < recently || !published[1].Activated.IsZero() || now.Sub(w.asked) < lookPace {
		return
	}
	w.asked = now
	c, err := m.clients(ctx, i)
	if err != nil || c.Doubt != "" || now.Sub(c.Since) < recently {
		return
	}
	// It goes the operator's way, with all its checks; the log says that it was nobody's wish.
	_, err = m.decide(i.Name, request{action: audit.Activate, plan: pki.State.Activate, nobody: true}, "")
	if err != nil {
		m.Log.Warn("a CA that all clients trust could not be activated early", "instance", i.Name, "err", err)
		return
	}
	m.Log.Info("CA activated early: every client of the last 30 days trusts it", "instance", i.Name, "generation", c.Generation)
}

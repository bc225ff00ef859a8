package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/store"
)

// What clients have shown of the CAs that they trust is gathered by gateways, in memory, and kept here: in a record of its own
// beside the instance's, because it is written at other times, and losing some of it is no harm.

const (
	ledgerPrefix = "ledgers/"

	// collectInterval is how often gateways are asked, and the most often that a ledger is written.
	collectInterval = time.Minute
	// ledgerLag is how far times that only move on may be behind in the record.
	ledgerLag = time.Hour
	// keepClients is for how long a client is known that is not seen any more, clientsCount for how long it counts where it is
	// asked whether all clients are ready.
	keepClients  = 90 * 24 * time.Hour
	clientsCount = 30 * 24 * time.Hour
	// maxNamed is how many clients a refusal names.
	maxNamed = 10
)

// Sampling presents the next CA to clients that did not ask for it.
type Sampling struct {
	Generation int // the CA; with another one it is over
	Percent    float64
	PerHour    int
}

// Clients are an instance's clients, and where each stands with the next CA.
type Clients struct {
	Generation int // the CA that is asked about: the newest that is published
	Clients    []ledger.Status
	Labels     map[string]Label
	Evicted    time.Time // when clients were last not kept, for want of room; zero: never
	Doubt      string    // why it can't be said that all clients trust that CA; "": they do
}

// Label is what clients show something of: a CA, or its cross-certificate beside a server certificate by it.
type Label struct {
	Generation int
	Cross      bool
}

// labelsOf are the labels of the published CAs, and of the cross-certificate that clients are tested with.
func labelsOf(view pki.View) map[string]Label {
	all := make(map[string]Label)
	for _, ca := range view.Published() {
		all[ca.Fingerprint()] = Label{Generation: ca.Generation}
	}
	if cross := view.NextCrossLabel(); cross != "" {
		all[cross] = Label{all[view.NextAnchor()].Generation, true}
	}
	return all
}

// Clients shows what is known of an instance's clients.
func (m *Manager) Clients(ctx context.Context, name Name) (Clients, error) {
	known, err := m.gather(ctx, name)
	if err != nil {
		return Clients{}, err
	}
	i, err := m.Get(name)
	if err != nil || i.Certificates == nil {
		return Clients{}, err
	}
	now := m.Now()
	view := i.Certificates.At(now)
	published := view.Published()
	if len(published) == 0 {
		return Clients{}, nil
	}
	out := Clients{Labels: labelsOf(view), Evicted: known.LastEvicted}
	out.Generation = published[len(published)-1].Generation
	out.Doubt = doubts(view, out.Generation, known, now)
	out.Clients = known.Statuses(view.Proofs(out.Generation), now.Add(-keepClients))
	return out, nil
}

// doubts says why it can't be said that all clients trust a generation; "": they do. The view is of the time now.
func doubts(view pki.View, generation int, known ledger.Ledger, now time.Time) string {
	proofs := view.Proofs(generation)
	d, ok := known.Doubts(proofs, now.Add(-clientsCount))
	switch {
	case ok:
		return ""
	case len(d.Clients) > 0:
		named := make([]string, 0, maxNamed)
		for _, c := range d.Clients[:min(len(d.Clients), maxNamed)] {
			named = append(named, describe(c, proofs))
		}
		others := ""
		if n := len(d.Clients) - len(named); n > 0 {
			others = fmt.Sprintf(", and %d more", n)
		}
		return fmt.Sprintf("it is not known that these clients trust CA-%d: %s%s", generation, strings.Join(named, "; "), others)
	case d.Evicted:
		return fmt.Sprintf("it is not known that all clients trust CA-%d: there were more than the %d that are kept account of", generation, ledger.MaxClients)
	}
	return fmt.Sprintf("it is not known that any client trusts CA-%d: none was seen in the last 30 days", generation)
}

// describe names a client in doubt, and why.
func describe(c ledger.Status, proofs []string) string {
	var b strings.Builder
	b.WriteString(c.Address.String())
	for _, f := range []struct{ name, value string }{{"name", c.Name}, {"library", c.Library}, {"user", c.User}} {
		if f.value != "" {
			fmt.Fprintf(&b, " %s=%q", f.name, f.value)
		}
	}
	if c.Readiness == ledger.Failed {
		fmt.Fprintf(&b, " (%s on %s)", c.How, c.At.UTC().Format(time.RFC3339))
	}
	if len(c.Missing) > 0 {
		name := pki.NextCrossName
		if c.Missing[0] == proofs[0] {
			name = pki.NextName
		}
		fmt.Fprintf(&b, " (not yet as %s)", name)
	}
	return b.String()
}

// dependents are the clients seen lately that have not shown that they trust any CA that remains without a generation, or
// with 0 all of them.
func (m *Manager) dependents(ctx context.Context, name Name, generation int) ([]ledger.Client, error) {
	known, err := m.gather(ctx, name)
	if err != nil {
		return nil, err
	}
	i, err := m.Get(name)
	if err != nil {
		return nil, err
	}
	var affected []ledger.Client
	since := m.Now().Add(-clientsCount)
clients:
	for _, c := range known.Clients {
		if c.Last.Before(since) || c.User == "" {
			continue
		}
		for _, ca := range i.ServerCAs {
			if generation != 0 && ca.Generation != generation && c.Anchors[ca.Fingerprint()].Trusted() {
				continue clients
			}
		}
		affected = append(affected, c)
	}
	return affected, nil
}

// gather returns what is stored of an instance's clients with what the gateway knows now, as far as that answers.
func (m *Manager) gather(ctx context.Context, name Name) (ledger.Ledger, error) {
	i, err := m.Get(name)
	if err != nil {
		return ledger.Ledger{}, err
	}
	if err := i.encrypted(); err != nil {
		return ledger.Ledger{}, err
	}
	_, known, _, err := m.ledgerOf(ctx, i, m.Now())
	return known, err
}

// ledgerOf returns what is stored, with its version, and what is known at the time now.
func (m *Manager) ledgerOf(ctx context.Context, i Instance, now time.Time) (stored, known ledger.Ledger, version uint64, err error) {
	if stored, version, err = m.storedLedger(i); err != nil {
		return stored, known, 0, err
	}
	var fresh ledger.Ledger
	if l, ok := m.Runtime.(Ledgerer); ok {
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		if fresh, err = l.Ledger(ctx, i.nodeID(0)); err != nil {
			fresh = ledger.Ledger{} // it is down, or older: what is stored counts
		}
	}
	labels := labelsOf(i.Certificates.At(now))
	keep := func(label string) bool { _, ok := labels[label]; return ok }
	return stored, ledger.Merge(stored, fresh, now.Add(-keepClients), keep), version, nil
}

func (m *Manager) storedLedger(i Instance) (stored ledger.Ledger, version uint64, err error) {
	r, err := m.Store.Get(ledgerPrefix + i.UID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return stored, 0, nil
	case err != nil:
		return stored, 0, stateError("read", err)
	}
	if err := json.Unmarshal(r.Value, &stored); err != nil {
		return stored, 0, fmt.Errorf("record %s: %w", r.Key, err)
	}
	return stored, r.Version, nil
}

// collect keeps the ledgers.
func (m *Manager) collect() {
	m.mu.Lock()
	ctx := m.ctx
	m.mu.Unlock()
	if ctx == nil {
		return
	}
	tick := time.NewTicker(collectInterval)
	defer tick.Stop()
	failing := make(map[Name]string)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		live, err := m.live()
		if err != nil {
			m.Log.Error("collect what clients have shown", "err", err)
			continue
		}
		for _, i := range live {
			if i.Certificates == nil || i.Certificates.Leaf == nil {
				continue
			}
			text := ""
			if err := m.collectFrom(ctx, m.view(i)); err != nil && ctx.Err() == nil {
				text = err.Error()
			}
			if text != "" && failing[i.Name] != text {
				m.Log.Error("collect what clients have shown", "instance", i.Name, "err", text)
			}
			failing[i.Name] = text
		}
	}
}

// collectFrom keeps what an instance's clients have shown, and notes on the instance whether they are ready for the next CA.
func (m *Manager) collectFrom(ctx context.Context, i Instance) error {
	now := m.Now()
	stored, known, version, err := m.ledgerOf(ctx, i, now)
	if err != nil {
		return err
	}
	if ledger.Outdated(stored, known, ledgerLag) {
		value, err := json.Marshal(known)
		if err != nil {
			return err
		}
		// A conflict means that another server was faster; the next tick merges.
		if _, err := m.Store.Put(ledgerPrefix+i.UID, value, version); err != nil && !errors.Is(err, store.ErrConflict) {
			return stateError("write", err)
		}
	}
	return m.noteReadiness(i, known, now)
}

// noteReadiness notes when clients became ready for the CA that is to sign next, or that they aren't any more.
func (m *Manager) noteReadiness(i Instance, known ledger.Ledger, now time.Time) error {
	change := func(s pki.State) (pki.State, bool) {
		view := s.At(now)
		ca, ok := view.NextSigner()
		if !ok {
			return s, false
		}
		ready := doubts(view, ca.Generation, known, now) == ""
		switch {
		case ready == !ca.Ready.IsZero():
			return s, false
		case ready:
			return s.WithReady(ca.Generation, now), true
		}
		return s.WithReady(ca.Generation, time.Time{}), true
	}
	if _, changed := change(*i.Certificates); !changed {
		return nil
	}
	err := m.mutate(i.Name, func(i *Instance) error {
		if err := i.idle(); err != nil {
			return err
		}
		if i.Certificates == nil {
			return nil
		}
		next, _ := change(*i.Certificates)
		i.Certificates = &next
		return nil
	})
	if c := codeOf(err); c == FailedPrecondition || c == NotFound {
		return nil // an operation is under way: the next tick notes it
	}
	return err
}

// forgetLedger deletes what was kept of a deleted instance's clients. When that fails the sweep does it.
func (m *Manager) forgetLedger(uid string) {
	if r, err := m.Store.Get(ledgerPrefix + uid); err == nil {
		_ = m.Store.Delete(r.Key, r.Version)
	}
}

// sweepLedgers deletes the ledgers of instances that are gone.
func (m *Manager) sweepLedgers(all []Instance) {
	records, err := m.Store.List(ledgerPrefix)
	if err != nil {
		m.Log.Error("sweep ledgers", "err", err)
		return
	}
	alive := make(map[string]bool)
	for _, i := range all {
		alive[ledgerPrefix+i.UID] = !i.Deleted
	}
	for _, r := range records {
		if !alive[r.Key] {
			_ = m.Store.Delete(r.Key, r.Version)
		}
	}
}

// addTestChains completes a snapshot with what the gateway presents to clients that are to be tested, if there is anything.
func addTestChains(s *gateway.Snapshot, view pki.View, masterKey pki.MasterKey, sampling *Sampling) error {
	chain, key, err := view.NextChain(masterKey)
	if err != nil || len(chain) == 0 {
		return err
	}
	s.Next = &gateway.NextChain{Name: pki.NextName, Certificate: chain, PrivateKey: key, Anchors: []string{view.NextAnchor()}}
	if sampling != nil {
		s.Next.Sampling = &gateway.Sampling{Percent: sampling.Percent, PerHour: sampling.PerHour}
	}
	if chain, key, err = view.NextCrossChain(masterKey); err != nil || len(chain) == 0 {
		return err
	}
	s.NextCross = &gateway.NextChain{Name: pki.NextCrossName, Certificate: chain, PrivateKey: key, Anchors: []string{view.NextCrossLabel()}}
	return nil
}

// SetSampling presents the CA that is to sign next, by itself or with its cross-certificate as chance has it, to some of the clients
// that did not ask for it: to a share of the full handshakes, at most so many an hour. A client that does not verify it sees an
// error, once. It ends when that CA signs. A percentage of 0 ends it now. It returns as RotateCA does.
func (m *Manager) SetSampling(ctx context.Context, name Name, percent float64, perHour int) error {
	switch {
	case !(percent >= 0 && percent <= 100): // NaN is neither
		return invalid("percent", "%v: want more than 0 and at most 100, or 0 to end it", percent)
	case percent > 0 && (perHour < 1 || perHour > gateway.MaxSamplesPerHour):
		return invalid("per_hour", "%d: want 1 to %d", perHour, gateway.MaxSamplesPerHour)
	}
	var changed *Instance
	err := m.mutate(name, func(i *Instance) error {
		if err := i.idle(); err != nil {
			return err
		}
		if err := i.encrypted(); err != nil {
			return err
		}
		i.Sampling, changed = nil, i
		if percent == 0 {
			return nil
		}
		ca, ok := i.Certificates.At(m.Now()).NextSigner()
		if !ok {
			return precondition("there is no CA that waits to sign, so there is nothing to sample: start the next generation first")
		}
		i.Sampling = &Sampling{Generation: ca.Generation, Percent: percent, PerHour: perHour}
		return nil
	})
	if err != nil {
		return err
	}
	if err := m.served(ctx, changed); err != nil {
		return err
	}
	m.Log.Info("sampling changed", "instance", name, "percent", percent, "per_hour", perHour)
	return nil
}

// activeSampling is the sampling that is done; nil: none. The view is of the instance's certificates.
func (i *Instance) activeSampling(view pki.View) *Sampling {
	if i.Sampling == nil {
		return nil
	}
	ca, ok := view.NextSigner()
	if !ok || ca.Generation != i.Sampling.Generation || ca.Fingerprint() != view.NextAnchor() {
		return nil
	}
	return i.Sampling
}

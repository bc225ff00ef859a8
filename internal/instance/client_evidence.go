package instance

import (
	"context"
	"log/slog"
	"time"

	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
)

// Gateways gather, in memory, what clients have shown of the CAs that they trust. It is kept here (client_records.go).

const (
	ledgerPrefix = "ledgers/"

	// ledgerLag is how far times may be behind in the record where they have only moved on.
	ledgerLag = time.Hour
	// clientsCount is for how long all others wait for a client, that is not seen any more, to be ready.
	clientsCount = 30 * 24 * time.Hour
)

// Clients are an instance's clients, and where each stands with the next CA.
type Clients struct {
	Generation int // the CA that is asked about, which is the newest published one
	Clients    []ledger.Status
	Labels     map[string]Label
	Evicted    time.Time // when clients were last dropped for want of room; zero: never
	Doubt      string    // why it can't be said that all clients trust that CA; "": they do
}

// ClientEvidence is what the clients of all instances have shown of the CAs that they trust.
type ClientEvidence struct {
	records *records
	kept    clientRecords[ledger.Ledger]
	reader  *reader
	runtime Runtime
	now     func() time.Time
	log     *slog.Logger
}

// Label is what a client can have verified: a CA, or the CA's cross-certificate beside a server certificate by it.
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

// List shows what is known of an instance's clients.
func (e *ClientEvidence) List(ctx context.Context, name Name) (Clients, error) {
	now := e.now()
	i, known, err := e.known(ctx, name, now)
	if err != nil {
		return Clients{}, err
	}
	view := i.Certificates.At(now)
	published := view.Published()
	if len(published) == 0 {
		return Clients{}, nil
	}
	out := Clients{Labels: labelsOf(view), Evicted: known.LastEvicted}
	out.Generation = published[len(published)-1].Generation
	out.Doubt = whyNotReady(view, out.Generation, known, now)
	out.Clients = known.Statuses(view.Proofs(out.Generation), now.Add(-keepClients))
	return out, nil
}

// dependents are the clients seen lately that depend on a generation: they have not shown that they trust any CA that remains without
// it. With 0 all generations are to go, so these are all clients.
func (e *ClientEvidence) dependents(ctx context.Context, name Name, generation int) ([]ledger.Client, error) {
	now := e.now()
	i, known, err := e.known(ctx, name, now)
	if err != nil {
		return nil, err
	}
	var affected []ledger.Client
	since := now.Add(-clientsCount)
clients:
	for _, c := range known.Clients {
		if c.Last.Before(since) || c.User == "" {
			continue
		}
		for _, ca := range i.Certificates.At(now).Published() {
			if generation != 0 && ca.Generation != generation && c.Anchors[ca.Fingerprint()].Trusted() {
				continue clients
			}
		}
		affected = append(affected, c)
	}
	return affected, nil
}

// known returns an instance and what is known of its clients: what is stored, and what the gateway knows now if it answers.
func (e *ClientEvidence) known(ctx context.Context, name Name, now time.Time) (Instance, ledger.Ledger, error) {
	i, err := e.reader.get(name)
	if err != nil {
		return Instance{}, ledger.Ledger{}, err
	}
	if err := i.requireTLS(); err != nil {
		return Instance{}, ledger.Ledger{}, err
	}
	_, known, _, err := e.ledgerOf(ctx, i, now)
	return i, known, err
}

// ledgerOf returns what is stored, with its version, and what is known at the time now.
func (e *ClientEvidence) ledgerOf(ctx context.Context, i Instance, now time.Time) (stored, known ledger.Ledger, version uint64, err error) {
	if stored, version, err = e.kept.get(i); err != nil {
		return stored, known, 0, err
	}
	labels := labelsOf(i.Certificates.At(now))
	keep := func(label string) bool { _, ok := labels[label]; return ok }
	known = ledger.Merge(stored, ledger.Ledger{}, now.Add(-keepClients), keep)
	l, ok := e.runtime.(Ledgerer)
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	for _, id := range i.clientGateways() {
		if !ok {
			break
		}
		// A gateway that is down, or older, says nothing: only what is stored of it counts.
		if fresh, err := l.Ledger(ctx, id); err == nil {
			evicted := known.Evicted + fresh.Evicted
			known = ledger.Merge(known, fresh, now.Add(-keepClients), keep)
			known.Evicted = evicted
		}
	}
	return stored, known, version, nil
}

// collect asks all gateways every minute what their clients have shown, and stores it.
func (e *ClientEvidence) collect(ctx context.Context) {
	collectEvery(ctx, e.records, e.log, "collect what clients have shown", func(ctx context.Context, i Instance) error {
		if i.Certificates == nil || i.Certificates.Leaf == nil {
			return nil
		}
		return e.collectFrom(ctx, e.reader.withObserved(i))
	})
}

// collectFrom stores what an instance's clients have shown, and records on the instance whether they are ready for the next CA.
func (e *ClientEvidence) collectFrom(ctx context.Context, i Instance) error {
	now := e.now()
	stored, known, version, err := e.ledgerOf(ctx, i, now)
	if err != nil {
		return err
	}
	if ledger.Outdated(stored, known, ledgerLag) {
		if err := e.kept.put(i, known, version); err != nil {
			return err
		}
	}
	return e.recordReadiness(i, known, now)
}

// recordReadiness records when clients became ready for the CA that is to sign next, or that they aren't any more.
func (e *ClientEvidence) recordReadiness(i Instance, known ledger.Ledger, now time.Time) error {
	change := func(s pki.State) (pki.State, bool) {
		view := s.At(now)
		ca, ok := view.NextSigner()
		if !ok {
			return s, false
		}
		ready := whyNotReady(view, ca.Generation, known, now) == ""
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
	err := e.records.mutate(i.Name, func(i *Instance) error {
		if err := i.requireNoOperation(); err != nil {
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
		return nil // an operation is under way: the next tick records it
	}
	return err
}

package instance

import (
	"context"
	"log/slog"
	"time"

	"github.com/sealane/sealane/internal/plaintext"
)

const (
	plaintextPrefix = "plaintext/"
	// plaintextLag is how far times may be behind in the record where they have only moved on. Whoever closes plaintext counts on them,
	// so it is less than for the clients with TLS.
	plaintextLag = 10 * time.Minute
)

// plaintextClients are the clients without TLS of all instances.
type plaintextClients struct {
	records *records
	kept    clientRecords[plaintext.Account]
	runtime Runtime
	now     func() time.Time
	log     *slog.Logger
}

// accountOf returns what is kept of an instance, with its version, and what is known now.
func (p *plaintextClients) accountOf(ctx context.Context, i Instance) (kept, known plaintext.Account, version uint64, err error) {
	if kept, version, err = p.kept.get(i); err != nil {
		return kept, known, 0, err
	}
	var fresh plaintext.Account
	r, ok := p.runtime.(PlaintextReader)
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	for n, id := range i.clientGateways() {
		if !ok || i.PlaintextPort() == 0 || n > 0 && i.Spec.TransitEncryption { // the read endpoint has one port
			break
		}
		of, err := r.PlaintextClients(ctx, id)
		if err != nil {
			// The gateway is down, or of a version that doesn't count. Nobody can say then that no client is connected.
			known = plaintext.Merge(kept, plaintext.Account{}, p.now().Add(-keepClients))
			known.Since = time.Time{}
			return kept, known, version, nil
		}
		fresh = plaintext.Join(fresh, of)
	}
	return kept, plaintext.Merge(kept, fresh, p.now().Add(-keepClients)), version, nil
}

// collect asks all gateways every minute for their clients without TLS, and keeps what they say.
func (p *plaintextClients) collect(ctx context.Context) {
	collectEvery(ctx, p.records, p.log, "collect the clients without TLS", func(ctx context.Context, i Instance) error {
		if i.PlaintextPort() == 0 || i.State == Creating {
			return nil
		}
		return p.collectFrom(ctx, i)
	})
}

func (p *plaintextClients) collectFrom(ctx context.Context, i Instance) error {
	kept, known, version, err := p.accountOf(ctx, i)
	if err != nil || known.Since.IsZero() || !plaintext.Outdated(kept, known, plaintextLag) {
		return err
	}
	known.Connected = nil
	return p.kept.put(i, known, version)
}

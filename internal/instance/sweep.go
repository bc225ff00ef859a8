package instance

import (
	"context"
	"errors"
	"time"

	"github.com/sealane/sealane/internal/store"
)

const sweepInterval = time.Hour

// sweep forgets tombstones that are old enough, and what was kept of the clients of deleted instances.
func (r *reconciler) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		r.sweepOnce()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *reconciler) sweepOnce() {
	all, err := r.records.listPrefix(recordPrefix)
	if err != nil {
		r.log.Error("sweep old operations", "err", err)
		return
	}
	r.evidence.kept.sweep(all, r.log)
	r.plaintext.kept.sweep(all, r.log)
	for _, i := range all {
		if n := len(i.Operations); !i.Deleted || n > 0 && r.now().Sub(i.Operations[n-1].Ended) < keepTombstones {
			continue
		}
		// A conflict means that the name is in use again.
		if err := r.records.store.Delete(i.Name.String(), i.version); err != nil && !errors.Is(err, store.ErrConflict) {
			r.log.Error("sweep old operations", "instance", i.Name, "err", err)
		}
	}
}

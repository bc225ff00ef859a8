package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sealane/sealane/internal/store"
)

// What gateways gather of their clients is kept in records of their own beside the instance's, because they are written at other times,
// and losing some of it does no harm.

const (
	// collectInterval is how often gateways are asked, and the most often that a record is written.
	collectInterval = time.Minute
	// keepClients is for how long a client is listed that is not seen any more.
	keepClients = 90 * 24 * time.Hour
)

// clientRecords keeps one T for each instance. The zero T is that of an instance that has none yet.
type clientRecords[T any] struct {
	records *records
	prefix  string // of the keys; the instance's UID follows
}

// get returns an instance's, with the version for put.
func (c clientRecords[T]) get(i Instance) (kept T, version uint64, err error) {
	r, err := c.records.store.Get(c.prefix + i.UID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return kept, 0, nil
	case err != nil:
		return kept, 0, stateError("read", err)
	}
	if err := json.Unmarshal(r.Value, &kept); err != nil {
		return kept, 0, fmt.Errorf("record %s: %w", r.Key, err)
	}
	return kept, r.Version, nil
}

// put replaces what has that version. A conflict is no error: it means that another server was faster, and the next tick merges.
func (c clientRecords[T]) put(i Instance, next T, version uint64) error {
	value, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if _, err := c.records.store.Put(c.prefix+i.UID, value, version); err != nil && !errors.Is(err, store.ErrConflict) {
		return stateError("write", err)
	}
	return nil
}

// forget deletes that of a deleted instance. When that fails the sweep does it.
func (c clientRecords[T]) forget(uid string) {
	if r, err := c.records.store.Get(c.prefix + uid); err == nil {
		_ = c.records.store.Delete(r.Key, r.Version)
	}
}

// sweep deletes those of instances that are gone.
func (c clientRecords[T]) sweep(all []Instance, log *slog.Logger) {
	kept, err := c.records.store.List(c.prefix)
	if err != nil {
		log.Error("sweep what is known of clients", "err", err)
		return
	}
	alive := make(map[string]bool)
	for _, i := range all {
		alive[c.prefix+i.UID] = !i.Deleted
	}
	for _, r := range kept {
		if !alive[r.Key] {
			_ = c.records.store.Delete(r.Key, r.Version)
		}
	}
}

// collectEvery calls collect every minute for each instance, and logs an error when it is another than the one before.
func collectEvery(ctx context.Context, records *records, log *slog.Logger, what string, collect func(context.Context, Instance) error) {
	tick := time.NewTicker(collectInterval)
	defer tick.Stop()
	failing := make(map[Name]string)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		live, err := records.live()
		if err != nil {
			log.Error(what, "err", err)
			continue
		}
		for _, i := range live {
			text := ""
			if err := collect(ctx, i); err != nil && ctx.Err() == nil {
				text = err.Error()
			}
			if text != "" && failing[i.Name] != text {
				log.Error(what, "instance", i.Name, "err", text)
			}
			failing[i.Name] = text
		}
	}
}

package instance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

const (
	// maxGrace is for how long an AUTH string may be accepted that was replaced, and maxOldAuth how many at a time.
	maxGrace   = 30 * 24 * time.Hour
	maxOldAuth = 8
)

// switchAuth follows Spec.AuthEnabled. A new AUTH string is never one of before.
func (m *Manager) switchAuth(i *Instance) {
	i.SealedAuth, i.OldAuth = nil, nil
	i.AuthVersion++
	if i.Spec.AuthEnabled {
		i.SealedAuth = m.Key.Seal([]byte(uuid.NewString()), i.authPurpose())
	}
}

// RotateAuth replaces the AUTH string; the one before is accepted for grace longer. It returns when that ends, once the engine
// accepts the new one. After Unavailable the change is recorded, and the server goes on trying. Clients that are logged in
// stay so.
func (m *Manager) RotateAuth(ctx context.Context, name Name, grace time.Duration) (until time.Time, err error) {
	if grace < 0 || grace > maxGrace {
		return time.Time{}, invalid("grace", "%v: want 0s to %v", grace, maxGrace)
	}
	var changed *Instance
	err = m.mutate(name, func(i *Instance) error {
		if err := i.idle(); err != nil {
			return err
		}
		if i.SealedAuth == nil {
			return precondition("AUTH of the instance '%s' is off: enable it first", i.Name).because(AuthDisabled)
		}
		old := i.OldAuth
		if until = (time.Time{}); grace > 0 {
			if len(old) == maxOldAuth {
				return precondition("%d AUTH strings of '%s' are accepted already: wait until %s, or end them all with a grace of 0s", 1+len(old), i.Name,
					old[len(old)-1].Until.Format(time.RFC3339))
			}
			until = m.Now().UTC().Add(grace).Truncate(time.Second)
			old = append([]OldAuth{{i.SealedAuth, until}}, old...)
		} else {
			old = nil
		}
		m.switchAuth(i)
		i.OldAuth = old
		changed = i
		return nil
	})
	if err != nil {
		return time.Time{}, err
	}
	m.Log.Info("AUTH string replaced", "instance", name, "old_until", until)
	return until, m.served(ctx, changed)
}

// dropOldAuth ends the time of AUTH strings that were replaced.
func (m *Manager) dropOldAuth(i *Instance, now time.Time) error {
	before := i.OldAuth
	left := slices.DeleteFunc(slices.Clone(before), func(o OldAuth) bool { return !now.Before(o.Until) })
	if len(left) == len(before) {
		return nil
	}
	i.OldAuth = left
	if err := m.save(i); err != nil {
		i.OldAuth = before
		return err
	}
	m.Log.Info("an AUTH string of before is no longer accepted", "instance", i.Name)
	return nil
}

// oldAuthDue is when the next of them ends; zero: there is none.
func (i *Instance) oldAuthDue() (due time.Time) {
	for _, o := range i.OldAuth {
		if due.IsZero() || o.Until.Before(due) {
			due = o.Until
		}
	}
	return due
}

// passwordHashes are those of the AUTH strings that are accepted now.
func (m *Manager) passwordHashes(i Instance) (hashes []string, err error) {
	if i.SealedAuth == nil {
		return nil, nil
	}
	all := [][]byte{i.SealedAuth}
	for _, o := range i.OldAuth {
		all = append(all, o.Sealed)
	}
	for _, sealed := range all {
		auth, err := m.Key.Open(sealed, i.authPurpose())
		if err != nil {
			return nil, fmt.Errorf("auth string of %s: %w", i.Name, err)
		}
		sum := sha256.Sum256(auth)
		hashes = append(hashes, hex.EncodeToString(sum[:]))
	}
	return hashes, nil
}

package instance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// maxGrace is for how long two AUTH strings may be accepted.
const maxGrace = 30 * 24 * time.Hour

// switchAuth follows Spec.AuthEnabled. A new AUTH string is never one of before.
func (m *Manager) switchAuth(i *Instance) {
	i.SealedAuth, i.SealedOldAuth, i.OldAuthUntil = nil, nil, time.Time{}
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
			return precondition("AUTH of the instance '%s' is off: enable it first", i.Name)
		}
		old := i.SealedAuth
		m.switchAuth(i)
		until = time.Time{}
		if grace > 0 {
			until = m.Now().UTC().Add(grace).Truncate(time.Second)
			i.SealedOldAuth, i.OldAuthUntil = old, until
		}
		changed = i
		return nil
	})
	if err != nil {
		return time.Time{}, err
	}
	m.Log.Info("AUTH string replaced", "instance", name, "old_until", until)
	return until, m.served(ctx, changed)
}

// dropOldAuth ends the time of an AUTH string that was replaced.
func (m *Manager) dropOldAuth(i *Instance) error {
	if i.OldAuthUntil.IsZero() || m.Now().Before(i.OldAuthUntil) {
		return nil
	}
	sealed, until := i.SealedOldAuth, i.OldAuthUntil
	i.SealedOldAuth, i.OldAuthUntil = nil, time.Time{}
	if err := m.save(i); err != nil {
		i.SealedOldAuth, i.OldAuthUntil = sealed, until
		return err
	}
	m.Log.Info("AUTH string of before is no longer accepted", "instance", i.Name)
	return nil
}

// passwordHashes are those of the AUTH strings that are accepted now.
func (m *Manager) passwordHashes(i Instance) (hashes []string, err error) {
	for _, sealed := range [][]byte{i.SealedAuth, i.SealedOldAuth} {
		if sealed == nil {
			continue
		}
		auth, err := m.Key.Open(sealed, i.authPurpose())
		if err != nil {
			return nil, fmt.Errorf("auth string of %s: %w", i.Name, err)
		}
		sum := sha256.Sum256(auth)
		hashes = append(hashes, hex.EncodeToString(sum[:]))
	}
	return hashes, nil
}

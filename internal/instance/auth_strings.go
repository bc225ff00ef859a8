package instance

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// An AUTH string that is replaced stays good beside the new one for a time, the grace: so the two overlap, and clients can be
// given the new one one after another.

const (
	// maxGrace is for how long an AUTH string may be accepted after it was replaced, maxOldAuth how many such there may be.
	maxGrace   = 30 * 24 * time.Hour
	maxOldAuth = 8
)

// AuthStrings are the passwords of the instances that have AUTH.
type AuthStrings struct {
	records *records
	reader  *reader
	workers *workers
	secrets secrets
	now     func() time.Time
	log     *slog.Logger
}

// Get returns the AUTH string, "" when AUTH is off.
func (a *AuthStrings) Get(name Name) (string, error) {
	i, err := a.reader.get(name)
	if err != nil || i.SealedAuth == nil {
		return "", err
	}
	return a.secrets.authString(i, i.SealedAuth)
}

// follow gives an instance an AUTH string, or takes it away, as Spec.AuthEnabled says. The AUTH string is always a new one.
func (a *AuthStrings) follow(i *Instance) {
	i.SealedAuth, i.OldAuth = nil, nil
	i.AuthVersion++
	if i.Spec.AuthEnabled {
		i.SealedAuth = a.secrets.newAuthString(i)
	}
}

// Rotate replaces the AUTH string. The old one is accepted for grace longer, and until is when that ends. Rotate returns once the
// engine accepts the new one. After Unavailable the change is recorded, and the server goes on trying. Clients that are logged in
// stay logged in.
func (a *AuthStrings) Rotate(ctx context.Context, name Name, grace time.Duration) (until time.Time, err error) {
	if grace < 0 || grace > maxGrace {
		return time.Time{}, invalid("grace", "%v: want 0s to %v", grace, maxGrace)
	}
	var changed *Instance
	err = a.records.mutate(name, func(i *Instance) error {
		if err := i.requireNoOperation(); err != nil {
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
			until = a.now().UTC().Add(grace).Truncate(time.Second)
			old = append([]OldAuth{{i.SealedAuth, until}}, old...)
		} else {
			old = nil
		}
		a.follow(i)
		i.OldAuth = old
		changed = i
		return nil
	})
	if err != nil {
		return time.Time{}, err
	}
	a.log.Info("AUTH string replaced", "instance", name, "old_until", until)
	return until, a.workers.waitApplied(ctx, changed)
}

// dropExpired forgets the replaced AUTH strings whose grace is over.
func (a *AuthStrings) dropExpired(i *Instance, now time.Time) error {
	before := i.OldAuth
	left := slices.DeleteFunc(slices.Clone(before), func(o OldAuth) bool { return !now.Before(o.Until) })
	if len(left) == len(before) {
		return nil
	}
	i.OldAuth = left
	if err := a.records.save(i); err != nil {
		i.OldAuth = before
		return err
	}
	a.log.Info("an AUTH string of before is no longer accepted", "instance", i.Name)
	return nil
}

// oldAuthDue is when the grace of the next replaced AUTH string is over; zero: there is none.
func (i *Instance) oldAuthDue() (due time.Time) {
	for _, o := range i.OldAuth {
		if due.IsZero() || o.Until.Before(due) {
			due = o.Until
		}
	}
	return due
}

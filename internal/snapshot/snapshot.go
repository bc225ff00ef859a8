// Package snapshot says when snapshots of an instance's data are due, and keeps what has become of them.
//
// It is pure: time comes in as a parameter, and nothing is read or written. A time to come never counts as one that has been: the clock
// was wrong, then or now. So a clock that jumps costs a snapshot that was not needed, at worst.
package snapshot

import (
	"fmt"
	"slices"
	"time"
)

const (
	// keep is how many snapshots a History tells of.
	keep = 24
	// retryAfter is how long after a snapshot has failed the next attempt is made, or less where the period is short.
	retryAfter = 5 * time.Minute
	// latePart is the part of the period by which Fallback comes later than the schedule.
	latePart = 12
)

// Schedule is when snapshots are due: at Start, and each Period after that.
type Schedule struct {
	Start  time.Time
	Period time.Duration
}

// Around returns the last time in the schedule that has come, and the next one. The last one is zero before the first.
func (s Schedule) Around(now time.Time) (last, next time.Time) {
	if now.Before(s.Start) {
		return time.Time{}, s.Start
	}
	last = s.Start.Add(now.Sub(s.Start) / s.Period * s.Period)
	return last, last.Add(s.Period)
}

// Fallback is for how long there must have been no snapshot before the engine makes one by itself: a little longer than between two of the
// schedule, so that it makes none while there is somebody to follow the schedule.
func (s Schedule) Fallback() time.Duration { return s.Period + s.Period/latePart }

// Plan is what a Schedule asks for at a time.
type Plan struct {
	// Begin says that a snapshot is to be begun now, for the time Due in the schedule. One that was missed is made up for once.
	Begin bool
	Due   time.Time
	// Next is when to ask again: the next time in the schedule, or of another attempt.
	Next time.Time
}

// Plan says what is to be done. good is when the last good snapshot was finished, whoever has made it; zero: there is none.
func (s Schedule) Plan(now, good time.Time, h History) Plan {
	due, next := s.Around(now)
	isMade := func(t time.Time) bool { return !t.Before(due) && !t.After(now) }
	// The time of a file comes from another clock than now, where files lie on a network.
	if last, _ := h.LastGood(); due.IsZero() || isMade(good) || !good.IsZero() && isMade(last.Due) {
		return Plan{Next: next}
	}
	if latest, ok := h.Latest(); ok && latest.Failure != "" && !latest.Finished.After(now) {
		if retry := latest.Finished.Add(min(retryAfter, s.Period/latePart)); now.Before(retry) {
			return Plan{Next: earlier(retry, next)}
		}
	}
	return Plan{Begin: true, Due: due, Next: next}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Run is a snapshot that was made, or failed.
type Run struct {
	Due      time.Time `json:",omitzero"` // in the schedule; zero: it was not made by the schedule, but by the engine at a stop or by itself
	Started  time.Time
	Finished time.Time
	Size     int64  `json:",omitempty"` // in bytes
	Failure  string `json:",omitempty"` // why it has failed, in the engine's words; "": it is good
}

// Took is how long it took.
func (r Run) Took() time.Duration { return max(0, r.Finished.Sub(r.Started)) }

// History are the last snapshots, oldest first.
type History []Run

// Latest is the last one, whatever has become of it.
func (h History) Latest() (Run, bool) {
	if len(h) == 0 {
		return Run{}, false
	}
	return h[len(h)-1], true
}

// LastGood is the one that is restored when the engine starts.
func (h History) LastGood() (Run, bool) {
	for _, r := range slices.Backward(h) {
		if r.Failure == "" {
			return r, true
		}
	}
	return Run{}, false
}

// With returns the history with one more. It holds a bounded number, and the last good one in any case.
func (h History) With(r Run) History {
	all := append(slices.Clone(h), r)
	good, _ := all.LastGood()
	for at := 0; len(all) > keep; {
		if all[at] == good {
			at++
		}
		all = slices.Delete(all, at, at+1)
	}
	return all
}

// Damaged returns the history after the snapshot that was finished at a time had to be restored, because those after it are damaged. It is
// nil where that changes nothing.
func (h History) Damaged(restored time.Time) (changed History) {
	for i, r := range h {
		if r.Failure == "" && r.Finished.After(restored) {
			if changed == nil {
				changed = slices.Clone(h)
			}
			changed[i].Failure = "it was damaged on the disk when it was to be restored"
		}
	}
	return changed
}

// Problem says what is wrong, in words for the user; "": nothing.
func (h History) Problem() string {
	failed, ok := h.Latest()
	if !ok || failed.Failure == "" {
		return ""
	}
	have := "there is no good one"
	if good, ok := h.LastGood(); ok {
		have = "the last good one is of " + good.Finished.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("the snapshot of %s failed: %s; %s; writes go on, and another attempt is made every few minutes",
		failed.Started.UTC().Format(time.RFC3339), failed.Failure, have)
}

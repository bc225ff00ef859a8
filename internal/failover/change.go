package failover

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Nodes are the nodes of one instance, for a change of its primary.
type Nodes interface {
	// Observe looks at an engine, and returns soon whatever that does.
	Observe(ctx context.Context, k int) Observation
	// Kill ends an engine for good; nothing of it is saved.
	Kill(ctx context.Context, k int) error
	// CutReplicas ends replication from an engine.
	CutReplicas(ctx context.Context, k int) error
	// Promote makes a replica take writes.
	Promote(ctx context.Context, k int) error
	// Follow makes an engine a replica of another one.
	Follow(ctx context.Context, k, primary int) error
	// RefuseWrites makes an engine refuse all writes, or take them again.
	RefuseWrites(ctx context.Context, k int, refuse bool) error
	// Hold keeps the clients' requests back, for so long at most, and returns when nothing of them is under way. Its error is ErrBusy
	// where something was for too long.
	Hold(ctx context.Context, limit time.Duration) error
	// Release lets the clients go on.
	Release(ctx context.Context) error
	// Serve makes the clients go on with an engine. After an error it is known not to be so.
	Serve(ctx context.Context, k int) error
}

// ErrBusy says that a request of a client was under way for too long.
var ErrBusy = errors.New("clients' requests are under way")

const (
	// killTime and cutTime are for how long a failover waits for a process to end, and for a gateway that may be ill too. Neither is
	// needed: a client reaches an engine only through the endpoint's gateway, which leaves it.
	killTime = 500 * time.Millisecond
	cutTime  = 300 * time.Millisecond
	// drainTime is for how long replicas get what the primary had still sent.
	drainTime = 300 * time.Millisecond
	drainPoll = 5 * time.Millisecond

	settleTime  = time.Second // for what is under way when clients are to be held
	holdLimit   = 5 * time.Second
	catchUpPoll = time.Millisecond
	afterTime   = 2 * time.Second // to put things back
)

// Unplanned replaces a primary that has failed. replicas are the numbers of the other nodes. histories are that of the primary's data and,
// until its replicas have followed it, that of before it was promoted: else nobody could take over from a primary that fails right then. It
// returns the new primary. After an error the clients are still with the one that failed.
func Unplanned(ctx context.Context, n Nodes, primary int, replicas []int, histories ...string) (int, error) {
	if _, err := candidateOf(histories, observeAll(ctx, n, replicas)); err != nil {
		return 0, err // there is no use in killing it
	}
	limited(ctx, killTime, func(ctx context.Context) error { return n.Kill(ctx, primary) })
	limited(ctx, cutTime, func(ctx context.Context) error { return n.CutReplicas(ctx, primary) })
	to, err := candidateOf(histories, drain(ctx, n, replicas))
	if err != nil {
		return 0, err
	}
	if err := n.Promote(ctx, to); err != nil {
		return 0, fmt.Errorf("promote node-%d: %w", to, err)
	}
	if err := n.Serve(ctx, to); err != nil {
		return 0, fmt.Errorf("let the gateway serve node-%d: %w", to, err)
	}
	return to, nil
}

func limited(ctx context.Context, d time.Duration, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	_ = f(ctx)
}

func observeAll(ctx context.Context, n Nodes, replicas []int) map[int]Observation {
	type seen struct {
		k int
		o Observation
	}
	all := make(chan seen, len(replicas))
	for _, k := range replicas {
		go func() { all <- seen{k, n.Observe(ctx, k)} }()
	}
	nodes := make(map[int]Observation)
	for range replicas {
		s := <-all
		nodes[s.k] = s.o
	}
	return nodes
}

// drain waits until the replicas have what was on its way to them, which they show by their links having ended.
func drain(ctx context.Context, n Nodes, replicas []int) map[int]Observation {
	end := time.Now().Add(drainTime)
	for {
		nodes := observeAll(ctx, n, replicas)
		linked := false
		for _, o := range nodes {
			linked = linked || o.Answers() && o.Linked
		}
		if !linked || time.Now().After(end) || !pause(ctx, drainPoll) {
			return nodes
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// Planned makes a replica the primary in place of one that is well, without a lost write. It returns for how long clients were held. Its
// error is ErrBusy where a request was under way for too long: it may be tried again. After an error the present primary serves.
func Planned(ctx context.Context, n Nodes, primary, to int) (held time.Duration, err error) {
	// A primary begins to send what was written during a full synchronisation up to a second after that. Clients are not to wait for it.
	before, cancel := context.WithTimeout(ctx, holdLimit)
	defer cancel()
	if err := catchUp(before, n, primary, to); err != nil {
		return 0, err
	}
	ctx, cancel = context.WithTimeout(ctx, holdLimit)
	defer cancel()
	began := time.Now()
	promoted := false
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterTime)
		defer cancel()
		if err != nil {
			if promoted {
				err = errors.Join(err, n.Follow(after, to, primary))
			}
			err = errors.Join(err, n.RefuseWrites(after, primary, false))
			_ = n.Release(after) // a hold ends by itself
		}
		held = time.Since(began)
	}()
	if err := n.Hold(ctx, settleTime); err != nil {
		return 0, err
	}
	// Should the hold end too early, clients get errors, and not answers for what is then lost.
	if err := n.RefuseWrites(ctx, primary, true); err != nil {
		return 0, fmt.Errorf("let node-%d refuse writes: %w", primary, err)
	}
	if err := n.Hold(ctx, holdLimit); err != nil {
		return 0, err
	}
	if err := catchUp(ctx, n, primary, to); err != nil {
		return 0, err
	}
	promoted = true
	if err := n.Promote(ctx, to); err != nil {
		return 0, fmt.Errorf("promote node-%d: %w", to, err)
	}
	if err := n.Serve(ctx, to); err != nil {
		return 0, fmt.Errorf("let the gateway serve node-%d: %w", to, err)
	}
	return 0, nil
}

// catchUp waits until a replica has all that its primary has answered.
func catchUp(ctx context.Context, n Nodes, primary, to int) error {
	from := n.Observe(ctx, primary)
	if !from.Answers() {
		return fmt.Errorf("node-%d, the primary, does not answer", primary)
	}
	for {
		o := n.Observe(ctx, to)
		switch {
		case o.Answers() && o.Linked && o.Offset >= from.Offset:
			return nil
		case o.Answers() && !o.Linked:
			return fmt.Errorf("node-%d lost its link to the primary", to)
		}
		if !pause(ctx, catchUpPoll) {
			return fmt.Errorf("node-%d did not get all that the primary had in time: it is %d bytes behind", to, from.Offset-o.Offset)
		}
	}
}

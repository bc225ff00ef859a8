package local_test

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/local"
)

// unfollowed is a Runtime whose replicas do not come to follow the primary.
type unfollowed struct {
	*local.Runtime
	on atomic.Bool
}

func (u *unfollowed) EnsureEngine(ctx context.Context, node instance.Node, progress func(string)) error {
	if u.on.Load() && node.Replication.Primary.IsValid() {
		return errors.New("the test keeps it from following")
	}
	return u.Runtime.EnsureEngine(ctx, node, progress)
}

// A primary that dies right after a failover, before anybody follows it, is not started again empty: the node that has the data of before
// takes over.
func TestPrimaryDiesBeforeAnybodyFollowsIt(t *testing.T) {
	t.Parallel()
	u := &unfollowed{}
	s := newStandardOn(t, nil, func(r *local.Runtime) instance.Runtime { u.Runtime = r; return u })
	s.setKeys(s.client(), 50)
	u.on.Store(true)
	if _, err := s.manager.Failover(t.Context(), s.name, false, "v1"); err != nil {
		t.Fatal(err)
	}
	s.await("node-1 is the primary", func(i instance.Instance) bool { return i.Replication.Primary == 1 })
	if err := s.primary().Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.await("node-0 is the primary again", func(i instance.Instance) bool { return i.Replication.Primary == 0 })
	u.on.Store(false)
	s.inSync()
	s.wantKeys(s.client(), 50)
	s.wantOnePrimary()
}

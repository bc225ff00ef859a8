package engine_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/resp"
)

// A planned failover: the old primary and the other replica follow the new one, and neither takes all data anew.
func TestPlannedFailoverNeedsNoFullSynchronisation(t *testing.T) {
	t.Parallel()
	eachWithTLS(t, plannedFailover)
}

func plannedFailover(t *testing.T, b engine.Binary) {
	g := newGroup(t, b)
	old := g.add(netip.AddrPort{})
	first, second := g.add(old.link.addr), g.add(old.link.addr)
	first.awaitSame(t, old)
	second.awaitSame(t, old)
	c := connect(t, old.cfg.Dir)
	c.want("OK", "SET", "k", "v", "PX", "200")

	if err := old.RefuseWrites(deadline(t), true); err != nil {
		t.Fatal(err)
	}
	if err := old.FreezeOffset(deadline(t), true); err != nil {
		t.Fatal(err)
	}
	first.awaitSame(t, old)
	second.awaitSame(t, old)
	was := old.state(t)
	for end := time.Now().Add(20 * time.Second); c.do("GET", "k").Str != ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the key does not expire")
		}
	}
	if got := c.do("CONFIG", "GET", "repl-ping-replica-period"); got.Elems[1].Str != "3600" {
		t.Errorf("the PING of every second goes on: %+v", got)
	}
	if now := old.state(t); now.Offset != was.Offset {
		t.Errorf("the offset is frozen, and moved from %d to %d", was.Offset, now.Offset)
	}
	if err := first.Promote(deadline(t)); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*member{old, second} {
		if err := m.FollowTLS(deadline(t), first.link.addr); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.FreezeOffset(deadline(t), false); err != nil {
		t.Fatal(err)
	}
	if err := old.RefuseWrites(deadline(t), false); err != nil {
		t.Fatal(err)
	}
	connect(t, first.cfg.Dir).want("OK", "SET", "after", "v")
	for _, m := range []*member{old, second} {
		m.awaitSame(t, first)
		connect(t, m.cfg.Dir).want("v", "GET", "after")
	}
	wantSyncs(t, first, "0", "2")
	now := first.state(t)
	if now.Role != engine.RolePrimary || now.ID == was.ID || now.ID2 != was.ID || now.ID2Offset != was.Offset+1 {
		t.Errorf("the new primary says %+v; the old one had the ID %s and the offset %d", now, was.ID, was.Offset)
	}
	if !now.Continues(was.ID, was.Offset) || now.Continues(was.ID, was.Offset+1) {
		t.Errorf("the new primary has what the old one had: %v, and also what it had not: %v", now.Continues(was.ID, was.Offset), now.Continues(was.ID, was.Offset+1))
	}
	if got := connect(t, old.cfg.Dir).do("SET", "k", "v"); !strings.HasPrefix(got.Str, "READONLY") {
		t.Errorf("a write to the old primary: got %q, want READONLY", got.Str)
	}
}

// The primary is killed and has written what no replica has. The replica takes over; the old primary comes back with its dump or empty, as
// a replica, and has the new primary's data in the end.
func TestPrimaryIsKilled(t *testing.T) { t.Parallel(); eachWithTLS(t, primaryIsKilled) }

func primaryIsKilled(t *testing.T, b engine.Binary) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprint("keep dump ", keep), func(t *testing.T) {
			t.Parallel()
			g := newGroup(t, b)
			g.change = func(cfg *engine.Config) { cfg.KeepDump = keep }
			old := g.add(netip.AddrPort{})
			replica := g.add(old.link.addr)
			replica.awaitSame(t, old)
			connect(t, old.cfg.Dir).want("OK", "SET", "k", "both")
			replica.awaitSame(t, old)
			was := old.state(t)
			if keep {
				snapshot(t, old.Engine)
			}
			kill(t, old)
			unlinked := replica.await(t, "aware of the cut", func(r engine.Replication) bool { return !r.Linked })
			if !unlinked.Follows(was.ID) || unlinked.Offset < was.Offset || unlinked.LastIO >= 0 || unlinked.DownFor < 0 {
				t.Errorf("the replica of a primary that was killed says %+v", unlinked)
			}
			if err := replica.Promote(deadline(t)); err != nil {
				t.Fatal(err)
			}
			connect(t, replica.cfg.Dir).want("OK", "SET", "k", "new")

			g.again(old, replica.link.addr)
			old.awaitSame(t, replica)
			connect(t, old.cfg.Dir).want("new", "GET", "k")
			if keep {
				wantSyncs(t, replica, "0", "1") // its dump has the replication ID and the offset
			} else {
				wantSyncs(t, replica, "1", "0")
			}
		})
	}
}

// A replica that was stopped and saved its data goes on where it was, whether its dump is kept or not.
func TestReplicaRestartsWithItsDump(t *testing.T) { t.Parallel(); eachWithTLS(t, replicaRestarts) }

func replicaRestarts(t *testing.T, b engine.Binary) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprint("keep dump ", keep), func(t *testing.T) {
			t.Parallel()
			g := newGroup(t, b)
			g.change = func(cfg *engine.Config) { cfg.KeepDump = keep }
			primary := g.add(netip.AddrPort{})
			replica := g.add(primary.link.addr)
			connect(t, primary.cfg.Dir).want("OK", "SET", "k", "v")
			replica.awaitSame(t, primary)
			stop(t, replica.Engine, true)
			connect(t, primary.cfg.Dir).want("OK", "SET", "k", "meanwhile")
			g.again(replica, primary.link.addr)
			replica.awaitSame(t, primary)
			connect(t, replica.cfg.Dir).want("meanwhile", "GET", "k")
			wantSyncs(t, primary, "1", "1")
			exists(t, filepath.Join(replica.cfg.Dir, "dump.rdb"), keep)
		})
	}
}

// An engine that has come back as a primary, empty or with an old dump, can be told from one that has the history.
func TestEngineThatLostItsDataIsRecognised(t *testing.T) { t.Parallel(); eachWithTLS(t, lostItsData) }

func lostItsData(t *testing.T, b engine.Binary) {
	g := newGroup(t, b)
	g.change = func(cfg *engine.Config) { cfg.KeepDump = true }
	primary := g.add(netip.AddrPort{})
	replica := g.add(primary.link.addr)
	connect(t, primary.cfg.Dir).want("OK", "SET", "k", "v")
	at := replica.awaitSame(t, primary)
	was := primary.state(t)

	if err := os.Remove(filepath.Join(primary.cfg.Dir, "dump.rdb")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	kill(t, primary)
	primary.cfg.NoReplicas = true
	g.again(primary, netip.AddrPort{})
	if empty := primary.state(t); empty.Follows(was.ID) || empty.Continues(was.ID, at.Offset) {
		t.Errorf("an engine that came back empty is taken for the old one: %+v", empty)
	}
	// The replica tries to follow it again by itself, and is kept from copying an empty data set.
	primary.link.awaitRefusal(t)
	if s := replica.state(t); !s.Follows(was.ID) || s.Offset < at.Offset {
		t.Errorf("the replica says %+v", s)
	}
	connect(t, replica.cfg.Dir).want("v", "GET", "k")

	// Where it is decided that the data are lost, it is let in, and kept away again.
	if err := primary.SetReplication(deadline(t), *primary.cfg.Replication); err != nil {
		t.Fatal(err)
	}
	if err := primary.AllowReplicas(deadline(t), true); err != nil {
		t.Fatal(err)
	}
	replica.awaitSame(t, primary)
	connect(t, replica.cfg.Dir).want("", "GET", "k")
	if err := primary.AllowReplicas(deadline(t), false); err != nil {
		t.Fatal(err)
	}
	replica.await(t, "unlinked", func(r engine.Replication) bool { return !r.Linked })
	if s := primary.state(t); len(s.Replicas) != 0 {
		t.Errorf("replicas that were sent away: %+v", s.Replicas)
	}
}

// While a replica is sent all data, it is a successor with its old data only.
func TestHalfADataSetIsNoSuccessor(t *testing.T) { t.Parallel(); eachWithTLS(t, halfADataSet) }

func halfADataSet(t *testing.T, b engine.Binary) {
	g := newGroup(t, b)
	primary, empty := g.add(netip.AddrPort{}), g.add(netip.AddrPort{})
	fill(t, primary)
	held := primary.link.hold(4 << 20)
	if err := empty.FollowTLS(deadline(t), primary.link.addr); err != nil {
		t.Fatal(err)
	}
	select {
	case <-held:
	case <-time.After(20 * time.Second):
		t.Fatal("no synchronisation")
	}
	// It loads what comes, and what comes breaks off.
	id := primary.state(t).ID
	kill(t, primary)
	primary.link.cut()
	primary.link.goOn()
	left := empty.await(t, "unlinked", func(r engine.Replication) bool { return r.Copied == 0 && !r.Loading })
	if left.Follows(id) || left.Continues(id, 0) || left.Offset >= 0 || !left.Syncing {
		t.Errorf("half the data make it a successor: %+v", left)
	}
	if got := connect(t, empty.cfg.Dir).do("DBSIZE"); got.Kind != resp.Integer || got.Int != 0 {
		t.Errorf("the part that came is still there: %+v", got)
	}
}

func kill(t *testing.T, m *member) {
	t.Helper()
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	waitDone(t, m.Engine)
}

// A replica whose snapshots fail, as on a full disk, goes on to follow. Engines from 7.0 on end themselves there unless they are told not to.
func TestReplicaFollowsWhereItsSnapshotsFail(t *testing.T) {
	t.Parallel()
	eachWithTLS(t, snapshotsFail)
}

func snapshotsFail(t *testing.T, b engine.Binary) {
	g := newGroup(t, b)
	g.change = func(cfg *engine.Config) {
		cfg.Directives = map[string]string{"save": "3600 1", "stop-writes-on-bgsave-error": "yes"}
	}
	primary := g.add(netip.AddrPort{})
	replica := g.add(primary.link.addr)
	replica.awaitSame(t, primary)
	if err := os.RemoveAll(engine.Dump(replica.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(engine.Dump(replica.cfg.Dir), "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if s := snapshot(t, replica.Engine); s.Failure == "" {
		t.Fatalf("the snapshot has not failed: %+v", s)
	}
	connect(t, primary.cfg.Dir).want("OK", "SET", "k", "v")
	replica.awaitSame(t, primary)
	connect(t, replica.cfg.Dir).want("v", "GET", "k")
}

// A replica that connects again to a primary which doesn't answer, as one that is stopped, can be asked and promoted meanwhile.
func TestReplicaAnswersWhileItsPrimaryIsSilent(t *testing.T) {
	t.Parallel()
	eachWithTLS(t, primaryIsSilent)
}

func primaryIsSilent(t *testing.T, b engine.Binary) {
	g := newGroup(t, b)
	primary := g.add(netip.AddrPort{})
	replica := g.add(primary.link.addr)
	replica.awaitSame(t, primary)
	held := primary.link.hold(0)
	primary.link.cut()
	select {
	case <-held:
	case <-time.After(20 * time.Second):
		t.Fatal("the replica does not come back")
	}
	began := time.Now()
	if err := replica.Promote(deadline(t)); err != nil {
		t.Fatal(err)
	}
	connect(t, replica.cfg.Dir).want("OK", "SET", "k", "v")
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the promotion and a write took %v", took)
	}
}

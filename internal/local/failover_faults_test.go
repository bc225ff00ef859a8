package local_test

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/local"
)

// dying is the Runtime of a server that dies in the middle of a failover: after a step, and nothing that it would do then is done.
type dying struct {
	*local.Runtime
	after string

	mu          sync.Mutex
	armed, dead bool
	died        chan struct{}
}

var errDied = errors.New("the server has died")

// step does a step of a failover, unless the server is dead.
func (d *dying) step(name string, do func() error) error {
	d.mu.Lock()
	dead := d.dead
	d.mu.Unlock()
	if dead {
		return errDied
	}
	err := do()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.armed && name == d.after && !d.dead {
		d.dead = true
		close(d.died)
		return errDied
	}
	return err
}

func (d *dying) EnsureEngine(ctx context.Context, node instance.Node, progress func(string)) error {
	return d.step("ensure", func() error { return d.Runtime.EnsureEngine(ctx, node, progress) })
}
func (d *dying) EnsureGateway(ctx context.Context, node instance.Node, progress func(string)) error {
	return d.step("ensure", func() error { return d.Runtime.EnsureGateway(ctx, node, progress) })
}
func (d *dying) OfferGateway(ctx context.Context, node instance.Node) error {
	return d.step("cut", func() error { return d.Runtime.OfferGateway(ctx, node) })
}
func (d *dying) ApplyGateway(ctx context.Context, node instance.Node) error {
	return d.step("serve", func() error { return d.Runtime.ApplyGateway(ctx, node) })
}
func (d *dying) KillEngine(ctx context.Context, node instance.Node) error {
	return d.step("kill", func() error { return d.Runtime.KillEngine(ctx, node) })
}
func (d *dying) PromoteEngine(ctx context.Context, node instance.Node) error {
	return d.step("promote", func() error { return d.Runtime.PromoteEngine(ctx, node) })
}
func (d *dying) FollowEngine(ctx context.Context, node instance.Node, primary netip.AddrPort) error {
	return d.step("follow", func() error { return d.Runtime.FollowEngine(ctx, node, primary) })
}
func (d *dying) RefuseWrites(ctx context.Context, node instance.Node, refuse bool) error {
	return d.step("refuse", func() error { return d.Runtime.RefuseWrites(ctx, node, refuse) })
}
func (d *dying) HoldClients(ctx context.Context, nodeID string, limit time.Duration) error {
	return d.step("hold", func() error { return d.Runtime.HoldClients(ctx, nodeID, limit) })
}
func (d *dying) ReleaseClients(ctx context.Context, nodeID string) error {
	return d.step("release", func() error { return d.Runtime.ReleaseClients(ctx, nodeID) })
}

// A server that dies at any step of a failover leaves one primary at most, and the next one makes the instance whole, with all that was
// acknowledged by the replica.
func TestServerDiesInTheMiddleOfAFailover(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		planned bool
		after   string
	}{
		{false, "kill"}, {false, "cut"}, {false, "promote"}, {false, "serve"},
		{true, "hold"}, {true, "refuse"}, {true, "promote"}, {true, "serve"},
	} {
		t.Run(c.after+" planned="+strconv.FormatBool(c.planned), func(t *testing.T) {
			t.Parallel()
			d := &dying{after: c.after, died: make(chan struct{})}
			s := newStandardOn(t, nil, func(r *local.Runtime) instance.Runtime { d.Runtime = r; return d })
			client := s.client()
			for k := range 50 {
				client.do("SET", "key"+strconv.Itoa(k), strconv.Itoa(k))
			}
			if n := client.do("WAIT", "1", "5000"); n.Int != 1 {
				t.Fatalf("WAIT: %v", n)
			}
			primary := s.primary()
			d.mu.Lock()
			d.armed = true
			d.mu.Unlock()
			if c.planned {
				if _, err := s.manager.Failover(t.Context(), s.name, false, "v1"); err != nil {
					t.Fatal(err)
				}
			} else if err := primary.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			select {
			case <-d.died:
			case <-t.Context().Done():
				t.Fatal("the failover never came so far")
			}
			s.close()
			if c.after == "serve" { // clients are on the new primary while no server runs
				client.do("SET", "meanwhile", "1")
			}
			s.wrap = nil
			s.start()
			s.await("the instance is whole", inSync)
			client = s.client()
			for k := range 50 {
				if v := client.do("GET", "key"+strconv.Itoa(k)); v.Str != strconv.Itoa(k) {
					t.Fatalf("key%d is %q", k, v.Str)
				}
			}
			if v := client.do("GET", "meanwhile"); c.after == "serve" && v.Str != "1" {
				t.Errorf("what was written while no server ran is %q", v.Str)
			}
			client.do("SET", "after", "1")
			if n := client.do("WAIT", "1", "5000"); n.Int != 1 {
				t.Errorf("WAIT afterwards: %v", n)
			}
			s.wantOnePrimary()
		})
	}
}

// A gateway that is slow while the primary fails is waited for: to end it would close all clients.
func TestFailoverLeavesASlowGatewayAlone(t *testing.T) {
	t.Parallel()
	s := newStandard(t, nil)
	c := s.client()
	c.do("SET", "key", "1")
	if n := c.do("WAIT", "1", "5000"); n.Int != 1 {
		t.Fatalf("WAIT: %v", n)
	}
	i := s.get()
	s.gatewayOf(0).send(syscall.SIGSTOP)
	s.engineOf(0).send(syscall.SIGKILL)
	s.await("the replica is promoted", func(instance.Instance) bool {
		info, err := s.runtime.EngineInfo(t.Context(), i.UID+"-1", "replication")
		return err == nil && info["role"] == "master"
	})
	s.gatewayOf(0).send(syscall.SIGCONT)
	c.do("SET", "key", "2")
	if v := c.do("GET", "key"); v.Str != "2" {
		t.Errorf("the key is %q", v.Str)
	}
	s.await("the instance is whole", inSync)
}

// noting is a Runtime that remembers the nodes whose gateways it was to bring up.
type noting struct {
	*local.Runtime
	mu    sync.Mutex
	nodes map[string]instance.Node
}

func (n *noting) EnsureGateway(ctx context.Context, node instance.Node, progress func(string)) error {
	n.mu.Lock()
	n.nodes[node.ID] = node
	n.mu.Unlock()
	return n.Runtime.EnsureGateway(ctx, node, progress)
}

// A snapshot that is only offered to a gateway ends no gateway, whenever the time for it is over.
func TestOfferedSnapshotEndsNoGateway(t *testing.T) {
	t.Parallel()
	n := &noting{nodes: make(map[string]instance.Node)}
	s := newStandardOn(t, nil, func(r *local.Runtime) instance.Runtime { n.Runtime = r; return n })
	before := s.gatewayOf(0).Identity()
	n.mu.Lock()
	node := n.nodes[s.get().UID+"-0"]
	n.mu.Unlock()
	given := 0
	for d := 100 * time.Microsecond; given < 3; d += d / 8 {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		if s.runtime.OfferGateway(ctx, node) == nil {
			given++
		}
		cancel()
	}
	if after := s.gatewayOf(0).Identity(); after != before {
		t.Errorf("the gateway was process %d, and is %d", before.PID, after.PID)
	}
}

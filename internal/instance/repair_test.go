package instance_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/routing"
)

func TestCrashIsRepaired(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		m.made(named("other"))
		release := make(chan struct{})
		m.set(func() {
			m.onEnsure = func(_ context.Context, n instance.Node) error {
				if n.Instance == first {
					<-release
				}
				return nil
			}
		})
		m.crash(first, "engine")
		synctest.Wait()
		i := m.get(first)
		if i.State != instance.Repairing || i.StatusMessage != "the engine ended (signal: killed) and is being restarted" {
			t.Errorf("state %s, %q", i.State, i.StatusMessage)
		}
		if o := m.get(named("other")); o.State != instance.Ready {
			t.Errorf("the other is %s", o.State)
		}
		close(release)
		synctest.Wait() // no time passes
		if i := m.get(first); i.State != instance.Ready || i.StatusMessage != "" || m.node(first).starts != 2 {
			t.Errorf("after the repair: %s, %q, %d starts", i.State, i.StatusMessage, m.node(first).starts)
		}
		if n := m.logged("process ended"); n != 1 {
			t.Errorf("logged %d times", n)
		}
		if got := m.metric(t, "sealane_node_restarts_total"); got != 1 {
			t.Errorf("restarts counted: %v", got)
		}
	})
}

// metric is the sum of a metric's samples.
func (m *machine) metric(t *testing.T, name string) float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	for _, c := range m.server.Metrics() {
		if err := r.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		for _, s := range f.GetMetric() {
			if f.GetName() == name {
				sum += s.GetCounter().GetValue() + s.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// A node that ends again and again is restarted at once a few times, and then less and less often, for as long as it
// goes on; meanwhile the instance is never shown as ready.
func TestCrashLoopSlowsDown(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		var delays []time.Duration
		for range 15 {
			began := time.Now()
			m.crash(first, "engine")
			for range int(instance.LastRetry/time.Second) + 1 {
				synctest.Wait()
				if i := m.get(first); (i.State == instance.Ready) != m.node(first).running {
					t.Fatalf("running is %t and the state %s", m.node(first).running, i.State)
				}
				time.Sleep(time.Second)
			}
			delays = append(delays, m.node(first).started.Sub(began))
		}
		if !slices.IsSorted(delays) || delays[2] != 0 || delays[3] == 0 || delays[14] != instance.LastRetry {
			t.Errorf("delays: %v", delays)
		}
		time.Sleep(5 * time.Minute) // up for long enough
		m.crash(first, "gateway")
		synctest.Wait()
		if m.node(first).starts != 17 {
			t.Error("a crash long after the others is not repaired at once")
		}
	})
}

// The node ends when the step that has just found it well is not quite over.
func TestCrashAtTheEndOfAStepIsNotForgotten(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		for range 4 { // so that the next restart has to wait
			m.crash(first, "engine")
			synctest.Wait() // until the exit has been seen
			m.waitReady(first)
		}
		starts := m.node(first).starts
		m.set(func() {
			m.onEnsured = func(context.Context, instance.Node) {
				m.set(func() { m.onEnsured = nil })
				m.crash(first, "gateway")
				time.Sleep(time.Millisecond) // until the exit has been seen
			}
		})
		for m.node(first).running {
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(10 * time.Millisecond)
		if i := m.get(first); i.State != instance.Repairing || m.node(first).starts != starts {
			t.Errorf("down and %s", i.State)
		}
		m.waitReady(first)
	})
}

// What keeps crashing can be deleted all the same, at once.
func TestCrashLoopingInstanceCanBeDeleted(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		for n := range 15 {
			m.crash(first, "engine")
			synctest.Wait() // until the exit has been seen
			if n < 14 {
				m.waitReady(first)
			}
		}
		synctest.Wait()
		if i := m.get(first); i.State != instance.Repairing {
			t.Fatalf("state %s", i.State)
		}
		if _, err := m.server.Delete(first, "v1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_, err := m.server.Get(first)
		wantError(t, "get", err, instance.NotFound)
	})
}

func TestCertificateIsRenewed(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		before := m.made(first)
		m.jump(180*day - 7*time.Hour) // up to six hours early by jitter
		time.Sleep(2 * instance.CheckInterval)
		if n := m.node(first); n.applied != 1 {
			t.Fatalf("before 180 days: applied %d times", n.applied)
		}
		m.jump(7 * time.Hour)
		time.Sleep(2 * instance.CheckInterval)
		after := m.get(first)
		n := m.node(first)
		if n.applied != 2 || n.starts != 1 {
			t.Errorf("after 180 days: applied %d times, started %d times", n.applied, n.starts)
		}
		if string(after.Certificates.Leaf.Certificate) == string(before.Certificates.Leaf.Certificate) || len(after.Certificates.CAs) != 1 ||
			string(after.Certificates.CAs[0].Certificate) != string(before.Certificates.CAs[0].Certificate) || after.Host != before.Host {
			t.Error("want a new leaf of the same CA at the same address")
		}
		checkVerifies(t, n, after.Host)
		if verbs(after) != "create" {
			t.Errorf("operations: %s", verbs(after))
		}
		if got := m.metric(t, "sealane_certificate_expiry_timestamp_seconds"); got == 0 {
			t.Error("no expiry in the metrics")
		}
	})
}

// In five years CA-2 is published, in ten CA-1 is gone; what is served verifies with what clients are shown, all the while.
func TestCAIsFollowedByTheNext(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		begin := m.made(first).Certificates.CAs[0].Created
		for _, tt := range []struct {
			day       int
			published int
			newest    int
			chain     int
		}{{1824, 1, 1, 1}, {1826, 2, 2, 1}, {2738, 2, 2, 2}, {3621, 2, 2, 1}, {3651, 2, 3, 1}} {
			m.jump(begin.Add(time.Duration(tt.day) * day).Sub(m.now()))
			time.Sleep(2 * instance.CheckInterval)
			i, n := m.get(first), m.node(first)
			if len(i.ServerCAs) != tt.published || i.ServerCAs[tt.published-1].Generation != tt.newest {
				t.Errorf("day %d: %d CAs are shown; want %d, the newest CA-%d", tt.day, len(i.ServerCAs), tt.published, tt.newest)
			}
			if got := bytes.Count(n.Gateway.Certificate, []byte("BEGIN")); got != tt.chain {
				t.Errorf("day %d: the chain has %d certificates; want %d", tt.day, got, tt.chain)
			}
			checkVerifies(t, n, i.Host)
			if n.starts != 1 {
				t.Errorf("day %d: started %d times", tt.day, n.starts)
			}
		}
	})
}

// While the gateway can't be told of a new certificate, the old one goes on; then the new one is applied.
func TestRenewalThatFailsIsTriedAgain(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		m.set(func() {
			m.onEnsure = func(context.Context, instance.Node) error { return errors.New("gateway: does not answer") }
		})
		m.jump(181 * day)
		time.Sleep(time.Hour)
		if i := m.get(first); i.State != instance.Repairing || i.StatusMessage != "gateway: does not answer" || m.node(first).applied != 1 {
			t.Errorf("state %s, %q", i.State, i.StatusMessage)
		}
		if n := m.logged("instance is not as it should be"); n != 1 {
			t.Errorf("logged %d times", n)
		}
		if n := m.logged("action=issue-leaf"); n != 2 {
			t.Errorf("%d leaves were issued; want that of the create and one more", n)
		}
		m.set(func() { m.onEnsure = nil })
		m.waitReady(first)
		if m.node(first).applied != 2 || m.logged("instance is well again") != 1 {
			t.Errorf("applied %d times", m.node(first).applied)
		}
	})
}

func TestGatewayIsInTheMetrics(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		m.set(func() {
			m.status = func() (gateway.Status, error) {
				return gateway.Status{
					Rejected: 5, RejectedBy: map[string]uint64{"limit": 2, "late": 3},
					Completed: []gateway.Completed{{Version: "1.2", Group: "P-256", Count: 7}, {Version: "1.3", Group: "X25519", Resumed: true, Count: 4}},
					Failures:  map[string]uint64{"unknown_ca": 6, "eof": 1},
					Unserved:  gateway.Unserved{Stages: map[string]int64{"silent": 20, "hello": 1}, Limit: 1024, FromSource: 19},
					Admission: gateway.Admission{Admitted: 18, Begun: 2, Waiting: 9, GaveUp: 8},
					Resident:  1 << 20, PerConnection: 1 << 10, TimedOut: 12,
					Commands: map[string]uint64{"shared": 13, "own": 1}, Pins: map[routing.Pin]uint64{routing.PinWatch: 15},
				}, nil
			}
		})
		for name, want := range map[string]float64{
			"sealane_gateway_commands_total": 14, "sealane_gateway_pins_total": 15, "sealane_gateway_timed_out_total": 12,
			"sealane_gateway_unserved_connections": 21, "sealane_gateway_unserved_connections_limit": 1024, "sealane_gateway_unserved_connections_of_one_source": 19,
			"sealane_gateway_rejected_total": 5, "sealane_gateway_handshakes_completed_total": 11, "sealane_gateway_handshake_failures_total": 7,
			"sealane_gateway_handshakes_admitted_total": 18, "sealane_gateway_handshakes_under_way": 2, "sealane_gateway_handshakes_waiting": 9,
			"sealane_gateway_handshakes_abandoned_total": 8, "sealane_gateway_resident_bytes": 1 << 20, "sealane_gateway_resident_bytes_per_connection": 1 << 10,
		} {
			if got := m.metric(t, name); got != want {
				t.Errorf("%s: got %v, want %v", name, got, want)
			}
		}
	})
}

package e2e_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/sealane/sealane/e2e/failover"
)

// Primaries fail under load, and clients of three libraries keep their connections and lose nothing but what asynchronous replication may
// lose. make test-failover does the same with five libraries, 200 clients, and a hundred failovers of every kind.
func TestFailoverUnderLoad(t *testing.T) {
	t.Parallel()
	for path, kinds := range map[string][]failover.Kind{
		"transparent": {failover.Kill, failover.Command},
		"multiplexed": {failover.Stop, failover.Kill},
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			target, err := failover.NewSealane(ctx, failover.SealaneConfig{Program: sealane, DataPath: path, Pool: newPool()})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if t.Failed() {
					t.Log(target.Logs())
				}
				if err := target.Close(); err != nil {
					t.Error(err)
				}
			}()
			gateways := target.Processes("gateway")
			r, err := failover.Run(ctx, failover.Config{
				Target: target, Kinds: kinds, Warm: 300 * time.Millisecond, After: 100 * time.Millisecond, Settle: 100 * time.Millisecond,
				Limit: 30 * time.Second, Log: t.Output(),
				Load: failover.Load{Clients: 12, Libraries: []string{"go-redis", "rueidis", "redigo"}, Pace: 30 * time.Millisecond, Wait: "half"},
			})
			if err != nil {
				t.Fatal(err)
			}
			failover.Tables(t.Output(), []*failover.Result{r})
			for _, v := range r.History.Violations {
				t.Error(v)
			}
			restarted := !slices.Equal(gateways, target.Processes("gateway"))
			if restarted {
				t.Logf("a gateway ended and was started again, so its clients were closed:\n%s", target.Logs())
			}
			for i, f := range r.Failovers {
				// A busy machine is slow, so this only shows that writes come back.
				if f.Outage > 10*time.Second {
					t.Errorf("failover %d, %s: no write was acknowledged for %v", i, f.Kind, f.Outage)
				}
				if f.ClosedClean > 0 && !restarted {
					t.Errorf("failover %d, %s: %d connections without a request in flight were closed", i, f.Kind, f.ClosedClean)
				}
			}
			if r.History.Acknowledged < 50 || r.History.Replicated == 0 {
				t.Errorf("got %d acknowledged writes, %d of them confirmed by a replica: the load shows little", r.History.Acknowledged, r.History.Replicated)
			}
		})
	}
}

package instance_test

import (
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/plaintext"
	"github.com/sealane/sealane/internal/replicationlink"
	"github.com/sealane/sealane/internal/routing"
	"github.com/sealane/sealane/internal/systemmemory"
)

var update = flag.Bool("update", false, "write testdata/metrics.txt anew")

// wholeStatus has a value of its own in every field that a metric shows.
func wholeStatus() (gateway.Status, error) {
	return gateway.Status{
		Connections: 1, Accepted: 2, Clients: 3, Limit: 4,
		Unserved:   gateway.Unserved{Stages: map[string]int64{"silent": 5, "hello": 6, "queued": 7, "handshake": 8}, Limit: 9, FromSource: 10},
		RejectedBy: map[string]uint64{"limit": 11, "crowded": 12, "silent": 13, "shed": 14, "late": 15, "stalled": 16},
		Handshakes: map[string]uint64{"tls1.2": 17, "tls1.3": 18, "failed": 19, "timeout": 20},
		Completed: []gateway.Completed{
			{Version: "1.2", Group: "P-256", Count: 21}, {Version: "1.3", Group: "X25519", Resumed: true, Count: 22},
		},
		Failures:  map[string]uint64{"unknown_ca": 23, "timeout": 20},
		Admission: gateway.Admission{Admitted: 24, Begun: 25, Waiting: 26, GaveUp: 27},
		Diagnosed: map[string]uint64{"http": 28, "plaintext_resp": 29},
		Ledger:    &gateway.LedgerStatus{Clients: 30, Evicted: 31, Samples: map[string]uint64{"accepted": 32, "refused": 33, "failed": 34}},
		Resident:  35, PerConnection: 36, EngineUnreachable: 37, BytesIn: 38, BytesOut: 39,
		Commands: map[string]uint64{"shared": 40, "own": 41}, Pins: map[routing.Pin]uint64{routing.PinWatch: 42}, TimedOut: 43,
		Memory: &systemmemory.Usage{Total: 1000, Engine: 44, Snapshot: 45, Gateway: 46, FullTime: 47 * time.Second}, RefusedOOM: 48,
		Plaintext: &plaintext.Counts{Connections: 49, Served: 50, Closed: 51},
		Replication: &replicationlink.Status{
			Replicas: []replicationlink.Replica{{Address: "127.0.0.1:52"}, {Address: "127.0.0.1:53"}}, BytesIn: 54, BytesOut: 55,
			Refused: map[string]uint64{"foreign_ca": 56, "wrong_identity": 57},
		},
	}, nil
}

// Dashboards and alerts depend on the names, the labels and the values of metrics: whatever moves in the code, /metrics stays what it is.
func TestMetricsStayWhatTheyAre(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		m.crash(first, "engine")
		time.Sleep(time.Minute)
		m.waitReady(first)
		m.set(func() { m.status = wholeStatus })
		registry := prometheus.NewPedanticRegistry()
		for _, c := range m.server.Metrics() {
			if err := registry.Register(c); err != nil {
				t.Fatal(err)
			}
		}
		w := httptest.NewRecorder()
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		const golden = "testdata/metrics.txt"
		if *update {
			if err := os.WriteFile(golden, w.Body.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.Body.String(); w.Code != http.StatusOK || got != string(want) {
			t.Errorf("status %d; /metrics is no longer as in %s (written with -update):\n%s", w.Code, golden, got)
		}
	})
}

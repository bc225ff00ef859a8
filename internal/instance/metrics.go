package instance

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/plaintext"
)

// metrics are what the ops listener shows of the instances. Those of an instance's gateway are declared in
// internal/gateway/metrics.go, and get the labels of the instance here.
type metrics struct {
	manager   *Manager
	restarts  *prometheus.CounterVec
	failovers failoverMetrics
	gateways  *gateway.Metrics
}

// gatewayMetricsTimeout is how long a scrape waits for the gateways of an instance.
const gatewayMetricsTimeout = 2 * time.Second

// instanceLabels tell an instance from all others. Each metric has them.
var instanceLabels = []string{"project", "location", "instance"}

func newMetrics(m *Manager) *metrics {
	return &metrics{
		manager: m,
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealane_node_restarts_total",
			Help: "Processes of an instance that ended by themselves and were restarted.",
		}, append(instanceLabels, "process")),
		failovers: newFailoverMetrics(),
		gateways:  gateway.NewMetrics(append(instanceLabels, "node")...),
	}
}

func (n Name) labels(more ...string) []string {
	return append([]string{n.Project, n.Location, n.ID}, more...)
}

func (x *metrics) restarted(name Name, process string) {
	x.restarts.WithLabelValues(name.labels(process)...).Inc()
}

// Metrics returns what main registers with Prometheus.
func (m *Manager) Metrics() []prometheus.Collector {
	return []prometheus.Collector{m.metrics.restarts, m.metrics.failovers.total, m.metrics.failovers.seconds, m.metrics}
}

var (
	descInstance = prometheus.NewDesc("sealane_instance_state", "1 for the state that the instance is in.", append(instanceLabels, "state"), nil)
	descExpiry   = prometheus.NewDesc("sealane_certificate_expiry_timestamp_seconds", "When a certificate expires, in seconds since 1970.", append(instanceLabels, "certificate"), nil)
	descIntended = prometheus.NewDesc("sealane_certificate_served_is_intended", "1 when the last proof from outside showed the certificate that is recorded, 0 when it failed.", instanceLabels, nil)
	descIssued   = prometheus.NewDesc("sealane_certificate_rotation_timestamp_seconds", "When the server certificate was last replaced, in seconds since 1970.", instanceLabels, nil)
	descRotated  = prometheus.NewDesc("sealane_certificate_rotation_ok", "1 when all that was due for the certificates is done, 0 when the last try failed.", instanceLabels, nil)

	descMemoryLimit = prometheus.NewDesc("sealane_engine_memory_limit_bytes", "Memory at which the system ends the engine, by what keeps that bound; 0 where nothing does.", append(instanceLabels, "by"), nil)
	descMode        = prometheus.NewDesc("sealane_transit_encryption_mode", "1 for the mode that the instance is in: DISABLED, PREFERRED, SERVER_AUTHENTICATION.", append(instanceLabels, "mode"), nil)
	descPlaintext   = prometheus.NewDesc("sealane_plaintext_clients", "Clients seen without TLS in the last 7 days, where there is a port without TLS.", instanceLabels, nil)
	descReadiness   = prometheus.NewDesc("sealane_ca_clients", "Clients of the last 30 days by what they have shown of the CA that is to sign next, or of the newest.", append(instanceLabels, "readiness"), nil)
)

// Describe implements prometheus.Collector.
func (x *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descInstance, descExpiry, descIntended, descIssued, descRotated, descReadiness, descMemoryLimit, descMode, descPlaintext,
	} {
		ch <- d
	}
	describeEngine(ch)
	describeReplication(ch)
	x.gateways.Describe(ch)
}

// Collect implements prometheus.Collector.
func (x *metrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	live, err := x.manager.records.live()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descInstance, err)
		return
	}
	for _, i := range live {
		i = x.manager.reader.withObserved(i)
		ch <- prometheus.MustNewConstMetric(descInstance, prometheus.GaugeValue, 1, i.Name.labels(string(i.State))...)
		if e, err := x.manager.Engines.Get(ctx, i.Name); err == nil {
			ch <- prometheus.MustNewConstMetric(descMemoryLimit, prometheus.GaugeValue, float64(e.Memory.Limit), i.Name.labels(cmp.Or(e.Memory.By, "nothing"))...)
		}
		x.collectPlaintext(ch, i)
		x.collectEngine(ctx, ch, i)
		x.collectSnapshots(ctx, ch, i)
		x.collectCertificates(ch, i)
		collectReplication(ch, i)
		x.collectGateway(ctx, ch, i)
	}
}

// collectPlaintext counts the clients that are kept account of, without asking the gateway: a scrape must stay cheap.
func (x *metrics) collectPlaintext(ch chan<- prometheus.Metric, i Instance) {
	ch <- prometheus.MustNewConstMetric(descMode, prometheus.GaugeValue, 1, i.Name.labels(string(i.EncryptionMode()))...)
	kept, _, err := x.manager.Encryption.clients.kept.get(i)
	if err != nil || i.PlaintextPort() == 0 {
		return
	}
	since, n := x.manager.now().Add(-plaintext.DefaultUnseenFor), 0
	for _, c := range kept.Seen.Clients {
		if c.Last.After(since) {
			n++
		}
	}
	ch <- prometheus.MustNewConstMetric(descPlaintext, prometheus.GaugeValue, float64(n), i.Name.labels()...)
}

func (x *metrics) collectCertificates(ch chan<- prometheus.Metric, i Instance) {
	if i.ownCertificates() == nil {
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, i.Name.labels(labels...)...)
	}
	now := x.manager.now()
	view := i.ownCertificates().At(now)
	for _, c := range view.Expiries() {
		gauge(descExpiry, float64(c.NotAfter.Unix()), c.Name)
	}
	if i.Certificates == nil || i.Certificates.Leaf == nil {
		return
	}
	x.collectReadiness(i, view, now, gauge)
	gauge(descIssued, float64(i.Certificates.Leaf.Created.Unix()))
	if certified, proved, known := x.manager.workers.certificateHealth(i.Name); known {
		gauge(descIntended, oneIf(proved))
		gauge(descRotated, oneIf(certified))
	}
}

// collectReadiness counts the clients of the stored ledger. The gateway's own, which may be newer, is not asked for: a scrape must
// stay cheap.
func (x *metrics) collectReadiness(i Instance, view pki.View, now time.Time, gauge func(*prometheus.Desc, float64, ...string)) {
	known, _, err := x.manager.Clients.kept.get(i)
	published := view.Published()
	if err != nil || len(published) == 0 {
		return
	}
	asked := published[len(published)-1]
	if ca, ok := view.NextSigner(); ok {
		asked = ca
	}
	counts := make(map[ledger.Readiness]int)
	for _, s := range known.Statuses(view.Proofs(asked.Generation), now.Add(-clientsCount)) {
		counts[s.Readiness]++
	}
	for _, r := range ledger.Readinesses {
		gauge(descReadiness, float64(counts[r]), string(r))
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// collectGateway shows the gateway of each node. The clients of a read endpoint are those of several.
func (x *metrics) collectGateway(ctx context.Context, ch chan<- prometheus.Metric, i Instance) {
	statuser, ok := x.manager.runtime.(GatewayStatuser)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, gatewayMetricsTimeout)
	defer cancel()
	var all sync.WaitGroup
	for _, n := range i.NodeInfos() {
		all.Go(func() {
			if s, err := statuser.GatewayStatus(ctx, i.nodeID(n.Number)); err == nil { // otherwise it is down: sealane_instance_state says so
				x.gateways.Collect(ch, s, i.Name.labels(n.ID)...)
			}
		})
	}
	all.Wait()
}

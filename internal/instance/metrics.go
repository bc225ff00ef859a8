package instance

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
)

// metrics are what the ops listener shows of the instances.
type metrics struct {
	manager  *Manager
	restarts *prometheus.CounterVec
}

var instanceLabels = []string{"project", "location", "instance"}

func newMetrics(m *Manager) *metrics {
	return &metrics{
		manager: m,
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealane_node_restarts_total",
			Help: "Processes of an instance that ended by themselves and were restarted.",
		}, append(instanceLabels, "process")),
	}
}

func (n Name) labels(more ...string) []string {
	return append([]string{n.Project, n.Location, n.ID}, more...)
}

func (x *metrics) restarted(name Name, process string) {
	x.restarts.WithLabelValues(name.labels(process)...).Inc()
}

// Metrics are for main to register.
func (m *Manager) Metrics() []prometheus.Collector {
	return []prometheus.Collector{m.metrics.restarts, m.metrics}
}

var (
	descInstance = prometheus.NewDesc("sealane_instance_state", "1 for the state that the instance is in.", append(instanceLabels, "state"), nil)
	descExpiry   = prometheus.NewDesc("sealane_certificate_expiry_timestamp_seconds", "When a certificate expires, in seconds since 1970.", append(instanceLabels, "certificate"), nil)
	descIntended = prometheus.NewDesc("sealane_certificate_served_is_intended", "1 when the last proof from outside showed the certificate that is recorded, 0 when it failed.", instanceLabels, nil)
	descIssued   = prometheus.NewDesc("sealane_certificate_rotation_timestamp_seconds", "When the server certificate was last replaced, in seconds since 1970.", instanceLabels, nil)
	descRotated  = prometheus.NewDesc("sealane_certificate_rotation_ok", "1 when all that was due for the certificates is done, 0 when the last try failed.", instanceLabels, nil)

	descMemoryLimit = prometheus.NewDesc("sealane_engine_memory_limit_bytes", "Memory at which the system ends the engine, by what keeps that bound; 0 where nothing does.", append(instanceLabels, "by"), nil)
	descConnections = prometheus.NewDesc("sealane_gateway_connections", "Client connections now.", instanceLabels, nil)
	descAccepted    = prometheus.NewDesc("sealane_gateway_accepted_total", "Client connections accepted since the gateway started.", instanceLabels, nil)
	descHandshakes  = prometheus.NewDesc("sealane_gateway_handshakes_total", "TLS handshakes by version, or by how they failed.", append(instanceLabels, "result"), nil)
	descDiagnosed   = prometheus.NewDesc("sealane_gateway_misdirected_total", "Connections that came the wrong way, by what they spoke.", append(instanceLabels, "kind"), nil)
	descBytes       = prometheus.NewDesc("sealane_gateway_bytes_total", "Bytes relayed, without TLS's own.", append(instanceLabels, "direction"), nil)
	descLimit       = prometheus.NewDesc("sealane_gateway_clients_limit", "Clients that can be served at a time.", instanceLabels, nil)
	descClients     = prometheus.NewDesc("sealane_gateway_clients", "Clients that are served now.", instanceLabels, nil)
	descRejected    = prometheus.NewDesc("sealane_gateway_rejected_total", "Connections that there was no room for, by reason.", append(instanceLabels, "reason"), nil)
	descCompleted   = prometheus.NewDesc("sealane_gateway_handshakes_completed_total", "TLS handshakes that succeeded.", append(instanceLabels, "version", "group", "resumed"), nil)
	descFailures    = prometheus.NewDesc("sealane_gateway_handshake_failures_total", "TLS handshakes that failed, by why.", append(instanceLabels, "class"), nil)
	descAdmitted    = prometheus.NewDesc("sealane_gateway_handshakes_admitted_total", "TLS handshakes begun.", instanceLabels, nil)
	descBegun       = prometheus.NewDesc("sealane_gateway_handshakes_under_way", "TLS handshakes under way now.", instanceLabels, nil)
	descWaiting     = prometheus.NewDesc("sealane_gateway_handshakes_waiting", "Clients that wait now for their TLS handshake to begin.", instanceLabels, nil)
	descGaveUp      = prometheus.NewDesc("sealane_gateway_handshakes_abandoned_total", "Clients that hung up while they waited for their TLS handshake to begin.", instanceLabels, nil)
	descCommands    = prometheus.NewDesc("sealane_gateway_commands_total", "Requests of clients, by whether the engine connection that carried them was shared.", append(instanceLabels, "connection"), nil)
	descPins        = prometheus.NewDesc("sealane_gateway_pins_total", "Engine connections given to one client, by why it could not share one.", append(instanceLabels, "reason"), nil)
	descTimedOut    = prometheus.NewDesc("sealane_gateway_timed_out_total", "Clients closed because they were idle for too long, and connections on which nothing ever came.", instanceLabels, nil)
	descResident    = prometheus.NewDesc("sealane_gateway_resident_bytes", "Resident memory of the gateway.", instanceLabels, nil)
	descPerConn     = prometheus.NewDesc("sealane_gateway_resident_bytes_per_connection", "Resident memory of the gateway for each of its connections; 0 without any.", instanceLabels, nil)
	descUnserved    = prometheus.NewDesc("sealane_gateway_unserved_connections", "Open connections that are no clients yet, by how far they have come: silent, hello, queued, handshake.", append(instanceLabels, "stage"), nil)
	descUnservedMax = prometheus.NewDesc("sealane_gateway_unserved_connections_limit", "How many connections may be open that are no clients yet; then the oldest of the source with the most are closed.", instanceLabels, nil)
	descUnservedTop = prometheus.NewDesc("sealane_gateway_unserved_connections_of_one_source", "The most connections that are no clients yet and come from one IPv4 address or IPv6 /64.", instanceLabels, nil)
	descReadiness   = prometheus.NewDesc("sealane_ca_clients", "Clients of the last 30 days by what they have shown of the CA that is to sign next, or of the newest.", append(instanceLabels, "readiness"), nil)
	descEvicted     = prometheus.NewDesc("sealane_ca_clients_evicted_total", "Clients of whom no account is kept since the gateway started, because there were too many.", instanceLabels, nil)
	descSamples     = prometheus.NewDesc("sealane_ca_samples_total", "Clients that were presented the next CA without asking for it, by outcome.", append(instanceLabels, "outcome"), nil)
	descUnreachable = prometheus.NewDesc("sealane_gateway_engine_unreachable_total", "Connections that were told that the engine is not answering.", instanceLabels, nil)
)

// Describe implements prometheus.Collector.
func (x *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descInstance, descExpiry, descIntended, descIssued, descRotated, descConnections, descAccepted, descHandshakes, descDiagnosed, descBytes, descLimit, descClients,
		descRejected, descUnreachable, descCompleted, descFailures, descAdmitted, descBegun, descWaiting, descGaveUp, descResident, descCommands, descPins, descTimedOut, descPerConn,
		descUnserved, descUnservedMax, descUnservedTop,
		descReadiness, descEvicted, descSamples, descMemoryLimit,
	} {
		ch <- d
	}
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
		x.collectCertificates(ch, i)
		x.collectGateway(ctx, ch, i)
	}
}

func (x *metrics) collectCertificates(ch chan<- prometheus.Metric, i Instance) {
	if i.Certificates == nil {
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, i.Name.labels(labels...)...)
	}
	now := x.manager.now()
	view := i.Certificates.At(now)
	for _, c := range view.Expiries() {
		gauge(descExpiry, float64(c.NotAfter.Unix()), c.Name)
	}
	if i.Certificates.Leaf == nil {
		return
	}
	x.collectReadiness(i, view, now, gauge)
	gauge(descIssued, float64(i.Certificates.Leaf.Created.Unix()))
	if certified, proved, known := x.manager.workers.certificateHealth(i.Name); known {
		gauge(descIntended, oneIf(proved))
		gauge(descRotated, oneIf(certified))
	}
}

// collectReadiness is about what is stored: gateways are not asked for more than their status.
func (x *metrics) collectReadiness(i Instance, view pki.View, now time.Time, gauge func(*prometheus.Desc, float64, ...string)) {
	known, _, err := x.manager.Clients.stored(i)
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

func (x *metrics) collectGateway(ctx context.Context, ch chan<- prometheus.Metric, i Instance) {
	statuser, ok := x.manager.runtime.(GatewayStatuser)
	if !ok {
		return
	}
	s, err := statuser.GatewayStatus(ctx, i.nodeID(0))
	if err != nil {
		return // it is down: sealane_instance_state says so
	}
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), i.Name.labels(labels...)...)
	}
	gauge := func(d *prometheus.Desc, n int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), i.Name.labels()...)
	}
	gauge(descConnections, s.Connections)
	gauge(descClients, s.Clients)
	gauge(descLimit, s.Limit)
	gauge(descBegun, s.Admission.Begun)
	gauge(descWaiting, s.Admission.Waiting)
	gauge(descResident, int64(s.Resident))
	gauge(descPerConn, int64(s.PerConnection))
	count(descAdmitted, s.Admission.Admitted)
	count(descGaveUp, s.Admission.GaveUp)
	gauge(descUnservedMax, s.Unserved.Limit)
	gauge(descUnservedTop, s.Unserved.FromSource)
	for stage, n := range s.Unserved.Stages {
		ch <- prometheus.MustNewConstMetric(descUnserved, prometheus.GaugeValue, float64(n), i.Name.labels(stage)...)
	}
	for reason, n := range s.RejectedBy {
		count(descRejected, n, reason)
	}
	for _, c := range s.Completed {
		count(descCompleted, c.Count, c.Version, c.Group, strconv.FormatBool(c.Resumed))
	}
	for class, n := range s.Failures {
		count(descFailures, n, class)
	}
	for connection, n := range s.Commands {
		count(descCommands, n, connection)
	}
	for reason, n := range s.Pins {
		count(descPins, n, string(reason))
	}
	if s.Ledger != nil {
		count(descEvicted, s.Ledger.Evicted)
		for outcome, n := range s.Ledger.Samples {
			count(descSamples, n, outcome)
		}
	}
	count(descTimedOut, s.TimedOut)
	count(descAccepted, s.Accepted)
	count(descUnreachable, s.EngineUnreachable)
	count(descBytes, s.BytesIn, "in")
	count(descBytes, s.BytesOut, "out")
	for result, n := range s.Handshakes {
		count(descHandshakes, n, result)
	}
	for kind, n := range s.Diagnosed {
		count(descDiagnosed, n, kind)
	}
}

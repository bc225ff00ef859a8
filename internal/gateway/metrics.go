package gateway

import (
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealane/sealane/internal/plaintext"
	"github.com/sealane/sealane/internal/replicationlink"
	"github.com/sealane/sealane/internal/routing"
)

// The metrics of a gateway: names, help texts, labels, and which part of a Status each one shows. A gateway serves no /metrics itself.
// The controller asks each of its gateways for a Status, and shows it with labels that say which gateway it is of. The metrics of
// instances are in internal/instance/metrics.go, those of a sidecar in internal/sidecar/metrics.go.

// addSample takes one value of a metric, and the values of the metric's labels.
type addSample func(value float64, labels ...string)

// metric is one metric of a gateway.
type metric struct {
	name, help string
	labels     []string
	kind       prometheus.ValueType
	read       func(Status, addSample)
}

func gauge[N int64 | uint64](name, help string, value func(Status) N) metric {
	return metric{name, help, nil, prometheus.GaugeValue, func(s Status, add addSample) { add(float64(value(s))) }}
}

func counter(name, help string, value func(Status) uint64) metric {
	return metric{name, help, nil, prometheus.CounterValue, func(s Status, add addSample) { add(float64(value(s))) }}
}

// counterBy is a counter for each value of one label.
func counterBy[S ~string](label, name, help string, values func(Status) map[S]uint64) metric {
	return metric{name, help, []string{label}, prometheus.CounterValue, func(s Status, add addSample) {
		for by, n := range values(s) {
			add(float64(n), string(by))
		}
	}}
}

// plaintextMetric is about the clients without TLS, which an older gateway has nothing to say of.
func plaintextMetric(name, help string, kind prometheus.ValueType, value func(plaintext.Counts) float64) metric {
	return metric{name, help, nil, kind, func(s Status, add addSample) {
		if s.Plaintext != nil {
			add(value(*s.Plaintext))
		}
	}}
}

// replicationMetric is about replicas, of which only a gateway with replication has something to say.
func replicationMetric(name, help, label string, kind prometheus.ValueType, read func(replicationlink.Status, addSample)) metric {
	m := metric{name, help, nil, kind, func(s Status, add addSample) {
		if s.Replication != nil {
			read(*s.Replication, add)
		}
	}}
	if label != "" {
		m.labels = []string{label}
	}
	return m
}

var gatewayMetrics = []metric{
	gauge("sealane_gateway_connections", "Client connections now.", func(s Status) int64 { return s.Connections }),
	counter("sealane_gateway_accepted_total", "Client connections accepted since the gateway started.", func(s Status) uint64 { return s.Accepted }),
	gauge("sealane_gateway_clients", "Clients that are served now.", func(s Status) int64 { return s.Clients }),
	gauge("sealane_gateway_clients_limit", "Clients that can be served at a time.", func(s Status) int64 { return s.Limit }),
	counterBy("reason", "sealane_gateway_rejected_total", "Connections that there was no room for, by reason.",
		func(s Status) map[string]uint64 { return s.RejectedBy }),
	counter("sealane_gateway_timed_out_total", "Clients closed because they were idle for too long, and connections on which nothing ever came.",
		func(s Status) uint64 { return s.TimedOut }),

	{"sealane_gateway_unserved_connections", "Open connections that are no clients yet, by how far they have come: silent, hello, queued, handshake.",
		[]string{"stage"}, prometheus.GaugeValue, func(s Status, add addSample) {
			for stage, n := range s.Unserved.Stages {
				add(float64(n), stage)
			}
		}},
	gauge("sealane_gateway_unserved_connections_limit", "How many connections may be open that are no clients yet; then the oldest of the source with the most are closed.",
		func(s Status) int64 { return s.Unserved.Limit }),
	gauge("sealane_gateway_unserved_connections_of_one_source", "The most connections that are no clients yet and come from one IPv4 address or IPv6 /64.",
		func(s Status) int64 { return s.Unserved.FromSource }),

	counterBy("result", "sealane_gateway_handshakes_total", "TLS handshakes by version, or by how they failed.",
		func(s Status) map[string]uint64 { return s.Handshakes }),
	{"sealane_gateway_handshakes_completed_total", "TLS handshakes that succeeded.",
		[]string{"version", "group", "resumed"}, prometheus.CounterValue, func(s Status, add addSample) {
			for _, c := range s.Completed {
				add(float64(c.Count), c.Version, c.Group, strconv.FormatBool(c.Resumed))
			}
		}},
	counterBy("class", "sealane_gateway_handshake_failures_total", "TLS handshakes that failed, by why.",
		func(s Status) map[string]uint64 { return s.Failures }),
	counter("sealane_gateway_handshakes_admitted_total", "TLS handshakes begun.", func(s Status) uint64 { return s.Admission.Admitted }),
	gauge("sealane_gateway_handshakes_under_way", "TLS handshakes under way now.", func(s Status) int64 { return s.Admission.Begun }),
	gauge("sealane_gateway_handshakes_waiting", "Clients that wait now for their TLS handshake to begin.", func(s Status) int64 { return s.Admission.Waiting }),
	counter("sealane_gateway_handshakes_abandoned_total", "Clients that hung up while they waited for their TLS handshake to begin.",
		func(s Status) uint64 { return s.Admission.GaveUp }),
	counterBy("kind", "sealane_gateway_misdirected_total", "Connections that came the wrong way, by what they spoke.",
		func(s Status) map[string]uint64 { return s.Diagnosed }),

	{"sealane_gateway_bytes_total", "Bytes relayed, without TLS's own.",
		[]string{"direction"}, prometheus.CounterValue, func(s Status, add addSample) {
			add(float64(s.BytesIn), "in")
			add(float64(s.BytesOut), "out")
		}},
	counterBy("connection", "sealane_gateway_commands_total", "Requests of clients, by whether the engine connection that carried them was shared.",
		func(s Status) map[string]uint64 { return s.Commands }),
	counterBy("reason", "sealane_gateway_pins_total", "Engine connections given to one client, by why it could not share one.",
		func(s Status) map[routing.Pin]uint64 { return s.Pins }),
	counter("sealane_gateway_engine_unreachable_total", "Connections that were told that the engine is not answering.",
		func(s Status) uint64 { return s.EngineUnreachable }),

	gauge("sealane_gateway_resident_bytes", "Resident memory of the gateway.", func(s Status) uint64 { return s.Resident }),
	gauge("sealane_gateway_resident_bytes_per_connection", "Resident memory of the gateway for each of its connections; 0 without any.",
		func(s Status) uint64 { return s.PerConnection }),

	gauge("sealane_gateway_system_memory_bytes", "Memory that the engine, its snapshots and the gateway may use together; 0: any.",
		func(s Status) int64 { return s.memory().Total }),
	{"sealane_gateway_system_memory_used_bytes", "Memory that is used of it: by the engine, by a snapshot under way beside it, by the gateway with its connections.",
		[]string{"by"}, prometheus.GaugeValue, func(s Status, add addSample) {
			m := s.memory()
			add(float64(m.Engine), "engine")
			add(float64(m.Snapshot), "snapshot")
			add(float64(m.Gateway), "gateway")
		}},
	{"sealane_gateway_system_memory_usage_ratio", "Which part of the system memory is used; from 1 on, commands that need memory are refused.",
		nil, prometheus.GaugeValue, func(s Status, add addSample) { add(s.memory().Ratio()) }},
	{"sealane_gateway_system_memory_overload_seconds_total", "For how long commands that need memory have been refused.",
		nil, prometheus.CounterValue, func(s Status, add addSample) { add(s.memory().FullTime.Seconds()) }},
	counter("sealane_gateway_oom_refused_total", "Commands refused because the system memory was used up.",
		func(s Status) uint64 { return s.RefusedOOM }),

	plaintextMetric("sealane_gateway_plaintext_connections", "Connections of clients without TLS now.", prometheus.GaugeValue,
		func(c plaintext.Counts) float64 { return float64(c.Connections) }),
	plaintextMetric("sealane_gateway_plaintext_connections_total", "Connections without TLS served since the gateway started, Sealane's own probes included.", prometheus.CounterValue,
		func(c plaintext.Counts) float64 { return float64(c.Served) }),
	plaintextMetric("sealane_gateway_plaintext_connections_closed_total", "Connections of clients without TLS that were closed because plaintext was.",
		prometheus.CounterValue, func(c plaintext.Counts) float64 { return float64(c.Closed) }),

	replicationMetric("sealane_gateway_replicas", "Connections of replicas that are up. A replica may have two while it synchronises.", "", prometheus.GaugeValue,
		func(s replicationlink.Status, add addSample) { add(float64(len(s.Replicas))) }),
	replicationMetric("sealane_gateway_replication_bytes_total", "Bytes carried between the engine and its replicas, without TLS's own.", "direction", prometheus.CounterValue,
		func(s replicationlink.Status, add addSample) {
			add(float64(s.BytesIn), "in")
			add(float64(s.BytesOut), "out")
		}),
	replicationMetric("sealane_gateway_replicas_refused_total", "Connections to the replication listener that were refused, by reason.", "reason", prometheus.CounterValue,
		func(s replicationlink.Status, add addSample) {
			for reason, n := range s.Refused {
				add(float64(n), reason)
			}
		}),

	// These two are of what a gateway learns of its clients, which a gateway of before that has nothing to say of.
	{"sealane_ca_clients_evicted_total", "Clients of whom no account is kept since the gateway started, because there were too many.",
		nil, prometheus.CounterValue, func(s Status, add addSample) {
			if s.Ledger != nil {
				add(float64(s.Ledger.Evicted))
			}
		}},
	counterBy("outcome", "sealane_ca_samples_total", "Clients that were presented the next CA without asking for it, by outcome.",
		func(s Status) map[string]uint64 {
			if s.Ledger == nil {
				return nil
			}
			return s.Ledger.Samples
		}),
}

// Metrics shows what gateways say of themselves as Prometheus metrics. It is immutable.
type Metrics struct{ descs []*prometheus.Desc } // in the order of gatewayMetrics

// NewMetrics returns metrics that have these labels beside their own: they tell one gateway from another.
func NewMetrics(labels ...string) *Metrics {
	m := &Metrics{}
	for _, x := range gatewayMetrics {
		m.descs = append(m.descs, prometheus.NewDesc(x.name, x.help, slices.Concat(labels, x.labels), nil))
	}
	return m
}

// Describe sends the description of each metric.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.descs {
		ch <- d
	}
}

// Collect sends what a Status says. labels are the values of the labels that NewMetrics was given, for the gateway that the Status is of.
func (m *Metrics) Collect(ch chan<- prometheus.Metric, s Status, labels ...string) {
	for i, x := range gatewayMetrics {
		x.read(s, func(value float64, own ...string) {
			ch <- prometheus.MustNewConstMetric(m.descs[i], x.kind, value, slices.Concat(labels, own)...)
		})
	}
}

package instance

import "github.com/prometheus/client_golang/prometheus"

func newFailoverCounter() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sealane_failovers_total",
		Help: "Changes of an instance's primary, by whether somebody asked for them (planned) or the primary had failed (unplanned).",
	}, append(instanceLabels, "kind"))
}

func (x *metrics) failedOver(name Name, f FailoverRecord) {
	kind := "unplanned"
	if f.Planned {
		kind = "planned"
	}
	x.failovers.WithLabelValues(name.labels(kind)...).Inc()
}

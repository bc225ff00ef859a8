package instance

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealane/sealane/internal/failover"
)

// The metrics of replication. Those of the managed service have the names and labels that stackdriver_exporter gives them, so that
// dashboards made for it show an instance here as well. All of them are of instances with several nodes, and are what the monitor has
// seen last: a scrape asks no engine for them.

// failoverMetrics count changes of instances' primaries.
type failoverMetrics struct {
	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newFailoverMetrics() failoverMetrics {
	return failoverMetrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealane_failovers_total",
			Help: "Changes of an instance's primary, by why: requested, or what the primary's process did (ended, stopped, hung, unreachable, busy).",
		}, append(instanceLabels, "reason")),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "sealane_failover_seconds",
			Help:                        "For how long nobody could write: from when the fault was first seen, or from when clients were held for a planned failover.",
			Buckets:                     []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10},
			NativeHistogramBucketFactor: 1.1,
		}, append(instanceLabels, "kind")),
	}
}

func (x *metrics) failedOver(name Name, f FailoverRecord) {
	kind, reason := "unplanned", cmp.Or(string(failover.ConditionOf(f.Reason)), "other")
	if f.Planned {
		kind, reason = "planned", "requested"
	}
	x.failovers.total.WithLabelValues(name.labels(reason)...).Inc()
	x.failovers.seconds.WithLabelValues(name.labels(kind)...).Observe(f.Took.Seconds())
}

// managed is a metric of the managed service. Its unit is a label, as the exporter has it.
func managed(name, unit, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("stackdriver_redis_instance_redis_googleapis_com_replication_"+name, help,
		append([]string{"project_id", "region", "instance_id", "node_id"}, labels...), prometheus.Labels{"unit": unit})
}

var (
	descRole         = managed("role", "1", "1 for a primary, 0 for a replica.")
	descMasterOffset = managed("master_repl_offset", "By", "How many bytes of changes the primary has made so far.", "role")
	descOffsetDiff   = managed("offset_diff", "By", "How many bytes of changes the replica that is furthest behind lacks.", "role")
	descSlaveOffset  = managed("master_slaves_offset", "By", "How many bytes of changes a replica has.", "role", "slave")
	descSlaveLag     = managed("master_slaves_lag", "s", "For how long a replica has lacked something that the primary has.", "role", "slave")

	descInSync = prometheus.NewDesc("sealane_replica_in_sync", "1 for a replica that has the primary's data, but for what is on its way.",
		append(instanceLabels, "node"), nil)
)

func describeReplication(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descRole, descMasterOffset, descOffsetDiff, descSlaveOffset, descSlaveLag, descInSync} {
		ch <- d
	}
}

// collectReplication shows the nodes of an instance that has several.
func collectReplication(ch chan<- prometheus.Metric, i Instance) {
	if i.Replication == nil {
		return
	}
	var primary NodeInfo
	infos := i.NodeInfos()
	for _, n := range infos {
		if n.Primary {
			primary = n
		}
	}
	gauge := func(d *prometheus.Desc, value float64, node string, more ...string) {
		labels := append([]string{i.Name.Project, i.Name.Location, i.Name.String(), node}, more...)
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	most := int64(0)
	for _, n := range infos {
		gauge(descRole, oneIf(n.Primary), n.ID)
		if n.Primary || !n.Known {
			continue
		}
		ch <- prometheus.MustNewConstMetric(descInSync, prometheus.GaugeValue, oneIf(n.InSync), i.Name.labels(n.ID)...)
		gauge(descSlaveOffset, float64(n.Offset), primary.ID, "primary", n.ID)
		gauge(descSlaveLag, n.Lag.Seconds(), primary.ID, "primary", n.ID)
		most = max(most, primary.Offset-n.Offset)
	}
	if primary.Known {
		gauge(descMasterOffset, float64(primary.Offset), primary.ID, "primary")
		gauge(descOffsetDiff, float64(most), primary.ID, "primary")
	}
}

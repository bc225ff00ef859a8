package instance

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The metrics of an instance's engine and of its snapshots. A scrape asks the engine. One that doesn't answer within engineMetricsTimeout is
// left out of it.
const engineMetricsTimeout = time.Second

var (
	descMemoryUsage = engineDesc("sealane_engine_memory_usage_bytes", "Memory that the engine uses, as it counts for maxmemory (used_memory).")
	descMaxMemory   = engineDesc("sealane_engine_maxmemory_bytes", "The engine's maxmemory.")
	descUsageRatio  = engineDesc("sealane_engine_memory_usage_ratio", "Which part of maxmemory the engine uses.")

	descSnapshotRunning = engineDesc("sealane_rdb_snapshot_in_progress", "1 while a snapshot of the data is being made.")
	descSnapshotStatus  = engineDesc("sealane_rdb_snapshot_last_status", "1 when the last snapshot is good, 0 when it failed; absent where none was made.")
	descSnapshotAge     = engineDesc("sealane_rdb_snapshot_last_success_age_seconds", "How old the last good snapshot is.")
	descSnapshotSize    = engineDesc("sealane_rdb_snapshot_last_size_bytes", "Size of the last good snapshot.")
	descSnapshotNext    = engineDesc("sealane_rdb_snapshot_time_until_next_run_seconds", "How long until the next snapshot is due; less than 0 where it is late.")
)

func engineDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, instanceLabels, nil)
}

func describeEngine(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descMemoryUsage, descMaxMemory, descUsageRatio, descSnapshotRunning, descSnapshotStatus, descSnapshotAge, descSnapshotSize, descSnapshotNext,
	} {
		ch <- d
	}
}

// collectEngine shows the memory of an engine by its own account.
func (x *metrics) collectEngine(ctx context.Context, ch chan<- prometheus.Metric, i Instance) {
	reader, ok := x.manager.runtime.(EngineInfoReader)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, engineMetricsTimeout)
	defer cancel()
	info, err := reader.EngineInfo(ctx, i.primaryID(), "memory")
	if err != nil {
		return // it is down or busy: sealane_instance_state says so
	}
	used, usedErr := strconv.ParseFloat(info["used_memory"], 64)
	limit, limitErr := strconv.ParseFloat(info["maxmemory"], 64)
	if usedErr != nil || limitErr != nil {
		return
	}
	gauge := func(d *prometheus.Desc, value float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, i.Name.labels()...)
	}
	gauge(descMemoryUsage, used)
	gauge(descMaxMemory, limit)
	if limit > 0 {
		gauge(descUsageRatio, used/limit)
	}
}

// collectSnapshots shows the snapshots of an instance with persistence.
func (x *metrics) collectSnapshots(ctx context.Context, ch chan<- prometheus.Metric, i Instance) {
	ctx, cancel := context.WithTimeout(ctx, engineMetricsTimeout)
	defer cancel()
	p, err := x.manager.Snapshots.Get(ctx, i.Name)
	if err != nil || p.Schedule.Period == 0 {
		return
	}
	gauge := func(d *prometheus.Desc, value float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, i.Name.labels()...)
	}
	now := x.manager.now()
	gauge(descSnapshotRunning, oneIf(p.InProgress))
	gauge(descSnapshotNext, p.Next.Sub(now).Seconds())
	if latest, ok := p.Runs.Latest(); ok {
		gauge(descSnapshotStatus, oneIf(latest.Failure == ""))
	}
	if good, ok := p.Runs.LastGood(); ok {
		gauge(descSnapshotAge, now.Sub(good.Finished).Seconds())
		gauge(descSnapshotSize, float64(good.Size))
	}
}

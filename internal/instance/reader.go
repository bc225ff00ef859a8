package instance

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// reader reads instances as users see them: the record with what is observed beside it.
type reader struct {
	records  *records
	workers  *workers
	monitors *monitors
	runtime  Runtime
	commands Commands
	builds   []EngineBuild
	now      func() time.Time
}

// get returns an instance that is not deleted.
func (r *reader) get(name Name) (Instance, error) {
	i, err := r.records.load(name)
	if err != nil {
		return Instance{}, err
	}
	if i.Deleted {
		return Instance{}, notFound(name.String())
	}
	return r.withObserved(i), nil
}

// withObserved adds to a record what is observed.
func (r *reader) withObserved(i Instance) Instance {
	o, now := r.workers.observation(i.Name), r.now()
	if i.State == Ready && o.trouble != "" {
		i.State = Repairing
	}
	i.StatusMessage = o.trouble
	if o.busy != nil {
		i.StatusMessage = o.busy.advice(i, r.commands, now)
	}
	if i.StatusMessage == "" {
		i.StatusMessage = strings.Join(nonEmpty(r.workers.note(i.Name, replicaNote, memoryNote, snapshotNote, restoreNote)...), "; ")
	}
	if prober, ok := r.runtime.(BackendProber); ok && i.Spec.Backend != nil {
		facts, _ := prober.BackendFacts(i.nodeID(0))
		i.Spec.RedisVersion = backendVersion(facts)
	}
	if m := r.monitors.of(i.Name); m != nil {
		i.observedNodes = m.infos()
	}
	if i.Certificates != nil {
		i.ServerCAs = i.Certificates.At(now).Published()
	}
	if i.Spec.SnapshotPeriod > 0 {
		_, i.NextSnapshot = i.schedule().Around(now)
	}
	i = i.clone()
	running := r.workers.running(i.Name)
	if i.Spec.Backend == nil {
		i.MaintenanceVersion = cmp.Or(running, i.EnginePatch, buildOf(r.builds, i.Spec.RedisVersion).Patch)
		i.AvailableMaintenanceVersions = maintenanceVersions(r.builds, i.Spec.RedisVersion, running)
	}
	for n := range i.Operations {
		if held := i.Operations[n].Held; held > 0 {
			i.Operations[n].Detail = fmt.Sprintf("clients waited for %v while they were moved to the new %s", held.Round(100*time.Microsecond), map[bool]string{true: "primary", false: "engine"}[i.Operations[n].Verb == Failover])
		}
	}
	if op := i.pending(); op != nil {
		op.Detail = o.detail
		if o.trouble != "" {
			op.Detail = i.StatusMessage
		}
	}
	return i
}

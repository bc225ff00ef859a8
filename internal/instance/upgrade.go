package instance

import "context"

// Upgrade begins to move an instance to a newer version of the engine, with its data. It can't be undone. Where the new engine can't take
// over, the operation fails, and the instance goes on with the present one.
func (m *Manager) Upgrade(ctx context.Context, name Name, version, apiVersion string) (Operation, error) {
	const field = "redis_version"
	if err := m.requireEngine(name, field, "to upgrade", "upgrade it where it runs, or start a newer one and move to it (sealane instances update --backend)"); err != nil {
		return Operation{}, err
	}
	if version == "" {
		return Operation{}, invalid(field, `"": want the version to upgrade to, such as %s`, managedVersions[len(managedVersions)-1])
	}
	builds := m.runtime.Engines()
	return m.begin(name, apiVersion, func(i *Instance) (Operation, error) {
		if _, err := chooseVersion(version, builds); err != nil {
			return Operation{}, err
		}
		if err := CheckUpgrade(i.Spec.RedisVersion, version); err != nil {
			return Operation{}, err
		}
		next, build := i.Spec, buildOf(builds, version)
		next.RedisVersion = version
		if vs := next.checkReplication(build); len(vs) > 0 {
			return Operation{}, NewViolations(FailedPrecondition, vs)
		}
		if vs := next.checkRedisConfigs(build); len(vs) > 0 {
			return Operation{}, NewViolations(FailedPrecondition, vs)
		}
		i.State = Updating
		return Operation{Verb: Upgrade, Target: i.target(version, build.Patch)}, nil
	})
}

// begin records an operation of an instance that has none under way. prepare says what it is.
func (m *Manager) begin(name Name, apiVersion string, prepare func(*Instance) (Operation, error)) (Operation, error) {
	var op Operation
	err := m.records.mutate(name, func(i *Instance) error {
		if err := i.requireNoOperation(); err != nil {
			return err
		}
		want, err := prepare(i)
		if err != nil {
			return err
		}
		if want.Target != nil {
			if _, ok := m.runtime.(EngineReplacer); !ok {
				return precondition("engines are not this server's to replace")
			}
		}
		op = i.begin(want.Verb, nil, apiVersion, m.now().UTC())
		op.Target, op.Object, op.Replaces, op.Force = want.Target, want.Object, want.Replaces, want.Force
		*i.pending() = op
		return nil
	})
	return op, err
}

// target is an engine beside the present one.
func (i *Instance) target(version, patch string) *EngineTarget {
	slot := i.EngineSlot
	if i.Replication != nil {
		slot = i.Replication.node(i.Replication.Primary).Slot
	}
	return &EngineTarget{Version: version, Patch: patch, Slot: slot%Slots + 1}
}

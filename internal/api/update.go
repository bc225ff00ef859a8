package api

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/rest"
)

func (s *redisServer) UpdateInstance(ctx context.Context, r *redispb.UpdateInstanceRequest) (*longrunningpb.Operation, error) {
	name, err := instance.ParseName("instance.name", r.GetInstance().GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	op, err := s.update(ctx, name, r)
	out, err := s.begun(ctx, name, op, err)
	return out, toStatus(ctx, s.log, err)
}

func (s *redisServer) update(ctx context.Context, name instance.Name, r *redispb.UpdateInstanceRequest) (instance.Operation, error) {
	current, err := s.manager.Get(name)
	if err != nil {
		return instance.Operation{}, err
	}
	u := update{current: current, in: r.GetInstance()}
	u.read(r.GetUpdateMask())
	if err := u.err(); err != nil {
		return instance.Operation{}, err
	}
	change := func(spec *instance.Spec) {
		for _, set := range u.sets {
			set(spec)
		}
	}
	return s.manager.Update(ctx, name, change, apiVersion(ctx))
}

// update is what an update asks for: an instance's fields, of which those that the mask names count. A field that is named and absent
// is to be empty.
type update struct {
	problems
	current instance.Instance
	in      *redispb.Instance
	sets    []func(*instance.Spec)
}

func (u *update) set(f func(*instance.Spec)) { u.sets = append(u.sets, f) }

// fixed are the fields that are chosen when an instance is created, with what there is instead of changing them.
var fixed = map[string]string{
	"name":                    "an instance keeps its name",
	"tier":                    "",
	"location_id":             "",
	"alternative_location_id": "",
	"authorized_network":      "",
	"connect_mode":            "",
	"reserved_ip_range":       "",
	"customer_managed_key":    "",
	"transit_encryption_mode": "",
	"redis_version":           "UpgradeInstance changes it (POST …:upgrade, gcloud redis instances upgrade)",
}

// updatable are the fields that an update may change, sorted, for messages.
var updatable = slices.Sorted(slices.Values([]string{
	"display_name", "labels", "memory_size_gb", "redis_configs", "auth_enabled", "maintenance_policy", "maintenance_version",
	"persistence_config", "replica_count", "read_replicas_mode", "secondary_ip_range",
}))

// read reads a mask, whose paths are in snake_case or camelCase and may name a field of a field.
func (u *update) read(mask *fieldmaskpb.FieldMask) {
	if len(mask.GetPaths()) == 0 {
		u.invalid("update_mask", "is empty: want the fields to change, such as display_name,labels")
	}
	var fields []string
	for _, path := range mask.GetPaths() {
		field, below, nested := strings.Cut(path, ".")
		field = rest.SnakeCase(field)
		if field == "redis_config" {
			field = "redis_configs" // the API's own documentation misspells it
		}
		fields = append(fields, field)
		switch {
		case !nested:
			u.field(field)
		case field == "labels" || field == "redis_configs":
			u.entry(field, strings.Trim(below, "`"))
		case field == "persistence_config":
			u.persistence(rest.SnakeCase(below))
		case field == "maintenance_policy":
			u.maintenance(rest.SnakeCase(below))
		default:
			u.notUpdatable(path, field)
		}
	}
	u.enableReadReplicas(fields)
}

func (u *update) field(field string) {
	in := u.in
	switch field {
	case "display_name":
		u.set(func(s *instance.Spec) { s.DisplayName = in.GetDisplayName() })
	case "labels":
		u.set(func(s *instance.Spec) { s.Labels = maps.Clone(in.GetLabels()) })
	case "memory_size_gb":
		u.set(func(s *instance.Spec) { s.MemorySizeGB = in.GetMemorySizeGb() })
	case "redis_configs":
		u.set(func(s *instance.Spec) { s.RedisConfigs = maps.Clone(in.GetRedisConfigs()) })
	case "auth_enabled":
		u.set(func(s *instance.Spec) { s.AuthEnabled = in.GetAuthEnabled() })
	case "persistence_config":
		u.persistence("")
	case "maintenance_policy":
		u.maintenance("")
	case "maintenance_version":
		u.set(func(s *instance.Spec) { s.MaintenanceVersion = in.GetMaintenanceVersion() })
	case "replica_count":
		u.set(func(s *instance.Spec) { s.ReplicaCount = in.GetReplicaCount() })
	case "read_replicas_mode":
		read := u.readReplicas(in)
		u.set(func(s *instance.Spec) { s.ReadReplicas = read })
	case "secondary_ip_range":
		u.set(func(s *instance.Spec) { s.SecondaryIPRange = in.GetSecondaryIpRange() })
	default:
		u.notUpdatable(field, field)
	}
}

// entry is one key of a map.
func (u *update) entry(field, key string) {
	of := func(s *instance.Spec) (*map[string]string, map[string]string) { return &s.Labels, u.in.GetLabels() }
	if field == "redis_configs" {
		of = func(s *instance.Spec) (*map[string]string, map[string]string) {
			return &s.RedisConfigs, u.in.GetRedisConfigs()
		}
	}
	u.set(func(s *instance.Spec) {
		to, from := of(s)
		*to = maps.Clone(*to) // the instance as it was before has the other one
		value, there := from[key]
		if !there {
			delete(*to, key)
			return
		}
		if *to == nil {
			*to = make(map[string]string)
		}
		(*to)[key] = value
	})
}

func (u *update) notUpdatable(path, field string) {
	why, isFixed := fixed[field]
	switch f := (&redispb.Instance{}).ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(field)); {
	case isFixed && why == "":
		u.invalid("update_mask", fmt.Sprintf("%q is immutable: it is chosen when the instance is created; create another instance to have another value", path))
	case isFixed:
		u.invalid("update_mask", fmt.Sprintf("%q is immutable here: %s", path, why))
	case f != nil && !slices.Contains(updatable, field):
		u.invalid("update_mask", fmt.Sprintf("%q is set by the server only", path))
	case f != nil:
		u.invalid("update_mask", fmt.Sprintf("%q: %s has no fields of its own in a mask: want %s", path, field, field))
	default:
		u.invalid("update_mask", fmt.Sprintf("%q is not a field that can be updated: want some of %s", path, strings.Join(updatable, ", ")))
	}
}

// persistence sets the persistence, or one field of it.
func (u *update) persistence(below string) {
	config := u.in.GetPersistenceConfig()
	if below != "" {
		merged := persistenceProto(u.current)
		switch below {
		case "persistence_mode":
			merged.PersistenceMode = config.GetPersistenceMode()
		case "rdb_snapshot_period":
			merged.RdbSnapshotPeriod = config.GetRdbSnapshotPeriod()
		case "rdb_snapshot_start_time":
			merged.RdbSnapshotStartTime = config.GetRdbSnapshotStartTime()
		default:
			u.invalid("update_mask", fmt.Sprintf("persistence_config.%s is not a field that can be updated: want persistence_mode, rdb_snapshot_period or rdb_snapshot_start_time", below))
			return
		}
		config = merged
	}
	if shown := persistenceProto(u.current); config.GetPersistenceMode() == redispb.PersistenceConfig_DISABLED &&
		config.GetRdbSnapshotPeriod() == shown.GetRdbSnapshotPeriod() {
		u.set(func(s *instance.Spec) { s.SnapshotPeriod, s.SnapshotStart = 0, zeroTime })
		return // clients send the period back that they have read
	}
	period, start := u.readPersistence(config)
	u.set(func(s *instance.Spec) { s.SnapshotPeriod, s.SnapshotStart = period, start })
}

// maintenance sets the maintenance policy, or one field of it.
func (u *update) maintenance(below string) {
	policy := u.in.GetMaintenancePolicy()
	if below != "" {
		merged := maintenancePolicyProto(u.current.Spec.Maintenance)
		if merged == nil {
			merged = &redispb.MaintenancePolicy{}
		}
		switch below {
		case "description":
			merged.Description = policy.GetDescription()
		case "weekly_maintenance_window":
			merged.WeeklyMaintenanceWindow = policy.GetWeeklyMaintenanceWindow()
		default:
			u.invalid("update_mask", fmt.Sprintf("maintenance_policy.%s is not a field that can be updated: want description or weekly_maintenance_window", below))
			return
		}
		policy = merged
	}
	read := u.readMaintenance(policy)
	u.set(func(s *instance.Spec) { s.Maintenance = read })
}

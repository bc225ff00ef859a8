package api

import (
	"fmt"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/genproto/googleapis/type/dayofweek"
	"google.golang.org/genproto/googleapis/type/timeofday"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/pki"
)

// snapshotPeriods are the API's RDB snapshot periods.
var snapshotPeriods = map[redispb.PersistenceConfig_SnapshotPeriod]time.Duration{
	redispb.PersistenceConfig_ONE_HOUR:          time.Hour,
	redispb.PersistenceConfig_SIX_HOURS:         6 * time.Hour,
	redispb.PersistenceConfig_TWELVE_HOURS:      12 * time.Hour,
	redispb.PersistenceConfig_TWENTY_FOUR_HOURS: 24 * time.Hour,
}

// enum is any generated enum.
type enum interface {
	~int32
	fmt.Stringer
}

// specOf reads what a create asks for. Fields that are output only are ignored: clients send back what they read.
func specOf(in *redispb.Instance) (instance.Spec, error) {
	var p problems
	spec := instance.Spec{
		DisplayName:           in.GetDisplayName(),
		Labels:                in.GetLabels(),
		LocationID:            in.GetLocationId(),
		AlternativeLocationID: in.GetAlternativeLocationId(),
		RedisVersion:          in.GetRedisVersion(),
		MemorySizeGB:          in.GetMemorySizeGb(),
		RedisConfigs:          in.GetRedisConfigs(),
		AuthEnabled:           in.GetAuthEnabled(),
		AuthorizedNetwork:     in.GetAuthorizedNetwork(),
		ReservedIPRange:       in.GetReservedIpRange(),
		ReplicaCount:          in.GetReplicaCount(),
		ReadReplicas:          p.readReplicas(in),
		SecondaryIPRange:      in.GetSecondaryIpRange(),
		Tier:                  instance.Tier(in.GetTier().String()),
	}
	known(&p, "tier", in.GetTier(), redispb.Instance_Tier_name)
	if in.GetTier() == redispb.Instance_TIER_UNSPECIFIED {
		p.invalid("tier", "is required: want BASIC or STANDARD_HA")
	}
	known(&p, "connect_mode", in.GetConnectMode(), redispb.Instance_ConnectMode_name)
	spec.ConnectMode = redispb.Instance_DIRECT_PEERING.String()
	if m := in.GetConnectMode(); m != redispb.Instance_CONNECT_MODE_UNSPECIFIED {
		spec.ConnectMode = m.String()
	}
	known(&p, "transit_encryption_mode", in.GetTransitEncryptionMode(), redispb.Instance_TransitEncryptionMode_name)
	spec.TransitEncryption = in.GetTransitEncryptionMode() == redispb.Instance_SERVER_AUTHENTICATION
	spec.SnapshotPeriod, spec.SnapshotStart = p.readPersistence(in.GetPersistenceConfig())
	spec.Maintenance = p.readMaintenance(in.GetMaintenancePolicy())
	spec.MaintenanceVersion = in.GetMaintenanceVersion()
	if in.GetCustomerManagedKey() != "" {
		p.missing("customer_managed_key", "the server's own master key protects the state, and the data are in the engine's memory and dump: leave it out")
	}
	return spec, p.err()
}

// known adds a problem for a number that no value of the enum has.
func known[E enum](p *problems, field string, v E, names map[int32]string) {
	if _, ok := names[int32(v)]; !ok {
		p.invalid(field, fmt.Sprintf("%d is no value of this enum", int32(v)))
	}
}

// problems are what is wrong with a request, and what it asks for that is not there yet.
type problems struct {
	wrong, absent []instance.Violation
}

func (p *problems) invalid(field, what string) {
	p.wrong = append(p.wrong, instance.Violation{Field: field, Description: what})
}

func (p *problems) missing(field, what string) {
	p.absent = append(p.absent, instance.Violation{Field: field, Description: what})
}

func (p *problems) err() error {
	switch {
	case len(p.wrong) > 0:
		return instance.NewViolations(instance.InvalidArgument, p.wrong)
	case len(p.absent) > 0:
		return instance.NewViolations(instance.FailedPrecondition, p.absent)
	}
	return nil
}

// readPersistence reads a persistence config. A period without a mode means RDB, and so does a start time.
func (p *problems) readPersistence(c *redispb.PersistenceConfig) (period time.Duration, start time.Time) {
	const field = "persistence_config."
	known(p, field+"persistence_mode", c.GetPersistenceMode(), redispb.PersistenceConfig_PersistenceMode_name)
	known(p, field+"rdb_snapshot_period", c.GetRdbSnapshotPeriod(), redispb.PersistenceConfig_SnapshotPeriod_name)
	start = timeOf(p, field+"rdb_snapshot_start_time", c.GetRdbSnapshotStartTime())
	periodGiven := c.GetRdbSnapshotPeriod() != redispb.PersistenceConfig_SNAPSHOT_PERIOD_UNSPECIFIED
	switch c.GetPersistenceMode() {
	case redispb.PersistenceConfig_PERSISTENCE_MODE_UNSPECIFIED:
		if !periodGiven && start.IsZero() {
			return 0, zeroTime
		}
	case redispb.PersistenceConfig_DISABLED:
		if periodGiven {
			p.invalid(field+"rdb_snapshot_period", fmt.Sprintf("%s has no effect while persistence_mode is DISABLED: set persistence_mode to RDB, or leave the period out", c.GetRdbSnapshotPeriod()))
		}
		return 0, zeroTime
	}
	period = 24 * time.Hour // the default that the API documents
	if periodGiven {
		period = snapshotPeriods[c.GetRdbSnapshotPeriod()]
	}
	return period, start
}

// zeroTime is no time.
var zeroTime time.Time

// timeOf reads a time that may be absent.
func timeOf(p *problems, field string, t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return zeroTime
	}
	if err := t.CheckValid(); err != nil {
		p.invalid(field, fmt.Sprintf("%d.%09d is no time: want one such as 2030-01-02T15:04:05Z", t.GetSeconds(), t.GetNanos()))
		return zeroTime
	}
	return t.AsTime()
}

// readMaintenance reads a maintenance policy. The domain checks it.
func (p *problems) readMaintenance(m *redispb.MaintenancePolicy) *instance.MaintenancePolicy {
	if m == nil {
		return nil
	}
	out := &instance.MaintenancePolicy{Description: m.GetDescription()}
	for n, w := range m.GetWeeklyMaintenanceWindow() {
		field := fmt.Sprintf("maintenance_policy.weekly_maintenance_window[%d]", n)
		day := w.GetDay()
		if day < dayofweek.DayOfWeek_MONDAY || day > dayofweek.DayOfWeek_SUNDAY {
			p.invalid(field+".day", fmt.Sprintf("%s: want a day from MONDAY to SUNDAY", day))
		}
		at := w.GetStartTime()
		if at.GetSeconds() != 0 || at.GetNanos() != 0 {
			p.invalid(field+".start_time", "want hours and minutes only, in UTC")
		}
		out.Windows = append(out.Windows, instance.MaintenanceWindow{
			Day: time.Weekday(int(day) % 7), Hour: int(at.GetHours()), Minute: int(at.GetMinutes()),
		})
	}
	return out
}

// persistenceProto is an instance's persistence as the API shows it.
func persistenceProto(i instance.Instance) *redispb.PersistenceConfig {
	for period, d := range snapshotPeriods {
		if d != i.Spec.SnapshotPeriod {
			continue
		}
		out := &redispb.PersistenceConfig{PersistenceMode: redispb.PersistenceConfig_RDB, RdbSnapshotPeriod: period}
		if !i.Spec.SnapshotStart.IsZero() {
			out.RdbSnapshotStartTime = timestamppb.New(i.Spec.SnapshotStart)
		}
		if !i.NextSnapshot.IsZero() {
			out.RdbNextSnapshotTime = timestamppb.New(i.NextSnapshot)
		}
		return out
	}
	return &redispb.PersistenceConfig{PersistenceMode: redispb.PersistenceConfig_DISABLED}
}

// maintenancePolicyProto is a maintenance policy as the API shows it. gcloud's describe fails on a window without its duration, which is
// always an hour.
func maintenancePolicyProto(m *instance.MaintenancePolicy) *redispb.MaintenancePolicy {
	if m == nil {
		return nil
	}
	out := &redispb.MaintenancePolicy{CreateTime: timestamppb.New(m.Created), UpdateTime: timestamppb.New(m.Updated), Description: m.Description}
	for _, w := range m.Windows {
		day := dayofweek.DayOfWeek(w.Day)
		if w.Day == time.Sunday {
			day = dayofweek.DayOfWeek_SUNDAY
		}
		out.WeeklyMaintenanceWindow = append(out.WeeklyMaintenanceWindow, &redispb.WeeklyMaintenanceWindow{
			Day: day, StartTime: &timeofday.TimeOfDay{Hours: int32(w.Hour), Minutes: int32(w.Minute)}, Duration: durationpb.New(time.Hour),
		})
	}
	return out
}

// identity is the service account that imports and exports are done as. Here it is a name that can't be anybody's: the server uses the
// credentials of its own configuration, and a permission that is given to this name helps nobody.
func identity(project string) string {
	if domain, id, scoped := strings.Cut(project, ":"); scoped {
		project = id + "." + domain
	}
	return "serviceAccount:redis@" + project + ".sealane.invalid"
}

// instanceProto is an instance as the API shows it.
func instanceProto(i instance.Instance) (*redispb.Instance, error) {
	out := &redispb.Instance{
		Name:                  i.Name.String(),
		DisplayName:           i.Spec.DisplayName,
		Labels:                i.Spec.Labels,
		LocationId:            i.Spec.LocationID,
		AlternativeLocationId: i.Spec.AlternativeLocationID,
		CurrentLocationId:     i.CurrentLocationID(),
		RedisVersion:          i.Spec.RedisVersion,
		ReservedIpRange:       i.Spec.ReservedIPRange,
		CreateTime:            timestamppb.New(i.Created),
		State:                 redispb.Instance_State(redispb.Instance_State_value[string(i.State)]),
		StatusMessage:         i.StatusMessage,
		RedisConfigs:          i.Spec.RedisConfigs,
		Tier:                  tierProto(i.Spec.Tier),
		ReplicaCount:          i.Spec.ReplicaCount,
		SecondaryIpRange:      i.Spec.SecondaryIPRange,
		MemorySizeGb:          i.Spec.MemorySizeGB,
		AuthorizedNetwork:     i.Spec.AuthorizedNetwork,
		ConnectMode:           redispb.Instance_ConnectMode(redispb.Instance_ConnectMode_value[i.Spec.ConnectMode]),
		AuthEnabled:           i.Spec.AuthEnabled,
		TransitEncryptionMode: redispb.Instance_DISABLED,
		ReadReplicasMode:      readReplicasMode(i.Spec.ReadReplicas),
		PersistenceConfig:     persistenceProto(i),

		PersistenceIamIdentity:       identity(i.Name.Project),
		MaintenancePolicy:            maintenancePolicyProto(i.Spec.Maintenance),
		MaintenanceVersion:           i.MaintenanceVersion,
		AvailableMaintenanceVersions: i.AvailableMaintenanceVersions,
	}
	if m := i.Schedule; m != nil {
		out.MaintenanceSchedule = &redispb.MaintenanceSchedule{
			StartTime: timestamppb.New(m.Start), EndTime: timestamppb.New(m.End), ScheduleDeadlineTime: timestamppb.New(m.Deadline),
		}
	}
	if i.Spec.TransitEncryption {
		out.TransitEncryptionMode = redispb.Instance_SERVER_AUTHENTICATION
	}
	if i.State == instance.Creating {
		return out, nil // there is nothing to connect to yet
	}
	out.Host, out.Port = i.Host, int32(i.Port)
	showNodes(out, i)
	for _, ca := range i.ServerCAs {
		d, err := pki.Describe(ca.Certificate)
		if err != nil {
			return nil, err
		}
		out.ServerCaCerts = append(out.ServerCaCerts, &redispb.TlsCertificate{
			SerialNumber: d.Serial, Cert: d.PEM, CreateTime: timestamppb.New(ca.Created),
			ExpireTime: timestamppb.New(d.NotAfter), Sha1Fingerprint: d.SHA1Fingerprint,
		})
	}
	return out, nil
}

// operationProto is an operation as the API shows it.
func operationProto(op instance.Operation, of instance.Instance) (*longrunningpb.Operation, error) {
	metadata := &redispb.OperationMetadata{
		CreateTime:      timestamppb.New(op.Created),
		Target:          of.Name.String(),
		Verb:            string(op.Verb),
		StatusDetail:    op.Detail,
		CancelRequested: op.CancelRequested,
		ApiVersion:      op.APIVersion,
	}
	out := &longrunningpb.Operation{Name: of.Name.OperationName(op.ID), Done: op.Done}
	if op.Done {
		metadata.EndTime = timestamppb.New(op.Ended)
	}
	var err error
	// Older recordings of the managed service have google.cloud.common.OperationMetadata here, which official clients don't know.
	if out.Metadata, err = anypb.New(metadata); err != nil {
		return nil, err
	}
	switch {
	case !op.Done:
		return out, nil
	case op.Failure != nil:
		out.Result = &longrunningpb.Operation_Error{Error: &rpcstatus.Status{
			Code: int32(grpcCodes[op.Failure.Code]), Message: op.Failure.Message,
		}}
		return out, nil
	}
	response, err := operationResponse(op, of)
	if err != nil {
		return nil, err
	}
	out.Result = &longrunningpb.Operation_Response{Response: response}
	return out, nil
}

func operationResponse(op instance.Operation, of instance.Instance) (*anypb.Any, error) {
	if op.Verb == instance.Delete {
		return anypb.New(&emptypb.Empty{})
	}
	var msg proto.Message
	msg, err := instanceProto(of)
	if err != nil {
		return nil, err
	}
	if op.APIVersion == betaVersion {
		if msg, err = toBeta(msg); err != nil {
			return nil, err
		}
	}
	return anypb.New(msg)
}

package api

import (
	"fmt"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
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
	}
	known(&p, "tier", in.GetTier(), redispb.Instance_Tier_name)
	switch in.GetTier() {
	case redispb.Instance_TIER_UNSPECIFIED:
		p.invalid("tier", "is required: want BASIC")
	case redispb.Instance_STANDARD_HA:
		p.missing("tier", "STANDARD_HA is not there yet: want BASIC")
	}
	known(&p, "connect_mode", in.GetConnectMode(), redispb.Instance_ConnectMode_name)
	spec.ConnectMode = redispb.Instance_DIRECT_PEERING.String()
	if m := in.GetConnectMode(); m != redispb.Instance_CONNECT_MODE_UNSPECIFIED {
		spec.ConnectMode = m.String()
	}
	known(&p, "transit_encryption_mode", in.GetTransitEncryptionMode(), redispb.Instance_TransitEncryptionMode_name)
	spec.TransitEncryption = in.GetTransitEncryptionMode() == redispb.Instance_SERVER_AUTHENTICATION
	known(&p, "read_replicas_mode", in.GetReadReplicasMode(), redispb.Instance_ReadReplicasMode_name)
	spec.SnapshotPeriod = p.persistence(in.GetPersistenceConfig())
	p.notYet(in)
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
		return instance.NewViolations(instance.Unimplemented, p.absent)
	}
	return nil
}

func (p *problems) persistence(c *redispb.PersistenceConfig) time.Duration {
	known(p, "persistence_config.persistence_mode", c.GetPersistenceMode(), redispb.PersistenceConfig_PersistenceMode_name)
	known(p, "persistence_config.rdb_snapshot_period", c.GetRdbSnapshotPeriod(), redispb.PersistenceConfig_SnapshotPeriod_name)
	if c.GetRdbSnapshotStartTime() != nil {
		p.missing("persistence_config.rdb_snapshot_start_time", "is not there yet: leave it out")
	}
	if c.GetPersistenceMode() != redispb.PersistenceConfig_RDB {
		return 0
	}
	if period, ok := snapshotPeriods[c.GetRdbSnapshotPeriod()]; ok {
		return period
	}
	return 24 * time.Hour // the default that the API documents
}

// notYet refuses, by name, what would otherwise be ignored.
func (p *problems) notYet(in *redispb.Instance) {
	for _, f := range []struct {
		field string
		asked bool
	}{
		{"replica_count", in.GetReplicaCount() != 0},
		{"read_replicas_mode", in.GetReadReplicasMode() == redispb.Instance_READ_REPLICAS_ENABLED},
		{"secondary_ip_range", in.GetSecondaryIpRange() != ""},
		{"customer_managed_key", in.GetCustomerManagedKey() != ""},
		{"maintenance_policy", in.GetMaintenancePolicy() != nil},
		{"maintenance_version", in.GetMaintenanceVersion() != ""},
	} {
		if f.asked {
			p.missing(f.field, "is not there yet: leave it out")
		}
	}
}

// instanceProto is an instance as the API shows it.
func instanceProto(i instance.Instance) (*redispb.Instance, error) {
	out := &redispb.Instance{
		Name:                  i.Name.String(),
		DisplayName:           i.Spec.DisplayName,
		Labels:                i.Spec.Labels,
		LocationId:            i.Spec.LocationID,
		AlternativeLocationId: i.Spec.AlternativeLocationID,
		CurrentLocationId:     i.Spec.LocationID,
		RedisVersion:          i.Spec.RedisVersion,
		ReservedIpRange:       i.Spec.ReservedIPRange,
		CreateTime:            timestamppb.New(i.Created),
		State:                 redispb.Instance_State(redispb.Instance_State_value[string(i.State)]),
		StatusMessage:         i.StatusMessage,
		RedisConfigs:          i.Spec.RedisConfigs,
		Tier:                  redispb.Instance_BASIC,
		MemorySizeGb:          i.Spec.MemorySizeGB,
		AuthorizedNetwork:     i.Spec.AuthorizedNetwork,
		ConnectMode:           redispb.Instance_ConnectMode(redispb.Instance_ConnectMode_value[i.Spec.ConnectMode]),
		AuthEnabled:           i.Spec.AuthEnabled,
		TransitEncryptionMode: redispb.Instance_DISABLED,
		ReadReplicasMode:      redispb.Instance_READ_REPLICAS_DISABLED,
		PersistenceConfig:     &redispb.PersistenceConfig{PersistenceMode: redispb.PersistenceConfig_DISABLED},
	}
	if i.Spec.TransitEncryption {
		out.TransitEncryptionMode = redispb.Instance_SERVER_AUTHENTICATION
	}
	for period, d := range snapshotPeriods {
		if d == i.Spec.SnapshotPeriod {
			out.PersistenceConfig = &redispb.PersistenceConfig{PersistenceMode: redispb.PersistenceConfig_RDB, RdbSnapshotPeriod: period}
		}
	}
	if i.State == instance.Creating {
		return out, nil // there is nothing to connect to yet
	}
	out.Host, out.Port = i.Host, int32(i.Port)
	for _, id := range i.Nodes() {
		out.Nodes = append(out.Nodes, &redispb.NodeInfo{Id: id, Zone: i.Spec.LocationID})
	}
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

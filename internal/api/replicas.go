package api

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"

	"github.com/sealane/sealane/internal/instance"
)

// FailoverInstance makes a replica the primary.
func (s *redisServer) FailoverInstance(ctx context.Context, r *redispb.FailoverInstanceRequest) (*longrunningpb.Operation, error) {
	return s.begin(ctx, r.GetName(), func(name instance.Name, p *problems) (instance.Operation, error) {
		mode := r.GetDataProtectionMode()
		known(p, "data_protection_mode", mode, redispb.FailoverInstanceRequest_DataProtectionMode_name)
		if err := p.err(); err != nil {
			return instance.Operation{}, err
		}
		i, err := s.manager.Get(name)
		if err != nil {
			return instance.Operation{}, err
		}
		if i.Spec.Tier != instance.StandardHA {
			p.missing("tier", fmt.Sprintf("'%s' is BASIC, so it has no replica to fail over to; `sealane instances restart %s` restarts its engine", name, name.ID))
			return instance.Operation{}, p.err()
		}
		return s.manager.Failover(ctx, name, mode == redispb.FailoverInstanceRequest_FORCE_DATA_LOSS, apiVersion(ctx))
	})
}

// readReplicas reads whether an instance is to have read replicas. It has none where nobody says.
func (p *problems) readReplicas(in *redispb.Instance) bool {
	known(p, "read_replicas_mode", in.GetReadReplicasMode(), redispb.Instance_ReadReplicasMode_name)
	return in.GetReadReplicasMode() == redispb.Instance_READ_REPLICAS_ENABLED
}

func readReplicasMode(enabled bool) redispb.Instance_ReadReplicasMode {
	if enabled {
		return redispb.Instance_READ_REPLICAS_ENABLED
	}
	return redispb.Instance_READ_REPLICAS_DISABLED
}

func tierProto(t instance.Tier) redispb.Instance_Tier {
	if t == instance.StandardHA {
		return redispb.Instance_STANDARD_HA
	}
	return redispb.Instance_BASIC // also of records from before there were tiers
}

// showNodes fills in an instance's nodes, and where its replicas are read.
func showNodes(out *redispb.Instance, i instance.Instance) {
	host, port := i.ReadEndpoint()
	out.ReadEndpoint, out.ReadEndpointPort = host, int32(port)
	for _, n := range i.NodeInfos() {
		out.Nodes = append(out.Nodes, &redispb.NodeInfo{Id: n.ID, Zone: n.Zone})
	}
}

// replicaFields are those that an update may name together with read_replicas_mode.
var replicaFields = []string{"read_replicas_mode", "replica_count", "secondary_ip_range"}

// enableReadReplicas completes an update that enables read replicas, and refuses one that changes anything else too: as in the managed
// service, that is an update of its own. fields are what the mask names.
func (u *update) enableReadReplicas(fields []string) {
	was := u.current.Spec
	if was.Tier != instance.StandardHA || was.ReadReplicas || u.in.GetReadReplicasMode() != redispb.Instance_READ_REPLICAS_ENABLED ||
		!slices.Contains(fields, "read_replicas_mode") {
		return
	}
	if others := slices.DeleteFunc(slices.Clone(fields), func(f string) bool { return slices.Contains(replicaFields, f) }); len(others) > 0 {
		u.invalid("update_mask", fmt.Sprintf("read_replicas_mode READ_REPLICAS_ENABLED goes with %s only: want %s in another update", strings.Join(replicaFields[1:], " and "), strings.Join(others, ", ")))
	}
	if !slices.Contains(fields, "replica_count") {
		u.set(func(s *instance.Spec) { s.ReplicaCount = 0 }) // their default
	}
}

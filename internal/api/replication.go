package api

import (
	"context"
	"log/slog"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/instance"
)

// replicationsServer is sealane.v1.Replications. Its methods only translate.
type replicationsServer struct {
	sealanepb.UnimplementedReplicationsServer
	manager *instance.Manager
	log     *slog.Logger
}

func (s *replicationsServer) GetReplication(ctx context.Context, r *sealanepb.GetReplicationRequest) (*sealanepb.Replication, error) {
	name, err := replicationPart.parse("name", r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	i, err := s.manager.Get(name)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	out := &sealanepb.Replication{Name: r.GetName()}
	if i.State == instance.Creating {
		return out, nil
	}
	for _, n := range i.NodeInfos() {
		out.Nodes = append(out.Nodes, nodeProto(n))
	}
	for _, f := range slices.Backward(failovers(i)) {
		out.Failovers = append(out.Failovers, &sealanepb.Failover{
			EndTime: timestamppb.New(f.Time), Duration: durationpb.New(f.Took), Reason: f.Reason, Planned: f.Planned,
			FromNode: instance.NodeName(f.From), ToNode: instance.NodeName(f.To),
		})
	}
	return out, nil
}

// failovers are an instance's last changes of the primary, oldest first.
func failovers(i instance.Instance) []instance.FailoverRecord {
	if i.Replication == nil {
		return nil
	}
	return i.Replication.Failovers
}

func nodeProto(n instance.NodeInfo) *sealanepb.Node {
	out := &sealanepb.Node{Id: n.ID, Zone: n.Zone, Role: sealanepb.Node_REPLICA, InSync: n.InSync, Offset: n.Offset, Problem: n.Fault}
	if n.Primary {
		out.Role, out.InSync = sealanepb.Node_PRIMARY, true
	}
	if n.Lag > 0 {
		out.Lag = durationpb.New(n.Lag)
	}
	return out
}

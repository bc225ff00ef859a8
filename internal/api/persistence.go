package api

import (
	"context"
	"log/slog"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/snapshot"
)

// persistencesServer is sealane.v1.Persistences. Its methods only translate.
type persistencesServer struct {
	sealanepb.UnimplementedPersistencesServer
	manager *instance.Manager
	log     *slog.Logger
}

func (s *persistencesServer) GetPersistence(ctx context.Context, r *sealanepb.GetPersistenceRequest) (*sealanepb.Persistence, error) {
	name, err := persistencePart.parse("name", r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	p, err := s.manager.Snapshots.Get(ctx, name)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	out := &sealanepb.Persistence{Name: r.GetName(), Problem: p.Problem}
	if p.Schedule.Period == 0 {
		return out, nil
	}
	out.Enabled, out.StartTime, out.Period = true, timestamppb.New(p.Schedule.Start), durationpb.New(p.Schedule.Period)
	out.NextSnapshotTime = timeUnlessZero(p.Next)
	if p.InProgress {
		out.InProgressSince = timeUnlessZero(p.Began)
	}
	if good, ok := p.Runs.LastGood(); ok {
		out.LastGoodSnapshot = snapshotProto(good)
	}
	return out, nil
}

func (s *persistencesServer) ListSnapshots(ctx context.Context, r *sealanepb.ListSnapshotsRequest) (*sealanepb.ListSnapshotsResponse, error) {
	name, err := instance.ParseName("parent", r.GetParent())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	p, err := s.manager.Snapshots.Get(ctx, name)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	out := &sealanepb.ListSnapshotsResponse{NextSnapshotTime: timeUnlessZero(p.Next), Problem: p.Problem}
	for _, run := range slices.Backward(p.Runs) {
		out.Snapshots = append(out.Snapshots, snapshotProto(run))
	}
	return out, nil
}

func snapshotProto(r snapshot.Run) *sealanepb.Snapshot {
	return &sealanepb.Snapshot{
		DueTime: timeUnlessZero(r.Due), StartTime: timeUnlessZero(r.Started), EndTime: timeUnlessZero(r.Finished), Size: r.Size, Failure: r.Failure,
	}
}

package api

import (
	"context"
	"log/slog"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/instance"
)

// enginesServer is sealane.v1.Engines. Its methods only translate.
type enginesServer struct {
	sealanepb.UnimplementedEnginesServer
	manager *instance.Manager
	log     *slog.Logger
}

func (s *enginesServer) GetEngine(ctx context.Context, r *sealanepb.GetEngineRequest) (*sealanepb.Engine, error) {
	name, err := enginePart.parse("name", r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return s.show(ctx, name)
}

func (s *enginesServer) RestartEngine(ctx context.Context, r *sealanepb.RestartEngineRequest) (*sealanepb.Engine, error) {
	name, err := enginePart.parse("name", r.GetName())
	if err == nil {
		err = s.manager.Engines.Restart(ctx, name, r.GetForce())
	}
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return s.show(ctx, name)
}

func (s *enginesServer) show(ctx context.Context, name instance.Name) (*sealanepb.Engine, error) {
	e, err := s.manager.Engines.Get(ctx, name)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	memory := s.manager.Engines.SystemMemory(ctx, name)
	return &sealanepb.Engine{
		SystemMemoryBytes: memory.Total, SystemMemoryUsedBytes: memory.Used(), SystemMemoryUsageRatio: memory.Ratio(),
		Name:             enginePart.of(name),
		MemoryLimitBytes: e.Memory.Limit, MemoryLimitedBy: e.Memory.By, MemoryLimitProblem: e.Memory.Problem,
		LastExit: e.LastExit, LastExitTime: timeUnlessZero(e.LastExitTime),
	}, nil
}

package api

import (
	"context"
	"log/slog"
	"time"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/instance"
)

// defaultGrace is for how long a replaced AUTH string is accepted when a request doesn't say.
const defaultGrace = time.Hour

// authStringsServer is sealane.v1.AuthStrings.
type authStringsServer struct {
	sealanepb.UnimplementedAuthStringsServer
	manager *instance.Manager
	log     *slog.Logger
}

func (s *authStringsServer) RotateAuthString(ctx context.Context, r *sealanepb.RotateAuthStringRequest) (*sealanepb.RotateAuthStringResponse, error) {
	grace := defaultGrace
	name, err := instance.ParseName("name", r.GetName())
	if r.GetGrace() != nil && err == nil {
		if err = r.GetGrace().CheckValid(); err != nil {
			var p problems
			p.invalid("grace", err.Error())
			err = p.err()
		}
		grace = r.GetGrace().AsDuration()
	}
	var until time.Time
	if err == nil {
		until, err = s.manager.AuthStrings.Rotate(ctx, name, grace)
	}
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return &sealanepb.RotateAuthStringResponse{OldExpireTime: timeUnlessZero(until)}, nil
}

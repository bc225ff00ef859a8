package api

import (
	"context"
	"fmt"
	"log/slog"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/rest"
)

// dataPlanesServer is sealane.v1.DataPlanes. Its methods only translate.
type dataPlanesServer struct {
	sealanepb.UnimplementedDataPlanesServer
	manager *instance.Manager
	log     *slog.Logger
}

// dataPaths are the API's data paths.
var dataPaths = map[sealanepb.DataPlane_DataPath]gateway.DataPath{
	sealanepb.DataPlane_TRANSPARENT: gateway.Transparent,
	sealanepb.DataPlane_MULTIPLEXED: gateway.Multiplexed,
}

func (s *dataPlanesServer) GetDataPlane(ctx context.Context, r *sealanepb.GetDataPlaneRequest) (*sealanepb.DataPlane, error) {
	name, err := dataPlanePart.parse("name", r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return s.show(ctx, name)
}

func (s *dataPlanesServer) UpdateDataPlane(ctx context.Context, r *sealanepb.UpdateDataPlaneRequest) (*sealanepb.DataPlane, error) {
	name, err := dataPlanePart.parse("data_plane.name", r.GetDataPlane().GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	change, err := dataPlaneChange(r.GetUpdateMask(), r.GetDataPlane())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	if err := s.manager.DataPlanes.Change(ctx, name, change); err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return s.show(ctx, name)
}

func (s *dataPlanesServer) show(ctx context.Context, name instance.Name) (*sealanepb.DataPlane, error) {
	p, err := s.manager.DataPlanes.Get(ctx, name)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return dataPlaneProto(name, p), nil
}

// dataPlaneChange reads what an update asks for, with a mask in either spelling.
func dataPlaneChange(mask *fieldmaskpb.FieldMask, in *sealanepb.DataPlane) (func(*instance.DataPlaneSettings), error) {
	const can = "data_path, min_tls_version, groups and tls12_ciphers can"
	var p problems
	if len(mask.GetPaths()) == 0 {
		p.invalid("update_mask", "is empty: want the fields to change: "+can)
	}
	var changes []func(*instance.DataPlaneSettings)
	for _, path := range mask.GetPaths() {
		switch rest.SnakeCase(path) {
		case "data_path":
			chosen, ok := dataPaths[in.GetDataPath()]
			if !ok {
				p.invalid("data_plane.data_path", fmt.Sprintf("%s: want TRANSPARENT or MULTIPLEXED", in.GetDataPath()))
			}
			changes = append(changes, func(s *instance.DataPlaneSettings) { s.Path = chosen })
		case "min_tls_version":
			changes = append(changes, func(s *instance.DataPlaneSettings) { s.TLS.MinTLSVersion = in.GetMinTlsVersion() })
		case "groups":
			changes = append(changes, func(s *instance.DataPlaneSettings) { s.TLS.Groups = in.GetGroups() })
		case "tls12_ciphers":
			changes = append(changes, func(s *instance.DataPlaneSettings) { s.TLS.TLS12Ciphers = in.GetTls12Ciphers() })
		default:
			p.invalid("update_mask", fmt.Sprintf("%q cannot be updated; %s", path, can))
		}
	}
	return func(s *instance.DataPlaneSettings) {
		for _, change := range changes {
			change(s)
		}
	}, p.err()
}

// dataPlaneProto is a data plane as the API shows it.
func dataPlaneProto(name instance.Name, p instance.DataPlane) *sealanepb.DataPlane {
	out := &sealanepb.DataPlane{
		Name:         dataPlanePart.of(name),
		Clients:      int32(p.Clients),
		ClientsLimit: int32(p.Limit),
		LimitedBy:    p.LimitedBy,
		Connections:  int32(p.Connections),
		ReadClients:  int32(p.ReadClients),

		ReadClientsLimit: int32(p.ReadLimit),

		Accepted: int64(p.Accepted),
		Rejected: int64(p.Rejected),
		Problem:  p.Problem,

		OldAuthExpireTime: timeUnlessZero(p.OldAuth),

		MinTlsVersion: p.TLS.MinTLSVersion,
		Groups:        p.TLS.Groups,
		Tls12Ciphers:  p.TLS.TLS12Ciphers,
	}
	for shown, path := range dataPaths {
		if path == p.Path {
			out.DataPath = shown
		}
	}
	return out
}

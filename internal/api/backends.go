package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/rest"
)

// backendsServer is sealane.v1.Backends. Its methods only translate.
type backendsServer struct {
	sealanepb.UnimplementedBackendsServer
	redis *redisServer
	log   *slog.Logger
}

func (s *backendsServer) CreateInstance(ctx context.Context, r *sealanepb.CreateBackendInstanceRequest) (*longrunningpb.Operation, error) {
	b, err := backendOf(r.GetBackend())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	op, err := s.redis.create(ctx, r, func(spec *instance.Spec) { spec.Backend = &b })
	return op, toStatus(ctx, s.log, err)
}

func (s *backendsServer) GetBackend(ctx context.Context, r *sealanepb.GetBackendRequest) (*sealanepb.Backend, error) {
	name, err := backendPart.parse("name", r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return s.show(ctx, name)
}

func (s *backendsServer) UpdateBackend(ctx context.Context, r *sealanepb.UpdateBackendRequest) (*sealanepb.Backend, error) {
	name, err := backendPart.parse("backend.name", r.GetBackend().GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	change, err := backendChange(r.GetUpdateMask(), r.GetBackend())
	if err == nil {
		err = s.redis.manager.Backends.Change(ctx, name, change, r.GetForce())
	}
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return s.show(ctx, name)
}

func (s *backendsServer) show(ctx context.Context, name instance.Name) (*sealanepb.Backend, error) {
	b, err := s.redis.manager.Backends.Get(name)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return &sealanepb.Backend{
		Name: backendPart.of(name), Address: b.Server.Address, Tls: b.Server.TLS, Ca: b.Server.CA, ServerName: b.Server.ServerName,
		Plaintext: b.Server.Plaintext, User: b.Server.User, HasPassword: b.HasPassword, Engine: b.Facts.Name(), UsedMemoryBytes: b.Facts.UsedMemory,
		ClientsLogIn: b.Facts.ClientsLogIn, Warnings: b.Warnings, Problem: b.Problem,
	}, nil
}

// parseAddress reads an address as people write it.
func parseAddress(address string) (backend.Server, error) {
	b, err := backend.Parse(address)
	if err != nil {
		var p problems
		p.invalid("backend.address", err.Error())
		return b, p.err()
	}
	return b, nil
}

// backendOf reads the backend of a create.
func backendOf(in *sealanepb.Backend) (backend.Server, error) {
	b, err := parseAddress(in.GetAddress())
	b.TLS, b.CA, b.ServerName, b.Plaintext = b.TLS || in.GetTls(), in.GetCa(), in.GetServerName(), in.GetPlaintext()
	b.User, b.Password = cmp.Or(in.GetUser(), b.User), in.GetPassword()
	return b, err
}

// backendChange reads what an update asks for, with a mask in either spelling.
func backendChange(mask *fieldmaskpb.FieldMask, in *sealanepb.Backend) (func(*backend.Server) error, error) {
	const can = "address, tls, ca, server_name, plaintext, user and password can"
	var p problems
	if len(mask.GetPaths()) == 0 {
		p.invalid("update_mask", "is empty: want the fields to change: "+can)
	}
	set := make(map[string]bool)
	for _, path := range mask.GetPaths() {
		switch name := rest.SnakeCase(path); name {
		case "address", "tls", "ca", "server_name", "plaintext", "user", "password":
			set[name] = true
		default:
			p.invalid("update_mask", fmt.Sprintf("%q cannot be updated; %s", path, can))
		}
	}
	var to backend.Server
	var err error
	if set["address"] {
		to, err = parseAddress(in.GetAddress())
	}
	return func(b *backend.Server) error {
		if set["address"] {
			saysTLS := strings.Contains(in.GetAddress(), "://") || strings.HasPrefix(to.Address, "unix:")
			b.Address, b.TLS, b.User = to.Address, to.TLS || b.TLS && !saysTLS, cmp.Or(to.User, b.User)
		}
		if set["tls"] {
			b.TLS = in.GetTls()
		}
		if set["ca"] {
			b.CA = in.GetCa()
		}
		if set["server_name"] {
			b.ServerName = in.GetServerName()
		}
		if set["plaintext"] {
			b.Plaintext = in.GetPlaintext()
		}
		if set["user"] {
			b.User = in.GetUser()
		}
		if set["password"] {
			b.Password = in.GetPassword()
		}
		return nil
	}, errors.Join(p.err(), err)
}

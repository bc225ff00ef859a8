package api

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	"google.golang.org/genproto/googleapis/cloud/location"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/authz"
	"github.com/sealane/sealane/internal/filter"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/rest"
)

// operationsServer is google.longrunning.Operations. WaitOperation has no path in REST, as in the managed service.
type operationsServer struct {
	longrunningpb.UnimplementedOperationsServer
	manager *instance.Manager
	waiter  *operationWaiter
	log     *slog.Logger
}

// maxWait is how long a WaitOperation takes at most.
const maxWait = 30 * time.Second

// operationFields are what operations can be filtered by.
var operationFields = filter.Fields[instance.OperationOf]{
	"name":                     func(o instance.OperationOf) any { return o.Instance.Name.OperationName(o.ID) },
	"done":                     func(o instance.OperationOf) any { return o.Done },
	"metadata.verb":            func(o instance.OperationOf) any { return string(o.Verb) },
	"metadata.target":          func(o instance.OperationOf) any { return o.Instance.Name.String() },
	"metadata.createTime":      func(o instance.OperationOf) any { return o.Created },
	"metadata.endTime":         func(o instance.OperationOf) any { return o.Ended },
	"metadata.cancelRequested": func(o instance.OperationOf) any { return o.CancelRequested },
	"metadata.apiVersion":      func(o instance.OperationOf) any { return o.APIVersion },
	"metadata.statusDetail":    func(o instance.OperationOf) any { return o.Detail },
	"error.code": func(o instance.OperationOf) any {
		if o.Failure == nil {
			return int64(0)
		}
		return int64(grpcCodes[o.Failure.Code])
	},
	"error.message": func(o instance.OperationOf) any {
		if o.Failure == nil {
			return ""
		}
		return o.Failure.Message
	},
}

func init() {
	// The fields of metadata can be named without it, and in either spelling.
	for name, value := range maps.Clone(operationFields) {
		short := strings.TrimPrefix(name, "metadata.")
		operationFields[short], operationFields[rest.SnakeCase(name)], operationFields[rest.SnakeCase(short)] = value, value, value
	}
}

// locationFields are what locations, which are given by their ids, can be filtered by.
var locationFields = filter.Fields[string]{
	"name":        func(id string) any { return id },
	"locationId":  func(id string) any { return id },
	"location_id": func(id string) any { return id },
	"displayName": func(id string) any { return id },
}

// filtered are the items that match a filter.
func filtered[T any](items []T, text string, fields filter.Fields[T]) ([]T, error) {
	f, err := filter.Parse(text, fields)
	if err != nil {
		var p problems
		p.invalid("filter", err.Error())
		return nil, p.err()
	}
	return slices.DeleteFunc(items, func(i T) bool { return !f.Match(i) }), nil
}

func parseOperation(s string) (project, location, id string, err error) {
	parent, id, ok := strings.Cut(s, "/operations/")
	project, location, parentErr := instance.ParseParent("name", parent)
	if !ok || parentErr != nil || id == "" || strings.Contains(id, "/") {
		var p problems
		p.invalid("name", "\""+s+"\" is not the name of an operation: want projects/PROJECT/locations/LOCATION/operations/ID")
		return "", "", "", p.err()
	}
	return project, location, id, nil
}

// find finds an operation whose instance the caller has the permission for. Where it hasn't, it doesn't learn whether there is one.
func (s *operationsServer) find(ctx context.Context, permission access.Permission, name string) (instance.OperationOf, error) {
	project, location, id, err := parseOperation(name)
	if err != nil {
		return instance.OperationOf{}, err
	}
	of, err := s.manager.Operations.Get(project, location, id)
	at := access.Scope{Project: project, Location: location}
	if err == nil {
		at = instanceScope(of.Instance.Name)
	}
	if !access.Caller(ctx).May(permission, at) {
		return instance.OperationOf{}, authz.Denied(permission, name)
	}
	return of, err
}

func (s *operationsServer) GetOperation(ctx context.Context, r *longrunningpb.GetOperationRequest) (*longrunningpb.Operation, error) {
	of, err := s.find(ctx, access.OperationsGet, r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	out, err := s.waiter.answer(ctx, of, s.waiter.hold)
	return out, toStatus(ctx, s.log, err)
}

// WaitOperation waits for as long as the request says, but not longer than maxWait.
func (s *operationsServer) WaitOperation(ctx context.Context, r *longrunningpb.WaitOperationRequest) (*longrunningpb.Operation, error) {
	of, err := s.find(ctx, access.OperationsGet, r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	wait := maxWait
	if r.GetTimeout() != nil {
		wait = min(max(r.GetTimeout().AsDuration(), 0), maxWait)
	}
	out, err := s.waiter.answer(ctx, of, wait)
	return out, toStatus(ctx, s.log, err)
}

func (s *operationsServer) ListOperations(ctx context.Context, r *longrunningpb.ListOperationsRequest) (*longrunningpb.ListOperationsResponse, error) {
	project, location, err := instance.ParseParent("name", strings.TrimSuffix(r.GetName(), "/operations"))
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	all, err := s.manager.Operations.List(project, location)
	if err == nil {
		all, err = filtered(all, r.GetFilter(), operationFields)
	}
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	all = slices.DeleteFunc(all, func(o instance.OperationOf) bool {
		return !access.Caller(ctx).May(access.OperationsList, instanceScope(o.Instance.Name))
	})
	page, next, err := paginate(all, r.GetPageSize(), r.GetPageToken(), func(o instance.OperationOf) string { return o.ID }, newestFirst)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	out := &longrunningpb.ListOperationsResponse{NextPageToken: next}
	for _, of := range page {
		op, err := operationProto(of.Operation, of.Instance)
		if err != nil {
			return nil, toStatus(ctx, s.log, err)
		}
		out.Operations = append(out.Operations, op)
	}
	return out, nil
}

// newestFirst orders operations by id, which begins with the time.
func newestFirst(a, b string) int { return strings.Compare(b, a) }

func (s *operationsServer) CancelOperation(ctx context.Context, r *longrunningpb.CancelOperationRequest) (*emptypb.Empty, error) {
	of, err := s.find(ctx, access.OperationsCancel, r.GetName())
	if err == nil {
		err = s.manager.Operations.Cancel(of.Instance.Name.Project, of.Instance.Name.Location, of.ID)
	}
	return &emptypb.Empty{}, toStatus(ctx, s.log, err)
}

func (s *operationsServer) DeleteOperation(ctx context.Context, r *longrunningpb.DeleteOperationRequest) (*emptypb.Empty, error) {
	of, err := s.find(ctx, access.OperationsDelete, r.GetName())
	if err == nil {
		err = s.manager.Operations.Delete(of.Instance.Name.Project, of.Instance.Name.Location, of.ID)
	}
	return &emptypb.Empty{}, toStatus(ctx, s.log, err)
}

// locationsServer is google.cloud.location.Locations.
type locationsServer struct {
	manager *instance.Manager
	log     *slog.Logger
}

func (s *locationsServer) ListLocations(ctx context.Context, r *location.ListLocationsRequest) (*location.ListLocationsResponse, error) {
	project, _, err := instance.ParseParent("name", r.GetName()+"/locations/-")
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	names, err := s.manager.LocationNames(project)
	if err == nil {
		names, err = filtered(names, r.GetFilter(), locationFields)
	}
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		return !access.Caller(ctx).MayWithin(access.LocationsList, access.Scope{Project: project, Location: n})
	})
	page, next, err := paginate(names, r.GetPageSize(), r.GetPageToken(), func(n string) string { return n }, strings.Compare)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	out := &location.ListLocationsResponse{NextPageToken: next}
	for _, n := range page {
		l, err := locationProto(project, n)
		if err != nil {
			return nil, toStatus(ctx, s.log, err)
		}
		out.Locations = append(out.Locations, l)
	}
	return out, nil
}

func (s *locationsServer) GetLocation(ctx context.Context, r *location.GetLocationRequest) (*location.Location, error) {
	project, name, err := instance.ParseParent("name", r.GetName())
	if err == nil {
		err = instance.CheckParent("name", project, name)
	}
	if err == nil {
		err = s.manager.CheckLocation(project, name)
	}
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	out, err := locationProto(project, name)
	return out, toStatus(ctx, s.log, err)
}

func locationProto(project, name string) (*location.Location, error) {
	zones := make(map[string]*redispb.ZoneMetadata)
	for _, z := range instance.Zones(name) {
		zones[z] = &redispb.ZoneMetadata{}
	}
	metadata, err := anypb.New(&redispb.LocationMetadata{AvailableZones: zones})
	if err != nil {
		return nil, err
	}
	return &location.Location{
		Name: "projects/" + project + "/locations/" + name, LocationId: name, DisplayName: name, Metadata: metadata,
	}, nil
}

// locationsDesc describes the Locations service; the generated package keeps its own description to itself.
var locationsDesc = grpc.ServiceDesc{
	ServiceName: "google.cloud.location.Locations",
	HandlerType: (*location.LocationsServer)(nil),
	Methods: []grpc.MethodDesc{
		{MethodName: "ListLocations", Handler: unary("/google.cloud.location.Locations/ListLocations", (*locationsServer).ListLocations)},
		{MethodName: "GetLocation", Handler: unary("/google.cloud.location.Locations/GetLocation", (*locationsServer).GetLocation)},
	},
	Metadata: "google/cloud/location/locations.proto",
}

// unary makes the handler that protoc-gen-go-grpc would generate.
func unary[S, Q, R any](fullMethod string, method func(S, context.Context, *Q) (*R, error)) grpc.MethodHandler {
	return func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		in := new(Q)
		if err := dec(in); err != nil {
			return nil, err
		}
		handler := func(ctx context.Context, req any) (any, error) { return method(srv.(S), ctx, req.(*Q)) }
		if interceptor == nil {
			return handler(ctx, in)
		}
		return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: fullMethod}, handler)
	}
}

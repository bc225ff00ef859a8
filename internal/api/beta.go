package api

import (
	"context"
	"fmt"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	betapb "cloud.google.com/go/redis/apiv1beta1/redispb"
	"google.golang.org/protobuf/proto"
)

// betaServer is google.cloud.redis.v1beta1.CloudRedis: the same messages on the wire, fewer fields. It turns
// every request into v1's and every answer back.
type betaServer struct {
	betapb.UnimplementedCloudRedisServer
	v1 *redisServer
}

func (s *betaServer) ListInstances(ctx context.Context, r *betapb.ListInstancesRequest) (*betapb.ListInstancesResponse, error) {
	return viaV1(ctx, r, &redispb.ListInstancesRequest{}, s.v1.ListInstances, &betapb.ListInstancesResponse{})
}

func (s *betaServer) GetInstance(ctx context.Context, r *betapb.GetInstanceRequest) (*betapb.Instance, error) {
	return viaV1(ctx, r, &redispb.GetInstanceRequest{}, s.v1.GetInstance, &betapb.Instance{})
}

func (s *betaServer) GetInstanceAuthString(ctx context.Context, r *betapb.GetInstanceAuthStringRequest) (*betapb.InstanceAuthString, error) {
	return viaV1(ctx, r, &redispb.GetInstanceAuthStringRequest{}, s.v1.GetInstanceAuthString, &betapb.InstanceAuthString{})
}

func (s *betaServer) CreateInstance(ctx context.Context, r *betapb.CreateInstanceRequest) (*longrunningpb.Operation, error) {
	return viaV1(ctx, r, &redispb.CreateInstanceRequest{}, s.v1.CreateInstance, &longrunningpb.Operation{})
}

func (s *betaServer) UpdateInstance(ctx context.Context, r *betapb.UpdateInstanceRequest) (*longrunningpb.Operation, error) {
	return viaV1(ctx, r, &redispb.UpdateInstanceRequest{}, s.v1.UpdateInstance, &longrunningpb.Operation{})
}

func (s *betaServer) DeleteInstance(ctx context.Context, r *betapb.DeleteInstanceRequest) (*longrunningpb.Operation, error) {
	return viaV1(ctx, r, &redispb.DeleteInstanceRequest{}, s.v1.DeleteInstance, &longrunningpb.Operation{})
}

func (s *betaServer) UpgradeInstance(ctx context.Context, r *betapb.UpgradeInstanceRequest) (*longrunningpb.Operation, error) {
	return viaV1(ctx, r, &redispb.UpgradeInstanceRequest{}, s.v1.UpgradeInstance, &longrunningpb.Operation{})
}

func (s *betaServer) ImportInstance(ctx context.Context, r *betapb.ImportInstanceRequest) (*longrunningpb.Operation, error) {
	return viaV1(ctx, r, &redispb.ImportInstanceRequest{}, s.v1.ImportInstance, &longrunningpb.Operation{})
}

func (s *betaServer) ExportInstance(ctx context.Context, r *betapb.ExportInstanceRequest) (*longrunningpb.Operation, error) {
	return viaV1(ctx, r, &redispb.ExportInstanceRequest{}, s.v1.ExportInstance, &longrunningpb.Operation{})
}

func (s *betaServer) FailoverInstance(ctx context.Context, r *betapb.FailoverInstanceRequest) (*longrunningpb.Operation, error) {
	return viaV1(ctx, r, &redispb.FailoverInstanceRequest{}, s.v1.FailoverInstance, &longrunningpb.Operation{})
}

func (s *betaServer) RescheduleMaintenance(ctx context.Context, r *betapb.RescheduleMaintenanceRequest) (*longrunningpb.Operation, error) {
	return viaV1(ctx, r, &redispb.RescheduleMaintenanceRequest{}, s.v1.RescheduleMaintenance, &longrunningpb.Operation{})
}

// viaV1 calls a method of v1 for a request of v1beta1. q is an empty request of v1, out an empty answer of v1beta1.
func viaV1[Q, R, B proto.Message](ctx context.Context, in proto.Message, q Q, call func(context.Context, Q) (R, error), out B) (B, error) {
	var none B
	if err := reinterpret(in, q); err != nil {
		return none, err
	}
	r, err := call(context.WithValue(ctx, versionKey{}, betaVersion), q)
	if err != nil {
		return none, err
	}
	if err := reinterpret(r, out); err != nil {
		return none, err
	}
	betaNumbers(out)
	return out, nil
}

// reinterpret copies a message into one of another type that is the same on the wire.
func reinterpret(from, to proto.Message) error {
	raw, err := proto.Marshal(from)
	if err == nil {
		err = proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, to)
	}
	if err != nil {
		return fmt.Errorf("turn %T into %T: %w", from, to, err)
	}
	return nil
}

// toBeta turns an Instance of v1 into one of v1beta1.
func toBeta(i proto.Message) (proto.Message, error) {
	out := &betapb.Instance{}
	err := reinterpret(i, out)
	betaNumbers(out)
	return out, err
}

// betaNumbers gives FAILING_OVER the number that it has in v1beta1 alone, in an answer with numbers of v1.
func betaNumbers(answer proto.Message) {
	const v1, beta = redispb.Instance_FAILING_OVER, betapb.Instance_FAILING_OVER
	switch m := answer.(type) {
	case *betapb.Instance:
		if m.State == betapb.Instance_State(v1) {
			m.State = beta
		}
	case *betapb.ListInstancesResponse:
		for _, i := range m.GetInstances() {
			betaNumbers(i)
		}
	case *redispb.Instance:
		if m.State == v1 {
			m.State = redispb.Instance_State(beta)
		}
	case *redispb.ListInstancesResponse:
		for _, i := range m.GetInstances() {
			betaNumbers(i)
		}
	}
}

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
	return out, reinterpret(r, out)
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
	return out, reinterpret(i, out)
}

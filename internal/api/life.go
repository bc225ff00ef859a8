package api

import (
	"context"
	"fmt"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"

	"github.com/sealane/sealane/internal/instance"
)

// These methods replace an instance's engine or its data.

func (s *redisServer) UpgradeInstance(ctx context.Context, r *redispb.UpgradeInstanceRequest) (*longrunningpb.Operation, error) {
	return s.begin(ctx, r.GetName(), func(name instance.Name, p *problems) (instance.Operation, error) {
		if r.GetRedisVersion() == "" {
			p.invalid("redis_version", "is required: want the version to upgrade to, such as REDIS_7_2")
			return instance.Operation{}, p.err()
		}
		return s.manager.Upgrade(ctx, name, r.GetRedisVersion(), apiVersion(ctx))
	})
}

func (s *redisServer) ImportInstance(ctx context.Context, r *redispb.ImportInstanceRequest) (*longrunningpb.Operation, error) {
	return s.begin(ctx, r.GetName(), func(name instance.Name, p *problems) (instance.Operation, error) {
		uri := r.GetInputConfig().GetGcsSource().GetUri()
		if uri == "" {
			p.invalid("input_config.gcs_source.uri", "is required: want gs://BUCKET/OBJECT.rdb")
			return instance.Operation{}, p.err()
		}
		return s.manager.Import(ctx, name, uri, apiVersion(ctx))
	})
}

func (s *redisServer) ExportInstance(ctx context.Context, r *redispb.ExportInstanceRequest) (*longrunningpb.Operation, error) {
	return s.begin(ctx, r.GetName(), func(name instance.Name, p *problems) (instance.Operation, error) {
		uri := r.GetOutputConfig().GetGcsDestination().GetUri()
		if uri == "" {
			p.invalid("output_config.gcs_destination.uri", "is required: want gs://BUCKET/OBJECT.rdb")
			return instance.Operation{}, p.err()
		}
		return s.manager.Export(ctx, name, uri, apiVersion(ctx))
	})
}

// rescheduleTypes are the API's.
var rescheduleTypes = map[redispb.RescheduleMaintenanceRequest_RescheduleType]instance.RescheduleType{
	redispb.RescheduleMaintenanceRequest_IMMEDIATE:             instance.Immediately,
	redispb.RescheduleMaintenanceRequest_NEXT_AVAILABLE_WINDOW: instance.NextAvailableWindow,
	redispb.RescheduleMaintenanceRequest_SPECIFIC_TIME:         instance.SpecificTime,
}

func (s *redisServer) RescheduleMaintenance(ctx context.Context, r *redispb.RescheduleMaintenanceRequest) (*longrunningpb.Operation, error) {
	return s.begin(ctx, r.GetName(), func(name instance.Name, p *problems) (instance.Operation, error) {
		how, ok := rescheduleTypes[r.GetRescheduleType()]
		if !ok {
			p.invalid("reschedule_type", fmt.Sprintf("%s: want IMMEDIATE, NEXT_AVAILABLE_WINDOW or SPECIFIC_TIME", r.GetRescheduleType()))
		}
		at := timeOf(p, "schedule_time", r.GetScheduleTime())
		switch specific := how == instance.SpecificTime; {
		case ok && specific && at.IsZero():
			p.invalid("schedule_time", "is required with SPECIFIC_TIME: want a time such as 2030-01-02T15:04:05Z")
		case ok && !specific && !at.IsZero():
			p.invalid("schedule_time", fmt.Sprintf("is for SPECIFIC_TIME only, and reschedule_type is %s: leave it out", how))
		}
		if err := p.err(); err != nil {
			return instance.Operation{}, err
		}
		return s.manager.RescheduleMaintenance(ctx, name, how, at, apiVersion(ctx))
	})
}

// begin reads an instance's name, begins an operation on it and answers with that.
func (s *redisServer) begin(ctx context.Context, of string, begin func(instance.Name, *problems) (instance.Operation, error)) (*longrunningpb.Operation, error) {
	name, err := instance.ParseName("name", of)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	op, err := begin(name, &problems{})
	out, err := s.begun(ctx, name, op, err)
	return out, toStatus(ctx, s.log, err)
}

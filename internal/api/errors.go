package api

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/sealane/sealane/internal/authz"
	"github.com/sealane/sealane/internal/instance"
)

// grpcCodes maps the domain's classes of errors to gRPC's. Package rest maps those to HTTP's.
var grpcCodes = map[instance.Code]codes.Code{
	instance.InvalidArgument:    codes.InvalidArgument,
	instance.NotFound:           codes.NotFound,
	instance.AlreadyExists:      codes.AlreadyExists,
	instance.FailedPrecondition: codes.FailedPrecondition,
	instance.ResourceExhausted:  codes.ResourceExhausted,
	instance.Unavailable:        codes.Unavailable,
	instance.Cancelled:          codes.Canceled,
	instance.Internal:           codes.Internal,
}

// ErrorDomain is the domain of every google.rpc.ErrorInfo that this API sends, but for authz.PermissionDenied.
const ErrorDomain = authz.ErrorDomain

// toStatus turns an error of the domain into what a caller gets. An error that isn't meant for callers is logged, and the caller
// gets authz.ErrInternal.
func toStatus(ctx context.Context, log *slog.Logger, err error) error {
	if err == nil {
		return nil
	}
	var e *instance.Error
	if !errors.As(err, &e) {
		if _, ok := status.FromError(err); ok {
			return err
		}
		log.ErrorContext(ctx, "internal error", "err", err)
		return authz.ErrInternal
	}
	if e.Err != nil {
		log.ErrorContext(ctx, "request failed", "err", e)
	}
	var details []protoadapt.MessageV1
	if e.Reason != "" {
		details = append(details, &errdetails.ErrorInfo{Reason: string(e.Reason), Domain: ErrorDomain, Metadata: e.Metadata})
	}
	if len(e.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range e.Violations {
			bad.FieldViolations = append(bad.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
		}
		details = append(details, bad)
	}
	return authz.WithDetails(status.New(grpcCodes[e.Code], e.Message), details...).Err()
}

// notEntered is the caller's error for a call that isn't made because it can't be entered into the log of calls.
func notEntered(log *slog.Logger) func(context.Context, error) error {
	return func(ctx context.Context, err error) error {
		err = instance.StateError("write", err)
		var e *instance.Error
		if errors.As(err, &e) {
			e.Message += "; a change that can't be entered into the log of calls is not made"
		}
		return toStatus(ctx, log, err)
	}
}

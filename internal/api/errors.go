package api

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

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

// ErrorDomain is the domain of every google.rpc.ErrorInfo that this API sends. It says whose reasons they are.
const ErrorDomain = "sealane"

// The reasons that have to do with who calls. All other reasons are those of package instance.
const (
	TokenInvalid = "TOKEN_INVALID" // there is no token, or it is none of the server's
	TokenExpired = "TOKEN_EXPIRED" // metadata: token, its id
	TokenRevoked = "TOKEN_REVOKED" // metadata: token, its id
	// PermissionDenied has the managed service's domain, access.Service. Metadata: permission, resource.
	PermissionDenied = "IAM_PERMISSION_DENIED"
)

// errInternal is the caller's version of an error whose text is not meant for callers.
var errInternal = status.Error(codes.Internal, "internal error: see the server's log")

// toStatus turns an error of the domain into what a caller gets. An error that isn't meant for callers is logged, and the caller
// gets errInternal.
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
		return errInternal
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
	return withDetails(status.New(grpcCodes[e.Code], e.Message), details...).Err()
}

// withDetails returns the status with the details; without them where they can't be encoded, because the status matters more.
func withDetails(st *status.Status, details ...protoadapt.MessageV1) *status.Status {
	if with, err := st.WithDetails(details...); err == nil {
		return with
	}
	return st
}

package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/protoadapt"

	"github.com/sealane/sealane/internal/instance"
)

// grpcCodes maps the domain's classes of errors to gRPC's, and httpStatus maps those to HTTP's.
var grpcCodes = map[instance.Code]codes.Code{
	instance.InvalidArgument:    codes.InvalidArgument,
	instance.NotFound:           codes.NotFound,
	instance.AlreadyExists:      codes.AlreadyExists,
	instance.FailedPrecondition: codes.FailedPrecondition,
	instance.ResourceExhausted:  codes.ResourceExhausted,
	instance.Unimplemented:      codes.Unimplemented,
	instance.Unavailable:        codes.Unavailable,
	instance.Cancelled:          codes.Canceled,
	instance.Internal:           codes.Internal,
}

// httpStatus is the mapping that google/rpc/code.proto documents.
var httpStatus = map[codes.Code]int{
	codes.OK:                 http.StatusOK,
	codes.Canceled:           499,
	codes.Unknown:            http.StatusInternalServerError,
	codes.InvalidArgument:    http.StatusBadRequest,
	codes.DeadlineExceeded:   http.StatusGatewayTimeout,
	codes.NotFound:           http.StatusNotFound,
	codes.AlreadyExists:      http.StatusConflict,
	codes.PermissionDenied:   http.StatusForbidden,
	codes.Unauthenticated:    http.StatusUnauthorized,
	codes.ResourceExhausted:  http.StatusTooManyRequests,
	codes.FailedPrecondition: http.StatusBadRequest,
	codes.Aborted:            http.StatusConflict,
	codes.OutOfRange:         http.StatusBadRequest,
	codes.Unimplemented:      http.StatusNotImplemented,
	codes.Internal:           http.StatusInternalServerError,
	codes.Unavailable:        http.StatusServiceUnavailable,
	codes.DataLoss:           http.StatusInternalServerError,
}

// statusNames are the names of google.rpc.Code; codes.Code.String spells them another way.
var statusNames = map[codes.Code]string{
	codes.Canceled: "CANCELLED", codes.Unknown: "UNKNOWN", codes.InvalidArgument: "INVALID_ARGUMENT",
	codes.DeadlineExceeded: "DEADLINE_EXCEEDED", codes.NotFound: "NOT_FOUND", codes.AlreadyExists: "ALREADY_EXISTS",
	codes.PermissionDenied: "PERMISSION_DENIED", codes.ResourceExhausted: "RESOURCE_EXHAUSTED",
	codes.FailedPrecondition: "FAILED_PRECONDITION", codes.Aborted: "ABORTED", codes.OutOfRange: "OUT_OF_RANGE",
	codes.Unimplemented: "UNIMPLEMENTED", codes.Internal: "INTERNAL", codes.Unavailable: "UNAVAILABLE",
	codes.DataLoss: "DATA_LOSS", codes.Unauthenticated: "UNAUTHENTICATED",
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

// writeError writes Google's error envelope.
func writeError(w http.ResponseWriter, err error) {
	st := status.Convert(err)
	code := httpStatus[st.Code()]
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		code = http.StatusRequestEntityTooLarge
	}
	writeEnvelope(w, code, st)
}

func writeEnvelope(w http.ResponseWriter, code int, st *status.Status) {
	body := map[string]any{"code": code, "message": st.Message(), "status": statusNames[st.Code()]}
	var details []json.RawMessage
	for _, d := range st.Proto().GetDetails() {
		if raw, err := protojson.Marshal(d); err == nil {
			details = append(details, raw)
		}
	}
	if details != nil {
		body["details"] = details
	}
	if st.Code() == codes.Unauthenticated {
		w.Header().Set("WWW-Authenticate", `Bearer realm="sealane"`)
	}
	writeJSON(w, code, map[string]any{"error": body})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil { // cannot be: all of it was JSON before
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "private")
	w.WriteHeader(code)
	w.Write(append(raw, '\n'))
}

package rest

import (
	"encoding/json"
	"errors"
	"net/http"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
)

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
	// It would be 501, after which gcloud and Python's client try again for half a minute and then blame the network.
	codes.Unimplemented: http.StatusBadRequest,
	codes.Internal:      http.StatusInternalServerError,
	codes.Unavailable:   http.StatusServiceUnavailable,
	codes.DataLoss:      http.StatusInternalServerError,
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

// StatusName is a code's name of google.rpc.Code.
func StatusName(code codes.Code) string {
	if code == codes.OK {
		return "OK"
	}
	return statusNames[code]
}

// violation is INVALID_ARGUMENT about one field, with the details that say so for programs.
func violation(field, message string) error {
	return badRequest(message, &errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: message}},
	})
}

func badRequest(message string, fields *errdetails.BadRequest) error {
	st := status.New(codes.InvalidArgument, message)
	if with, err := st.WithDetails(fields); err == nil { // it is no text otherwise; the code matters more
		st = with
	}
	return st.Err()
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
	writeJSON(w, code, map[string]any{"error": body}, false)
}

func writeJSON(w http.ResponseWriter, code int, v any, compact bool) {
	raw, err := json.MarshalIndent(v, "", "  ")
	if compact {
		raw, err = json.Marshal(v)
	}
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

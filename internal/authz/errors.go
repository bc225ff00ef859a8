package authz

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/sealane/sealane/internal/access"
)

// ErrorDomain is the domain of the google.rpc.ErrorInfo of what Sealane itself refuses. It says whose reasons they are.
const ErrorDomain = "sealane"

// The reasons that have to do with who calls.
const (
	TokenInvalid = "TOKEN_INVALID" // there is no token, or it is none of the server's
	TokenExpired = "TOKEN_EXPIRED" // metadata: token, its id
	TokenRevoked = "TOKEN_REVOKED" // metadata: token, its id
	// PermissionDenied has the managed service's domain, access.Service. Metadata: permission, resource.
	PermissionDenied = "IAM_PERMISSION_DENIED"
)

// ErrInternal is the caller's version of an error whose text is not meant for callers.
var ErrInternal = status.Error(codes.Internal, "internal error: see the server's log")

var errNoToken = errors.New("no token")

func unauthenticatedError(who access.Principal, because error) error {
	reason, message := TokenInvalid, "the request has no valid credentials: send the header \"authorization: Bearer TOKEN\" "+
		"with a token that `sealane tokens create` has made, or the administrator's, which is in the file admin.token of the server's state folder"
	const another = ": ask whoever administers the server for another one, which `sealane tokens create` makes"
	info := &errdetails.ErrorInfo{Domain: ErrorDomain}
	switch {
	case errors.Is(because, access.ErrExpired):
		reason, message = TokenExpired, fmt.Sprintf("the token %s has expired", who.ID)+another
	case errors.Is(because, access.ErrRevoked):
		reason, message = TokenRevoked, fmt.Sprintf("the token %s was revoked", who.ID)+another
	}
	if who.ID != "" {
		info.Metadata = map[string]string{"token": who.ID}
	}
	info.Reason = reason
	return WithDetails(status.New(codes.Unauthenticated, message), info).Err()
}

// maxShown bounds what an error or an entry repeats of a request.
const maxShown = 300

// Shortened is what an error, or an entry, repeats of a text of the caller's.
func Shortened(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "…"
}

// Denied is the error for a caller without a permission, in the managed service's words. It is the same whether the resource exists.
func Denied(permission access.Permission, resource string) error {
	resource = Shortened(resource)
	on := "resource"
	info := &errdetails.ErrorInfo{Reason: PermissionDenied, Domain: access.Service, Metadata: map[string]string{"permission": string(permission)}}
	if resource != "" {
		on = "resource '//" + access.Service + "/" + resource + "'"
		info.Metadata["resource"] = resource
	}
	return WithDetails(status.Newf(codes.PermissionDenied, "Permission '%s' denied on %s (or it may not exist).", permission, on), info).Err()
}

// badName is the error for what is not the name of a resource.
func badName(field, name string) error {
	why := fmt.Sprintf("%q is not the name of a resource that this method takes", Shortened(name))
	return WithDetails(status.New(codes.InvalidArgument, field+": "+why), &errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: why}},
	}).Err()
}

// WithDetails returns the status with the details; without them where they can't be encoded, because the status matters more.
func WithDetails(st *status.Status, details ...protoadapt.MessageV1) *status.Status {
	if with, err := st.WithDetails(details...); err == nil {
		return with
	}
	return st
}

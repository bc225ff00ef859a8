package instance

import (
	"errors"
	"fmt"
	"strings"
)

// Code is the class of an Error. Package api turns it into a gRPC and an HTTP status.
type Code string

const (
	InvalidArgument    Code = "invalid argument"
	NotFound           Code = "not found"
	AlreadyExists      Code = "already exists"
	FailedPrecondition Code = "failed precondition"
	ResourceExhausted  Code = "resource exhausted"
	Unavailable        Code = "unavailable"
	Cancelled          Code = "cancelled"
	Internal           Code = "internal"
)

// Violation is one wrong field of a request.
type Violation struct {
	Field       string // as the API spells it, snake_case
	Description string
}

// Error is what a caller may be told: Message is for people, Reason for programs. Err, which may be nil, is for the operator's log.
type Error struct {
	Code       Code
	Message    string
	Reason     Reason            // "": there is no more to know than the code
	Metadata   map[string]string // what the Reason's documentation says
	Violations []Violation
	Err        error
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }

func invalid(field, format string, args ...any) *Error {
	return NewViolations(InvalidArgument, []Violation{{field, fmt.Sprintf(format, args...)}})
}

// NewViolations is an error about fields of a request; its message holds all of them.
func NewViolations(code Code, vs []Violation) *Error {
	texts := make([]string, len(vs))
	for i, v := range vs {
		texts[i] = v.Field + ": " + v.Description
	}
	return &Error{Code: code, Message: strings.Join(texts, "; "), Violations: vs}
}

func precondition(format string, args ...any) *Error {
	return &Error{Code: FailedPrecondition, Message: fmt.Sprintf(format, args...)}
}

func notFound(name string) *Error {
	// This is word for word what the managed service says, because tools match on it.
	return &Error{Code: NotFound, Message: fmt.Sprintf("Resource '%s' was not found", name)}
}

// codeOf is the class of any error; an error that is not an Error is Internal.
func codeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

package objects

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Kind classes errors by what a caller can do.
type Kind string

// The kinds of errors.
const (
	InvalidURI          Kind = "INVALID_URI"           // the request is wrong
	BucketNotConfigured Kind = "BUCKET_NOT_CONFIGURED" // the server's configuration has no such bucket
	NotAllowed          Kind = "NOT_ALLOWED"           // the bucket is for other projects
	NotFound            Kind = "NOT_FOUND"             // no such object, bucket or folder
	PermissionDenied    Kind = "PERMISSION_DENIED"     // the server may not read or write there
	CredentialsRejected Kind = "CREDENTIALS_REJECTED"  // there are none, or the endpoint does not know them
	Unreachable         Kind = "UNREACHABLE"           // the endpoint does not answer, or says that it can't now
	DiskFull            Kind = "DISK_FULL"             // no room
	Changed             Kind = "CHANGED"               // the object was replaced while it was read
	Failed              Kind = "FAILED"                // anything else
)

// Error says why an object can't be read or written.
type Error struct {
	Kind Kind
	URI  string // "" for the configuration
	Text string // for the caller; it has no paths and no secrets
	Err  error  // for the log; nil if Text has it all
	hint string
}

func (e *Error) Error() string {
	if e.URI == "" {
		return e.Text
	}
	return e.URI + ": " + e.Text
}

func (e *Error) Unwrap() error { return e.Err }

// Hint is what to do about it.
func (e *Error) Hint() string { return e.hint }

func newError(k Kind, uri, text, hint string, args ...any) *Error {
	return &Error{Kind: k, URI: uri, Text: text, hint: fmt.Sprintf(hint, args...)}
}

// because adds the cause, for the log.
func (e *Error) because(err error) *Error {
	e.Err = err
	return e
}

// finish turns what a source returns into what a caller gets: the context's error where that has ended, else an *Error with the URI.
func finish(ctx context.Context, uri string, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var c *contentError
	if errors.As(err, &c) { // it is not the object's fault
		return c.err
	}
	var e *Error
	if !errors.As(err, &e) {
		e = newError(Failed, uri, "it can't be read or written", "the server's log has the cause").because(err)
	}
	if e.URI == "" {
		e.URI = uri
	}
	return e
}

// fileError classes an error of the file system. Its text has the reason and not the path, which is the operator's business.
func fileError(err error, verb string) error {
	var known *Error
	var content *contentError
	if err == nil || errors.As(err, &known) || errors.As(err, &content) {
		return err
	}
	reason := err
	var path *fs.PathError
	var link *os.LinkError
	if errors.As(err, &path) {
		reason = path.Err
	} else if errors.As(err, &link) {
		reason = link.Err
	}
	text := fmt.Sprintf("it can't be %s: %v", verb, reason)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return newError(NotFound, "", "there is no such object", "check the bucket's and the object's name").because(err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return newError(PermissionDenied, "", text, "let the user who runs `sealane serve` read and write the bucket's folder").because(err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return newError(DiskFull, "", "the disk of the bucket's folder is full", "free space there and try again; nothing was replaced").because(err)
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist):
		return newError(InvalidURI, "", text, "a part of its name is a folder where a file is wanted, or a file where a folder is; choose another name").because(err)
	}
	return newError(Failed, "", text, "the server's log says where; mend it and try again").because(err)
}

// Package hint carries what a person can do about an error along with it, from where that is known to the command that prints
// both ("sealane: error: …", "sealane: hint: …").
//
// The hint is no part of the error's text, so that an error that is wrapped, logged or sent over the API doesn't repeat it.
package hint

import (
	"errors"
	"fmt"
)

type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }
func (h *hinted) Hint() string  { return h.hint }

// Wrap adds a hint to an error.
func Wrap(err error, format string, args ...any) error {
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// Of returns the outermost hint in an error's chain, "" if there is none. An error of any type has one if it has the method
// Hint() string.
func Of(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

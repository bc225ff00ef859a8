package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// contentError is an error of what is being written, not of where.
type contentError struct{ err error }

func (c *contentError) Error() string { return c.err.Error() }
func (c *contentError) Unwrap() error { return c.err }

// exactly is the content of a Put: it has the size that was announced, or fails. Otherwise an endpoint would take what ends early for a
// whole object. Where the size isn't known (-1) the content says itself by io.EOF that it is whole.
type exactly struct {
	r        io.Reader
	size     int64
	done     int64
	ctx      context.Context
	progress func(done, total int64)
	err      error
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	if err := context.Cause(e.ctx); err != nil {
		e.err = &contentError{err}
		return 0, e.err
	}
	n, err := e.r.Read(p)
	e.done += int64(n)
	switch {
	case e.size >= 0 && (e.done > e.size || errors.Is(err, io.EOF) && e.done < e.size):
		e.err = &contentError{fmt.Errorf("export: %d bytes were announced, and %d came: %w", e.size, e.done, io.ErrUnexpectedEOF)}
	case err != nil && !errors.Is(err, io.EOF):
		e.err = &contentError{err}
	case err != nil:
		e.err = io.EOF
	}
	if e.progress != nil && n > 0 {
		e.progress(e.done, max(e.size, 0))
	}
	if e.err != nil && e.err != io.EOF {
		return 0, e.err
	}
	return n, e.err
}

const (
	// attempts is how often a read is begun or resumed without a byte in between.
	attempts   = 5
	firstPause = 100 * time.Millisecond
	// stalledAfter is how long an endpoint may say nothing. A connection can be dead without an error.
	stalledAfter = 2 * time.Minute
)

// resuming reads an object, and goes on where it was when the connection to the endpoint breaks.
type resuming struct {
	ctx      context.Context
	src      source
	object   string
	progress func(done, total int64)
	wrap     func(error) error

	size     int64
	modified time.Time
	version  string

	body   io.ReadCloser // nil: broken
	cancel context.CancelFunc
	stall  *time.Timer
	done   int64
	failed int // attempts since the last byte
	err    error
}

func openResuming(ctx context.Context, src source, object string, progress func(done, total int64)) (*resuming, error) {
	r := &resuming{ctx: ctx, src: src, object: object, progress: progress, wrap: func(err error) error { return err }}
	for {
		err := r.begin()
		if err == nil {
			return r, nil
		}
		if !r.again(err) {
			return nil, err
		}
	}
}

// begin opens the object at the place that was reached.
func (r *resuming) begin() error {
	if err := context.Cause(r.ctx); err != nil {
		return err
	}
	if r.done > 0 && r.version == "" { // what comes could be another object's
		return newError(Failed, "", "the connection broke, and its endpoint doesn't say whether the object is still the same", "try again")
	}
	ctx, cancel := context.WithCancel(r.ctx)
	stall := time.AfterFunc(stalledAfter, cancel)
	c, err := r.src.open(ctx, r.object, r.done, r.version)
	stall.Stop() // it counts while somebody reads
	if err != nil {
		if ctx.Err() != nil && r.ctx.Err() == nil {
			err = errStalled(err)
		}
		cancel()
		return err
	}
	r.body, r.cancel, r.stall = c.ReadCloser, cancel, stall
	if r.done == 0 {
		r.size, r.modified, r.version = c.size, c.modified, c.version
		return nil
	}
	if c.version != r.version || c.size != r.size { // the condition was ignored
		r.closeBody()
		return errChanged()
	}
	return nil
}

func errStalled(err error) *Error {
	return newError(Unreachable, "", fmt.Sprintf("the endpoint said nothing for %s", stalledAfter), "check the network, and try again").because(err)
}

// again waits, and is whether there is another attempt after an error.
func (r *resuming) again(err error) bool {
	var e *Error
	if !errors.As(err, &e) || e.Kind != Unreachable || r.ctx.Err() != nil {
		return false
	}
	if r.failed++; r.failed >= attempts {
		return false
	}
	pause := firstPause << (r.failed - 1)
	select {
	case <-r.ctx.Done():
		return false
	case <-time.After(pause + rand.N(pause)):
		return true
	}
}

func (r *resuming) Read(p []byte) (int, error) {
	for r.err == nil {
		if err := context.Cause(r.ctx); err != nil { // a file would be read on
			r.err = r.wrap(err)
			break
		}
		if r.body == nil {
			if err := r.begin(); err != nil {
				if !r.again(err) {
					r.err = r.wrap(err)
				}
				continue
			}
		}
		if n, more := r.readOnce(p); !more {
			return n, r.err
		}
	}
	return 0, r.err
}

// readOnce reads from the body that is open. There is more to do when that broke without a byte.
func (r *resuming) readOnce(p []byte) (n int, more bool) {
	r.stall.Reset(stalledAfter)
	n, err := r.body.Read(p)
	r.stall.Stop()
	if n > 0 {
		r.failed = 0
		r.done += int64(n)
		if r.progress != nil {
			r.progress(r.done, r.size)
		}
	}
	switch {
	case err == nil:
		return n, n == 0 && len(p) > 0
	case errors.Is(err, io.EOF) && (r.size == 0 || r.done == r.size):
		r.err = io.EOF
		return n, false
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	err = brokenRead(err)
	r.closeBody()
	if !r.again(err) {
		r.err = r.wrap(err)
	}
	return n, n == 0
}

// brokenRead classes an error in the middle of a body.
func brokenRead(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return newError(Unreachable, "", "the connection broke while it was read", "try again").because(err)
}

func (r *resuming) closeBody() {
	r.cancel()
	r.body.Close()
	r.body = nil
}

func (r *resuming) Close() error {
	if r.body != nil {
		r.stall.Stop()
		r.closeBody()
	}
	if r.err == nil {
		r.err = errClosed
	}
	return nil
}

var errClosed = errors.New("read of a closed object")

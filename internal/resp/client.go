package resp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Conn is what a Client needs of a connection. A net.Conn has it, and so has a *tls.Conn.
type Conn interface {
	io.ReadWriter
	SetDeadline(time.Time) error
}

// Client sends commands over one connection and waits for their replies. It is for a few commands with short replies, such
// as a login and a check: it neither opens nor closes the connection, and it has no pool and no second attempt.
//
// A Client belongs to one goroutine at a time.
type Client struct {
	conn   Conn
	limits Limits // MaxBulk bounds the whole reply
	in     []byte // what was read and is not yet returned
	broken error  // why the next reply can't be told from an earlier one; nil: it can
}

// NewClient is a client of the server at the other end of conn. It reads at most maxReply bytes of one reply. A reply may have
// 64 elements, or one for every 64 bytes of maxReply if that is more.
func NewClient(conn Conn, maxReply int) *Client {
	return &Client{conn: conn, limits: Limits{MaxBulk: maxReply, MaxElements: max(64, maxReply/64), MaxDepth: 8}}
}

// ReplyError is an error that a server answers with: a code, and words.
type ReplyError string

func (e ReplyError) Error() string { return string(e) }

// Code is the first word: ERR, NOAUTH, LOADING and so on.
func (e ReplyError) Code() string {
	code, _, _ := strings.Cut(string(e), " ")
	return code
}

// ReadError says that no whole reply came. Err is a *ProtocolError where the server does not speak RESP, or its reply is too
// long; the context's cause where that ended; else the connection's error.
type ReadError struct {
	Received []byte // the bytes that came in place of a reply; they are the server's and may hold anything
	Err      error
}

func (e *ReadError) Error() string { return fmt.Sprintf("read reply: %v", e.Err) }

func (e *ReadError) Unwrap() error { return e.Err }

// Do sends one command and returns its reply, as Pipeline does.
func (c *Client) Do(ctx context.Context, args ...string) (Value, error) {
	replies, err := c.Pipeline(ctx, args)
	if len(replies) == 0 {
		return Value{}, err
	}
	return replies[0], err
}

// Pipeline sends commands in one write and returns their replies, up to and including the first that is an error. The error
// is then a ReplyError; else it is a *ReadError, with the replies that came before. Pushes are passed over.
//
// The end of ctx ends the wait. A deadline that the connection has is lifted: it was for whatever came before.
//
// After any error but a ReplyError to the last command the Client is of no more use, and says so.
func (c *Client) Pipeline(ctx context.Context, commands ...[]string) ([]Value, error) {
	if c.broken == nil && ctx.Err() != nil {
		c.broken = &ReadError{Err: context.Cause(ctx)}
	}
	if c.broken != nil {
		return nil, c.broken
	}
	c.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	replies, err := c.exchange(commands)
	ended := !stop()
	if failed, ok := errors.AsType[*ReadError](err); ok && ended {
		failed.Err = context.Cause(ctx) // and not the deadline that was set to end the wait
	}
	switch {
	case errors.As(err, new(ReplyError)) && len(replies) < len(commands):
		c.broken = errors.New("replies of an earlier pipeline are still to come")
	case err != nil && !errors.As(err, new(ReplyError)):
		c.broken = err
	case ended:
		c.broken = &ReadError{Err: context.Cause(ctx)}
	}
	return replies, err
}

func (c *Client) exchange(commands [][]string) (replies []Value, err error) {
	var out []byte
	for _, args := range commands {
		out = AppendCommand(out, args...)
	}
	// A server that has no room for a client says so without reading, and closes. What it said is worth more than the error of
	// the write.
	_, writeErr := c.conn.Write(out)
	for range commands {
		v, err := c.receive()
		if err != nil {
			if writeErr != nil {
				err = fmt.Errorf("%w (%w)", err, writeErr)
			}
			return replies, &ReadError{Received: slices.Clone(c.in), Err: err}
		}
		replies = append(replies, v)
		if v.IsError() {
			return replies, ReplyError(v.Str)
		}
	}
	return replies, nil
}

// receive reads one reply. The cost grows with the square of its elements, which is why their number is bounded.
func (c *Client) receive() (Value, error) {
	for {
		v, n, err := ParseReply(c.in, c.limits)
		switch {
		case err == nil && v.Kind == Push:
			c.in = c.in[n:]
			continue
		case err == nil:
			c.in = c.in[n:]
			return v, nil
		case !errors.Is(err, ErrIncomplete):
			return Value{}, err
		case len(c.in) >= c.limits.MaxBulk:
			return Value{}, &ProtocolError{Offset: len(c.in), Reason: fmt.Sprintf("no end within %d bytes", c.limits.MaxBulk)}
		}
		have := len(c.in)
		c.in = slices.Grow(c.in, min(max(have, 512), c.limits.MaxBulk-have))
		n, err = c.conn.Read(c.in[have:min(cap(c.in), c.limits.MaxBulk)])
		if c.in = c.in[:have+n]; n == 0 && err != nil {
			return Value{}, err
		}
	}
}

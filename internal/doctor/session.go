package doctor

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

// maxReply is more than any answer to what is asked here has.
const maxReply = 64 << 10

// session is a connection on which a client would work.
type session struct {
	conn               net.Conn
	client             *resp.Client
	connect, handshake time.Duration
	resumed            bool
}

func (s *session) close() { s.conn.Close() }

// reply is an answer, or why there is none.
type reply struct {
	resp.Value
	received []byte // that came in place of a reply
	err      error
}

func (r reply) begins(prefix string) bool { return r.err == nil && strings.HasPrefix(r.Str, prefix) }

// do sends one command and reads its reply, which may be an error of the server's.
func (s *session) do(ctx context.Context, args ...string) reply {
	v, err := s.client.Do(ctx, args...)
	received, err := noReply(err)
	return reply{v, received, err}
}

// noReply is what came in place of a reply, and why. An error with which a server answers is a reply.
func noReply(err error) (received []byte, why error) {
	if errors.As(err, new(resp.ReplyError)) {
		return nil, nil
	}
	if read, ok := errors.AsType[*resp.ReadError](err); ok {
		return read.Received, read.Err
	}
	return nil, err
}

package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

// maxReply is more than any answer to what is asked here has.
const maxReply = 64 << 10

// ask sends requests and returns what comes back: n replies, or less and why. What is no RESP ends it as well.
func ask(c net.Conn, request []byte, n int) (raw []byte, err error) {
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	chunk := make([]byte, 4<<10)
	for {
		got, err := c.Read(chunk)
		raw = append(raw, chunk[:got]...)
		_, complete, parseErr := replies(raw, n)
		switch {
		case complete:
			return raw, nil
		case parseErr != nil:
			return raw, parseErr
		case err != nil:
			return raw, err
		case len(raw) > maxReply:
			return raw, fmt.Errorf("more than %d bytes without an end", maxReply)
		}
	}
}

// replies reads up to n replies; complete says that so many are there.
func replies(raw []byte, n int) (values []resp.Value, complete bool, err error) {
	for len(values) < n {
		v, size, err := resp.ParseReply(raw, resp.Limits{MaxElements: 64, MaxDepth: 4, MaxBulk: maxReply})
		if errors.Is(err, resp.ErrIncomplete) {
			return values, false, nil
		}
		if err != nil {
			return values, false, err
		}
		values, raw = append(values, v), raw[size:]
	}
	return values, true, nil
}

func requests(commands ...string) []byte {
	var b []byte
	for _, c := range commands {
		b = resp.AppendCommand(b, c)
	}
	return b
}

// reply is an answer, or why there is none.
type reply struct {
	resp.Value
	raw []byte
	err error
}

func (r reply) begins(prefix string) bool { return r.err == nil && strings.HasPrefix(r.Str, prefix) }

// session is a connection on which a client would work.
type session struct {
	net.Conn
	connect, handshake time.Duration
	resumed            bool
}

func (s *session) close() { s.Conn.Close() }

// do sends one command and reads its reply.
func (s *session) do(ctx context.Context, args ...string) reply {
	deadline, _ := ctx.Deadline()
	s.SetDeadline(deadline)
	raw, err := ask(s, resp.AppendCommand(nil, args...), 1)
	values, complete, _ := replies(raw, 1)
	if !complete {
		return reply{raw: raw, err: err}
	}
	return reply{Value: values[0], raw: raw}
}

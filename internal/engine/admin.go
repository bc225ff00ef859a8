package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/resp"
	"golang.org/x/sys/unix"
)

const (
	// adminUser is the control plane's user in the engine.
	adminUser = "sealane"
	// commandTimeout bounds one PING or INFO, from connect to the last reply.
	commandTimeout = 10 * time.Second
	// maxReply is far above any INFO.
	maxReply = 64 << 20
)

// ReplyError is an error that the engine answered with.
type ReplyError string

func (e ReplyError) Error() string { return string(e) }

// Code is the first word: ERR, LOADING, MISCONF and so on.
func (e ReplyError) Code() string {
	code, _, _ := strings.Cut(string(e), " ")
	return code
}

// IsBusy says whether an engine refused to answer because a script or a function runs for longer than its time limit.
func IsBusy(err error) bool {
	var reply ReplyError
	return errors.As(err, &reply) && reply.Code() == "BUSY"
}

// ErrUnkillable says that the script that runs in the engine has written, so that the engine will not end it.
var ErrUnkillable = errors.New("the script or function that is running has written, so the engine refuses to end it (UNKILLABLE)")

// KillScript ends the script or function that runs in the engine. It returns nil when the engine answers again, and
// ErrUnkillable when the engine refuses.
func (e *Engine) KillScript(ctx context.Context) error {
	// Which of the two runs is told by the answer; functions are there from 7.0 on.
	kill, other := []string{"SCRIPT", "KILL"}, []string{"FUNCTION", "KILL"}
	for {
		_, err := e.call(ctx, kill)
		var reply ReplyError
		if errors.As(err, &reply) {
			switch reply.Code() {
			case "UNKILLABLE":
				return fmt.Errorf("engine %s: %w", e.dir, ErrUnkillable)
			case "NOTBUSY":
				return nil
			case "BUSY":
				kill, other, err = other, kill, nil
			}
		}
		if err != nil {
			return fmt.Errorf("kill the script of engine %s: %w", e.dir, err)
		}
		// It ends a little later.
		if err := wait(ctx, e.Done()); err != nil {
			return err
		}
	}
}

// Info returns the fields of the sections of INFO, or of its default ones when none is named.
func (e *Engine) Info(ctx context.Context, sections ...string) (map[string]string, error) {
	// Before 7.0 the command takes one section only.
	cmds := [][]string{{"INFO"}}
	if len(sections) > 0 {
		cmds = nil
		for _, s := range sections {
			cmds = append(cmds, []string{"INFO", s})
		}
	}
	replies, err := e.call(ctx, cmds...)
	if err != nil {
		return nil, fmt.Errorf("info of engine %s: %w", e.dir, err)
	}
	info := make(map[string]string)
	for _, r := range replies {
		for line := range strings.Lines(r.Str) {
			if k, v, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok && !strings.HasPrefix(k, "#") {
				info[k] = v
			}
		}
	}
	return info, nil
}

// call is exchange within commandTimeout. An engine that has not answered by then is a *SilentError.
func (e *Engine) call(ctx context.Context, cmds ...[]string) ([]resp.Value, error) {
	if e.proc.Stopped() {
		return nil, e.silent(0)
	}
	limited, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	replies, err := e.exchange(limited, cmds...)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return nil, e.silent(commandTimeout)
	}
	return replies, err
}

// SilentError says that an engine's process lives and does not answer.
type SilentError struct {
	PID     int
	Stopped bool          // by a signal or a debugger
	For     time.Duration // since it was asked
}

func (e *SilentError) Error() string {
	if e.Stopped {
		return fmt.Sprintf("the engine (process %d) is stopped (SIGSTOP, or a debugger) and answers nobody until it is continued: kill -CONT %d", e.PID, e.PID)
	}
	return fmt.Sprintf("the engine (process %d) has not answered for %v", e.PID, e.For)
}

func (e *Engine) silent(d time.Duration) error {
	return &SilentError{PID: e.proc.Identity().PID, Stopped: e.proc.Stopped(), For: d}
}

// exchange logs in on a connection of its own, sends the commands and returns their replies. The first reply that is
// an error is returned as a ReplyError. If the login fails the engine runs the commands as the default user, to whom
// those that matter are forbidden, so a pipeline is safe.
func (e *Engine) exchange(ctx context.Context, cmds ...[]string) ([]resp.Value, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", Socket(e.dir))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	replies, err := pipeline(conn, append([][]string{{"AUTH", adminUser, e.password}}, cmds...))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx) // and not the deadline that was set to end the I/O
		}
		return nil, err
	}
	return replies[1:], nil
}

func pipeline(conn io.ReadWriter, cmds [][]string) ([]resp.Value, error) {
	var out []byte
	for _, c := range cmds {
		out = resp.AppendCommand(out, c...)
	}
	// An engine at its limit of clients answers without reading and closes: what it said is worth more than EPIPE.
	_, writeErr := conn.Write(out)
	replies := make([]resp.Value, 0, len(cmds))
	var in []byte
	chunk := make([]byte, 16<<10)
	for {
		v, n, err := resp.ParseReply(in, resp.Limits{MaxBulk: maxReply})
		switch {
		case errors.Is(err, resp.ErrIncomplete):
			n, err := conn.Read(chunk)
			if n == 0 && err != nil {
				return nil, errors.Join(writeErr, err)
			}
			in = append(in, chunk[:n]...)
			continue
		case err != nil:
			return nil, err
		case v.IsError():
			return nil, ReplyError(v.Str)
		}
		in = in[n:]
		if replies = append(replies, v); len(replies) == len(cmds) {
			return replies, nil
		}
	}
}

// listening says whether a process listens on the socket, be it too busy to accept.
func listening(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return errors.Is(err, unix.EAGAIN)
	}
	conn.Close()
	return true
}

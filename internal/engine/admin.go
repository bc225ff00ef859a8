package engine

// The control plane asks an engine as a user of its own (adminUser), on a connection per question: it logs in, sends its
// commands and closes.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/resp"
)

const (
	// adminUser is the control plane's user in the engine.
	adminUser = "sealane"
	// commandTimeout bounds the commands of one call, from the connect to the last reply.
	commandTimeout = 10 * time.Second
	// maxReply is far above the reply to any INFO.
	maxReply = 64 << 20
)

// IsBusy says whether an engine refused a command because a script or a function has run for longer than its time limit.
func IsBusy(err error) bool {
	var reply resp.ReplyError
	return errors.As(err, &reply) && reply.Code() == "BUSY"
}

// ErrUnkillable says that the script that runs in the engine has written, so that the engine will not end it.
var ErrUnkillable = errors.New("the script or function that is running has written, so the engine refuses to end it (UNKILLABLE)")

// KillScript ends the script or function that runs in the engine. It returns nil when the engine answers again, and
// ErrUnkillable when the engine refuses.
func (e *Engine) KillScript(ctx context.Context) error {
	// BUSY is the answer to the wrong one of the two. Functions exist from Redis 7.0 on.
	kill, other := []string{"SCRIPT", "KILL"}, []string{"FUNCTION", "KILL"}
	for {
		_, err := e.call(ctx, kill)
		var reply resp.ReplyError
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
		// The script ends a little after the engine has agreed to end it.
		if err := wait(ctx, e.Done()); err != nil {
			return err
		}
	}
}

// Info returns the fields of INFO's sections with these names. Without a name, the engine chooses its default sections.
func (e *Engine) Info(ctx context.Context, sections ...string) (map[string]string, error) {
	// Before Redis 7.0 INFO takes one section only.
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
		addInfo(info, r.Str)
	}
	return info, nil
}

// addInfo adds the fields of a reply to INFO.
func addInfo(info map[string]string, reply string) {
	for line := range strings.Lines(reply) {
		if k, v, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok && !strings.HasPrefix(k, "#") {
			info[k] = v
		}
	}
}

// call is exchange with a timeout. The error is a *SilentError where the engine has not answered by then.
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
	For     time.Duration // how long ago it was asked
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

// exchange logs in on a connection of its own, sends the commands and returns their replies. The first reply that is an error
// is returned as a resp.ReplyError. All is sent in one write. If the login fails, the engine runs the commands as the default
// user, to whom those that matter are forbidden.
func (e *Engine) exchange(ctx context.Context, commands ...[]string) ([]resp.Value, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", Socket(e.dir))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	login := []string{"AUTH", adminUser, e.password}
	replies, err := resp.NewClient(conn, maxReply).Pipeline(ctx, append([][]string{login}, commands...)...)
	if err != nil {
		return nil, err
	}
	return replies[1:], nil
}

// listening says whether a process listens on the socket. It may be too busy to accept.
func listening(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return errors.Is(err, unix.EAGAIN)
	}
	conn.Close()
	return true
}

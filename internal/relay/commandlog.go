package relay

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// SLOWLOG, and COMMANDLOG in Valkey from 8.1 on, say who asked for a command that took long, or was long, or had a long
// reply. An engine only sees its socket, so that is found out here: by the command, the time, and how long.

// logKind is one of the engine's logs, by COMMANDLOG's name for it.
type logKind string

const (
	logSlow         logKind = "slow"
	logLargeRequest logKind = "large-request"
	logLargeReply   logKind = "large-reply"
)

const (
	// slowTime is the engines' slowlog-log-slower-than, and commandlog-execution-slower-than.
	slowTime = 10 * time.Millisecond
	// largeSize is Valkey's commandlog-request-larger-than and commandlog-reply-larger-than.
	largeSize = 1 << 20
)

// commandLog are the last requests that the engine has in one of its logs.
type commandLog struct {
	mu   sync.Mutex // guards all of it
	last [256]loggedRequest
	next int
}

type loggedRequest struct {
	kind    logKind
	command *routing.Command
	client  netip.AddrPort
	name    string
	// asked and answered are when the engine may have done it.
	asked, answered time.Time
	// value is the time that it took in microseconds, or the length in bytes.
	value int64
}

func (x *commandLog) note(r loggedRequest) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last[x.next%len(x.last)] = r
	x.next++
}

// who finds the request that an entry is most likely about: one of that command, done in that second, that took hardly
// longer; or the script or the transaction in which it was done.
func (x *commandLog) who(kind logKind, command string, at, value int64) (best loggedRequest, found bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	nearest := int64(0)
	for _, r := range x.last {
		if r.command == nil || r.kind != kind || at < r.asked.Unix() || at > r.answered.Unix()+1 {
			continue
		}
		if d, ok := r.distance(command, value); ok && (!found || d < nearest) {
			best, nearest, found = r, d, true
		}
	}
	return best, found
}

// distance says how far a request is from what an entry says; ok is false where it can't be about it.
func (r *loggedRequest) distance(command string, value int64) (d int64, ok bool) {
	if r.kind == logSlow && r.value < value {
		return 0, false // it can't have been answered sooner
	}
	d = max(r.value-value, value-r.value)
	switch name, _, _ := strings.Cut(r.command.Name, "|"); {
	case name == command:
		return d, true
	case name == routing.Unknown.Name:
		return d + value/16, true // its name was not looked at
	case r.command.Pin == routing.PinScript || r.command == routing.Named("exec"):
		return 3*d + value/8, true
	}
	return 0, false
}

func prepareCommandLog(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	kind := logSlow
	if len(args) == 4 && equalFold(args[0], "commandlog") {
		kind = logKind(strings.ToLower(string(args[3])))
	}
	return raw, &replyHandler{complete: true, answer: func(_ *upstream, s *Session, reply []byte) []byte {
		return s.loop.group.log.show(kind, reply)
	}}
}

// show puts the clients into the reply to SLOWLOG GET or COMMANDLOG GET: entries of id, time, microseconds or bytes, request,
// address and name.
func (x *commandLog) show(kind logKind, reply []byte) []byte {
	v, n, err := resp.ParseReply(reply, resp.Limits{MaxBulk: maxBufferedReply})
	if err != nil || n != len(reply) {
		return reply
	}
	for _, e := range v.Elems {
		if len(e.Elems) < 6 || len(e.Elems[3].Elems) == 0 || !strings.Contains(e.Elems[4].Str, "/") {
			continue
		}
		r, ok := x.who(kind, strings.ToLower(e.Elems[3].Elems[0].Str), e.Elems[1].Int, e.Elems[2].Int)
		if e.Elems[4].Str, e.Elems[5].Str = nobody, ""; ok {
			e.Elems[4].Str, e.Elems[5].Str = address(r.client), r.name
		}
	}
	return resp.Append(nil, v)
}

// logged notes a request that has been answered, if the engine has noted it too.
func (s *Session) noteAnswered(c *routing.Command, sent int64) {
	now := s.loop.now
	r := loggedRequest{command: c, client: s.cfg.Remote, name: s.login.Name, asked: time.Unix(0, sent), answered: now}
	if took := now.UnixNano() - sent; took >= int64(slowTime) {
		r.kind, r.value = logSlow, took/1000
		s.loop.group.log.note(r)
	}
	told := s.activity.bytesOut.Load()
	if size := told - s.activity.bytesOutBefore; size >= largeSize {
		r.kind, r.value = logLargeReply, int64(size)
		s.loop.group.log.note(r)
	}
	s.activity.bytesOutBefore = told
}

// loggedRequest notes a request that is so long that the engine notes it.
func (s *Session) noteLargeRequest(size int) {
	if size >= largeSize {
		s.loop.group.log.note(loggedRequest{
			kind: logLargeRequest, command: s.input.cmd, client: s.cfg.Remote, name: s.login.Name, asked: s.loop.now.Add(-time.Second),
			answered: s.loop.now.Add(time.Minute), value: int64(size),
		})
	}
}

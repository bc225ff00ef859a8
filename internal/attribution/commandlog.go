package attribution

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

// maxReply bounds the reply to SLOWLOG GET or COMMANDLOG GET.
const maxReply = 256 << 20

// unknown is the name of a command whose name was not looked at.
const unknown = "NULL"

// Kind is one of the engine's logs, by COMMANDLOG's name for it.
type Kind string

const (
	Slow         Kind = "slow"
	LargeRequest Kind = "large-request"
	LargeReply   Kind = "large-reply"
)

const (
	// SlowTime is the engines' slowlog-log-slower-than, and commandlog-execution-slower-than.
	SlowTime = 10 * time.Millisecond
	// LargeSize is Valkey's commandlog-request-larger-than and commandlog-reply-larger-than.
	LargeSize = 1 << 20
)

// CommandLog has the last requests that the engine may have in its logs. The zero value is empty.
type CommandLog struct {
	mu   sync.Mutex // guards all of it
	last [256]Request
	next int
}

// Request is a request of a client.
type Request struct {
	Kind    Kind
	Command string // its name in lower case, as CLIENT LIST shows it
	Runs    bool   // it runs others: a script, or EXEC
	Client  netip.AddrPort
	Name    string // of the client
	// Asked and Answered are when the engine may have done it.
	Asked, Answered time.Time
	// Value is the time that it took in microseconds, or the length in bytes.
	Value int64
}

// Note notes a request that the engine may have in its log.
func (x *CommandLog) Note(r Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last[x.next%len(x.last)] = r
	x.next++
}

// who finds the request that an entry is most likely about: one of that command, done in that second, that took hardly
// longer; or the script or the transaction in which it was done.
func (x *CommandLog) who(kind Kind, command string, at, value int64) (best Request, found bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	nearest := int64(0)
	for _, r := range x.last {
		if r.Command == "" || r.Kind != kind || at < r.Asked.Unix() || at > r.Answered.Unix()+1 {
			continue
		}
		if d, ok := r.distance(command, value); ok && (!found || d < nearest) {
			best, nearest, found = r, d, true
		}
	}
	return best, found
}

// distance says how far a request is from what an entry says; ok is false where it can't be about it.
func (r *Request) distance(command string, value int64) (d int64, ok bool) {
	if r.Kind == Slow && r.Value < value {
		return 0, false // it can't have been answered sooner
	}
	d = max(r.Value-value, value-r.Value)
	switch name, _, _ := strings.Cut(r.Command, "|"); {
	case name == command:
		return d, true
	case name == unknown:
		return d + value/16, true // its name was not looked at
	case r.Runs:
		return 3*d + value/8, true
	}
	return 0, false
}

// Show puts the clients into the reply to SLOWLOG GET or COMMANDLOG GET: entries of id, time, microseconds or bytes, request,
// address and name.
func (x *CommandLog) Show(kind Kind, reply []byte) []byte {
	v, n, err := resp.ParseReply(reply, resp.Limits{MaxBulk: maxReply})
	if err != nil || n != len(reply) {
		return reply
	}
	for _, e := range v.Elems {
		if len(e.Elems) < 6 || len(e.Elems[3].Elems) == 0 || !strings.Contains(e.Elems[4].Str, "/") {
			continue
		}
		r, ok := x.who(kind, strings.ToLower(e.Elems[3].Elems[0].Str), e.Elems[1].Int, e.Elems[2].Int)
		if e.Elems[4].Str, e.Elems[5].Str = nobody, ""; ok {
			e.Elems[4].Str, e.Elems[5].Str = Address(r.Client), r.Name
		}
	}
	return resp.Append(nil, v)
}

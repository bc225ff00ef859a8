package authz

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/rest"
)

// CallLog is the log of who did what. *audit.Log is one.
type CallLog interface {
	// Enter returns the entry's number once the entry is durable. After an error it may be there or not.
	Enter(audit.Entry) (uint64, error)
}

// callLog enters calls that change something, that read a secret, or that were to and may not.
type callLog struct {
	entries CallLog // nil: they are not entered
	log     *slog.Logger
	now     func() time.Time
	// notEntered is Config.NotEntered.
	notEntered func(context.Context, error) error

	mu      sync.Mutex // guards the rest
	minute  time.Time
	refused map[string]int // calls of that minute that were denied, by token
	read    map[secretRead]time.Time
}

// secretRead is who has read which secret, from where.
type secretRead struct{ token, resource, host string }

const (
	// readInterval is how often reads of the same secret, by the same token and from the same host, are entered: a sidecar asks every
	// minute, and would fill the log and keep the disk busy. A secret that was changed meanwhile is another one.
	readInterval = time.Hour
	// maxReads bounds the memory for that.
	maxReads = 10_000
)

// deniedPerMinute is how many denied calls of one token are entered: a caller without permissions must not push out of the log what
// others did, nor keep the disk busy.
const deniedPerMinute = 30

// entry is what the log says of a call, without its outcome.
func (c *call) entry(now time.Time) audit.Entry {
	p := access.Caller(c.ctx)
	resource := c.resource
	if c.made != "" {
		resource += "/instances/" + c.made
	}
	e := audit.Entry{Time: now, Action: audit.CallMade, Call: &audit.Call{
		Token: p.ID, Principal: p.Name, Method: c.method, Resource: Shortened(resource),
	}}
	if scope, ok := scopeOf(Instance, resource); ok {
		e.Instance = scope.String()
	}
	if from, ok := peer.FromContext(c.ctx); ok && from.Addr != nil {
		e.Call.Peer = from.Addr.String()
	}
	return e
}

// around makes a call and enters it.
func (l *callLog) around(c *call, do func() (any, error)) (any, error) {
	if c.rule.Effect == Reads || l.entries == nil {
		return do()
	}
	e := c.entry(l.now())
	if c.rule.Effect == Secret {
		resp, err := do()
		if err != nil || l.isNews(e) {
			e.Call.Outcome = rest.StatusName(status.Code(err))
			l.enter(c.ctx, e)
		}
		return resp, err
	}
	begun, err := l.entries.Enter(e)
	if err != nil && c.rule.Effect != Revokes {
		return nil, l.notEntered(c.ctx, err)
	}
	if err != nil {
		l.log.ErrorContext(c.ctx, "a call could not be entered into the log of calls and is made all the same", "method", c.method, "token", e.Call.Token, "err", err)
	}
	ended := false
	defer func() {
		if !ended { // it panicked
			l.enter(c.ctx, ofCall(e, begun, codes.Internal, l.now()))
		}
	}()
	resp, err := do()
	ended = true
	of := ofCall(e, begun, status.Code(err), l.now())
	if made, ok := resp.(proto.Message); ok && err == nil && e.Call.Resource == "" {
		of.Call.Resource = text(made, "token.name")
	}
	l.enter(c.ctx, of)
	l.forgetReads(e.Call.Resource)
	return resp, err
}

// isNews says whether a read of a secret is to be entered.
func (l *callLog) isNews(e audit.Entry) bool {
	host, _, err := net.SplitHostPort(e.Call.Peer)
	if err != nil {
		host = e.Call.Peer
	}
	r := secretRead{e.Call.Token, e.Call.Resource, host}
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, ok := l.read[r]; ok && e.Time.Sub(last) < readInterval && !e.Time.Before(last) {
		return false
	}
	if l.read == nil || len(l.read) >= maxReads {
		l.read = make(map[secretRead]time.Time)
	}
	l.read[r] = e.Time
	return true
}

// forgetReads makes the next read of a resource's secret news: it was changed, and may be another one.
func (l *callLog) forgetReads(resource string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.read, func(r secretRead, _ time.Time) bool { return r.resource == resource })
}

func ofCall(e audit.Entry, begun uint64, code codes.Code, now time.Time) audit.Entry {
	of := *e.Call
	of.Of, of.Outcome = begun, rest.StatusName(code)
	return audit.Entry{Time: now, Action: audit.CallOutcome, Instance: e.Instance, Call: &of}
}

// enter enters what must not fail because of it.
func (l *callLog) enter(ctx context.Context, e audit.Entry) {
	if _, err := l.entries.Enter(e); err != nil {
		l.log.ErrorContext(ctx, "a call could not be entered into the log of calls", "method", e.Call.Method, "token", e.Call.Token, "outcome", e.Call.Outcome, "err", err)
	}
}

// denied enters a call that was refused, unless that is no news.
func (l *callLog) denied(c *call) {
	if c.rule.Effect == Reads || l.entries == nil {
		return
	}
	now := l.now()
	id := access.Caller(c.ctx).ID
	l.mu.Lock()
	if now.Sub(l.minute) >= time.Minute || now.Before(l.minute) {
		l.minute, l.refused = now, make(map[string]int)
	}
	l.refused[id]++
	n := l.refused[id]
	l.mu.Unlock()
	if n > deniedPerMinute {
		return
	}
	e := c.entry(now)
	e.Call.Outcome = rest.StatusName(codes.PermissionDenied)
	l.enter(c.ctx, e)
}

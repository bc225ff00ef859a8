package engine

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/internal/process"
	"github.com/sealane/sealane/internal/resp"
)

// How an engine is watched several times a second: over a connection that is kept, with one question at a time, and with what the
// kernel says of the process. An engine that doesn't answer keeps the question that it has. It gets no further ones, and no
// further connections, which would all wait for it when it goes on.

// Observation is what is seen of an engine at one moment.
type Observation struct {
	At      time.Time
	Process process.Status
	// Replication is the engine's answer, or where Err is not nil, the last one before. The zero value: it has not answered yet.
	Replication Replication
	// Err is why there is no answer: a resp.ReplyError is the engine's refusal, context.DeadlineExceeded is silence.
	Err error
}

// Condition is what an engine is doing.
type Condition string

// The conditions of an engine.
const (
	Answering Condition = "answering"
	// Busy is a script or a command that takes long: the engine's main thread works, or it says so itself.
	Busy Condition = "busy"
	// Waiting is an engine that goes on and doesn't serve this question: a client has paused it (CLIENT PAUSE), it has no free
	// connection, or it is a replica that loads what a primary sends, and the primary sends nothing.
	Waiting Condition = "waiting"
	Stopped Condition = "stopped" // by SIGSTOP or a debugger
	// Hung is an engine whose main thread has not done anything between two observations: it waits for a disk, or for ever. An engine
	// that is idle wakes up ten times a second.
	Hung  Condition = "hung"
	Ended Condition = "ended"
)

// busyShare is which part of the time a main thread works, or would if it were given a processor, that counts as busy.
const busyShare = 0.5

// minBetween is how far two observations must be apart to tell anything by what was done between them: in that time an engine wakes up at
// least once, also where its machine is busy.
const minBetween = 300 * time.Millisecond

// Condition says what the engine is doing, and needs an observation before for it where the engine doesn't answer: the last one that is
// at least 300 ms older. With a nearer one, or none, an engine that doesn't answer is given the benefit of the doubt: Busy.
func (o Observation) Condition(before Observation) Condition {
	var reply resp.ReplyError
	switch {
	case o.Process.Ended():
		return Ended
	case o.Process.Stopped():
		return Stopped
	case o.Err == nil:
		return Answering
	case errors.As(o.Err, &reply) && reply.Code() == "BUSY":
		return Busy
	case errors.As(o.Err, &reply):
		return Waiting
	}
	passed := o.At.Sub(before.At)
	if before.At.IsZero() || passed < minBetween || before.Process.Ended() {
		return Busy
	}
	worked := o.Process.CPU - before.Process.CPU + o.Process.Ready - before.Process.Ready
	switch {
	case float64(worked) >= busyShare*float64(passed):
		return Busy
	case o.Replication.Role == RoleReplica && !o.Replication.Linked:
		return Waiting
	case o.Process.Runs == before.Process.Runs:
		return Hung
	}
	return Waiting
}

// Observe looks at the engine. It returns when the engine has answered, or when ctx ends, whatever the engine does, and at once where
// the engine is stopped or has ended. It may be called by several at the same time, who share a question.
func (e *Engine) Observe(ctx context.Context) Observation {
	o := Observation{Process: e.proc.Status()}
	if !o.Process.Ended() && !o.Process.Stopped() {
		q := e.observer.ask(e)
		select {
		case <-q.done:
			o.Err = q.err
		case <-e.Done(): // a child of the engine may still hold the connection open
			o.Err = process.ErrNotRunning
		case <-ctx.Done():
			o.Err = context.Cause(ctx)
		}
		if o.Err != nil {
			o.Process = e.proc.Status() // it may have ended or been stopped meanwhile, which is why
		}
	}
	switch {
	case o.Process.Ended():
		e.observer.close()
		o.Err = process.ErrNotRunning
	case o.Process.Stopped():
		o.Err = e.silent(0)
	}
	if last := e.observer.last.Load(); last != nil {
		o.Replication = *last
	}
	o.At = time.Now()
	return o
}

// observer asks one engine, over one connection. The zero value is ready.
type observer struct {
	last atomic.Pointer[Replication] // the last answer; nil: none

	mu      sync.Mutex
	pending *inquiry // under way; nil: none
	cancel  context.CancelFunc
	ctx     context.Context
	closed  bool
	asking  sync.WaitGroup

	// The rest belongs to the goroutine of the pending inquiry.

	conn    net.Conn // nil: none
	client  *resp.Client
	oldInfo bool // it is older than Redis 7.0, and takes one section of INFO at a time
}

// inquiry is one question. When done is closed, the answer is the observer's last one, or there is an error.
type inquiry struct {
	done chan struct{}
	err  error
}

// ask returns the question that is under way, or asks one.
func (o *observer) ask(e *Engine) *inquiry {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.pending != nil {
		return o.pending
	}
	q := &inquiry{done: make(chan struct{})}
	if o.closed {
		q.err = net.ErrClosed
		close(q.done)
		return q
	}
	if o.ctx == nil {
		o.ctx, o.cancel = context.WithCancel(context.Background())
	}
	o.pending = q
	o.asking.Go(func() {
		q.err = o.inquire(o.ctx, e)
		o.mu.Lock()
		o.pending = nil
		o.mu.Unlock()
		close(q.done)
	})
	return q
}

// close ends what is under way, and waits for it.
func (o *observer) close() {
	o.mu.Lock()
	o.closed = true
	if o.cancel != nil {
		o.cancel()
	}
	o.mu.Unlock()
	o.asking.Wait()
	o.mu.Lock() // several may close it at the same time
	defer o.mu.Unlock()
	if o.conn != nil {
		o.conn.Close()
		o.conn = nil
	}
}

// inquire asks over the connection that there is, and over a new one where that has ended: a client may kill it.
func (o *observer) inquire(ctx context.Context, e *Engine) error {
	kept := o.conn != nil
	info, err := o.inquireOnce(ctx, e)
	if o.conn == nil && kept && err != nil && ctx.Err() == nil {
		info, err = o.inquireOnce(ctx, e)
	}
	if err == nil {
		r := parseReplication(info)
		o.last.Store(&r)
	}
	return err
}

func (o *observer) inquireOnce(ctx context.Context, e *Engine) (map[string]string, error) {
	if err := o.connect(ctx, e); err != nil {
		return nil, err
	}
	info := make(map[string]string)
	for _, sections := range o.questions() {
		v, err := o.client.Do(ctx, append([]string{"INFO"}, sections...)...)
		var reply resp.ReplyError
		switch {
		case err == nil:
			addInfo(info, v.Str)
		case !errors.As(err, &reply):
			o.hangUp()
			return nil, err
		case reply.Code() == "ERR" && len(sections) > 1 && strings.Contains(reply.Error(), "syntax"):
			o.oldInfo = true
			return o.inquireOnce(ctx, e)
		default:
			return nil, err
		}
	}
	return info, nil
}

// questions are the sections to ask for, by command.
func (o *observer) questions() [][]string {
	if o.oldInfo {
		return [][]string{{"replication"}, {"persistence"}}
	}
	return [][]string{{"replication", "persistence"}}
}

// connect makes the connection, if there is none.
func (o *observer) connect(ctx context.Context, e *Engine) error {
	if o.conn != nil {
		return nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", Socket(e.dir))
	if err != nil {
		return err
	}
	o.conn, o.client = conn, resp.NewClient(conn, maxReply)
	if _, err := o.client.Do(ctx, "AUTH", adminUser, e.password); err != nil {
		o.hangUp()
		return err
	}
	return nil
}

func (o *observer) hangUp() {
	o.conn.Close()
	o.conn, o.client = nil, nil
}

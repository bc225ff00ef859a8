package sidecar

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/resp"
)

const (
	// firstProbePause and lastProbePause are between two attempts to see whether the server is well again. One that is not to be
	// believed is bothered less: lastProbePauseByTrust.
	firstProbePause       = 50 * time.Millisecond
	lastProbePause        = 2 * time.Second
	lastProbePauseByTrust = 10 * time.Second

	maxReply = 4 << 10 // more than any answer to AUTH or PING has
)

// probePause is between two probes that are made only because clients' connections are. Tests make it shorter.
var probePause = 3 * time.Second

// probe finds out whether the server serves.
func (k *keeper) probe(ctx context.Context) {
	t := k.known()
	if t == nil {
		return
	}
	f := k.try(ctx, t)
	if f != nil && f.Code == "closed" && k.probeFailures == 0 {
		f = k.try(ctx, t) // a server that ends cuts what is under way, and only the next attempt shows why
	}
	if f != nil && mayBeOutdated(f) && k.refreshForced(ctx) {
		t = k.known()
		f = k.try(ctx, t)
	}
	k.provenAt = time.Now()
	switch {
	case ctx.Err() != nil:
	case f == nil:
		k.solved(ofLimits)
		k.serves(t)
	case topicOf(f) == ofLimits:
		k.serves(t)
		k.problem(f)
		if f.Code == "misconf" {
			k.probeAt = time.Now().Add(spread(lastProbePauseByTrust))
		}
	default:
		k.failed(t, f)
	}
}

func (k *keeper) try(ctx context.Context, t *trust) *diagnosis.Fault {
	f := t.probe(ctx)
	if ctx.Err() == nil {
		k.counted.dialled(f)
	}
	return f
}

// failed is called when a probe by t failed: no connection can be made, or the server has something against serving clients.
func (k *keeper) failed(t *trust, f *diagnosis.Fault) {
	k.solved(ofLimits)
	switch topicOf(f) {
	case ofConnection:
		k.solved(ofServer)
	case ofServer:
		k.solved(ofConnection)
	}
	k.problem(f)
	if k.published == nil || !slices.Equal(k.published.server.login(), t.server.login()) || k.published.server.ClientsLogIn != t.server.ClientsLogIn {
		k.publish(t) // before anybody passes the gate: clients must not log in as before
	}
	if topicOf(f) == ofServer && f.Code != "auth" {
		k.openGate() // the server tells clients itself
	} else {
		k.closeGate() // who passed without the login having worked would be the server's default user
	}
	last := lastProbePause
	if mayBeOutdated(f) {
		last = lastProbePauseByTrust
	}
	k.probeAt = time.Now().Add(spread(backoff(k.probeFailures, firstProbePause, last)))
	k.probeFailures++
}

// serves is called when the server has served a request by t.
func (k *keeper) serves(t *trust) {
	k.solved(ofConnection)
	k.solved(ofServer)
	k.probeAt, k.probeFailures, k.forcedPause = time.Time{}, 0, 0
	k.mu.Lock()
	first := !k.wasWell
	k.wasWell = true
	k.mu.Unlock()
	if !k.moved {
		k.moved = true
		k.generation++
		k.publish(t)
		k.counted.moved.Add(1)
	}
	k.openGate()
	if first {
		close(k.proven)
	}
}

// probe finds out whether clients can be served: a handshake, the password if there is one, and PING.
func (t *trust) probe(ctx context.Context) *diagnosis.Fault {
	return t.attempt(ctx, func(ctx context.Context, conn net.Conn, config *tls.Config) error {
		defer conn.Close()
		c := tls.Client(conn, config)
		if err := c.HandshakeContext(ctx); err != nil {
			return err
		}
		at := conn.RemoteAddr().String()
		if t.server.PasswordUnknown {
			return t.fault(at, diagnosis.AuthUnknown, diagnosis.Details{})
		}
		commands := [][]string{{"PING"}}
		if login := t.server.login(); login != nil {
			commands = [][]string{append([]string{"AUTH"}, login...), {"PING"}}
		}
		client := resp.NewClient(c, maxReply)
		for _, command := range commands {
			reply, err := client.Do(ctx, command...)
			if err := t.judge(at, command[0], reply, err); err != nil {
				return err
			}
		}
		_ = c.CloseWrite()
		return nil
	})
}

// judge says why clients can't be served, by the reply to AUTH or PING.
func (t *trust) judge(at, command string, reply resp.Value, err error) error {
	var refused resp.ReplyError
	var missing *resp.ReadError
	switch {
	case errors.As(err, &refused):
		k, d := diagnosis.Reply(t.withoutPassword(string(refused)), command == "AUTH")
		if t.server.ClientsLogIn && (k == diagnosis.AuthMissing || k == diagnosis.NoPermission) {
			return nil // what a client may do depends on who it logs in as
		}
		return t.fault(at, k, d)
	case errors.As(err, &missing) && diagnosis.Sniff(missing.Received).IsHTTP():
		return t.fault(at, diagnosis.HTTPOverTLS, diagnosis.Details{})
	case errors.As(err, &missing) && len(missing.Received) > 0:
		return t.fault(at, diagnosis.NotRedis, diagnosis.Details{Said: t.withoutPassword(string(missing.Received))})
	case err != nil:
		return t.unanswered(at, command, err)
	case reply.Kind != resp.Simple:
		return t.fault(at, diagnosis.NotRedis, diagnosis.Details{Said: t.withoutPassword(reply.Str)})
	}
	return nil
}

// withoutPassword is what a server said, without the password that it may repeat.
func (t *trust) withoutPassword(said string) string {
	if t.server.Password == "" {
		return said
	}
	return strings.ReplaceAll(said, t.server.Password, "(the password)")
}

// unanswered is for a server that was believed and then fell silent. In TLS 1.3 a refusal for want of a client certificate comes
// only now; attempt, which knows whether the server asked for one, explains it.
func (t *trust) unanswered(at, command string, err error) error {
	if n, _ := diagnosis.AlertOf(err); diagnosis.IsAboutClientCertificate(n) {
		return err
	}
	k, d := diagnosis.Unanswered(command, err)
	return t.fault(at, k, d)
}

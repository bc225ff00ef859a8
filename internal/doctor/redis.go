package doctor

import (
	"context"
	"errors"
	"io"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/resp"
)

// authStep finds out whether a password is wanted, and whether the one that was given is right.
func (d *diagnoser) authStep(ctx context.Context) finding {
	s, err := d.dialer.open(ctx, trust{roots: d.roots})
	if err != nil {
		why := diagnosis.Reason(err)
		return d.failed(diagnosis.HandshakeFailed, diagnosis.Details{Why: why}, "a further connection fails: %s", why)
	}
	d.session = s
	d.greeting = s.do(ctx, "PING")
	wanted := d.greeting.begins("NOAUTH")
	d.answers = wanted
	password := d.config.Password
	switch {
	case !wanted && d.greeting.Str != "PONG":
		return skipped("not reached: see ping")
	case !wanted && !password.IsSet():
		return ok("no password is needed")
	case !password.IsSet():
		return d.failed(diagnosis.AuthMissing, diagnosis.Details{}, "NOAUTH")
	}
	r := s.do(ctx, "AUTH", password.secret)
	said := password.quote([]byte(r.Str))
	switch {
	case r.err != nil:
		return d.failed(diagnosis.NoReply, diagnosis.Details{Command: "AUTH"}, "AUTH: %s", diagnosis.Reason(r.err))
	case r.Kind == resp.Simple && r.Str == "OK":
		d.loggedIn = true
		return ok("the password (%s) is accepted", password.from)
	case !wanted:
		return d.failed(diagnosis.AuthUnneeded, diagnosis.Details{}, "%s", said)
	case password.from == FromAPI:
		return d.failed(diagnosis.AuthWrongInAPI, diagnosis.Details{}, "%s", said)
	}
	return d.failed(diagnosis.AuthWrong, diagnosis.Details{}, "%s", said)
}

// pingStep sends PING as the application would.
func (d *diagnoser) pingStep(ctx context.Context) finding {
	r := d.greeting
	if d.loggedIn || r.Str == "PONG" {
		r = d.session.do(ctx, "PING")
	}
	switch {
	case r.err != nil:
		return d.noPong(r)
	case r.Str == "PONG":
		d.answers = true
		return ok("PONG")
	case !r.IsError():
		return d.failed(diagnosis.NotRedis, diagnosis.Details{Said: d.config.Password.printable(r.Str)}, "%s", d.config.Password.quote([]byte(r.Str)))
	}
	kind, details := diagnosis.Reply(d.config.Password.printable(r.Str), false)
	return d.failed(kind, details, "%s", diagnosis.Quote(details.Said))
}

// noPong is for a PING without a reply.
func (d *diagnoser) noPong(r reply) finding {
	if len(r.received) > 0 {
		return d.failed(diagnosis.NotRedis, diagnosis.Details{Said: d.config.Password.printable(string(r.received))}, "%s", d.config.Password.quote(r.received))
	}
	kind, details := diagnosis.Unanswered("PING", r.err)
	switch {
	case kind == diagnosis.NoReply:
		return d.failed(kind, details, "no reply within %s", d.config.Timeout)
	case errors.Is(r.err, io.EOF):
		return d.failed(kind, details, "the connection is closed instead of a reply")
	}
	return d.failed(kind, details, "%s", details.Why)
}

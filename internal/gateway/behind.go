package gateway

import (
	"context"
	"net/netip"
	"time"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/routing"
	"github.com/sealane/sealane/internal/wire"
)

const (
	// dialWindow is for how long a client waits for an engine that is being restarted.
	dialWindow = 2 * time.Second
	// standbyWindow is for how long one waits for an engine that another may take the place of.
	standbyWindow = 10 * time.Second
	// backendWindow is the same for a backend. Who restarts it is not Sealane, and takes longer.
	backendWindow = 5 * time.Second
	// maxBackendDials connections to a backend are made at a time: all clients of one that was restarted want to be back at once.
	maxBackendDials = 32

	engineAway  = "-" + wire.EngineUnavailable + " is not answering, it is being restarted: retry with backoff\r\n"
	backendAway = "-" + wire.EngineUnavailable + " can't be reached or refuses Sealane's login: retry with backoff\r\n"

	// connectionName is what connections that clients share are called at a backend.
	connectionName = "sealane-gateway"
)

// behind is what is behind a gateway, made ready to connect to.
type behind struct {
	dialer *backend.Dialer // nil: an engine behind a Unix socket
	// generation grows with each change of the backend: clients go on with connections that are made anew.
	generation uint64
	passwords  routing.Passwords
	slots      chan struct{} // one for each connection that is being made
}

// newBehind goes on with what the snapshot before had, if the backend is the same.
func newBehind(s Snapshot, previous *serving) (b behind, err error) {
	if b.passwords, err = s.passwords(); err != nil || s.Backend == nil {
		return b, err
	}
	b.generation, b.slots = 1, make(chan struct{}, maxBackendDials)
	if previous != nil && previous.snapshot.Backend != nil {
		if before := previous.behind; *previous.snapshot.Backend == *s.Backend {
			before.passwords = b.passwords
			return before, nil
		}
		b.generation = previous.behind.generation + 1
	}
	b.dialer, err = backend.NewDialer(*s.Backend)
	return b, err
}

// dial makes a connection when it is its turn.
func (b behind) dial(ctx context.Context) (netloop.Conn, error) {
	select {
	case b.slots <- struct{}{}:
	case <-ctx.Done():
		return netloop.Conn{}, ctx.Err()
	}
	defer func() { <-b.slots }()
	return b.dialer.Dial(ctx)
}

// backend says how the clients of a snapshot share the engine.
func (g *gateway) backend(v *serving) *relay.Backend {
	s := v.snapshot
	limit, _ := g.limit.limit(s)
	r := &relay.Backend{
		Auth: s.Auth, Multiplexed: s.DataPath == Multiplexed, IdleTimeout: s.IdleTimeout, MaxClients: int(limit), Passwords: v.behind.passwords,
		Unreachable: func(c netip.AddrPort, err error) {
			g.count.unreachable.Add(1)
			g.limitedLog.warn("engine", "engine cannot be reached, client told to retry", "client", c.String(), "error", s.withoutPassword(err))
		},
	}
	if s.Backend == nil {
		r.ReadOnly, r.Standby = s.ReadOnly, s.Standby
		r.Engine, r.Connect, r.ConnectTimeout = s.Engine, relay.UnixSocket(s.Engine), dialWindow
		r.UnavailableReply = func() string { return engineAway }
		if s.Standby {
			r.ConnectTimeout = standbyWindow
		}
		return r
	}
	r.Engine, r.Name, r.Dial, r.Generation = "backend", connectionName, v.behind.dial, v.behind.generation
	r.ConnectTimeout, r.UnavailableReply = backendWindow, func() string { return backendAway }
	if r.Login = s.Backend.Login(); r.Login != nil {
		r.Refused = func(string) bool { return true } // a new password may be on its way
	}
	return r
}

// withoutPassword is an error's text as it may be logged.
func (s Snapshot) withoutPassword(err error) string {
	if s.Backend == nil {
		return err.Error()
	}
	return s.Backend.WithoutPassword(err.Error())
}

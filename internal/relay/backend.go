package relay

import (
	"context"
	"net/netip"
	"time"

	"github.com/sealane/sealane/internal/netloop"
)

// Backend says how the engine is reached, and how it is shared. It is not changed once it is given to SetBackend.
type Backend struct {
	// Engine tells engines apart: connections to another one are not used.
	Engine string
	// Connect makes one attempt at a connection and must not wait: a non-blocking stream socket, or an error.
	Connect func() (int, error)
	// Dial is in place of Connect for a server that is far: it may wait, and the client of a connection that breaks stays, if
	// it has nothing there, and goes on with the next one. It is called from many goroutines.
	Dial func(context.Context) (netloop.Conn, error)
	// Epoch is raised when the connections that Dial has made so far are to be left, each by its clients when nothing is
	// lost by it.
	Generation uint64
	// Login has the arguments of an AUTH for clients that have not logged in themselves. Nil: there is none. Only with Dial.
	Login []string
	// Refused is told when Login, or its absence, does not let clients in. If it returns true then attempts go on, within
	// Window; for that time it may set another Backend. It must not wait. Only with Dial.
	Refused func(reply string) (retry bool)
	// Failed is told when a connection that Dial made ended before it could serve; another attempt follows. It must not wait.
	// Only with Dial.
	Failed func(error)
	// Warm is how many connections are kept ready for clients that need one of their own. Only with Dial.
	MinIdle int
	// Name is what shared connections are called at the server. Only with Dial.
	Name string
	// Window is for how long attempts are made; Away is what a client is told after that, and Unreachable is called.
	ConnectTimeout   time.Duration
	UnavailableReply string
	Unreachable      func(client netip.AddrPort, err error)
	// Auth changes when the engine begins, or ceases, to ask for a password: who comes then and has not logged in shares nothing
	// with who was let in before.
	Auth uint64
	// Multiplexed lets clients share connections. Without it each has one of its own.
	Multiplexed bool
	// IdleTimeout closes clients that have said nothing for so long and wait for nothing. Zero: never.
	IdleTimeout time.Duration
	// MaxClients is what INFO shows as maxclients. Zero: what the engine says.
	MaxClients int
}

// remote says that what is behind is a server with other clients too, whose ids and addresses are its own.
func (b *Backend) remote() bool { return b.Dial != nil }

// SetBackend changes the backend for what clients say from now on; none of them is dropped. It must be called before
// the first Serve.
func (ls *Loops) SetBackend(b *Backend) {
	if b.remote() {
		ls.clients.beRemote()
	}
	ls.backend.Store(b)
	for _, l := range ls.all {
		l.post(l.backendChanged) // also because a loop that waits without a deadline has to see that there is one now
	}
}

// newBackend leaves what an earlier epoch has connected to.
func (l *loop) backendChanged() {
	b := l.group.backend.Load()
	if !b.remote() {
		return
	}
	for u := range l.upstreams {
		switch {
		case u.generation == b.Generation:
		case !u.Attached():
			u.redial()
		case u.client == nil && !u.shared:
			u.hangUp() // a spare
		default:
			if u.shared {
				l.group.dropCommands(u.key.engine) // it may be another server now
			}
			u.drain()
		}
	}
	l.fillIdle(b)
}

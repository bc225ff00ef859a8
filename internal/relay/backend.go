package relay

import (
	"context"
	"net/netip"
	"time"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/routing"
)

// Backend says how the engine is reached, and how it is shared. It is not changed once it is given to SetBackend.
type Backend struct {
	// Engine tells engines apart: connections to another one are not used.
	Engine string
	// Connect makes one attempt at a connection and must not wait: a non-blocking stream socket, or an error.
	Connect func() (int, error)
	// Dial is in place of Connect for a remote server. It may wait. When a connection breaks, its client stays if it has left
	// nothing there, and goes on with the next one. Dial is called from many goroutines.
	Dial func(context.Context) (netloop.Conn, error)
	// Generation is raised when the connections that Dial has made so far are to be drained: each client leaves its connection as
	// soon as it loses nothing by that.
	Generation uint64
	// Login has the arguments of an AUTH for clients that have not logged in themselves. Nil: there is none. Only with Dial.
	Login []string
	// Passwords, where there are any, are those by which clients log in, here and not at the server. Its own users are out of clients'
	// reach then: they are what Login is.
	Passwords routing.Passwords
	// Refused is called when Login, or its absence, does not let clients in. If it returns true then attempts go on, within
	// ConnectTimeout; meanwhile it may set another Backend. It must not wait. Only with Dial.
	Refused func(reply string) (retry bool)
	// Failed is called when a connection that Dial made ended before it could serve; another attempt follows. It must not wait.
	// Only with Dial.
	Failed func(error)
	// MinIdle is how many idle connections are kept ready for clients that need a dedicated one. Only with Dial.
	MinIdle int
	// Name is what shared connections are called at the server. Only with Dial.
	Name string
	// ConnectTimeout is for how long attempts are made. After that Unreachable is called, and a client reads UnavailableReply, which is
	// asked for at that moment, on the client's loop: it must not wait. Nil: it reads nothing.
	ConnectTimeout   time.Duration
	UnavailableReply func() string
	Unreachable      func(client netip.AddrPort, err error)
	// Auth changes when the engine begins, or ceases, to ask for a password: clients that come afterwards and have not logged in share
	// nothing with those that were let in before.
	Auth uint64
	// Multiplexed lets clients share connections. Without it each has a dedicated one.
	Multiplexed bool
	// Standby says that another engine may take over when this one ends or hangs: clients keep their connections and their state, and
	// wait for it, for ConnectTimeout at most. Only with Connect.
	Standby bool
	// ReadOnly refuses requests that write, with the words of a replica, whatever the engine would do.
	ReadOnly bool
	// IdleTimeout closes clients that have said nothing for so long and wait for nothing. Zero: never.
	IdleTimeout time.Duration
	// MaxClients is what INFO shows as maxclients. Zero: what the engine says.
	MaxClients int
}

// unavailableReply is what a client reads whose engine can't be reached.
func (b *Backend) unavailableReply() []byte {
	if b.UnavailableReply == nil {
		return nil
	}
	return []byte(b.UnavailableReply())
}

// remote says that the engine is a server which has other clients too, and gives out ids itself.
func (b *Backend) remote() bool { return b.Dial != nil }

// standsBy says that clients outlive the engine.
func (b *Backend) standsBy() bool { return b.Standby && !b.remote() }

// SetBackend changes the backend for what clients say from now on; none of them is dropped, unless it is for another engine
// (enginechange.go). It must be called before the first Serve. Another engine must not be set from a loop's goroutine, because all
// loops have left the one before when SetBackend returns.
func (ls *Loops) SetBackend(b *Backend) {
	if b.remote() {
		ls.clients.beRemote()
	}
	if before := ls.backend.Swap(b); before != nil && before.Engine != b.Engine && !b.remote() {
		ls.changeEngine(b)
	}
	for _, l := range ls.all {
		l.post(l.backendChanged) // also because a loop that waits without a deadline has to see that there is one now
	}
}

// backendChanged drains the connections of earlier generations.
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
			u.hangUp() // an idle one
		default:
			if u.shared {
				l.group.dropCommands(u.key.engine) // it may be another server now
			}
			u.drain()
		}
	}
	l.fillIdle(b)
}

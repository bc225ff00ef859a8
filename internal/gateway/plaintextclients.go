package gateway

import (
	"time"

	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/plaintext"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/wire"
)

// Clients without TLS: who they are, for whoever wants to close plaintext, and how they end when it is closed.

// plaintextGrace is how long a client without TLS has to come to the end of what it is doing, once its listener wants TLS.
const plaintextGrace = 5 * time.Second

// wantsTLSNow says whether the listener by which c came has TLS by now.
func (g *gateway) wantsTLSNow(c *conn) bool {
	return g.snapshots.active.Load().at(c.listener, c.accepted).modes[c.listener]
}

// closePlaintext ends the clients without TLS of listeners that have TLS now.
func (g *gateway) closePlaintext() {
	g.connections.each(func(c *conn) {
		if c.session.Load() != nil {
			g.retireIfClosed(c)
		}
	})
}

// retireIfClosed ends a client, whose session there is, if it has no TLS at a listener that has it: between two requests if possible.
func (g *gateway) retireIfClosed(c *conn) {
	if !c.plaintext || !g.wantsTLSNow(c) || c.retired.Swap(true) {
		return
	}
	c.session.Load().Retire()
	time.AfterFunc(plaintextGrace, c.cut)
}

// plaintextBegins counts a client that is served without TLS.
func (g *gateway) plaintextBegins(c *conn) {
	c.plaintext = true
	g.plaintext.Begin()
}

// plaintextEnds counts it out.
func (g *gateway) plaintextEnds(c *conn, who relay.Client) {
	if !c.plaintext {
		return
	}
	if who.Library == wire.ProbeLibrary {
		g.plaintext.EndProbe()
		return
	}
	g.plaintext.End(clientIdentity(c, who), c.came, time.Now(), c.retired.Load())
}

// plaintextClients is what is known of the clients without TLS, those included that are connected.
func (g *gateway) plaintextClients() plaintext.Account {
	now := time.Now()
	open := make(map[ledger.Identity]int)
	g.connections.each(func(c *conn) {
		s := c.session.Load()
		switch {
		case s == nil && c.silent.Load() && !g.wantsTLSNow(c):
			if now.Sub(c.came) >= introductionTime {
				g.plaintext.Seen(plaintext.Silent(c.remote.Addr()), c.came, now)
				plaintext.Add(open, plaintext.Silent(c.remote.Addr()))
			}
		case s != nil && c.plaintext:
			id := clientIdentity(c, s.Client())
			if id.Library == wire.ProbeLibrary {
				return
			}
			if plaintext.Add(open, id); now.Sub(c.came) >= introductionTime {
				g.plaintext.Seen(id, c.came, now)
			}
		}
	})
	return g.plaintext.Account(open)
}

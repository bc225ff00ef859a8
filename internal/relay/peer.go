package relay

import "github.com/sealane/sealane/internal/netloop"

// peer is one side of the relay: a client, or an engine. It belongs to one loop for life.
type peer struct {
	socket
	loop   *loop
	closed bool
	eof    bool // it has said all
	paused bool // it is not read, because the other side takes nothing
}

type socket = netloop.Stream

// attach makes a connection the peer's.
func (p *peer) attach(c netloop.Conn) { p.socket.Attach(p.loop.poller, c) }

func (p *peer) close() {
	p.closed = true
	p.loop.forget(&p.socket)
	p.socket.Close()
}

package relay

import "github.com/sealane/sealane/internal/netloop"

// peer is one side of the relay: a client, or an engine. It belongs to one loop for life.
type peer struct {
	netloop.Stream
	loop   *loop
	closed bool
	eof    bool // it has said all
	paused bool // it is not read, because the other side takes nothing
}

// attach makes a connection the peer's. Nothing comes of it before watch.
func (p *peer) attach(c netloop.Conn) { p.Attach(p.loop.poller, c) }

// watch lets o go on at each event of the connection.
func (p *peer) watch(o owner) error {
	p.loop.enter(p.FD(), watched{stream: &p.Stream, owner: o})
	return p.Watch()
}

// requeue makes the owner go on in the next round, although no event will come for it.
func (p *peer) requeue() { p.loop.requeue(&p.Stream) }

func (p *peer) close() {
	p.closed = true
	p.loop.forget(&p.Stream)
	p.Close()
}

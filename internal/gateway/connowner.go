package gateway

// A connection has one owner at a time: only that reads, writes and closes it. It is owned by the acceptor first, then by a worker,
// then by an event loop of relay, in this order and never back. It may end with each of them, and does so by gateway.end.
// Others may ask for its end by conn.cut.
const (
	ownedByAcceptor int32 = iota // until its ClientHello is there, or it is clear that none will come
	ownedByWorker                // its handshake; or it is told why it is not served
	ownedByRelay                 // it is a client
	ownedByNobody                // it has ended
)

// endReason is why a connection has ended. The operator is told by log lines and counters where that was found out, which know more of
// it; those that are a mere count are counted by gateway.end.
type endReason int

const (
	notEnded           endReason = iota // it goes on: relay has it
	endUnused                           // the client closed without having sent anything: a port scan, or a pool that was never used
	endSilent                           // it sent nothing for too long
	endUnwatched                        // its socket could not be watched
	endGaveUp                           // it closed while its handshake waited for its turn
	endLate                             // its handshake had no turn in time
	endShed                             // others needed its room before its handshake had begun
	endBusy                             // there is no room for clients, and enough of them are being told so
	endHandshakeFailed                  // for a reason that classify knows
	endWrongProtocol                    // it speaks something else than the listener, and was told so
	endMaxClients                       // there was no room for it, and it was told so
	endServed                           // it was a client, and relay knows why it is none any more
)

// end closes a connection for its owner, and counts it out. It is the only way for a connection to end.
func (g *gateway) end(c *conn, why endReason) {
	switch why {
	case endSilent:
		g.count.timedOut.Add(1)
	case endGaveUp:
		g.acceptor.slots.gaveUp.Add(1)
	case endLate:
		g.limit.rejected.Add(noLate)
	case endServed:
		g.limit.leave()
	}
	if c.owner.Swap(ownedByNobody) != ownedByRelay { // whose loop has closed the socket
		g.acceptor.closeSocket(c)
	}
	g.arrivals.remove(c)
	g.connections.remove(c)
}

package relay

import (
	"context"
	"crypto/tls"
	"net"
)

// TidyForTest does at once what the loops do every few seconds.
func (ls *Loops) TidyForTest() {
	for _, l := range ls.all {
		done := make(chan struct{})
		l.post(func() {
			defer close(done)
			for _, s := range l.sockets {
				if s != nil {
					s.owner.tidy()
				}
			}
		})
		<-done
	}
}

// AcceptedForTest is Dialled for a server.
func AcceptedForTest(ctx context.Context, conn net.Conn, config *tls.Config) (End, error) {
	return handshakeOver(ctx, conn, func(w net.Conn) *tls.Conn { return tls.Server(w, config) })
}

// FirstIDForTest is the id before that of the first client.
func (ls *Loops) FirstIDForTest() int64 { return ls.clients.remoteIDs }

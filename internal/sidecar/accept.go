package sidecar

import (
	"net/netip"
	"syscall"

	"github.com/sealane/sealane/internal/firstline"
	"github.com/sealane/sealane/internal/relay"
)

// accept lets clients in until stop is called.
func (l *link) accept() (stop func()) {
	var stops []func()
	for _, socket := range l.ln.sockets {
		stops = append(stops, l.loops.Accept(socket.fd, relay.Acceptor{
			Config: func(remote netip.AddrPort) relay.Config {
				l.counted.accepted.Add(1)
				opening := l.wrongProtocol
				if l.files.wouldBeShort() {
					l.counted.turnedAway.Add(1)
					l.areShort(syscall.EMFILE)
					opening = func([]byte) ([]byte, bool) { return []byte(noRoomAnswer), true }
				}
				return relay.Config{
					Remote: remote, Local: socket.local, Path: l.ln.path, Opening: opening,
					Ended: func(r relay.Result) { l.counted.ended(r.Ended) },
				}
			},
			Failed: func(err error) { l.notAccepted(socket.fd, err) },
		}))
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// closeQuiet closes the clients that were idle at the last call and still are, and returns how many are left.
func (l *link) closeQuiet(first bool) (left int) {
	l.loops.Each(func(s *relay.Session) {
		left++
		if s.Quiet() && !first {
			s.Close()
		}
	})
	return left
}

// wrongProtocol tells clients that speak TLS or HTTP to the plaintext port so, in their own protocol.
func (l *link) wrongProtocol(b []byte) (answer []byte, decided bool) {
	k := firstline.TLS
	if b[0] != firstline.Handshake {
		k = firstline.Of(b)
	}
	switch k {
	case firstline.Undecided:
		return nil, false
	case firstline.TLS, firstline.HTTP, firstline.SSLv2:
		l.counted.misdirect(k)
		l.logLimiter.warn(l.log, string(k), "a client speaks the wrong protocol", "kind", string(k), "hint", hints[k])
		return firstline.Answer(k, b, "this is the plaintext port of a Redis sidecar, which does the TLS itself: connect with a Redis client and without TLS"), true
	}
	return nil, true // what is no Redis the server says itself
}

var hints = map[firstline.Kind]string{
	firstline.TLS:   "the sidecar does the TLS: connect to it without (redis://, no --tls)",
	firstline.SSLv2: "the sidecar does the TLS: connect to it without (redis://, no --tls)",
	firstline.HTTP:  "this is a Redis port: probes belong to the ops listener (/livez, /readyz)",
}

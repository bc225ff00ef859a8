package gateway

import (
	"github.com/sealane/sealane/internal/firstline"
	"github.com/sealane/sealane/internal/wire"
)

// What happens to a client that speaks the wrong protocol for its listener: no TLS where TLS is wanted, or TLS where there is none. It is
// answered in the protocol that it speaks, and the operator gets a hint in the log.

// kinds are what such a client may speak.
var kinds = []firstline.Kind{
	firstline.RESP, firstline.Inline, firstline.HTTP, firstline.SSLv2, firstline.Garbage, firstline.TLS,
}

// answer is what a client is told that speaks k and has sent line.
func answer(k firstline.Kind, line []byte, connect string) []byte {
	return firstline.Answer(k, line, wire.TLSRequired+": "+connect)
}

// advice is the hint for the operator.
func advice(k firstline.Kind, connect string) string {
	switch k {
	case firstline.TLS:
		if connect == "" {
			connect = "connect without it"
		}
		return "this port has no TLS: " + connect
	case firstline.HTTP:
		return "this is a Redis port with TLS, not a web server: point the probe or the browser elsewhere"
	case firstline.SSLv2:
		return "the client opens with SSL 2.0: update its TLS library, or switch SSL 2.0 off there; TLS 1.2 is needed"
	case firstline.Garbage:
		return "what came is neither TLS nor Redis: find out what runs at the source address"
	default:
		return "the client must use TLS: " + connect
	}
}

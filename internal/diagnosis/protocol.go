package diagnosis

import (
	"bytes"

	"github.com/sealane/sealane/internal/wire"
)

// Protocol is what a server speaks, by its first bytes. (What a client speaks, firstline says.)
type Protocol string

// The values are words of sentences.
const (
	Nothing   Protocol = ""
	TLSRecord Protocol = "TLS"
	TLSAlert  Protocol = "a TLS alert"
	Redis     Protocol = "Redis"
	HTTP1     Protocol = "HTTP"
	HTTP2     Protocol = "HTTP/2"
	Unknown   Protocol = "something else"
)

// Sniff says what b, the first bytes of a server, are. Nine bytes decide.
func Sniff(b []byte) Protocol {
	switch {
	case len(b) == 0:
		return Nothing
	case len(b) >= 2 && b[0] == 0x16 && b[1] == 3: // a record of the handshake (RFC 8446, section 5.1)
		return TLSRecord
	case len(b) >= 2 && b[0] == 0x15 && b[1] == 3:
		return TLSAlert
	case bytes.HasPrefix(b, []byte("HTTP/")):
		return HTTP1
	case len(b) >= 9 && b[0] == 0 && b[3] == 4 && bytes.Equal(b[5:9], make([]byte, 4)): // SETTINGS (RFC 9113, section 6.5)
		return HTTP2
	case len(b) >= 4 && (b[0] == '-' || b[0] == '+') && isUpper(b[1]) && isUpper(b[2]) && isUpper(b[3]): // -ERR, +PONG
		return Redis
	}
	return Unknown
}

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }

// IsHTTP says that a protocol is a version of HTTP.
func (p Protocol) IsHTTP() bool { return p == HTTP1 || p == HTTP2 }

// WantsTLS says that b, the answer to a plaintext PING, is what a port of Sealane's with TLS says.
func WantsTLS(b []byte) bool { return bytes.HasPrefix(b, []byte("-"+wire.WantsTLS)) }

// IsPlainRedis says that b, the answer to a plaintext PING, is what only a Redis without TLS says. A port with TLS may answer
// with an error too, which begins with -ERR.
func IsPlainRedis(b []byte) bool { return Sniff(b) == Redis && !bytes.HasPrefix(b, []byte("-ERR ")) }

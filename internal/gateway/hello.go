package gateway

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"

	"github.com/sealane/sealane/internal/firstline"
)

// maxHello is what is read ahead of a ClientHello: one with a post-quantum share and a session ticket has about 2 KiB.
// crypto/tls reads the rest of a longer one.
const maxHello = 4 << 10

// glimpse is what the first bytes of a TLS connection say before crypto/tls sees them.
type glimpse struct {
	resumes bool   // it has a session ticket to show, which may be worth nothing
	version uint16 // the newest that the client offers; 0 if the hello was not understood
	dotted  bool   // its server name ends in a dot
}

// peek looks at the start of a connection. complete says that waiting for more would tell nothing more: the ClientHello is
// whole, or is none, or will not fit.
func peek(b []byte) (g glimpse, complete bool) {
	if len(b) < 5 {
		return g, len(b) > 0 && b[0] != firstline.Handshake
	}
	size := int(binary.BigEndian.Uint16(b[3:])) // RFC 8446, section 5.1
	if b[0] != firstline.Handshake || 5+size > maxHello {
		return g, true
	}
	if len(b) < 5+size {
		return g, false
	}
	r := reader{b: b[5 : 5+size]}
	if r.take(1)[0] != 1 { // client_hello
		return g, true
	}
	hello := reader{b: r.vector(3)} // one in several records is left alone
	g.version = hello.number()
	hello.take(32) // random
	hello.vector(1)
	hello.vector(2)
	hello.vector(1)
	extensions := reader{b: hello.vector(2)}
	for len(extensions.b) > 0 && !extensions.short {
		switch name, body := extensions.number(), extensions.vector(2); name {
		case 0: // server_name, RFC 6066, section 3
			g.dotted = g.dotted || endsInDot(body)
		case 35: // session_ticket, RFC 5077; empty where the client has none yet
			g.resumes = g.resumes || len(body) > 0
		case 41: // pre_shared_key
			g.resumes = true
		case 43: // supported_versions
			g.version = newest(body)
		}
	}
	if r.short || hello.short || extensions.short {
		return glimpse{}, true
	}
	return g, true
}

// endsInDot says whether a host name of a server_name extension does.
func endsInDot(body []byte) bool {
	r := reader{b: body}
	list := reader{b: r.vector(2)}
	for len(list.b) > 0 {
		if kind, name := list.take(1)[0], list.vector(2); kind == 0 && bytes.HasSuffix(name, []byte(".")) {
			return true
		}
	}
	return false
}

func newest(body []byte) (version uint16) {
	r := reader{b: body}
	list := reader{b: r.vector(1)}
	for len(list.b) > 1 {
		// Some clients put in numbers that nobody knows (GREASE, RFC 8701).
		if v := list.number(); v <= tls.VersionTLS13 {
			version = max(version, v)
		}
	}
	return version
}

// reader takes a message apart. Beyond its end it gives zeros and notes that it is short.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.b, r.short = nil, true
		return make([]byte, min(n, 32))
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) number() uint16 { return binary.BigEndian.Uint16(r.take(2)) }

// vector takes a length of so many bytes, and what it announces.
func (r *reader) vector(width int) []byte {
	n := 0
	for _, c := range r.take(width) {
		n = n<<8 | int(c)
	}
	if n > len(r.b) {
		r.b, r.short = nil, true
		return nil
	}
	return r.take(n)
}

package gateway

import (
	"bytes"
	"fmt"
	"strconv"
)

const (
	// recordHandshake opens every TLS connection (RFC 8446, section 5.1), and no Redis or HTTP request.
	recordHandshake = 0x16

	maxFirstLine = 4 << 10
)

// kind is what a client on a TLS port speaks instead of TLS.
type kind string

const (
	undecided     kind = "" // the first line is not complete
	plaintextRESP kind = "plaintext_resp"
	inline        kind = "inline"
	http1         kind = "http"
	sslv2         kind = "sslv2"
	garbage       kind = "garbage"
	// On a port without TLS.
	tlsOnPlaintext kind = "tls_on_plaintext"
)

var kinds = []kind{plaintextRESP, inline, http1, sslv2, garbage, tlsOnPlaintext}

// firstLine says what b, the start of a connection that is no TLS, is; undecided asks for more bytes. A decision
// never changes with the bytes that follow, so it does not depend on how they were cut into packets.
//
// "GET key" is a Redis command and "GET / HTTP/1.1" is not, so a line decides by its end.
func firstLine(b []byte) kind {
	if len(b) == 0 {
		return undecided
	}
	if b[0] == '*' {
		return plaintextRESP
	}
	if b[0] >= 0x80 {
		return firstRecord(b)
	}
	if b[0] == 0x7f { // keys may hold any byte, names of commands do not
		return garbage
	}
	for i, c := range b[:min(len(b), maxFirstLine)] {
		switch {
		case c == '\n':
			if endsInHTTP(b[:i]) {
				return http1
			}
			return inline
		case c < ' ' && c != '\t' && c != '\r', c == 0x7f:
			return garbage
		}
	}
	if len(b) >= maxFirstLine {
		return garbage
	}
	return undecided
}

// firstRecord tells an SSL 2.0 ClientHello, with which old clients that know newer versions open too, by its two bytes of
// length and its type (RFC 5246, appendix E.2).
func firstRecord(b []byte) kind {
	switch {
	case len(b) < 3:
		return undecided
	case b[2] == 1:
		return sslv2
	}
	return garbage
}

// endsInHTTP reports whether a request line ends in " HTTP/1.1" or another version: HTTP/2 without TLS opens with such a
// line too.
func endsInHTTP(line []byte) bool {
	line = bytes.TrimSuffix(line, []byte("\r"))
	i := bytes.LastIndexByte(line, ' ')
	if i <= 0 {
		return false
	}
	v, ok := bytes.CutPrefix(line[i+1:], []byte("HTTP/"))
	return ok && len(v) == 3 && isDigit(v[0]) && v[1] == '.' && isDigit(v[2])
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// answer is what a client of kind k that sent line is told, in its own protocol.
func answer(k kind, line []byte, connect string) []byte {
	sentence := "this port wants TLS: " + connect
	switch k {
	case tlsOnPlaintext:
		// A fatal alert, handshake_failure: type, version, length, level, description.
		return []byte{0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28}
	case sslv2:
		// Likewise, protocol_version: one that knows newer versions understands it.
		return []byte{0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46}
	case http1:
		body := sentence + "\n"
		head := "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.Itoa(len(body)) +
			"\r\nConnection: close\r\n\r\n"
		if bytes.HasPrefix(line, []byte("HEAD ")) {
			return []byte(head)
		}
		return []byte(head + body)
	default:
		return fmt.Appendf(nil, "-ERR %s\r\n", sentence)
	}
}

// advice is what the operator reads in the log.
func advice(k kind, connect string) string {
	switch k {
	case tlsOnPlaintext:
		return "this port has no TLS: connect without it, or enable in-transit encryption"
	case http1:
		return "this is a Redis port with TLS, not a web server: point the probe or the browser elsewhere"
	case sslv2:
		return "the client opens with SSL 2.0: update its TLS library, or switch SSL 2.0 off there; TLS 1.2 is needed"
	case garbage:
		return "what came is neither TLS nor Redis: find out what runs at the source address"
	default:
		return "the client must use TLS: " + connect
	}
}

// Package firstline says what a client speaks, by the first bytes that it sends, and has the answer to a client at the wrong port, in
// that client's own protocol. (What a server speaks, diagnosis says.)
//
// Guaranteed: a decision never changes with the bytes that follow, so it does not depend on how they were cut into packets. At most
// Max bytes are looked at.
package firstline

import (
	"bytes"
	"fmt"
	"strconv"
)

// Handshake is the byte that opens every TLS connection (RFC 8446, section 5.1), and no Redis or HTTP request.
const Handshake = 0x16

// Max is how much is looked at.
const Max = 4 << 10

// Kind is what a client speaks. The set is closed, so it may label a metric.
type Kind string

const (
	Undecided Kind = "" // the first line is not complete
	RESP      Kind = "plaintext_resp"
	Inline    Kind = "inline"
	HTTP      Kind = "http"
	SSLv2     Kind = "sslv2"
	Garbage   Kind = "garbage"
	TLS       Kind = "tls_on_plaintext" // Of never returns it: the owner of a port looks for Handshake itself
)

// Of says what b is, the start of a connection without TLS. Undecided asks for more bytes.
//
// "GET key" is a Redis command and "GET / HTTP/1.1" is an HTTP request, so the end of a line decides.
func Of(b []byte) Kind {
	if len(b) == 0 {
		return Undecided
	}
	if b[0] == '*' {
		return RESP
	}
	if b[0] >= 0x80 {
		return record(b)
	}
	if b[0] == 0x7f { // keys may hold any byte, names of commands do not
		return Garbage
	}
	for i, c := range b[:min(len(b), Max)] {
		switch {
		case c == '\n':
			if endsInHTTP(b[:i]) {
				return HTTP
			}
			return Inline
		case c < ' ' && c != '\t' && c != '\r', c == 0x7f:
			return Garbage
		}
	}
	if len(b) >= Max {
		return Garbage
	}
	return Undecided
}

// record recognises an SSL 2.0 ClientHello by its type, which follows two bytes of length (RFC 5246, appendix E.2). Old clients that
// know newer versions begin with one too.
func record(b []byte) Kind {
	switch {
	case len(b) < 3:
		return Undecided
	case b[2] == 1:
		return SSLv2
	}
	return Garbage
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

// Answer is what a client of kind k that sent line reads, in its own protocol. It has the sentence where the protocol has room for one.
func Answer(k Kind, line []byte, sentence string) []byte {
	switch k {
	case TLS:
		// A fatal alert, handshake_failure: type, version, length, level, description.
		return []byte{0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28}
	case SSLv2:
		// Likewise, protocol_version: one that knows newer versions understands it.
		return []byte{0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46}
	case HTTP:
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

// Package resp reads and writes RESP2 and RESP3, the Redis protocol, as pure functions over byte slices. On them stands
// Client, for a few commands over a connection that it is given.
//
// Guaranteed: no function panics, whatever its input, and none but Client's does I/O. Every length and count from the wire is
// compared with a limit before anything is allocated or sliced, and memory grows with the bytes that are there, never with
// those that are announced. A reply that is cut in any way gives the same Value or the same error once its bytes are
// complete. What ParseReply returns shares no memory with its input.
//
// Not guaranteed: that parsing a long reply again and again while it arrives is cheap. Each call starts at the first byte, so
// a caller grows its buffer by doubling. The streamed strings and aggregates of the RESP3 draft ("$?", "*?") are refused,
// because no server sends them.
package resp

import "strconv"

// Kind is the first byte of a value on the wire.
type Kind byte

// The kinds of RESP2 and RESP3.
const (
	Simple    Kind = '+'
	Error     Kind = '-'
	Integer   Kind = ':'
	Bulk      Kind = '$'
	Array     Kind = '*'
	Null      Kind = '_'
	Boolean   Kind = '#'
	Double    Kind = ','
	BigNumber Kind = '('
	Verbatim  Kind = '='
	BlobError Kind = '!'
	Map       Kind = '%'
	Set       Kind = '~'
	Push      Kind = '>'
	// Attribute never is the Kind of a Value: attributes are kept in Attrs of the value that they precede.
	Attribute Kind = '|'
)

// Value is one reply. The zero Value is RESP3's null.
type Value struct {
	Kind Kind
	// IsNull marks every null: RESP3's, and RESP2's null bulk string and null array, which keep their Kind.
	IsNull bool
	// Str is the text of a Simple, Error, Bulk, BlobError, BigNumber, Double (as the server wrote it) or
	// Verbatim (with its "txt:" in front).
	Str string
	// Int is the number of an Integer; 0 or 1 for a Boolean.
	Int int64
	// Elems are the elements of an Array, Set or Push; for a Map, keys and values in turn.
	Elems []Value
	// Attrs are the attributes that came in front of the value: keys and values in turn.
	Attrs []Value
}

// IsError says that the server answered with an error, short or long.
func (v Value) IsError() bool { return v.Kind == Error || v.Kind == BlobError }

// AppendCommand appends a request: an array of bulk strings.
func AppendCommand(dst []byte, args ...string) []byte {
	dst = appendHeader(dst, Array, len(args))
	for _, a := range args {
		dst = appendBlob(dst, Bulk, a)
	}
	return dst
}

// Append appends v as a server writes it. Of a canonical input (numbers without "+" or leading zeros, at most one
// non-empty attribute in front of a value) it gives back the very bytes.
//
// What cannot be on the wire never gets there: CR and LF in a text of one line become spaces, the last key of a
// Map or of Attrs without a value is left out, and an unknown Kind becomes null.
func Append(dst []byte, v Value) []byte {
	if len(v.Attrs) > 1 {
		dst = appendPairs(dst, Attribute, v.Attrs)
	}
	switch v.Kind {
	case Simple, Error, Double, BigNumber:
		return appendLine(dst, v.Kind, v.Str)
	case Integer:
		dst = strconv.AppendInt(append(dst, byte(v.Kind)), v.Int, 10)
		return append(dst, '\r', '\n')
	case Boolean:
		if v.Int != 0 {
			return append(dst, "#t\r\n"...)
		}
		return append(dst, "#f\r\n"...)
	case Bulk, Verbatim, BlobError:
		if v.IsNull && v.Kind == Bulk {
			return append(dst, "$-1\r\n"...)
		}
		return appendBlob(dst, v.Kind, v.Str)
	case Array, Set, Push:
		if v.IsNull && v.Kind == Array {
			return append(dst, "*-1\r\n"...)
		}
		dst = appendHeader(dst, v.Kind, len(v.Elems))
		for _, e := range v.Elems {
			dst = Append(dst, e)
		}
		return dst
	case Map:
		return appendPairs(dst, Map, v.Elems)
	}
	return append(dst, "_\r\n"...)
}

func appendPairs(dst []byte, k Kind, kv []Value) []byte {
	n := len(kv) / 2
	dst = appendHeader(dst, k, n)
	for _, e := range kv[:2*n] {
		dst = Append(dst, e)
	}
	return dst
}

func appendHeader(dst []byte, k Kind, n int) []byte {
	dst = strconv.AppendInt(append(dst, byte(k)), int64(n), 10)
	return append(dst, '\r', '\n')
}

func appendBlob(dst []byte, k Kind, s string) []byte {
	dst = append(appendHeader(dst, k, len(s)), s...)
	return append(dst, '\r', '\n')
}

func appendLine(dst []byte, k Kind, s string) []byte {
	dst = append(dst, byte(k))
	for i := range len(s) {
		c := s[i]
		if c == '\r' || c == '\n' {
			c = ' '
		}
		dst = append(dst, c)
	}
	return append(dst, '\r', '\n')
}

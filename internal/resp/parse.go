package resp

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// Limits bound one reply. A zero or negative field means its default.
type Limits struct {
	// MaxBulk is the longest string of any kind, in bytes; 512 MiB by default, as in the servers.
	MaxBulk int
	// MaxElements is the number of values inside all aggregates of the reply together; 1,048,576 by default. An entry of a map
	// counts as two. A Value takes about 100 bytes however short it is on the wire, so this bounds memory better than the length of
	// the input does.
	MaxElements int
	// MaxDepth is how deep aggregates nest; 128 by default. The parser recurses once for each level.
	MaxDepth int
}

const (
	defaultMaxBulk     = 512 << 20
	defaultMaxElements = 1 << 20
	defaultMaxDepth    = 128

	// No number that a server sends is longer. Without a bound, a peer that never ends its line would be read until memory is
	// full.
	maxNumberLine = 32
)

// ErrIncomplete says that the bytes so far are the beginning of a reply. Read more and parse again.
var ErrIncomplete = errors.New("incomplete reply")

// ProtocolError says that the bytes are no RESP, or more than the limits allow. The connection is of no more use.
type ProtocolError struct {
	Offset int    // where in the input
	Reason string // what was wrong there
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("protocol error at byte %d: %s", e.Offset, e.Reason)
}

// ParseReply reads the first reply in b and returns how many bytes it took. The error is ErrIncomplete or a
// *ProtocolError; n is 0 then.
func ParseReply(b []byte, lim Limits) (v Value, n int, err error) {
	if lim.MaxBulk <= 0 {
		lim.MaxBulk = defaultMaxBulk
	}
	if lim.MaxElements <= 0 {
		lim.MaxElements = defaultMaxElements
	}
	if lim.MaxDepth <= 0 {
		lim.MaxDepth = defaultMaxDepth
	}
	p := parser{b: b, lim: lim}
	v, err = p.value(0)
	if err != nil {
		return Value{}, 0, err
	}
	return v, p.off, nil
}

type parser struct {
	b     []byte
	off   int // of the next byte
	elems int // announced so far, all levels together
	lim   Limits
}

func (p *parser) fail(off int, format string, args ...any) error {
	return &ProtocolError{Offset: off, Reason: fmt.Sprintf(format, args...)}
}

func (p *parser) value(depth int) (Value, error) {
	var attrs []Value
	for {
		if p.off >= len(p.b) {
			return Value{}, ErrIncomplete
		}
		start, k := p.off, Kind(p.b[p.off])
		p.off++
		if k != Attribute {
			v, err := p.body(k, start, depth)
			v.Attrs = attrs
			return v, err
		}
		kv, _, err := p.aggregate(k, start, depth)
		if err != nil {
			return Value{}, err
		}
		attrs = append(attrs, kv...)
	}
}

func (p *parser) body(k Kind, start, depth int) (v Value, err error) {
	v.Kind = k
	switch k {
	case Simple, Error:
		v.Str, err = p.line(p.lim.MaxBulk)
	case Integer:
		v.Int, err = p.integer()
	case Boolean:
		v.Int, err = p.boolean()
	case Null:
		v.IsNull, v.Kind = true, Null
		err = p.empty()
	case Double:
		if v.Str, err = p.line(p.lim.MaxBulk); err == nil && !isDouble(v.Str) {
			err = p.fail(start, "not a double")
		}
	case BigNumber:
		if v.Str, err = p.line(p.lim.MaxBulk); err == nil && !isBigNumber(v.Str) {
			err = p.fail(start, "not a big number")
		}
	case Bulk, Verbatim, BlobError:
		v.Str, v.IsNull, err = p.blob(k)
		if err == nil && k == Verbatim && (len(v.Str) < 4 || v.Str[3] != ':') {
			err = p.fail(start, "verbatim string without a format of three letters and a colon")
		}
	case Array, Set, Push, Map:
		v.Elems, v.IsNull, err = p.aggregate(k, start, depth)
	default:
		err = p.fail(start, "unknown kind %q", byte(k))
	}
	return v, err
}

// line reads a line with its CRLF. It never looks beyond limit, so a longer line is refused as soon as limit bytes of it are
// there.
func (p *parser) line(limit int) (string, error) {
	window, cut := p.b[p.off:], false
	if len(window) > limit {
		window, cut = window[:limit+1], true
	}
	i := bytes.IndexAny(window, "\r\n")
	switch {
	case i < 0 && cut:
		return "", p.fail(p.off, "line longer than %d bytes", limit)
	case i < 0:
		return "", ErrIncomplete
	}
	s, end := window[:i], p.off+i
	if err := p.crlf(end); err != nil {
		return "", err
	}
	return string(s), nil
}

// crlf reads the end of a line at off.
func (p *parser) crlf(off int) error {
	for i, want := range []byte("\r\n") {
		if off+i >= len(p.b) {
			return ErrIncomplete
		}
		if p.b[off+i] != want {
			return p.fail(off+i, "%q where CRLF belongs", p.b[off+i])
		}
	}
	p.off = off + 2
	return nil
}

func (p *parser) empty() error {
	if p.off < len(p.b) && p.b[p.off] != '\r' {
		return p.fail(p.off, "null with a value")
	}
	return p.crlf(p.off)
}

func (p *parser) integer() (int64, error) {
	start := p.off
	s, err := p.line(maxNumberLine)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, p.fail(start, "not a 64-bit integer")
	}
	return n, nil
}

func (p *parser) boolean() (int64, error) {
	start := p.off
	s, err := p.line(1)
	if err != nil {
		return 0, err
	}
	switch s {
	case "t":
		return 1, nil
	case "f":
		return 0, nil
	}
	return 0, p.fail(start, "boolean is neither t nor f")
}

// length reads the number behind the kind byte: at most limit, or -1 when k has a null form.
func (p *parser) length(k Kind, limit int) (n int, null bool, err error) {
	start := p.off
	s, err := p.line(maxNumberLine)
	if err != nil {
		return 0, false, err
	}
	if s == "-1" && (k == Bulk || k == Array) {
		return 0, true, nil
	}
	u, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, false, p.fail(start, "not a length")
	}
	if u > uint64(limit) {
		return 0, false, p.fail(start, "length %d is over the limit of %d", u, limit)
	}
	return int(u), false, nil
}

func (p *parser) blob(k Kind) (s string, null bool, err error) {
	n, null, err := p.length(k, p.lim.MaxBulk)
	if err != nil || null {
		return "", null, err
	}
	start := p.off
	if n > len(p.b)-start {
		return "", false, ErrIncomplete
	}
	if err := p.crlf(start + n); err != nil {
		return "", false, err
	}
	return string(p.b[start : start+n]), false, nil
}

func (p *parser) aggregate(k Kind, start, depth int) (elems []Value, null bool, err error) {
	if depth >= p.lim.MaxDepth {
		return nil, false, p.fail(start, "nested deeper than %d", p.lim.MaxDepth)
	}
	left, each := p.lim.MaxElements-p.elems, 1
	if k == Map || k == Attribute {
		each = 2
	}
	n, null, err := p.length(k, left/each)
	if err != nil || null {
		return nil, null, err
	}
	n *= each
	p.elems += n
	for range n {
		e, err := p.value(depth + 1)
		if err != nil {
			return nil, false, err
		}
		elems = append(elems, e)
	}
	return elems, false, nil
}

func isDouble(s string) bool {
	switch s {
	case "inf", "+inf", "-inf", "nan", "-nan":
		return true
	}
	for i := range len(s) {
		// ParseFloat also takes hexadecimal, "Infinity" and underscores, which RESP does not have.
		if c := s[i]; (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			return false
		}
	}
	_, err := strconv.ParseFloat(s, 64)
	return err == nil || errors.Is(err, strconv.ErrRange)
}

func isBigNumber(s string) bool {
	if s != "" && (s[0] == '-' || s[0] == '+') {
		s = s[1:]
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
